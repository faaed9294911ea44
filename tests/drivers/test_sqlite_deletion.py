"""Deleting from SQLite by a plan: all of a run goes, all else stays byte for byte, and what went comes back."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest
from programs import python
from stores import ALL, NEW, OLD, copy, edit, read, runs

from flujo_lens.errors import OperationFailedError, SchemaError
from flujo_lens.state.backends.sqlite import SQLiteBackend
from flujo_lens.state.backends.sqlite.deletion import copies, estimate, run_records
from flujo_lens.state.backends.sqlite.deletion import execute as deleting
from flujo_lens.state.backends.sqlite.schema.tables import CREATE
from flujo_lens.state.deletion import Deleted, DeletionPlan, DeletionRequest, Record, Retained
from flujo_lens.state.views import RunFilter

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2027, 3, 1, tzinfo=UTC)
LATER = NOW - timedelta(days=1)
"""All that the real stores hold is older."""


def rows(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table of the library, with its rowid and the storage class of each value."""
    with closing(sqlite3.connect(path)) as db:
        db.text_factory = bytes
        tables = [name.decode() for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        found = {}
        for table in sorted(tables):
            if table.startswith(("sqlite_", "lens_")):
                continue
            names = [row[1].decode() for row in db.execute(f"PRAGMA table_info({table})")]
            values = ", ".join(f'"{name}", typeof("{name}")' for name in names)
            found[table] = db.execute(f"SELECT rowid, {values} FROM {table} ORDER BY rowid").fetchall()
        return found


def of(found: dict[str, list[tuple[Any, ...]]], path: Path, run_ids: Sequence[str], *, without: bool) -> dict[str, Any]:
    """The rows of these runs, or those of all others."""
    with closing(sqlite3.connect(path)) as db:
        at = {}
        for table in found:
            names = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
            at[table] = 1 + 2 * names.index("run_id") if "run_id" in names else None
    ids = {run_id.encode() for run_id in run_ids}
    return {t: [r for r in found[t] if (at[t] is not None and r[at[t]] in ids) != without] for t in found}


def asked(**more: Any) -> DeletionRequest:
    return DeletionRequest(**{"now": NOW, "cutoff": LATER, **more})


def planned(path: Path, **more: Any) -> DeletionPlan:
    return read(path, lambda backend: backend.plan_deletion(asked(**more)))


class Kept_:
    def __init__(self) -> None:
        self.batches: list[list[Record]] = []

    def __call__(self, records: Sequence[Record]) -> None:
        self.batches.append(list(records))

    @property
    def records(self) -> list[Record]:
        return [record for batch in self.batches for record in batch]


async def deleted(backend: SQLiteBackend, plan: DeletionPlan, **more: Any) -> list[Deleted]:
    return [batch async for batch in backend.delete_planned(plan, **more)]


def delete(path: Path, plan: DeletionPlan, **more: Any) -> list[Deleted]:
    return read(path, lambda backend: deleted(backend, plan, **more))


def ids_of(batches: Sequence[Deleted]) -> list[str]:
    return [run_id for batch in batches for run_id in batch.run_ids]


# --- whole runs, and nothing else


@pytest.mark.parametrize("name", ALL)
def test_all_old_runs_go_from_every_table_and_all_else_stays(name: str, tmp_path: Path) -> None:
    path = copy(name, tmp_path)
    plan = planned(path, wanted=RunFilter(statuses=frozenset({"completed"})))
    before = rows(path)
    gone = ids_of(delete(path, plan))
    after = rows(path)
    assert len(gone) == plan.count > 0
    assert after == of(before, path, gone, without=True)
    assert not any(of(after, path, gone, without=False).values())
    kept = [run for run in runs(path) if run.status == "completed"]
    assert len({run.parent_run_id or run.run_id for run in kept}) == plan.kept.family + plan.kept.unknown_age


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("size", [1, 3, 100])
def test_restore_gives_every_row_back_byte_for_byte(name: str, size: int, tmp_path: Path) -> None:
    path, keep = copy(name, tmp_path), Kept_()
    before = rows(path)
    gone = ids_of(delete(path, planned(path), keep=keep, batch_size=size))
    assert not any(of(rows(path), path, gone, without=False).values())
    restored = read(path, lambda backend: backend.restore(keep.records))
    assert sorted(restored.run_ids) == sorted(gone)
    assert rows(path) == before


def test_values_of_every_storage_class_come_back(tmp_path: Path) -> None:
    path, keep = copy(NEW, tmp_path), Kept_()
    edit(
        path,
        "UPDATE workflow_state SET pipeline_context = x'0001ff', last_step_output = CAST(x'ff00fe' AS TEXT), "
        "metadata = 9e999, memory_usage_mb = -0.0, total_steps = 9223372036854775807 WHERE run_id = 'fail-001'",
        "UPDATE steps SET output = CAST(x'00' AS TEXT), cost_usd = -9e999 WHERE run_id = 'fail-001'",
    )
    before = rows(path)
    plan = planned(path, run_ids=("fail-001",))
    assert ids_of(delete(path, plan, keep=keep)) == ["fail-001"]
    assert read(path, lambda backend: backend.restore(keep.records)).run_ids == ("fail-001",)
    assert rows(path) == before


def test_a_plan_and_its_ids_change_nothing(tmp_path: Path) -> None:
    path = copy(NEW, tmp_path)
    before = path.read_bytes()

    async def work(backend: SQLiteBackend) -> tuple[DeletionPlan, list[str]]:
        plan = await backend.plan_deletion(asked(orphans_before=LATER))
        return plan, [run_id async for run_id in backend.planned_ids(plan)]

    plan, ids = read(path, work)
    assert len(set(ids)) == len(ids) == plan.count == sum(plan.by_status.values()) == sum(plan.by_pipeline.values())
    assert path.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["flujo_ops.db"]
    assert plan.rows["steps"] > 0
    assert plan.size_bytes > 10_000
    assert not plan.is_estimate


@pytest.mark.parametrize(("counted", "sampled"), [(10_000, 500), (1_000, 500), (600, 100), (50, 7)])
def test_what_hangs_on_runs_is_counted_or_said_to_be_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: int, sampled: int
) -> None:
    """A sample may meet the only runs that have spans; of a table it never says more than it has."""
    monkeypatch.setattr(estimate, "COUNTED", counted)
    monkeypatch.setattr(estimate, "SAMPLED", sampled)
    path = copy(NEW, tmp_path)
    run = "'n-' || i, 'p', 'many', '1', 'completed', '2020-01-01T00:00:00+00:00', '2020-01-01T00:00:00+00:00'"
    numbers = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 1000)"
    edit(
        path,
        f"{numbers} INSERT INTO runs (run_id, pipeline_id, pipeline_name, pipeline_version, status, created_at, "
        f"updated_at) SELECT {run} FROM n",
    )
    plan = planned(path)
    ids = ids_of(delete(path, plan)) if counted > plan.count else []
    (tmp_path / "again").mkdir()
    hung = rows(copy(NEW, tmp_path / "again"))
    whole = {table: len(hung[table]) for table in ("steps", "spans", "evaluations")}
    assert plan.is_estimate == (counted < plan.count)
    assert all(plan.rows.get(table, 0) <= count for table, count in whole.items())
    if not plan.is_estimate:
        assert len(ids) == plan.count > 1_000
        left = rows(path)
        assert plan.rows == {table: whole[table] - len(left[table]) for table in whole}
    assert plan.is_size_estimate


