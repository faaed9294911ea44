"""Deleting from SQLite stores that applications bent, and while other things happen."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from programs import python
from stores import ALL, NEW, OLD, copy, edit, read, runs
from test_sqlite_deletion import (
    LATER,
    NOW,
    OLD_TIME,
    YOUNG_TIME,
    Kept_,
    asked,
    delete,
    empty,
    ids_of,
    large,
    many,
    of,
    planned,
    rows,
    run_row,
    state,
)

from flujo_lens.errors import OperationFailedError
from flujo_lens.state.backends.sqlite import SQLiteBackend
from flujo_lens.state.backends.sqlite.deletion import copies, run_records
from flujo_lens.state.backends.sqlite.deletion.pacing import Pacing
from flujo_lens.state.backends.sqlite.reads import lock_yield
from flujo_lens.state.backends.sqlite.schema.migrations import migrate
from flujo_lens.state.backends.sqlite.schema.tables import CREATE
from flujo_lens.state.deletion import Deleted, DeletionPlan, Record
from flujo_lens.state.views import RunFilter

# --- what stores hold


def goes_and_comes_back(path: Path) -> list[str]:
    """Delete all that is old, see that it is gone, bring it back, see that all is as before; the ids."""
    before, keep = rows(path), Kept_()
    gone = ids_of(delete(path, planned(path), keep=keep))
    assert rows(path) == of(before, path, gone, without=True)
    assert sorted(read(path, lambda backend: backend.restore(keep.records)).run_ids) == sorted(gone)
    assert rows(path) == before
    return gone


@pytest.mark.parametrize("column", ["pipeline_name", "pipeline_version", "error_message", "step_history", "metadata"])
def test_text_that_is_no_utf8_is_no_hindrance(column: str, tmp_path: Path) -> None:
    path = copy(NEW, tmp_path)
    edit(path, f"UPDATE workflow_state SET {column} = CAST(x'ff00fe' AS TEXT) WHERE run_id = 'fail-001'")
    edit(path, "UPDATE runs SET pipeline_name = CAST(x'ff' AS TEXT) WHERE run_id = 'fail-001'")
    assert "fail-001" in goes_and_comes_back(path)


def test_rows_that_no_id_leads_to_stay_and_are_not_counted(tmp_path: Path) -> None:
    path = empty(tmp_path)
    edit(path, state("old", OLD_TIME), state("no-utf8", OLD_TIME), state("none", OLD_TIME), run_row("none", OLD_TIME))
    edit(path, "UPDATE workflow_state SET run_id = CAST(x'ff41' AS TEXT) WHERE run_id = 'no-utf8'")
    edit(path, "UPDATE workflow_state SET run_id = NULL WHERE run_id = 'none'", "UPDATE runs SET run_id = NULL")
    plan = planned(path)
    assert plan.count == 1
    assert ids_of(delete(path, plan)) == ["old"]
    assert {table: len(found) for table, found in rows(path).items() if found} == {"workflow_state": 2, "runs": 1}


@pytest.mark.parametrize("kind", ["VIRTUAL", "STORED"])
def test_computed_columns_come_back_by_themselves(kind: str, tmp_path: Path) -> None:
    path = empty(tmp_path)
    edit(
        path,
        "DROP TABLE steps",
        "CREATE TABLE steps (id INTEGER PRIMARY KEY, run_id TEXT, step_name TEXT, step_index INTEGER, status TEXT, "
        f"loud TEXT GENERATED ALWAYS AS (upper(step_name)) {kind}, created_at TEXT)",
        state("old", OLD_TIME),
        "INSERT INTO steps (run_id, step_name, step_index, status) VALUES ('old', 's', 0, 'completed')",
    )
    assert goes_and_comes_back(path) == ["old"]
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT loud FROM steps").fetchall() == [("S",)]


@pytest.mark.parametrize("in_parts", [False, True])
def test_rows_that_only_a_column_takes_for_those_of_a_run_come_back_too(
    in_parts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A column that compares without case deletes the rows of both spellings."""
    if in_parts:
        monkeypatch.setattr(copies, "LARGE", 1)
        monkeypatch.setattr(run_records, "_ROWS", 2)
    path, keep = empty(tmp_path), Kept_()
    large(path, 4)
    edit(
        path,
        "CREATE TABLE other AS SELECT * FROM spans",
        "DROP TABLE spans",
        "CREATE TABLE spans (id INTEGER PRIMARY KEY, run_id TEXT COLLATE NOCASE, span_id, parent_span_id, name, "
        "start_time, end_time, status, attributes, created_at)",
        "INSERT INTO spans SELECT * FROM other",
        "INSERT INTO spans SELECT id + 10, upper(run_id), span_id, parent_span_id, name, start_time, end_time, status, "
        "attributes, created_at FROM other",
    )
    before = rows(path)
    assert ids_of(delete(path, planned(path, run_ids=("large",)), keep=keep)) == ["large"]
    assert rows(path)["spans"] == []
    restored = read(path, lambda backend: backend.restore(keep.records))
    assert (restored.run_ids, restored.existing) == (("large", "LARGE"), ())
    assert rows(path) == before


