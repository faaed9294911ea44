"""PostgreSQL: pages, look-ups, saves, statistics and a prune, each against what one would write by hand with asyncpg.

The library's tables with 200,000 runs (or as many as the first argument says), made by the server itself.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import asyncpg

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))
from servers import postgres_server

from flujo_lens.operations.stats import statistics
from flujo_lens.state.backends.postgres import PostgresBackend
from flujo_lens.state.deletion import DeletionRequest
from flujo_lens.state.views import RunFilter

RUNS = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
ROUNDS = 15
START = "timestamptz '2026-01-01' + g * interval '7 seconds'"
STATUS = "CASE WHEN g % 4000 = 0 THEN 'failed' WHEN g % 500 = 0 THEN 'paused' ELSE 'completed' END"
FILL = (
    f"""INSERT INTO runs (run_id, pipeline_id, pipeline_name, pipeline_version, status, created_at, updated_at)
      SELECT md5(g::text), 'p', 'orders', '1.0.0', {STATUS}, {START}, {START} + interval '3 seconds'
      FROM generate_series(1, {RUNS}) g""",
    f"""INSERT INTO workflow_state (run_id, pipeline_id, pipeline_name, pipeline_version, current_step_index,
        pipeline_context, step_history, status, created_at, updated_at, metadata)
      SELECT md5(g::text), 'unknown', 'unknown', 'latest', 3, jsonb_build_object('run_id', md5(g::text), 'total', g,
        'step_outputs', jsonb_build_object('load', repeat('x', 400))),
        CASE WHEN g % 4000 = 0 THEN jsonb_build_array('{{"name": "load", "success": true, "cost_usd": 0.001,
          "token_counts": 10}}'::jsonb, jsonb_build_object('name', 'pay', 'success', false, 'feedback', 'card ' || g))
        ELSE '[{{"name": "load", "success": true, "cost_usd": 0.0012, "token_counts": 12, "latency_s": 0.2}},
          {{"name": "finish", "success": true, "cost_usd": 0.0451, "token_counts": 345, "latency_s": 1.2}}]' END,
        {STATUS},
        {START} + interval '1 second', {START} + interval '3 seconds', '{{}}' FROM generate_series(1, {RUNS}) g""",
    f"""INSERT INTO steps (run_id, step_name, step_index, status, output, created_at)
      SELECT md5(g::text), 'load', s, 'completed', '"done"', {START} FROM generate_series(1, {RUNS}) g,
      generate_series(0, 1) s""",
    f"""INSERT INTO spans (run_id, span_id, name, start_time, end_time, status, attributes)
      SELECT md5(g::text), 's' || s, CASE s WHEN 0 THEN 'pipeline_run' ELSE 'load' END, 7 * g,
      7 * g + (g % 1000) / 999.0, 'completed', '{{}}' FROM generate_series(1, {RUNS}) g, generate_series(0, 1) s""",
    "ANALYZE",
)
FIGURES = (
    """SELECT name, status, count(*), avg(ms), percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY ms),
      sum(usd), sum(tokens) FROM (
        SELECT coalesce(r.pipeline_name, s.pipeline_name) AS name, CASE WHEN s.status = 'failed'
            AND r.status = 'completed' AND NOT s.step_history @> '[{"success": false}]' THEN 'cancelled'
          ELSE coalesce(s.status, r.status) END AS status,
          extract(epoch FROM r.updated_at - r.created_at) * 1000 AS ms,
          (SELECT sum((h ->> 'cost_usd')::float8) FROM jsonb_array_elements(s.step_history) h) AS usd,
          (SELECT sum((h ->> 'token_counts')::bigint) FROM jsonb_array_elements(s.step_history) h) AS tokens
        FROM runs r FULL JOIN workflow_state s USING (run_id)) AS run GROUP BY name, status""",
    """SELECT h ->> 'feedback', h ->> 'name', count(*), min(s.updated_at), max(s.updated_at), max(s.run_id)
      FROM workflow_state s LEFT JOIN runs r USING (run_id), jsonb_array_elements(s.step_history) h
      WHERE s.status = 'failed' AND h -> 'success' = 'false' GROUP BY 1, 2""",
    """SELECT name, status, count(*), avg((end_time - start_time) * 1000),
      percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY (end_time - start_time) * 1000)
      FROM spans GROUP BY 1, 2""",
)
SAVE = """INSERT INTO workflow_state (run_id, pipeline_id, pipeline_name, pipeline_version, current_step_index,
    pipeline_context, step_history, status, created_at, updated_at, metadata)
  VALUES ($1, 'p', 'orders', '1', 1, $2, '[]', 'running', now(), now(), '{}')
  ON CONFLICT (run_id) DO UPDATE SET current_step_index = excluded.current_step_index,
    pipeline_context = excluded.pipeline_context, step_history = excluded.step_history, status = excluded.status,
    updated_at = excluded.updated_at"""
BATCH = """SELECT s.run_id FROM workflow_state s JOIN runs r USING (run_id)
  WHERE greatest(s.updated_at, r.updated_at) < $1 LIMIT 100 FOR UPDATE SKIP LOCKED"""
PAGE = """SELECT r.*, s.* FROM runs r LEFT JOIN workflow_state s USING (run_id)
  ORDER BY r.created_at DESC, r.run_id COLLATE "C" DESC LIMIT 51"""
DEEP = """SELECT r.*, s.* FROM runs r LEFT JOIN workflow_state s USING (run_id)
  WHERE (r.created_at, r.run_id COLLATE "C") < ($1, $2)
  ORDER BY r.created_at DESC, r.run_id COLLATE "C" DESC LIMIT 51"""
PREFIX = """SELECT run_id FROM runs WHERE run_id COLLATE "C" >= $1 AND starts_with(run_id, $1)
  ORDER BY run_id COLLATE "C" LIMIT 10"""
FAILED = """SELECT r.*, s.* FROM workflow_state s LEFT JOIN runs r USING (run_id) WHERE s.status = 'failed'
  ORDER BY r.created_at DESC LIMIT 51"""


def _spent(pid: int) -> float:
    """Seconds of CPU of this process and of the server's for a connection."""
    return time.process_time() + int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


