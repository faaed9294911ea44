"""The order of what several tasks do to one run by one `FileBackend`: that of their calls, whoever is cancelled."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flujo_lens.fs import atomic_write
from flujo_lens.state.backends.core.worker_pool import Workers
from flujo_lens.state.backends.file import FileBackend
from flujo_lens.state.views import RunFilter

AT = "2026-11-21T00:00:00+00:00"
LONG = 20.0
"""Seconds after which a test that waits fails."""

SOON = 0.2
"""Seconds for which a first call is held back: in them a second one that did not wait for it would be done."""


def state(number: int, **more: Any) -> dict[str, Any]:
    return {"status": "running", "created_at": AT, "updated_at": AT, "pipeline_context": {"n": number}, **more}


@pytest.fixture
def backend(tmp_path: Path) -> FileBackend:
    return FileBackend(tmp_path / "states", cache_dir=tmp_path / "cache")


class Gate:
    """Holds back the first work that comes to it."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        self._first = threading.Lock()

    def pass_through(self, seconds: float = LONG) -> None:
        if self._first.acquire(blocking=False):
            self.reached.set()
            self.opened.wait(seconds)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """A gate before the bytes of the first file that is written."""
    gate, write = Gate(), atomic_write.write_all

    def held(file: int, data: bytes) -> None:
        gate.pass_through()
        write(file, data)

    monkeypatch.setattr(atomic_write, "write_all", held)
    monkeypatch.setattr("flujo_lens.state.backends.file.format.history.write_all", held)
    yield gate
    gate.opened.set()


async def open_soon(gate: Gate) -> None:
    assert await asyncio.to_thread(gate.reached.wait, LONG)
    await asyncio.sleep(SOON)
    gate.opened.set()


def number_of(found: Any) -> Any:
    return (found or {}).get("pipeline_context", {}).get("n")


# --- one run


def test_the_last_save_counts(backend: FileBackend, gate: Gate) -> None:
    async def main() -> None:
        saves = [backend.save_state("r", state(number)) for number in range(5)]
        await asyncio.gather(*saves, open_soon(gate))
        assert number_of(await backend.load_state("r")) == 4

    asyncio.run(main())


def test_a_state_that_is_deleted_last_is_gone(backend: FileBackend, gate: Gate) -> None:
    async def main() -> None:
        for remove in (backend.delete_state, backend.delete_run):
            await asyncio.gather(backend.save_state("r", state(1)), remove("r"), open_soon(gate))
            assert await backend.load_state("r") is None
        await asyncio.gather(backend.delete_run("r"), backend.save_state("r", state(2)))
        assert number_of(await backend.load_state("r")) == 2

    asyncio.run(main())


@pytest.mark.parametrize("first", ["start", "end", "step", "trace"])
def test_history_is_in_the_order_of_the_calls(backend: FileBackend, gate: Gate, first: str) -> None:
    """Whatever is held back, what comes after it comes after it."""

    def calls(number: int) -> dict[str, Awaitable[None]]:
        trace = {"span_id": str(number), "name": "t", "start_time": 1.0}
        return {
            "start": backend.save_run_start({"run_id": "r", "pipeline_name": f"p{number}"}),
            "end": backend.save_run_end("r", {"status": "failed", "error_message": str(number)}),
            "step": backend.save_step_result({"run_id": "r", "step_name": "s", "step_index": 0, "output": number}),
            "trace": backend.save_trace("r", trace),
        }

    async def main() -> None:
        one, two = calls(1), calls(2)
        await asyncio.gather(one.pop(first), *one.values(), *two.values(), open_soon(gate))
        (run,) = [run async for run in backend.iter_runs(RunFilter())]
        assert (run.pipeline_name, run.error_message) == ("p2", "2")
        assert [span["span_id"] for span in await backend.get_spans("r")] == ["2"]
        assert [row["output"] for row in await backend.list_run_steps("r")] == [2]

    asyncio.run(main())


def test_the_last_value_of_a_key_counts(backend: FileBackend, gate: Gate) -> None:
    async def main() -> None:
        await asyncio.gather(*(backend.set_system_state("k", {"n": n}) for n in range(5)), open_soon(gate))
        found = await backend.get_system_state("k")
        assert found is not None
        assert found["value"] == {"n": 4}

    asyncio.run(main())


def test_runs_do_not_wait_for_each_other(backend: FileBackend, gate: Gate) -> None:
    async def main() -> None:
        held = asyncio.ensure_future(backend.save_state("held", state(0)))
        assert await asyncio.to_thread(gate.reached.wait, LONG)
        others = (backend.save_state(f"other-{number}", state(number)) for number in range(20))
        await asyncio.wait_for(asyncio.gather(*others), LONG)
        assert not held.done()
        gate.opened.set()
        await held

    asyncio.run(main())