def test_a_trigger_that_keeps_a_row_stops_the_batch(tmp_path: Path) -> None:
    path = copy(NEW, tmp_path)
    edit(
        path,
        "CREATE TRIGGER kept BEFORE DELETE ON runs WHEN old.run_id = 'fail-001' BEGIN SELECT RAISE(IGNORE); END",
    )
    before = rows(path)
    with pytest.raises(OperationFailedError, match="trigger"):
        delete(path, planned(path, run_ids=("fail-001",)))
    assert rows(path) == before


def test_an_index_that_needs_its_application_is_named(tmp_path: Path) -> None:
    path = copy(NEW, tmp_path)
    with closing(sqlite3.connect(path)) as connection:
        connection.create_collation("mine", lambda one, other: (one > other) - (one < other))
        connection.execute("CREATE INDEX by_name ON runs (pipeline_name COLLATE mine)")
    before = rows(path)
    with pytest.raises(OperationFailedError, match="that its application defines: no such collation sequence: mine"):
        delete(path, planned(path, run_ids=("fail-001",)))
    assert rows(path) == before


def test_a_run_with_two_rows_goes_when_both_are_old(tmp_path: Path) -> None:
    path = empty(tmp_path)
    columns = "run_id, pipeline_id, pipeline_name, pipeline_version, status, created_at, updated_at"
    edit(path, "DROP TABLE runs", f"CREATE TABLE runs ({columns})")
    edit(path, run_row("young", OLD_TIME), run_row("young", YOUNG_TIME), state("young", OLD_TIME))
    edit(path, run_row("old", OLD_TIME), run_row("old", OLD_TIME), state("old", OLD_TIME))
    assert set(ids_of(delete(path, planned(path)))) == {"old"}
    assert {run.run_id for run in runs(path)} == {"young"}


@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
def test_databases_in_utf_16(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "wide.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA encoding = '{encoding}'")
        db.executescript(CREATE)
    edit(path, state("é漢😀", OLD_TIME, error_message="é漢😀"), state("plain", OLD_TIME))
    assert sorted(goes_and_comes_back(path)) == ["plain", "é漢😀"]


@pytest.mark.parametrize("name", ALL)
def test_what_went_before_a_migration_comes_back_as_if_it_had_been_there(name: str, tmp_path: Path) -> None:
    path, other, keep = copy(name, tmp_path), copy(name, tmp_path / "other"), Kept_()
    listed = [run.run_id for run in runs(path)]
    gone = ids_of(delete(path, planned(path), keep=keep))
    migrate(path, 5)
    migrate(other, 5)
    assert sorted(read(path, lambda backend: backend.restore(keep.records)).run_ids) == sorted(gone)
    assert rows(path) == rows(other)
    assert [run.run_id for run in runs(path)] == listed


