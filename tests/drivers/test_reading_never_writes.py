"""Reading never writes: whatever state a store is in, no byte, no time and no file beside it changes."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from programs import environment, python, run_python
from stores import NEW, OLD, WAL, copy, listed, make, read, run, runs, state, traces_of

from flujo_lens.errors import (
    BusyError,
    CorruptStoreError,
    LensError,
    StoreError,
    StoreNotFoundError,
    UnreachableStoreError,
)
from flujo_lens.state.backends.sqlite import SQLiteBackend
from flujo_lens.state.backends.sqlite.engine.read_connection import translate
from flujo_lens.state.views import RunFilter

ROOT = Path(__file__).resolve().parents[2]
FAILED = RunFilter(statuses=frozenset({"failed"}))


def _rollback(folder: Path) -> Path:
    path = copy(NEW, folder)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA journal_mode = delete").fetchone() == ("delete",)
    return path


def _checkpointed(folder: Path) -> Path:
    path = copy(OLD, folder)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA journal_mode = wal").fetchone() == ("wal",)
    return path


def _without(end: str) -> Callable[[Path], Path]:
    def made(folder: Path) -> Path:
        path = copy(WAL, folder)
        path.with_name(path.name + end).unlink()
        return path

    return made


def _truncated(end: str) -> Callable[[Path], Path]:
    def made(folder: Path) -> Path:
        path = copy(WAL, folder)
        path.with_name(path.name + end).write_bytes(b"")
        return path

    return made


def _empty_wal_alone(folder: Path) -> Path:
    path = _checkpointed(folder)
    path.with_name(path.name + "-wal").write_bytes(b"")
    return path


def _linked(folder: Path) -> Path:
    path = copy(WAL, folder / "real")
    link = folder / "link.db"
    link.symlink_to(path)
    return link


def _odd_name(folder: Path) -> Path:
    path = copy(WAL, folder / "a ?b#c%41")
    for found in path.parent.iterdir():
        found.rename(found.with_name(found.name.replace("flujo_ops", "x?y#%z é")))
    return path.with_name("x?y#%z é.db")


WAYS: dict[str, Callable[[Path], Path]] = {
    "rollback journal": _rollback,
    "WAL, checkpointed": _checkpointed,
    "WAL, -wal and -shm": lambda folder: copy(WAL, folder),
    "WAL, -wal alone": _without("-shm"),
    "WAL, -shm alone": _without("-wal"),
    "WAL, -wal and an empty -shm": _truncated("-shm"),
    "WAL, an empty -wal and -shm": _truncated("-wal"),
    "WAL, an empty -wal alone": _empty_wal_alone,
    "a link": _linked,
    "odd letters": _odd_name,
}
WITH_WAL = ("WAL, -wal and -shm", "WAL, -wal alone", "WAL, -wal and an empty -shm", "a link", "odd letters")
IN_WAL = {"crashed-001", "bgcrashed-001"}
"""Runs whose states are in the WAL alone."""


async def _iterated(backend: SQLiteBackend) -> None:
    assert len(await listed(backend)) == len(await listed(backend, ordered=False, details=False))


async def _left(backend: SQLiteBackend) -> None:
    async for found in backend.iter_runs(RunFilter()):
        assert found.run_id
        break


READS: dict[str, Callable[[SQLiteBackend], Awaitable[Any]]] = {
    "load_state": lambda b: b.load_state("fail-001"),
    "list_states": lambda b: b.list_states(),
    "list_runs": lambda b: b.list_runs(limit=3),
    "list_workflows": lambda b: b.list_workflows(status="paused"),
    "get_run_details": lambda b: b.get_run_details("fail-001"),
    "list_run_steps": lambda b: b.list_run_steps("fail-001"),
    "get_spans": lambda b: b.get_spans("trace4-001"),
    "get_trace": lambda b: b.get_trace("trace4-001"),
    "get_span_statistics": lambda b: b.get_span_statistics("orders"),
    "get_workflow_stats": lambda b: b.get_workflow_stats(),
    "get_failed_workflows": lambda b: b.get_failed_workflows(10**6),
    "list_background_tasks": lambda b: b.list_background_tasks(),
    "get_failed_background_tasks": lambda b: b.get_failed_background_tasks(),
    "list_evaluations": lambda b: b.list_evaluations(),
    "get_system_state": lambda b: b.get_system_state("watermark:crm"),
    "iter_runs": _iterated,
    "iter_runs, left": _left,
    "query_runs": lambda b: b.query_runs(FAILED, limit=1),
    "count_runs": lambda b: b.count_runs(FAILED),
    "find_run_ids": lambda b: b.find_run_ids("orders-"),
    "read_run": lambda b: b.read_run("paused-001"),
    "read_spans": lambda b: b.read_spans("trace4-001"),
    "read_stats": lambda b: b.read_stats(RunFilter()),
    "read_span_stats": lambda b: b.read_span_stats(FAILED),
    "read_evaluations": lambda b: b.read_evaluations(),
    "read_system_state": lambda b: b.read_system_state(),
    "read_facts": lambda b: b.read_facts(),
}


async def _all_reads(backend: SQLiteBackend) -> None:
    for work in READS.values():
        await work(backend)


COMMANDS = """
import contextlib, importlib, io, os, pkgutil, sys
import flujo_lens
from flujo_lens.cli.app import main

