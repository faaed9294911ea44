"""What a deletion asks of a transaction: who may go, how much that is, and whether it is still what it was."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Collection, Hashable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from flujo_lens.errors import OperationFailedError
from flujo_lens.state.backends.core.port import ChildKind
from flujo_lens.state.backends.core.selection import Member, Outline
from flujo_lens.state.backends.core.stored_claims import holders_in
from flujo_lens.state.backends.postgres import queries
from flujo_lens.state.backends.postgres.errors import KEPT
from flujo_lens.state.backends.postgres.facts import Facts
from flujo_lens.state.backends.postgres.tables import Shape
from flujo_lens.state.deletion import DeletionRequest
from flujo_lens.state.views import RunFilter

_KINDS = {"state": "workflow_state", "run": "runs", "step": "steps", "span": "spans", "evaluation": "evaluations"}
_PREFETCH, _FEW = 2_000, 10
"""One run of so many is few: these are looked up, and the others not looked at again."""


class PostgresMembers:
    """The part of `PostgresTransaction` that serves deletions."""

    _db: Any
    _shape: Shape
    _namespace: str
    _seen: dict[str, Any]

    async def selected_members(self, asked: DeletionRequest, run_ids: Sequence[str]) -> tuple[list[Member], list[str]]:
        """Return those of these runs that are there, and the odd ones."""
        facts = Facts(self._shape, RunFilter(), ids=queries.storable(run_ids))
        rows = await self._db.fetch(self._query(facts, asked), *facts.values)
        return [_member(asked, row) for row in rows if not row[0]], [row[1] for row in rows if row[0]]

    async def outline(self, asked: DeletionRequest) -> Outline:
        """Read both tables of runs once, by a plan that the server may make parallel."""
        await self._db.execute("SET LOCAL work_mem = '64MB'; SET LOCAL plan_cache_mode = auto")
        named = (("parent_run_id", "nullif(parent_run_id, '')"), ("metadata", "metadata ->> 'parent_run_id'"))
        parents = [sql for column, sql in named if self._shape.has_column("workflow_state", column)]
        runs, states = (queries.source(table, self._shape) for table in ("runs", "workflow_state"))
        times = "(r.created_at, r.updated_at, s.created_at, s.updated_at)"
        young = f"s.parent IS NULL AND least{times} >= '{queries.FIRST}' AND greatest{times} BETWEEN $1 AND $2"
        sql = f"""SELECT count(*), array_agg(s.parent) FILTER (WHERE s.parent IS NOT NULL),
  array_agg(run_id) FILTER (WHERE ({young}) IS NOT TRUE)