def test_columns_and_tables_that_nobody_knows_stay_out_of_the_way(tmp_path: Path) -> None:
    path, keep = copy(NEW, tmp_path), Kept_()
    edit(
        path,
        "CREATE TABLE mine (run_id TEXT, text TEXT)",
        "INSERT INTO mine VALUES ('fail-001', 'x')",
        "ALTER TABLE runs ADD COLUMN team TEXT",
        "UPDATE runs SET team = 'ops'",
    )
    before = rows(path)
    delete(path, planned(path, run_ids=("fail-001",)), keep=keep)
    assert rows(path)["mine"] == before["mine"]
    read(path, lambda backend: backend.restore(keep.records))
    assert rows(path) == before


# --- ages

FORMS = [
    "%Y-%m-%dT%H:%M:%S.%f+00:00",
    "%Y-%m-%dT%H:%M:%S+00:00",
    "%Y-%m-%dT%H:%M:%SZ",
    "%Y-%m-%dT%H:%M:%S.%fZ",
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%d %H:%M:%S.%f",
    "%Y-%m-%dT%H:%M:%S.%f",
    "%Y-%m-%dT%H:%M:%S",
]


def empty(tmp_path: Path) -> Path:
    path = tmp_path / "made.db"
    with closing(sqlite3.connect(path)) as db:
        db.executescript(CREATE)
    return path


def state(run_id: str, updated: str, created: str | None = None, status: str = "completed", **more: Any) -> str:
    values = {
        "run_id": run_id, "pipeline_id": "p", "pipeline_name": "p", "pipeline_version": "1", "current_step_index": 0,
        "status": status, "pipeline_context": "{}", "created_at": created or updated, "updated_at": updated, **more,
    }  # fmt: skip
    told = ", ".join("NULL" if v is None else repr(v) for v in values.values())
    return f"INSERT INTO workflow_state ({', '.join(values)}) VALUES ({told})"


