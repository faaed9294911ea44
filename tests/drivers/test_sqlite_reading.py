"""The SQLite driver adapts to what a store has; and what it writes, it reads."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from stores import (
    ALL,
    DATA,
    MIXTURE,
    NEW,
    OLD,
    OLDEST,
    WAL,
    by_id,
    copy,
    detail,
    edit,
    listed,
    make,
    outline,
    read,
    run,
    runs,
    state,
    traces_of,
)
from stores import spans as spans_of

from flujo_lens.errors import CorruptStoreError, LensError, NotAStoreError, SchemaError
from flujo_lens.state.aggregate import aggregate, aggregate_spans
from flujo_lens.state.backends.sqlite import SQLiteBackend
from flujo_lens.state.backends.sqlite.reads import index_choice
from flujo_lens.state.backends.sqlite.reads import run_selection as plans
from flujo_lens.state.backends.sqlite.schema.tables import CREATE
from flujo_lens.state.statistics import Durations, SpanStats, Stats
from flujo_lens.state.views import UNREADABLE, RunFilter, RunSummary

TABLES = ("workflow_state", "runs", "steps", "spans", "traces", "evaluations", "system_state")
FILTERS = (
    RunFilter(statuses=frozenset({"failed", "cancelled"})),
    RunFilter(statuses=frozenset({"failed"}), active_since=datetime(2020, 1, 1, tzinfo=UTC)),
    RunFilter(pipeline="orders"),
    RunFilter(parent="bgparent-001"),
    RunFilter(since=datetime(2020, 1, 1, tzinfo=UTC), search="a", error="*"),
    RunFilter(meta=(("step_name", "notify"),)),
)


def tables_of(path: Path) -> dict[str, list[str]]:
    """The columns of a store by table."""
    with closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as db:
        found = {table: [row[1] for row in db.execute(f"PRAGMA table_info({table})")] for table in TABLES}
    return {table: columns for table, columns in found.items() if columns}


def drop(path: Path, *columns: tuple[str, str]) -> Path:
    """Copy tables without these columns (and without keys, checks and indexes)."""
    there = tables_of(path)
    with closing(sqlite3.connect(path)) as db:
        for table in dict(columns):
            gone = {column for of, column in columns if of == table}
            kept = ", ".join(f'"{name}"' for name in there[table] if name not in gone)
            db.execute(f"CREATE TABLE copied AS SELECT {kept} FROM {table}")
            db.execute(f"DROP TABLE {table}")
            db.execute(f"ALTER TABLE copied RENAME TO {table}")
        db.commit()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


async def every_read(
    backend: SQLiteBackend, first: int = 5, last: int = 3, filters: Sequence[RunFilter] = FILTERS
) -> list[RunSummary]:
    """All reading methods, none of which may break, and those of one run for some; the runs of the list."""
    found = await listed(backend)
    for wanted in filters:
        await backend.query_runs(wanted, limit=5, reverse=True)
        assert await backend.count_runs(wanted) == len(await listed(backend, wanted)), wanted
    for summary in [*found[:first], *found[-last:]]:
        one = await backend.read_run(summary.run_id)
        assert one is not None
        assert one.run.status == summary.status
        await backend.read_spans(summary.run_id)
        await backend.get_trace(summary.run_id)
        with suppress(CorruptStoreError):
            await backend.load_state(summary.run_id)
        assert summary.run_id in await backend.find_run_ids(summary.run_id[:3], 1000)
    stats = await backend.read_stats(RunFilter())
    assert stats.total == len(found) == await backend.count_runs(RunFilter())
    await backend.read_span_stats(RunFilter())
    await backend.read_span_stats(FILTERS[0])
    await backend.list_states()
    await backend.list_evaluations()
    await backend.read_system_state()
    await backend.read_facts()
    await backend.get_failed_workflows(10**6)
    return found


def read_all(path: Path, *, walk: bool = False, **some: Any) -> list[RunSummary]:
    """All reading methods; `walk` as they are done on a large store."""
    with pytest.MonkeyPatch.context() as patch:
        if walk:
            patch.setattr(index_choice, "SMALL_STORE", -1)
            patch.setattr(index_choice, "FEW", -1)
            patch.setattr(plans, "WALK_BUDGET", 10**6)
        found = read(path, lambda backend: every_read(backend, **some))
    assert len({run.run_id for run in found}) == len(found)
    return found


# --- missing tables, columns and indexes


SHAPES = {name: tables_of(DATA / name / "flujo_ops.db") for name in ALL}
TOTALS = {NEW: 30, OLD: 24, MIXTURE: 28}


@pytest.mark.parametrize(("name", "table"), [(name, table) for name in TOTALS for table in SHAPES[name]])
def test_any_single_column_may_be_missing(name: str, table: str, tmp_path: Path) -> None:
    """Every column of the newest schema; of the others each fifth, or all with LENS_SOAK."""
    step = 1 if name == NEW or "LENS_SOAK" in os.environ else 5
    filters = FILTERS if table in ("runs", "workflow_state") else FILTERS[:1]  # they read nothing of the others
    for column in list(SHAPES[name][table])[::step]:
        path = drop(copy(name, tmp_path / column), (table, column))
        what = f"{table} without {column}"
        essential = column == "run_id" or (column == "status" and table in ("workflow_state", "runs"))
        try:
            found = read_all(path, first=2, last=1, filters=filters)
        except LensError as error:
            raise AssertionError(f"{what}: {error!r}") from error
        if not essential:
            assert len(found) == TOTALS[name], what


@pytest.mark.parametrize("name", [name for name in ALL if name != WAL])
def test_any_tables_may_be_missing(name: str, tmp_path: Path) -> None:
    whole = {run.run_id: run for run in runs(copy(name, tmp_path / "whole"))}
    there = SHAPES[name]
    for gone in (
        ["runs"],
        ["workflow_state"],
        ["steps", "spans"],
        ["spans"],
        ["traces", "evaluations", "system_state"],
    ):
        if not set(gone) <= set(there) or not {"runs", "workflow_state"} - set(gone) & set(there):
            continue
        path = copy(name, tmp_path / "-".join(gone))
        with closing(sqlite3.connect(path)) as db:
            for table in gone:
                db.execute(f"DROP TABLE {table}")
            known = {row[0] for t in ("runs", "workflow_state") if t not in gone and t in there
                     for row in db.execute(f"SELECT run_id FROM {t}")}  # fmt: skip
        for walk in (False, True):
            assert {found.run_id for found in read_all(path, walk=walk, first=2, last=1)} == known
        for found in runs(path):
            was = whole[found.run_id]
            if gone == ["runs"]:
                states_say = "failed" if was.run_id == "cancelled-001" and name == NEW else was.status
                assert found.status in (states_say, "failed")
            if gone == ["steps", "spans"]:
                assert (found.status, found.created_at) == (was.status, was.created_at)


@pytest.mark.parametrize("name", ALL)
def test_all_indexes_may_be_missing(name: str, tmp_path: Path) -> None:
    path = copy(name, tmp_path)
    whole = runs(path)
    with closing(sqlite3.connect(path)) as db:
        for (index,) in db.execute(
            "SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
        ).fetchall():
            db.execute(f'DROP INDEX "{index}"')
        db.commit()
    for walk in (False, True):
        found = read_all(path, walk=walk)
        assert [(f.run_id, f.status) for f in found] == [(w.run_id, w.status) for w in whole]
        assert [f.created_at for f in found] == [w.created_at for w in whole]


def test_partial_indexes_and_indexes_on_expressions_are_of_no_use(tmp_path: Path) -> None:
    path = edit(
        copy(NEW, tmp_path),
        "DROP INDEX idx_runs_created_at",
        "CREATE INDEX odd ON runs(created_at) WHERE status = 'failed'",
        'CREATE INDEX "odd "" name" ON runs(substr(created_at, 1, 4))',
        "DROP INDEX idx_workflow_state_status",
        "CREATE INDEX odder ON workflow_state(status) WHERE status = 'running'",
    )
    assert len(read_all(path)) == len(read_all(path, walk=True)) == 30


def test_columns_and_tables_of_later_versions_are_passed_over(tmp_path: Path) -> None:
    path = edit(
        copy(NEW, tmp_path),
        "ALTER TABLE runs ADD COLUMN owner TEXT DEFAULT 'x'",
        'ALTER TABLE workflow_state ADD COLUMN "odd name" BLOB',
        "CREATE TABLE tenants (id)",
        "CREATE VIEW every_run AS SELECT * FROM runs",
        "PRAGMA user_version = 7",
    )
    assert len(read_all(path)) == 30
    facts = read(path, lambda b: b.read_facts())
    assert "7" in facts["notes"][0]


def test_a_database_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    for sql in ("CREATE TABLE t (a)", "CREATE TABLE runs (id, name)", "CREATE TABLE workflow_state (run_id)"):
        path.unlink(missing_ok=True)
        edit(path, sql)
        with pytest.raises(NotAStoreError):
            read(path, listed)


def test_views_may_stand_where_tables_were(tmp_path: Path) -> None:
    """An application that renamed its tables and left views behind."""
    path = edit(
        copy(NEW, tmp_path),
        "ALTER TABLE runs RENAME TO all_runs",
        "CREATE VIEW runs AS SELECT * FROM all_runs",
    )
    assert len(read(path, listed)) == 30


# --- rows that disagree, and rows that only one table has


def test_a_state_without_a_run_and_a_run_without_a_state(tmp_path: Path) -> None:
    path = make(tmp_path / "s.db", {"workflow_state": [state("s")], "runs": [run("r")]})
    for walk in (False, True):
        assert {f.run_id for f in read_all(path, walk=walk)} == {"s", "r"}
    found = by_id(path)
    assert found["r"].duration_ms == 10_000
    assert detail(path, "r").state is None
    assert detail(path, "s").state is not None


ONE_FAILED = json.dumps([{"name": "a", "success": True}, {"name": "b", "success": False, "feedback": "boom"}])
NONE_FAILED = json.dumps([{"name": "a", "success": True}])


DISAGREEING = (
    ("paused", "completed", "[]", "paused"),
    ("running", "completed", "[]", "running"),
    ("completed", "failed", "[]", "completed"),
    ("completed", "running", "[]", "completed"),
    ("failed", "completed", NONE_FAILED, "cancelled"),
    ("failed", "completed", "[]", "cancelled"),
    ("failed", "completed", None, "cancelled"),
    ("failed", "completed", ONE_FAILED, "failed"),
    ("failed", "failed", NONE_FAILED, "failed"),
    ("failed", "running", NONE_FAILED, "failed"),
    ("cancelled", "completed", "[]", "cancelled"),
    ("waiting for rain", "completed", "[]", "waiting for rain"),
    ("", "failed", "[]", "failed"),
    ("", "", "[]", UNREADABLE),
)
"""The status of a state, that of its run, the history, and what comes of them."""


def test_statuses_that_disagree(tmp_path: Path) -> None:
    states, rows, expected = list[Any](), list[Any](), dict[str, str]()
    for number, (states_status, runs_status, history, status) in enumerate(DISAGREEING):
        expected[f"x{number}"] = status
        states.append(state(f"x{number}", status=states_status, step_history=history))
        rows.append(run(f"x{number}", status=runs_status))
    path = make(tmp_path / "s.db", {"workflow_state": states, "runs": rows})
    for walk in (False, True):
        assert {found.run_id: found.status for found in read_all(path, walk=walk)} == expected
    for asked in ("paused", "running", "completed", "failed", "cancelled", "waiting for rain", UNREADABLE):
        admitted = runs(path, RunFilter(statuses=frozenset({asked})))
        assert {f.run_id: f.status for f in admitted} == {i: s for i, s in expected.items() if s == asked}, asked
    assert read(path, lambda b: b.read_stats(RunFilter())).by_status == Counter(expected.values())


def test_a_failed_step_of_a_run_without_a_history(tmp_path: Path) -> None:
    """0.6.11 leaves a failed row in ``steps``: then a failed state with a completed run was no cancellation."""
    step = {"run_id": "x", "step_index": 1, "status": "failed", "created_at": "2026-03-01T10:00:03+00:00"}
    rows = {
        "workflow_state": [state("x", status="failed", step_history=None)],
        "runs": [run("x")],
        "steps": [{**step, "step_name": "load", "step_index": 0, "status": "completed"}, {**step, "step_name": "boom"}],
    }
    path = make(tmp_path / "s.db", rows)
    (found,) = read_all(path)
    assert (found.status, found.step_name) == ("failed", "boom")
    assert [(s.step_name, s.status) for s in detail(path, "x").steps] == [("load", "completed"), ("boom", "failed")]


def test_rows_that_a_rerun_repeated_count_once(tmp_path: Path) -> None:
    step = {"run_id": "x", "status": "completed", "created_at": "2026-03-01T10:00:03+00:00"}
    steps = [
        {**step, "step_name": "load", "step_index": 0, "status": "failed", "output": '"first"'},
        {**step, "step_name": "load", "step_index": 0, "output": '"second"'},
        {**step, "step_name": "other", "step_index": 0, "output": '"was renamed"'},
        {**step, "step_name": "late", "step_index": 5, "output": None},
    ]
    history = json.dumps([{"name": "load", "success": True, "output": None}, {"name": "ask", "success": True}])
    rows = {"workflow_state": [state("x", step_history=history)], "runs": [run("x")], "steps": steps}
    found = detail(make(tmp_path / "s.db", rows), "x").steps
    assert [(s.step_index, s.step_name, s.status, s.output) for s in found] == [
        (0, "load", "completed", "second"),
        (0, "other", "completed", "was renamed"),
        (1, "ask", "completed", None),
        (5, "late", "completed", None),
    ]


def test_names(tmp_path: Path) -> None:
    """Of ``runs``, else of the state, else what the root span says."""
    span = {"name": "pipeline_run", "start_time": 5.0, "end_time": 6.0, "status": "completed", "created_at": "x"}
    told = json.dumps({"flujo.pipeline.name": "of the span", "flujo.pipeline.version": "3"})
    nameless = {"pipeline_name": "unknown", "pipeline_version": "latest"}
    rows = {
        "workflow_state": [state("a", pipeline_name="of the state"), state("b", pipeline_name="of the state"),
                           state("c", **nameless), state("d", **nameless), state("e", **nameless)],
        "runs": [run("a", pipeline_name="of the run", pipeline_version="9"), run("b", **nameless),
                 run("c", **nameless), run("d", pipeline_name="", pipeline_version=""), run("f", **nameless)],
        "spans": [{**span, "run_id": "c", "span_id": "1", "attributes": told},
                  {**span, "run_id": "d", "span_id": "2", "attributes": "{not json"},
                  {**span, "run_id": "f", "span_id": "3", "attributes": told},
                  {**span, "run_id": "f", "span_id": "4", "parent_span_id": "3", "attributes": "{}"}],
    }  # fmt: skip
    path = make(tmp_path / "s.db", rows)
    for walk in (False, True):
        found = {f.run_id: (f.pipeline_name, f.pipeline_version) for f in read_all(path, walk=walk)}
        assert found == {
            "a": ("of the run", "9"),
            "b": ("of the state", "1"),
            "c": ("of the span", "3"),
            "d": ("unknown", "latest"),
            "e": ("unknown", "latest"),
            "f": ("of the span", "3"),
        }
    assert {f.run_id for f in runs(path, RunFilter(pipeline="of the span"))} == {"c", "f"}
    assert {f.run_id for f in runs(path, RunFilter(pipeline="of the state"))} == {"b"}
    assert {f.run_id for f in runs(path, RunFilter(pipeline="unknown"))} == {"d", "e"}


def test_a_pipeline_by_its_name_in_a_large_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names do not hang on ids: an application may save several under one id, or have none."""
    monkeypatch.setattr(index_choice, "SMALL_STORE", -1)
    states = [state(f"{name}-{at}", pipeline_id="shared", pipeline_name=name) for at in range(3) for name in ("p", "q")]
    path = make(tmp_path / "s.db", {"workflow_state": states})
    for name in ("p", "q"):
        assert {f.pipeline_name for f in runs(path, RunFilter(pipeline=name))} == {name}
        assert len(runs(path, RunFilter(pipeline=name))) == 3


