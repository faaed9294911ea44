"""Bringing an older store to the newest schema: nothing is lost, nothing is left half done."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from programs import python, run_python
from stores import MIXTURE, NEW, OLD, OLDEST, WAL, copy, edit, listed, read, traces_of

from flujo_lens.errors import NotAStoreError, OperationFailedError, ReadOnlyStoreError, SchemaError, StoreNotFoundError
from flujo_lens.state.backends.sqlite import SQLiteBackend
from flujo_lens.state.backends.sqlite.schema.migrations import migrate, read_layout
from flujo_lens.state.backends.sqlite.schema.tables import INDEXES, TABLES
from flujo_lens.state.views import RunFilter

ROOT = Path(__file__).resolve().parents[2]
OLDER = (OLD, OLDEST, MIXTURE)


def planned(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as db:
        return [*read_layout(db, path).words]


def rows(path: Path, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(sql, values).fetchall()


def columns(path: Path, table: str) -> dict[str, str]:
    """Columns of a table with their types."""
    return {row[1]: row[2] for row in rows(path, f"PRAGMA table_info({table})")}


def everything(path: Path) -> dict[str, Any]:
    """All that can be read of a store, field by field, but what only names the columns of a state."""

    async def work(backend: SQLiteBackend) -> dict[str, Any]:
        runs = await listed(backend)
        details = {run.run_id: await backend.read_run(run.run_id) for run in runs}
        return {
            "runs": runs,
            "backwards": await listed(backend, reverse=True),
            "details": {run_id: d._replace(state=None) for run_id, d in details.items() if d is not None},
            "contexts": {i: (d.state or {}).get("pipeline_context") for i, d in details.items() if d is not None},
            "states": [s["run_id"] for s in await backend.list_states()],
            "spans": {run.run_id: await backend.read_spans(run.run_id) for run in runs},
            "steps": {run.run_id: await backend.list_run_steps(run.run_id) for run in runs},
            "documents": await backend.list_runs(),
            "stats": await backend.read_stats(RunFilter()),
            "failed": await backend.read_stats(RunFilter(statuses=frozenset({"failed"}))),
            "span stats": await backend.read_span_stats(RunFilter()),
            "evaluations": await backend.read_evaluations(),
            "system": await backend.read_system_state(),
        }

    return read(path, work)


@pytest.mark.parametrize("name", OLDER)
def test_what_was_readable_reads_the_same(name: str, tmp_path: Path) -> None:
    path = copy(name, tmp_path)
    before = everything(path)
    assert before["runs"], "the store has runs"
    done = migrate(path, 1)
    after = everything(path)
    for what in before:
        assert after[what] == before[what], what
    assert done == [] or done[0].startswith("workflow_state is built anew: it ")
    assert (planned(path), migrate(path, 1)) == ([], [])
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
    assert rows(path, "PRAGMA user_version") == [(1,)]


@pytest.mark.parametrize("name", OLDER)
def test_every_value_is_kept_with_its_rowid(name: str, tmp_path: Path) -> None:
    """Column by column: under its own name, or its new one."""
    homes = {"runs.start_time": "created_at", "steps.output_blob": "output", "steps.cost": "cost_usd"}
    homes |= {"steps.tokens": "token_counts", "steps.duration_ms": "execution_time_ms"}
    path = copy(name, tmp_path)
    before = {
        (table, column): rows(path, f'SELECT rowid, "{column}" FROM {table} WHERE "{column}" <> \'\' ORDER BY rowid')
        for table in TABLES
        for column in columns(path, table)
    }
    migrate(path, 1)
    for (table, column), old in before.items():
        home = homes.get(f"{table}.{column}", column)
        sql = f'SELECT rowid, "{home}" FROM {table} WHERE "{home}" <> \'\' ORDER BY rowid'
        assert set(old) <= set(rows(path, sql)), (table, column)


@pytest.mark.parametrize("name", OLDER)
def test_the_schema_is_the_newest_afterwards(name: str, tmp_path: Path) -> None:
    path = copy(name, tmp_path)
    migrate(path, 1)
    new = copy(NEW, tmp_path / "new")
    for table in TABLES:
        there, wanted = columns(path, table), columns(new, table)
        assert {column: there.get(column) for column in wanted} == wanted
    names = {row[0] for row in rows(path, "SELECT name FROM sqlite_master WHERE type = 'index'")}
    assert names >= set(INDEXES)
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE workflow_state SET status = 'of a later version'")


@pytest.mark.parametrize("name", [NEW, WAL])
def test_a_store_of_the_newest_schema_is_left_alone(name: str, tmp_path: Path) -> None:
    path = copy(name, tmp_path)
    before = rows(path, "SELECT sql FROM sqlite_master")
    assert (planned(path), migrate(path, 1)) == ([], [])
    assert rows(path, "SELECT sql FROM sqlite_master") == before


STEP = {"run_id": "fail-001", "step_name": "more", "step_index": 9, "output": [1], "error": "e", "duration_ms": 3}
WRITES: dict[str, Callable[[SQLiteBackend], Awaitable[Any]]] = {
    "save_state": lambda b: b.save_state("x", {"status": "of a later version"}),
    "save_run_start": lambda b: b.save_run_start({"run_id": "x", "start_time": "2026-01-01T00:00:00"}),
    "save_run_end": lambda b: b.save_run_end("fail-001", {"status": "failed", "total_cost": 1.5}),
    "save_step_result": lambda b: b.save_step_result(STEP),
    "save_spans": lambda b: b.save_spans("fail-001", [{"span_id": "1", "name": "n", "start_time": 1.0}]),
    "save_trace": lambda b: b.save_trace("fail-001", {"span_id": "1", "name": "n", "start_time": 1.0}),
    "persist_evaluation": lambda b: b.persist_evaluation("fail-001", 1.0),
}


@pytest.mark.parametrize("method", WRITES)
@pytest.mark.parametrize("name", OLDER)
def test_the_first_write_migrates(name: str, method: str, tmp_path: Path) -> None:
    path = copy(name, tmp_path)
    before = {run.run_id for run in read(path, listed)}

    async def work(backend: SQLiteBackend) -> None:
        assert await backend.count_runs(RunFilter()) == len(before), "its own reading stands in nobody's way"
        await WRITES[method](backend)
        assert {run.run_id for run in await listed(backend)} >= before

    read(path, work, timeout=5)
    assert planned(path) == []


def test_all_writing_goes_on_after_a_migration(tmp_path: Path) -> None:
    async def work(backend: SQLiteBackend) -> None:
        for write in WRITES.values():
            await write(backend)
        steps = await backend.list_run_steps("fail-001")
        assert [(s["step_name"], s["output"], s["error"]) for s in steps if s["step_index"] == 9] == [
            ("more", [1], "e")
        ]
        assert [span["span_id"] for span in await backend.get_spans("fail-001")] == ["1"]
        assert (await backend.get_run_details("x") or {})["created_at"] == "2026-01-01T00:00:00+00:00"
        await backend.delete_run("fail-001")
        assert await backend.read_run("fail-001") is None

    for name in OLDER:
        read(copy(name, tmp_path / name), work)


DELETIONS: dict[str, Callable[[SQLiteBackend], Awaitable[Any]]] = {
    "delete_state": lambda b: b.delete_state("crashed-001"),
    "delete_run": lambda b: b.delete_run("crashed-001"),
    "cleanup_old_workflows": lambda b: b.cleanup_old_workflows(0),
    "cleanup_stale_background_tasks": lambda b: b.cleanup_stale_background_tasks(0),
}


@pytest.mark.parametrize("migrates", [True, False])
@pytest.mark.parametrize("method", DELETIONS)
@pytest.mark.parametrize("name", OLDER)
def test_deletions_work_on_the_schema_that_is_there(name: str, method: str, migrates: bool, tmp_path: Path) -> None:
    path = copy(name, tmp_path)
    schema = rows(path, "SELECT sql FROM sqlite_master")
    read(path, DELETIONS[method], migrate=migrates)
    assert rows(path, "SELECT sql FROM sqlite_master") == schema
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
    if method == "delete_run":
        assert "crashed-001" not in {run.run_id for run in read(path, listed)}
    if method == "cleanup_old_workflows":
        now = datetime.now(UTC)
        assert all(run.updated_at is None or run.updated_at > now for run in read(path, listed))


@pytest.mark.parametrize("method", WRITES)
@pytest.mark.parametrize("name", OLDER)
def test_without_leave_to_migrate_writing_is_refused(name: str, method: str, tmp_path: Path) -> None:
    path = copy(name, tmp_path / "store")
    before = traces_of(tmp_path / "store")
    if name == MIXTURE and method == "persist_evaluation":
        read(path, WRITES[method], migrate=False)
        return
    with pytest.raises(SchemaError, match="older schema") as told:
        read(path, WRITES[method], migrate=False)
    assert "lens migrate" in (told.value.hint or "")
    after = traces_of(tmp_path / "store")
    assert {n: f for n, f in after.items() if n != "."} == {n: f for n, f in before.items() if n != "."}


def test_a_uri_migrates_only_when_told(tmp_path: Path) -> None:
    path = copy(OLD, tmp_path)

    async def work(**more: Any) -> None:
        async with SQLiteBackend.from_uri(f"sqlite:///{path}", **more) as backend:
            await backend.save_state("x", {})

    with pytest.raises(SchemaError):
        asyncio.run(work())
    asyncio.run(work(migrate=True))
    assert planned(path) == []


# --- what is not migrated


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = edit(copy(OLD, tmp_path), "PRAGMA user_version = 2")
    before = path.read_bytes()
    for work in (lambda: migrate(path, 1), lambda: planned(path), lambda: read(path, WRITES["save_state"])):
        with pytest.raises(SchemaError, match="version 2"):
            work()
    assert path.read_bytes() == before


def test_a_column_that_nobody_knows_and_must_be_given_is_refused(tmp_path: Path) -> None:
    path = copy(OLD, tmp_path)
    edit(path, "CREATE TABLE n AS SELECT * FROM runs", "DROP TABLE runs", "DROP TABLE n")
    edit(
        path, "CREATE TABLE runs (run_id TEXT PRIMARY KEY, status TEXT, start_time TEXT NOT NULL, tenant TEXT NOT NULL)"
    )
    before = path.read_bytes()
    with pytest.raises(SchemaError, match=r"runs\.tenant"):
        migrate(path, 1)
    with pytest.raises(SchemaError, match=r"runs\.tenant"):
        read(path, DELETIONS["delete_run"])
    assert path.read_bytes() == before


def test_a_view_in_the_place_of_a_table_is_refused(tmp_path: Path) -> None:
    path = copy(OLD, tmp_path)
    edit(path, "ALTER TABLE runs RENAME TO all_runs", "CREATE VIEW runs AS SELECT * FROM all_runs")
    with pytest.raises(SchemaError, match="runs is a view"):
        migrate(path, 1)


def test_what_is_no_store_is_not_migrated(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    edit(tmp_path / "other.db", "CREATE TABLE t (a)")
    for name, error in (("none.db", StoreNotFoundError), ("empty.db", NotAStoreError), ("other.db", NotAStoreError)):
        with pytest.raises(error):
            migrate(tmp_path / name, 1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty.db", "other.db"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anything")
def test_a_read_only_file_is_not_migrated(tmp_path: Path) -> None:
    path = copy(OLD, tmp_path)
    path.chmod(0o444)
    with pytest.raises(ReadOnlyStoreError, match="is not writable: Permission denied; nothing was changed"):
        migrate(path, 1)


# --- odd stores


def test_columns_indexes_and_triggers_of_somebody_else_stay(tmp_path: Path) -> None:
    path = edit(
        copy(OLD, tmp_path),
        "ALTER TABLE runs ADD COLUMN tenant TEXT NOT NULL DEFAULT 'acme'",
        'ALTER TABLE runs ADD COLUMN "odd name" INTEGER DEFAULT 7',
        "CREATE INDEX by_tenant ON runs(tenant, status)",
        "CREATE INDEX by_start ON runs(start_time, tenant)",
        "CREATE INDEX half ON runs(status) WHERE tenant = 'acme'",
        "CREATE TABLE log (run_id TEXT)",
        "CREATE TRIGGER noted AFTER DELETE ON runs BEGIN INSERT INTO log VALUES (old.run_id); END",
        "UPDATE runs SET \"odd name\" = 8 WHERE run_id = 'fail-001'",
    )
    migrate(path, 1)
    assert rows(path, "SELECT tenant, \"odd name\" FROM runs WHERE run_id = 'fail-001'") == [("acme", 8)]
    names = {row[0] for row in rows(path, "SELECT name FROM sqlite_master WHERE tbl_name = 'runs'")}
    assert {"by_tenant", "half", "noted"} <= names
    assert "by_start" not in names, "its column has another name now"
    read(path, lambda b: b.delete_run("fail-001"))
    assert rows(path, "SELECT run_id FROM log") == [("fail-001",)]


def test_a_column_of_somebody_else_survives_every_save(tmp_path: Path) -> None:
    path = edit(
        copy(NEW, tmp_path),
        "ALTER TABLE workflow_state ADD COLUMN tenant TEXT",
        "ALTER TABLE runs ADD COLUMN tenant TEXT",
        "UPDATE workflow_state SET tenant = 'acme'",
        "UPDATE runs SET tenant = 'acme'",
    )

    async def work(backend: SQLiteBackend) -> None:
        for _ in range(3):
            await backend.save_state("fail-001", {"status": "running"})
        await backend.save_run_start({"run_id": "fail-001"})
        assert (await backend.load_state("fail-001") or {})["tenant"] == "acme"

    read(path, work)
    assert rows(path, "SELECT tenant FROM runs WHERE run_id = 'fail-001'") == [("acme",)]


def test_rows_without_a_run_stay_and_are_reported(tmp_path: Path) -> None:
    path = edit(copy(OLD, tmp_path), "DELETE FROM runs WHERE run_id = 'fail-001'")
    before = rows(path, "SELECT step_name FROM steps WHERE run_id = 'fail-001' ORDER BY rowid")
    done = migrate(path, 1)
    assert f"steps keeps {len(before)} rows whose run is not there" in done
    assert rows(path, "SELECT step_name FROM steps WHERE run_id = 'fail-001' ORDER BY id") == before


def test_a_missing_table_and_missing_columns_are_made_in_place(tmp_path: Path) -> None:
    path = edit(
        copy(NEW, tmp_path),
        "DROP TABLE system_state",
        "ALTER TABLE runs DROP COLUMN total_cost",
    )
    before = rows(path, "SELECT rowid, run_id FROM runs")
    assert planned(path) == ["runs gets columns: it lacks total_cost", "system_state is made"]
    read(path, lambda b: b.set_system_state("k", {"a": 1}))
    assert (planned(path), rows(path, "SELECT rowid, run_id FROM runs")) == ([], before)


def test_a_store_in_a_rollback_journal_stays_in_it(tmp_path: Path) -> None:
    path = edit(copy(OLD, tmp_path), "PRAGMA journal_mode = delete")
    migrate(path, 1)
    assert rows(path, "PRAGMA journal_mode") == [("delete",)]
    assert planned(path) == []


def test_empty_and_missing_values_of_a_mixture(tmp_path: Path) -> None:
    """A column that exists under both names has its value in either; the one that reading believes counts."""
    path = copy(MIXTURE, tmp_path)
    started = "2026-01-0{}T00:00:00"
    for number, (start, created) in enumerate([(started.format(1), ""), ("", started.format(2)), ("", "")]):
        values = (f"m-{number}", start, created)
        insert = "INSERT INTO runs (run_id, pipeline_name, pipeline_version, status, start_time, created_at) "
        edit(path, (f"{insert} VALUES (?, 'p', '1', 'completed', ?, ?)", values))
    before = everything(path)
    migrate(path, 1)
    assert everything(path) == before
    assert rows(path, "SELECT created_at FROM runs WHERE run_id LIKE 'm-%' ORDER BY run_id") == [
        (started.format(1),),
        (started.format(2),),
        ("",),
    ]


# --- others have it open


def test_a_store_that_another_connection_has_open_is_not_migrated(tmp_path: Path) -> None:
    path = copy(OLD, tmp_path)
    with closing(sqlite3.connect(path)) as other:
        other.execute("SELECT count(*) FROM runs").fetchone()
        with pytest.raises(SchemaError, match="open") as told:
            read(path, WRITES["save_state"], timeout=0.2)
        assert "lens migrate" in (told.value.hint or "")
        assert other.execute("SELECT count(*) FROM runs WHERE start_time <> ''").fetchone() != (0,)
    read(path, WRITES["save_state"], timeout=0.2)
    assert planned(path) == []


def test_reading_goes_on_after_a_migration_that_was_refused(tmp_path: Path) -> None:
    path = copy(OLD, tmp_path)

    async def work(backend: SQLiteBackend) -> None:
        before = await listed(backend)
        with closing(sqlite3.connect(path)) as other:
            other.execute("SELECT count(*) FROM runs").fetchone()
            with pytest.raises(SchemaError):
                await backend.save_state("x", {})
            assert await listed(backend) == before
        await backend.save_state("x", {})
        assert len(await listed(backend)) == len(before) + 1

    read(path, work, timeout=0.2)


SAVER = """
import asyncio, sys
from flujo_lens.state.backends.sqlite import SQLiteBackend