def run_row(run_id: str, created: str, updated: str | None = None, status: str = "completed") -> str:
    return (
        "INSERT INTO runs (run_id, pipeline_id, pipeline_name, pipeline_version, status, created_at, updated_at) "
        f"VALUES ('{run_id}', 'p', 'p', '1', '{status}', '{created}', '{updated or created}')"
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("with_run", [True, False])
def test_an_hour_round_thirty_days_in_every_form(form: str, with_run: bool, tmp_path: Path) -> None:
    path, cutoff = empty(tmp_path), NOW - timedelta(days=30)
    for name, when in (("old", cutoff - timedelta(hours=1)), ("young", cutoff + timedelta(hours=1))):
        edit(path, state(name, when.strftime(form)))
        if with_run:
            edit(path, run_row(name, when.strftime(form)))
    request = asked(cutoff=cutoff)
    plan = read(path, lambda backend: backend.plan_deletion(request), zone=UTC)
    assert ids_of(read(path, lambda backend: deleted(backend, plan), zone=UTC)) == ["old"]
    assert [run.run_id for run in runs(path)] == ["young"]


@pytest.mark.parametrize("form", ["%Y-%m-%dT%H:%M:%S.%f", "%Y-%m-%d %H:%M:%S"])
@pytest.mark.parametrize("hours", [-11, -5, 0, 3, 13])
def test_naive_times_are_the_writers(form: str, hours: int, tmp_path: Path) -> None:
    path, cutoff, zone = empty(tmp_path), NOW - timedelta(days=30), timezone(timedelta(hours=hours))
    for name, when in (("old", cutoff - timedelta(hours=1)), ("young", cutoff + timedelta(hours=1))):
        edit(path, state(name, when.astimezone(zone).strftime(form)))
    plan = read(path, lambda backend: backend.plan_deletion(asked(cutoff=cutoff)), zone=zone)
    assert ids_of(read(path, lambda backend: deleted(backend, plan), zone=zone)) == ["old"]


def test_the_newest_of_all_times_counts(tmp_path: Path) -> None:
    path = empty(tmp_path)
    old, young = "2026-01-01T00:00:00+00:00", (NOW - timedelta(hours=1)).isoformat()
    edit(path, state("by-state", young, old), run_row("by-state", old))
    edit(path, state("by-run", old), run_row("by-run", old, young))
    edit(path, state("by-creation", old, young), run_row("by-creation", old))
    edit(
        path,
        state("by-end", old),
        run_row("by-end", old),
        f"UPDATE runs SET end_time = '{young}' WHERE run_id = 'by-end'",
    )
    edit(path, state("old", old), run_row("old", old))
    assert ids_of(delete(path, planned(path))) == ["old"]


def test_unknown_ages_are_never_old(tmp_path: Path) -> None:
    path, old = empty(tmp_path), "2026-01-01T00:00:00+00:00"
    edit(path, state("garbage", "yesterday", old))
    edit(path, state("empty", ""), run_row("no-start", ""))
    edit(path, state("future", "2031-01-01T00:00:00+00:00", old))
    edit(path, state("half", old), run_row("half", old, "soon"))
    edit(path, state("old", old))
    plan = planned(path)
    assert (plan.count, plan.kept) == (1, Retained(unknown_age=5))
    assert ids_of(delete(path, plan)) == ["old"]


def test_in_a_store_of_several_zones_the_youngest_reading_counts(tmp_path: Path) -> None:
    path = copy(OLD, tmp_path)
    cutoff = datetime(2026, 6, 1, 12, tzinfo=UTC)
    edit(path, "DELETE FROM workflow_state", "DELETE FROM runs")
    columns = "run_id, pipeline_name, pipeline_version, status, start_time, end_time"

    def pair(run_id: str, local: str, utc: str) -> None:
        edit(
            path,
            state(run_id, local),
            f"INSERT INTO runs ({columns}) VALUES ('{run_id}','p','1','completed','{utc}','{utc}')",
        )

    pair("lima", "2026-07-01T07:00:00", "2026-07-01T12:00:00")
    pair("berlin", "2026-07-01T14:00:00", "2026-07-01T12:00:00")
    # Ten in the morning is before noon in UTC if it is Berlin's, and after it if it is Lima's.
    edit(path, state("doubtful", "2026-06-01T10:00:00"), state("old", "2026-06-01T06:30:00"))
    assert ids_of(delete(path, planned(path, cutoff=cutoff))) == ["old"]


# --- families


def family(
    path: Path, *, parent: str, task: str, task_status: str = "completed", grandchild: str | None = None
) -> None:
    edit(path, state("head", parent), run_row("head", parent))
    more = {"parent_run_id": "head", "is_background_task": 1}
    edit(path, state("head_bg_1", task, status=task_status, **more))
    if grandchild:
        edit(path, state("head_bg_2", grandchild, parent_run_id="head_bg_1", is_background_task=1))


OLD_TIME, YOUNG_TIME = "2026-01-01T00:00:00+00:00", (NOW - timedelta(hours=2)).isoformat()


def test_a_family_goes_together(tmp_path: Path) -> None:
    path = empty(tmp_path)
    family(path, parent=OLD_TIME, task=OLD_TIME, grandchild=OLD_TIME)
    batches = delete(path, planned(path), batch_size=1)
    assert [sorted(batch.run_ids) for batch in batches] == [["head", "head_bg_1", "head_bg_2"]]


@pytest.mark.parametrize("young", ["parent", "task", "grandchild"])
def test_a_family_stays_while_one_of_it_is_young(young: str, tmp_path: Path) -> None:
    path = empty(tmp_path)
    times = {name: YOUNG_TIME if name == young else OLD_TIME for name in ("parent", "task", "grandchild")}
    family(path, **times)
    assert planned(path).count == 0


def test_a_status_is_asked_of_all_of_a_family(tmp_path: Path) -> None:
    path = empty(tmp_path)
    family(path, parent=OLD_TIME, task=OLD_TIME, task_status="failed")
    plan = planned(path, wanted=RunFilter(statuses=frozenset({"completed"})))
    assert (plan.count, plan.kept.family) == (0, 1)
    assert planned(path, wanted=RunFilter(statuses=frozenset({"completed", "failed"}))).count == 2
    assert planned(path, wanted=RunFilter(pipeline="p", top_level=True)).count == 2


def test_a_task_whose_parent_is_gone_goes_by_itself(tmp_path: Path) -> None:
    path = empty(tmp_path)
    family(path, parent=OLD_TIME, task=OLD_TIME)
    edit(path, "DELETE FROM workflow_state WHERE run_id = 'head'", "DELETE FROM runs")
    assert ids_of(delete(path, planned(path))) == ["head_bg_1"]
    edit(
        path,
        state("circle-1", OLD_TIME, parent_run_id="circle-2"),
        state("circle-2", OLD_TIME, parent_run_id="circle-1"),
    )
    edit(path, state("own", OLD_TIME, parent_run_id="own"))
    assert ids_of(delete(path, planned(path))) == ["own"]


def test_paused_runs_stay_where_asked_with_all_of_their_family(tmp_path: Path) -> None:
    path = empty(tmp_path)
    family(path, parent=OLD_TIME, task=OLD_TIME, task_status="paused")
    edit(path, state("alone", OLD_TIME, status="paused"))
    plan = planned(path, keep_paused=True)
    assert (plan.count, plan.kept.paused) == (0, 2)
    assert planned(path).by_status == {"completed": 1, "paused": 2}


def test_the_last_of_each_pipeline_stay(tmp_path: Path) -> None:
    path = empty(tmp_path)
    for number in range(6):
        when = f"2026-01-0{number + 1}T00:00:00+00:00"
        edit(path, state(f"r{number}", when), run_row(f"r{number}", when))
    plan = planned(path, cutoff=None, keep_last=2)
    assert sorted(ids_of(delete(path, plan))) == ["r0", "r1", "r2", "r3"]
    assert plan.kept.last == 2
    assert planned(path, keep_last=0).count == 2


# --- each is looked at again


def test_a_run_that_changes_after_the_plan_stays(tmp_path: Path) -> None:
    path = empty(tmp_path)
    for name in ("saved", "updated", "paused", "got-task", "gone", "old"):
        edit(path, state(name, OLD_TIME), run_row(name, OLD_TIME))
    plan = planned(path, keep_paused=True)
    edit(path, "DELETE FROM workflow_state WHERE run_id = 'saved'", state("saved", OLD_TIME))
    edit(path, f"UPDATE workflow_state SET updated_at = '{YOUNG_TIME}' WHERE run_id = 'updated'")
    edit(path, "UPDATE workflow_state SET status = 'paused' WHERE run_id = 'paused'")
    edit(path, state("new_bg", OLD_TIME, parent_run_id="got-task"))
    edit(path, "DELETE FROM workflow_state WHERE run_id = 'gone'", "DELETE FROM runs WHERE run_id = 'gone'")
    batches = delete(path, plan)
    assert ids_of(batches) == ["old"]
    stayed = {skipped.run_id: skipped.why for batch in batches for skipped in batch.skipped}
    assert stayed == {"saved": "changed", "updated": "changed", "paused": "paused", "got-task": "changed"}


def test_a_rowid_that_another_run_got_is_not_taken_for_the_old_one(tmp_path: Path) -> None:
    path = empty(tmp_path)
    edit(path, state("old", OLD_TIME))
    plan = planned(path)
    edit(path, "DELETE FROM workflow_state", state("other", YOUNG_TIME))
    assert ids_of(delete(path, plan)) == []
    assert [run.run_id for run in runs(path)] == ["other"]


def test_what_a_living_process_holds_stays_unless_forced(tmp_path: Path) -> None:
    path = empty(tmp_path)
    edit(path, state("held", OLD_TIME), state("free", OLD_TIME))

    async def work(backend: SQLiteBackend) -> tuple[DeletionPlan, DeletionPlan, DeletionPlan, list[Deleted]]:
        from flujo_lens.state.claims import Holder

        unheld = await backend.plan_deletion(asked(now=datetime.now(UTC) + timedelta(seconds=1)))
        await backend.claim_run("held", Holder.current(), 60)
        now = datetime.now(UTC)
        plain = await backend.plan_deletion(asked(now=now))
        forced = await backend.plan_deletion(asked(now=now, run_ids=("held",), force=True))
        return unheld, plain, forced, await deleted(backend, unheld)

    unheld, plain, forced, batches = read(path, work)
    assert (unheld.count, plain.count, plain.kept.held, forced.count) == (2, 1, 1, 1)
    assert list(forced.held) == ["held"]
    assert ids_of(batches) == ["free"]
    assert [skipped for batch in batches for skipped in batch.skipped] == [("held", "held")]
    assert ids_of(delete(path, forced)) == ["held"]
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM lens_claims").fetchone() == (0,)


# --- keeping


def test_what_cannot_be_kept_is_not_deleted(tmp_path: Path) -> None:
    path, seen = copy(NEW, tmp_path), []

    def keep(records: Sequence[Record]) -> None:
        if seen:
            raise OperationFailedError("full")
        seen.extend(records)

    plan, before = planned(path), rows(path)

    async def work(backend: SQLiteBackend) -> None:
        async for _ in backend.delete_planned(plan, keep=keep, batch_size=2):
            pass

    with pytest.raises(OperationFailedError, match="full"):
        read(path, work)
    kept = [record["run_id"] for record in seen]
    assert 1 <= len(kept) < plan.count
    assert rows(path) == of(before, path, kept, without=True)


def test_restore_leaves_what_exists_alone(tmp_path: Path) -> None:
    path, keep = copy(NEW, tmp_path), Kept_()
    delete(path, planned(path, run_ids=("fail-001", "single-001")), keep=keep)
    edit(path, state("fail-001", OLD_TIME))
    restored = read(path, lambda backend: backend.restore(keep.records))
    assert restored == (("single-001",), ("fail-001",))
    assert [run.pipeline_name for run in runs(path) if run.run_id == "fail-001"] == ["p"]


def test_restore_refuses_what_there_is_no_place_for(tmp_path: Path) -> None:
    path, keep = copy(NEW, tmp_path), Kept_()
    edit(path, "ALTER TABLE runs ADD COLUMN team TEXT", "UPDATE runs SET team = 'ops'")
    delete(path, planned(path, run_ids=("fail-001",)), keep=keep)
    edit(path, "ALTER TABLE runs DROP COLUMN team")
    before = rows(path)
    with pytest.raises(SchemaError, match="column team"):
        read(path, lambda backend: backend.restore(keep.records))
    assert rows(path) == before


def test_a_number_that_another_row_has_by_now_is_replaced(tmp_path: Path) -> None:
    path, keep = copy(NEW, tmp_path), Kept_()
    edit(path, "UPDATE sqlite_sequence SET seq = 0")
    delete(path, planned(path, run_ids=("fail-001",)), keep=keep)
    with closing(sqlite3.connect(path)) as db, db:
        (taken,) = keep.records[0]["tables"]["steps"]["rows"][:1]
        columns = "id, run_id, step_name, step_index, status, created_at"
        db.execute(f"INSERT INTO steps ({columns}) VALUES ({taken[0]}, 'x', 's', 0, 'c', '')")
    assert read(path, lambda backend: backend.restore(keep.records)).run_ids == ("fail-001",)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM steps WHERE run_id = 'fail-001'").fetchone() == (2,)


# --- the state alone, named runs, rows without a run


def test_the_state_alone_goes_and_comes_back(tmp_path: Path) -> None:
    path, keep = copy(NEW, tmp_path), Kept_()
    before = rows(path)
    delete(path, planned(path, run_ids=("paused-001",), state_only=True), keep=keep)
    (run,) = [run for run in runs(path) if run.run_id == "paused-001"]
    assert run.status == "cancelled"
    assert {t: len(r) for t, r in rows(path).items()} == {
        t: len(r) - (t == "workflow_state") for t, r in before.items()
    }
    assert read(path, lambda backend: backend.restore(keep.records)).run_ids == ("paused-001",)
    assert rows(path) == before


def test_named_runs_go_whatever_their_age_and_missing_ones_are_told(tmp_path: Path) -> None:
    path = copy(NEW, tmp_path)
    plan = planned(path, cutoff=None, run_ids=("weird id/with slash", "nope", "üñí-run", "nope"))
    assert (plan.count, plan.missing) == (2, ("nope",))
    assert sorted(ids_of(delete(path, plan))) == ["weird id/with slash", "üñí-run"]


def test_rows_without_a_run(tmp_path: Path) -> None:
    path, keep = copy(NEW, tmp_path), Kept_()
    edit(path, "DELETE FROM runs WHERE run_id = 'fail-001'", "DELETE FROM workflow_state WHERE run_id = 'fail-001'")
    edit(path, "UPDATE spans SET created_at = '2027-02-28 23:59:59' WHERE run_id = 'fail-001'")
    before = rows(path)
    young = planned(path, cutoff=None, orphans_before=LATER)
    assert not young.orphans
    plan = planned(path, cutoff=None, orphans_before=NOW)
    assert plan.orphans["spans"] == 3
    assert plan.orphans["steps"] == 2
    batches = delete(path, plan, keep=keep)
    assert sum(batch.orphans for batch in batches) == sum(plan.orphans.values())
    assert ids_of(batches) == []
    assert rows(path) == of(before, path, ["fail-001"], without=True)
    assert read(path, lambda backend: backend.restore(keep.records)).run_ids == ("fail-001",)
    assert rows(path) == before


# --- runs with very many rows, signals, locks


def large(path: Path, spans: int) -> None:
    edit(
        path,
        state("large", OLD_TIME), run_row("large", OLD_TIME), state("small", OLD_TIME),
        f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {spans}) INSERT INTO spans "
        "(run_id, span_id, name, start_time, status, created_at) "
        "SELECT 'large', 's' || i, 'n', i, 'completed', '2026-01-01 00:00:00' FROM n",
    )  # fmt: skip