# --- times


TIMES = (
    ("2026-03-01T10:00:00.250000+00:00", datetime(2026, 3, 1, 10, 0, 0, 250_000, UTC)),
    ("2026-03-01T10:00:00Z", datetime(2026, 3, 1, 10, tzinfo=UTC)),
    ("2026-03-01T10:00:00", datetime(2026, 3, 1, 10, tzinfo=UTC)),
    ("2026-03-01 10:00:00", datetime(2026, 3, 1, 10, tzinfo=UTC)),
    ("2026-03-01T10:00:00-05:00", datetime(2026, 3, 1, 15, tzinfo=UTC)),
    ("2026-03-01", datetime(2026, 3, 1, tzinfo=UTC)),
    (None, None),
    ("", None),
    ("soon", None),
    ("2026-02-30T10:00:00", None),
    ("1772359200", None),
)


def test_times_of_a_run(tmp_path: Path) -> None:
    schema = CREATE.replace("created_at TEXT NOT NULL, updated_at TEXT NOT NULL", "created_at TEXT, updated_at TEXT")
    rows = [run(f"x{number}", created_at=text) for number, (text, _) in enumerate(TIMES)]
    path = make(tmp_path / "s.db", {"runs": rows}, schema)
    saved = datetime(2026, 3, 1, 10, 0, 10, tzinfo=UTC)
    for walk in (False, True):
        found = {f.run_id: f for f in read_all(path, walk=walk)}
        for number, (text, when) in enumerate(TIMES):
            of = found[f"x{number}"]
            assert of.created_at == when, text
            assert of.problems == (("the start is not a valid time",) if text and when is None else ()), text
            assert of.updated_at == max(saved, when or saved), text
    none = {f"x{number}" for number, (_, when) in enumerate(TIMES) if when is None}
    assert {f.run_id for f in runs(path)[-len(none) :]} == none


