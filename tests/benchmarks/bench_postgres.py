"""PostgreSQL: a page, a prefix, one run, a rare status, each against the hand-written query by asyncpg.

The library's tables with 200,000 runs (or as many as the first argument says), made by the server itself.
"""

from __future__ import annotations

import asyncio
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

from flujo_lens.state.backends.postgres import PostgresBackend
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
        '[{{"name": "load", "success": true}}, {{"name": "finish", "success": true}}]', {STATUS},
        {START} + interval '1 second', {START} + interval '3 seconds', '{{}}' FROM generate_series(1, {RUNS}) g""",
    f"""INSERT INTO steps (run_id, step_name, step_index, status, output, created_at)
      SELECT md5(g::text), 'load', s, 'completed', '"done"', {START} FROM generate_series(1, {RUNS}) g,
      generate_series(0, 1) s""",
    "ANALYZE",
)
PAGE = """SELECT r.*, s.* FROM runs r LEFT JOIN workflow_state s USING (run_id)
  ORDER BY r.created_at DESC, r.run_id COLLATE "C" DESC LIMIT 51"""
DEEP = """SELECT r.*, s.* FROM runs r LEFT JOIN workflow_state s USING (run_id)
  WHERE (r.created_at, r.run_id COLLATE "C") < ($1, $2)
  ORDER BY r.created_at DESC, r.run_id COLLATE "C" DESC LIMIT 51"""
PREFIX = """SELECT run_id FROM runs WHERE run_id COLLATE "C" >= $1 AND starts_with(run_id, $1)
  ORDER BY run_id COLLATE "C" LIMIT 10"""
FAILED = """SELECT r.*, s.* FROM workflow_state s LEFT JOIN runs r USING (run_id) WHERE s.status = 'failed'
  ORDER BY r.created_at DESC LIMIT 51"""


async def _median(call: Callable[[], Awaitable[Any]]) -> float:
    await call()
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        await call()
        times.append(time.perf_counter() - began)
    return median(times) * 1000


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

        failed = RunFilter(statuses=frozenset({"failed"}))
        cases: dict[str, tuple[Callable[[], Awaitable[Any]], Callable[[], Awaitable[Any]]]] = {
            "a page": (lambda: backend.query_runs(RunFilter()), lambda: connection.fetch(PAGE)),
            "a page in the middle": (
                lambda: backend.query_runs(RunFilter(), after=tuple(half)),
                lambda: connection.fetch(DEEP, *half),
            ),
            "a prefix": (lambda: backend.find_run_ids(one[:6]), lambda: connection.fetch(PREFIX, one[:6])),
            "one run": (lambda: backend.read_run(one), show),
            "a rare status": (lambda: backend.query_runs(failed), lambda: connection.fetch(FAILED)),
            "its count": (
                lambda: backend.count_runs(RunFilter(statuses=frozenset({"completed"}))),
                lambda: connection.fetch("SELECT count(*) FROM workflow_state WHERE status = 'completed'"),
            ),
        }
        for title in ("as the library leaves it", "after lens optimize"):
            print(f"{RUNS:,} runs, {title}")
            for name, (ours, theirs) in cases.items():
                mine, bare = await _median(ours), await _median(theirs)
                print(f"  {name:24} {mine:9.2f} ms   asyncpg {bare:9.2f} ms   ratio {mine / bare:6.2f}")
            await backend.optimize()
    await connection.close()


if __name__ == "__main__":
    with postgres_server(16) as server:
        asyncio.run(main(server.uri))
