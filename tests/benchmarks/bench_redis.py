"""Redis: a page, one run, a save, each against the same commands by redis-py, on Valkey.

    python tests/benchmarks/bench_redis.py [RUNS] [--keep-runs]

2,000 runs, or as many as the first argument says: 500,000 take two minutes and 1.3 GB of memory.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import redis.asyncio as redis

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))
from servers import redis_server, valkey_program

from flujo_lens.state.backends.core.port import RunRow
from flujo_lens.state.backends.redis import RedisBackend
from flujo_lens.state.backends.redis.connection import Command
from flujo_lens.state.backends.redis.index import Entry, listed
from flujo_lens.state.views import RunFilter

_parser = argparse.ArgumentParser(description=__doc__)
_parser.add_argument("runs", type=int, nargs="?", default=2_000)
_parser.add_argument("--keep-runs", action="store_true", help="without a deletion of half of them at the end")
ARGUMENTS = _parser.parse_args()
RUNS, ROUNDS = ARGUMENTS.runs, 60
SAVED, AT_ONCE = 1_000, 500
START = datetime(2026, 1, 1, tzinfo=UTC)


def state(number: int) -> dict[str, Any]:
    """A state of 1.2 KB."""
    begun = START + timedelta(seconds=7 * number)
    return {
        "run_id": f"run-{number:08}",
        "pipeline_name": "orders",
        "pipeline_version": "1.0.0",
        "current_step_index": 3,
        "total_steps": 3,
        "status": "failed" if number % 4_000 == 0 else "completed",
        "created_at": begun.isoformat(),
        "updated_at": (begun + timedelta(seconds=3)).isoformat(),
        "pipeline_context": {"total": number, "step_outputs": {"load": "x" * 400}},
        "step_history": [{"name": "load", "success": True, "output": "y" * 200}, {"name": "finish", "success": True}],
        "metadata": {},
    }


async def fill(backend: RedisBackend, client: Any) -> None:
    """Save some runs, ten at once; send the commands of the others many at once, as no application could."""
    began = time.perf_counter()
    for at in range(0, min(RUNS, SAVED), 10):
        states = [state(number) for number in range(at, min(at + 10, RUNS))]
        await asyncio.gather(*(backend.save_state(one["run_id"], one) for one in states))
    print(f"{min(RUNS, SAVED):,} runs saved in {time.perf_counter() - began:.1f} s, ten at once")
    keys = backend._server.keys
    for at in range(SAVED, RUNS, AT_ONCE):
        commands: list[Command] = []
        for number in range(at, min(at + AT_ONCE, RUNS)):
            given = state(number)
            run_id, document = given["run_id"], backend.codec.state(given["run_id"], given)
            entry = Entry(backend._indexed(RunRow(run_id, document)))
            commands += [("SET", keys.state(run_id), document), *listed(keys, run_id, None, entry)]
        async with client.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            await pipe.execute()
    memory = (await client.info("memory"))["used_memory"]
    print(f"{RUNS:,} runs after {time.perf_counter() - began:.0f} s, {memory / 2**20:,.0f} MiB")


def commands(uri: str, run_id: str) -> None:
    """Real processes: seconds, seconds of CPU, and memory."""
    for words in (["list"], ["list", "--status", "failed"], ["status"], ["show", run_id], ["list", "--count"]):
        began = time.perf_counter()
        command = [sys.executable, "-m", "flujo_lens", *words, "-s", f"{uri}?prefix=b:"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        taken, spent = time.perf_counter() - began, used.ru_utime + used.ru_stime
        said, memory = " ".join(words).replace(run_id, "RUN"), used.ru_maxrss / 1024
        print(f"  lens {said:24} {taken:6.2f} s, {spent:5.2f} s of CPU, {memory:4.0f} MiB, exit {status >> 8}")


async def _medians(
    ours: Callable[[], Awaitable[Any]], theirs: Callable[[], Awaitable[Any]]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Milliseconds of both, taken in turns, and those of CPU of the client."""
    times: tuple[list[float], list[float]] = ([], [])
    spent: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for call, kept, used in zip((ours, theirs), times, spent, strict=True):
            began, before = time.perf_counter(), time.process_time()
            await call()
            kept.append(time.perf_counter() - began)
            used.append(time.process_time() - before)
    return (median(times[0]) * 1000, median(times[1]) * 1000), (median(spent[0]) * 1000, median(spent[1]) * 1000)


async def main(uri: str, path: str) -> None:
    """Print a table."""
    client = redis.Redis(unix_socket_path=path)
    async with RedisBackend(f"{uri}?prefix=b:", timeout=60) as backend:
        await fill(backend, client)
        half = START + timedelta(seconds=7 * (RUNS // 2))
        one = state(RUNS // 2)["run_id"]

        async def page(start: Any = "+inf") -> None:
            ids = await client.zrange("b::lens:order", start, "-inf", desc=True, byscore=True, offset=0, num=51)
            async with client.pipeline(transaction=False) as pipe:
                for run_id in ids:
                    pipe.get(b"b:" + run_id)
                await pipe.execute()

        document = await client.get(f"b:{one}")
        entry = await client.hget("b::lens:index", one)
        last = [0]

        async def save() -> None:
            last[0] += 1
            async with client.pipeline(transaction=True) as pipe:
                pipe.set("bare:run", document)
                pipe.hset("bare:index", "run", entry)
                pipe.zadd("bare:updated", {"run": last[0]})
                await pipe.execute()

        saved = state(RUNS // 2)

        async def our_save() -> None:
            last[0] += 1
            saved["updated_at"] = (half + timedelta(seconds=last[0])).isoformat()
            await backend.save_state(one, saved)

        cases: dict[str, tuple[Callable[[], Awaitable[Any]], Callable[[], Awaitable[Any]]]] = {
            "a page": (lambda: backend.query_runs(RunFilter()), page),
            "a page in the middle": (
                lambda: backend.query_runs(RunFilter(), after=(half, one)),
                lambda: page(int(half.timestamp() * 1_000_000)),
            ),
            "load_state": (lambda: backend.load_state(one), lambda: client.get(f"b:{one}")),
            "save_state": (our_save, save),
            "a count by status": (
                lambda: backend.count_runs(RunFilter(statuses=frozenset({"completed"}))),
                lambda: client.zcard("b::lens:status:completed"),
            ),
        }
        for name, (ours, theirs) in cases.items():
            (mine, bare), (work, least) = await _medians(ours, theirs)
            wall = f"{mine:8.3f} ms   redis-py {bare:8.3f} ms   ratio {mine / bare:6.2f}"
            print(f"  {name:24} {wall}   CPU of the client {work:6.2f} and {least:6.2f} ms, ratio {work / least:6.2f}")
        commands(uri, one)
        if ARGUMENTS.keep_runs:
            await client.aclose()
            return
        dry = await backend.plan_deletion(_old(half))
        began = time.perf_counter()
        count = 0
        async for deleted in backend.delete_planned(dry):
            count += len(deleted.run_ids)
        print(f"  {count:,} runs deleted in {time.perf_counter() - began:.1f} s")
    await client.aclose()


def _old(cutoff: datetime) -> Any:
    from flujo_lens.state.deletion import DeletionRequest

    return DeletionRequest(now=datetime.now(UTC), cutoff=cutoff)


if __name__ == "__main__":
    with redis_server(valkey_program()) as server:
        asyncio.run(main(server.uri, str(server.folder / "s")))
