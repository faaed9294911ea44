"""A database file that is renamed, removed or replaced while a backend has it open."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest

from flujo_lens.state.backends.sqlite import SQLiteBackend

Save = Callable[[SQLiteBackend, str], Awaitable[None]]


def ids(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as db:
        tables = ("workflow_state", "runs", "evaluations")
        found = {row[0] for table in tables for row in db.execute(f"SELECT run_id FROM {table}")}
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    return sorted(found)


def as_made(path: Path, run_id: str) -> Path:
    """A whole store in one file, with one state in it."""

    async def make() -> None:
        async with SQLiteBackend(path) as backend:
            await backend.save_state(run_id, {"status": "paused"})

    asyncio.run(make())
    return path


async def state(backend: SQLiteBackend, run_id: str) -> None:
    await backend.save_state(run_id, {"status": "running"})
    assert await backend.load_state(run_id) is not None


async def large(backend: SQLiteBackend, run_id: str) -> None:
    await backend.save_state(run_id, {"pipeline_context": {"text": "x" * 9_000_000}})


async def history(backend: SQLiteBackend, run_id: str) -> None:
    await backend.save_step_result({"run_id": run_id, "step_name": "load", "step_index": 0})


async def evaluation(backend: SQLiteBackend, run_id: str) -> None:
    await backend.persist_evaluation(run_id, 0.5)


SAVES = pytest.mark.parametrize("save", [state, large, history, evaluation])


def beside(path: Path) -> list[Path]:
    return [Path(f"{path}{end}") for end in ("", "-wal", "-shm") if os.path.exists(f"{path}{end}")]


@SAVES
@pytest.mark.parametrize("whole", [True, False])
def test_renamed(save: Save, whole: bool, tmp_path: Path) -> None:
    """With what lies beside it or without: what was saved before is in the old file, what is saved now at the path."""
    path, old = tmp_path / "s.db", tmp_path / "old.db"

    async def work() -> None:
        async with SQLiteBackend(path) as backend:
            await save(backend, "before")
            for part in beside(path) if whole else [path]:
                part.rename(str(part).replace("s.db", "old.db"))
            await save(backend, "after")
            assert ids(path) == ["after"]
            await save(backend, "later")

    asyncio.run(work())
    assert (ids(old), ids(path)) == (["before"], ["after", "later"])


@SAVES
def test_removed(save: Save, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "s.db"

    async def work() -> None:
        async with SQLiteBackend(path) as backend:
            await save(backend, "before")
            shutil.rmtree(path.parent)
            await backend.delete_run("before")
            assert not path.exists()
            await save(backend, "after")
            assert ids(path) == ["after"]

    asyncio.run(work())


@SAVES
def test_replaced_by_another_store(save: Save, tmp_path: Path) -> None:
    """The WAL of the file before is not taken for that of the new one."""
    path, other = tmp_path / "s.db", as_made(tmp_path / "other.db", "other")

    async def work() -> None:
        async with SQLiteBackend(path) as backend:
            for at in range(20):
                await save(backend, f"before-{at}")
            os.replace(other, path)
            await save(backend, "after")
            assert "other" in [run["run_id"] for run in await backend.list_runs()]

    asyncio.run(work())
    assert ids(path) == ["after", "other"]


def test_a_link_that_leads_elsewhere(tmp_path: Path) -> None:
    one, two, link = as_made(tmp_path / "1.db", "one"), as_made(tmp_path / "2.db", "two"), tmp_path / "link.db"
    link.symlink_to(one)

    async def work() -> None:
        async with SQLiteBackend(link) as backend:
            await state(backend, "before")
            link.unlink()
            link.symlink_to(two)
            await state(backend, "after")
            assert await backend.load_state("before") is None

    asyncio.run(work())
    assert (ids(one), ids(two)) == (["before", "one"], ["after", "two"])


def test_a_reader_sees_what_is_at_the_path(tmp_path: Path) -> None:
    path, other = as_made(tmp_path / "s.db", "one"), as_made(tmp_path / "other.db", "other")

    async def work() -> None:
        async with SQLiteBackend(path) as writer, SQLiteBackend(path) as reader:
            await state(writer, "before")
            assert await reader.load_state("before") is not None
            os.replace(other, path)
            await state(writer, "after")
            found = [await reader.load_state(run_id) is not None for run_id in ("before", "other", "after")]
            assert found == [False, True, True]
            assert sorted([found["run_id"] for found in await reader.list_states()]) == ["after", "other"]

    asyncio.run(work())


def test_one_that_is_being_read_is_left_between_two_parts_of_it(tmp_path: Path) -> None:
    path, old = tmp_path / "s.db", tmp_path / "old.db"

    async def work() -> None:
        from flujo_lens.state.views import RunFilter

        async with SQLiteBackend(path) as backend:
            for at in range(450):
                await backend.save_state(f"run-{at:03}", {"created_at": f"2026-03-01T09:{at // 60:02}:{at % 60:02}Z"})
            runs = backend.iter_runs(RunFilter())
            assert (await anext(runs)).run_id == "run-449"
            path.rename(old)
            await state(backend, "after")
            await runs.aclose()
        assert ids(path) == ["after"]
        assert len(ids(old)) == 450

    asyncio.run(work())
