"""Counts and figures over many runs: by the engine, where it can tell them, else by going through the runs."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from flujo_lens.state.aggregate import SpanTally
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.backends.core.port import CountsRuns, Figures, Store, TellsFigures, Transaction
from flujo_lens.state.backends.core.run_codec import RunCodec
from flujo_lens.state.backends.core.run_reader import RunReader
from flujo_lens.state.backends.core.validation import findable_filter
from flujo_lens.state.filtering import matches, needs_details
from flujo_lens.state.groups import META, GroupedTally, Grouping
from flujo_lens.state.statistics import SpanStats, Stats
from flujo_lens.state.traces import span_rows
from flujo_lens.state.views import RunFilter, RunSummary

T = TypeVar("T")
_BATCH = 200
_UNGROUPED = Grouping(())


class CoreStatistics(StateBackend):
    """The part of `CoreBackend` that counts."""

    _store: Store
    codec: RunCodec
    reader: RunReader

    async def count_runs(self, wanted: RunFilter) -> int:
        """Return how many runs `wanted` admits."""
        sought = findable_filter(wanted)
        if isinstance(self._store, CountsRuns) and not needs_details(wanted):
            count = await self._store.count(sought)
            if count is not None:
                return count

        async def work(figures: Figures) -> int:
            count, odd = await figures.count(sought)
            return count + len(await self._summaries(figures.tx, odd, sought))

        found = await self._by_store(wanted, work)
        return await super().count_runs(wanted) if found is None else found

    async def read_stats(self, wanted: RunFilter) -> Stats:
        """Return counts, durations and failures over the runs that `wanted` admits."""
        found = await self._by_store(wanted, lambda figures: self._stats(figures, wanted, _UNGROUPED, True))
        return await super().read_stats(wanted) if found is None else found

    async def read_grouped_stats(self, wanted: RunFilter, grouping: Grouping, *, whole: bool = True) -> Stats:
        """Return `read_stats` with groups; those of steps and of metadata run by run."""
        found = None
        if not grouping.of_steps and not any(name.startswith(META) for name in grouping.by):
            found = await self._by_store(wanted, lambda figures: self._stats(figures, wanted, grouping, whole))
        return await super().read_grouped_stats(wanted, grouping, whole=whole) if found is None else found

    async def read_span_stats(self, wanted: RunFilter) -> tuple[SpanStats, ...]:
        """Return counts and durations of spans by name, over the runs that `wanted` admits."""
        sought = findable_filter(wanted)

        async def work(figures: Figures) -> tuple[SpanStats, ...]:
            tally = SpanTally()
            odd: list[str] = []
            if sought != RunFilter():
                found = await self._summaries(figures.tx, await figures.odd(sought), sought)
                odd = [run.run_id for run in found]
            strange = set(await figures.spans(sought, odd, tally))
            if strange and sought != RunFilter():
                strange &= {run.run_id for run in await self._summaries(figures.tx, sorted(strange), sought)}
            await self._add_spans(figures.tx, sorted(strange), tally)
            return tally.stats()

        found = await self._by_store(wanted, work)
        return await self._scanned_spans(sought) if found is None else found

    async def light_runs(self, wanted: RunFilter) -> list[RunSummary] | None:
        """The runs that `wanted` admits without details, in any order; None if the engine does not tell them."""
        sought = findable_filter(wanted)

        async def work(figures: Figures) -> list[RunSummary]:
            light, odd = await figures.light(sought)
            return light + await self._summaries(figures.tx, odd, sought)

        return await self._by_store(wanted, work)

    # --- by the engine

    async def _by_store(self, wanted: RunFilter, work: Callable[[Figures], Coroutine[Any, Any, T]]) -> T | None:
        if needs_details(wanted) or not isinstance(self._store, TellsFigures):
            return None
        return await self._store.figures(work)

    async def _summaries(self, tx: Transaction, run_ids: Sequence[str], wanted: RunFilter) -> list[RunSummary]:
        """Those of these runs that `wanted` admits."""
        found: list[RunSummary] = []
        for at in range(0, len(run_ids), _BATCH):
            rows = await tx.runs(run_ids[at : at + _BATCH])
            found += [run for run in await self.reader.summaries(tx, list(rows.values())) if matches(wanted, run)]
        return found

    async def _stats(self, figures: Figures, wanted: RunFilter, grouping: Grouping, whole: bool) -> Stats:
        sought, tally = findable_filter(wanted), GroupedTally(grouping, whole=whole)
        groups, odd = await figures.groups(sought, grouping)
        for group in groups:
            tally.add_group(group)
        for run in await self._summaries(figures.tx, odd, sought):
            tally.add(run)
        by_error = "error" in grouping.by
        if whole or by_error:
            failed, unclear = await figures.failures(sought)
            for each in failed:
                tally.runs.failures.add_group(each)
            for run in await self._summaries(figures.tx, unclear, sought):
                if by_error:
                    tally.add(run)
                else:
                    tally.runs.add_failure(run)
        return tally.stats(wanted)

    # --- run by run

    async def _scanned_spans(self, wanted: RunFilter) -> tuple[SpanStats, ...]:
        tally = SpanTally()
        async with self._store.snapshot() as tx:
            batch: list[str] = []
            async for run in self.reader.selected(tx, wanted, None, False):
                batch.append(run.run_id)
                if len(batch) == _BATCH:
                    await self._add_spans(tx, batch, tally)
                    batch = []
            await self._add_spans(tx, batch, tally)
        return tally.stats()

    async def _add_spans(self, tx: Transaction, run_ids: Sequence[str], tally: SpanTally) -> None:
        if not run_ids:
            return
        async for child in tx.children("span", run_ids):
            for row in span_rows([self.codec.shown("span", child.run_id, child.data) or {}]):
                tally.add(row.name, row.status, row.duration_ms)
