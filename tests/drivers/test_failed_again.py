"""Runs that 0.6.11 leaves paused although they failed, on every driver: whoever is asked says the same.

The states are those that its runner left: of a run that failed after an answer, of one that failed, was restarted and
went on behind the step that failed, and of those that really wait.
"""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.backends.file import FileBackend
from flujo_lens.state.backends.memory import InMemoryBackend
from flujo_lens.state.backends.sqlite import SQLiteBackend
from flujo_lens.state.deletion import DeletionRequest
from flujo_lens.state.views import RunFilter

OLD = datetime(2026, 3, 1, 10, tzinfo=UTC)
NOW = OLD + timedelta(days=90)

LOAD, CHARGE, FINISH = (
    {"name": name, "success": name != "charge", "output": "x"} for name in ("load", "charge", "end")
)
CHARGE["feedback"] = "no such customer"
IDLE: dict[str, Any] = {"hitl_data": {}, "loop_resume_requires_hitl_output": False, "loop_paused_step_name": None}
ASKED = {**IDLE, "pause_message": "Approve?"}
ASKS = {**ASKED, "hitl_data": {"last_hitl_step": "approve"}}

CASES = {
    "after an answer": (ASKED, [LOAD, CHARGE], "failed", "failed"),
    "after an answer, in files": (ASKED, [LOAD, CHARGE], None, "failed"),
    "restarted": ({**IDLE, "pause_message": None}, [LOAD, CHARGE, FINISH], "failed", "failed"),
    "restarted, in files": ({**IDLE, "pause_message": None}, [LOAD, CHARGE, FINISH], None, "failed"),
    "of another context": ({"number": 1}, [LOAD, CHARGE], "failed", "failed"),
    "asked after a failure": (ASKS, [LOAD, CHARGE], "failed", "paused"),
    "asked after a failure, in files": (ASKS, [LOAD, CHARGE], None, "paused"),
    "asked in a loop": ({**ASKED, "loop_resume_requires_hitl_output": True}, [LOAD, CHARGE], "failed", "paused"),
    "asked": (ASKS, [LOAD], "completed", "paused"),
    "asked, of 0.4.35": ({"scratchpad": {"status": "paused", "pause_message": "?"}}, [LOAD], "completed", "paused"),
    "asked again, of 0.4.35": ({"scratchpad": {"pause_message": "?"}}, [LOAD, CHARGE], "failed", "paused"),
    "of no known library": ({}, [CHARGE], None, "paused"),
    "failed": (IDLE, [LOAD, CHARGE], "failed", "failed"),
    "cancelled": (IDLE, [LOAD], "completed", "cancelled"),
}
FAILED_STATES = ("failed", "cancelled")
EXPECTED = {name: case[-1] for name, case in CASES.items()}