LINES = (
    "list", "list --all -o ndjson", "list --status failed --count", "show fail-001 -v", "show paused-001 --state",
    "trace trace4-001", "stats", "status", "failed --hours 99999", "failed --flat", "waiting", "tasks list", "evals",
    "system list",
)

STORES = sys.argv[1:]

def every(store):
    for line in LINES:
        sys.argv = ["lens", *line.split(), "--store", store]
        try:
            main()
        except SystemExit as end:
            assert not end.code, (line, end.code)
"""


def _commands(script: str, *arguments: str, cwd: Path) -> None:
    """Run `script` after `COMMANDS` in a process of its own."""
    own = {"XDG_CACHE_HOME": str(cwd / "cache"), "HOME": str(cwd), "PYTHONDONTWRITEBYTECODE": "1"}
    found = run_python("-c", COMMANDS + script, *arguments, cwd=cwd, env=environment(own))
    assert found.returncode == 0, found.stderr[-3000:]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_reading_method(way: str, tmp_path: Path) -> None:
    path = WAYS[way](tmp_path / "store")
    before = traces_of(tmp_path / "store")

    async def work() -> None:
        for name, reading in READS.items():
            async with SQLiteBackend(path) as backend:
                await reading(backend)
                assert traces_of(tmp_path / "store") == before, f"{name}, while open"
            assert traces_of(tmp_path / "store") == before, name
        async with SQLiteBackend(path) as backend:
            await _all_reads(backend)
            await asyncio.gather(*(reading(backend) for reading in READS.values()))
        assert traces_of(tmp_path / "store") == before

    asyncio.run(work())


def test_the_commands(way: str, tmp_path: Path) -> None:
    path = WAYS[way](tmp_path / "store")
    before = traces_of(tmp_path / "store")
    (tmp_path / "here").mkdir()
    _commands("every(STORES[0])", str(path), cwd=tmp_path / "here")
    assert traces_of(tmp_path / "store") == before


@pytest.mark.parametrize("way", WITH_WAL)
def test_what_is_in_the_wal_alone_is_seen(way: str, tmp_path: Path) -> None:
    path = WAYS[way](tmp_path)
    assert {found.run_id for found in runs(path)} >= IN_WAL
    found = read(path, lambda b: b.read_run("crashed-001"))
    assert found is not None
    assert found.run.current_step_index == 2
    assert read(path, lambda b: b.count_runs(RunFilter())) == 30


def test_without_the_wal_what_was_in_it_is_gone(tmp_path: Path) -> None:
    """Nothing can bring it back; but the store reads as it is."""
    path = WAYS["WAL, -shm alone"](tmp_path)
    assert len(runs(path)) < 30
    assert "orders-v1-001" in {found.run_id for found in runs(path)}


def test_a_read_only_file(way: str, tmp_path: Path) -> None:
    path = WAYS[way](tmp_path / "store")
    for found in path.resolve().parent.iterdir():
        found.chmod(0o444)
    before = traces_of(tmp_path / "store")
    read(path, _all_reads)
    assert traces_of(tmp_path / "store") == before


AS_NOBODY = """
for module in pkgutil.walk_packages(flujo_lens.__path__, "flujo_lens."):
    if ".redis" not in module.name and ".postgres" not in module.name and "__main__" not in module.name:
        importlib.import_module(module.name)
