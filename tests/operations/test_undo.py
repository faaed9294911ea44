"""Bringing runs back from the bin and from archives, into real stores."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest

from flujo_lens.errors import (
    AmbiguousRunError,
    ArchiveError,
    CorruptArchiveError,
    OperationFailedError,
    RunNotFoundError,
    UsageError,
)
from flujo_lens.operations.archive import ArchiveWriter, driver_kind
from flujo_lens.operations.archive_format import Header
from flujo_lens.operations.audit import AuditLog
from flujo_lens.operations.audit_chain import new_audit_id
from flujo_lens.operations.change_report import Recorder
from flujo_lens.operations.deletion import Stop
from flujo_lens.operations.recycle_bin import Bin, BinItem
from flujo_lens.operations.restore import Restoration, plan_restore, restore_runs
from flujo_lens.operations.undo import runs_meant, undo
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.backends.file import FileBackend
from flujo_lens.state.backends.memory import InMemoryBackend
from flujo_lens.state.backends.sqlite import SQLiteBackend
from flujo_lens.state.deletion import DeletionRequest

DATA = Path(__file__).resolve().parent.parent / "data"
NOW = datetime(2026, 11, 21, 3, 11, 8, tzinfo=UTC)
RUNS = ("fail-001", "paused-001", "plain-001")
T = TypeVar("T")


class Place:
    """A copy of a real store, with what lies beside it."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.folder = kind, folder
        self.store = folder / ("flujo_ops.db" if kind == "sqlite" else "states")
        if kind == "sqlite":
            shutil.copyfile(DATA / "flujo-0.6.11" / "flujo_ops.db", self.store)
        else:
            shutil.copytree(DATA / "flujo-0.6.11" / "file-state", self.store)
        self.bin = Bin(Bin.sidecar_path(self.store), timedelta(days=7), 100)
        self.log_path = AuditLog.sidecar_path(self.store)
        self.log = AuditLog(self.log_path, actor="ana", host="here", now=lambda: NOW)
        self.recorder = Recorder(self.log, ["lens", "undo"], "why")

    def backend(self) -> StateBackend:
        return SQLiteBackend(self.store) if self.kind == "sqlite" else FileBackend(self.store)

    def run(self, work: Callable[[StateBackend], Any]) -> Any:
        async def opened() -> Any:
            async with self.backend() as backend:
                return await work(backend)

        return asyncio.run(opened())

    def content(self) -> Any:
        """All that is in the store: every row with its rowid, or every file with its time."""
        if self.kind == "file":
            files = (path for path in self.store.rglob("*") if path.is_file() and path.suffix != ".lock")
            return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in files if path.stat().st_size}
        with closing(sqlite3.connect(self.store)) as db:
            tables = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            return {t: db.execute(f"SELECT rowid, * FROM {t} ORDER BY 1").fetchall() for t in tables if "lens" not in t}

    def delete(self, *run_ids: str, batch_size: int = 100, state_only: bool = False) -> BinItem:
        """Delete these runs, as ``lens delete`` does."""
        audit_id = new_audit_id(NOW)

        async def work(backend: StateBackend) -> None:
            header = Header("s", driver_kind(backend), NOW, audit_id, ("lens", "delete", *run_ids))
            writer = self.bin.open(audit_id, header)
            plan = await backend.plan_deletion(DeletionRequest(NOW, run_ids=run_ids, state_only=state_only))
            async for _ in backend.delete_planned(plan, keep=writer.keep, batch_size=batch_size):
                pass
            writer.finish(complete=True)

        self.run(work)
        return self.bin.find(audit_id)

    def undo(self, item: BinItem, *run_ids: str, now: datetime = NOW) -> Restoration:
        async def work(backend: StateBackend) -> Restoration:
            plan = await plan_restore(backend, item.path, run_ids or None)
            return await undo(backend, self.bin, item, plan, self.recorder, now)

        return self.run(work)  # type: ignore[no-any-return]

    def bring_in(self, path: Path) -> Restoration:
        async def work(backend: StateBackend) -> Restoration:
            return await restore_runs(backend, await plan_restore(backend, path), self.recorder)

        return self.run(work)  # type: ignore[no-any-return]