def test_naive_times_of_a_state_are_local_and_those_of_a_run_are_utc(tmp_path: Path) -> None:
    naive = "2026-03-01T05:00:00"
    rows = {
        "workflow_state": [state("s", created_at=naive, updated_at=naive)],
        "runs": [run("r", created_at=naive, updated_at=naive)],
    }
    path = make(tmp_path / "s.db", rows)
    found = by_id(path, zone=timezone(timedelta(hours=-5)))
    assert found["s"].created_at == datetime(2026, 3, 1, 10, tzinfo=UTC)
    assert found["r"].created_at == datetime(2026, 3, 1, 5, tzinfo=UTC)


# --- what does not parse

DEEP = "[" * 5_000 + "]" * 5_000
BAD_BLOBS: Mapping[str, Any] = {
    "cut off": '{"a": [1, 2',
    "no JSON": "Traceback (most recent call last)",
    "bytes": b"\xff\xfe\x00\x80",
    "bytes of a text": b'{"a": "\xff"}',
    "deep": DEEP,
    "deep and cut off": "[" * 5_000,
    "empty": "",
    "blank": "   ",
    "a number too long": "9" * 10_000,
}
LOST = frozenset({"cut off", "no JSON", "bytes", "bytes of a text", "deep and cut off", "blank"})
"""Those that no reader of JSON takes, however lenient."""

