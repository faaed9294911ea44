"""Carrying out a deletion: kept first, written down, deleted, and ended early."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flujo_lens.errors import LensError, OperationFailedError, UsageError
from flujo_lens.operations import deletion
from flujo_lens.operations.archive_reader import survey
from flujo_lens.operations.audit import AuditLog
from flujo_lens.operations.deletion import Deletion, Stop, delete, dry_run
from flujo_lens.operations.deletion_copies import Keeping
from flujo_lens.operations.deletion_limits import Bounds, check_room, room_of_batch
from flujo_lens.operations.recycle_bin import Bin
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.backends.file import FileBackend
from flujo_lens.state.backends.sqlite import SQLiteBackend
from flujo_lens.state.deletion import Deleted, DeletionPlan, DeletionRequest
from flujo_lens.state.views import RunFilter

DATA = Path(__file__).resolve().parent.parent / "data"
NOW = datetime(2026, 11, 21, 3, 11, 8, tzinfo=UTC)
COMMAND = ["lens", "prune", "--older-than=1h"]


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
        self.archive = folder / "kept.ndjson"

    def backend(self) -> StateBackend:
        return SQLiteBackend(self.store) if self.kind == "sqlite" else FileBackend(self.store)

    def delete(self, asked: DeletionRequest, *, keeping: Keeping | None = None, **more: Any) -> Deletion:
        """Plan, and carry it out."""

        async def work() -> Deletion:
            async with self.backend() as backend:
                plan = await backend.plan_deletion(asked)
                kept = Keeping(self.bin, self.archive, "s") if keeping is None else keeping
                return await delete(backend, plan, kept, self.log, command=COMMAND, reason="why", now=NOW, **more)

        return asyncio.run(work())

    def ids(self) -> set[str]:
        async def work() -> set[str]:
            async with self.backend() as backend:
                return {run.run_id async for run in backend.iter_runs(RunFilter())}

        return asyncio.run(work())

    def entries(self) -> list[Any]:
        return list(self.log.entries())


OLD = DeletionRequest(NOW, cutoff=NOW - timedelta(hours=1))


@pytest.fixture(params=["sqlite", "file"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place(request.param, tmp_path)


def test_it_is_kept_written_down_and_gone(place: Place) -> None:
    before = place.ids()
    done = place.delete(OLD, batch_size=4)
    assert place.ids() == set()
    assert (done.deleted, done.left, done.is_through) == (len(before), 0, True)
    entry, outcome = place.entries()
    assert (entry.audit_id, entry.reason, list(entry.command)) == (done.audit_id, "why", COMMAND)
    assert (set(entry.run_ids), dict(entry.counts)) == (before, {"planned": len(before)})
    assert (outcome.closes, outcome.reason, outcome.error) == (done.audit_id, "why", None)
    assert set(outcome.run_ids) == before
    assert dict(outcome.counts) == {"deleted": len(before), "skipped": 0, "left": 0}
    (item,) = place.bin.items()
    assert (item.audit_id, item.runs) == (done.audit_id, len(before))
    for kept in (survey(place.archive), survey(item.path)):
        assert (set(kept.run_ids), kept.is_complete) == (before, True)
    assert (done.archive, done.can_undo) == (place.archive, True)
    assert done.document()["matched"] == done.document()["done"] == len(before)


def test_nothing_to_delete_writes_nothing(place: Place) -> None:
    before = sorted(place.folder.rglob("*"))
    done = place.delete(OLD._replace(cutoff=NOW - timedelta(days=30)))
    assert (done.audit_id, done.archive, done.can_undo, done.deleted) == (None, None, False, 0)
    assert [path for path in sorted(place.folder.rglob("*")) if path not in before and ".lens" in str(path)] == []


def test_a_dry_run_tells_the_same_numbers(place: Place) -> None:
    async def work() -> Deletion:
        async with place.backend() as backend:
            return await dry_run(backend, await backend.plan_deletion(OLD), Keeping(place.bin, place.archive, "s"))

    dry = asyncio.run(work()).document()
    done = place.delete(OLD).document()
    for name in ("matched", "by_status", "kept", "cutoff", "undo", "archive", "file_bytes_before"):
        assert dry[name] == done[name], name
    assert (dry["done"], dry["left"], done["left"]) == (0, done["done"], 0)
    assert list(dry) == list(done)


# --- what can fail, fails before


def test_without_a_place_for_the_copy_nothing_goes(place: Place) -> None:
    before = place.ids()
    place.archive.write_text("mine")
    with pytest.raises(UsageError, match="already exists"):
        place.delete(OLD)
    place.bin.folder.write_text("no folder")
    with pytest.raises(OperationFailedError, match="cannot write to the bin"):
        place.delete(OLD, keeping=Keeping(place.bin, place.folder / "other.ndjson"))
    assert not (place.folder / "other.ndjson").exists()
    place.bin.folder.unlink()
    place.log_path.mkdir()
    with pytest.raises(LensError):
        place.delete(OLD, keeping=Keeping(place.bin, place.folder / "other.ndjson"))
    assert place.ids() == before
    assert place.archive.read_text() == "mine"
    assert not list(place.folder.glob("*.ndjson.gz"))


def test_a_failure_in_the_middle_leaves_what_is_kept_and_a_second_entry(place: Place) -> None:
    before = place.ids()

    def watch(done: Deletion, _: Deleted) -> None:
        if done.deleted >= 8:
            raise OperationFailedError("enough")

    with pytest.raises(OperationFailedError, match="enough"):
        place.delete(OLD, batch_size=4, watch=watch)
    left = place.ids()
    assert set(survey(place.archive).run_ids) == before - left
    first, second = place.entries()
    assert (second.closes, second.reason, second.error) == (first.audit_id, first.reason, "LENS-F1")
    assert second.counts["deleted"] == len(before) - len(left)
    assert set(second.run_ids) == before - left
    assert [item.audit_id for item in place.bin.items()] == [first.audit_id], "what went can be restored"


# --- an end before the end


@pytest.mark.parametrize("how", ["signal", "deadline"])
def test_it_stops_after_a_batch(place: Place, how: str) -> None:
    before = place.ids()
    stop = Stop(time.monotonic() - 1 if how == "deadline" else None)
    stop.signal = signal.SIGTERM if how == "signal" else None
    done = place.delete(OLD, batch_size=4, stop=stop)
    assert done.is_stopped
    assert 0 < done.deleted <= 4
    assert done.left == len(before) - done.deleted
    assert len(place.ids()) == done.left
    kept = survey(place.archive)
    assert kept.manifest is not None
    assert not kept.manifest.complete
    assert place.entries()[1].counts == {"deleted": done.deleted, "skipped": 0, "left": done.left}
    again = place.delete(OLD, keeping=Keeping(place.bin))
    assert (again.deleted, place.ids()) == (done.left, set())


def test_a_signal_in_the_last_batch_stops_nothing(place: Place) -> None:
    stop = Stop()

    def watch(done: Deletion, _: Deleted) -> None:
        if done.is_through:
            stop.signal = signal.SIGTERM

    done = place.delete(OLD, stop=stop, watch=watch)
    assert (done.is_stopped, done.left, place.ids()) == (False, 0, set())


def test_a_run_of_very_many_rows_goes_whole_before_it_stops(tmp_path: Path) -> None:
    place = Place("sqlite", tmp_path)
    with closing(sqlite3.connect(place.store)) as db, db:
        db.execute(
            "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 26000) INSERT INTO spans "
            "(run_id, span_id, name, start_time, status, created_at) "
            "SELECT 'orders-v1-001', 'x' || i, 'n', i, 'completed', '2026-11-21 00:11:11' FROM n"
        )
    stop = Stop()
    stop.signal = signal.SIGTERM
    done = place.delete(OLD, batch_size=1, stop=stop)
    assert (done.is_stopped, done.deleted) == (True, 1)
    with closing(sqlite3.connect(place.store)) as db:
        assert db.execute("SELECT count(*) FROM spans WHERE run_id = 'orders-v1-001'").fetchone() == (0,)
        assert db.execute("SELECT count(*) FROM lens_deletions").fetchone() == (0,)


def test_rows_without_a_run_stop_too(tmp_path: Path) -> None:
    place = Place("sqlite", tmp_path)
    with closing(sqlite3.connect(place.store)) as db, db:
        db.execute("DELETE FROM runs")
        db.execute("DELETE FROM workflow_state")
    stop = Stop()
    stop.signal = signal.SIGTERM
    asked = DeletionRequest(NOW, orphans_before=NOW)
    done = place.delete(asked, batch_size=2, stop=stop)
    assert done.is_stopped
    assert 0 < done.orphans < sum(done.plan.orphans.values())
    rest = place.delete(asked, keeping=Keeping(place.bin))
    assert rest.orphans == sum(done.plan.orphans.values()) - done.orphans


def test_stop_is_true_when_it_is_time() -> None:
    assert not Stop()
    assert not Stop(time.monotonic() + 1000)
    assert Stop(time.monotonic())


# --- what is written down of very many


def test_of_very_many_runs_the_log_has_the_number(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deletion, "MOST_NAMED", 5)
    done = place.delete(OLD)
    entry, outcome = place.entries()
    assert (list(entry.run_ids), dict(entry.counts)) == ([], {"planned": done.deleted})
    assert (list(outcome.run_ids), outcome.counts["deleted"]) == ([], done.deleted)


@pytest.mark.parametrize("kind", ["sqlite", "files"])
@pytest.mark.parametrize("named", [False, True])
def test_what_two_deletions_at_once_count_adds_up(tmp_path: Path, kind: str, named: bool) -> None:
    """Each run is counted by one of them; the other says that it was gone."""
    place = Place(kind, tmp_path)

    async def work() -> tuple[set[str], list[Deletion]]:
        async with place.backend() as first, place.backend() as second:
            before = {run.run_id async for run in first.iter_runs(RunFilter())}
            asked = OLD._replace(run_ids=tuple(sorted(before))) if named else OLD
            plans = [await backend.plan_deletion(asked) for backend in (first, second)]
            logs = [AuditLog(tmp_path / f"{at}.log", actor="ana", host="here", now=lambda: NOW) for at in (1, 2)]
            done = await asyncio.gather(
                *(
                    delete(backend, plan, Keeping(), log, command=COMMAND, reason=None, now=NOW, batch_size=2)
                    for backend, plan, log in zip((first, second), plans, logs, strict=True)
                )
            )
            after = {run.run_id async for run in first.iter_runs(RunFilter())}
            return before - after, list(done)

    gone, done = asyncio.run(work())
    assert sum(one.deleted for one in done) == len(gone) > 8
    assert sorted(run_id for one in done for run_id in one.run_ids) == sorted(gone)
    for one in done:
        report = one.document()
        assert report["matched"] == report["done"] + report["skipped"] + report["failed"] + report["left"]
        assert one.skipped["gone"] == len(gone) - one.deleted


# --- limits


def planned(count: int, total: int) -> DeletionPlan:
    return DeletionPlan(DeletionRequest(NOW), count=count, total=total)


@pytest.mark.parametrize(
    ("count", "total", "most", "share", "fits"),
    [
        (10, 100, 10, None, True),
        (11, 100, 10, None, False),
        (10, 100, None, 0.1, True),
        (11, 100, None, 0.1, False),
        (11, 100, 20, 0.1, False),
        (0, 0, 0, 0.0, True),
        (1, 1, None, 1.0, True),
        (1, 1, 0, None, False),
    ],
)
def test_limits(count: int, total: int, most: int | None, share: float | None, fits: bool) -> None:
    if fits:
        Bounds(most, share).check(planned(count, total))
        return
    with pytest.raises(OperationFailedError, match="nothing was deleted") as caught:
        Bounds(most, share).check(planned(count, total))
    assert caught.value.details["matched"] == count


def test_room(tmp_path: Path) -> None:
    check_room(None, 100)
    check_room(tmp_path / "not" / "there", 100)
    check_room(Path("/proc/version"), 100)  # of no disk
    assert shutil.disk_usage(tmp_path).free > room_of_batch(100)
    check_room(tmp_path, 100)
    with pytest.raises(OperationFailedError, match="nothing was deleted") as caught:
        check_room(tmp_path, 10**12)
    fitting = re.search(r"--batch-size (\d+)", caught.value.hint or "")
    assert fitting is not None
    check_room(tmp_path, int(fitting[1]) * 9 // 10)  # what it names does fit, but for what others write meanwhile
