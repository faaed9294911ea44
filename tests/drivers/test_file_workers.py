"""The threads of `FileBackend`: how many, how long, and what becomes of work that nobody waits for."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import flujo_lens
from flujo_lens.state.backends.core import worker_pool
from flujo_lens.state.backends.core.worker_pool import Workers

ROOT = Path(flujo_lens.__file__).resolve().parent.parent


def serving() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "flujo-lens-files"}


def test_work_is_done_by_a_few_threads() -> None:
    async def main() -> None:
        # Threads of tests before this one may end meanwhile: only those that are new count.
        workers, others, most = Workers(), serving(), []
        gate = threading.Barrier(worker_pool._MOST, timeout=10)

        def work(_: threading.Event) -> threading.Thread:
            gate.wait()
            most.append(len(serving() - others))
            return threading.current_thread()

        found = await asyncio.gather(*(workers.run(work) for _ in range(4 * worker_pool._MOST)))
        assert len(set(found)) == worker_pool._MOST
        assert set(most) == {worker_pool._MOST}

    asyncio.run(main())


def test_one_thread_is_enough_for_one_call_after_the_other() -> None:
    async def main() -> None:
        workers = Workers()
        found = set()
        for _ in range(20):
            found.add(await workers.run(lambda _: threading.get_ident()))
            while workers._free < 1:  # the thread tells of its work before it waits for more
                await asyncio.sleep(0.001)
        assert len(found) == 1
        assert threading.get_ident() not in found

    asyncio.run(main())


def test_threads_without_work_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_pool, "_IDLE", 0.01)

    async def main() -> None:
        workers = Workers()
        for _ in range(30):
            (thread,) = await asyncio.gather(workers.run(lambda _: threading.current_thread()))
            await asyncio.to_thread(thread.join, 10)
            assert not thread.is_alive()
        assert (workers._threads, workers._free) == (0, 0)

    asyncio.run(main())


def test_errors_come_out() -> None:
    def fail(_: threading.Event) -> None:
        raise SystemExit("no")

    async def main() -> None:
        workers = Workers()
        with pytest.raises(SystemExit, match="no"):
            await workers.run(fail)
        assert await workers.run(lambda _: 1) == 1

    asyncio.run(main())


@pytest.mark.parametrize("times", [1, 2])
def test_who_is_cancelled_waits_for_the_end(times: int) -> None:
    """Unless cancelled twice; the outcome is then nobody's, and no complaint."""
    complaints: list[object] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        workers, started, go_on, ended = Workers(), threading.Event(), threading.Event(), threading.Event()

        def work(stop: threading.Event) -> None:
            started.set()
            stop.wait(10)
            go_on.wait(10)
            ended.set()
            raise OSError("lost")

        task = asyncio.ensure_future(workers.run(work))
        await asyncio.to_thread(started.wait, 10)
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0.01)
        assert task.done() == (times == 2)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(ended.wait, 10)
        await asyncio.sleep(0.01)

    asyncio.run(main())
    assert complaints == []


def test_a_loop_that_has_gone() -> None:
    workers, go_on = Workers(), threading.Event()

    async def begin() -> None:
        workers._submit(worker_pool._Job(lambda _: go_on.wait(10)))

    asyncio.run(begin())
    go_on.set()

    async def again() -> int:
        return await workers.run(lambda _: 7)

    assert asyncio.run(again()) == 7


def test_threads_do_not_keep_a_process_alive(tmp_path: Path) -> None:
    code = """
import asyncio, sys
from flujo_lens.state.backends.file import FileBackend
backend = FileBackend(sys.argv[1])
asyncio.run(backend.save_state("r", {"status": "running"}))
print(asyncio.run(backend.load_state("r"))["status"])
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(tmp_path / "states")]
    done = subprocess.run(command, capture_output=True, env=environment, timeout=worker_pool._IDLE + 25, check=True)
    assert (done.stdout, done.stderr) == (b"running\n", b"")
