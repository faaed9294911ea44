"""Many writers, locks, signals, full disks: what was acknowledged is there, and nothing is half there."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import sqlite3
import subprocess
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from programs import python
from stores import NEW, copy, listed, read

from flujo_lens.errors import BusyError, ReadOnlyStoreError, StoreError
from flujo_lens.state.backends.sqlite import SQLiteBackend
from flujo_lens.state.backends.sqlite.engine.connection_thread import ConnectionThread
from flujo_lens.state.views import RunFilter

ROOT = Path(__file__).resolve().parents[2]
SOAK = bool(os.environ.get("LENS_SOAK"))
BLOB = {"text": "x" * 3000}

HEAD = """
import asyncio, os, sys
from flujo_lens.state.backends.sqlite import SQLiteBackend

def state(number):
    return {"status": "running", "current_step_index": number, "pipeline_context": {"n": number, "text": "x" * 3000}}
"""


def start(script: str, *arguments: Any) -> subprocess.Popen[str]:
    """A Python process that runs `script` behind `HEAD`."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return python("-c", HEAD + script, *arguments, text=True, **pipes)


def told(process: subprocess.Popen[str]) -> str:
    """The next line that a process prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def ended(process: subprocess.Popen[str]) -> str:
    """All that a process that ends well still prints."""
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    return out


def indexes(path: Path) -> dict[str, int]:
    """Where the state of each run stands; each is whole."""
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        found = db.execute(
            "SELECT run_id, current_step_index, json_extract(pipeline_context, '$.n'), "
            "length(json_extract(pipeline_context, '$.text')) FROM workflow_state"
        ).fetchall()
    assert all(at == inside and length == 3000 for _, at, inside, length in found)
    return {row[0]: row[1] for row in found}


@contextmanager
def locked(path: Path, how: str = "IMMEDIATE") -> Iterator[sqlite3.Connection]:
    """Somebody else holds the lock."""
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as db:
        db.execute(f"BEGIN {how}")
        yield db
        if db.in_transaction:
            db.execute("ROLLBACK")


# --- many writers


def test_many_processes_save_to_one_file(tmp_path: Path) -> None:
    path, saves = tmp_path / "s.db", 500 if SOAK else 50
    script = """
async def main():
    async with SQLiteBackend(sys.argv[1], timeout=60) as backend:
        for number in range(int(sys.argv[3])):
            await backend.save_state(f"{sys.argv[2]}-{number}", state(number))
asyncio.run(main())
"""
    for process in [start(script, path, name, saves) for name in range(8)]:
        ended(process)
    assert indexes(path) == {f"{name}-{number}": number for name in range(8) for number in range(saves)}


def test_threads_with_their_own_loops_share_a_backend(tmp_path: Path) -> None:
    backend = SQLiteBackend(tmp_path / "s.db")

    def work(name: int) -> None:
        async def many() -> None:
            for number in range(30):
                run_id = f"{name}-{number}"
                await backend.save_state(run_id, {"current_step_index": number, "pipeline_context": {"n": number}})
                assert (await backend.load_state(run_id) or {})["current_step_index"] == number

        asyncio.run(many())

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(work, range(8))) == [None] * 8
    asyncio.run(backend.shutdown())
    assert len(read(tmp_path / "s.db", listed)) == 240


def test_a_shutdown_while_others_save_loses_nothing(tmp_path: Path) -> None:
    async def work() -> None:
        backend = SQLiteBackend(tmp_path / "s.db")
        saves = [asyncio.ensure_future(backend.save_state(str(n), {"metadata": {"n": n}})) for n in range(50)]
        await asyncio.sleep(0)
        await asyncio.gather(backend.shutdown(), *saves)
        await backend.save_state("later", {})
        await backend.shutdown()

    asyncio.run(work())
    assert len(read(tmp_path / "s.db", listed)) == 51


# --- dying


CRASHING = """
async def main():
    async with SQLiteBackend(sys.argv[1], timeout=60) as backend:
        number = int(sys.argv[2])
        while True:
            number += 1
            await backend.save_state(f"run-{number % 7}", state(number))
            os.write(1, f"{number}\\n".encode())