@pytest.fixture(params=["sqlite", "file"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place(request.param, tmp_path)


def test_all_comes_back_as_it_was(place: Place) -> None:
    before = place.content()
    item = place.delete(*RUNS, batch_size=1)
    assert item.runs == 3
    assert place.content() != before
    done = place.undo(item)
    assert sorted(done.run_ids) == sorted(RUNS)
    assert done.report.document() == {
        "matched": 3,
        "done": 3,
        "skipped": 0,
        "failed": 0,
        "left": 0,
        "dry_run": False,
        "audit_id": done.report.audit_id,
    }
    assert place.content() == before
    assert place.bin.items() == []


def test_a_plan_changes_nothing(place: Place) -> None:
    item = place.delete(*RUNS)
    before = place.content(), sorted(place.folder.iterdir())
    plan = place.run(lambda backend: plan_restore(backend, item.path))
    assert (set(plan.run_ids), plan.existing, plan.store_is_empty) == (set(RUNS), (), False)
    assert plan.report.document() == {
        "matched": 3,
        "done": 0,
        "skipped": 0,
        "failed": 0,
        "left": 3,
        "dry_run": True,
        "audit_id": None,
    }
    assert (place.content(), sorted(place.folder.iterdir())) == before


def test_it_is_written_down_before(place: Place) -> None:
    item = place.delete(*RUNS)
    place.log_path.mkdir()
    before = place.content()
    with pytest.raises(OperationFailedError):
        place.undo(item)
    assert place.content() == before
    place.log_path.rmdir()
    done = place.undo(item)
    entry, end = place.log.entries()
    assert (end.closes, end.state, dict(end.counts)) == (entry.audit_id, "finished", {"restored": 3})
    assert entry.audit_id == done.report.audit_id
    assert (entry.command, entry.reason, dict(entry.counts)) == (("lens", "undo"), "why", {"restored": 3})
    assert set(entry.run_ids) == set(RUNS)


def test_one_of_them(place: Place) -> None:
    before = place.content()
    item = place.delete(*RUNS)
    assert place.undo(item, "fail-001").run_ids == ("fail-001",)
    assert place.bin.items() == [item], "it is the only copy of the others"
    rest = place.undo(item)
    assert (set(rest.run_ids), rest.existing) == ({"paused-001", "plain-001"}, ("fail-001",))
    assert place.content() == before


def test_an_id_that_exists_again_is_left_alone(place: Place) -> None:
    item = place.delete(*RUNS)
    state = {"run_id": "plain-001", "status": "running", "pipeline_name": "another", "pipeline_context": {}}
    place.run(lambda backend: backend.save_state("plain-001", state))
    done = place.undo(item)
    assert (done.existing, done.report.skipped, done.report.done) == (("plain-001",), 1, 2)
    detail = place.run(lambda backend: backend.read_run("plain-001"))
    assert detail.run.pipeline_name == "another"
    assert place.bin.items() == [item]
    again = place.undo(item)
    assert (again.report.done, again.report.skipped, again.report.audit_id) == (0, 3, None)


def test_a_state_alone(place: Place) -> None:
    """Where only the state went, the history that stayed is no obstacle."""
    before = place.run(lambda backend: backend.load_state("paused-001"))
    item = place.delete("paused-001", state_only=True)
    assert place.run(lambda backend: backend.load_state("paused-001")) is None
    assert place.undo(item).run_ids == ("paused-001",)
    assert place.run(lambda backend: backend.load_state("paused-001")) == before


def test_which_runs_are_meant(place: Place) -> None:
    item = place.delete(*RUNS)
    assert runs_meant(item, {"fail-001": "fail-001"}, prefix=False) == {"fail-001"}
    assert runs_meant(item, {"fail\\x2d001": "fail-001"}, prefix=False) == {"fail-001"}
    assert runs_meant(item, {"fail": "fail", "plain-001": "x"}, prefix=True) == {"fail-001", "plain-001"}
    for text, prefix in (("fail", False), ("fai", True), ("nothing", True), ("", True)):
        with pytest.raises(RunNotFoundError) as caught:
            runs_meant(item, {text: text}, prefix=prefix)
        assert not isinstance(caught.value, AmbiguousRunError)


def test_a_beginning_of_several(tmp_path: Path) -> None:
    bin = Bin(tmp_path / "b", timedelta(days=7), 10)
    writer = bin.open("20261121", Header("s", "sqlite", NOW, "20261121"))
    writer.keep([{"run_id": name, "last": True} for name in ("run-1", "run-2")])
    writer.finish(complete=True)
    with pytest.raises(AmbiguousRunError) as caught:
        runs_meant(bin.find("20261121"), {"run-": "run-"}, prefix=True)
    assert caught.value.hint is not None
    assert "run-2" in caught.value.hint


def test_what_is_too_old_goes_afterwards(place: Place) -> None:
    item, other = place.delete("fail-001"), place.delete("plain-001")
    place.undo(item, now=NOW + timedelta(days=8))
    assert not other.path.exists()


# --- from an archive


def archived(place: Place, path: Path, *run_ids: str, end: bool = True) -> Path:
    """An archive of these runs, which are not in the store any more."""

    async def work(backend: StateBackend) -> None:
        writer = ArchiveWriter(path, Header("s", driver_kind(backend), NOW, "x", ("lens", "prune")))
        plan = await backend.plan_deletion(DeletionRequest(NOW, run_ids=run_ids))
        async for _ in backend.delete_planned(plan, keep=writer.keep, batch_size=1):
            pass
        if end:
            writer.finish(complete=True)
        writer.close()

    place.run(work)
    return path


def test_an_archive_comes_back_identical(place: Place, tmp_path: Path) -> None:
    before = place.content()
    path = archived(place, tmp_path / "a.ndjson.gz", *RUNS)
    done = place.bring_in(path)
    assert (done.report.done, place.content()) == (3, before)
    assert path.exists()
    again = place.bring_in(path)
    assert (again.report.done, again.report.skipped, place.content()) == (0, 3, before)


def test_one_without_its_end_is_taken_as_far_as_it_goes(place: Place, tmp_path: Path) -> None:
    before = place.content()
    path = archived(place, tmp_path / "a.ndjson", *RUNS, end=False)
    with path.open("ab") as file:
        file.write(b'{"record":{"run_id":"torn"')
    assert place.bring_in(path).report.done == 3
    assert place.content() == before


def test_a_changed_archive_is_refused_before_anything_is_brought_in(place: Place, tmp_path: Path) -> None:
    path = archived(place, tmp_path / "a.ndjson", *RUNS)
    before = place.content()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:-2], lines[-1]]))
    with pytest.raises(CorruptArchiveError):
        place.bring_in(path)
    assert place.content() == before
    assert not place.log_path.exists()


