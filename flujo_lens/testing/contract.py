"""The conformance suite for state backends, reading half: does a driver read as the contract says?

For the author of a driver. Subclass `ReadingContract` in a test file and say how a backend is made; every
``test_`` method is then collected by pytest (nothing here needs pytest: a plain loop can call them too)::

    import pytest
    from flujo_lens.testing.contract import ReadingContract
    from acme.lens import AcmeBackend

    class TestAcme(ReadingContract):
        @pytest.fixture(autouse=True)
        def _place(self, tmp_path):
            self.folder = tmp_path

        async def new_backend(self):
            return AcmeBackend(self.folder / "store")

A test fills the backend through the contract's own writing methods (`save_state`, and `save_run_start`,
`save_run_end`, `save_step_result`, `save_spans`, `persist_evaluation`, `set_system_state` where the driver
keeps history) with the runs of `flujo_lens.testing.samples`, then compares what the reading methods give.
What filters mean is decided by `flujo_lens.state.matching.matches`, as everywhere.

A driver that keeps states and nothing else sets ``states_only = True``. One of which some methods are
missing sets ``complete = False``: a test that meets a `NotSupportedError` is then skipped.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest import SkipTest

from flujo_lens.errors import NotSupportedError
from flujo_lens.state.backends.base import Position, StateBackend
from flujo_lens.state.matching import matches, sort_key
from flujo_lens.state.views import RunFilter, RunSummary, Span
from flujo_lens.testing.samples import BASE, EVALUATIONS, SYSTEM, JSONObject, Sample, samples

__all__ = ["FILTERS", "ReadingContract"]

Check = Callable[[Any, StateBackend], Coroutine[Any, Any, None]]
_MINUTE = timedelta(minutes=1)

FILTERS: tuple[RunFilter, ...] = (
    RunFilter(),
    *(RunFilter(statuses=frozenset({s})) for s in ("running", "paused", "completed", "failed", "cancelled")),
    RunFilter(statuses=frozenset({"failed", "cancelled", "nobody has this"})),
    RunFilter(pipeline="orders"),
    RunFilter(pipeline="orders", version="2.0"),
    RunFilter(pipeline="Order"),
    RunFilter(version="1.0"),
    RunFilter(since=BASE + 10 * _MINUTE),
    RunFilter(until=BASE + 10 * _MINUTE),
    RunFilter(since=BASE + 10 * _MINUTE, until=BASE + 30 * _MINUTE),
    RunFilter(since=BASE + 30 * _MINUTE, until=BASE + 30 * _MINUTE + timedelta(microseconds=1)),
    RunFilter(active_since=BASE + 20 * _MINUTE),
    RunFilter(active_until=BASE + 20 * _MINUTE),
    RunFilter(active_since=BASE, active_until=BASE + 11 * _MINUTE, statuses=frozenset({"completed"})),
    RunFilter(meta=(("customer", "4711"),)),
    RunFilter(meta=(("customer", "4711"), ("vip", "false"))),
    RunFilter(meta=(("n", "3"),)),
    RunFilter(meta=(("tags", '["a","b"]'),)),
    RunFilter(meta=(("customer", "no one"),)),
    RunFilter(search="SAME-A"),
    RunFilter(search="INVOICE 4711"),
    RunFilter(search="declined"),
    RunFilter(search="approvals"),
    RunFilter(search="漢字"),
    RunFilter(search="%"),
    RunFilter(error="valueerror: card 4711 *"),
    RunFilter(error="ValueError: card # declined"),
    RunFilter(error="*refused", tasks_only=True),
    RunFilter(top_level=True),
    RunFilter(tasks_only=True),
    RunFilter(parent="order-1"),
    RunFilter(parent="order-1", statuses=frozenset({"failed"})),
    RunFilter(parent="nobody"),
)
"""One of every kind, and some together."""


def _equal(found: Any, wanted: Any, what: str) -> None:
    """Fail with both values unless they are equal."""
    if found != wanted:
        raise AssertionError(f"{what}\n  is:     {found!r}\n  should: {wanted!r}")


def _on_samples(check: Check) -> Callable[[Any], None]:
    """A test method that hands `check` a backend with all samples in it."""
    return _test(check, fill=True)


def _on_nothing(check: Check) -> Callable[[Any], None]:
    """A test method that hands `check` a fresh backend."""
    return _test(check, fill=False)


def _test(check: Check, *, fill: bool) -> Callable[[Any], None]:
    def test(self: ReadingContract) -> None:
        try:
            asyncio.run(self._with_backend(check, fill=fill))
        except NotSupportedError as error:
            if self.complete:
                raise
            raise SkipTest(str(error)) from error

    test.__name__, test.__doc__ = check.__name__, check.__doc__
    return test


def _document_ids(rows: Iterable[JSONObject]) -> list[str]:
    return [str(row["run_id"]) for row in rows]


async def _ids(runs: AsyncIterator[RunSummary]) -> list[str]:
    return [run.run_id async for run in runs]


def _names(spans: Iterable[Span]) -> list[Any]:
    """Names of spans, each with those of its children."""
    return [(span.name, _names(span.children)) for span in spans]


class ReadingContract:
    """The tests. Override `new_backend`, and the flags where the driver needs it.

    Attributes:
        states_only: The driver keeps no runs, steps, spans, evaluations or system state.
        complete: Every method of the contract is there; else tests that miss one are skipped.
    """

    states_only = False
    complete = True

    async def new_backend(self) -> StateBackend:
        """Return a backend on a new, empty store."""
        raise NotImplementedError

    # --- filling

    @property
    def samples(self) -> list[Sample]:
        """The samples that this driver can keep, with what must come out of it."""
        made = samples(self._now)
        return [_by_state_alone(s) for s in made if s.state is not None] if self.states_only else made

    async def _with_backend(self, check: Check, *, fill: bool) -> None:
        self._now = datetime.now(UTC)
        async with await self.new_backend() as backend:
            if fill:
                await self._fill(backend)
            await check(self, backend)

    async def _fill(self, backend: StateBackend) -> None:
        for sample in self.samples:
            await self._write(backend, sample)
        if self.states_only:
            return
        for evaluation in EVALUATIONS:
            await backend.persist_evaluation(**evaluation)
        for key, value in SYSTEM:
            await backend.set_system_state(key, value)

    async def _write(self, backend: StateBackend, sample: Sample) -> None:
        if sample.run is not None and not self.states_only:
            await backend.save_run_start(sample.run)
            for step in sample.steps:
                await backend.save_step_result(step)
            if sample.spans:
                await backend.save_spans(sample.run_id, list(sample.spans))
            if sample.end is not None:
                await backend.save_run_end(sample.run_id, sample.end)
        if sample.state is not None:
            await backend.save_state(sample.run_id, sample.state)

    def _needs_history(self) -> None:
        if self.states_only:
            raise SkipTest("the driver keeps states alone")

    def _order(self, wanted: RunFilter | None = None) -> list[str]:
        """The ids of the samples that `wanted` admits, the newest start first."""
        runs = [RunSummary(**s.expected) for s in self.samples]
        admitted = [run for run in runs if wanted is None or matches(wanted, run)]
        return [run.run_id for run in sorted(admitted, key=sort_key, reverse=True)]

    # --- states

    @_on_samples
    async def test_a_state_comes_back_as_it_was_saved(self, backend: StateBackend) -> None:
        for sample in self.samples:
            loaded = await backend.load_state(sample.run_id)
            if sample.state is None:
                _equal(loaded, None, f"the state of {sample.run_id}")
            else:
                found = {name: (loaded or {}).get(name) for name in sample.state}
                _equal(found, sample.state, f"the state of {sample.run_id}")

    @_on_nothing
    async def test_a_state_takes_the_place_of_the_one_before(self, backend: StateBackend) -> None:
        first = next(s.state for s in self.samples if s.state is not None)
        await backend.save_state("r", {**first, "run_id": "r", "status": "running"})
        await backend.save_state("r", {**first, "run_id": "r", "status": "paused", "metadata": {"now": 1}})
        loaded = await backend.load_state("r") or {}
        _equal((loaded.get("status"), loaded.get("metadata")), ("paused", {"now": 1}), "the second state")
        _equal(await _ids(backend.iter_runs(RunFilter())), ["r"], "the runs")

    @_on_nothing
    async def test_what_is_saved_and_loaded_are_copies(self, backend: StateBackend) -> None:
        state = {**next(s.state for s in self.samples if s.state is not None), "metadata": {"tags": ["a"]}}
        await backend.save_state("order-1", state)
        state["metadata"]["tags"].append("b")
        for _ in range(2):
            loaded = await backend.load_state("order-1") or {}
            _equal(loaded.get("metadata"), {"tags": ["a"]}, "the metadata")
            loaded["metadata"]["tags"].append("c")

    @_on_samples
    async def test_an_unknown_run_is_none(self, backend: StateBackend) -> None:
        for run_id in ("order", "ORDER-1", "order-1%", "order-10", "", "../order-1"):
            _equal(await backend.load_state(run_id), None, f"load_state({run_id!r})")
            _equal(await backend.read_run(run_id), None, f"read_run({run_id!r})")
            _equal(await backend.get_run_details(run_id), None, f"get_run_details({run_id!r})")
            _equal(list(await backend.list_run_steps(run_id)), [], f"list_run_steps({run_id!r})")
            _equal(list(await backend.read_spans(run_id)), [], f"read_spans({run_id!r})")
            _equal(await backend.get_trace(run_id), None, f"get_trace({run_id!r})")

    @_on_samples
    async def test_states_are_listed_the_last_saved_first(self, backend: StateBackend) -> None:
        saved = [s for s in reversed(self.samples) if s.state is not None]
        _equal(_document_ids(await backend.list_states()), [s.run_id for s in saved], "list_states()")
        for status in ("running", "completed", "failed", "nobody has this"):
            wanted = [s.run_id for s in saved if s.state and s.state["status"] == status]
            _equal(_document_ids(await backend.list_states(status)), wanted, f"list_states({status!r})")

    @_on_nothing
    async def test_a_store_without_runs(self, backend: StateBackend) -> None:
        await backend.save_state("r", {"run_id": "r", "status": "running"})
        await backend.delete_state("r")
        await backend.delete_state("r")
        _equal(list(await backend.list_states()), [], "list_states()")
        _equal(await _ids(backend.iter_runs(RunFilter())), [], "iter_runs()")
        page = await backend.query_runs(RunFilter())
        _equal((page.items, page.next), ((), None), "query_runs()")
        _equal(await backend.count_runs(RunFilter()), 0, "count_runs()")
        stats = await backend.read_stats(RunFilter())
        _equal((stats.total, dict(stats.by_status), stats.failures), (0, {}, ()), "read_stats()")

    # --- lists of runs

    @_on_samples
    async def test_a_run_says_what_was_saved(self, backend: StateBackend) -> None:
        found = {run.run_id: run async for run in backend.iter_runs(RunFilter())}
        for sample in self.samples:
            run = found[sample.run_id]._asdict()
            told = {name: run[name] for name in sample.expected}
            _equal(told, sample.expected, f"the summary of {sample.run_id}")
            _equal(run["problems"], (), f"the problems of {sample.run_id}")

    @_on_samples
    async def test_every_run_is_listed_once_in_the_order_of_its_start(self, backend: StateBackend) -> None:
        ids = await _ids(backend.iter_runs(RunFilter()))
        _equal(ids, self._order(), "iter_runs()")
        backwards = await _ids(backend.iter_runs(RunFilter(), reverse=True))
        _equal(backwards, ids[::-1], "iter_runs(reverse=True)")

    @_on_samples
    async def test_a_filter_means_what_matches_says(self, backend: StateBackend) -> None:
        for wanted in FILTERS:
            expected = self._order(wanted)
            _equal(await _ids(backend.iter_runs(wanted)), expected, f"iter_runs({wanted})")
            backwards = await _ids(backend.iter_runs(wanted, reverse=True))
            _equal(backwards, expected[::-1], f"iter_runs({wanted}, reverse=True)")
            _equal(await backend.count_runs(wanted), len(expected), f"count_runs({wanted})")

    @_on_samples
    async def test_without_order_or_details_the_runs_are_the_same(self, backend: StateBackend) -> None:
        for wanted in FILTERS:
            expected = sorted(self._order(wanted))
            loose = await _ids(backend.iter_runs(wanted, ordered=False))
            _equal(sorted(loose), expected, f"iter_runs({wanted}, ordered=False)")
            light = await _ids(backend.iter_runs(wanted, ordered=False, details=False))
            _equal(sorted(light), expected, f"iter_runs({wanted}, ordered=False, details=False)")

    @_on_samples
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
            _equal(len(page.items) <= limit, True, f"{what} are no longer than the limit")
            after = page.next
            if after is None:
                break
            _equal(after, (page.items[-1].created_at, page.items[-1].run_id), f"{what}: next")
        _equal(found, expected, what)

    @_on_samples
    async def test_a_page_begins_behind_a_position_that_no_run_has(self, backend: StateBackend) -> None:
        newest_first = self._order()
        at = newest_first.index("same-a")
        for run_id, passed in (("same-a-and-more", at), ("same-", at + 2), ("zzz", at - 1), ("a", at + 2)):
            position = (BASE + 30 * _MINUTE, run_id)
            _equal(
                (await _ids(backend.iter_runs(RunFilter(), after=position)), run_id),
                (newest_first[passed:], run_id),
                f"iter_runs(after={position})",
            )
            before = newest_first[:passed][::-1]
            backwards = await _ids(backend.iter_runs(RunFilter(), after=position, reverse=True))
            _equal(backwards, before, f"iter_runs(after={position}, reverse=True)")

    @_on_samples
    async def test_other_calls_may_come_between(self, backend: StateBackend) -> None:
        ids = []
        async for run in backend.iter_runs(RunFilter()):
            detail = await backend.read_run(run.run_id)
            _equal(detail is not None, True, f"read_run({run.run_id!r}) within iter_runs()")
            ids.append(run.run_id)
        _equal(ids, self._order(), "iter_runs() with other calls between")

    @_on_samples
    async def test_calls_may_be_made_at_once(self, backend: StateBackend) -> None:
        lists = [_ids(backend.iter_runs(RunFilter())) for _ in range(5)]
        for ids in await asyncio.gather(*lists):
            _equal(ids, self._order(), "iter_runs(), five at once")
        details = await asyncio.gather(*(backend.read_run(run_id) for run_id in self._order()))
        _equal([d.run.run_id for d in details if d], self._order(), "read_run(), all at once")

    @_on_samples
    async def test_an_iteration_may_be_left(self, backend: StateBackend) -> None:
        for _ in range(3):
            async for run in backend.iter_runs(RunFilter()):
                _equal(run.run_id, self._order()[0], "the first of iter_runs()")
                break
            _equal(await backend.count_runs(RunFilter()), len(self.samples), "count_runs()")

    @_on_samples
    async def test_ids_are_found_by_their_beginning(self, backend: StateBackend) -> None:
        ids = sorted(self._order())
        for prefix in ("order-", "order-1", "same-", "weird id/with %", "we%", "nobody", "ORDER-", ids[0]):
            wanted = [run_id for run_id in ids if run_id.startswith(prefix)]
            _equal(list(await backend.find_run_ids(prefix)), wanted, f"find_run_ids({prefix!r})")
            _equal(list(await backend.find_run_ids(prefix, 1)), wanted[:1], f"find_run_ids({prefix!r}, 1)")

    # --- one run

    @_on_samples
    async def test_one_run_is_told_as_in_the_list(self, backend: StateBackend) -> None:
        async for run in backend.iter_runs(RunFilter()):
            detail = await backend.read_run(run.run_id)
            assert detail is not None
            plain = run._replace(tasks={})
            _equal(detail.run._replace(tasks={}), plain, f"read_run({run.run_id!r}).run")
            pause = (detail.pause.step, detail.pause.message) if detail.pause else (None, None)
            told = (run.step_name, run.pause_message) if run.status == "paused" else (None, None)
            _equal(pause, told, f"read_run({run.run_id!r}).pause")

    @_on_samples
    async def test_steps_are_told_with_what_they_cost(self, backend: StateBackend) -> None:
        for sample in self.samples:
            detail = await backend.read_run(sample.run_id)
            assert detail is not None
            entries = sample.state["step_history"] if sample.state else []
            told = [(s.step_index, s.step_name, s.status, s.output, s.error) for s in detail.steps]
            wanted = [
                (at, e["name"], "completed" if e["success"] else "failed", e["output"], e["feedback"])
                for at, e in enumerate(entries)
            ]
            _equal(told, wanted, f"the steps of {sample.run_id}")
            figures = [(s.attempts, s.cost_usd, s.token_counts, s.duration_ms) for s in detail.steps]
            wanted_figures = [(e["attempts"], e["cost_usd"], e["token_counts"], e["latency_s"] * 1000) for e in entries]
            _equal(figures, wanted_figures, f"the steps of {sample.run_id}: attempts, cost, tokens, time")

    @_on_samples
    async def test_a_run_names_its_tasks(self, backend: StateBackend) -> None:
        await backend.list_background_tasks("order-1")
        detail = await backend.read_run("order-1")
        assert detail is not None
        _equal([c.run_id for c in detail.children], ["order-1_bg_1", "order-1_bg_2"], "the children, oldest first")
        _equal([c.status for c in detail.children], ["completed", "failed"], "their status")
        alone = await backend.read_run("order-2")
        _equal(alone.children if alone else None, (), "the children of a run without any")

    @_on_samples
    async def test_a_run_has_its_state_and_its_output(self, backend: StateBackend) -> None:
        detail = await backend.read_run("order-1")
        assert detail is not None
        _equal(detail.final_output, {"total": 9.5, "text": "漢字 <b>[/x]"}, "the final output")
        _equal((detail.state or {}).get("metadata"), detail.run.metadata, "the metadata")
        _equal(detail.state, await backend.load_state("order-1"), "the state")

    # --- spans

    @_on_samples
    async def test_spans_are_trees(self, backend: StateBackend) -> None:
        self._needs_history()
        roots = list(await backend.read_spans("order-1"))
        wanted: list[Any] = [("pipeline_run", [("load", []), ("pack", [("call", [])]), ("wait", [])])]
        _equal(_names(roots), wanted, "read_spans()")
        load, pack, wait = roots[0].children
        _equal((load.start_offset_ms, load.duration_ms), (250.0, 250.0), "offset and length of a span")
        _equal(load.started_at, BASE + timedelta(milliseconds=250), "its wall time")
        _equal((wait.duration_ms, wait.status), (None, "running"), "length and status of an open span")
        _equal(dict(load.attributes), {"step_input": "into load", "n": 1}, "the attributes of a span")
        _equal((pack.children[0].status, pack.children[0].start_offset_ms), ("failed", 1000.0), "a span below")
        _equal(list(await backend.read_spans("pay-1")), [], "read_spans() of a run without any")

    @_on_samples
    async def test_spans_are_listed_in_the_order_of_their_start(self, backend: StateBackend) -> None:
        self._needs_history()
        saved = list(next(s.spans for s in self.samples if s.run_id == "order-1"))
        found = await backend.get_spans("order-1")
        _equal([{name: row[name] for name in saved[0]} for row in found], saved, "get_spans()")
        failed = await backend.get_spans("order-1", status="failed")
        _equal([row["name"] for row in failed], ["call"], 'get_spans(status="failed")')
        named = await backend.get_spans("order-1", name="load")
        _equal([row["name"] for row in named], ["load"], 'get_spans(name="load")')
        _equal(await backend.get_spans("order-1", status="failed", name="load"), [], "get_spans() of nothing")

    @_on_samples
    async def test_a_trace_is_a_tree_of_dicts(self, backend: StateBackend) -> None:
        self._needs_history()
        tree = await backend.get_trace("order-1")
        _equal((tree["name"], [c["name"] for c in tree["children"]]), ("pipeline_run", ["load", "pack", "wait"]), "it")
        _equal([c["name"] for c in tree["children"][1]["children"]], ["call"], "a level below")
        _equal(await backend.get_trace("pay-1"), None, "get_trace() of a run without spans")

    @_on_samples
    async def test_spans_are_counted_by_name(self, backend: StateBackend) -> None:
        self._needs_history()
        both = {stats.name: (stats.count, stats.failed) for stats in await backend.read_span_stats(RunFilter())}
        wanted = {"pipeline_run": (2, 0), "load": (2, 0), "pack": (2, 0), "call": (2, 2), "wait": (2, 0)}
        _equal(both, wanted, "read_span_stats()")
        one = await backend.read_span_stats(RunFilter(version="2.0"))
        _equal({stats.name: stats.count for stats in one}, dict.fromkeys(wanted, 1), "read_span_stats() of one run")
        lengths = next(stats.duration_ms for stats in one if stats.name == "load")
        _near(lengths.avg, 250.0, "the average length of a span")
        _near(lengths.p95, 250.0, "the 95th percentile")
        _equal(await backend.read_span_stats(RunFilter(version="9")), (), "read_span_stats() of nothing")

    @_on_samples
    async def test_span_statistics(self, backend: StateBackend) -> None:
        self._needs_history()
        found = await backend.get_span_statistics()
        _equal((found["total_spans"], found["by_name"]["call"]["failed"]), (10, 2), "get_span_statistics()")
        none = await backend.get_span_statistics(pipeline_name="payments")
        _equal(none["total_spans"], 0, "get_span_statistics() of a pipeline without spans")
        window = (BASE.timestamp(), (BASE + 10 * _MINUTE).timestamp())
        first = await backend.get_span_statistics(pipeline_name="orders", time_range=window)
        _equal(first["total_spans"], 5, "get_span_statistics() of a time")

    # --- figures

    @_on_samples
    async def test_stats_count_what_the_list_shows(self, backend: StateBackend) -> None:
        for wanted in FILTERS:
            runs = [run async for run in backend.iter_runs(wanted)]
            stats = await backend.read_stats(wanted)
            _equal(stats.total, len(runs), f"read_stats({wanted}).total")
            _equal(dict(stats.by_status), _counted(run.status for run in runs), f"by_status of {wanted}")
            by_name = {p.pipeline_name: (p.total, dict(p.by_status)) for p in stats.by_pipeline}
            _equal(by_name, _by_pipeline(runs), f"by_pipeline of {wanted}")
            failed = [run for run in runs if run.status == "failed"]
            _equal(sum(group.count for group in stats.failures), len(failed), f"failures of {wanted}")

    @_on_samples
    async def test_failures_are_grouped_by_their_normalised_error(self, backend: StateBackend) -> None:
        stats = await backend.read_stats(RunFilter(statuses=frozenset({"failed"}), pipeline="payments"))
        (group,) = stats.failures
        told = (group.error, group.count, group.step_name, group.sample_run_id)
        _equal(told, ("ValueError: card # declined", 1, "charge", "pay-1"), "the group")
        updated = next(s.expected["updated_at"] for s in self.samples if s.run_id == "pay-1")
        _equal((group.first_at, group.last_at), (updated, updated), "its times")

    @_on_samples
    async def test_durations_are_right_to_two_percent(self, backend: StateBackend) -> None:
        self._needs_history()
        stats = await backend.read_stats(RunFilter(pipeline="orders", statuses=frozenset({"completed"})))
        lengths = stats.by_pipeline[0].duration_ms
        _near(lengths.avg, (2500.0 + 3000.0 + 4000.0) / 3, "the average")
        _near(lengths.p50, 3000.0, "the median")
        _near(lengths.p99, 4000.0, "the 99th percentile")

    @_on_samples
    async def test_workflow_stats(self, backend: StateBackend) -> None:
        found = await backend.get_workflow_stats()
        runs = [run async for run in backend.iter_runs(RunFilter())]
        _equal(found["total_workflows"], len(runs), "total_workflows")
        _equal(found["status_counts"], _counted(run.status for run in runs), "status_counts")

    # --- what applications list

    @_on_samples
    async def test_runs_are_listed_as_dicts(self, backend: StateBackend) -> None:
        order = self._order()
        _equal(_document_ids(await backend.list_runs()), order, "list_runs()")
        _equal(_document_ids(await backend.list_runs(limit=3)), order[:3], "list_runs(limit=3)")
        _equal(_document_ids(await backend.list_runs(limit=3, offset=2)), order[2:5], "limit and offset")
        _equal(_document_ids(await backend.list_runs(offset=len(order))), [], "an offset past the end")
        paused = self._order(RunFilter(statuses=frozenset({"paused"})))
        _equal(_document_ids(await backend.list_runs(status="paused")), paused, 'list_runs(status="paused")')
        odd = self._order(RunFilter(pipeline="odd"))
        _equal(_document_ids(await backend.list_runs(pipeline_name="odd")), odd, 'list_runs(pipeline_name="odd")')
        one = await backend.list_runs(metadata_filter={"customer": "4711", "vip": True})
        _equal(_document_ids(one), ["order-1"], "list_runs(metadata_filter=...)")

    @_on_samples
    async def test_workflows_are_listed_as_dicts(self, backend: StateBackend) -> None:
        order = self._order()
        found = await backend.list_workflows()
        _equal(_document_ids(found), order, "list_workflows()")
        _equal(_document_ids(await backend.list_workflows(limit=2, offset=1)), order[1:3], "limit and offset")
        failed = self._order(RunFilter(statuses=frozenset({"failed"})))
        _equal(_document_ids(await backend.list_workflows(status="failed")), failed, 'status="failed"')

    @_on_samples
    async def test_the_details_of_a_run(self, backend: StateBackend) -> None:
        for sample in self.samples:
            found = await backend.get_run_details(sample.run_id) or {}
            names = ("run_id", "pipeline_name", "pipeline_version", "status")
            told = {name: found.get(name) for name in names}
            _equal(told, {name: sample.expected[name] for name in names}, f"get_run_details({sample.run_id!r})")

    @_on_samples
    async def test_the_steps_of_a_run_are_listed_by_index(self, backend: StateBackend) -> None:
        found = await backend.list_run_steps("order-1")
        told = [(row["step_index"], row["step_name"], row["status"]) for row in found]
        _equal(told, [(0, "load", "completed"), (1, "pack", "completed"), (2, "price", "completed")], "the steps")

    @_on_samples
    async def test_failed_workflows(self, backend: StateBackend) -> None:
        lately = await backend.get_failed_workflows(hours_back=24)
        _equal(_document_ids(lately), ["order-1_bg_2", "pay-1"], "get_failed_workflows(24)")
        _equal([row["error_message"] for row in lately][1], "ValueError: card 4711 declined", "the error")
        _equal(_document_ids(await backend.get_failed_workflows(hours_back=0)), [], "get_failed_workflows(0)")

    @_on_samples
    async def test_background_tasks(self, backend: StateBackend) -> None:
        both = ["order-1_bg_2", "order-1_bg_1"]
        _equal(_document_ids(await backend.list_background_tasks()), both, "list_background_tasks()")
        _equal(_document_ids(await backend.list_background_tasks("order-1")), both, "of their parent")
        _equal(_document_ids(await backend.list_background_tasks("order-2")), [], "of another")
        _equal(_document_ids(await backend.list_background_tasks(status="completed")), both[1:], "by status")
        _equal(_document_ids(await backend.list_background_tasks(limit=1, offset=1)), both[1:], "limit and offset")
        failed = await backend.get_failed_background_tasks(hours_back=1)
        _equal(_document_ids(failed), both[:1], "get_failed_background_tasks()")
        _equal(failed[0]["background_error"], "smtp: connection refused", "its error")
        _equal(await backend.get_failed_background_tasks("order-2"), [], "get_failed_background_tasks(parent)")

    # --- evaluations, system state

    @_on_samples
    async def test_evaluations_come_newest_first(self, backend: StateBackend) -> None:
        self._needs_history()
        found = await backend.read_evaluations()
        fields = ("run_id", "score", "feedback", "step_name", "metadata")
        told = [{name: getattr(row, name) for name in fields} for row in found]
        _equal(told, list(EVALUATIONS[::-1]), "read_evaluations()")
        _equal(all(row.created_at is not None for row in found), True, "each has a time")
        of_one = [row.score for row in await backend.read_evaluations("order-1")]
        _equal(of_one, [0.5, 0.25], 'read_evaluations("order-1")')
        _equal([row.score for row in await backend.read_evaluations(limit=1)], [0.5], "the limit")
        listed = await backend.list_evaluations(limit=2)
        _equal([{name: row[name] for name in fields} for row in listed], list(EVALUATIONS[:0:-1]), "list_evaluations()")
        _equal([row["score"] for row in await backend.list_evaluations(run_id="order-2")], [1.0], "of one run")

    @_on_samples
    async def test_system_state(self, backend: StateBackend) -> None:
        self._needs_history()
        await backend.set_system_state("lease", {"owner": "me"})
        entries = await backend.read_system_state()
        _equal([(e.key, e.value) for e in entries], [("lease", {"owner": "me"}), SYSTEM[0]], "read_system_state()")
        _equal(all(e.updated_at is not None for e in entries), True, "each has a time")
        found = await backend.get_system_state("watermark:crm") or {}
        _equal((found.get("key"), found.get("value")), SYSTEM[0], "get_system_state()")
        _equal(await backend.get_system_state("watermark"), None, "get_system_state() of no key")

    # --- the end

    @_on_samples
    async def test_shutdown_may_be_called_twice(self, backend: StateBackend) -> None:
        await backend.shutdown()
        await backend.shutdown()


def _near(found: float | None, wanted: float, what: str) -> None:
    if found is None or abs(found - wanted) > 0.02 * wanted:
        raise AssertionError(f"{what} is {found!r}, should be {wanted!r} to 2 %")


def _counted(values: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return counts


def _by_pipeline(runs: Sequence[RunSummary]) -> dict[str, tuple[int, dict[str, int]]]:
    names = {run.pipeline_name for run in runs}
    of = {name: [run.status for run in runs if run.pipeline_name == name] for name in names}
    return {name: (len(statuses), _counted(statuses)) for name, statuses in of.items()}


def _by_state_alone(sample: Sample) -> Sample:
    """The sample as a driver without history has to tell it."""
    assert sample.state is not None
    known = {name: value for name, value in sample.expected.items() if name != "duration_ms"}
    updated = datetime.fromisoformat(sample.state["updated_at"])
    return sample._replace(expected={**known, "status": sample.state["status"], "updated_at": updated})