asyncio.run(main())
"""


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    path, acknowledged = tmp_path / "s.db", 0
    for _ in range(200 if SOAK else 20):
        process = start(CRASHING, path, acknowledged)
        acknowledged = int(told(process))
        time.sleep(random.uniform(0, 0.05))
        process.kill()
        assert process.stdout is not None
        rest = process.stdout.read().split("\n")  # `communicate` would lose what `readline` has read ahead
        process.communicate(timeout=60)
        acknowledged = max([acknowledged, *(int(line) for line in rest[:-1])])
        newest = max(indexes(path).values())
        assert newest in (acknowledged, acknowledged + 1), "the save that nobody heard of may be there"
        acknowledged = newest


def test_a_kill_while_the_file_is_made_leaves_none_or_an_empty_store(tmp_path: Path) -> None:
    for number in range(60 if SOAK else 6):
        path = tmp_path / f"{number}.db"
        process = start(CRASHING, path, 0)
        while not path.exists() and process.poll() is None:
            time.sleep(0.0005)
        time.sleep(random.uniform(0, 0.01))
        process.kill()
        process.communicate(timeout=60)
        read(path, lambda b: b.save_state("after", {"pipeline_context": {"n": 0, "text": "x" * 3000}}))
        assert indexes(path)["after"] == 0


# --- locks


def test_a_save_waits_for_a_lock_until_it_goes(tmp_path: Path) -> None:
    path = copy(NEW, tmp_path)
    inode = path.stat().st_ino
    for how in ("IMMEDIATE", "EXCLUSIVE"):
        with locked(path, how) as other:

            async def work(backend: SQLiteBackend, other: sqlite3.Connection = other) -> None:
                saving = asyncio.ensure_future(backend.save_state("waited", {"status": "paused"}))
                await asyncio.wait({saving}, timeout=0.3)
                assert not saving.done()
                other.execute("ROLLBACK")
                await saving
                assert (await backend.load_state("waited") or {})["status"] == "paused"

            read(path, work, timeout=60)
    assert path.stat().st_ino == inode


def test_a_lock_that_stays_fails_cleanly(tmp_path: Path) -> None:
    path = copy(NEW, tmp_path)
    inode = path.stat().st_ino

    async def work(backend: SQLiteBackend) -> None:
        await backend.save_state("x", {"status": "running"})
        with locked(path):
            began = time.monotonic()
            with pytest.raises(BusyError, match="locked by another process; nothing was changed"):
                await backend.save_state("x", {"status": "failed"})
            assert time.monotonic() - began >= 0.5
            with pytest.raises(BusyError):
                await backend.delete_run("x")
            assert (await backend.load_state("x") or {})["status"] == "running"
        await backend.save_state("x", {"status": "completed"})
        assert (await backend.load_state("x") or {})["status"] == "completed"

    read(path, work, timeout=0.5)
    assert (path.stat().st_ino, sorted(p.name for p in tmp_path.iterdir())) == (inode, ["flujo_ops.db"])


def test_a_process_that_has_the_file_for_itself_is_waited_for(tmp_path: Path) -> None:
    path = copy(NEW, tmp_path)
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("PRAGMA locking_mode = exclusive")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(BusyError):
            read(path, lambda b: b.save_state("x", {}), timeout=0.2)
        timer = threading.Timer(0.3, other.close)
        timer.start()
        read(path, lambda b: b.save_state("x", {}), timeout=60)
        timer.join()


def test_a_rollback_journal_whose_reader_goes_is_written_after_it(tmp_path: Path) -> None:
    """There a commit, not only the beginning, has to wait: for every reader."""
    path = copy(NEW, tmp_path)
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as reader:
        assert reader.execute("PRAGMA journal_mode = delete").fetchone() == ("delete",)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM runs").fetchone()
        with pytest.raises(BusyError):
            read(path, lambda b: b.save_run_start({"run_id": "x"}), timeout=0.2)
        timer = threading.Timer(0.3, lambda: reader.execute("ROLLBACK"))
        timer.start()
        read(path, lambda b: b.save_run_start({"run_id": "x"}), timeout=60)
        timer.join()
    assert "x" in {run.run_id for run in read(path, listed)}


# --- cancelling


def test_a_save_that_waits_for_a_lock_can_be_cancelled(tmp_path: Path) -> None:
    path = copy(NEW, tmp_path)

    async def work(backend: SQLiteBackend) -> None:
        await backend.save_state("x", {"status": "running"})
        with locked(path):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(backend.save_state("x", {"status": "failed"}), 0.1)
            waiting = asyncio.ensure_future(backend.save_run_start({"run_id": "y"}))
            behind = asyncio.ensure_future(backend.save_run_start({"run_id": "z"}))
            await asyncio.sleep(0.05)
            for task in (behind, waiting):
                task.cancel()
            await asyncio.wait({waiting, behind})
            assert waiting.cancelled()
            assert behind.cancelled()
        await backend.save_state("after", {})
        assert (await backend.load_state("x") or {})["status"] == "running"
        assert not {"y", "z"} & {run.run_id for run in await listed(backend)}

    read(path, work, timeout=3600)


def test_a_cancelled_save_is_done_or_not(tmp_path: Path) -> None:
    path = tmp_path / "s.db"

    async def work(backend: SQLiteBackend) -> None:
        kept: dict[str, int] = {}
        for number in range(200):
            state = {"current_step_index": number, "pipeline_context": {"n": number, "text": "x" * 3000}}
            saving = asyncio.ensure_future(backend.save_state(f"run-{number % 5}", state))
            for _ in range(number % 4):
                await asyncio.sleep(0)
            await asyncio.sleep(random.choice([0, 0, 0.0002, 0.0005]))
            saving.cancel()
            await asyncio.wait({saving})
            loaded = await backend.load_state(f"run-{number % 5}")
            found = loaded["current_step_index"] if loaded else None
            before = kept.get(f"run-{number % 5}")
            assert found in ((before, number) if saving.cancelled() else (number,))
            if found is not None:
                kept[f"run-{number % 5}"] = found
        await backend.save_state("after", {"pipeline_context": {"n": 0, "text": "x" * 3000}})
        assert indexes(path) == {**kept, "after": 0}

    read(path, work)


def test_cancelling_stops_only_what_it_is_meant_for(tmp_path: Path) -> None:
    path = tmp_path / "s.db"

    async def work(backend: SQLiteBackend) -> None:
        await backend.save_state("x", {})
        for _ in range(100):
            first = asyncio.ensure_future(backend.save_state("x", {"metadata": BLOB}))
            second = asyncio.ensure_future(backend.save_state("y", {"metadata": BLOB}))
            await asyncio.sleep(random.choice([0, 0.0001, 0.0003]))
            first.cancel()
            await second
            await asyncio.wait({first})

    read(path, work)


def test_a_loop_that_is_closed_meanwhile_does_no_harm(tmp_path: Path) -> None:
    path = copy(NEW, tmp_path)
    backend = SQLiteBackend(path, timeout=60)
    asyncio.run(backend.save_state("x", {}))
    with locked(path) as other:
        loop = asyncio.new_event_loop()
        task = loop.create_task(backend.save_state("left", {}))
        loop.run_until_complete(asyncio.sleep(0.05))
        loop.close()
        other.execute("ROLLBACK")
        asyncio.run(backend.save_state("after", {}))
    assert asyncio.run(backend.load_state("left")) is not None
    asyncio.run(backend.shutdown())
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    task.get_coro().close()


# --- what cannot be written


def test_a_file_that_may_not_grow_keeps_the_state_before(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    script = """
import resource
from flujo_lens.errors import OperationFailedError