def test_a_run_that_was_resumed_gives_no_zone_away(tmp_path: Path) -> None:
    path = copy(OLD, tmp_path)
    edit(path, "DELETE FROM workflow_state", "DELETE FROM runs")
    columns = "run_id, pipeline_name, pipeline_version, status, start_time, end_time"
    for run_id, status, local, utc in (
        ("lima", "completed", "2026-07-01T07:00:00", "2026-07-01T12:00:00"),
        ("resumed", "running", "2026-06-01T10:00:00", "2026-06-01T11:00:00"),
        ("old", "completed", "2026-06-01T06:30:00", "2026-06-01T11:30:00"),
    ):
        values = f"'{run_id}', 'p', '1', '{status}', '{utc}', '{utc}'"
        edit(path, state(run_id, local, status=status), f"INSERT INTO runs ({columns}) VALUES ({values})")
    # Ten in the morning in Lima is three in the afternoon in UTC, whenever the run was ended before.
    assert ids_of(delete(path, planned(path, cutoff=datetime(2026, 6, 1, 12, tzinfo=UTC)))) == ["old"]


# --- what is not the run that was planned


def test_a_named_run_is_not_another_that_got_its_row(tmp_path: Path) -> None:
    path = empty(tmp_path)
    edit(path, state("old", OLD_TIME))
    plan = planned(path, run_ids=("old",))
    edit(path, "DELETE FROM workflow_state", state("other", OLD_TIME))
    assert ids_of(delete(path, plan)) == []
    assert [run.run_id for run in runs(path)] == ["other"]
    assert read(path, lambda backend: planned_ids(backend, plan)) == []


async def planned_ids(backend: SQLiteBackend, plan: DeletionPlan) -> list[str]:
    return [run_id async for run_id in backend.planned_ids(plan)]


def test_what_the_filter_admits_no_more_stays(tmp_path: Path) -> None:
    path = empty(tmp_path)
    edit(path, state("a", OLD_TIME), state("b", OLD_TIME))
    plan = planned(path, wanted=RunFilter(pipeline="p"))
    edit(path, "UPDATE workflow_state SET pipeline_name = 'other' WHERE run_id = 'b'")
    batches = delete(path, plan)
    assert ids_of(batches) == ["a"]
    assert [skipped for batch in batches for skipped in batch.skipped] == [("b", "changed")]


def test_what_changes_after_it_was_kept_stays(tmp_path: Path) -> None:
    path = empty(tmp_path)
    edit(path, state("a", OLD_TIME), state("b", OLD_TIME))
    kept: list[str] = []

    def keep(records: Sequence[Record]) -> None:
        kept.extend(record["run_id"] for record in records)
        # Somebody writes at this moment: nobody is kept from it.
        edit(path, "INSERT INTO steps (run_id, step_name, step_index, status, created_at) VALUES ('b','s',0,'c','')")

    batches = delete(path, planned(path, run_ids=("a", "b")), keep=keep)
    assert (kept, ids_of(batches)) == (["a", "b"], ["a"])
    assert [skipped for batch in batches for skipped in batch.skipped] == [("b", "changed")]
    assert [run.run_id for run in runs(path)] == ["b"]


def test_what_is_kept_is_kept_once_though_others_write(tmp_path: Path) -> None:
    path, kept = empty(tmp_path), Kept_()
    many(path, 30)

    def keep(records: Sequence[Record]) -> None:
        kept(records)
        edit(path, "REPLACE INTO system_state VALUES ('x', '1', '')")

    assert len(ids_of(delete(path, planned(path), keep=keep, batch_size=10))) == 30
    assert len({record["run_id"] for record in kept.records}) == len(kept.records) == 30


# --- families and runs of many rows


def tasks(path: Path, count: int, below: int) -> None:
    columns = (
        "run_id, pipeline_id, pipeline_name, pipeline_version, current_step_index, status, pipeline_context, "
        "created_at, updated_at, parent_run_id, is_background_task"
    )
    edit(path, state("head", OLD_TIME), run_row("head", OLD_TIME))
    with closing(sqlite3.connect(path)) as db, db:
        sql = f"INSERT INTO workflow_state ({columns}) VALUES (?, 'p', 'p', '1', 0, 'completed', '{{}}', ?, ?, ?, 1)"
        first = [(f"t{number}", OLD_TIME, OLD_TIME, "head") for number in range(count)]
        second = [(f"u{number}", OLD_TIME, OLD_TIME, f"t{count - 1 - number}") for number in range(below)]
        db.executemany(sql, first + second)


