"""Migrating a store for an operator: the backup before it, who is kept out, what is written down."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import stat
import threading
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from programs import run_python

from flujo_lens.errors import (
    BusyError,
    LensError,
    OperationFailedError,
    ReadOnlyStoreError,
    SchemaError,
    StoreNotFoundError,
)
from flujo_lens.operations.audit import AuditLog
from flujo_lens.operations.change_report import Recorder
from flujo_lens.operations.migrate import Migrated, migrate
from flujo_lens.state.backends.file import FileBackend
from flujo_lens.state.backends.memory import InMemoryBackend
from flujo_lens.state.backends.sqlite import SQLiteBackend
from flujo_lens.state.backends.sqlite.upkeep.backup import back_up, backup_path, check_room
from flujo_lens.state.maintenance import Migration, MigrationPlan

DATA = Path(__file__).resolve().parent.parent / "data"
NOW = datetime(2026, 11, 21, 3, 11, 8, tzinfo=UTC)
BACKUP = "flujo_ops.db.lens-backup-20261121T031108Z.db"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of 0.4.35."""
    return copy("flujo-0.4.35", tmp_path)


def copy(name: str, folder: Path) -> Path:
    for path in (DATA / name).glob("flujo_ops.db*"):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder / "flujo_ops.db"


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as db:
        return list(db.iterdump())


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def log_of(path: Path) -> AuditLog:
    return AuditLog(AuditLog.sidecar_path(path), actor="ada", host="here", now=lambda: NOW)


def migrated(path: Path, log: AuditLog | None = None, *, backup: bool = True) -> Migrated:
    async def work() -> Migrated:
        async with SQLiteBackend(path, timeout=0.2) as backend:
            await backend.plan_migration(NOW)
            writer = Recorder(log or log_of(path), ["lens", "migrate"], "new version")
            return await migrate(backend, writer, NOW, backup=backup)

    return asyncio.run(work())


def planned(path: Path) -> MigrationPlan:
    async def work() -> MigrationPlan:
        async with SQLiteBackend(path) as backend:
            return await backend.plan_migration(NOW)

    return asyncio.run(work())


def test_the_plan_writes_nothing(store: Path) -> None:
    before = store.stat(), names(store.parent)
    plan = planned(store)
    assert (store.stat().st_mtime_ns, names(store.parent)) == (before[0].st_mtime_ns, before[1])
    assert plan.steps
    assert plan.path == store
    assert plan.backup == store.with_name(BACKUP)
    assert plan.size_bytes == store.stat().st_size


def test_the_backup_is_the_store_as_it_was_and_its_owners_alone(store: Path) -> None:
    before, steps = dump(store), planned(store).steps
    done = migrated(store).migration
    assert done.backup == store.with_name(BACKUP)
    assert stat.S_IMODE(done.backup.stat().st_mode) == 0o600
    assert dump(done.backup) == before
    assert done.steps[: len(steps)] == steps
    assert planned(store).steps == ()
    assert not {name for name in names(store.parent) if name.endswith((".part", "-wal", "-shm", "-journal"))}


def test_the_backup_has_what_only_the_wal_holds(tmp_path: Path) -> None:
    path = copy("flujo-0.6.11-wal", tmp_path)
    with closing(sqlite3.connect(path)) as db:
        db.execute("ALTER TABLE runs DROP COLUMN memory_usage_mb")
        wanted = sorted(db.execute("SELECT run_id FROM workflow_state"))
        kept = {end: Path(f"{path}{end}").read_bytes() for end in ("", "-wal")}
    for end, data in kept.items():
        Path(f"{path}{end}").write_bytes(data)
    done = migrated(path).migration
    assert done.backup is not None
    with closing(sqlite3.connect(done.backup)) as db:
        assert sorted(db.execute("SELECT run_id FROM workflow_state")) == wanted


def test_a_store_that_is_up_to_date_is_left_alone(tmp_path: Path) -> None:
    path = copy("flujo-0.6.11", tmp_path)
    before = path.read_bytes()
    assert migrated(path) == Migrated(Migration())
    assert path.read_bytes() == before
    assert names(tmp_path) == {"flujo_ops.db"}


def test_without_a_backup(store: Path) -> None:
    assert migrated(store, backup=False).migration.backup is None
    log = "flujo_ops.db.lens-audit.ndjson"
    assert names(store.parent) == {"flujo_ops.db", log, f"{log}.head"}


def test_a_backup_never_takes_the_place_of_a_file(store: Path) -> None:
    store.with_name(BACKUP).write_text("precious")
    done = migrated(store).migration
    assert done.backup == store.with_name(BACKUP.replace("Z.db", "Z-2.db"))
    assert store.with_name(BACKUP).read_text() == "precious"


