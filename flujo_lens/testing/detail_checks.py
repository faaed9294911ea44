"""One run: its steps, its tasks, its spans."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.views import RunFilter
from flujo_lens.testing.harness import Harness, equal, names_of, near, on_sample_history, on_samples, with_texts
from flujo_lens.testing.samples import BASE, MINUTE


class DetailChecks(Harness):
    """What `read_run`, `read_spans` and their like give."""

    # --- one run

    @on_samples
    async def test_one_run_is_as_in_the_list(self, backend: StateBackend) -> None:
        async for run in backend.iter_runs(RunFilter()):
            detail = await backend.read_run(run.run_id)
            assert detail is not None
            plain = run._replace(tasks={})
            equal(detail.run._replace(tasks={}), plain, f"read_run({run.run_id!r}).run")
            pause = (detail.pause.step, detail.pause.message) if detail.pause else (None, None)
            actual = (run.step_name, run.pause_message) if run.status == "paused" else (None, None)
            equal(pause, actual, f"read_run({run.run_id!r}).pause")

    @on_samples
    async def test_steps_have_costs(self, backend: StateBackend) -> None:
        for sample in self.samples:
            detail = await backend.read_run(sample.run_id)
            assert detail is not None
            entries = sample.state["step_history"] if sample.state else []
            actual = [(s.step_index, s.step_name, s.status, s.output, s.error) for s in detail.steps]
            wanted = [
                (at, e["name"], "completed" if e["success"] else "failed", e["output"], e["feedback"])
                for at, e in enumerate(entries)
            ]
            equal(actual, wanted, f"the steps of {sample.run_id}")
            figures = [(s.attempts, s.cost_usd, s.token_counts, s.duration_ms) for s in detail.steps]
            wanted_figures = [(e["attempts"], e["cost_usd"], e["token_counts"], e["latency_s"] * 1000) for e in entries]
            equal(figures, wanted_figures, f"the steps of {sample.run_id}: attempts, cost, tokens, time")

    @on_sample_history
    async def test_steps_have_the_inputs_of_their_spans(self, backend: StateBackend) -> None:
        detail = await backend.read_run("order-1")
        assert detail is not None
        names = {span.name for root in await backend.read_spans("order-1") for span in root.children}
        actual = [(step.step_name, step.input) for step in detail.steps if step.step_name in names]
        wanted = [(name, f"into {name}") for name in ("load", "pack")]
        equal(actual, wanted, "steps that have a span, and their inputs")

    @on_samples
    async def test_a_run_names_its_tasks(self, backend: StateBackend) -> None:
        await backend.list_background_tasks("order-1")
        detail = await backend.read_run("order-1")
        assert detail is not None
        equal([c.run_id for c in detail.children], ["order-1_bg_1", "order-1_bg_2"], "the children, oldest first")
        equal([c.status for c in detail.children], ["completed", "failed"], "their status")
        alone = await backend.read_run("order-2")
        equal(alone.children if alone else None, (), "the children of a run without any")

    @on_samples
    async def test_a_run_has_its_state_and_its_output(self, backend: StateBackend) -> None:
        detail = await backend.read_run("order-1")
        assert detail is not None
        equal(detail.final_output, {"total": 9.5, "text": "漢字 <b>[/x]"}, "the final output")
        equal((detail.state or {}).get("metadata"), detail.run.metadata, "the metadata")
        equal(with_texts(detail.state), with_texts(await backend.load_state("order-1")), "the state")

    # --- spans

    @on_sample_history
    async def test_spans_are_trees(self, backend: StateBackend) -> None:
        roots = list(await backend.read_spans("order-1"))
        wanted: list[Any] = [("pipeline_run", [("load", []), ("pack", [("call", [])]), ("wait", [])])]
        equal(names_of(roots), wanted, "read_spans()")
        load, pack, wait = roots[0].children
        equal((load.start_offset_ms, load.duration_ms), (250.0, 250.0), "offset and length of a span")
        equal(load.started_at, BASE + timedelta(milliseconds=250), "its wall time")
        equal((wait.duration_ms, wait.status), (None, "running"), "length and status of an open span")
        equal(dict(load.attributes), {"step_input": "into load", "n": 1}, "the attributes of a span")
        equal((pack.children[0].status, pack.children[0].start_offset_ms), ("failed", 1000.0), "a span below")
        equal(list(await backend.read_spans("pay-1")), [], "read_spans() of a run without any")

    @on_sample_history
    async def test_spans_are_listed_in_the_order_of_their_start(self, backend: StateBackend) -> None:
        saved = list(next(s.spans for s in self.samples if s.run_id == "order-1"))
        found = await backend.get_spans("order-1")
        equal([{name: row[name] for name in saved[0]} for row in found], saved, "get_spans()")
        failed = await backend.get_spans("order-1", status="failed")
        equal([row["name"] for row in failed], ["call"], 'get_spans(status="failed")')
        named = await backend.get_spans("order-1", name="load")
        equal([row["name"] for row in named], ["load"], 'get_spans(name="load")')
        equal(await backend.get_spans("order-1", status="failed", name="load"), [], "get_spans() of nothing")

    @on_sample_history
    async def test_a_trace_is_a_tree_of_dicts(self, backend: StateBackend) -> None:
        tree = await backend.get_trace("order-1")
        equal((tree["name"], [c["name"] for c in tree["children"]]), ("pipeline_run", ["load", "pack", "wait"]), "it")
        equal([c["name"] for c in tree["children"][1]["children"]], ["call"], "a level below")
        equal(await backend.get_trace("pay-1"), None, "get_trace() of a run without spans")

    @on_sample_history
    async def test_spans_are_counted_by_name(self, backend: StateBackend) -> None:
        both = {stats.name: (stats.count, stats.failed) for stats in await backend.read_span_stats(RunFilter())}
        wanted = {"pipeline_run": (2, 0), "load": (2, 0), "pack": (2, 0), "call": (2, 2), "wait": (2, 0)}
        equal(both, wanted, "read_span_stats()")
        one = await backend.read_span_stats(RunFilter(version="2.0"))
        equal({stats.name: stats.count for stats in one}, dict.fromkeys(wanted, 1), "read_span_stats() of one run")
        lengths = next(stats.duration_ms for stats in one if stats.name == "load")
        near(lengths.avg, 250.0, "the average length of a span")
        near(lengths.p95, 250.0, "the 95th percentile")
        equal(await backend.read_span_stats(RunFilter(version="9")), (), "read_span_stats() of nothing")

    @on_sample_history
    async def test_span_statistics(self, backend: StateBackend) -> None:
        found = await backend.get_span_statistics()
        names = dict.fromkeys(("pipeline_run", "load", "pack", "call"), 2)
        equal((found["total_spans"], found["by_name"]), (8, names), "the spans that ended")
        equal(found["by_status"], {"completed": 6, "failed": 2}, "their by_status")
        equal((found["open_spans"], found["failed_by_name"]), (2, {"call": 2}), "open and failed spans")
        lengths = found["avg_duration_by_name"]
        equal(sorted(lengths), ["call", "load", "pack", "pipeline_run"], "the names with a duration")
        equal(lengths["load"], {"total": 0.5, "count": 2, "average": 0.25}, "the durations of one, in seconds")
        near(found["duration_ms_by_name"]["load"]["p50"], 250.0, "its median, in milliseconds")
        none = await backend.get_span_statistics(pipeline_name="payments")
        equal(none["total_spans"], 0, "get_span_statistics() of a pipeline without spans")
        window = (BASE.timestamp(), (BASE + 10 * MINUTE).timestamp())
        first = await backend.get_span_statistics(pipeline_name="orders", time_range=window)
        equal(first["total_spans"], 4, "get_span_statistics() of a time")