every(STORES[1])
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
try:
    open(os.path.join(os.path.dirname(os.path.realpath(STORES[0])), "x"), "w")
except PermissionError:
    every(STORES[0])
else:
    raise AssertionError("the folder can be written")
"""
"""Modules are imported as root (the interpreter may lie where nobody can read), the store is read as nobody."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A folder that anybody may look into: above `tmp_path` every pytest that starts shuts the others out."""
    with TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def _read_as_nobody(path: Path, open_path: Path) -> None:
    """Run the commands in a folder that the user may only read."""
    warm = copy(NEW, open_path / "warm")
    (open_path / "here").mkdir()
    for folder in (open_path / "store", path.resolve().parent):
        folder.chmod(0o555)
    before = traces_of(open_path / "store")
    _commands(AS_NOBODY, str(path), str(warm), cwd=open_path / "here")
    assert traces_of(open_path / "store") == before


@needs_root
@pytest.mark.parametrize("way", list(WAYS)[:6])
def test_a_read_only_folder_as_another_user(way: str, open_path: Path) -> None:
    _read_as_nobody(WAYS[way](open_path / "store"), open_path)


@needs_root
def test_a_read_only_folder_as_another_user_beside_a_writer(open_path: Path) -> None:
    path = copy(NEW, open_path / "store")
    with writer(path) as other:
        other(f"PRAGMA journal_mode = wal; {_save('saved')}; BEGIN IMMEDIATE; {_save('open')}")
        _read_as_nobody(path, open_path)


def test_a_path_that_leads_nowhere_makes_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    before = traces_of(tmp_path)
    for path in (tmp_path / "folder" / "none.db", tmp_path / "no folder" / "none.db"):
        for name in ("iter_runs", "query_runs", "read_run", "read_stats", "read_facts"):
            with pytest.raises(StoreNotFoundError):
                read(path, READS[name])
        assert read(path, lambda b: b.load_state("x")) is None
        assert read(path, lambda b: b.list_states()) == []
    assert traces_of(tmp_path) == before


# --- beside another process


WRITER = """
import os, signal, sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=10)
for line in sys.stdin:
    for statement in line.strip().split(";"):
        db.execute(statement).fetchall()
    print("done", flush=True)
"""