@pytest.mark.parametrize("begin", ["BEGIN", "BEGIN IMMEDIATE"])
@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_nothing_happens_while_somebody_uses_the_store(store: Path, begin: str, journal: str) -> None:
    before = dump(store)
    with closing(sqlite3.connect(store, isolation_level=None)) as other:
        other.execute(f"PRAGMA journal_mode = {journal}")
        other.execute(begin)
        other.execute("SELECT count(*) FROM runs").fetchone()
        with pytest.raises(BusyError, match="another process has it open; nothing was changed"):
            migrated(store)
        other.rollback()
    assert dump(store) == before
    assert not {name for name in names(store.parent) if "lens" in name}


def test_one_entry_tells_it(store: Path) -> None:
    done = migrated(store)
    entries = list(log_of(store).entries())
    assert [entry.audit_id for entry in entries] == [done.audit_id]
    assert entries[0].reason == "new version"
    assert entries[0].counts == {"steps": len(done.migration.steps)}
    assert log_of(store).verify().ok


def test_without_a_log_nothing_is_changed(store: Path) -> None:
    before = store.read_bytes()
    nowhere = AuditLog(store.parent / "no" / "such.ndjson", actor="ada", host="here", now=lambda: NOW)
    with pytest.raises(LensError):
        migrated(store, nowhere)
    assert store.read_bytes() == before
    assert names(store.parent) == {"flujo_ops.db"}


def test_a_log_that_fails_afterwards_is_told_with_the_backup(store: Path) -> None:
    class Vanishing(AuditLog):
        """Its folder goes away between the check and the entry."""

        def check(self) -> None:
            super().check()
            os.rmdir(folder)

    folder = store.parent / "log"
    folder.mkdir()
    log = Vanishing(folder / "log.ndjson", actor="ada", host="here", now=lambda: NOW)
    with pytest.raises(OperationFailedError, match=rf"was migrated; the backup is .*{BACKUP}") as told:
        migrated(store, log)
    assert "nothing was changed" not in str(told.value.hint)
    assert planned(store).steps == ()


def test_a_newer_schema_is_refused(store: Path) -> None:
    with closing(sqlite3.connect(store)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(SchemaError):
        planned(store)
    with pytest.raises(SchemaError):
        asyncio.run(SQLiteBackend(store).migrate(NOW))
    assert names(store.parent) == {"flujo_ops.db"}
    with pytest.raises(StoreNotFoundError):
        asyncio.run(SQLiteBackend(store.with_name("no.db")).migrate(NOW))


def test_too_little_room_is_told_before_anything_is_done(tmp_path: Path) -> None:
    plan = MigrationPlan(tmp_path / "s.db", ("runs is made",), 100, tmp_path / "b.db", free_bytes=299)
    check_room(plan, tmp_path, backup=False)
    with pytest.raises(OperationFailedError, match="can take 300 bytes; 299 are free; nothing was changed"):
        check_room(plan, tmp_path, backup=True)
    check_room(plan._replace(steps=()), tmp_path, backup=True)


def test_a_backup_that_fails_leaves_no_file(store: Path) -> None:
    with closing(sqlite3.connect(store)) as db:
        stopped = threading.Event()
        stopped.set()
        with pytest.raises(BusyError):
            back_up(db, store, backup_path(store, NOW), stopped)
        with pytest.raises(OperationFailedError, match="nothing was changed"):
            back_up(db, store, store.parent / "no" / "backup.db")
    assert names(store.parent) == {"flujo_ops.db"}


KILLED = """
import asyncio, os, signal, sys
from datetime import UTC, datetime
from flujo_lens.state.backends.sqlite import SQLiteBackend

setattr(os, sys.argv[2], lambda *words: os.kill(os.getpid(), signal.SIGKILL))
asyncio.run(SQLiteBackend(sys.argv[1]).migrate(datetime(2026, 11, 21, 3, 11, 8, tzinfo=UTC)))
"""


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_process_that_dies_in_the_backup_leaves_the_store_and_no_file_that_looks_like_one(
    store: Path, call: str
) -> None:
    before = dump(store)
    done = run_python("-c", KILLED, store, call)
    assert done.returncode == -signal.SIGKILL
    assert not store.with_name(BACKUP).exists()
    assert dump(store) == before
    assert planned(store).steps


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_not_writable(store: Path) -> None:
    store.parent.chmod(0o500)
    try:
        with pytest.raises(ReadOnlyStoreError):
            migrated(store)
    finally:
        store.parent.chmod(0o700)


def test_other_formats_have_nothing_to_migrate(tmp_path: Path) -> None:
    folder = tmp_path / "states"
    folder.mkdir()
    for backend in (FileBackend(folder), InMemoryBackend()):
        assert asyncio.run(backend.plan_migration(NOW)) == MigrationPlan()
        assert asyncio.run(backend.migrate(NOW)) == Migration()
    with pytest.raises(StoreNotFoundError):
        asyncio.run(FileBackend(tmp_path / "none").plan_migration(NOW))
