"""What a deletion asks of a transaction: who may go, how much that is, and whether it is still what it was."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Collection, Hashable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from flujo_lens.state.backends.core.port import ChildKind
from flujo_lens.state.backends.core.selection import Member
from flujo_lens.state.backends.core.stored_claims import claims_in
from flujo_lens.state.backends.postgres import queries
from flujo_lens.state.backends.postgres.facts import Facts
from flujo_lens.state.backends.postgres.tables import Shape
from flujo_lens.state.deletion import DeletionRequest
from flujo_lens.state.views import RunFilter

_KINDS = {"state": "workflow_state", "run": "runs", "step": "steps", "span": "spans", "evaluation": "evaluations"}
_PREFETCH = 2_000


class PostgresMembers:
    """The part of `PostgresTransaction` that serves deletions."""

    _db: Any
    _shape: Shape
    _namespace: str
    _seen: dict[str, Any]

    async def selected_members(self, asked: DeletionRequest, run_ids: Sequence[str]) -> tuple[list[Member], list[str]]:
        """Return those of these runs that are there, and the odd ones."""
        facts = Facts(self._shape, RunFilter(), ids=queries.storable(run_ids))
        sql = facts.select(self._columns(facts, asked), odd=None, join=self._claims())
        rows = await self._db.fetch(sql, *facts.values)
        return [_member(asked, row) for row in rows if not row[0]], [row[1] for row in rows if row[0]]

    async def candidates(
        self, asked: DeletionRequest, admitted: Collection[str] | None
    ) -> AsyncIterator[tuple[Member | str, bool]]:
        """Yield runs, or the ids of odd ones, each with whether it may belong to a family of several."""
        facts = Facts(self._shape, RunFilter())
        columns = self._columns(facts, asked, admitted is None)
        related = "(parent IS NOT NULL OR run_id IN (SELECT id FROM parents))"
        alone = ["admitted"]
        if asked.wanted.statuses:
            alone.append(f"status = ANY({facts.given(list(asked.wanted.statuses), 'text[]')})")
        if asked.cutoff is not None and asked.keep_last is None:
            cutoff, now = facts.given(asked.cutoff, "timestamptz"), facts.given(asked.now, "timestamptz")
            alone.append(f"(updated < {cutoff} OR updated > {now})")
        every = facts.select(f"{columns}, {related} AS related", odd=None, join=self._claims())
        sql = f"WITH parents AS MATERIALIZED ({self._parents()}) SELECT * FROM ({every}) AS m"
        sql += f" WHERE odd OR related OR ({' AND '.join(alone)})"
        sql += ' ORDER BY started, run_id COLLATE "C"'
        await self._db.execute("SET LOCAL work_mem = '64MB'")
        async for row in self._db.cursor(sql, *facts.values, prefetch=_PREFETCH):
            if row[0]:
                yield row[1], True
                continue
            member = _member(asked, row)
            yield member if admitted is None else member._replace(admitted=member.run_id in admitted), row[-1]

    def _columns(self, facts: Facts, asked: DeletionRequest, by_filter: bool = True) -> str:
        wanted = asked.wanted._replace(statuses=frozenset())
        admitted = facts.admits(wanted) if by_filter else "true"
        return f"odd, run_id, status, name, updated, started, {admitted} AS admitted, parent, c.value AS claim"

    def _claims(self) -> str:
        claims = queries.source("lens_claims", self._shape)
        return f"LEFT JOIN (SELECT key, value FROM {claims} c) c ON c.key = run.run_id"

    def _parents(self) -> str:
        columns = self._shape.columns.get("workflow_state", frozenset[str]())
        named = ["p.parent_run_id"] * ("parent_run_id" in columns)
        named += ["p.metadata ->> 'parent_run_id'"] * ("metadata" in columns)
        if not named:
            return "SELECT NULL::text AS id"
        parent = f"coalesce({', '.join(named)})"
        return f"SELECT {parent} AS id FROM workflow_state p WHERE {parent} <> ''"

    async def orphan_ids(self) -> list[str]:
        """Return the ids that have evaluations and no run."""
        alone = " AND ".join(
            f"NOT EXISTS (SELECT FROM {table} x WHERE x.run_id = t.run_id)"
            for table in ("runs", "workflow_state")
            if self._shape.has(table)
        )
        parts = [f"SELECT t.run_id FROM evaluations t WHERE {alone}"] * self._shape.has("evaluations")
        if self._shape.has("lens_documents"):
            parts.append(f"SELECT t.run_id FROM lens_documents t WHERE t.kind = 'evaluation' AND {alone}")
        return [row[0] for row in await self._db.fetch(" UNION ".join(parts))] if parts else []

    async def lock_free(self, run_ids: Sequence[str]) -> set[str]:
        """Lock those of these runs that no other transaction has locked, without waiting; return them."""
        # A plan for the ids of each batch would take longer to make than to run.
        await self._db.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        rows = await self._db.fetch(queries.LOCK_FREE, sorted(queries.storable(run_ids)), self._namespace)
        return {row[0] for row in rows}

    async def marks(self, run_ids: Sequence[str]) -> Mapping[str, Hashable]:
        """Return for each run a digest of the versions of its rows."""
        tables = (*_KINDS.values(), "traces", "lens_documents")
        versions = " UNION ALL ".join(
            f"SELECT run_id, concat('{table}', ctid, xmin) AS v FROM {table} WHERE run_id = ANY($1::text[])"
            for table in tables
            if self._shape.has(table)
        )
        sql = f"SELECT run_id, md5(string_agg(v, ' ' ORDER BY v)) FROM ({versions}) AS rows GROUP BY run_id"
        return {row[0]: row[1] for row in await self._db.fetch(sql, queries.storable(run_ids))}

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
        """Remove runs, and count what goes, in one statement: their foreign keys find nothing left."""
        self._seen.clear()
        keyed = ("lens_claims", "lens_bindings", "lens_strips")
        gone = [f"{table}_ AS (DELETE FROM {table} WHERE key = ANY($1::text[]))" for table in keyed]
        for table in (*_KINDS.values(), "traces", "lens_documents"):
            returned = "kind, stamp" if table == "lens_documents" else "1"
            gone.append(f"{table}_ AS (DELETE FROM {table} WHERE run_id = ANY($1::text[]) RETURNING {returned})")
        counts = [f"SELECT '{kind}', count(*) FROM {table}_" for kind, table in _KINDS.items()]
        counts.append("SELECT kind, count(*) FROM lens_documents_ WHERE stamp IS NULL GROUP BY kind")
        sql, found = f"WITH {', '.join(gone)} {' UNION ALL '.join(counts)}", Counter[str]()
        for kind, count in await self._db.fetch(sql, queries.storable(run_ids)):
            found[kind] += count
        return found


def _member(asked: DeletionRequest, row: Sequence[Any]) -> Member:
    _, run_id, status, pipeline, updated, started, admitted, parent, claim = row[:9]
    holder = None
    if claim is not None:
        found = claims_in({run_id: claim.encode()}).get(run_id)
        holder = found.holder if found is not None and not found.has_ended(asked.now) else None
    last: datetime | None = updated if updated is not None and updated <= asked.now else None
    known = {"started": started, "admitted": admitted, "parent": parent}
    return Member(run_id, status, pipeline, last, held=holder is not None, key=holder, **known)