ODD_BLOBS: Mapping[str, Any] = {
    "NaN": '{"a": NaN, "b": [Infinity, -Infinity]}',
    "huge": '{"n": 123456789012345678901234567890, "e": 1e999}',
    "null": "null",
    "a text": '"just a text"',
    "a list of anything": '[1, null, "a", [], {"name": null, "success": "?", "attempts": NaN, "latency_s": Infinity}]',
    "a lone surrogate": '["\\ud800", "\\ud83d\\ude00"]',
    "an object": '{"0": {"name": 1}}',
    "a number": 7,
    "bytes of JSON": b'{"a": 1}',
}
BLOBS = {
    "pipeline_context": "context",
    "step_history": "history",
    "metadata": "metadata",
    "last_step_output": "output",
}


STATUSES = ("completed", "failed", "paused", "running", "cancelled")


@pytest.mark.parametrize("blob", [*BAD_BLOBS, *ODD_BLOBS])
def test_a_blob_of_a_state_that_is_not_what_it_should_be(blob: str, tmp_path: Path) -> None:
    value = {**BAD_BLOBS, **ODD_BLOBS}[blob]
    kinds = [(column, status) for column in BLOBS for status in STATUSES]
    bad = [state(f"{column} {status}", status=status, **{column: value}) for column, status in kinds]
    path = make(tmp_path / "s.db", {"workflow_state": [*bad, state("good")], "runs": [run(s["run_id"]) for s in bad]})
    found = {f.run_id: f for f in read_all(path)}
    assert set(found) == {*(s["run_id"] for s in bad), "good"}
    assert found["good"].problems == ()
    for column, status in kinds:
        is_read = blob == "deep" and sys.version_info >= (3, 13)  # whose json goes deeper
        if blob in BAD_BLOBS and not is_read and value and column in ("metadata", "step_history"):
            assert detail(path, f"{column} {status}").run.problems == (f"{BLOBS[column]} does not parse",)
    for column in BLOBS:
        load = partial(read, path, lambda b, run_id=f"{column} failed": b.load_state(run_id))
        if blob in LOST:
            with pytest.raises(CorruptStoreError, match=f"{column} of run {column} failed is no JSON"):
                load()
            continue
        loaded = load()
        assert column in loaded
        if blob in ODD_BLOBS:
            json.dumps(loaded[column], ensure_ascii=False).encode(errors="surrogatepass")