def test_a_run_of_very_many_rows_goes_in_parts_and_an_interrupted_one_is_finished(tmp_path: Path) -> None:
    path, keep = empty(tmp_path), Kept_()
    large(path, 26_000)
    before = rows(path)
    plan = planned(path)

    async def some(backend: SQLiteBackend) -> None:
        batches = backend.delete_planned(plan, keep=keep)
        while not (await anext(batches)).rows.get("spans"):
            pass
        await batches.aclose()

    read(path, some)
    left = len(rows(path)["spans"])
    assert 0 < left < 26_000
    again = planned(path, cutoff=datetime(2020, 1, 1, tzinfo=UTC))
    assert (again.count, again.unfinished) == (1, 1)
    batches = delete(path, again)
    assert ids_of(batches) == ["large"]
    assert max(sum(batch.rows.values()) for batch in batches) <= 5_003
    assert not of(rows(path), path, ["large"], without=False)["spans"]
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM lens_deletions").fetchone() == (0,)
    read(path, lambda backend: backend.restore(keep.records))
    assert of(rows(path), path, ["large"], without=False) == of(before, path, ["large"], without=False)


class Alive(dict[str, Any]):
    """A record that can be counted as long as anything holds it."""

    __hash__ = object.__hash__  # type: ignore[assignment]