class Writer:
    """Another process with the store open, which does what it is told and then waits."""

    def __init__(self, path: Path) -> None:
        self.process = python("-c", WRITER, path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, statements: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(statements, file=self.process.stdin, flush=True)
        assert self.process.stdout.readline() == "done\n"

    def close(self) -> None:
        """Close the store as a process does that ends well."""
        self.process.communicate(timeout=60)

    def kill(self) -> None:
        """End it in the middle."""
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate(timeout=60)


@contextmanager
def writer(path: Path) -> Iterator[Writer]:
    made = Writer(path)
    try:
        yield made
    finally:
        made.kill()


def _save(run_id: str, status: str = "running") -> str:
    columns = "run_id, pipeline_id, pipeline_name, pipeline_version, current_step_index, status, created_at, updated_at"
    values = f"'{run_id}', 'i', 'p', '1', 0, '{status}', '2026-12-01T00:00:00+00:00', '2026-12-01T00:00:00+00:00'"
    return f"INSERT OR REPLACE INTO workflow_state ({columns}) VALUES ({values})"


def _ids(path: Path, **more: Any) -> set[str]:
    return {found.run_id for found in runs(path, **more)}


def test_beside_a_writer_in_a_transaction(tmp_path: Path) -> None:
    path = copy(NEW, tmp_path / "store")
    with writer(path) as other:
        other(f"PRAGMA journal_mode = wal; BEGIN IMMEDIATE; {_save('saved')}; COMMIT; BEGIN IMMEDIATE; {_save('open')}")
        before = traces_of(tmp_path / "store")
        assert {"flujo_ops.db-wal", "flujo_ops.db-shm"} <= set(before)
        read(path, _all_reads)
        found = _ids(path)
        assert "saved" in found
        assert "open" not in found
        assert traces_of(tmp_path / "store") == before
        other("COMMIT")
        assert "open" in _ids(path)


def test_a_backend_sees_what_was_written_since_its_last_read(tmp_path: Path) -> None:
    """Through every state that a store goes through: nobody has it open, somebody does, checkpointed, closed."""
    path = copy(NEW, tmp_path)

    async def work() -> None:
        async def seen(run_id: str) -> None:
            assert await backend.load_state(run_id) is not None, run_id
            assert run_id in {found.run_id for found in await listed(backend)}

        async with SQLiteBackend(path) as backend:
            await seen("fail-001")
            with writer(path) as other:
                other("PRAGMA journal_mode = wal")
                other(_save("in-the-wal"))
                await seen("in-the-wal")
                other("PRAGMA wal_checkpoint(TRUNCATE)")
                await seen("in-the-wal")
                other(_save("after-the-checkpoint"))
                await seen("after-the-checkpoint")
                other.close()
            await seen("after-the-checkpoint")
        with writer(path) as other:
            other("PRAGMA journal_mode = delete")
            other(_save("in-the-file"))
        async with SQLiteBackend(path) as backend:
            await seen("in-the-file")
            with writer(path) as other:
                other("PRAGMA journal_mode = wal")
                other(_save("killed"))
                other.kill()
            await seen("killed")
            shutil.copyfile(path, tmp_path / "other.db")
            os.replace(tmp_path / "other.db", path)
            await seen("in-the-file")

    asyncio.run(work())


def test_beside_a_writer_that_checkpoints_all_the_time(tmp_path: Path) -> None:
    """What a list shows belongs together: the writer always moves one run's worth from one status to the other."""
    path = make(tmp_path / "s.db", {"workflow_state": [state(f"r{at:03}", status="running") for at in range(300)]})
    script = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
db.execute("PRAGMA journal_mode = wal")
db.execute("PRAGMA synchronous = off")
print("begun", flush=True)
at = 0
while True:
    db.execute("BEGIN IMMEDIATE")
    db.execute("UPDATE workflow_state SET status = 'running'")
    db.execute("UPDATE workflow_state SET status = 'paused' WHERE run_id = ?", (f"r{at % 300:03}",))
    db.execute("COMMIT")
    at += 1
    if at % 3 == 0:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    if at % 50 == 0:
        db.close()
        db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
"""
    other = python("-c", script, path, stdout=subprocess.PIPE)
    assert other.stdout is not None
    assert other.stdout.readline() == b"begun\n"

    async def work(backend: SQLiteBackend) -> None:
        for _ in range(40):
            page = await backend.query_runs(RunFilter(), limit=1000)
            assert len(page.items) == 300
            assert sum(found.status == "paused" for found in page.items) <= 1
            assert await backend.count_runs(RunFilter()) == 300
            stats = await backend.read_stats(RunFilter())
            assert stats.total == 300

    try:
        read(path, work, timeout=30.0)
    finally:
        other.kill()
        other.communicate(timeout=60)


def _many(path: Path, count: int) -> Path:
    rows = [run(f"r{at:04}", created_at=f"2026-03-01T10:{at // 60:02}:{at % 60:02}+00:00") for at in range(count)]
    make(path, {"runs": rows})
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = wal")
    return path


def test_a_list_goes_on_where_the_store_changed_under_it(tmp_path: Path) -> None:
    path = _many(tmp_path / "s.db", 700)

    async def work(backend: SQLiteBackend) -> list[str]:
        ids = []
        async for found in backend.iter_runs(RunFilter()):
            ids.append(found.run_id)
            if len(ids) == 50:
                with writer(path) as other:
                    other("UPDATE runs SET status = 'failed'; PRAGMA wal_checkpoint(TRUNCATE)")
        return ids

    assert read(path, work) == [f"r{at:04}" for at in reversed(range(700))]


def test_a_list_without_an_order_cannot_go_on(tmp_path: Path) -> None:
    path = _many(tmp_path / "s.db", 700)

    async def work(backend: SQLiteBackend) -> None:
        seen = 0
        async for _ in backend.iter_runs(RunFilter(), ordered=False):
            seen += 1
            if seen > 1:
                continue
            with writer(path) as other:
                other("UPDATE runs SET status = 'failed'; PRAGMA wal_checkpoint(TRUNCATE)")

    with pytest.raises(BusyError):
        read(path, work)


def test_a_locked_store_is_busy_after_the_timeout(tmp_path: Path) -> None:
    path = _rollback(tmp_path / "store")
    with writer(path) as other:
        other("BEGIN EXCLUSIVE")
        before = traces_of(tmp_path / "store")
        for name in ("load_state", "query_runs", "iter_runs", "read_run", "read_stats", "read_facts"):
            with pytest.raises(BusyError):
                read(path, READS[name], timeout=0.05)
        assert traces_of(tmp_path / "store") == before


@pytest.mark.parametrize("name", ["load_state", "iter_runs", "query_runs"])
def test_a_lock_that_is_let_go_in_time_is_waited_for(name: str, tmp_path: Path) -> None:
    path = _rollback(tmp_path)

    async def work(backend: SQLiteBackend) -> None:
        reading = asyncio.ensure_future(READS[name](backend))
        await asyncio.wait({reading}, timeout=0.4)
        assert not reading.done()
        other("ROLLBACK")
        await reading

    with writer(path) as other:
        other("BEGIN EXCLUSIVE")
        read(path, work, timeout=60.0)


def test_beside_a_writer_that_has_only_reserved(tmp_path: Path) -> None:
    path = _rollback(tmp_path / "store")
    with writer(path) as other:
        other(f"BEGIN IMMEDIATE; {_save('open')}")
        before = traces_of(tmp_path / "store")
        read(path, _all_reads)
        assert "open" not in _ids(path)
        assert traces_of(tmp_path / "store") == before


def test_a_hot_journal_is_left_to_a_writer(tmp_path: Path) -> None:
    """A writer died in the middle of a transaction that had gone to the file already."""
    path = _rollback(tmp_path / "store")
    with writer(path) as other:
        other("PRAGMA cache_size = 1; PRAGMA cache_spill = 1; BEGIN IMMEDIATE")
        other("UPDATE workflow_state SET pipeline_context = pipeline_context || hex(zeroblob(9000))")
        other.kill()
    before = traces_of(tmp_path / "store")
    assert before["flujo_ops.db-journal"][1] > 0
    for name in ("load_state", "query_runs", "iter_runs", "read_stats", "read_facts"):
        with pytest.raises(StoreError, match="journal") as caught:
            read(path, READS[name], timeout=0.2)
        assert isinstance(caught.value, UnreachableStoreError)
    assert traces_of(tmp_path / "store") == before
    with writer(path) as other:
        other("SELECT count(*) FROM workflow_state")
        other.close()
    assert len(runs(path)) == 30


def test_a_writer_that_was_killed_in_wal_mode(tmp_path: Path) -> None:
    path = copy(NEW, tmp_path / "store")
    with writer(path) as other:
        other(f"PRAGMA journal_mode = wal; {_save('saved')}; BEGIN IMMEDIATE; {_save('open')}")
        other.kill()
    before = traces_of(tmp_path / "store")
    assert {"flujo_ops.db-wal", "flujo_ops.db-shm"} <= set(before)
    read(path, _all_reads)
    found = _ids(path)
    assert "saved" in found
    assert "open" not in found
    assert traces_of(tmp_path / "store") == before


# --- the locks of this process


def test_reading_does_not_drop_the_locks_of_the_writing_half(tmp_path: Path) -> None:
    """POSIX drops all locks of a process on a file when it closes any descriptor of it.

    Without its lock, a connection's WAL is deleted by the next process that closes the store.
    """
    path = tmp_path / "s.db"

    async def work(backend: SQLiteBackend) -> None:
        await backend.save_state("first", {"status": "running"})
        await _all_reads_of_any(backend)
        with writer(path) as other:
            other(_save("of the other"))
            other.close()
        assert path.with_name("s.db-wal").exists()
        await backend.save_state("second", {"status": "running"})
        assert await asyncio.to_thread(_ids, path) == {"first", "of the other", "second"}
        with writer(path) as other:
            other("DELETE FROM workflow_state WHERE run_id = 'second'")
        assert await backend.load_state("second") is None

    read(path, work)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def _all_reads_of_any(backend: SQLiteBackend) -> None:
    await listed(backend)
    await backend.query_runs(RunFilter())
    await backend.read_run("first")
    async with SQLiteBackend(backend.path) as another:
        await listed(another)


def test_stores_without_end_do_not_use_up_the_descriptors(tmp_path: Path) -> None:
    path = make(tmp_path / "0.db", {"runs": [run("a")]})
    for at in range(1, 200):
        shutil.copyfile(path, tmp_path / f"{at}.db")
    before = len(os.listdir("/proc/self/fd"))
    for at in range(200):
        assert read(tmp_path / f"{at}.db", lambda b: b.find_run_ids("a")) == ["a"]
    assert len(os.listdir("/proc/self/fd")) < before + 100


# --- interrupted


FOREVER = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) FROM c"
LONG = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT 3000000) SELECT count(*) FROM c"


def test_a_cancelled_read_stops_and_the_backend_goes_on(tmp_path: Path) -> None:
    path = copy(NEW, tmp_path)

    async def work(backend: SQLiteBackend) -> None:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(backend._store.read(lambda session: session.value(FOREVER)), 0.1)
            assert len(await listed(backend)) == 30

    read(path, work)


def test_to_cancel_a_read_that_waits_for_its_turn_disturbs_no_other(tmp_path: Path) -> None:
    path = copy(NEW, tmp_path)

    async def work(backend: SQLiteBackend) -> None:
        first = asyncio.ensure_future(backend._store.read(lambda session: session.value(LONG)))
        await asyncio.sleep(0.05)
        second = asyncio.ensure_future(backend.read_run("fail-001"))
        await asyncio.sleep(0.05)
        second.cancel()
        assert await first == 3_000_000
        with pytest.raises(asyncio.CancelledError):
            await second

    read(path, work)


@pytest.mark.parametrize("name", ["load_state", "iter_runs"])
def test_a_read_that_waits_for_a_lock_can_be_cancelled(name: str, tmp_path: Path) -> None:
    path = _rollback(tmp_path)

    async def work(backend: SQLiteBackend) -> None:
        reading = asyncio.ensure_future(READS[name](backend))
        await asyncio.sleep(0.3)
        reading.cancel()
        done, _ = await asyncio.wait({reading}, timeout=30)
        assert done == {reading}
        assert reading.cancelled()

    with writer(path) as other:
        other("BEGIN EXCLUSIVE")
        read(path, work, timeout=300.0)


def test_a_cancelled_iteration_leaves_the_backend_usable(tmp_path: Path) -> None:
    path = _many(tmp_path / "s.db", 500)

    async def work(backend: SQLiteBackend) -> None:
        async def endless() -> None:
            async for _ in backend.iter_runs(RunFilter()):
                await asyncio.sleep(0)

        task = asyncio.ensure_future(endless())
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait({task})
        assert len(await listed(backend)) == 500

    read(path, work)


@pytest.mark.parametrize(
    "use", ["await backend.read_run('x')", "await backend.save_state('x', {})", "await begin(backend)"]
)
def test_a_backend_that_is_not_shut_down_lets_the_process_end(use: str, tmp_path: Path) -> None:
    path = _many(tmp_path / "s.db", 300)
    script = f"""
import asyncio, sys
from flujo_lens.state.backends.sqlite import SQLiteBackend
from flujo_lens.state.views import RunFilter

async def begin(backend):
    backend.kept = backend.iter_runs(RunFilter())
    print(await anext(backend.kept))

async def main():
    backend = SQLiteBackend(sys.argv[1])
    {use}
    return backend

kept = asyncio.run(main())
"""
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    found = subprocess.run(
        [sys.executable, "-c", script, str(path)], env=env, capture_output=True, timeout=60, check=False
    )
    assert (found.returncode, found.stderr) == (0, b"")


def test_no_error_of_the_engine_leaks(tmp_path: Path) -> None:
    """Damage at any page is told by an error of ours, or not met at all; nothing is changed."""
    whole = copy(NEW, tmp_path / "whole").read_bytes()
    folder = tmp_path / "store"
    folder.mkdir()
    path = folder / "s.db"
    for page in range(0, len(whole) // 4096, 3):
        garbage = random.Random(page).randbytes(4000)
        path.write_bytes(whole[: page * 4096 + 16] + garbage + whole[page * 4096 + 4016 :])
        before = traces_of(folder)
        for name in ("query_runs", "iter_runs", "read_run", "read_stats", "read_span_stats", "list_states"):
            try:
                read(path, READS[name], timeout=0.2)
            except LensError as error:
                told = type(error)
                assert told in StoreError.__subclasses__(), (page, name, error)  # noqa: PT017
        assert traces_of(folder) == before


@pytest.mark.parametrize(
    ("before", "after"),
    [(b"pipeline_version", b"pipe\xeaine_version"), (b"CREATE INDEX", b"CREATE I\xffDEX")],
    ids=["the name of a column", "a word"],
)
def test_damage_that_makes_the_engine_talk_nonsense(before: bytes, after: bytes, tmp_path: Path) -> None:
    """The module sqlite3 cannot decode its own messages then."""
    path = copy(NEW, tmp_path)
    path.write_bytes(path.read_bytes().replace(before, after))
    told = []
    for name in ("query_runs", "iter_runs", "read_run", "read_stats", "read_span_stats", "list_states", "load_state"):
        try:
            read(path, READS[name], timeout=0.2)
        except CorruptStoreError as error:
            told.append(error.message)
    assert all(f"{path} is damaged: " in message for message in told)
    assert any("\\x" in message for message in told)


def test_what_is_too_large_to_be_true_is_damage() -> None:
    with closing(sqlite3.connect(":memory:")) as db:
        db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 10)
        with pytest.raises(sqlite3.DataError) as caught:
            db.execute("SELECT zeroblob(100)").fetchone()
    found = translate(caught.value, Path("s.db"))
    assert isinstance(found, CorruptStoreError)
    assert found.message == "s.db is damaged: string or blob too big"