@pytest.mark.parametrize("blob", [*BAD_BLOBS, *ODD_BLOBS])
def test_a_blob_of_history_that_is_not_what_it_should_be(blob: str, tmp_path: Path) -> None:
    value = {**BAD_BLOBS, **ODD_BLOBS}[blob]
    when = "2026-03-01T10:00:00+00:00"
    rows = {
        "workflow_state": [state("x", step_history=None)],
        "runs": [run("x", final_context_blob=value)],
        "steps": [{"run_id": "x", "step_name": "a", "step_index": 0, "status": "completed", "output": value,
                   "raw_response": value, "created_at": when}],
        "spans": [{"run_id": "x", "span_id": "1", "name": "root", "start_time": 1.0, "end_time": 2.0,
                   "status": "completed", "attributes": value, "created_at": when}],
        "traces": [{"run_id": "x", "trace_data": value, "created_at": when}],
        "evaluations": [{"run_id": "x", "score": 1.0, "metadata": value, "created_at": when}],
        "system_state": [{"key": "k", "value": value, "updated_at": when}],
    }  # fmt: skip
    path = make(tmp_path / "s.db", rows)
    assert [f.run_id for f in read_all(path)] == ["x"]
    assert len(detail(path, "x").steps) == 1
    assert [s.name for s in spans_of(path, "x")] == ["root"]
    assert len(read(path, lambda b: b.read_evaluations())) == 1
    assert len(read(path, lambda b: b.read_system_state())) == 1


def test_a_trace_is_used_where_there_are_no_spans(tmp_path: Path) -> None:
    tree = {"name": "root", "span_id": "1", "start_time": 5.0, "end_time": 7.0, "status": "completed",
            "children": [{"name": "leaf", "start_time": 6.0, "children": "none"}, "odd", {"span_id": "3"}]}  # fmt: skip
    rows = {"runs": [run("x")], "traces": [{"run_id": "x", "trace_data": json.dumps(tree), "created_at": "2026"}]}
    path = make(tmp_path / "s.db", rows)
    assert outline(spans_of(path, "x")) == "root completed\n  leaf running\n  unknown running"
    assert read(path, lambda b: b.get_trace("x")) == tree