class Lines:
    """Keeps records packed, as an archive does, and reads them back one by one, as often as it is asked."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.rows = self.most_alive = 0
        self.alive: WeakSet[Alive] = WeakSet()

    def __call__(self, records: Sequence[Record]) -> None:
        self.rows = max(self.rows, sum(len(t["rows"]) for record in records for t in record["tables"].values()))
        self.parts += [zlib.compress(json.dumps(record).encode()) for record in records]

    def __iter__(self) -> Iterator[Record]:
        for part in self.parts:
            record = Alive(json.loads(zlib.decompress(part)))
            self.alive.add(record)
            self.most_alive = max(self.most_alive, sum(1 for _ in self.alive))
            yield record


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run is large from 2,000 rows on, and goes through the memory by 500."""
    monkeypatch.setattr(copies, "LARGE", 2_000)
    monkeypatch.setattr(run_records, "_ROWS", 100)
    monkeypatch.setattr(run_records, "_ROWS_AT_ONCE", 500)


@pytest.mark.usefixtures("small_parts")
def test_a_run_of_very_many_rows_is_never_held_whole(tmp_path: Path) -> None:
    path, keep = empty(tmp_path), Lines()
    large(path, 2_600)
    before = rows(path)
    delete(path, planned(path), keep=keep)
    assert (keep.rows, len(keep.parts)) == (502, 28)
    assert sorted(read(path, lambda backend: backend.restore(keep)).run_ids) == ["large", "small"]
    assert 0 < keep.most_alive <= 3
    assert rows(path) == before


