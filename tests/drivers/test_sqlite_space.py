"""Giving back what is free in a database file: nothing of what is in it changes, and nobody is in the way."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from stores import NEW, OLD, OLDEST, WAL, copy, edit, runs

from flujo_lens.errors import BusyError, OperationFailedError, StoreNotFoundError
from flujo_lens.state.backends.sqlite.upkeep import vacuum as space
from flujo_lens.state.backends.sqlite.upkeep.vacuum import Space, checkpoint, read_space, rooms_of_vacuum, vacuum
from flujo_lens.state.maintenance import Room

ROOT = Path(__file__).resolve().parents[2]
NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40000)"
VACUUM = """
import sys
from pathlib import Path
from flujo_lens.state.backends.sqlite.upkeep.vacuum import vacuum
vacuum(Path(sys.argv[1]), 5)
"""


def content(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every table's rows in the order of their rowids, and the rowids where they have a name."""
    with closing(sqlite3.connect(path)) as db:
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1")]
        return {table: db.execute(f"SELECT * FROM {table} ORDER BY rowid").fetchall() for table in tables}


def half_empty(path: Path) -> None:
    """Leave free pages, and gaps between rowids that are not in the order of the run ids."""
    edit(
        path,
        "CREATE TABLE filler (text)",
        f"{NUMBERS} INSERT INTO filler SELECT hex(zeroblob(1500)) FROM n WHERE i <= 300",
        "DROP TABLE filler",
        "UPDATE workflow_state SET rowid = rowid * 10 + 5000 WHERE rowid % 3 = 0",
        "UPDATE workflow_state SET rowid = -rowid WHERE rowid % 7 = 0",
    )


