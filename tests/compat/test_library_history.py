"""Facts about the library's history of runs, steps and spans that we share (see test_library_facts.py)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from applications import NOW, asynchronous, emptied, ids, state

from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.backends.sqlite import SQLiteBackend


@asynchronous
async def test_a_run_from_start_to_end(sqlite: SQLiteBackend) -> None:
    await sqlite.save_run_start({"run_id": "r", "pipeline_name": "p", "pipeline_version": "2"})
    running = await sqlite.get_run_details("r") or {}
    assert (running["status"], running["pipeline_name"], running["pipeline_version"]) == ("running", "p", "2")
    end = {"status": "completed", "execution_time_ms": 1234, "total_steps": 3, "error_message": None}
    await sqlite.save_run_end("r", end)
    ended = await sqlite.get_run_details("r") or {}
    assert (ended["status"], ended["execution_time_ms"], ended["total_steps"]) == ("completed", 1234, 3)
    assert ids(await sqlite.list_runs(pipeline_name="p", status="completed")) == ["r"]
    await sqlite.save_run_end("nobody", {"status": "completed"})
    assert await sqlite.get_run_details("nobody") is None


@asynchronous
async def test_times_of_runs_and_steps_are_datetimes_or_text(sqlite: SQLiteBackend) -> None:
    """0.4 gives `start_time` and `end_time` as datetimes without a zone, in UTC; 0.6 gives text."""
    naive = datetime(2026, 3, 1, 10)
    await sqlite.save_run_start({"run_id": "old", "start_time": naive})
    await sqlite.save_run_end("old", {"status": "completed", "end_time": naive + timedelta(seconds=2)})
    await sqlite.save_run_start({"run_id": "new", "created_at": "2026-03-01T10:00:00+00:00"})
    rows = {row["run_id"]: row for row in await sqlite.list_runs()}
    starts = {datetime.fromisoformat(row["start_time"]) for row in rows.values()}
    assert starts == {naive.replace(tzinfo=UTC)}
    assert datetime.fromisoformat(rows["old"]["end_time"]) == datetime(2026, 3, 1, 10, 0, 2, tzinfo=UTC)


@asynchronous
async def test_steps_in_the_words_of_both_versions(sqlite: SQLiteBackend) -> None:
    await sqlite.save_run_start({"run_id": "r"})
    named = {"step_run_id": "r:1", "run_id": "r", "step_name": "old", "step_index": 1, "status": "failed"}
    told = {"start_time": NOW, "end_time": NOW, "duration_ms": 5, "cost": 0.5, "tokens": 7, "error": "Boom"}
    await sqlite.save_step_result({**named, **told, "output": None})
    new = {"run_id": "r", "step_name": "new", "step_index": 0, "output": {"at": NOW}}
    await sqlite.save_step_result({**new, "cost_usd": 0.25, "token_counts": 3, "execution_time_ms": 8})
    first, second = await sqlite.list_run_steps("r")
    assert (first["step_name"], first["status"], first["output"]) == ("new", "completed", {"at": NOW.isoformat()})
    assert (first["cost_usd"], first["token_counts"], first["execution_time_ms"]) == (0.25, 3, 8)
    assert (second["step_name"], second["status"], second["error"]) == ("old", "failed", "Boom")
    assert (second["cost_usd"], second["token_counts"], second["execution_time_ms"]) == (0.5, 7, 5)


@asynchronous
async def test_history_of_a_run_that_nobody_started(sqlite: SQLiteBackend) -> None:
    """What is told of a run makes the run known."""
    await sqlite.save_step_result({"run_id": "step", "step_name": "s", "step_index": 0, "output": 1})
    attributes = {"flujo.pipeline.name": "p", "flujo.pipeline.version": "3"}
    await sqlite.save_spans(
        "span", [{"span_id": "1", "name": "root", "start_time": 1.0, "end_time": 2.0, "attributes": attributes}]
    )
    await sqlite.save_trace("trace", {"span_id": "1", "name": "root", "start_time": 1.0})
    await sqlite.persist_evaluation("evaluation", 0.5)
    assert {"span", "step", "trace"} <= set(ids(await sqlite.list_runs()))
    details = await sqlite.get_run_details("span") or {}
    assert (details["pipeline_name"], details["pipeline_version"]) == ("p", "3")
    assert [row["score"] for row in await sqlite.list_evaluations(run_id="evaluation")] == [0.5]


@asynchronous
async def test_a_trace_is_a_tree(sqlite: SQLiteBackend) -> None:
    leaf = {"span_id": "b", "name": "leaf", "start_time": 1.5, "end_time": 1.75, "status": "failed"}
    late = {"span_id": "c", "name": "late", "start_time": 1.8, "end_time": None, "status": "running"}
    tree = {"span_id": "a", "name": "root", "start_time": 1.0, "end_time": 2.0, "status": "completed"}
    await sqlite.save_run_start({"run_id": "r"})
    await sqlite.save_trace("r", {"span_id": "x", "name": "replaced", "start_time": 0.0})
    await sqlite.save_trace("r", {**tree, "attributes": {"k": {"n": 1}}, "children": [late, leaf]})
    found = await sqlite.get_trace("r")
    assert {name: found[name] for name in tree} == tree
    assert (found["parent_span_id"], found["attributes"]) == (None, {"k": {"n": 1}})
    assert [(child["name"], child["parent_span_id"]) for child in found["children"]] == [
        ("leaf", "a"),
        ("late", "a"),
    ]
    assert [span["name"] for span in await sqlite.get_spans("r")] == ["root", "leaf", "late"]
    assert [span["name"] for span in await sqlite.get_spans("r", status="failed")] == ["leaf"]
    assert [span["name"] for span in await sqlite.get_spans("r", name="late", status="running")] == ["late"]


@asynchronous
async def test_a_trace_without_sense(sqlite: SQLiteBackend) -> None:
    """What is no span does not cost the rest."""
    await sqlite.save_run_start({"run_id": "r"})
    await sqlite.save_trace("r", {})
    assert await sqlite.get_trace("r") is None
    children = [{"name": "no id"}, {"span_id": "n"}, {"span_id": "t", "name": "n", "start_time": "soon"}, "no span"]
    kept = {"span_id": "k", "name": "kept", "start_time": 2.0}
    await sqlite.save_trace("r", {"span_id": "a", "name": "root", "start_time": 1.0, "children": [*children, kept]})
    assert {"root", "kept"} <= {span["name"] for span in await sqlite.get_spans("r")}
    assert (await sqlite.get_trace("r"))["name"] == "root"


@asynchronous
async def test_span_statistics(sqlite: SQLiteBackend) -> None:
    """Of spans that have ended, in seconds."""
    for run_id, name in (("r", "p"), ("s", "q")):
        await sqlite.save_run_start({"run_id": run_id, "pipeline_name": name})
        spans = [
            ("1", "root", 1.0, 4.0),
            ("2", "leaf", 1.0, 1.5),
            ("3", "leaf", 2.0, 3.5),
            ("4", "leaf", 3.0, None),
        ]
        keys = ("span_id", "name", "start_time", "end_time")
        await sqlite.save_spans(run_id, [{**dict(zip(keys, s, strict=True)), "status": "completed"} for s in spans])
    found = await sqlite.get_span_statistics(pipeline_name="p")
    assert (found["total_spans"], found["by_status"]) == (3, {"completed": 3})
    assert found["by_name"] == {"root": 1, "leaf": 2}
    assert found["avg_duration_by_name"]["leaf"] == {"total": 2.0, "count": 2, "average": 1.0}
    assert (await sqlite.get_span_statistics())["total_spans"] == 6


@asynchronous
async def test_statistics_of_no_spans(backend: StateBackend) -> None:
    await emptied(backend)
    found = await backend.get_span_statistics()
    assert (found["total_spans"], found["by_name"], found["by_status"], found["avg_duration_by_name"]) == (
        0,
        {},
        {},
        {},
    )


@asynchronous
async def test_a_deleted_run_leaves_nothing(sqlite: SQLiteBackend) -> None:
    for run_id in ("r", "other"):
        await sqlite.save_run_start({"run_id": run_id})
        await sqlite.save_step_result({"run_id": run_id, "step_name": "s", "step_index": 0})
        await sqlite.save_trace(run_id, {"span_id": "a", "name": "root", "start_time": 1.0})
    await sqlite.delete_run("r")
    await sqlite.delete_run("r")
    assert (await sqlite.get_run_details("r"), await sqlite.get_trace("r")) == (None, None)
    assert (await sqlite.list_run_steps("r"), await sqlite.get_spans("r")) == ([], [])
    assert len(await sqlite.list_run_steps("other")) == len(await sqlite.get_spans("other")) == 1


@asynchronous
async def test_old_workflows_are_cleaned_up(sqlite: SQLiteBackend) -> None:
    for run_id, days in (("new", 0), ("week", 7), ("month", 31)):
        when = NOW - timedelta(days=days)
        await sqlite.save_state(run_id, state(run_id, status="completed", created_at=when, updated_at=when))
    assert await sqlite.cleanup_old_workflows(days_old=365) == 0
    assert await sqlite.cleanup_old_workflows() == 1
    assert await sqlite.cleanup_old_workflows(days_old=6.5) == 1
    assert ids(await sqlite.list_workflows()) == ["new"]


@asynchronous
async def test_stale_background_tasks_are_failed(sqlite: SQLiteBackend) -> None:
    for run_id, hours in (("dead", 30), ("alive", 1)):
        when = NOW - timedelta(hours=hours)
        task = {"is_background_task": True, "created_at": when, "updated_at": when}
        await sqlite.save_state(run_id, state(run_id, **task))
    assert await sqlite.cleanup_stale_background_tasks(stale_hours=24) == 1
    assert await sqlite.cleanup_stale_background_tasks() == 0
    dead, alive = await sqlite.load_state("dead") or {}, await sqlite.load_state("alive") or {}
    assert (dead["status"], alive["status"]) == ("failed", "running")
    assert dead["background_error"]


@asynchronous
async def test_system_state(sqlite: SQLiteBackend) -> None:
    await sqlite.set_system_state("watermark", {"at": NOW, "n": 1})
    await sqlite.set_system_state("watermark", {"at": NOW, "n": 2})
    found = await sqlite.get_system_state("watermark") or {}
    assert (found["key"], found["value"]) == ("watermark", {"at": NOW.isoformat(), "n": 2})
    assert await sqlite.get_system_state("no such key") is None