async def main():
    async with SQLiteBackend(sys.argv[1], timeout=60) as backend:
        print("ready", flush=True)
        sys.stdin.readline()
        await backend.save_state(sys.argv[2], {"status": "running"})
        print("saved", flush=True)
        sys.stdin.readline()

asyncio.run(main())
"""


def _saver(path: Path, run_id: str) -> subprocess.Popen[str]:
    return python("-c", SAVER, path, run_id, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _say(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def test_of_processes_that_race_one_migrates_and_the_others_wait(tmp_path: Path) -> None:
    """All stay open until all have saved: who comes second must notice that it is done."""
    path = copy(OLD, tmp_path)
    before = len(read(path, listed))
    savers = [_saver(path, f"racer-{number}") for number in range(4)]
    for word in ("ready\n", "saved\n"):
        for saver in savers:
            assert saver.stdout is not None
            assert saver.stdout.readline() == word
        for saver in savers:
            _say(saver)
    for saver in savers:
        saver.communicate(timeout=60)
        assert saver.returncode == 0
    assert planned(path) == []
    assert len(read(path, listed)) == before + 4


# --- dying on the way

KILLED = """
import os, signal, sqlite3, sys
from pathlib import Path
from flujo_lens.state.backends.sqlite.schema import migrations

class Counted(sqlite3.Connection):
    left = int(sys.argv[2])

    def execute(self, sql, *values):
        Counted.left -= 1
        if Counted.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().execute(sql, *values)

