"""`SqliteFigures`: what `SQLiteBackend` counts, sums and sorts by, in SQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.backends.core.validation import findable_filter
from flujo_lens.state.views import RunFilter

if TYPE_CHECKING:
    from flujo_lens.state.backends.sqlite.engine.store import SqliteStore
    from flujo_lens.state.groups import Grouping
    from flujo_lens.state.statistics import PipelineStats, SpanStats, Stats


class SqliteFigures(StateBackend):
    """Statistics and sort values over many runs, each read in one pass."""

    _store: SqliteStore

    async def read_stats(self, wanted: RunFilter) -> Stats:
        from flujo_lens.state.backends.sqlite.reads import statistics

        return await self._store.read(lambda session: statistics.run_stats(session, findable_filter(wanted)))

    async def read_pipelines(self, wanted: RunFilter) -> Sequence[PipelineStats]:
        from flujo_lens.state.backends.sqlite.reads.statistics import run_stats

        sought = findable_filter(wanted)
        return (await self._store.read(lambda session: run_stats(session, sought, failures=False))).by_pipeline

    async def read_grouped_stats(self, wanted: RunFilter, grouping: Grouping, *, whole: bool = True) -> Stats:
        """Return `read_stats` with groups; those of runs in one pass, those of steps run by run."""
        from flujo_lens.state.backends.sqlite.reads import statistics

        if grouping.of_steps:
            return await super().read_grouped_stats(wanted, grouping, whole=whole)
        sought = findable_filter(wanted)
        return await self._store.read(lambda session: statistics.run_stats(session, sought, grouping, failures=whole))

    async def iter_sort_values(self, wanted: RunFilter, field: str) -> AsyncIterator[tuple[str, float | None]]:
        """Yield ids with what they are sorted by, on a connection of its own."""
        from flujo_lens.state.backends.sqlite.reads.sort_values import sort_values

        async for value in self._store.iterate(partial(sort_values, wanted=findable_filter(wanted), field=field)):
            yield value

    async def read_activity(self, wanted: RunFilter) -> list[tuple[str, datetime | None]]:
        from flujo_lens.state.backends.sqlite.reads.activity import activity

        sought = findable_filter(wanted)
        return await self._store.read(lambda session: activity(session, sought))

    async def read_span_stats(self, wanted: RunFilter) -> tuple[SpanStats, ...]:
        """Return counts and durations of spans by name; may be called while `read_stats` runs."""
        from flujo_lens.state.backends.sqlite.reads import statistics

        async with self._store.clone() as clone:
            return await clone.read(lambda session: statistics.span_stats(session, findable_filter(wanted)))