def documents(name: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The state of a case, and the row of ``runs``."""
    context, history, run_status, _ = CASES[name]
    state = {
        "run_id": name,
        "pipeline_id": "p",
        "pipeline_name": "orders",
        "pipeline_version": "1",
        "current_step_index": 7,
        "pipeline_context": context,
        "last_step_output": None,
        "step_history": history,
        "status": "failed" if name in FAILED_STATES else "paused",
        "created_at": OLD,
        "updated_at": OLD,
    }
    run = {"run_id": name, "pipeline_name": "orders", "pipeline_version": "1", "created_at": OLD, "updated_at": OLD}
    return state, None if run_status is None else {**run, "status": run_status}


async def filled(backend: StateBackend) -> None:
    for name in CASES:
        state, run = documents(name)
        if run is not None:
            await backend.save_run_start({**run, "status": "running"})
        await backend.save_state(name, state)
        if run is not None:
            await backend.save_run_end(name, {"status": run["status"], "end_time": OLD, "updated_at": OLD})


@pytest.fixture(params=["sqlite", "sqlite without indexes", "file", "memory"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> StateBackend:
    """A store with all the cases, in which no driver has corrected a status on the way."""
    if request.param == "memory":
        return InMemoryBackend()
    if request.param == "file":
        return FileBackend(tmp_path / "states", cache_dir=tmp_path / "cache")
    path = tmp_path / "store.db"
    made = SQLiteBackend(path, zone=UTC)
    asyncio.run(filled_and_closed(made))
    if request.param != "sqlite":
        with closing(sqlite3.connect(path)) as db:
            names = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'index' AND sql > ''")]
            for name in names:
                db.execute(f'DROP INDEX "{name}"')
            db.commit()
    return SQLiteBackend(path, zone=UTC)


async def filled_and_closed(backend: StateBackend) -> None:
    async with backend:
        await filled(backend)


async def listed(backend: StateBackend, wanted: RunFilter, **more: Any) -> dict[str, str]:
    return {run.run_id: run.status async for run in backend.iter_runs(wanted, **more)}


def only(*statuses: str) -> dict[str, str]:
    return {name: status for name, status in EXPECTED.items() if status in statuses}


def test_whoever_is_asked_says_the_same(backend: StateBackend) -> None:
    async def look() -> None:
        async with backend:
            if not isinstance(backend, SQLiteBackend):
                await filled(backend)
            assert await listed(backend, RunFilter()) == EXPECTED
            assert await listed(backend, RunFilter(), ordered=False, details=False) == EXPECTED
            details = {name: await backend.read_run(name) for name in CASES}
            assert {name: found and found.run.status for name, found in details.items()} == EXPECTED
            await statuses_agree(backend)
            await figures_agree(backend)
            await plans_agree(backend)

    asyncio.run(look())


async def statuses_agree(backend: StateBackend) -> None:
    """The filters by status, alone, together and with others; ordered or not; and what is counted."""
    names = ("failed", "paused", "cancelled", "completed")
    for size in range(1, 4):
        for some in itertools.combinations(names, size):
            wanted = RunFilter(statuses=frozenset(some))
            for more in (wanted, wanted._replace(pipeline="orders"), wanted._replace(active_since=OLD)):
                assert await listed(backend, more) == only(*some), more
                assert await listed(backend, more, ordered=False, details=False) == only(*some), more
                assert await backend.count_runs(more) == len(only(*some)), more
                page = await backend.query_runs(more, limit=2)
                assert len(page.items) == min(2, len(only(*some)))


async def figures_agree(backend: StateBackend) -> None:
    for wanted in (RunFilter(), RunFilter(pipeline="orders")):
        stats = await backend.read_stats(wanted)
        expected = {status: len(only(status)) for status in ("failed", "paused", "cancelled")}
        assert dict(stats.by_status) == expected
        assert sum(group.count for group in stats.failures) == expected["failed"]
    groups = await backend.group_resumable(RunFilter())
    counts = {status: sum(g.runs for g in groups if g.status == status) for status in ("failed", "paused")}
    assert counts == {status: len(only(status)) for status in counts}


async def plans_agree(backend: StateBackend) -> None:
    """What a deletion takes by status, and what it spares as paused."""
    for some in (frozenset[str](), frozenset({"failed"}), frozenset({"paused"})):
        asked = DeletionRequest(
            wanted=RunFilter(statuses=some), cutoff=NOW, now=NOW + timedelta(days=1), keep_paused=not some
        )
        plan = await backend.plan_deletion(asked)
        expected = only(*(some or {"failed", "cancelled"}))
        assert {run_id async for run_id in backend.planned_ids(plan)} == expected.keys()
        assert plan.kept.paused == (0 if some else len(only("paused")))


def test_what_failed_again_stands_at_the_step_that_failed(backend: StateBackend) -> None:
    async def look() -> None:
        async with backend:
            if not isinstance(backend, SQLiteBackend):
                await filled(backend)
            for name in only("failed"):
                found = await backend.read_run(name)
                assert found is not None
                told = (found.run.step_name, found.run.error_message, found.run.pause_message, found.pause)
                assert told == ("charge", "no such customer", None, None)

    asyncio.run(look())


def test_a_folder_of_the_library_has_no_histories(tmp_path: Path) -> None:
    """There the state is all that there is: one read by another process from the cache, and one read anew, agree."""
    names = [name for name, case in CASES.items() if case[2] is None]

    async def look() -> None:
        async with FileBackend(tmp_path / "states", cache_dir=tmp_path / "cache") as backend:
            for name in names:
                await backend.save_state(name, documents(name)[0])
        for _ in range(2):
            async with FileBackend(tmp_path / "states", cache_dir=tmp_path / "cache") as backend:
                assert await listed(backend, RunFilter()) == {name: EXPECTED[name] for name in names}
                for status in ("failed", "paused"):
                    found = await listed(backend, RunFilter(statuses=frozenset({status})), details=False)
                    assert found == {name: status for name in names if EXPECTED[name] == status}

    asyncio.run(look())