connect = sqlite3.connect
sqlite3.connect = lambda *args, **more: connect(*args, factory=Counted, **more)
migrations.migrate(Path(sys.argv[1]), 1)
print(int(sys.argv[2]) - Counted.left)
"""


def _die_at(path: Path, statement: int) -> subprocess.CompletedProcess[str]:
    return run_python("-c", KILLED, path, statement)


def test_killed_at_any_statement_it_is_the_old_schema_or_the_new_one(tmp_path: Path) -> None:
    whole = _die_at(copy(OLD, tmp_path / "whole"), 10**6)
    assert whole.returncode == 0, whole.stderr
    statements = int(whole.stdout)
    old_words = planned(copy(OLD, tmp_path / "fresh"))
    wanted = everything(tmp_path / "whole" / "flujo_ops.db")
    step = 1 if os.environ.get("LENS_SOAK") else max(1, statements // 12)
    for statement in range(statements, 0, -step):
        path = copy(OLD, tmp_path / str(statement))
        assert _die_at(path, statement).returncode == -signal.SIGKILL
        left = planned(path)
        assert left in ([], old_words), statement
        assert rows(path, "PRAGMA integrity_check") == [("ok",)]
        read(path, WRITES["persist_evaluation"])
        assert planned(path) == []
        found = everything(path)
        assert {k: v for k, v in found.items() if k != "evaluations"} == {
            k: v for k, v in wanted.items() if k != "evaluations"
        }


def test_a_full_disk_leaves_the_old_schema(tmp_path: Path) -> None:
    path = copy(OLD, tmp_path)
    words = planned(path)
    before = everything(path)
    script = (
        "import resource, sys; from pathlib import Path; from flujo_lens.errors import OperationFailedError\n"
        "from flujo_lens.state.backends.sqlite.schema.migrations import migrate\n"
        "size = Path(sys.argv[1]).stat().st_size\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, resource.RLIM_INFINITY))\n"
        "try: migrate(Path(sys.argv[1]), 1)\n"
        "except OperationFailedError as error: print(error)\n"
    )
    found = run_python("-c", script, path)
    assert "nothing was changed" in found.stdout, found.stderr
    assert planned(path) == words
    assert everything(path) == before


def test_a_statement_of_the_store_that_fails_leaves_the_old_schema(tmp_path: Path) -> None:
    path = edit(copy(OLD, tmp_path), "CREATE TABLE lens_new_spans (a)")
    words = planned(path)
    with pytest.raises(OperationFailedError, match="nothing was changed"):
        migrate(path, 1)
    assert planned(path) == words