async def main():
    async with SQLiteBackend(sys.argv[1]) as backend:
        await backend.save_state("x", state(1))
        resource.setrlimit(resource.RLIMIT_FSIZE, (40000, resource.RLIM_INFINITY))
        failed = 0
        for number in range(20):
            try:
                await backend.save_state("big", state(2) | {"metadata": {"text": "y" * 50000}})
            except OperationFailedError as error:
                failed += 1
                assert "nothing was changed" in str(error) and error.hint, error
        assert failed == 20, failed
        assert (await backend.load_state("x"))["current_step_index"] == 1
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        await backend.save_state("x", state(3))
asyncio.run(main())
"""
    ended(start(script, path))
    assert indexes(path) == {"x": 3}


def test_an_id_that_no_column_takes_changes_nothing(tmp_path: Path) -> None:
    async def work(backend: SQLiteBackend) -> None:
        await backend.save_state("x", {"status": "running"})
        with pytest.raises(ValueError, match="lone surrogate"):
            await backend.save_state("\ud800", {})
        assert await backend.load_state("\ud800") is None
        assert (await backend.load_state("x") or {})["status"] == "running"

    read(tmp_path / "s.db", work)


def test_a_folder_that_is_not_there_is_made_by_the_first_save(tmp_path: Path) -> None:
    path = tmp_path / "none" / "below" / "s.db"
    read(path, lambda b: b.delete_run("x"))
    assert list(tmp_path.iterdir()) == []
    read(path, lambda b: b.save_state("x", {}))
    assert path.exists()


def test_a_file_where_a_folder_should_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match="file"):
        read(tmp_path / "file" / "s.db", lambda b: b.save_state("x", {}))
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anything")
def test_a_read_only_file_is_told(tmp_path: Path) -> None:
    path = copy(NEW, tmp_path)
    path.chmod(0o444)
    with pytest.raises(ReadOnlyStoreError):
        read(path, lambda b: b.save_state("x", {}))


# --- processes and threads that end


def test_a_child_of_a_fork_opens_the_file_anew(tmp_path: Path) -> None:
    """The parent's connection would go on in the child, with locks that only the parent holds."""
    script = """
async def saved(backend, name):
    for number in range(50):
        await backend.save_state(name, state(number))
    return (await backend.load_state(name))["current_step_index"] == 49

backend = SQLiteBackend(sys.argv[1])
assert asyncio.run(saved(backend, "before"))
child = os.fork()
if not child:
    os._exit(0 if asyncio.run(saved(backend, "child")) and not asyncio.run(backend.shutdown()) else 1)
assert asyncio.run(saved(backend, "parent"))
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert asyncio.run(saved(backend, "after"))
asyncio.run(backend.shutdown())
"""
    ended(start(script, tmp_path / "s.db"))
    assert indexes(tmp_path / "s.db") == dict.fromkeys(("before", "child", "parent", "after"), 49)