@pytest.mark.skipif("LENS_SOAK" not in os.environ or sys.platform != "linux", reason="a minute: LENS_SOAK=1")
def test_a_process_that_deletes_or_restores_a_large_run_stays_under_80_mib(tmp_path: Path) -> None:
    path = empty(tmp_path)
    large(path, 200_000)
    before = rows(path)

    def lens(*words: str) -> float:
        # Not ru_maxrss, which a child has from its parent at first.
        code = "from flujo_lens.cli.app import main\ntry: main()\nfinally: print(open('/proc/self/status').read())"
        command = [sys.executable, "-c", code, *words, "--store", str(path), "--yes"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        (line,) = (line for line in done.stdout.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024

    assert lens("delete", "large") < 80
    (item,) = (tmp_path / f"{path.name}.lens-bin").iterdir()
    assert lens("undo", item.name.removesuffix(".ndjson.gz")) < 80
    assert rows(path) == before


@pytest.mark.parametrize("name", ALL)
def test_records_in_parts_give_every_row_back(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "LARGE", 1)
    monkeypatch.setattr(run_records, "_ROWS", 2)
    monkeypatch.setattr(run_records, "_ROWS_AT_ONCE", 3)
    path, keep = copy(name, tmp_path), Kept_()
    before = rows(path)
    gone = ids_of(delete(path, planned(path), keep=keep, batch_size=1))
    assert len(keep.records) > len(gone) or name == "flujo-0.4.32"  # which has one row a run
    assert sum(record.get("last") is True for record in keep.records) == len(gone)
    restored = read(path, lambda backend: backend.restore(keep.records))
    assert sorted(restored.run_ids) == sorted(gone)
    assert rows(path) == before


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("at", [1, 3])
def test_a_large_run_that_changes_while_it_is_copied_stays(at: int, tmp_path: Path) -> None:
    path = empty(tmp_path)
    large(path, 2_600)
    calls = []

    def keep(records: Sequence[Record]) -> None:
        calls.append(len(records))
        if len(calls) == at:
            edit(
                path,
                "INSERT INTO spans (run_id, span_id, name, start_time, status, created_at) "
                "VALUES ('large', 'more', 'n', 0, 'completed', '2026-01-01 00:00:00')",
            )

    batches = delete(path, planned(path, run_ids=("large",)), keep=keep)
    assert [skipped for batch in batches for skipped in batch.skipped] == [("large", "changed")]
    assert len(rows(path)["spans"]) == 2_601
    assert max(calls) <= 6


def test_a_run_that_was_saved_since_its_deletion_began_is_not_finished_off(tmp_path: Path) -> None:
    path = empty(tmp_path)
    large(path, 26_000)
    plan = planned(path, run_ids=("large",))

    async def some(backend: SQLiteBackend) -> None:
        batches = backend.delete_planned(plan)
        await anext(batches)
        await batches.aclose()

    read(path, some)
    left = len(rows(path)["spans"])
    edit(path, f"UPDATE workflow_state SET updated_at = '{NOW.isoformat()}' WHERE run_id = 'large'")
    again = planned(path, now=NOW + timedelta(hours=1))
    assert again.unfinished == 1
    batches = delete(path, again)
    assert ids_of(batches) == ["small"]
    assert [skipped for batch in batches for skipped in batch.skipped] == [("large", "changed")]
    assert len(rows(path)["spans"]) == left
    assert planned(path).unfinished == 0


def test_what_an_application_saves_afterwards_is_folded_in_as_usual(tmp_path: Path) -> None:
    path = empty(tmp_path)
    many(path, 300)

    async def work(backend: SQLiteBackend) -> int:
        await deleted(backend, await backend.plan_deletion(asked()))
        for number in range(300):
            await backend.save_state(f"new-{number}", {"pipeline_context": {"text": "x" * 40_000}})
        return os.path.getsize(f"{path}-wal")

    assert read(path, work) < 8 << 20


def test_a_batch_has_only_so_many_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deleting, "_MANY_ROWS", 10)
    path = copy(NEW, tmp_path)
    batches = delete(path, planned(path))
    assert len(ids_of(batches)) == planned(copy(NEW, tmp_path / "b")).count
    assert len(batches) > 5


CHILD = """
import asyncio, sys
from datetime import UTC, datetime, timedelta
from flujo_lens.state.backends.sqlite import SQLiteBackend
from flujo_lens.state.deletion import DeletionRequest
import orjson, os

def keep(records):
    with open(sys.argv[2], "ab") as file:
        file.write(b"".join(orjson.dumps(r) + b"\\n" for r in records))
        file.flush()
        os.fsync(file.fileno())

async def main():
    now = datetime.now(UTC)
    backend = SQLiteBackend(sys.argv[1])
    plan = await backend.plan_deletion(DeletionRequest(now, now))
    print("go", flush=True)
    async for _ in backend.delete_planned(plan, keep=keep, batch_size=4):
        pass

asyncio.run(main())
"""
ROUNDS = 100 if os.environ.get("LENS_SOAK") else 8


def many(path: Path, count: int) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA journal_mode = wal")
        for number in range(count):
            db.execute(state(f"r{number}", OLD_TIME))
            db.execute(run_row(f"r{number}", OLD_TIME))
            for step in range(3):
                db.execute(
                    "INSERT INTO steps (run_id, step_name, step_index, status, created_at) VALUES (?, ?, ?, ?, ?)",
                    (f"r{number}", f"s{step}", step, "completed", OLD_TIME),
                )


def test_killed_at_any_moment_each_run_is_whole_in_the_store_or_kept(tmp_path: Path) -> None:
    import orjson

    rng = random.Random(4)
    for number in range(ROUNDS):
        path, kept = empty(tmp_path), tmp_path / f"kept-{number}"
        many(path, 400)
        with python("-c", CHILD, path, kept, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"go\n"
            time.sleep(rng.uniform(0, 0.15))
            child.send_signal(signal.SIGKILL)
        copies = {}
        for line in kept.read_bytes().splitlines() if kept.exists() else []:
            try:
                record = orjson.loads(line)
            except ValueError:
                continue
            copies[record["run_id"]] = {table: len(found["rows"]) for table, found in record["tables"].items()}
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            here = {run_id: 3 for (run_id,) in db.execute("SELECT run_id FROM runs")}
            assert dict(db.execute("SELECT run_id, count(*) FROM steps GROUP BY run_id")) == here
            assert {run_id for (run_id,) in db.execute("SELECT run_id FROM workflow_state")} == set(here)
        gone = {f"r{i}" for i in range(400)} - set(here)
        assert all(copies[run_id] == {"workflow_state": 1, "runs": 1, "steps": 3} for run_id in gone)
        assert sorted(ids_of(delete(path, planned(path)))) == sorted(here)
        assert not any(rows(path)[table] for table in ("runs", "workflow_state", "steps"))
        path.unlink()


def test_another_process_commits_all_the_while(tmp_path: Path) -> None:
    path = empty(tmp_path)
    many(path, 3_000)
    writer = textwrap.dedent("""
        import sqlite3, sys, time
        db = sqlite3.connect(sys.argv[1], timeout=1, isolation_level=None)
        print("go", flush=True)
        count = 0
        try:
            while not sys.stdin.closed and count < 400:
                db.execute("INSERT INTO system_state VALUES (?, '{}', '')", (str(count),))
                count += 1
                time.sleep(0.002)
        finally:
            print(count, flush=True)
    """)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with python("-c", writer, path, **pipes) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"go\n"
        assert len(ids_of(delete(path, planned(path)))) == 3_000
        out, err = child.communicate(timeout=60)
    assert (out, err) == (b"400\n", b"")


def test_in_a_rollback_journal_a_reader_does_not_stop_it_for_ever(tmp_path: Path) -> None:
    path = copy(NEW, tmp_path)
    edit(path, "PRAGMA journal_mode = delete")
    plan = planned(path)
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM runs").fetchone()

        async def work(backend: SQLiteBackend) -> list[Deleted]:
            task = asyncio.ensure_future(deleted(backend, plan))
            await asyncio.sleep(0.4)
            # It waits for the reader, and others can begin to read meanwhile.
            with closing(sqlite3.connect(path, timeout=2)) as other:
                assert other.execute("SELECT count(*) FROM runs").fetchone()[0] > 0
            reader.execute("COMMIT")
            return await task

        assert len(ids_of(read(path, work))) == plan.count
