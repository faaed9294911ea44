"""What is particular to the backend in memory; what it shares with the others is in test_contract.py."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any

import pytest

from flujo_lens.errors import InvalidStateError
from flujo_lens.serialization.envelope import Envelope
from flujo_lens.state.backends.memory import InMemoryBackend
from flujo_lens.state.views import RunFilter
from flujo_lens.testing.samples import BASE, plain_state


def ran(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """The test, in an event loop of its own."""

    @wraps(test)
    def run() -> None:
        asyncio.run(test())

    return run


def held(backend: InMemoryBackend, run_id: str) -> bytes:
    """What is kept of a state."""
    state = backend._store.tables["run"][run_id][0].state
    assert state is not None
    return state


@ran
async def test_a_state_is_kept_as_the_document_of_a_store() -> None:
    backend = InMemoryBackend()
    await backend.save_state(
        "r", {"run_id": "r", "status": "running", "created_at": "x", "updated_at": BASE, "metadata": {"é": {1}}}
    )
    at = b'"updated_at":"2026-03-01T09:00:00+00:00"'
    wanted = b'{"created_at":"x","metadata":{"\\u00e9":[1]},"run_id":"r","status":"running",' + at + b"}"
    assert held(backend, "r") == wanted


@ran
async def test_what_comes_out_is_what_went_in_and_the_id() -> None:
    backend = InMemoryBackend()
    times = {"created_at": "x", "updated_at": "y"}
    await backend.save_state("r", {"anything": [1, None], "run_id": "another", **times})
    assert await backend.load_state("r") == {"anything": [1, None], "run_id": "r", **times}


@ran
async def test_a_compressed_state_reads_like_any_other() -> None:
    backend = InMemoryBackend(envelope=Envelope(compression="zlib", min_bytes=10))
    plain = plain_state("r", "paused", pipeline_context={"pause_message": "approve? " * 100})
    await backend.save_state("r", plain)
    assert b"approve" not in held(backend, "r")
    assert await backend.load_state("r") == plain
    (run,) = [run async for run in backend.iter_runs(RunFilter())]
    assert run.pause_message == "approve? " * 100


@ran
async def test_a_state_that_does_not_fit_is_not_saved() -> None:
    backend = InMemoryBackend(validate=True)
    await backend.save_state("r", plain_state("r", metadata={"n": 1}))
    with pytest.raises(InvalidStateError, match="status"):
        await backend.save_state("r", plain_state("r", status="nonsense"))
    assert (await backend.load_state("r") or {})["metadata"] == {"n": 1}


@ran
async def test_an_iteration_is_of_one_moment() -> None:
    backend = InMemoryBackend()
    for run_id in ("a", "b", "c"):
        await backend.save_state(run_id, plain_state(run_id))
    seen = []
    async for run in backend.iter_runs(RunFilter()):
        seen.append(run.run_id)
        await backend.delete_run("a")
        await backend.save_state("d", plain_state("d"))
    assert seen == ["c", "b", "a"]


@ran
async def test_the_end_of_a_run_that_never_started_makes_it() -> None:
    backend = InMemoryBackend()
    await backend.save_run_end("r", {"status": "failed", "error_message": "boom"})
    details = await backend.get_run_details("r") or {}
    assert (details["status"], details["error_message"]) == ("failed", "boom")


@ran
async def test_a_background_task_is_told_by_its_metadata() -> None:
    backend = InMemoryBackend()
    old = datetime.now(UTC) - timedelta(hours=30)
    state = plain_state("task", when=old, metadata={"is_background_task": True, "parent_run_id": "p"})
    del state["is_background_task"]
    await backend.save_state("task", state)
    assert await backend.cleanup_stale_background_tasks(30.5) == 0
    assert await backend.cleanup_stale_background_tasks(29.5) == 1
    assert (await backend.load_state("task") or {})["error_message"] == "timed out: no activity for 29.5 hours"


def test_threads_that_write_clean_up_and_count() -> None:
    """No call sees a run half deleted, and none is lost: every run that was deleted was counted once."""
    backend = InMemoryBackend()
    old = datetime.now(UTC) - timedelta(days=40)
    deleted: list[int] = []
    start = threading.Barrier(4)

    async def write(number: int) -> None:
        for at in range(50):
            run_id = f"{number}-{at}"
            await backend.save_run_start({"run_id": run_id, "created_at": old})
            await backend.save_step_result({"run_id": run_id, "step_name": "s", "step_index": 0, "created_at": old})

    async def clean() -> None:
        for _ in range(50):
            deleted.append(await backend.cleanup_old_workflows(30))
            assert backend.get_workflow_stats_sync()["recent_workflows_24h"] == 0

    def work(number: int) -> None:
        start.wait()
        asyncio.run(write(number) if number < 2 else clean())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    left = backend.get_workflow_stats_sync()["total_workflows"]
    assert asyncio.run(backend.cleanup_old_workflows(30)) == left
    assert sum(deleted) + left >= 100
    assert backend.get_workflow_stats_sync()["total_workflows"] == 0
