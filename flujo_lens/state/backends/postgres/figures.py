"""Counts, sums and deletions over many runs, by the columns of `Facts`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from flujo_lens.state.aggregate import BUCKET_RATIO, FEW, FailedGroup, RunGroup, SpanTally
from flujo_lens.state.backends.core.port import Transaction
from flujo_lens.state.backends.postgres.facts import Facts
from flujo_lens.state.backends.postgres.tables import Shape
from flujo_lens.state.groups import Grouping
from flujo_lens.state.views import RunFilter, RunSummary

SETTINGS = "SET LOCAL work_mem = '64MB'; SET LOCAL parallel_tuple_cost = 0.001; SET LOCAL plan_cache_mode = auto"
"""Memory for joins and groups of a million runs; and histories are dearer to read than the planner thinks."""

_ODD = "CASE WHEN odd THEN run_id END"

_EXACT = 5 * FEW
"""Up to so many lengths are listed one by one, so that percentiles are exact."""

_SMALL = 64 << 20
_SIZE = (
    "SELECT coalesce(pg_relation_size(to_regclass('runs')), 0) + coalesce(pg_relation_size(to_regclass('spans')), 0)"
)
"""Bytes of tables of about so many runs and spans."""

_BUCKET = f"CASE WHEN {{0}} > 0 THEN floor(ln({{0}}) / {math.log(BUCKET_RATIO)!r}::float8) END"


class PostgresFigures:
    """What the server tells of runs.

    Args:
        tx: The transaction, for the runs that columns do not tell of.
        connection: Its connection.
        shape: Which tables and columns there are.
        are_plain: Whether costs and tokens in histories are taken for plain numbers; it is an error if they are not.
    """

    def __init__(self, tx: Transaction, connection: Any, shape: Shape, are_plain: bool) -> None:
        self.tx = tx
        self._db, self._shape, self._are_plain = connection, shape, are_plain

    async def odd(self, wanted: RunFilter) -> list[str]:
        """Return the ids of the runs that the other methods leave out: all that `wanted` admits, and maybe more."""
        facts = Facts(self._shape, wanted)
        return [row[0] for row in await self._db.fetch(facts.select("run_id", odd=True), *facts.values)]

    async def light(self, wanted: RunFilter) -> tuple[list[RunSummary], list[str]]:
        """Return the runs that `wanted` admits, without what their documents tell; and the odd ones."""
        facts = Facts(self._shape, wanted)
        columns = "odd, run_id, name, version, status, started, updated, ms, parent, task, waits"
        rows = await self._db.fetch(facts.select(columns, odd=None), *facts.values)
        return [_light(row) for row in rows if not row[0]], [row[1] for row in rows if row[0]]

    async def count(self, wanted: RunFilter) -> tuple[int, list[str]]:
        """Return how many runs `wanted` admits, and the odd ones."""
        facts = Facts(self._shape, wanted)
        rows = await self._db.fetch(facts.select(f"count(*), {_ODD}", "GROUP BY 2", odd=None), *facts.values)
        return sum(row[0] for row in rows if row[1] is None), [row[1] for row in rows if row[1] is not None]

    async def groups(self, wanted: RunFilter, grouping: Grouping) -> tuple[list[RunGroup], list[str]]:
        """Return the runs that `wanted` admits, counted, and the odd ones. Of few runs, each length is listed."""
        if (await self._db.fetchval(_SIZE) or 0) < _SMALL:
            return await self._groups(wanted, grouping, "ms")
        found, odd = await self._groups(wanted, grouping, _BUCKET.format("ms"))
        if sum(group.measured for group in found) <= _EXACT:
            return await self._groups(wanted, grouping, "ms")
        measured = Counter[str]()
        for group in found:
            measured[group.pipeline_name] += group.measured
        few = {name for name, count in measured.items() if count <= FEW}
        if not few or grouping.by:
            return found, odd
        exact, _ = await self._groups(wanted, grouping, "ms", sorted(few))
        return [group for group in found if group.pipeline_name not in few] + exact, odd

    async def _groups(
        self, wanted: RunFilter, grouping: Grouping, length: str, names: Sequence[str] | None = None
    ) -> tuple[list[RunGroup], list[str]]:
        by_error = "error" in grouping.by
        facts = Facts(self._shape, wanted, costs="plain" if self._are_plain else True, errors=by_error)
        minutes = grouping.of_time and (
            "1 hour" if grouping.of_time == "day" and grouping.has_whole_hours else "5 minutes"
        )
        begun = f"date_bin('{minutes}', started, '1970-01-01 00:00:00+00')" if minutes else "NULL::timestamptz"
        version = "version" if "version" in grouping.by else "''"
        error = "CASE WHEN status = 'failed' THEN error END" if by_error else "NULL::text"
        keys = f"name, {version}, status, {error}, {begun}, waits AND ms IS NOT NULL, {_ODD}"
        sums = "sum(greatest(ms, 0)), min(greatest(ms, 0)), max(greatest(ms, 0)), sum(usd), sum(tokens)"
        some = "" if names is None else f" AND name = ANY({facts.given(names, 'text[]')})"
        some += " AND (odd OR NOT (status = 'failed' AND unclear))" * by_error
        # The server sorts by the keys in this order: a number first is compared fast, and mostly suffices.
        sql = facts.select(
            f"{length}, {keys}, count(*), count(ms), {sums}", f"{some} GROUP BY 1, 2, 3, 4, 5, 6, 7, 8", odd=None
        )
        rows = await self._db.fetch(sql, *facts.values)
        return [_group(row) for row in rows if row[7] is None], [row[7] for row in rows if row[7] is not None]

    async def failures(self, wanted: RunFilter) -> tuple[list[FailedGroup], list[str]]:
        """Return the failed runs that `wanted` admits by error and step, and the ids of those that need a look."""
        failed = wanted._replace(statuses=frozenset({"failed"}))
        if wanted.statuses and "failed" not in wanted.statuses:
            return [], []
        facts = Facts(self._shape, failed, errors=True)
        last = '(array_agg(run_id ORDER BY updated DESC, started, run_id COLLATE "C"))[1]'
        known = "CASE WHEN NOT unclear THEN {0} END"
        keys = f"CASE WHEN unclear THEN run_id END, {known.format('error')}, {known.format('step')}"
        columns = f"{keys}, count(*), min(updated), max(updated), {last}"
        rows = await self._db.fetch(facts.select(columns, "GROUP BY 1, 2, 3"), *facts.values)
        return [FailedGroup(*row[1:]) for row in rows if row[0] is None], [row[0] for row in rows if row[0] is not None]

    async def spans(self, wanted: RunFilter, more: Sequence[str], tally: SpanTally) -> list[str]:
        """Count the spans of the runs that `wanted` admits, and of `more`; return the runs whose spans need a look."""
        if not self._shape.has("spans"):
            return []
        strange = await self._strange_spans()
        is_small = (await self._db.fetchval(_SIZE) or 0) < _SMALL
        by_bucket = [] if is_small else await self._spans(wanted, more, strange, _BUCKET.format("greatest(p.ms, 0)"))
        if sum(row[3] for row in by_bucket) > _EXACT:
            for name, status, count, measured, total, low, high, bucket in by_bucket:
                at = None if bucket is None else int(bucket)
                tally.add_group(name, status, count, at, measured, total or 0.0, None if low is None else (low, high))
            return strange
        for name, status, count, _, _, low, _, _ in await self._spans(wanted, more, strange, "p.ms"):
            for _ in range(count):
                tally.add(name, status, None if low is None else round(low, 6))
        return strange

    async def _strange_spans(self) -> list[str]:
        if not self._shape.has("lens_documents"):
            return []
        sql = r"""SELECT DISTINCT run_id FROM lens_documents
          WHERE kind = 'span' AND (stamp IS NULL OR position('\u0000' IN document) > 0)"""
        return [row[0] for row in await self._db.fetch(sql)]

    async def _spans(
        self, wanted: RunFilter, more: Sequence[str], strange: Sequence[str], length: str
    ) -> Sequence[Sequence[Any]]:
        facts = Facts(self._shape, wanted)
        some = f"s.run_id <> ALL({facts.given(list(strange), 'text[]')})"
        if wanted != RunFilter():
            admitted = f"SELECT run_id FROM ({facts.select('run_id')}) AS a"
            some += f" AND s.run_id IN ({admitted} UNION ALL SELECT unnest({facts.given(list(more), 'text[]')}))"
        spans = f"""SELECT coalesce(nullif(s.name, ''), 'unknown') AS name,
          coalesce(nullif(s.status, ''), 'running') AS status, CASE WHEN abs(s.start_time) < 1e300
          AND abs(s.end_time) < 1e300 THEN (s.end_time - s.start_time) * 1000 END AS ms FROM spans s WHERE {some}"""
        values = facts.values if wanted != RunFilter() else facts.values[:1]
        sums = "sum(greatest(p.ms, 0)), min(p.ms), max(p.ms)"
        columns = f"p.name, p.status, count(*), count(p.ms), {sums}, {length}"
        sql = f"SELECT {columns} FROM ({spans}) AS p GROUP BY 1, 2, {length}"
        return list(await self._db.fetch(sql, *values))


def _group(row: Sequence[Any]) -> RunGroup:
    _, name, version, status, error, started, waits, _, runs, measured, total, low, high, usd, tokens = row
    ends = (low or 0.0, high or 0.0)
    whole = None if tokens is None else int(tokens)
    return RunGroup(name, version, status, error, started, waits, runs, measured, total or 0.0, ends, usd, whole)


def _light(row: Sequence[Any]) -> RunSummary:
    _, run_id, name, version, status, started, updated, ms, parent, task, waits = row
    run = RunSummary(run_id, name, version, status, started, updated, ms)
    return run._replace(parent_run_id=parent, is_background_task=task, counts_waiting=waits and ms is not None)