def test_values_of_the_wrong_type(tmp_path: Path) -> None:
    """SQLite keeps what it is given; a text column can hold a blob, a number column a text or an infinity."""
    odd_state = {
        "status": b"fai\xffled", "pipeline_name": b"\x00", "pipeline_version": b"v", "current_step_index": "third",
        "total_steps": 9e999, "execution_time_ms": 9e999, "error_message": b"\xfe", "parent_run_id": b"p",
        "task_id": 7, "is_background_task": "yes", "background_error": b"e", "created_at": b"2026", "updated_at": 5,
    }  # fmt: skip
    odd_run = {"pipeline_name": b"n", "status": b"s", "created_at": 2026, "updated_at": b"\xff", "end_time": 1.5,
               "execution_time_ms": "long", "total_steps": -9e9, "error_message": 1, "total_cost": "much"}  # fmt: skip
    odd_step = {"step_name": b"\xff", "step_index": "x", "status": b"ok", "output": 5, "cost_usd": "much",
                "token_counts": 9e999, "execution_time_ms": -9e999, "created_at": b""}  # fmt: skip
    odd_span = {"span_id": b"\xff", "parent_span_id": 5, "name": b"n", "start_time": "now", "end_time": 9e999,
                "status": b"?", "attributes": 5, "created_at": 0}  # fmt: skip
    rows = {
        "workflow_state": [state("x", **odd_state), state("y")],
        "runs": [run("x", **odd_run), run("z", **odd_run)],
        "steps": [{"run_id": "x", **odd_step}, {"run_id": "z", **odd_step}],
        "spans": [{"run_id": "x", **odd_span}, {"run_id": "x", **odd_span, "start_time": 9e999}],
        "evaluations": [{"run_id": "x", "step_name": b"\xff", "score": "high", "feedback": b"\xff", "created_at": 1}],
        "system_state": [{"key": b"\xff", "value": b"\xff", "updated_at": b"\xff"}],
    }
    path = make(tmp_path / "s.db", rows)
    for walk in (False, True):
        found = {f.run_id: f for f in read_all(path, walk=walk)}
        assert set(found) == {"x", "y", "z"}
    texts = (
        "pipeline_name",
        "pipeline_version",
        "status",
        "error_message",
        "parent_run_id",
        "task_id",
        "background_error",
    )
    for summary in found.values():
        for name in texts:
            assert isinstance(getattr(summary, name), str | None), name
    for step in detail(path, "x").steps:
        assert isinstance(step.step_name, str)
        assert isinstance(step.status, str)
    for span in spans_of(path, "x"):
        assert isinstance(span.name, str)
        assert isinstance(span.parent_span_id, str | None)
        json.dumps([span.start_offset_ms, span.duration_ms], allow_nan=False)


def test_ids_of_every_kind(tmp_path: Path) -> None:
    ids = ["plain", "with space", "a/b", "50%", "_", "it's", 'say "hi"', "line\nbreak", "tab\t", "漢字", "é", "e\u0301"]
    ids += ["-o", "", " ", "\\", "\x1b[31m", "{}", "null", "😀", "\U0010fffd", "a" * 5000, "*", "[x]", "?"]
    rows = {"workflow_state": [state(i) for i in ids[::2]], "runs": [run(i) for i in ids]}
    path = make(tmp_path / "s.db", rows)
    for walk in (False, True):
        assert sorted(f.run_id for f in read_all(path, walk=walk)) == sorted(ids)
    for run_id in ids:
        assert detail(path, run_id).run.run_id == run_id
        assert read(path, lambda b, i=run_id: b.find_run_ids(i))[0] == run_id


def test_rows_without_an_id_are_passed_over(tmp_path: Path) -> None:
    rows = {"workflow_state": [state(None), state(None), state("a")], "runs": [run(None), run("a"), run("b")]}
    path = make(tmp_path / "s.db", rows)
    for walk in (False, True):
        assert sorted(f.run_id for f in read_all(path, walk=walk)) == ["a", "b"]


def test_an_id_that_is_no_utf8(tmp_path: Path) -> None:
    path = make(tmp_path / "s.db", {"runs": [run("a")], "workflow_state": [state("b")]})
    edit(path, "UPDATE runs SET run_id = CAST(x'61ff62' AS TEXT)", "UPDATE workflow_state SET run_id = x'62fe'")
    found = read(path, listed)
    assert sorted(f.run_id for f in found) == ["a\ufffdb", "b\ufffd"]
    assert {f.status for f in found} == {UNREADABLE}


def test_deep_spans_and_rings(tmp_path: Path) -> None:
    span = {"run_id": "x", "name": "s", "status": "completed", "created_at": "2026-03-01 10:00:00"}
    chain = [{**span, "span_id": str(at), "parent_span_id": str(at - 1) if at else None, "start_time": float(at),
              "end_time": 2e4 - at} for at in range(10_000)]  # fmt: skip
    ring = [
        {**span, "run_id": "y", "span_id": a, "parent_span_id": b, "start_time": 1.0} for a, b in ("ab", "bc", "ca")
    ]
    path = make(tmp_path / "s.db", {"runs": [run("x"), run("y")], "spans": [*chain, *ring]})
    (root,) = spans_of(path, "x")
    depth = 1
    while root.children:
        (root,), depth = root.children, depth + 1
    assert depth == 10_000
    assert len(outline(spans_of(path, "y")).splitlines()) == 3
    assert read(path, lambda b: b.get_trace("x"))["span_id"] == "0"
    assert len(detail(path, "x").run.run_id) == 1


def test_open_spans_and_statuses_that_are_missing(tmp_path: Path) -> None:
    schema = CREATE.replace("status TEXT NOT NULL, attributes", "status TEXT, attributes").replace(
        "start_time REAL NOT NULL", "start_time REAL"
    )
    span = {"run_id": "x", "name": "s", "created_at": "2026-03-01 10:00:00"}
    rows = {"runs": [run("x")], "spans": [{**span, "span_id": "1"}, {**span, "span_id": "2", "start_time": 1.0}]}
    path = make(tmp_path / "s.db", rows, schema)
    assert [s.status for s in spans_of(path, "x")] == ["running", "running"]
    (stats,) = read(path, lambda b: b.read_span_stats(RunFilter()))
    assert (stats.count, stats.failed, stats.duration_ms.avg) == (2, 0, None)


