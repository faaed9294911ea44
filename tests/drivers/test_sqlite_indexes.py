"""The indexes of our own: used by what they are made for, harmless to everything else."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from stores import ALL, MIXTURE, NEW, OLD, OLDEST, copy, read, runs

from flujo_lens.errors import BusyError, OperationFailedError
from flujo_lens.state.backends.sqlite import SQLiteBackend
from flujo_lens.state.backends.sqlite.engine.session import open_session
from flujo_lens.state.backends.sqlite.reads import index_choice, statistics_queries
from flujo_lens.state.backends.sqlite.schema.shape import read_shape
from flujo_lens.state.backends.sqlite.upkeep import indexes
from flujo_lens.state.backends.sqlite.upkeep.indexes import OURS, optimize
from flujo_lens.state.maintenance import Room
from flujo_lens.state.views import RunFilter


def ours(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as db:
        return {name for (name,) in db.execute(f"SELECT name FROM sqlite_master WHERE name LIKE '{OURS}%'")}


def steps_of(path: Path, query: Callable[[Any], tuple[str, tuple[Any, ...]]]) -> str:
    """How SQLite carries out a query of ours."""
    with closing(sqlite3.connect(path)) as db:
        sql, values = query(open_session(db, path, UTC))
        return "\n".join(row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}", values))


def multiply(path: Path, table: str, times: int) -> None:
    """Many more rows like the first, each older than the one before by a second; every tenth of them failed."""
    with closing(sqlite3.connect(path)) as db:
        columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
        older = "strftime('%Y-%m-%dT%H:%M:%S+00:00', '2026-10-01', '-' || i || ' seconds')"
        values = {"run_id": "'more-' || i", "status": "CASE WHEN i % 10 THEN 'completed' ELSE 'failed' END"}
        values |= dict.fromkeys(("created_at", "updated_at", "start_time", "end_time"), older)
        picked = ", ".join(values.get(column, f'"{column}"') for column in columns)
        db.execute(
            f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {times}) "
            f"INSERT INTO {table} SELECT {picked} FROM n, (SELECT * FROM {table} LIMIT 1)"
        )
        db.commit()


def recent_failures(session: Any) -> tuple[str, tuple[Any, ...]]:
    since = datetime(2026, 11, 20, tzinfo=UTC)
    found = index_choice._recent_failures(session, RunFilter(statuses=frozenset({"failed"}), active_since=since))
    return found.sql, found.values


@pytest.mark.parametrize("name", ALL)
def test_every_real_store_reads_the_same(name: str, tmp_path: Path) -> None:
    path = copy(name, tmp_path)

    async def figures(backend: SQLiteBackend) -> Any:
        failed = RunFilter(statuses=frozenset({"failed"}))
        return [await backend.read_stats(wanted) for wanted in (RunFilter(), failed)], await backend.read_span_stats(
            RunFilter()
        )

    before = runs(path), read(path, figures)
    done = optimize(path, 1, vacuum=False, force=False)
    assert len(ours(path)) == len(done.indexes) > 0
    assert (runs(path), read(path, figures)) == before
    assert optimize(path, 1, vacuum=False, force=False).indexes == ()


@pytest.mark.parametrize("name", [NEW, OLD, MIXTURE])
def test_they_are_used(name: str, tmp_path: Path) -> None:
    path = copy(name, tmp_path)
    for table in ("workflow_state", "runs"):
        multiply(path, table, 3_000)
    optimize(path, 1, vacuum=False, force=False)
    steps = steps_of(path, recent_failures)
    assert f"{OURS}workflow_state_status_updated_at (status=? AND updated_at>?)" in steps
    assert f"COVERING INDEX {OURS}runs_status_times (status=?)" in steps
    spans = statistics_queries.span_lengths("spans p")
    assert f"COVERING INDEX {OURS}spans_figures" in steps_of(path, lambda _: (spans, ()))


def test_a_row_is_found_by_its_status_and_rowid_in_the_narrowest_index(tmp_path: Path) -> None:
    path = copy(NEW, tmp_path)
    with closing(sqlite3.connect(path)) as db:
        assert read_shape(db, path).index_on("workflow_state", "status") == '"idx_workflow_state_status"'
        db.execute("DROP INDEX idx_workflow_state_status")
        db.execute("CREATE INDEX wide ON workflow_state(status, updated_at)")
        db.execute("CREATE INDEX narrow ON workflow_state(status)")
        db.execute("CREATE INDEX wider ON workflow_state(status, updated_at, created_at)")
        assert read_shape(db, path).index_on("workflow_state", "status") == '"narrow"'


@pytest.mark.parametrize("name", [OLD, OLDEST, MIXTURE])
def test_a_migration_goes_through_and_keeps_what_fits(name: str, tmp_path: Path) -> None:
    path = copy(name, tmp_path)
    optimize(path, 1, vacuum=False, force=False)
    before = runs(path)
    read(path, lambda backend: backend.migrate(datetime.now(UTC), backup=False))
    assert runs(path) == before
    assert f"{OURS}workflow_state_status_updated_at" in ours(path)
    optimize(path, 1, vacuum=False, force=False)
    assert len(ours(path)) == 3


def test_the_backend_goes_on_after_it(tmp_path: Path) -> None:
    async def work(backend: SQLiteBackend) -> None:
        state = await backend.load_state("plain-001")
        assert state is not None
        await backend.save_state("plain-001", {**state, "status": "paused"})
        done = await backend.optimize(vacuum=True)
        assert len(done.indexes) == 3
        await backend.save_state("plain-001", {**state, "status": "failed"})
        assert (await backend.load_state("plain-001") or {})["status"] == "failed"

    read(copy(NEW, tmp_path), work)


def test_one_of_two_backends_waits_for_the_other_to_close(tmp_path: Path) -> None:
    path = copy(NEW, tmp_path)

    async def work() -> None:
        async with SQLiteBackend(path, timeout=0.1) as one, SQLiteBackend(path, timeout=0.1) as other:
            await other.set_system_state("k", {})
            with pytest.raises(BusyError, match="nothing was changed"):
                await one.optimize()
            await other.shutdown()
            await one.optimize()

    asyncio.run(work())


def test_what_was_not_made_whole_is_not_there(tmp_path: Path) -> None:
    path = copy(NEW, tmp_path)
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"CREATE TABLE {OURS}spans_figures (a)")
        db.commit()
    before = runs(path)
    with pytest.raises(OperationFailedError, match="nothing was changed"):
        optimize(path, 1, vacuum=False, force=False)
    assert ours(path) == {f"{OURS}spans_figures"}
    assert runs(path) == before


def test_without_the_room_for_a_vacuum_nothing_is_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = copy(NEW, tmp_path)
    monkeypatch.setattr(indexes, "rooms_of_vacuum", lambda db, path: (Room(path.parent, 2, 1),))
    before = path.read_bytes()
    with pytest.raises(OperationFailedError, match="not enough room"):
        optimize(path, 1, vacuum=True, force=False)
    assert path.read_bytes() == before
