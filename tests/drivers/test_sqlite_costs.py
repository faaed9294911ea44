"""Costs in the statistics of SQLite stores: SQLite's own reading of a history, next to Python's."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from stores import NEW, copy, read

from flujo_lens.state.backends.sqlite import SQLiteBackend
from flujo_lens.state.backends.sqlite.reads import plain_runs, queries
from flujo_lens.state.backends.sqlite.reads.statistics_queries import MOST_STEPS
from flujo_lens.state.interpret import RawRun, cost_of
from flujo_lens.state.known_costs import KnownCosts
from flujo_lens.state.views import RunFilter

Costs = tuple[float | None, int | None]


def step(**fields: Any) -> dict[str, Any]:
    """An entry with costs inside it that are not its own."""
    inner = {"cost_usd": 99.0, "token_counts": 99}
    return {"name": "s", "output": inner, **fields, "branch_context": {"x": [inner]}, "step_history": [inner]}


def steps(count: int) -> str:
    return json.dumps([step(cost_usd=0.1 * at, token_counts=at) for at in range(count)])


HISTORIES: list[str | bytes | None] = [
    *map(steps, (1, 2, 3, MOST_STEPS - 1, MOST_STEPS, MOST_STEPS + 1, 40)),
    *(None, "", "[]", "null", "{}", "7", "not JSON", "[", f" {steps(2)} "),
    *(f"{steps(2)[:-1]}, null]", b"\x93lens\x01\x02"),
    json.dumps([step(cost_usd=cost, token_counts=1) for cost in (1, 2.5, -0.25, 1e-9)]),
    *(
        json.dumps([step(cost_usd=value, token_counts=5), step(cost_usd=0.5, token_counts=value)])
        for value in (None, True, False, "0.1", "null", {"prompt": 3, "completion": 4}, [1], 1e16, 1e300, 2**70, 0, 1.0)
    ),
    json.dumps([step(cost_usd=0.1), step(token_counts=3)]),
    json.dumps([step(cost_usd=float("nan"), token_counts=3), step(cost_usd=0.1, token_counts=3)]),
    json.dumps([5, None, "text", step(cost_usd=0.1, token_counts=3)]),
]  # fmt: skip


def store(path: Path) -> Path:
    """A real store with a run for each of the histories."""
    with closing(sqlite3.connect(path)) as db, db:
        for at, history in enumerate(HISTORIES):
            values = (f"cost-{at}", f"p{at % 3}", f"2026-11-21T00:00:{at:02}+00:00")
            db.execute(
                "INSERT INTO runs (run_id, pipeline_id, pipeline_name, pipeline_version, status, created_at,"
                " updated_at) VALUES (?1, '', ?2, '1', 'completed', ?3, ?3)",
                values,
            )
            db.execute(
                "INSERT INTO workflow_state (run_id, pipeline_id, pipeline_name, pipeline_version, current_step_index,"
                " status, created_at, updated_at, step_history) VALUES (?1, '', ?2, '1', 0, 'completed', ?3, ?3, ?4)",
                (*values, history),
            )
    return path


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    return store(copy(NEW, tmp_path))


def by_python() -> Iterator[tuple[str, Costs]]:
    for at, history in enumerate(HISTORIES):
        yield f"cost-{at}", cost_of(RawRun(f"cost-{at}", has_state=True, history=history))


async def sums(backend: SQLiteBackend) -> dict[str, Costs]:
    """The costs by which runs are sorted."""
    usd = {run_id: value async for run_id, value in backend.iter_sort_values(RunFilter(), "cost")}
    return {run_id: (usd[run_id], value) async for run_id, value in backend.iter_sort_values(RunFilter(), "tokens")}


def test_they_are_those_of_the_decoded_histories(path: Path) -> None:
    found = read(path, sums)
    expected = dict(by_python())
    assert {run_id: found[run_id] for run_id in expected} == expected


def test_sums_are_those_of_the_runs(path: Path) -> None:
    async def both(backend: SQLiteBackend) -> tuple[Any, list[Any]]:
        runs = [run async for run in backend.iter_runs(RunFilter(), ordered=False)]
        return {item.pipeline_name: item for item in await backend.read_pipelines(RunFilter())}, runs

    pipelines, runs = read(path, both)
    assert sum(item.total for item in pipelines.values()) == len(runs)
    for name, item in pipelines.items():
        own = [run for run in runs if run.pipeline_name == name]
        costs = [run.cost_usd for run in own if run.cost_usd is not None]
        assert item.cost_usd == (pytest.approx(sum(costs)) if costs else None)
        tokens = [run.tokens for run in own if run.tokens is not None]
        assert item.tokens == (sum(tokens) if tokens else None)


def test_most_histories_are_read_by_sqlite_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are decoded; a change must not send all of them that way without anybody noticing."""
    decoded: list[Any] = []
    way = plain_runs._with_costs

    def counted(session: Any, rows: Any) -> Any:
        decoded.extend(rows)
        return way(session, rows)

    monkeypatch.setattr(plain_runs, "_with_costs", counted)
    found = read(path, sums)
    assert 0 < len({row[0] for row in decoded}) < len(found) / 2
    assert f"cost-{HISTORIES.index(steps(MOST_STEPS))}" not in {row[0] for row in decoded}


# --- known costs


def test_costs_of_ended_runs_are_read_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = KnownCosts()

    async def again() -> None:
        async with SQLiteBackend(path) as backend:
            pipelines = await backend.read_pipelines(RunFilter(), known)
            assert pipelines == await backend.read_pipelines(RunFilter())

    asyncio.run(again())
    count = len(known)
    assert count > len(HISTORIES)
    read_ids: list[Any] = []
    by_ids = queries.by_ids

    def noted(shape: Any, ids: str, **more: Any) -> str:
        read_ids.append(ids)
        return by_ids(shape, ids, **more)

    with closing(sqlite3.connect(path)) as db, db:
        db.execute("DELETE FROM runs WHERE run_id = 'cost-0'")
        db.execute("DELETE FROM workflow_state WHERE run_id = 'cost-0'")
        db.execute("UPDATE workflow_state SET step_history = ? WHERE run_id = 'cost-1'", (steps(3),))
        db.execute("UPDATE runs SET updated_at = '2026-11-22T00:00:00+00:00' WHERE run_id = 'cost-1'")
        db.execute("UPDATE runs SET status = 'running' WHERE run_id = 'cost-2'")
        db.execute(
            "UPDATE workflow_state SET status = 'running', step_history = ? WHERE run_id = 'cost-2'", (steps(5),)
        )
    asyncio.run(again())
    assert len(known) == count + 1
    monkeypatch.setattr(queries, "by_ids", noted)

    async def once() -> None:
        async with SQLiteBackend(path) as backend:
            await backend.read_pipelines(RunFilter(), known)

    asyncio.run(once())
    running = [ids for ids in read_ids if ids.startswith("VALUES")]
    assert len(running) == 1
    assert running[0].count("(?)") < 10


def test_known_costs_are_as_they_were_put() -> None:
    known = KnownCosts()
    put = {(f"run-{at}", at): (None if at % 7 == 0 else at / 3, None if at % 5 == 0 else -at) for at in range(35_000)}
    for key, costs in put.items():
        known.put(key, costs)
    assert len(known) == len(put)
    assert all(known.find(key) == costs for key, costs in put.items())
    assert known.find(("run-0", 1)) is None
    known.forget_others(20_000)
    assert len(known) == len(put)
    known.forget_others(10)
    assert len(known) == 0
    assert known.find(("run-1", 1)) is None
