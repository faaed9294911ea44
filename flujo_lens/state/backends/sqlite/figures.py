"""`SqliteFigures`: what `SQLiteBackend` counts, sums and sorts by, in SQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.backends.core.validation import findable_filter
from flujo_lens.state.views import RunFilter

if TYPE_CHECKING:
    from flujo_lens.state.backends.sqlite.engine.session import Session
    from flujo_lens.state.backends.sqlite.engine.store import SqliteStore
    from flujo_lens.state.groups import Grouping
    from flujo_lens.state.known_costs import KnownCosts
    from flujo_lens.state.statistics import PipelineStats, SpanStats, Stats


T = TypeVar("T")


class SqliteFigures(StateBackend):
    """Statistics and sort values over many runs, each read in one pass."""

    _store: SqliteStore

    async def read_stats(self, wanted: RunFilter) -> Stats:
        from flujo_lens.state.backends.sqlite.reads import statistics

        return await self._store.read(lambda session: statistics.run_stats(session, findable_filter(wanted)))

    async def read_pipelines(self, wanted: RunFilter, known: KnownCosts | None = None) -> Sequence[PipelineStats]:
        from flujo_lens.state.backends.sqlite.reads.statistics import run_stats

        sought = findable_filter(wanted)
        stats = await self._store.read(lambda session: run_stats(session, sought, failures=False, known=known))
        if known is not None:
            known.forget_others(stats.total)
        return stats.by_pipeline

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
        """Return ids with last updates; of a large store, other calls may be made meanwhile."""
        from flujo_lens.state.backends.sqlite.reads.activity import activity

        sought = findable_filter(wanted)
        return await self._read_apart(lambda session: activity(session, sought))

    async def count_started(self, wanted: RunFilter, since: datetime) -> tuple[int, int]:
        """Count in one pass; of a large store, other calls may be made meanwhile."""
        from flujo_lens.state.backends.sqlite.reads.run_selection import count_started

        sought = findable_filter(wanted)
        if sought.since is None:
            counted = await self._read_apart(lambda session: count_started(session, sought, since))
            if counted is not None:
                return counted
        return await super().count_started(wanted, since)

    async def _read_apart(self, work: Callable[[Session], T]) -> T:
        """As `SqliteStore.read`; of a large store on a connection of its own, which takes 3 ms to open."""
        if not self._store.is_large:
            return await self._store.read(work)
        async with self._store.clone() as clone:
            return await clone.read(work)

    async def read_span_stats(self, wanted: RunFilter) -> tuple[SpanStats, ...]:
        """Return counts and durations of spans by name; may be called while `read_stats` runs."""
        from flujo_lens.state.backends.sqlite.reads import statistics

        async with self._store.clone() as clone:
            return await clone.read(lambda session: statistics.span_stats(session, findable_filter(wanted)))
