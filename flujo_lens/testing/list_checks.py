"""Lists of runs: every run once, in order, by filter and by page."""

from __future__ import annotations

import asyncio
from unittest import SkipTest

from flujo_lens.state.backends.base import Position, StateBackend, overrides
from flujo_lens.state.views import RunFilter
from flujo_lens.testing.harness import Harness, equal, ids_of, on_samples
from flujo_lens.testing.samples import BASE, FILTERS, MINUTE


class ListChecks(Harness):
    """What `iter_runs`, `query_runs` and their like give."""

    # --- lists of runs

    @on_samples
    async def test_a_run_says_what_was_saved(self, backend: StateBackend) -> None:
        found = {run.run_id: run async for run in backend.iter_runs(RunFilter())}
        for sample in self.samples:
            run = found[sample.run_id]._asdict()
            actual = {name: run[name] for name in sample.expected}
            equal(actual, sample.expected, f"the summary of {sample.run_id}")
            equal(run["problems"], (), f"the problems of {sample.run_id}")

    @on_samples
    async def test_every_run_is_listed_once_in_the_order_of_its_start(self, backend: StateBackend) -> None:
        ids = await ids_of(backend.iter_runs(RunFilter()))
        equal(ids, self._order(), "iter_runs()")
        backwards = await ids_of(backend.iter_runs(RunFilter(), reverse=True))
        equal(backwards, ids[::-1], "iter_runs(reverse=True)")

    @on_samples
    async def test_a_filter_means_what_matches_says(self, backend: StateBackend) -> None:
        for wanted in FILTERS:
            expected = self._order(wanted)
            equal(await ids_of(backend.iter_runs(wanted)), expected, f"iter_runs({wanted})")
            backwards = await ids_of(backend.iter_runs(wanted, reverse=True))
            equal(backwards, expected[::-1], f"iter_runs({wanted}, reverse=True)")
            equal(await backend.count_runs(wanted), len(expected), f"count_runs({wanted})")

    @on_samples
    async def test_without_order_or_details_the_runs_are_the_same(self, backend: StateBackend) -> None:
        for wanted in FILTERS:
            expected = sorted(self._order(wanted))
            loose = await ids_of(backend.iter_runs(wanted, ordered=False))
            equal(sorted(loose), expected, f"iter_runs({wanted}, ordered=False)")
            light = await ids_of(backend.iter_runs(wanted, ordered=False, details=False))
            equal(sorted(light), expected, f"iter_runs({wanted}, ordered=False, details=False)")

    @on_samples
    async def test_pages_hold_every_run_once(self, backend: StateBackend) -> None:
        for wanted in (RunFilter(), RunFilter(pipeline="orders"), RunFilter(search="same-"), RunFilter(parent="x")):
            for limit in (1, 2, 3, 5, 1000):
                await self._read_by_pages(backend, wanted, limit, reverse=False)
                await self._read_by_pages(backend, wanted, limit, reverse=True)

    async def _read_by_pages(self, backend: StateBackend, wanted: RunFilter, limit: int, reverse: bool) -> None:
        expected = self._order(wanted)[:: -1 if reverse else 1]
        what = f"the pages of query_runs({wanted}, limit={limit}, reverse={reverse})"
        found: list[str] = []
        after: Position | None = None
        while len(found) <= len(expected):
            page = await backend.query_runs(wanted, after=after, limit=limit, reverse=reverse)
            found += [run.run_id for run in page.items]
            equal(len(page.items) <= limit, True, f"{what} are no longer than the limit")
            after = page.next
            if after is None:
                break
            equal(after, (page.items[-1].created_at, page.items[-1].run_id), f"{what}: next")
        equal(found, expected, what)

    @on_samples
    async def test_a_page_begins_behind_a_position_that_no_run_has(self, backend: StateBackend) -> None:
        newest_first = self._order()
        at = newest_first.index("same-a")
        for run_id, passed in (("same-a-and-more", at), ("same-", at + 2), ("zzz", at - 1), ("a", at + 2)):
            position = (BASE + 30 * MINUTE, run_id)
            equal(
                (await ids_of(backend.iter_runs(RunFilter(), after=position)), run_id),
                (newest_first[passed:], run_id),
                f"iter_runs(after={position})",
            )
            before = newest_first[:passed][::-1]
            backwards = await ids_of(backend.iter_runs(RunFilter(), after=position, reverse=True))
            equal(backwards, before, f"iter_runs(after={position}, reverse=True)")

    @on_samples
    async def test_other_calls_may_come_between(self, backend: StateBackend) -> None:
        ids = []
        async for run in backend.iter_runs(RunFilter()):
            detail = await backend.read_run(run.run_id)
            equal(detail is not None, True, f"read_run({run.run_id!r}) within iter_runs()")
            ids.append(run.run_id)
        equal(ids, self._order(), "iter_runs() with other calls between")

    @on_samples
    async def test_calls_may_be_made_at_once(self, backend: StateBackend) -> None:
        lists = [ids_of(backend.iter_runs(RunFilter())) for _ in range(5)]
        for ids in await asyncio.gather(*lists):
            equal(ids, self._order(), "iter_runs(), five at once")
        details = await asyncio.gather(*(backend.read_run(run_id) for run_id in self._order()))
        equal([d.run.run_id for d in details if d], self._order(), "read_run(), all at once")

    @on_samples
    async def test_an_iteration_may_be_left(self, backend: StateBackend) -> None:
        for _ in range(3):
            async for run in backend.iter_runs(RunFilter()):
                equal(run.run_id, self._order()[0], "the first of iter_runs()")
                break
            equal(await backend.count_runs(RunFilter()), len(self.samples), "count_runs()")

    @on_samples
    async def test_ids_are_found_by_their_beginning(self, backend: StateBackend) -> None:
        if not self.complete and not overrides(type(backend), "find_run_ids"):
            raise SkipTest("the driver knows whole ids only")
        ids = sorted(self._order())
        for prefix in ("order-", "order-1", "same-", "weird id/with %", "we%", "missing", "ORDER-", ids[0]):
            wanted = [run_id for run_id in ids if run_id.startswith(prefix)]
            equal(list(await backend.find_run_ids(prefix)), wanted, f"find_run_ids({prefix!r})")
            equal(list(await backend.find_run_ids(prefix, 1)), wanted[:1], f"find_run_ids({prefix!r}, 1)")
