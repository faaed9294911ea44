"""What a check-up finds: each kind of damage, made in a store, and nothing in a whole one."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from programs import python

from flujo_lens.errors import NotSupportedError, StoreNotFoundError
from flujo_lens.operations.doctor import check
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.backends.file import FileBackend
from flujo_lens.state.backends.memory import InMemoryBackend
from flujo_lens.state.backends.sqlite import SQLiteBackend
from flujo_lens.state.backends.sqlite.engine.session import Session
from flujo_lens.state.backends.sqlite.upkeep.check import _within
from flujo_lens.state.maintenance import Finding

DATA = Path(__file__).resolve().parent.parent / "data"
NOW = datetime(2026, 11, 21, 3, 11, 8, tzinfo=UTC)
HOUR = timedelta(hours=1)
STATE = {
    "run_id": "r1",
    "pipeline_id": "p",
    "pipeline_name": "p",
    "pipeline_version": "1",
    "current_step_index": 1,
    "pipeline_context": {"a": 1},
    "status": "completed",
    "created_at": "2026-11-21T03:00:00+00:00",
    "updated_at": "2026-11-21T03:00:00+00:00",
}


def findings(backend: StateBackend, *, full: bool = False) -> Mapping[str, Finding]:
    async def work() -> Mapping[str, Finding]:
        async with backend:
            return {finding.check: finding for finding in await check(backend, NOW, HOUR, full=full)}

    return asyncio.run(work())


def wrong(found: Mapping[str, Finding]) -> set[str]:
    return {finding.check for finding in found.values() if not finding.ok}


async def _fill(backend: StateBackend) -> None:
    async with backend:
        await backend.save_run_start({"run_id": "r1", "pipeline_name": "p", "created_at": STATE["created_at"]})
        await backend.save_step_result({"run_id": "r1", "step_name": "s", "step_index": 0, "output": "x"})
        await backend.save_spans("r1", [{"span_id": "a", "name": "n", "start_time": 1.0, "attributes": {}}])
        await backend.save_state("r1", dict(STATE))
        await backend.save_run_end("r1", {"status": "completed", "end_time": STATE["updated_at"]})


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A small store without a flaw, checkpointed."""
    path = tmp_path / "flujo_ops.db"
    asyncio.run(_fill(SQLiteBackend(path)))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small folder without a flaw."""
    path = tmp_path / "states"
    asyncio.run(_fill(FileBackend(path, cache_dir=tmp_path / "cache")))
    return path


def edit(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def in_folder(folder: Path) -> FileBackend:
    return FileBackend(folder, cache_dir=folder.parent / "cache")


# --- SQLite


@pytest.mark.parametrize("full", [True, False])
def test_nothing_is_found_in_a_whole_store_and_nothing_is_written(store: Path, full: bool) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in store.parent.iterdir()}
    found = findings(SQLiteBackend(store), full=full)
    assert wrong(found) == set()
    assert all(finding.detail for finding in found.values())
    assert {path.name: path.stat().st_mtime_ns for path in store.parent.iterdir()} == before


LONG_AGO = "'2026-11-20T00:00:00+00:00'"
BREAKS = {
    "orphans in steps": ("DELETE FROM runs", "DELETE FROM workflow_state", "DELETE FROM spans"),
    "orphans in spans": ("DELETE FROM runs", "DELETE FROM workflow_state", "DELETE FROM steps"),
    "unreadable values": ("UPDATE workflow_state SET pipeline_context = '{\"a\": '",),
    "unreadable times": ("UPDATE workflow_state SET updated_at = 'lately'",),
    "indexes": ("DROP INDEX idx_runs_status",),
    "stale runs": (
        f"UPDATE workflow_state SET status = 'running', created_at = {LONG_AGO}, updated_at = {LONG_AGO}",
        f"UPDATE runs SET status = 'running', created_at = {LONG_AGO}, updated_at = {LONG_AGO}, end_time = NULL",
    ),
}


@pytest.mark.parametrize("check", BREAKS)
def test_what_is_broken_is_found_and_nothing_else(store: Path, check: str) -> None:
    edit(store, *BREAKS[check])
    found = findings(SQLiteBackend(store))
    assert wrong(found) == {check}
    assert (found[check].count, bool(found[check].fix)) == (1, True)


@pytest.mark.parametrize("name", ["flujo-0.6.11", "flujo-0.6.11-wal", "flujo-0.4.35", "flujo-0.4.32", "mixture"])
@pytest.mark.parametrize("full", [True, False])
def test_real_stores_of_any_version_are_whole_but_for_their_killed_runs(tmp_path: Path, name: str, full: bool) -> None:
    for path in (DATA / name).glob("flujo_ops.db*"):
        shutil.copyfile(path, tmp_path / path.name)
    found = findings(SQLiteBackend(tmp_path / "flujo_ops.db", zone=UTC), full=full)
    assert wrong(found) <= {"stale runs", "orphans in spans"}
    assert all(finding.count is not None for finding in found.values())


def test_a_check_that_takes_too_long_is_left(store: Path) -> None:
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"

    def work(session: Session) -> tuple[list[str] | None, list[str] | None]:
        return _within(session, endless, 0.01), _within(session, "PRAGMA quick_check(runs)", 60)

    async def looked() -> tuple[list[str] | None, list[str] | None]:
        async with SQLiteBackend(store) as backend:
            return await backend._store.read(work)

    assert asyncio.run(looked()) == (None, [])


def test_values_that_only_python_reads_are_fine(store: Path) -> None:
    edit(store, "UPDATE workflow_state SET pipeline_context = '{\"a\": NaN}', updated_at = '2026-11-21T03:00:00.5Z'")
    assert wrong(findings(SQLiteBackend(store))) == set()


def test_statuses_that_disagree_are_counted_and_harmless(store: Path) -> None:
    edit(store, "UPDATE workflow_state SET status = 'paused'")
    found = findings(SQLiteBackend(store))
    assert found["statuses that disagree"].count == 1
    edit(store, "UPDATE workflow_state SET status = 'completed'", "UPDATE runs SET status = 'failed'")
    assert findings(SQLiteBackend(store))["statuses that disagree"].count == 1
    assert wrong(found) == set()


def test_damaged_pages_are_found(store: Path) -> None:
    with closing(sqlite3.connect(store)) as db:
        page = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'spans'").fetchone()[0]
        size = db.execute("PRAGMA page_size").fetchone()[0]
    with store.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    found = findings(SQLiteBackend(store))
    assert "integrity" in wrong(found)
    assert ".recover" in str(found["integrity"].fix)
    assert found["schema"].ok


def test_an_index_that_lacks_a_row_is_found_by_full(store: Path) -> None:
    with closing(sqlite3.connect(store)) as db:
        db.execute("PRAGMA writable_schema = on")
        db.execute(
            "UPDATE sqlite_master SET sql = 'CREATE INDEX idx_runs_status ON runs(pipeline_name)' "
            "WHERE name = 'idx_runs_status'"
        )
        db.commit()
    assert "integrity" in wrong(findings(SQLiteBackend(store), full=True))


def test_free_pages_are_counted(store: Path) -> None:
    edit(store, "CREATE TABLE big (a)", "INSERT INTO big VALUES (zeroblob(4000000))", "DROP TABLE big")
    free = findings(SQLiteBackend(store))["free pages"]
    assert free.ok
    assert (free.count or 0) > 900
    assert "lens optimize --vacuum" in str(free.fix)


def test_an_older_schema_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    shutil.copyfile(DATA / "flujo-0.4.35" / "flujo_ops.db", path)
    found = findings(SQLiteBackend(path))
    assert found["schema"].ok
    assert "lens migrate" in str(found["schema"].fix)
    assert found["indexes"].ok


def test_a_newer_schema_is_told(store: Path) -> None:
    edit(store, "PRAGMA user_version = 99")
    assert wrong(findings(SQLiteBackend(store))) == {"schema"}


LOCKER = (
    "import sqlite3, sys; db = sqlite3.connect(sys.argv[1], isolation_level=None); "
    "db.execute('BEGIN'); db.execute('SELECT count(*) FROM runs').fetchone(); print('ready', flush=True); "
    "sys.stdin.readline()"
)


@pytest.mark.skipif(not os.path.exists("/proc/locks"), reason="only Linux tells who holds a lock")
@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_who_holds_a_lock_is_named(store: Path, journal: str) -> None:
    edit(store, f"PRAGMA journal_mode = {journal}")
    with python("-c", LOCKER, store, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        found = findings(SQLiteBackend(store))["locks"]
        process.communicate("\n")
    assert (found.ok, found.count) == (True, 1)
    assert str(process.pid) in found.detail
    assert findings(SQLiteBackend(store))["locks"].count == 0


# --- folders


@pytest.mark.parametrize("full", [True, False])
def test_nothing_is_found_in_a_whole_folder(folder: Path, full: bool) -> None:
    found = findings(in_folder(folder), full=full)
    assert wrong(found) == set()
    assert {finding.count for finding in found.values()} == {0}


def test_files_that_do_not_parse(folder: Path) -> None:
    (folder / "bad.json").write_text("{")
    found = findings(in_folder(folder))
    assert wrong(found) == {"unreadable files"}
    assert "bad.json" in found["unreadable files"].detail


def test_a_run_in_several_files(folder: Path) -> None:
    shutil.copyfile(folder / "r1.json", folder / "r1-copy.json")
    found = findings(in_folder(folder))
    assert wrong(found) == {"runs in several files"}
    assert "r1-copy.json" in found["runs in several files"].detail


def test_a_state_without_a_time(folder: Path) -> None:
    (folder / "r2.json").write_text(json.dumps({**STATE, "run_id": "r2", "created_at": "x", "updated_at": "y"}))
    assert wrong(findings(in_folder(folder))) == {"unreadable times"}


def test_a_silent_run_in_a_folder(folder: Path) -> None:
    old = "2026-11-20T00:00:00+00:00"
    state = {**STATE, "run_id": "r2", "status": "running", "created_at": old, "updated_at": old}
    (folder / "r2.json").write_text(json.dumps(state))
    assert wrong(findings(in_folder(folder))) == {"stale runs"}


def test_what_a_crash_leaves_is_counted_and_harmless(folder: Path) -> None:
    (folder / "r9.json.tmp").write_text("{")
    history = next((folder / ".lens-history").glob("*.ndjson"))
    history.write_bytes(history.read_bytes() + b'{"run_id": "r1", "ki')
    os.unlink(folder / "r1.json")
    found = findings(in_folder(folder))
    assert wrong(found) == set()
    assert [found[check].count for check in ("leftovers", "torn lines", "histories without a state")] == [1, 1, 1]


def test_a_damaged_line_is_found_by_full(folder: Path) -> None:
    history = next((folder / ".lens-history").glob("*.ndjson"))
    history.write_bytes(b"nonsense\n" + history.read_bytes())
    assert wrong(findings(in_folder(folder), full=True)) == {"history lines"}


# --- the rest


def test_what_is_wrong_comes_first(folder: Path) -> None:
    (folder / "bad.json").write_text("{")
    oks = [finding.ok for finding in findings(in_folder(folder)).values()]
    assert oks == sorted(oks)


def test_a_driver_without_checks_says_so() -> None:
    with pytest.raises(NotSupportedError, match="check"):
        findings(InMemoryBackend())


def test_no_store_is_an_error(tmp_path: Path) -> None:
    for backend in (SQLiteBackend(tmp_path / "no.db"), FileBackend(tmp_path / "no")):
        with pytest.raises(StoreNotFoundError):
            findings(backend)