def test_a_very_large_family_goes_the_run_itself_last(tmp_path: Path) -> None:
    path = empty(tmp_path)
    tasks(path, 1_200, 5)
    plan = planned(path)
    assert plan.count == 1_206
    batches = delete(path, plan)
    assert max(len(batch.run_ids) for batch in batches) <= 200
    assert set(ids_of(batches[:1])) >= {f"u{number}" for number in range(5)}
    assert "head" in batches[-1].run_ids
    assert not any(rows(path).values())


def test_a_very_large_family_of_which_a_task_is_saved_stops(tmp_path: Path) -> None:
    path = empty(tmp_path)
    tasks(path, 600, 0)
    plan = planned(path)
    edit(path, f"UPDATE workflow_state SET updated_at = '{YOUNG_TIME}' WHERE run_id = 't300'")
    batches = delete(path, plan)
    assert len(ids_of(batches)) == 200
    assert {run.run_id for run in runs(path)} >= {"head", "t0", "t300"}


def stop_early(path: Path, plan: DeletionPlan) -> None:
    async def work(backend: SQLiteBackend) -> None:
        batches = backend.delete_planned(plan)
        await anext(batches)
        await batches.aclose()

    read(path, work)


@pytest.mark.parametrize("named", [True, False])
def test_an_interrupted_deletion_of_a_run_with_tasks_is_finished(named: bool, tmp_path: Path) -> None:
    path = empty(tmp_path)
    large(path, 26_000)
    edit(path, "DELETE FROM workflow_state WHERE run_id = 'small'", state("task", OLD_TIME, parent_run_id="large"))
    stop_early(path, planned(path, run_ids=("large",) if named else None))
    assert 0 < len(rows(path)["spans"]) < 26_000
    again = planned(path, cutoff=LATER - timedelta(days=3_000))
    assert again.unfinished == (1 if named else 2)
    assert "large" in ids_of(delete(path, again))
    assert not rows(path)["spans"]


def test_a_clock_that_was_set_back_makes_no_saved_run_go(tmp_path: Path) -> None:
    path = empty(tmp_path)
    large(path, 26_000)
    stop_early(path, planned(path, run_ids=("large",)))
    earlier = (NOW - timedelta(hours=3)).isoformat()
    edit(path, f"UPDATE workflow_state SET updated_at = '{earlier}' WHERE run_id = 'large'")
    assert ids_of(delete(path, planned(path, now=NOW))) == ["small"]


def test_rows_without_a_run_go_some_at_a_time_and_are_kept_once(tmp_path: Path) -> None:
    path, keep = empty(tmp_path), Kept_()
    large(path, 12_000)
    edit(path, "DELETE FROM workflow_state", "DELETE FROM runs")
    edit(path, "INSERT INTO steps (run_id, step_name, step_index, status, created_at) "
         "VALUES ('large', 's', 0, 'completed', '2026-01-01')")  # fmt: skip
    before = rows(path)
    plan = planned(path, cutoff=None, orphans_before=NOW)
    batches = delete(path, plan, keep=keep)
    assert sum(batch.orphans for batch in batches) == 12_001
    assert max(batch.orphans for batch in batches) <= 5_000
    assert len(keep.records) == 1
    assert read(path, lambda backend: backend.restore(keep.records)).run_ids == ("large",)
    assert rows(path) == before


# --- others who want to write


def test_a_plan_lets_others_write_into_a_store_without_a_wal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_yield, "_LONGEST", 0.0)
    path = empty(tmp_path)
    many(path, 3_000)
    edit(path, "PRAGMA journal_mode = delete")
    written, over = [], threading.Event()

    def write() -> None:
        with closing(sqlite3.connect(path, timeout=20, isolation_level=None)) as db:
            while not over.is_set():
                db.execute("REPLACE INTO system_state VALUES ('x', '1', '')")
                written.append(time.monotonic())
                time.sleep(0.003)

    async def work(backend: SQLiteBackend) -> tuple[float, float, DeletionPlan]:
        await backend.plan_deletion(asked(run_ids=("r1",)))
        thread.start()
        began = time.monotonic()
        plan = await backend.plan_deletion(asked())
        return began, time.monotonic(), plan

    thread = threading.Thread(target=write)
    try:
        began, ended, plan = read(path, work)
    finally:
        over.set()
        thread.join()
    assert plan.count == 3_000
    assert len([when for when in written if began < when < ended]) > 2


