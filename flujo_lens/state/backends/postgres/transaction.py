"""One transaction on the library's tables."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from flujo_lens.errors import OperationFailedError
from flujo_lens.serialization import safe_dumps, safe_loads
from flujo_lens.state.backends.core.port import ChildKind, ChildRow, RunIndex, RunRow, Space
from flujo_lens.state.backends.postgres import queries
from flujo_lens.state.backends.postgres.errors import KEPT
from flujo_lens.state.backends.postgres.mapping import document_of, is_faithful, is_plain, values_of
from flujo_lens.state.backends.postgres.members import PostgresMembers
from flujo_lens.state.backends.postgres.queries import FIRST, LAST, Stored, storable
from flujo_lens.state.backends.postgres.tables import COLUMNS, LENS_TABLES, LIBRARY_TABLES, Shape
from flujo_lens.state.backends.postgres.walk import PostgresWalk
from flujo_lens.state.filtering import are_plain
from flujo_lens.state.traces import span_rows, trace_document
from flujo_lens.state.views import UNREADABLE, RunFilter

_TABLES: dict[ChildKind, str] = {"step": "steps", "span": "spans", "evaluation": "evaluations"}
_VALUES = {
    "claim": "lens_claims", "manifest": "lens_manifests", "binding": "lens_bindings", "strip": "lens_strips",
    "audit": "lens_audit", "audit_head": "lens_audit_head",
}  # fmt: skip
_PREFETCH, _FEW_ROWS = 500, 20
_DOUBTFUL = frozenset({"failed", "cancelled", "paused", UNREADABLE})
"""Statuses that more than a column decides."""


class PostgresTransaction(PostgresWalk, PostgresMembers):
    """Reads and writes rows by way of documents.

    Args:
        connection: An asyncpg connection, inside a transaction.
        shape: Which tables and columns there are.
        namespace: What tells the advisory locks of this store from those of another in the same database.
        is_fixed: Whether nothing changes during the transaction.
        locked: The runs that it has locked.
        many: By statuses that many runs have, how often they are not counted again.
    """

    def __init__(
        self,
        connection: Any,
        shape: Shape,
        namespace: str = "",
        *,
        is_fixed: bool = False,
        locked: Iterable[str] = (),
        many: dict[Stored, int] | None = None,
    ) -> None:
        self._db, self._shape, self._namespace, self._is_fixed = connection, shape, namespace, is_fixed
        self._childless, self._locked, self._seen = set[str](), set(locked), dict[str, RunRow]()
        self._many = {} if many is None else many

    @property
    def parts(self) -> tuple[Any, Shape]:
        """The connection, and which tables there are: for the care of the store."""
        return self._db, self._shape

    # --- runs

    async def runs(self, run_ids: Sequence[str]) -> Mapping[str, RunRow]:
        """Return the runs by id; what is stored of those that are locked is remembered."""
        found = await super().runs(run_ids)
        self._seen |= {run_id: found.get(run_id, RunRow(run_id)) for run_id in run_ids if run_id in self._locked}
        return found

    async def count(self, wanted: RunFilter) -> int | None:
        """Return how many runs the filter admits; None where columns alone do not tell."""
        if wanted != RunFilter(statuses=wanted.statuses, since=wanted.since, until=wanted.until):
            return None
        if wanted.statuses & _DOUBTFUL or not are_plain(wanted.statuses):
            return None
        until = None if wanted.until is None else wanted.until - timedelta(microseconds=1)
        # `fetchval` sends a limit of rows, with which the server starts no parallel workers.
        return int((await self._db.fetch(queries.count(self._shape, wanted.statuses, wanted.since, until)))[0][0])

    async def statuses(self) -> set[str]:
        """Return all statuses as they are stored."""
        return {row[0] for row in await self._db.fetch(queries.statuses(self._shape))}

    async def ids(self, prefix: str, limit: int) -> list[str]:
        """Return ids by their beginning."""
        if "\0" in prefix:
            return []
        end = queries.after_all(prefix)
        given = [prefix] if end is None else [prefix, end]
        rows = await self._db.fetch(queries.ids(self._shape, limit, end is not None), *given)
        return sorted({row[0] for row in rows})[:limit]

    async def tasks_of(self, run_ids: Sequence[str]) -> list[str]:
        """Return the ids of background tasks."""
        sought = [run_id for run_id in storable(run_ids) if run_id not in self._childless]
        if not sought or not self._shape.has_parents:
            return []
        sql = "SELECT run_id FROM workflow_state WHERE parent_run_id = ANY($1::text[])"
        return [row[0] for row in await self._db.fetch(sql, sought)]

    async def state(self, run_id: str) -> RunRow | None:
        """Return a run without its metadata."""
        if not (ids := storable([run_id])):
            return None
        row = await self._db.fetchrow(queries.state(self._shape), ids[0])
        if row is None:
            return None
        document, *columns = row
        data = document_of("workflow_state", columns) if document is None else document.encode()
        return RunRow(run_id, data)

    async def put_run(self, row: RunRow, index: RunIndex) -> None:
        """Save state and metadata, each in its table, what has changed of them; the index is what the columns say."""
        seen, ways, values = self._seen.get(row.run_id), [], [row.run_id]
        for kind, table in queries.SIDES:
            document = getattr(row, kind)
            way = "forget"
            if seen is not None and getattr(seen, kind) == document:
                way = ""
            elif document is not None:
                given, is_whole = values_for(self._shape, table, row.run_id, document)
                way = "row" if is_whole else "document" if is_whole is None else ""
                if is_whole is False:
                    await self._put(kind, table, row.run_id, document, given)
                else:
                    values += given if is_whole else [*given, document.decode()]
            ways.append(way)
        if any(ways):
            await self._db.execute(queries.save(self._shape, *ways), *values)
        if row.run_id in self._locked:
            self._seen[row.run_id] = row

    async def _put(self, kind: str, table: str, run_id: str, document: bytes, given: Sequence[Any]) -> None:
        """Write a row, and also the document where the row, as it is found, does not represent all of it."""
        key, stamp, *found = await self._put_row(queries.put(table, "run_id", kind, self._shape), given)
        if not is_faithful(table, document, found):
            await self._keep([(kind, run_id, key, document, stamp)])

    async def _put_row(self, sql: str, given: Sequence[Any]) -> Any:
        row = await self._db.fetchrow(sql, *given)
        _check_written(row is not None)
        return row

    async def add_runs(self, rows: Sequence[RunRow]) -> None:
        """Write the rows of new runs, all at once."""
        self._seen.clear()
        for kind, table in queries.SIDES:
            documents = {row.run_id: getattr(row, kind) for row in rows if getattr(row, kind) is not None}
            await self._add(kind, table, sorted(documents.items()), "run_id")

    async def _add(self, kind: str, table: str, rows: Sequence[tuple[str, bytes]], by: str = "id") -> None:
        """Write new rows, all at once; those of a run stay in their order, and have rising keys."""
        given = [values_for(self._shape, table, *row) for row in rows]
        odd = {run_id for (run_id, _), (_, is_whole) in zip(rows, given, strict=True) if not is_whole}
        both = list(zip(rows, (values for values, _ in given), strict=True))
        await self._copy(table, [values for (run_id, _), values in both if run_id not in odd])
        others = [(row, values) for row, values in both if row[0] in odd]
        if not others:
            return
        arrays = zip(*(values for _, values in others), strict=True)
        made = await self._db.fetch(queries.add(table, self._shape, by), *arrays)
        _check_written(len(made) == len(others))
        # The server may return them in any order.
        made.sort(key=lambda one: one[0] if by == "run_id" else int(one[0]))
        lossy = [
            (kind, run_id, "" if by == "run_id" else key, data, stamp)
            for ((run_id, data), _), (key, stamp, *found) in zip(others, made, strict=True)
            if not is_faithful(table, data, found)
        ]
        await self._keep(lossy)

    async def _copy(self, table: str, rows: Sequence[Sequence[Any]]) -> None:
        """Write new rows that have no need of a document; of more than a few the client streams them."""
        if not rows:
            return
        names = [name for name in COLUMNS[table] if name in self._shape.columns[table]]
        if len(rows) >= _FEW_ROWS:
            done = await self._db.copy_records_to_table(table, columns=names, records=rows)
        else:
            sql = queries.add(table, self._shape, "run_id", returns=False)
            done = await self._db.execute(sql, *zip(*rows, strict=True))
        _check_written(done.split()[-1] == str(len(rows)))

    async def _keep(self, rows: Sequence[tuple[str, str, str, bytes, str | None]]) -> None:
        """Store documents that rows cannot represent, with the digests of these rows."""
        if rows:
            kinds, run_ids, keys, documents, stamps = zip(*rows, strict=True)
            texts = [document.decode() for document in documents]
            await self._db.execute(queries.KEEP, kinds, run_ids, keys, texts, stamps)

    async def _forget(self, kind: str, run_id: str, keys: Sequence[str] | None = None) -> None:
        some, given = ("", ()) if keys is None else (" AND key = ANY($3::text[])", (list(keys),))
        await self._db.execute(
            f"DELETE FROM lens_documents WHERE kind = $1 AND run_id = $2{some}", kind, run_id, *given
        )

    # --- children

    async def children(self, kind: ChildKind, run_ids: Sequence[str] | None) -> AsyncIterator[ChildRow]:
        """Yield the rows of one kind; those of more than one run by a cursor."""
        table = _TABLES[kind]
        given = () if run_ids is None else (storable(run_ids),)
        if given and len(given[0]) == 1:
            for row in await self._db.fetch(queries.children(table, kind, self._shape, "= $1::text"), given[0][0]):
                yield _child(kind, row)
            return
        sql = queries.children(table, kind, self._shape, "= ANY($1::text[])" if given else "IS NOT NULL")
        async for row in self._db.cursor(sql, *given, prefetch=_PREFETCH):
            yield _child(kind, row)

    async def put_children(self, kind: ChildKind, rows: Sequence[ChildRow], *, replaces: str | None = None) -> None:
        """Add rows; spans take the place of those with their ids."""
        table = _TABLES[kind]
        if replaces is not None:
            await self._db.execute(f"DELETE FROM {table} WHERE run_id = $1", replaces)
            await self._forget(kind, replaces)
        elif kind == "span":
            await self._replace_spans(rows)
        known = await self._known({row.run_id for row in rows})
        if fitting := [row for row in rows if row.run_id in known]:
            await self._add(kind, table, [(row.run_id, row.data) for row in fitting])
        for row in rows:
            if row.run_id not in known:
                await self._keep([(kind, row.run_id, await self._next_key(), row.data, None)])
        if replaces is not None:
            await self._save_trace(replaces, rows)

    async def _known(self, run_ids: set[str]) -> set[str]:
        """The runs that children can refer to; the children of an unknown run are stored separately."""
        if not run_ids:
            return set()
        sql = "SELECT run_id FROM runs WHERE run_id = ANY($1::text[])"
        return {row[0] for row in await self._db.fetch(sql, list(run_ids))}

    async def _next_key(self) -> str:
        number = await self._db.fetchval("SELECT nextval(pg_get_serial_sequence('evaluations', 'id'))")
        return f"lens:{number:020d}"

    async def _replace_spans(self, rows: Sequence[ChildRow]) -> None:
        pairs = list(zip(*((row.run_id, row.key) for row in rows), strict=True))
        gone: dict[str, list[str]] = {}
        for run_id, key in await self._db.fetch(queries.DELETE_SPANS, *pairs) if pairs else ():
            gone.setdefault(run_id, []).append(key)
        for run_id, keys in gone.items():
            await self._forget("span", run_id, keys)

    async def _save_trace(self, run_id: str, rows: Sequence[ChildRow]) -> None:
        """The tree, where the library looks for it."""
        tree = trace_document(span_rows([safe_loads(row.data) for row in rows]))
        if tree is None:
            await self._db.execute("DELETE FROM traces WHERE run_id = $1", run_id)
            return
        sql = """INSERT INTO traces (run_id, trace_data, created_at) VALUES ($1, $2::text::jsonb, now())
          ON CONFLICT (run_id) DO UPDATE SET trace_data = EXCLUDED.trace_data"""
        await self._db.execute(sql, run_id, safe_dumps(tree).replace(b"\\u0000", b"\\ufffd").decode())

    # --- values, locks

    async def get(self, space: Space, keys: Sequence[str] | None = None) -> dict[str, bytes]:
        """Return values by key."""
        if space == "system":
            return await self._system(keys)
        some, given = ("", ()) if keys is None else (" WHERE key = ANY($1::text[])", (storable(keys),))
        table = queries.source(_VALUES[space], self._shape)
        rows = await self._db.fetch(f"SELECT key, value FROM {table} t{some}", *given)
        return {row[0]: row[1].encode() for row in rows}

    async def _system(self, keys: Sequence[str] | None) -> dict[str, bytes]:
        some, given = ("", ()) if keys is None else ("WHERE t.key = ANY($1::text[])", (storable(keys),))
        entries, documents = (queries.source(name, self._shape) for name in ("system_state", "lens_documents"))
        kept = queries.kept("t", "system_state", self._shape, "key")
        columns = queries.columns("system_state", "t", self._shape)
        on = "(d_t.run_id, d_t.kind, d_t.key) = (t.key, 'system', '')"
        sql = f"SELECT t.key, {kept}, {columns} FROM {entries} t LEFT JOIN {documents} d_t ON {on} {some}"
        return {
            row[0]: document_of("system_state", row[2:]) if row[1] is None else row[1].encode()
            for row in await self._db.fetch(sql, *given)
        }

    async def set(self, space: Space, key: str, value: bytes | None) -> None:
        """Set or remove a value."""
        table = _VALUES.get(space, "system_state")
        if value is None:
            await self._db.execute(f"DELETE FROM {table} WHERE key = $1", key)
        elif space == "system":
            given = values_of(table, safe_loads(value))
            given[1] = given[1] if given[1] is not None else "null"
            _, stamp, *found = await self._put_row(queries.put(table, "key", "system", self._shape), given)
            if not is_faithful(table, value, found):
                await self._keep([("system", key, "", value, stamp)])
        else:
            sql = f"INSERT INTO {table} VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value"
            await self._db.execute(sql, key, value.decode())

    async def facts(self) -> Mapping[str, Any]:
        """Return ``size_bytes`` of all tables with their indexes, and ``last_write_at``."""
        tables = [table for table in (*LIBRARY_TABLES, *LENS_TABLES) if self._shape.has(table)]
        sql = "SELECT sum(pg_total_relation_size(t::regclass)) FROM unnest($1::text[]) t"
        size = await self._db.fetchval(sql, tables)
        newest = [
            await self._db.fetchval(
                f"SELECT max(updated_at) FROM {table} WHERE updated_at BETWEEN '{FIRST}' AND '{LAST}'"
            )
            for table in ("workflow_state", "runs")
            if self._shape.has(table)
        ]
        return {"size_bytes": int(size or 0), "last_write_at": max(filter(None, newest), default=None), "notes": ()}

    async def lock(self, run_ids: Iterable[str]) -> None:
        """Lock the ids for those who ask as we do, and the rows for everybody."""
        ids = sorted(set(storable(run_ids)) - self._locked)
        if ids:
            await self._db.fetchrow(queries.LOCK, ids, self._namespace)
            self._locked.update(ids)


def _check_written(is_so: bool) -> None:
    if not is_so:
        raise OperationFailedError(f"the write was refused: {KEPT}; nothing was changed")


def _child(kind: ChildKind, row: Sequence[Any]) -> ChildRow:
    data = document_of(_TABLES[kind], row[2:-2]) if row[1] is None else row[1].encode()
    return ChildRow(row[0], data, safe_loads(data)["span_id"] if kind == "span" else None)


def values_for(shape: Shape, table: str, run_id: str, data: bytes) -> tuple[list[Any], bool | None]:
    """What the columns that there are take of a document, and whether that is certainly all; None if it is not."""
    document = {**safe_loads(data), "run_id": run_id}
    there, values = shape.columns[table], values_of(table, document)
    is_whole: bool | None = len(there) >= len(COLUMNS[table]) and is_plain(table, data, document)
    if any(value is not None and name not in COLUMNS[table] for name, value in document.items()):
        is_whole = None
    return [value for name, value in zip(COLUMNS[table], values, strict=True) if name in there], is_whole
