"""Facts about the library's lists and statistics of runs that we share (see test_library_facts.py)."""

from __future__ import annotations

from datetime import datetime, timedelta

from applications import NOW, asynchronous, emptied, ids, state

from flujo_lens.state.backends.base import StateBackend


async def _fill(backend: StateBackend) -> None:
    for n, status in enumerate(["running", "completed", "failed", "paused", "failed"]):
        when = NOW - timedelta(hours=10 * n)
        more = {"error_message": "Boom"} if status == "failed" else {}
        await backend.save_state(
            f"r{n}",
            state(
                f"r{n}",
                status=status,
                pipeline_id=f"id-{n % 2}",
                created_at=when,
                updated_at=when,
                total_steps=5,
                execution_time_ms=200,
                memory_usage_mb=1.5,
                **more,
            ),
        )


@asynchronous
async def test_workflows_are_listed_newest_first(backend: StateBackend) -> None:
    await _fill(backend)
    assert ids(await backend.list_workflows()) == ["r0", "r1", "r2", "r3", "r4"]
    assert ids(await backend.list_workflows(limit=2, offset=1)) == ["r1", "r2"]
    assert ids(await backend.list_workflows(limit=0)) == []
    assert ids(await backend.list_workflows(offset=4)) == ["r4"]
    assert ids(await backend.list_workflows(offset=9)) == []


@asynchronous
async def test_workflows_are_filtered(backend: StateBackend) -> None:
    await _fill(backend)
    assert ids(await backend.list_workflows(status="failed")) == ["r2", "r4"]
    assert ids(await backend.list_workflows(pipeline_id="id-1")) == ["r1", "r3"]
    assert ids(await backend.list_workflows(status="failed", pipeline_id="id-0", limit=1)) == ["r2"]
    assert ids(await backend.list_workflows(status="nobody has this")) == []
    assert ids(await backend.list_workflows(pipeline_id="nobody has this")) == []


@asynchronous
async def test_an_empty_filter_is_none(backend: StateBackend) -> None:
    await _fill(backend)
    assert len(await backend.list_workflows(status="", pipeline_id="")) == 5
    assert len(await backend.list_runs(status="", pipeline_name="", metadata_filter={})) == 5


@asynchronous
async def test_a_listed_workflow(backend: StateBackend) -> None:
    await _fill(backend)
    (row,) = await backend.list_workflows(limit=1, offset=2)
    wanted = {
        "run_id": "r2",
        "pipeline_id": "id-0",
        "pipeline_name": "orders",
        "pipeline_version": "1.0",
        "current_step_index": 1,
        "status": "failed",
        "total_steps": 5,
        "error_message": "Boom",
        "execution_time_ms": 200,
        "memory_usage_mb": 1.5,
        "metadata": {},
        "is_background_task": False,
        "parent_run_id": None,
        "task_id": None,
        "background_error": None,
    }
    assert {name: row.get(name, "missing") for name in wanted} == wanted
    assert datetime.fromisoformat(row["created_at"]) == NOW - timedelta(hours=20)


@asynchronous
async def test_failed_workflows_of_the_last_hours(backend: StateBackend) -> None:
    await _fill(backend)
    assert ids(await backend.get_failed_workflows(hours_back=48)) == ["r2", "r4"]
    assert ids(await backend.get_failed_workflows()) == ["r2"]
    assert ids(await backend.get_failed_workflows(hours_back=1)) == []


@asynchronous
async def test_statistics(backend: StateBackend) -> None:
    await _fill(backend)
    assert await backend.get_workflow_stats() == {
        "total_workflows": 5,
        "status_counts": {"running": 1, "completed": 1, "failed": 2, "paused": 1},
        "recent_workflows_24h": 3,
        "average_execution_time_ms": 200,
        "background_status_counts": {},
    }


@asynchronous
async def test_statistics_of_nothing(backend: StateBackend) -> None:
    await emptied(backend)
    stats = await backend.get_workflow_stats()
    assert (stats["total_workflows"], stats["status_counts"]) == (0, {})
    assert (stats["recent_workflows_24h"], stats["average_execution_time_ms"]) == (0, 0)


@asynchronous
async def test_statistics_without_awaiting(backend: StateBackend) -> None:
    """Collectors of metrics are synchronous, and are called inside a running event loop."""
    await _fill(backend)
    assert backend.get_workflow_stats_sync() == await backend.get_workflow_stats()


@asynchronous
async def test_background_tasks(backend: StateBackend) -> None:
    await backend.save_state("parent", state("parent"))
    for n, status in enumerate(["running", "failed"]):
        task = {"is_background_task": True, "parent_run_id": f"parent{n or ''}", "task_id": f"t{n}"}
        await backend.save_state(f"bg{n}", state(f"bg{n}", status=status, background_error="E" * n or None, **task))
    tasks = {row["run_id"]: row for row in await backend.list_background_tasks()}
    assert sorted(tasks) == ["bg0", "bg1"]
    assert (tasks["bg1"]["task_id"], tasks["bg1"]["background_error"]) == ("t1", "E")
    assert ids(await backend.list_background_tasks(parent_run_id="parent")) == ["bg0"]
    assert ids(await backend.list_background_tasks(status="failed", limit=5)) == ["bg1"]
    assert ids(await backend.get_failed_background_tasks(hours_back=1)) == ["bg1"]
    assert (await backend.get_workflow_stats())["background_status_counts"] == {"running": 1, "failed": 1}


@asynchronous
async def test_runs_are_filtered_by_what_their_metadata_contain(backend: StateBackend) -> None:
    await backend.save_state("a", state("a", metadata={"team": {"name": "ops", "size": 3}, "n": 1, "none": None}))
    await backend.save_state("b", state("b", metadata={"team": {"name": "ops"}, "n": 2}))
    for wanted, found in (
        ({"n": 1}, ["a"]),
        ({"team": {"name": "ops"}}, ["a", "b"]),
        ({"team": {"name": "ops", "size": 3}}, ["a"]),
        ({"none": None}, ["a"]),
        ({"team": "ops"}, []),
    ):
        assert sorted(ids(await backend.list_runs(metadata_filter=wanted))) == found