def test_the_wal_is_folded_in_before_the_commit_of_another_has_to(tmp_path: Path) -> None:
    """A connection folds it in when its commit finds a thousand pages there. The file is as long as it ever was."""
    path = empty(tmp_path)
    many(path, 1_200)
    edit(path, "UPDATE workflow_state SET pipeline_context = zeroblob(3000)")
    over, commits = threading.Event(), []

    def write() -> None:
        with closing(sqlite3.connect(path, timeout=20, isolation_level=None)) as db:
            db.execute("PRAGMA wal_autocheckpoint = 0")
            while not over.is_set():
                db.execute("REPLACE INTO system_state VALUES ('x', '1', '')")
                commits.append(1)
                time.sleep(0.005)

    async def work(backend: SQLiteBackend) -> tuple[int, int]:
        plan = await backend.plan_deletion(asked())
        async for _ in backend.delete_planned(plan):
            pass
        return plan.count, os.stat(f"{path}-wal").st_size

    with closing(sqlite3.connect(path)) as open_:
        open_.execute("PRAGMA wal_checkpoint(truncate)")
        thread = threading.Thread(target=write)
        thread.start()
        try:
            count, size = read(path, work)
        finally:
            over.set()
            thread.join()
    assert (count, len(commits) > 10) == (1_200, True)
    assert 0 < size < 1_000 * 4_120, "the pages of all are several times as many"


def test_a_lock_between_two_batches_is_no_error(tmp_path: Path) -> None:
    path = empty(tmp_path)
    many(path, 3)
    edit(path, "PRAGMA journal_mode = delete")
    with (
        closing(sqlite3.connect(path, isolation_level=None)) as other,
        closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as db,
    ):
        politeness = Pacing()
        other.execute("BEGIN EXCLUSIVE")
        assert politeness.rest(db) > 0
        politeness.end(db)
        assert db.execute("PRAGMA wal_autocheckpoint").fetchone() == (1000,)


SAVER = """
import asyncio, sys
from flujo_lens.state.backends.sqlite import SQLiteBackend

async def main():
    backend = SQLiteBackend(sys.argv[1])
    print("go", flush=True)
    for number in range(399, -1, -2):
        await backend.save_state(f"r{number}", {"pipeline_context": {"saved": number}, "status": "running"})
        print(number, flush=True)

asyncio.run(main())
"""


def test_what_another_process_saves_after_its_batch_is_there(tmp_path: Path) -> None:
    path = empty(tmp_path)
    many(path, 400)
    plan, gone, saved = planned(path), {}, {}

    async def work(backend: SQLiteBackend) -> list[Deleted]:
        batches = []
        async for batch in backend.delete_planned(plan, batch_size=4):
            gone.update(dict.fromkeys(batch.run_ids, time.monotonic()))
            batches.append(batch)
        return batches

    with python("-c", SAVER, path, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"go\n"

        def listen() -> None:
            assert child.stdout is not None
            saved.update({f"r{int(line)}": True for line in child.stdout})

        thread = threading.Thread(target=listen)
        thread.start()
        batches = asyncio.run(run_with(path, work))
        thread.join()
    assert child.returncode == 0
    assert len(saved) == 200
    here = {run.run_id for run in runs(path)}
    assert here == set(saved)
    assert {f"r{number}" for number in range(0, 400, 2)} <= set(gone)
    assert len(ids_of(batches)) == len(set(ids_of(batches)))


async def run_with(path: Path, work: object) -> list[Deleted]:
    backend = SQLiteBackend(path)
    try:
        return await work(backend)  # type: ignore[operator]
    finally:
        await backend.shutdown()