def test_one_that_is_changed_while_it_is_read(place: Place, tmp_path: Path) -> None:
    """What came before is back and written down; the same with a whole archive goes on."""
    before = place.content()
    path = archived(place, tmp_path / "a.ndjson", *RUNS)
    whole = path.read_bytes()

    async def work(backend: StateBackend) -> Restoration:
        plan = await plan_restore(backend, path)
        path.write_bytes(whole[:-300] + b"x" + whole[-299:])
        return await restore_runs(backend, plan, place.recorder)

    with pytest.raises(CorruptArchiveError):
        place.run(work)
    first, second = place.log.entries()
    assert dict(first.counts) == {"restored": 3}
    assert (second.closes, second.reason, second.error) == (first.audit_id, first.reason, "LENS-T2")
    assert second.counts["restored"] == len(second.run_ids) < 3
    path.write_bytes(whole)
    done = place.bring_in(path)
    assert (done.report.skipped, done.report.failed) == (len(second.run_ids), 0)
    assert place.content() == before


def test_another_kind_of_store(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    one, other = Place("sqlite", tmp_path / "1"), Place("file", tmp_path / "2")
    path = archived(one, tmp_path / "a.ndjson", *RUNS)
    with pytest.raises(ArchiveError, match="of the driver sqlite, but this store has the driver file"):
        other.bring_in(path)


def test_a_run_that_the_store_has_no_place_for(tmp_path: Path) -> None:
    """The others come back; it is told."""
    place = Place("sqlite", tmp_path)
    with closing(sqlite3.connect(place.store)) as db:
        db.execute("ALTER TABLE runs ADD COLUMN extra TEXT")
        db.execute("UPDATE runs SET extra = 'x' WHERE run_id = 'fail-001'")
        db.commit()
    path = archived(place, tmp_path / "a.ndjson", *RUNS)
    with closing(sqlite3.connect(place.store)) as db:
        db.execute("ALTER TABLE runs DROP COLUMN extra")
        db.commit()
    done = place.bring_in(path)
    assert set(done.run_ids) == {"paused-001", "plain-001"}
    assert list(done.failed) == ["fail-001"]
    assert "column extra" in done.failed["fail-001"]
    assert (done.report.done, done.report.failed) == (2, 1)


def test_the_kinds_of_drivers() -> None:
    class Ours(SQLiteBackend):
        pass

    class Theirs(StateBackend):
        async def save_state(self, run_id: str, state: dict[str, Any]) -> None: ...
        async def load_state(self, run_id: str) -> dict[str, Any] | None: ...
        async def delete_state(self, run_id: str) -> None: ...

    kinds = [driver_kind(backend) for backend in (SQLiteBackend("x"), FileBackend("x"), InMemoryBackend(), Ours("x"))]
    assert kinds == ["sqlite", "file", "memory", "sqlite"]
    assert driver_kind(Theirs()).endswith(":test_the_kinds_of_drivers.<locals>.Theirs")


def test_an_error_names_the_file(place: Place, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"no such file: {tmp_path}/nothing.ndjson"):
        place.bring_in(tmp_path / "nothing.ndjson")


def test_it_ends_after_a_batch_when_it_is_asked_to(place: Place, tmp_path: Path) -> None:
    before = place.content()
    path = archived(place, tmp_path / "a.ndjson", *RUNS)
    stop, told = Stop(), list[int]()

    async def work(backend: StateBackend) -> Restoration:
        def progress(done: int) -> None:
            told.append(done)
            stop.signal = 15

        plan = await plan_restore(backend, path)
        return await restore_runs(backend, plan, place.recorder, stop=stop, progress=progress)

    done = place.run(work)
    assert (told, done.report.matched, done.report.done, done.report.left) == ([1], 3, 1, 2)
    first, second = place.log.entries()
    assert (second.closes, second.reason, dict(second.counts)) == (first.audit_id, first.reason, {"restored": 1})
    assert place.bring_in(path).report.done == 2
    assert place.content() == before