def test_a_process_that_ends_without_a_shutdown_keeps_its_states(tmp_path: Path) -> None:
    script = """
async def main():
    backend = SQLiteBackend(sys.argv[1])
    for number in range(10):
        await backend.save_state("x", state(number))
    return backend
kept = asyncio.run(main())
"""
    assert ended(start(script, tmp_path / "s.db")) == ""
    assert indexes(tmp_path / "s.db") == {"x": 9}


def test_a_terminated_process_keeps_its_states(tmp_path: Path) -> None:
    process = start(CRASHING, tmp_path / "s.db", 0)
    acknowledged = int(told(process))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert max(indexes(tmp_path / "s.db").values()) >= acknowledged


def test_a_backend_that_is_forgotten_leaves_no_thread(tmp_path: Path) -> None:
    def use() -> weakref.ref[SQLiteBackend]:
        backend = SQLiteBackend(tmp_path / "s.db")
        asyncio.run(backend.save_state("x", {}))
        asyncio.run(backend.load_state("x"))  # type: ignore[arg-type]
        return weakref.ref(backend)

    before = set(threading.enumerate())
    forgotten = use()
    gc.collect()
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=30)
    assert forgotten() is None
    assert set(threading.enumerate()) <= before


def test_a_worker_takes_off_what_waits_and_goes_on() -> None:
    async def work() -> None:
        stopped, done = threading.Event(), []
        worker = ConnectionThread(stopped.set)
        first = asyncio.ensure_future(worker.run(lambda: stopped.wait(30)))
        second = asyncio.ensure_future(worker.run(lambda: done.append("second")))
        third = asyncio.ensure_future(worker.run(lambda: done.append("third")))
        await asyncio.sleep(0.01)
        second.cancel()
        await asyncio.wait({second})
        assert not stopped.is_set(), "what runs is not stopped for one that waits"
        first.cancel()
        await third
        await asyncio.wait({first})
        assert (first.cancelled(), second.cancelled(), done) == (True, True, ["third"])
        assert not worker.stopped.is_set()
        await worker.close(lambda: done.append("closed"))
        assert (await worker.run(lambda: 5), done[-1]) == (5, "closed")
        await worker.close(lambda: None)

    asyncio.run(work())