FROM (SELECT run_id, created_at, updated_at FROM {runs} t) AS r FULL JOIN (SELECT run_id, created_at, updated_at,
  coalesce({", ".join([*parents, "NULL::text"])}) AS parent FROM {states} t) AS s USING (run_id)"""
        ((total, heads, some),) = await self._db.fetch(sql, asked.cutoff, asked.now)
        documents = queries.source("lens_documents", self._shape)
        kept = await self._db.fetch(f"SELECT run_id FROM {documents} t WHERE kind IN ('state', 'run')")
        ids = {*(some or ()), *(heads or ()), *(row[0] for row in kept)}
        is_few = asked.cutoff is not None and asked.keep_last is None and len(ids) < total / _FEW
        return Outline(total, frozenset(heads or ()), frozenset(ids) if is_few else None)

    async def candidates(
        self, asked: DeletionRequest, admitted: Collection[str] | None, outline: Outline
    ) -> AsyncIterator[tuple[Member | str, bool]]:
        """Yield runs, or the ids of odd ones, each with whether it may belong to a family of several."""
        facts = Facts(self._shape, RunFilter(), ids=None if outline.ids is None else list(outline.ids))
        related = f"(parent IS NOT NULL OR run_id = ANY({facts.given(list(outline.heads), 'text[]')}))"
        alone = ["admitted"]
        if asked.wanted.statuses:
            alone.append(f"status = ANY({facts.given(list(asked.wanted.statuses), 'text[]')})")
        if asked.cutoff is not None and asked.keep_last is None:
            cutoff, now = facts.given(asked.cutoff, "timestamptz"), facts.given(asked.now, "timestamptz")
            alone.append(f"(updated < {cutoff} OR updated > {now})")
        every = self._query(facts, asked, by_filter=admitted is None, more=f", {related} AS related")
        sql = f"SELECT * FROM ({every}) AS m WHERE odd OR related OR ({' AND '.join(alone)})"
        sql += ' ORDER BY started, run_id COLLATE "C"'
        cursor = await self._db.cursor(sql, *facts.values)
        while rows := await cursor.fetch(_PREFETCH):  # one by one, each takes ten times as long
            for row in rows:
                member = None if row[0] else _member(asked, row)
                if member is None:
                    yield row[1], True
                else:
                    yield member if admitted is None else member._replace(admitted=member.run_id in admitted), row[-1]

    def _query(self, facts: Facts, asked: DeletionRequest, *, by_filter: bool = True, more: str = "") -> str:
        admitted = facts.admits(asked.wanted._replace(statuses=frozenset())) if by_filter else "true"
        columns = f"odd, run_id, status, name, updated, started, {admitted} AS admitted, parent, c.value AS claim{more}"
        claims = f"(SELECT key, value FROM {queries.source('lens_claims', self._shape)} AS t) AS c"
        return facts.select(columns, odd=None, join=f"LEFT JOIN {claims} ON c.key = run.run_id")

    async def orphan_ids(self) -> list[str]:
        """Return the ids that have evaluations and no run."""
        alone = queries.without_run(self._shape)
        parts = [f"SELECT t.run_id FROM evaluations t WHERE {alone}"] * self._shape.has("evaluations")
        if self._shape.has("lens_documents"):
            parts.append(f"SELECT t.run_id FROM lens_documents t WHERE t.kind = 'evaluation' AND {alone}")
        return [row[0] for row in await self._db.fetch(" UNION ".join(parts))] if parts else []

    async def lock_free(self, run_ids: Sequence[str]) -> Mapping[str, tuple[str, datetime] | None]:
        """Lock those of these runs that no other transaction has locked, without waiting; return them."""
        rows = await self._db.fetch(queries.LOCK_FREE, sorted(queries.storable(run_ids)), self._namespace)
        return {row[0]: None if row[1] is None else (row[1], row[2]) for row in rows}

    async def marks(self, run_ids: Sequence[str]) -> Mapping[str, Hashable]:
        """Return for each run a digest of the versions of its rows."""
        return {row[0]: row[1] for row in await self._db.fetch(self._marks(), queries.storable(run_ids))}

    def _marks(self) -> str:
        versions = " UNION ALL ".join(
            f"SELECT run_id, concat('{table}', ctid, xmin) AS v FROM {table} WHERE run_id = ANY($1::text[])"
            for table in (*_KINDS.values(), "traces", "lens_documents")
            if self._shape.has(table)
        )
        return f"SELECT run_id, md5(string_agg(v, ' ' ORDER BY v)) FROM ({versions}) AS rows GROUP BY run_id"

    async def measure(self, run_ids: Sequence[str], kinds: Sequence[ChildKind]) -> tuple[dict[str, int], int]:
        """Return the number of rows by kind, and their size in bytes."""
        parts = [
            f"SELECT '{kind}', count(*), sum(pg_column_size(t.*)) FROM {_KINDS[kind]} t WHERE run_id = ANY($1::text[])"
            for kind in ("state", "run", *kinds)
            if self._shape.has(_KINDS[kind])
        ]
        if self._shape.has("lens_documents"):
            parts.append(
                "SELECT kind, count(*), sum(length(document)) FROM lens_documents"
                " WHERE run_id = ANY($1::text[]) AND stamp IS NULL GROUP BY kind"
            )
        counts, size = Counter[str](), 0
        for kind, count, taken in await self._db.fetch(" UNION ALL ".join(parts), queries.storable(run_ids)):
            counts[kind] += count
            size += int(taken or 0)
        return counts, size

    async def drop(self, run_ids: Iterable[str]) -> None:
        """Remove runs with all that belongs to them."""
        await self.drop_counted(list(run_ids))

    async def drop_counted(self, run_ids: Sequence[str]) -> Mapping[str, int]:
        """Remove runs, and count what goes."""
        return (await self._drop("SELECT unnest($1::text[]) AS id", queries.storable(run_ids)))[1]

    async def drop_alone(
        self, run_ids: Sequence[str], marks: Mapping[str, Hashable] | None
    ) -> tuple[set[str], Mapping[str, int]]:
        """Where the document of a run is stored, its columns do not tell all, so that it takes a closer look."""
        linked = ["lens_claims WHERE key = x.id", "lens_documents WHERE run_id = x.id AND kind IN ('state', 'run')"]
        linked += ["workflow_state WHERE parent_run_id = x.id"] * self._shape.has_parents
        free = " AND ".join(f"NOT EXISTS (SELECT FROM {rows})" for rows in linked)
        chosen = f"SELECT id FROM unnest($1::text[], $2::text[]) AS x (id, mark) WHERE {free}"
        if marks is not None:
            chosen += f" AND (id, mark) IN ({self._marks()})"
        return await self._drop(chosen, run_ids, [(marks or {}).get(run_id) for run_id in run_ids])

    async def _drop(self, chosen: str, *given: Any) -> tuple[set[str], Counter[str]]:
        """Remove the runs of a query of ids in one statement: their foreign keys find nothing left."""
        self._seen.clear()
        ids = "= ANY(ARRAY(SELECT id FROM chosen))"
        gone = [f"{t}_ AS (DELETE FROM {t} WHERE key {ids})" for t in ("lens_claims", "lens_bindings", "lens_strips")]
        for table in (*_KINDS.values(), "traces", "lens_documents"):
            returned = "kind, stamp" if table == "lens_documents" else "1"
            gone.append(f"{table}_ AS (DELETE FROM {table} WHERE run_id {ids} RETURNING {returned})")
        counts = ["SELECT NULL, id, 1 FROM chosen"]
        counts += [f"SELECT '{kind}', NULL, count(*) FROM {table}_" for kind, table in _KINDS.items()]
        counts.append("SELECT kind, NULL, count(*) FROM lens_documents_ WHERE stamp IS NULL GROUP BY kind")
        counts.append(f"SELECT 'guarded', NULL, count(*) FROM ({queries.GUARDED}) AS guarded")
        ids_gone, found = set[str](), Counter[str]()
        sql = f"WITH chosen AS MATERIALIZED ({chosen}), {', '.join(gone)} {' UNION ALL '.join(counts)}"
        for kind, run_id, count in await self._db.fetch(sql, *given):
            if kind is None:
                ids_gone.add(run_id)
            else:
                found[kind] += count
        if found.pop("guarded") and (table := await self._db.fetchval(queries.STILL_THERE, list(ids_gone))) is not None:
            raise OperationFailedError(f"not all rows of {table} were deleted: {KEPT}; nothing was changed")
        return ids_gone, found


def _member(asked: DeletionRequest, row: Sequence[Any]) -> Member:
    _, run_id, status, pipeline, updated, started, admitted, parent, claim = row[:9]
    holder = None if claim is None else holders_in({run_id: claim.encode()}, asked.now).get(run_id)
    last = updated if updated is not None and updated <= asked.now else None
    return Member(run_id, status, pipeline, last, started, admitted, parent, held=holder is not None, key=holder)