@pytest.fixture(params=["wal", "delete"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A store with free pages, in both modes of the journal."""
    path = copy(NEW, tmp_path)
    edit(path, f"PRAGMA journal_mode = {request.param}")
    half_empty(path)
    return path


@pytest.fixture
def reading(store: Path) -> Iterator[sqlite3.Connection]:
    """A connection that is in the middle of reading."""
    with closing(sqlite3.connect(store, isolation_level=None)) as db:
        db.execute("BEGIN")
        db.execute("SELECT count(*) FROM workflow_state").fetchone()
        yield db


def test_what_is_free_goes_and_what_is_there_stays(store: Path) -> None:
    before, listed = content(store), runs(store)
    old, new = vacuum(store, 1)
    assert old.reusable_bytes > 500_000
    assert new == Space(store.stat().st_size, 0)
    assert old.file_bytes - old.reusable_bytes >= new.file_bytes > 0
    assert content(store) == before
    assert runs(store) == listed
    assert sorted(path.name for path in store.parent.iterdir()) == ["flujo_ops.db"]
    with closing(sqlite3.connect(store)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.parametrize("name", [WAL, OLD, OLDEST])
def test_every_real_store_is_as_before(name: str, tmp_path: Path) -> None:
    path = copy(name, tmp_path)
    listed = runs(path)
    before = content(copy(name, tmp_path / "as it was"))
    vacuum(path, 1)
    assert content(path) == before
    assert runs(path) == listed


def test_the_last_saved_keeps_the_highest_rowid(store: Path) -> None:
    def saved() -> list[str]:
        with closing(sqlite3.connect(store)) as db:
            return [run_id for (run_id,) in db.execute("SELECT run_id FROM workflow_state ORDER BY rowid DESC")]

    before = saved()
    assert before != sorted(before)
    vacuum(store, 1)
    assert saved() == before


def test_it_is_refused_while_somebody_has_the_store_open(store: Path, reading: sqlite3.Connection) -> None:
    size = store.stat().st_size
    with pytest.raises(BusyError, match="is open in another process, and this needs it alone") as refused:
        vacuum(store, 0.05)
    assert "lens doctor" in (refused.value.hint or "")
    assert store.stat().st_size == size


def test_by_force_beside_a_reader(tmp_path: Path) -> None:
    path = copy(NEW, tmp_path)
    half_empty(path)
    size, before = path.stat().st_size, content(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        count = reader.execute("SELECT count(*) FROM workflow_state").fetchone()
        old, new = vacuum(path, 1, force=True)
        assert (new.reusable_bytes, new.file_bytes < old.file_bytes) == (0, True)
        assert path.stat().st_size == size, "the reader still needs it"
        assert reader.execute("SELECT count(*) FROM workflow_state").fetchone() == count
        reader.execute("COMMIT")
    assert path.stat().st_size == new.file_bytes
    assert content(path) == before


def test_force_does_not_pass_a_writer(store: Path) -> None:
    with closing(sqlite3.connect(store, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        with pytest.raises(BusyError, match="locked by another process"):
            vacuum(store, 0.05, force=True)


def test_who_does_not_want_it_any_more_gets_the_file_as_it_was(store: Path) -> None:
    before, size = content(store), store.stat().st_size
    stopped = threading.Event()
    stopped.set()
    with (
        pytest.raises(OperationFailedError, match="nothing was changed"),
        space.taken(store, 1, stopped=stopped) as db,
    ):
        db.execute(f"{NUMBERS} SELECT count(*) FROM n")
    assert (content(store), store.stat().st_size) == (before, size)


def test_no_room(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = store.read_bytes()
    monkeypatch.setattr(space, "rooms_of_vacuum", lambda db, path: (Room(path.parent, 2_000, 1_999),))
    with pytest.raises(OperationFailedError, match=r"not enough room .* 2,000 bytes, and 1,999 are free"):
        vacuum(store, 1)
    assert store.read_bytes() == before


def test_the_room_that_it_takes(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQLITE_TMPDIR", str(store.parent))
    with closing(sqlite3.connect(store)) as db:
        found, (room,) = read_space(db), rooms_of_vacuum(db, store)
        mode = db.execute("PRAGMA journal_mode").fetchone()[0]
    used = found.file_bytes - found.reusable_bytes
    assert found.file_bytes == store.stat().st_size
    assert room.needed == used + (used if mode == "wal" else found.file_bytes)
    assert room.suffices


@pytest.mark.skipif(
    not os.path.isdir("/dev/shm") or os.stat("/dev/shm").st_dev == os.stat("/tmp").st_dev, reason="one disk"
)
def test_two_disks(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = os.stat(store).st_dev
    others = [name for name in ("/dev/shm", "/var/tmp") if os.path.isdir(name) and os.stat(name).st_dev != disk]
    if not others:
        pytest.skip("there is one disk alone")
    monkeypatch.setenv("SQLITE_TMPDIR", others[0])
    with closing(sqlite3.connect(store)) as db:
        rooms = rooms_of_vacuum(db, store)
    assert [room.folder for room in rooms] == [store.parent, Path(others[0])]


def test_there_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        vacuum(tmp_path / "no.db", 1)
    assert list(tmp_path.iterdir()) == []


def test_killed_in_the_middle_the_store_is_whole(tmp_path: Path) -> None:
    path = copy(NEW, tmp_path)
    half_empty(path)
    edit(
        path,
        "CREATE TABLE ballast (text)",
        f"{NUMBERS} INSERT INTO ballast SELECT hex(randomblob(500)) FROM n",
    )
    before = content(path)
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", VACUUM, str(path)], env={"PYTHONPATH": str(ROOT)})
        wal = Path(f"{path}-wal")
        while process.poll() is None and not (wal.exists() and wal.stat().st_size > 4_000_000):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA quick_check").fetchall() == [("ok",)]
        assert content(path) == before


class TestCheckpoint:
    def test_all_of_it_goes_in(self, tmp_path: Path) -> None:
        path = copy(NEW, tmp_path)
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("PRAGMA wal_autocheckpoint = 0")
            db.execute("UPDATE workflow_state SET total_steps = 7")
            wal = Path(f"{path}-wal")
            assert wal.stat().st_size > 0
            assert checkpoint(db)
            assert wal.stat().st_size > 0
            assert checkpoint(db, truncate=True)
            assert wal.stat().st_size == 0
            assert checkpoint(db, truncate=True)

    def test_what_a_reader_needs_stays(self, tmp_path: Path) -> None:
        path = copy(NEW, tmp_path)
        with closing(sqlite3.connect(path, isolation_level=None)) as db, closing(sqlite3.connect(path)) as reader:
            db.execute("UPDATE workflow_state SET total_steps = 7")
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM runs").fetchone()
            db.execute("UPDATE workflow_state SET total_steps = 8")
            assert not checkpoint(db, truncate=True)
            reader.rollback()
            assert checkpoint(db, truncate=True)

    def test_without_a_wal_there_is_nothing_to_do(self, tmp_path: Path) -> None:
        path = copy(NEW, tmp_path)
        edit(path, "PRAGMA journal_mode = delete")
        with closing(sqlite3.connect(path)) as db:
            assert checkpoint(db, truncate=True)