# --- figures


def _random_rows(dice: random.Random) -> dict[str, list[dict[str, Any]]]:
    """Runs as uneven as real ones: cancelled ones in disguise, names in the state alone, ends before starts."""
    rows: dict[str, list[dict[str, Any]]] = {"workflow_state": [], "runs": [], "spans": []}
    start = datetime(2026, 3, 1, 10, tzinfo=UTC)
    for at in range(300):
        run_id, begun = f"r{at}", start + timedelta(seconds=at)
        ended = begun + timedelta(milliseconds=dice.choice((-5, 0, 1, 20.5, 1000, 60_000 * dice.random())))
        form = dice.choice((datetime.isoformat, lambda when: when.replace(tzinfo=None).isoformat()))
        name = dice.choice(("p", "q", "q", "unknown", ""))
        more = {"execution_time_ms": dice.choice((None, None, None, 7)), "updated_at": form(ended)}
        history = dice.choice((ONE_FAILED, NONE_FAILED, "[]", None, "{not json"))
        kind = dice.choice(("both", "both", "both", "run", "state"))
        if kind != "state":
            status = dice.choice(("completed", "completed", "failed", "running", ""))
            rows["runs"].append(run(run_id, pipeline_name=name, status=status, created_at=begun.isoformat(), **more))
        if kind != "run":
            status = dice.choice(("completed", "completed", "failed", "paused", "running", "cancelled", "odd", ""))
            saved = {"created_at": begun.isoformat(), "updated_at": (begun + timedelta(seconds=1)).isoformat()}
            rows["workflow_state"].append(
                state(run_id, pipeline_name=name, status=status, step_history=history, **saved)
            )
        span = {"run_id": run_id, "name": dice.choice("xyz"), "status": dice.choice(("failed", "completed"))}
        times = {"start_time": at * 1.0, "end_time": dice.choice((None, at - 1.0, at + dice.random()))}
        rows["spans"].append({**span, **times, "span_id": str(at), "created_at": "2026-03-01 10:00:00"})
    return rows


def _figures(name: str, lengths: Durations) -> tuple[Any, ...]:
    digits = (lengths.avg, lengths.p50, lengths.p95, lengths.p99)
    return (name, *(None if found is None else pytest.approx(found, rel=1e-4) for found in digits))


@pytest.mark.parametrize("seed", range(4))
def test_statistics_made_in_sql_are_those_of_the_list(seed: int, tmp_path: Path) -> None:
    path = make(tmp_path / "s.db", _random_rows(random.Random(seed)))

    async def by_list(backend: SQLiteBackend) -> Stats:
        return await aggregate(backend.iter_runs(RunFilter()), RunFilter())

    plain, quick = read(path, by_list), read(path, lambda b: b.read_stats(RunFilter()))
    assert (quick.total, quick.by_status) == (plain.total, plain.by_status)
    assert quick.failures == plain.failures
    assert [(p.pipeline_name, p.total, p.by_status) for p in quick.by_pipeline] == [
        (p.pipeline_name, p.total, p.by_status) for p in plain.by_pipeline
    ]
    for found, wanted in zip(quick.by_pipeline, plain.by_pipeline, strict=True):
        lengths = found.duration_ms
        told = (found.pipeline_name, lengths.avg, lengths.p50, lengths.p95, lengths.p99)
        assert told == _figures(wanted.pipeline_name, wanted.duration_ms)


@pytest.mark.parametrize("wanted", [RunFilter(), RunFilter(pipeline="q"), RunFilter(statuses=frozenset({"failed"}))])
def test_span_statistics_made_in_sql_are_those_of_the_trees(wanted: RunFilter, tmp_path: Path) -> None:
    path = make(tmp_path / "s.db", _random_rows(random.Random(9)))

    async def by_tree(backend: SQLiteBackend) -> tuple[SpanStats, ...]:
        trees = [await backend.read_spans(found.run_id) for found in await listed(backend, wanted)]
        return aggregate_spans(trees)

    plain, quick = read(path, by_tree), read(path, lambda b: b.read_span_stats(wanted))
    assert [(s.name, s.count, s.failed) for s in quick] == [(s.name, s.count, s.failed) for s in plain]
    for found, expected in zip(quick, plain, strict=True):
        lengths = found.duration_ms
        assert (found.name, lengths.avg, lengths.p50, lengths.p95, lengths.p99) == _figures(
            expected.name, expected.duration_ms
        )


# --- writing


STATE = {
    "pipeline_id": "p-id",
    "pipeline_name": "p",
    "pipeline_version": "2",
    "current_step_index": 3,
    "pipeline_context": {"a": [1, {"漢": None}]},
    "last_step_output": "out",
    "step_history": [{"name": "a", "success": True}],
    "status": "paused",
    "created_at": "2026-03-01T10:00:00+00:00",
    "updated_at": "2026-03-01T10:00:05+00:00",
    "total_steps": 4,
    "error_message": None,
    "execution_time_ms": 12,
    "memory_usage_mb": 1.5,
    "metadata": {"k": "v"},
    "is_background_task": True,
    "parent_run_id": "parent",
    "task_id": "t",
    "background_error": None,
}


