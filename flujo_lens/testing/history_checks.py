"""History: runs, steps, spans, traces, evaluations, system state, in the words of all versions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.views import RunFilter
from flujo_lens.testing.harness import Harness, document_ids, equal, ids_of, instant, on_history, refuses
from flujo_lens.testing.samples import BASE, JSONObject, plain_state

_LATER = BASE + timedelta(seconds=5)

_TRACE: JSONObject = {
    "span_id": "root",
    "name": "pipeline_run",
    "start_time": 100.0,
    "end_time": 102.0,
    "status": "completed",
    "attributes": {"flujo.input": "x", "n": [1, {"deep": None}]},
    "children": [
        {"span_id": "b", "name": "second", "start_time": 101.0, "end_time": None, "status": "running"},
        {
            "span_id": "a",
            "name": "first",
            "start_time": 100.5,
            "end_time": 101.0,
            "status": "failed",
            "attributes": {},
            "children": [{"span_id": "c", "name": "inner", "start_time": 100.5, "end_time": 100.75}],
        },
    ],
}


def _node(row: JSONObject, parent: str | None, status: str, *children: JSONObject) -> JSONObject:
    times = {"start_time": row["start_time"], "end_time": row["end_time"]}
    named = {"span_id": row["span_id"], "parent_span_id": parent, "name": row["name"], "status": status}
    return {**named, **times, "attributes": row.get("attributes", {}), "children": list(children)}


def _trace_document() -> JSONObject:
    """`_TRACE` as `get_trace` tells it: every key is there, children in the order of their start."""
    second, first = _TRACE["children"]
    inner = _node(first["children"][0], "a", "running")
    children = (_node(first, "root", "failed", inner), _node(second, "root", "running"))
    return _node(_TRACE, None, "completed", *children)


def _span(span_id: str, name: str = "step", **more: Any) -> JSONObject:
    plain: JSONObject = {
        "parent_span_id": None,
        "start_time": 1.0,
        "end_time": 2.0,
        "status": "completed",
        "attributes": {},
    }
    return {"span_id": span_id, "name": name, **plain, **more}


class HistoryChecks(Harness):
    """What the writing methods of history take, and what the application's reading methods make of it."""

    # --- runs

    @on_history
    async def test_a_run_in_the_words_of_the_newer_version(self, backend: StateBackend) -> None:
        start = {"run_id": "r", "pipeline_id": "p-1", "pipeline_name": "p", "pipeline_version": "2"}
        await backend.save_run_start({**start, "created_at": BASE.isoformat(), "updated_at": BASE.isoformat()})
        equal((await backend.get_run_details("r") or {})["status"], "running", "the status of a run that started")
        end = {"status": "failed", "error_message": "boom", "total_steps": 3, "execution_time_ms": 1500}
        await backend.save_run_end("r", {**end, "updated_at": _LATER.isoformat()})
        found = await backend.get_run_details("r") or {}
        equal({name: found[name] for name in {**start, **end}}, {**start, **end}, "get_run_details()")
        times = [instant(found[name]) for name in ("created_at", "start_time", "updated_at", "end_time")]
        equal(times, [BASE, BASE, _LATER, _LATER], "its times")

    @on_history
    async def test_a_run_in_the_words_of_the_older_version(self, backend: StateBackend) -> None:
        start = {"run_id": "r", "pipeline_name": "p", "pipeline_version": "2", "status": "running"}
        await backend.save_run_start({**start, "start_time": BASE.replace(tzinfo=None)})
        context = {"done": [1, 2], "at": BASE}
        end = {"end_time": _LATER, "total_cost": 0.25, "final_context": context}
        await backend.save_run_end("r", {"status": "completed", **end})
        found = await backend.get_run_details("r") or {}
        actual = (found["pipeline_name"], found["status"], found["total_cost"], found["final_context"])
        equal(actual, ("p", "completed", 0.25, {"done": [1, 2], "at": BASE.isoformat()}), "get_run_details()")
        times = [instant(found[name]) for name in ("created_at", "start_time", "end_time")]
        equal(times, [BASE, BASE, _LATER], "its times")
        (listed,) = await backend.list_runs(pipeline_name="p")
        equal((listed["total_cost"], listed["execution_time_ms"]), (0.25, 5000.0), "list_runs()")

    @on_history
    async def test_a_run_that_ends_is_completed_unless_another_status_is_given(self, backend: StateBackend) -> None:
        before = datetime.now(UTC)
        for run_id, end in (("a", {}), ("b", {"status": "cancelled"})):
            await backend.save_run_start({"run_id": run_id})
            await backend.save_run_end(run_id, end)
        runs = {run.run_id: run async for run in backend.iter_runs(RunFilter())}
        equal({name: run.status for name, run in runs.items()}, {"a": "completed", "b": "cancelled"}, "statuses")
        started = [run.created_at for run in runs.values()]
        ended = [run.updated_at for run in runs.values()]
        inside = [before <= when <= datetime.now(UTC) for when in started + ended if when]
        equal(inside, [True] * 4, "times that were not given are the present")

    @on_history
    async def test_a_run_that_starts_again_keeps_its_steps(self, backend: StateBackend) -> None:
        for version in ("1", "2"):
            await backend.save_run_start({"run_id": "r", "pipeline_name": "p", "pipeline_version": version})
            await backend.save_step_result({"run_id": "r", "step_name": version, "step_index": int(version)})
            await backend.save_spans("r", [_span(version)])
        equal([row["pipeline_version"] for row in await backend.list_runs()], ["2"], "list_runs()")
        equal([row["step_name"] for row in await backend.list_run_steps("r")], ["1", "2"], "the steps")
        equal([row["span_id"] for row in await backend.get_spans("r")], ["1", "2"], "the spans")

    @on_history
    async def test_the_end_of_a_run_that_never_started_is_no_error(self, backend: StateBackend) -> None:
        await backend.save_run_end("r", {"status": "completed"})

    @on_history
    async def test_a_run_without_an_id_is_refused(self, backend: StateBackend) -> None:
        await backend.save_run_start({"run_id": "r"})
        for work in (backend.save_run_start, backend.save_step_result):
            await refuses(work({"pipeline_name": "p", "step_name": "s", "step_index": 0}), ValueError, work.__name__)
            await refuses(work({"run_id": 7, "step_name": "s", "step_index": 0}), TypeError, work.__name__)
        equal(await ids_of(backend.iter_runs(RunFilter())), ["r"], "the runs")

    @on_history
    async def test_a_pipeline_is_found_by_its_id_or_its_name(self, backend: StateBackend) -> None:
        for run_id, pipeline_id, name in (("a", "p-1", "orders"), ("b", "p-2", "orders"), ("c", "p-3", "other")):
            await backend.save_run_start({"run_id": run_id, "pipeline_id": pipeline_id, "pipeline_name": name})
            await backend.save_state(run_id, plain_state(run_id, pipeline_id=pipeline_id, pipeline_name=name))
        equal(document_ids(await backend.list_workflows(pipeline_id="p-2")), ["b"], "by its id")
        equal(sorted(document_ids(await backend.list_workflows(pipeline_id="orders"))), ["a", "b"], "by its name")
        equal(await backend.list_workflows(pipeline_id="p"), [], "by neither")

    # --- steps

    @on_history
    async def test_steps_in_the_words_of_both_versions(self, backend: StateBackend) -> None:
        await backend.save_run_start({"run_id": "r", "created_at": BASE.isoformat()})
        when = {"start_time": BASE, "end_time": _LATER}
        old = {"duration_ms": 5000, "cost": 0.5, "tokens": 7, "input": {"q": 1}, "step_run_id": "r:1", **when}
        new = {"execution_time_ms": 5000, "cost_usd": 0.5, "token_counts": 7, "created_at": _LATER.isoformat()}
        shared = {"run_id": "r", "status": "completed", "output": {"a": [BASE]}, "raw_response": {"raw": "x"}}
        await backend.save_step_result({**shared, "step_name": "new", "step_index": 1, **new})
        await backend.save_step_result({**shared, "step_name": "old", "step_index": 0, **old})
        first, second = await backend.list_run_steps("r")
        equal((first["step_name"], second["step_name"]), ("old", "new"), "steps by index")
        figures = {"execution_time_ms": 5000, "duration_ms": 5000, "cost_usd": 0.5, "cost": 0.5}
        wanted = {**figures, "token_counts": 7, "tokens": 7, "output": {"a": [BASE.isoformat()]}}
        for row in (first, second):
            equal({name: row[name] for name in wanted}, wanted, f"the step {row['step_name']}")
            equal(row["raw_response"], {"raw": "x"}, "its raw response")
            equal([instant(row[name]) for name in ("start_time", "created_at")], [BASE, _LATER], "its times")
        end = first["end_time"] and instant(first["end_time"])
        equal((end in (None, _LATER), second["end_time"]), (True, None), "the ends: as saved, or not kept")
        equal((first["input"], second["input"]), ({"q": 1}, None), "their inputs")

    @on_history
    async def test_a_step_that_failed_says_why(self, backend: StateBackend) -> None:
        await backend.save_run_start({"run_id": "r"})
        row = {"run_id": "r", "step_name": "charge", "step_index": 0, "status": "failed", "error": "card declined"}
        await backend.save_step_result(row)
        await backend.save_run_end("r", {"status": "failed"})
        (step,) = await backend.list_run_steps("r")
        equal((step["status"], step["error"]), ("failed", "card declined"), "the step")
        details = await backend.get_run_details("r") or {}
        equal(details["error_message"], "card declined", "the run's error")

    @on_history
    async def test_of_a_step_that_was_run_again_the_last_counts(self, backend: StateBackend) -> None:
        await backend.save_run_start({"run_id": "r"})
        for output in ("first", "second"):
            await backend.save_step_result({"run_id": "r", "step_name": "s", "step_index": 0, "output": output})
        equal([row["output"] for row in await backend.list_run_steps("r")], ["second"], "the steps")

    @on_history
    async def test_what_belongs_to_an_unknown_run_is_kept(self, backend: StateBackend) -> None:
        await backend.save_step_result({"run_id": "steps", "step_name": "s", "step_index": 0, "output": 1})
        await backend.save_spans("spans", [_span("s1")])
        await backend.save_trace("trace", _TRACE)
        await backend.persist_evaluation("evaluation", 0.5)
        equal([row["output"] for row in await backend.list_run_steps("steps")], [1], "the steps")
        equal([row["span_id"] for row in await backend.get_spans("spans")], ["s1"], "the spans")
        equal((await backend.get_trace("trace"))["name"], "pipeline_run", "the trace")
        equal([row["score"] for row in await backend.list_evaluations(run_id="evaluation")], [0.5], "the evaluations")

    # --- spans, traces

    @on_history
    async def test_a_span_takes_the_place_of_the_one_with_its_id(self, backend: StateBackend) -> None:
        await backend.save_run_start({"run_id": "r"})
        await backend.save_run_start({"run_id": "other"})
        await backend.save_spans("other", [_span("other:a")])
        await backend.save_spans("r", [_span("a", status="running", end_time=None), _span("b", start_time=5.0)])
        await backend.save_spans("r", [_span("a", attributes={"n": 1}), _span("c", start_time=3.0)])
        await backend.save_spans("r", [])
        found = await backend.get_spans("r")
        actual = [(row["span_id"], row["status"], row["end_time"], row["attributes"]) for row in found]
        wanted: list[Any] = [
            ("a", "completed", 2.0, {"n": 1}),
            ("c", "completed", 2.0, {}),
            ("b", "completed", 2.0, {}),
        ]
        equal(actual, wanted, "get_spans()")
        equal([row["span_id"] for row in await backend.get_spans("other")], ["other:a"], "those of another run")

    @on_history
    async def test_a_span_may_lack_all_but_its_id(self, backend: StateBackend) -> None:
        await backend.save_run_start({"run_id": "r"})
        await backend.save_spans("r", [{"span_id": "a", "attributes": None}, {"name": "no id"}])
        found = [(row["span_id"], row["status"], row["attributes"]) for row in await backend.get_spans("r")]
        equal(found, [("a", "running", {})], "get_spans()")

    @on_history
    async def test_a_trace_comes_back_as_a_tree(self, backend: StateBackend) -> None:
        await backend.save_run_start({"run_id": "r"})
        await backend.save_trace("r", _TRACE)
        equal(await backend.get_trace("r"), _trace_document(), "get_trace()")
        equal([row["span_id"] for row in await backend.get_spans("r", status="failed")], ["a"], "get_spans()")
        await backend.save_trace("r", await backend.get_trace("r"))
        equal(await backend.get_trace("r"), _trace_document(), "get_trace() of what get_trace() gave")

    @on_history
    async def test_a_trace_takes_the_place_of_all_spans(self, backend: StateBackend) -> None:
        await backend.save_run_start({"run_id": "r"})
        await backend.save_spans("r", [_span("old")])
        await backend.save_trace("r", _TRACE)
        equal(sorted(row["span_id"] for row in await backend.get_spans("r")), ["a", "b", "c", "root"], "get_spans()")
        await backend.save_trace("r", {})
        equal((await backend.get_spans("r"), await backend.get_trace("r")), ([], None), "after an empty trace")

    @on_history
    async def test_a_deep_trace(self, backend: StateBackend) -> None:
        await backend.save_run_start({"run_id": "r"})
        tree: JSONObject = {"span_id": "2999", "name": "leaf", "start_time": 2999.0}
        for at in range(2998, -1, -1):
            tree = {"span_id": str(at), "name": "n", "start_time": float(at), "children": [tree]}
        await backend.save_trace("r", tree)
        found, ids = await backend.get_trace("r"), []
        while found:
            ids.append(found["span_id"])
            found = found["children"][0] if found["children"] else None
        equal(ids, [str(at) for at in range(3000)], "the spans from the root down")

    # --- evaluations, system state

    @on_history
    async def test_many_evaluations_come_newest_first(self, backend: StateBackend) -> None:
        await backend.save_run_start({"run_id": "r"})
        for at in range(30):
            await backend.persist_evaluation("r", at / 100, f"no {at}", "s", {"at": BASE + timedelta(days=at)})
        found = await backend.list_evaluations(limit=30)
        equal([row["score"] for row in found], [at / 100 for at in range(29, -1, -1)], "the scores")
        equal(found[-1]["metadata"], {"at": BASE.isoformat()}, "the metadata of the first")
        equal(len(await backend.list_evaluations()), 20, "how many there are without a limit")
        equal(await backend.list_evaluations(limit=0), [], "list_evaluations(limit=0)")
        await refuses(backend.list_evaluations(limit=-1), ValueError, "list_evaluations(limit=-1)")

    @on_history
    async def test_a_key_of_system_state_has_the_value_that_was_set_last(self, backend: StateBackend) -> None:
        for value in ({"n": 1, "gone": True}, {"n": 2, "at": BASE}):
            await backend.set_system_state("watermark", value)
        await backend.set_system_state("any 'key' % 漢字", {})
        found = await backend.get_system_state("watermark") or {}
        equal((found["key"], found["value"]), ("watermark", {"n": 2, "at": BASE.isoformat()}), "get_system_state()")
        equal((await backend.get_system_state("any 'key' % 漢字") or {})["value"], {}, "an odd key")
        equal(len(await backend.read_system_state()), 2, "how many keys there are")
