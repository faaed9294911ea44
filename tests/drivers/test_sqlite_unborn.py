"""Files as a process leaves them that dies while it makes a store: an application takes them for empty."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from stores import read

from flujo_lens import SQLiteBackend
from flujo_lens.errors import NotAStoreError
from flujo_lens.state.claims import Holder
from flujo_lens.state.views import RunFilter


def _no_byte(path: Path) -> None:
    path.touch()


def _no_table(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA user_version = 1")


@pytest.mark.parametrize("make", [_no_byte, _no_table])
def test_an_application_begins_anew(make: Any, tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    make(path)

    async def work(backend: SQLiteBackend) -> None:
        assert await backend.load_state("r") is None
        assert await backend.get_run_details("r") is None
        assert await backend.manifest_of("r") is None
        assert await backend.list_runs() == []
        claim = await backend.claim_run("r", Holder.current(), 30)
        await backend.release_run(claim)
        await backend.save_state("r", {"status": "paused"})
        assert (await backend.load_state("r") or {})["status"] == "paused"

    read(path, work)


@pytest.mark.parametrize("make", [_no_byte, _no_table])
def test_for_an_operator_it_is_no_store(make: Any, tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    make(path)
    with pytest.raises(NotAStoreError):
        read(path, lambda backend: backend.query_runs(RunFilter()))


def test_a_database_of_somebody_elses_is_no_store_for_anybody(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE songs (title TEXT)")
    with pytest.raises(NotAStoreError):
        read(path, lambda backend: backend.load_state("r"))


def test_a_wal_without_a_page_in_it(tmp_path: Path) -> None:
    """SQLite, asked to leave the ``-shm`` alone, would not get over it."""
    path, copied = tmp_path / "s.db", tmp_path / "copy.db"
    asyncio.run(_made(path))
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 1")
        db.execute("PRAGMA wal_checkpoint(FULL)")
        for end in ("", "-wal", "-shm"):
            shutil.copyfile(f"{path}{end}", f"{copied}{end}")
    with open(f"{copied}-wal", "r+b") as wal:
        wal.truncate(32)
    state = read(copied, lambda backend: backend.load_state("r"))
    assert state is not None
    assert state["status"] == "paused"


async def _made(path: Path) -> None:
    async with SQLiteBackend(path) as backend:
        await backend.save_state("r", {"status": "paused"})