def test_a_loop_that_is_closed_in_the_middle_of_a_call_leaves_the_next_one_working(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """And nothing is printed by the thread, whose result nobody takes."""
    worker, begun, go_on, done = ConnectionThread(lambda: None), threading.Event(), threading.Event(), []

    def work() -> None:
        begun.set()
        done.append(go_on.wait(30))

    loop = asyncio.new_event_loop()
    call = worker.run(work)
    task = loop.create_task(call)
    loop.run_until_complete(asyncio.wait([task], timeout=0.01))
    assert begun.wait(30)
    loop.close()
    go_on.set()
    assert asyncio.run(worker.run(lambda: len(done))) == 1
    asyncio.run(worker.close(lambda: None))
    assert capfd.readouterr().err == ""
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    call.close()


def test_a_caller_that_is_cancelled_twice_is_gone_at_once_and_the_thread_goes_on() -> None:
    async def work() -> None:
        worker, begun, go_on = ConnectionThread(lambda: None), threading.Event(), threading.Event()
        task = asyncio.ensure_future(worker.run(lambda: (begun.set(), go_on.wait(30))))
        while not begun.is_set():  # before, it is not begun at all
            await asyncio.sleep(0.001)
        task.cancel()
        assert not (await asyncio.wait([task], timeout=0.05))[0], "it waits for the end of the function"
        task.cancel()
        assert (await asyncio.wait([task], timeout=10))[0]
        go_on.set()
        assert await worker.run(lambda: 7) == 7
        await worker.close(lambda: None)

    asyncio.run(work())


def test_an_error_of_the_work_is_the_callers() -> None:
    async def work() -> None:
        worker = ConnectionThread(lambda: None)
        with pytest.raises(ZeroDivisionError):
            await worker.run(lambda: 1 / 0)
        assert await worker.run(lambda: "on") == "on"
        await worker.close(lambda: None)

    asyncio.run(work())


# --- reading and writing in one process, while another has the store open


def test_whoever_reads_first_may_write_then(tmp_path: Path) -> None:
    """SQLite shares a read-only mapping of the -shm with every connection of a process."""
    path = copy(NEW, tmp_path)

    async def work(backend: SQLiteBackend) -> None:
        async with SQLiteBackend(path) as other:
            assert await backend.load_state("fail-001")
            assert await other.load_state("fail-001")
            await backend.save_state("x", {})
            await other.save_state("y", {})
            assert {"x", "y"} <= {run.run_id for run in await listed(backend)}

    with closing(sqlite3.connect(path)) as open_elsewhere:
        open_elsewhere.execute("DELETE FROM system_state")
        open_elsewhere.commit()
        assert path.with_name(path.name + "-wal").stat().st_size > 0
        read(path, work, timeout=5)


def test_runs_may_be_saved_while_they_are_listed(tmp_path: Path) -> None:
    script = """
async def main():
    async with SQLiteBackend(sys.argv[1]) as backend:
        await backend.save_state("running", state(0))
        print("open", flush=True)
        sys.stdin.readline()
asyncio.run(main())
"""
    path = copy(NEW, tmp_path)
    before = {run.run_id for run in read(path, listed)}
    process = start(script, path)
    assert told(process) == "open"

    async def work(backend: SQLiteBackend) -> None:
        found = []
        async for run in backend.iter_runs(RunFilter()):
            if run.run_id in before:
                await backend.save_state(run.run_id, {"status": "cancelled"})
            found.append(run.run_id)
        assert sorted(found) == sorted({*before, "running"})

    read(path, work, timeout=5)
    ended(process)