# --- cancelled calls


def test_who_is_cancelled_in_the_row_leaves_it_at_once(backend: FileBackend, gate: Gate) -> None:
    async def main() -> None:
        first, second, third = (asyncio.ensure_future(backend.save_state("r", state(n))) for n in range(3))
        assert await asyncio.to_thread(gate.reached.wait, LONG)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(asyncio.shield(second), LONG)
        assert not first.done()
        gate.opened.set()
        await asyncio.gather(first, third)
        assert number_of(await backend.load_state("r")) == 2

    asyncio.run(main())


def test_the_last_of_the_row_can_be_cancelled(backend: FileBackend, gate: Gate) -> None:
    async def main() -> None:
        first, second = (asyncio.ensure_future(backend.save_state("r", state(n))) for n in range(2))
        assert await asyncio.to_thread(gate.reached.wait, LONG)
        second.cancel()
        await asyncio.wait([second])
        gate.opened.set()
        await first
        assert number_of(await backend.load_state("r")) == 0
        await backend.save_state("r", state(3))
        assert number_of(await backend.load_state("r")) == 3

    asyncio.run(main())


@pytest.mark.parametrize("seed", range(5))
def test_any_cancellations_keep_the_order(seed: int) -> None:
    """What is done is done in order; what was awaited to its end was done; no key is remembered for ever."""
    import random

    chance, done = random.Random(seed), list[tuple[str, int]]()

    async def main() -> None:
        workers = Workers()

        def work(key: str, number: int) -> Callable[[threading.Event], None]:
            return lambda _: done.append((key, number))

        keys = [chance.choice("abc") for _ in range(300)]
        tasks = [asyncio.ensure_future(workers.run(work(key, at), key)) for at, key in enumerate(keys)]
        for task in tasks:
            if chance.random() < 0.3:
                await asyncio.sleep(0)
                task.cancel()
        await asyncio.wait(tasks)
        for key in "abc":
            numbers = [number for of, number in done if of == key]
            assert numbers == sorted(numbers)
        ended = {(keys[at], at) for at, task in enumerate(tasks) if not task.cancelled()}
        assert ended <= set(done)
        await workers.run(lambda _: None)
        for key in "abc":
            await workers.run(lambda _: None, key)

        def settled() -> bool:
            with workers._lock:
                return not workers._behind

        for _ in range(1000):
            if settled():
                break
            await asyncio.sleep(0.01)
        assert settled()

    asyncio.run(main())


def test_an_error_does_not_stop_the_row() -> None:
    def fail(_: threading.Event) -> None:
        raise OSError("no")

    async def main() -> None:
        workers = Workers()
        found = await asyncio.gather(workers.run(fail, "k"), workers.run(lambda _: 1, "k"), return_exceptions=True)
        assert (str(found[0]), found[1]) == ("no", 1)

    asyncio.run(main())


def test_a_thread_that_cannot_be_started(backend: FileBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    from flujo_lens.errors import OperationFailedError

    def none_left(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", none_left)
            with pytest.raises(OperationFailedError, match="can't start new thread"):
                await backend.save_state("r", state(1))
        await backend.save_state("r", state(2))
        assert number_of(await backend.load_state("r")) == 2

    asyncio.run(main())


# --- forks


def test_a_child_of_a_fork_has_threads_and_locks_of_its_own(backend: FileBackend, gate: Gate) -> None:
    """Also if the parent's threads were in the middle of a save and of a look at the folder."""

    async def in_child() -> None:
        async with asyncio.timeout(LONG):
            await backend.save_state("child", state(7))
            assert number_of(await backend.load_state("child")) == 7
            assert "child" in await backend.find_run_ids("")

    async def main() -> None:
        held = asyncio.ensure_future(backend.save_state("held", state(1)))
        assert await asyncio.to_thread(gate.reached.wait, LONG)
        with backend._folder._catalogue._lock:
            child = os.fork()
            if child == 0:
                os._exit(_exit_code(in_child))
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        gate.opened.set()
        await held
        assert sorted(await backend.find_run_ids("")) == ["child", "held"]

    asyncio.run(main())


def _exit_code(work: Callable[[], Any]) -> int:
    asyncio.events._set_running_loop(None)
    try:
        asyncio.run(work())
    except BaseException:  # noqa: BLE001 - the parent is told
        return 1
    return 0