def test_a_state_that_was_written_reads_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "s.db"

    async def work(backend: SQLiteBackend) -> None:
        assert await backend.load_state("x") is None
        assert not path.exists()
        await backend.delete_state("x")
        assert not path.exists()
        await backend.save_state("x", STATE)
        times = {name: datetime.fromisoformat(STATE[name]) for name in ("created_at", "updated_at")}
        assert await backend.load_state("x") == {**STATE, "run_id": "x", **times}
        await backend.save_state("x", {**STATE, "status": "completed", "metadata": None})
        loaded = await backend.load_state("x")
        assert loaded is not None
        assert (loaded["status"], loaded["metadata"]) == ("completed", {})
        await backend.save_state("minimal", {})
        assert (await backend.load_state("minimal") or {})["status"] == "running"

    read(path, work)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
        assert db.execute("SELECT count(*) FROM workflow_state").fetchone() == (2,)


def test_times_may_be_given_as_datetimes(tmp_path: Path) -> None:
    when = datetime(2026, 3, 1, 10, tzinfo=UTC)

    async def work(backend: SQLiteBackend) -> None:
        await backend.save_state("x", {"created_at": when, "updated_at": when})
        assert (await listed(backend))[0].created_at == when

    read(tmp_path / "s.db", work)


@pytest.mark.parametrize("name", [NEW, MIXTURE])
def test_to_delete_a_state_leaves_the_history(name: str, tmp_path: Path) -> None:
    path = copy(name, tmp_path)
    before = by_id(path)

    async def work(backend: SQLiteBackend) -> None:
        await backend.delete_state("fail-001")
        await backend.delete_state("nobody")
        assert await backend.load_state("fail-001") is None

    read(path, work)
    assert set(by_id(path)) == set(before)
    assert [s.step_name for s in detail(path, "fail-001").steps] == ["load", "boom"]
    assert len(outline(spans_of(path, "fail-001")).splitlines()) == 3


WRITES: Mapping[str, Callable[[SQLiteBackend], Any]] = {
    "save_state": lambda b: b.save_state("x", STATE),
    "delete_state": lambda b: b.delete_state("fail-001"),
    "save_run_start": lambda b: b.save_run_start({"run_id": "x"}),
    "save_run_end": lambda b: b.save_run_end("fail-001", {"status": "completed"}),
    "save_step_result": lambda b: b.save_step_result({"run_id": "fail-001", "step_name": "s", "step_index": 9}),
    "save_spans": lambda b: b.save_spans("fail-001", [{"span_id": "1", "name": "n", "start_time": 1.0}]),
    "persist_evaluation": lambda b: b.persist_evaluation("fail-001", 1.0),
    "set_system_state": lambda b: b.set_system_state("k", {}),
}


@pytest.mark.parametrize("method", WRITES)
@pytest.mark.parametrize("name", [OLD, OLDEST, "newer", "stricter"])
def test_writing_to_another_schema_is_refused_and_changes_nothing(name: str, method: str, tmp_path: Path) -> None:
    if method == "delete_state" and name in ALL:
        pytest.skip("deletions work on any schema")
    path = copy(name if name in ALL else NEW, tmp_path / "store")
    if name == "newer":
        edit(path, "PRAGMA user_version = 2")
    if name == "stricter":
        edit(path, "DROP TABLE runs", "DROP TABLE workflow_state", "DROP TABLE system_state")
        strict = "created_at TEXT NOT NULL, tenant TEXT NOT NULL"
        with closing(sqlite3.connect(path)) as db:
            db.executescript(CREATE.replace("created_at TEXT NOT NULL", strict, 1))
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = traces_of(tmp_path / "store")
    with pytest.raises(SchemaError):
        read(path, WRITES[method], migrate=False)
    after = traces_of(tmp_path / "store")
    assert {n: f for n, f in after.items() if n != "."} == {n: f for n, f in before.items() if n != "."}


@pytest.mark.parametrize("method", WRITES)
def test_writing_to_a_file_that_is_no_store(method: str, tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is no database, but longer than a hundred bytes. " * 9)
    edit(tmp_path / "other.db", "CREATE TABLE t (a)")
    before = traces_of(tmp_path)
    for name in ("text.db", "other.db"):
        with pytest.raises(LensError):
            read(tmp_path / name, WRITES[method])
    with pytest.raises(LensError):
        read(tmp_path, WRITES[method])
    assert traces_of(tmp_path) == before


def test_two_writers_wait_for_each_other(tmp_path: Path) -> None:
    path = tmp_path / "s.db"

    async def many(name: str) -> None:
        async with SQLiteBackend(path) as backend:
            for at in range(20):
                await backend.save_state(f"{name}-{at}", STATE)
                assert await backend.load_state(f"{name}-{at}") is not None

    async def work() -> None:
        await asyncio.gather(*(many(name) for name in "abc"))

    asyncio.run(work())
    assert len(runs(path)) == 60