async def _median(call: Callable[[], Awaitable[Any]], pid: int) -> tuple[float, float]:
    """Milliseconds that a call takes, and those of CPU of client and server: these are the same on a busy machine."""
    for _ in range(8):  # by then, statements are planned for good
        await call()
    times, spent = [], []
    for _ in range(ROUNDS):
        began, before = time.perf_counter(), _spent(pid)
        await call()
        times.append(time.perf_counter() - began)
        time.sleep(0.0005)  # the server goes to sleep, which is counted then
        spent.append(_spent(pid) - before)
    return median(times) * 1000, median(spent) * 1000


async def main(uri: str) -> None:
    """Print a table."""
    connection = await asyncpg.connect(uri)
    async with PostgresBackend(uri, timeout=60) as backend:
        await backend.migrate(datetime.now(UTC))
        for statement in FILL:
            await connection.execute(statement)
        one = await connection.fetchval("SELECT run_id FROM runs ORDER BY created_at LIMIT 1 OFFSET $1", RUNS // 2)
        half = await connection.fetchrow("SELECT created_at, run_id FROM runs WHERE run_id = $1", one)

        async def show() -> None:
            await connection.fetch("SELECT * FROM runs r JOIN workflow_state s USING (run_id) WHERE run_id = $1", one)
            await connection.fetch("SELECT * FROM steps WHERE run_id = $1 ORDER BY id", one)
            await connection.fetch("SELECT * FROM spans WHERE run_id = $1 ORDER BY id", one)

        async def figures() -> None:
            for sql in FIGURES:
                await connection.fetch(sql)

        context = {"total": 1, "step_outputs": {"load": "x" * 400}}
        times = {"created_at": "2026-01-01T00:00:00+00:00", "updated_at": "2026-01-01T00:00:00+00:00"}
        state = {"pipeline_name": "orders", "status": "running", "pipeline_context": context, "metadata": {}, **times}

        async def save() -> None:
            async with connection.transaction():
                await connection.execute(SAVE, "saved", json.dumps(context))

        async def load() -> None:
            row = await connection.fetchrow("SELECT * FROM workflow_state WHERE run_id = $1", one)
            json.loads(row["pipeline_context"])

        failed = RunFilter(statuses=frozenset({"failed"}))
        async with backend._server._connection() as one_of_ours:
            pid, bare_pid = one_of_ours.get_server_pid(), connection.get_server_pid()
        cases: dict[str, tuple[Callable[[], Awaitable[Any]], Callable[[], Awaitable[Any]]]] = {
            "a page": (lambda: backend.query_runs(RunFilter()), lambda: connection.fetch(PAGE)),
            "a page in the middle": (
                lambda: backend.query_runs(RunFilter(), after=tuple(half)),
                lambda: connection.fetch(DEEP, *half),
            ),
            "a prefix": (lambda: backend.find_run_ids(one[:6]), lambda: connection.fetch(PREFIX, one[:6])),
            "one run": (lambda: backend.read_run(one), show),
            "a rare status": (lambda: backend.query_runs(failed), lambda: connection.fetch(FAILED)),
            "save_state": (lambda: backend.save_state("saved", state), save),
            "load_state": (lambda: backend.load_state(one), load),
            "statistics": (lambda: statistics(backend, RunFilter()), figures),
            "its count": (
                lambda: backend.count_runs(RunFilter(statuses=frozenset({"completed"}))),
                lambda: connection.fetch("SELECT count(*) FROM workflow_state WHERE status = 'completed'"),
            ),
        }
        for title in ("as the library leaves it", "after lens optimize"):
            print(f"{RUNS:,} runs, {title}")
            for name, (ours, theirs) in cases.items():
                (mine, work), (bare, least) = await _median(ours, pid), await _median(theirs, bare_pid)
                times = f"{mine:9.2f} ms   asyncpg {bare:9.2f} ms   ratio {mine / bare:6.2f}"
                print(f"  {name:24} {times}   CPU {work:8.2f} and {least:8.2f} ms, ratio {work / least:6.2f}")
            await backend.optimize()
        await _prune(backend, connection, uri)
    await connection.close()


async def _prune(backend: PostgresBackend, connection: Any, uri: str) -> None:
    """Delete a quarter by lens and a quarter by hand, while another client commits."""
    for name, prune in (("lens prune", _ours), ("by hand", _by_hand)):
        cutoff = await connection.fetchval(
            "SELECT updated_at FROM runs ORDER BY updated_at LIMIT 1 OFFSET $1", RUNS // 4
        )
        waits: list[float] = []
        other = asyncio.create_task(_commit(uri, waits))
        began = time.perf_counter()
        count = await prune(backend, connection, cutoff)
        taken = time.perf_counter() - began
        other.cancel()
        waits.sort()
        p99 = waits[int(len(waits) * 0.99)] * 1000
        print(f"  {name:12} {count:,} runs in {taken:.1f} s; commits of another client: p99 {p99:.1f} ms")


async def _ours(backend: PostgresBackend, connection: Any, cutoff: datetime) -> int:
    plan = await backend.plan_deletion(DeletionRequest(now=datetime.now(UTC), cutoff=cutoff))
    return sum([len(done.run_ids) async for done in backend.delete_planned(plan)])


async def _by_hand(backend: PostgresBackend, connection: Any, cutoff: datetime) -> int:
    count = 0
    while True:
        async with connection.transaction():
            ids = [row[0] for row in await connection.fetch(BATCH, cutoff)]
            await connection.execute("DELETE FROM workflow_state WHERE run_id = ANY($1)", ids)
            await connection.execute("DELETE FROM runs WHERE run_id = ANY($1)", ids)
        if not ids:
            return count
        count += len(ids)


async def _commit(uri: str, waits: list[float]) -> None:
    connection = await asyncpg.connect(uri)
    for number in itertools.count():
        began = time.perf_counter()
        await connection.execute(SAVE, f"other-{number % 50}", "{}")
        waits.append(time.perf_counter() - began)
        await asyncio.sleep(0.005)


if __name__ == "__main__":
    with postgres_server(16) as server:
        asyncio.run(main(server.uri))
