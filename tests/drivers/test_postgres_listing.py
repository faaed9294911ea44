"""Lists on PostgreSQL are read by columns: they show what the documents tell, of whatever runs there are."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from servers import PostgresServer

from flujo_lens.serialization.envelope import Envelope
from flujo_lens.serialization.keys import KeyRing
from flujo_lens.state.backends.postgres import PostgresBackend
from flujo_lens.state.backends.postgres import walk as walks
from flujo_lens.state.views import RunFilter, RunSummary

pytest.importorskip("asyncpg")
_STATUSES = ("completed", "failed", "paused", "running", "cancelled", "odd")
_ANY = RunFilter()
_BIG = "x" * 3_000
_CONTEXTS = (
    None,
    {},
    {"current_step": "load"},
    {"hitl_data": {"last_hitl_step": "ask"}, "pause_message": "go?"},
    {"hitl_data": None, "scratchpad": {"pause_message": 2**70}, "big": [f"{n}{_BIG}" for n in range(9)]},
    {"loop_paused_step_name": "loop", "current_step": 1e300},
    ["no", "object"],
    "a text",
)
_ENTRY = {"name": "load", "success": True, "cost_usd": 0.1, "token_counts": {"in": 3, "out": 4}, "latency_s": 0.25}
_HISTORIES = (
    None,
    [],
    [_ENTRY, {"name": "pay", "success": False, "feedback": "card 4711", "cost_usd": 0.2, "token_counts": 2**65}],
    [_ENTRY, None, 5, "x", {"name": None, "success": True, "output": [f"{n}{_BIG}" for n in range(9)]}],
    [{"name": "load", "success": False, "feedback": {"a": 1}, "output": f"{_BIG}{_BIG}"}] * 3,
    {"no": "list"},
)
_METADATA = ({}, None, {"parent_run_id": "r-0", "task_id": 7}, {"n": 10**25, "step_name": "s"}, [1])
_TIMES = ("2026-01-02 03:04:05.678+00", "2026-01-02 03:04:05+00", "infinity", "-infinity", "20260-01-01 00:00:00+00")


def _literal(value: Any) -> str:
    return "NULL" if value is None else f"'{json.dumps(value)}'::jsonb"


def _rows() -> Iterator[tuple[str, str]]:
    """SQL for states and runs, the one or the other of them missing here and there."""
    pairs = itertools.product((*_STATUSES, None), (*_STATUSES, None))
    contexts, histories = itertools.cycle(_CONTEXTS), itertools.cycle(_HISTORIES)
    metadata, times = itertools.cycle(_METADATA), itertools.cycle(_TIMES)
    names = itertools.cycle(("orders", "unknown", "", "orders", "orders"))
    for number, ((of_state, of_run), _) in enumerate(itertools.product(pairs, range(5))):
        run_id, start = f"r-{number}", f"timestamptz '2026-01-01' + interval '{number} minutes'"
        if number % 7 == 0:
            start = f"timestamptz '{next(times)}'"
        if of_state is not None:
            yield (
                "workflow_state",
                f"('{run_id}', 'p', '{next(names)}', '1', {number % 4}, {_literal(next(contexts))},"
                f" {_literal('done' if number % 3 else None)}, {_literal(next(histories))}, '{of_state}', {start},"
                f" timestamptz '{next(times)}', {number % 3}, {_literal(None) if number % 5 else repr('bad')},"
                f" {number if number % 11 == 0 else 'NULL'}, NULL, {_literal(next(metadata))}, {number % 13 == 0},"
                f" NULL, NULL, NULL)",
            )
        if of_run is not None:
            yield (
                "runs",
                f"('{run_id}', 'p', '{next(names)}', '2', '{of_run}', {start}, timestamptz '{next(times)}',"
                f" {number if number % 9 == 0 else 'NULL'}, NULL, {number % 4}, NULL)",
            )


def _fill(server: PostgresServer, schema: str) -> str:
    uri = f"{server.uri}&schema={schema}"

    async def work() -> None:
        async with PostgresBackend(uri) as backend:
            await backend.create_store()

    server.execute(f"CREATE SCHEMA {schema}", "SELECT 1")
    asyncio.run(work())
    rows = list(_rows())
    children = (
        f"""INSERT INTO {schema}.steps
          (run_id, step_name, step_index, status, output, cost_usd, token_counts, created_at) SELECT
           run_id, 'pay', s, CASE s WHEN 1 THEN 'failed' ELSE 'completed' END, '"x"', 0.1 * s, s, now()
          FROM {schema}.runs, generate_series(0, 2) s WHERE length(run_id) = 4""",
        f"""INSERT INTO {schema}.spans
          (run_id, span_id, parent_span_id, name, start_time, end_time, status, attributes) SELECT run_id, 's' || s,
           CASE WHEN s > 0 THEN 's0' END, 'span' || s, CASE s WHEN 2 THEN 'NaN'::float8 ELSE s END,
            CASE WHEN s = 3 THEN 4.0 END, 'running', '{{"flujo.pipeline.name": "traced", "flujo.pipeline.version": 3}}'
          FROM {schema}.runs, generate_series(0, 3) s WHERE length(run_id) = 4 AND run_id < 'r-55'""",
    )
    inserts = [f"INSERT INTO {schema}.{table} VALUES {values}" for table, values in rows]
    server.execute(*inserts, *children, "SELECT 1")
    return uri


async def _same(backend: PostgresBackend, wanted: RunFilter = _ANY) -> list[RunSummary]:
    """The runs of pages of seven, which are what is told of them one by one."""
    found: list[RunSummary] = []
    after = None
    while True:
        page = await backend.query_runs(wanted, limit=7, after=after)
        found += page.items
        if (after := page.next) is None:
            break
    told = await backend.read_summaries([run.run_id for run in found])
    assert [run._replace(tasks={}) for run in found] == [run._replace(tasks={}) for run in told]
    assert [run.run_id for run in reversed(found)] == [
        run.run_id async for run in backend.iter_runs(wanted, reverse=True)
    ]
    return found


def test_a_list_shows_what_the_documents_tell(pg16: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = _fill(pg16, "listing")

    async def work() -> None:
        async with PostgresBackend(uri) as backend:
            everything = await _same(backend)
            assert len(everything) == 5 * (7 * 7 - 1)
            assert {run.status for run in everything} == {*_STATUSES}
            assert any(run.problems for run in everything)
            assert any(run.cost_usd for run in everything)
            for few in (10_000, 1):  # by the index of statuses, and by a walk through all runs
                monkeypatch.setattr(walks, "FEW", few)
                for status in _STATUSES:
                    some = await _same(backend, RunFilter(statuses=frozenset({status})))
                    assert some == [run for run in everything if run.status == status], (few, status)
            since = datetime(2026, 1, 1, 2, tzinfo=UTC)
            recent = RunFilter(since=since, until=since + timedelta(hours=1), statuses=frozenset({"failed"}))
            assert {run.run_id for run in await _same(backend, recent)} == {
                run.run_id
                for run in everything
                if run.status == "failed" and run.created_at and since <= run.created_at < since + timedelta(hours=1)
            }

    asyncio.run(work())


def test_columns_that_hold_another_kind_of_json(pg16: PostgresServer) -> None:
    uri = f"{pg16.uri}&schema=odd_kinds"
    at = "timestamptz '2026-01-01'"

    async def create() -> None:
        async with PostgresBackend(uri) as backend:
            await backend.create_store()

    async def work() -> None:
        async with PostgresBackend(uri) as backend:
            runs = await _same(backend)
            assert [run.metadata for run in runs] == [{"b": 2}, {"a": 1}, {}, {}, {}, {}]
            assert [run.cost_usd for run in runs] == [0.1, None, None, None, None, None]

    history = _literal(json.dumps([_ENTRY]))
    pg16.execute("CREATE SCHEMA odd_kinds", "SELECT 1")
    asyncio.run(create())
    rows = [
        statement
        for number, metadata in enumerate(("null", "[1]", '"text"', "5", '{"a": 1}', json.dumps('{"b": 2}')))
        for statement in (
            f"INSERT INTO odd_kinds.workflow_state VALUES ('r-{number}', 'p', 'orders', '1', 0, '{{}}', NULL,"
            f" {history if number == 5 else 'NULL'}, 'completed', {at}, {at}, 0, NULL, NULL, NULL,"
            f" '{metadata}', false, NULL, NULL, NULL)",
            f"INSERT INTO odd_kinds.runs VALUES ('r-{number}', 'p', 'orders', '2', 'completed', {at}, {at},"
            " NULL, NULL, 1, NULL)",
        )
    ]
    pg16.execute(*rows, "SELECT 1")
    asyncio.run(work())


def test_a_list_shows_what_columns_do_not_keep(pg16: PostgresServer) -> None:
    """Values that are stored as documents, sealed parts with their key and without, and spans and steps with more."""
    pg16.execute("CREATE SCHEMA kept", "SELECT 1")
    uri = f"{pg16.uri}&schema=kept"
    keys = KeyRing({"k1": b"1" * 32})

    async def fill(backend: PostgresBackend, name: str) -> None:
        for status in ("completed", "failed", "paused", "running"):
            run_id = f"{name}-{status}"
            await backend.save_run_start({"run_id": run_id, "pipeline_name": "p", "start_time": datetime.now(UTC)})
            context = {"pause_message": "ask\0", "current_step": "s", "hitl_data": {"last_hitl_step": "h"}, "n": 1e20}
            history = [{"name": "load", "success": status != "failed", "feedback": "bad\0", "cost_usd": 0.5}]
            state = {"status": status, "pipeline_context": context, "step_history": history, "metadata": {"m": 2**80}}
            await backend.save_state(run_id, state)
            step = {"run_id": run_id, "step_name": "pay", "step_index": 1, "error": "declined", "status": "failed"}
            await backend.save_step_result(step)
            await backend.save_spans(
                run_id, [{"span_id": "a", "parent_span_id": "b", "name": "open\0", "start_time": 1}]
            )
            await backend.save_run_end(run_id, {"status": status, "end_time": datetime.now(UTC), "total_cost": 0.75})

    async def work() -> None:
        async with PostgresBackend(uri) as backend:
            await fill(backend, "plain")
        async with PostgresBackend(uri, envelope=Envelope(keys=keys)) as backend:
            await fill(backend, "sealed")
            assert not any(run.problems for run in await _same(backend))
        async with PostgresBackend(uri) as backend:
            found = {run.run_id: run for run in await _same(backend)}
        assert {run_id for run_id, run in found.items() if run.problems} == {
            f"sealed-{status}" for status in ("completed", "failed", "paused", "running")
        }
        assert found["plain-paused"].pause_message == "ask\0"
        assert found["plain-failed"].error_message == "bad\0"
        assert str(found["plain-completed"].metadata["m"]) == str(2**80)

    asyncio.run(work())


@pytest.mark.parametrize("collation", ["default", "C"])
def test_prefixes_at_the_ends_of_what_a_text_may_be(pg16: PostgresServer, collation: str) -> None:
    """Ids are found off the key, and off an index of ours, by code points."""
    schema = f"prefixes_{collation.lower()}"
    pg16.execute(f"CREATE SCHEMA {schema}", "SELECT 1")
    ids = sorted(
        ["a", "a!", "a~", "aé", "b", "a\U0010ffff", "a\U0010ffffz", "a\ud7ff", "a\ud7ffz", "a\ue000", "A", "_", "a_b"]
    )

    async def fill(backend: PostgresBackend) -> None:
        for number, run_id in enumerate(ids):
            await (backend.save_state(run_id, {}) if number % 2 else backend.save_run_start({"run_id": run_id}))

    async def look(backend: PostgresBackend) -> None:
        for prefix in ("", "a", "a\ud7ff", "a\U0010ffff", "b", "A", "nothing", "a_", "\U0010ffff"):
            expected = [run_id for run_id in ids if run_id.startswith(prefix)]
            assert await backend.find_run_ids(prefix, 20) == expected
            assert await backend.find_run_ids(prefix, 2) == expected[:2]

    async def work(wanted: Any) -> None:
        async with PostgresBackend(f"{pg16.uri}&schema={schema}") as backend:
            await wanted(backend)

    asyncio.run(work(fill))
    for table in ("runs", "workflow_state"):
        pg16.execute(f'ALTER TABLE {schema}.{table} ALTER run_id TYPE text COLLATE "{collation}"', "SELECT 1")
    asyncio.run(work(look))
