"""Redis: a page, one run, a save, each against the same commands by redis-py, on Valkey.

2,000 runs, or as many as the first argument says.
"""

from __future__ import annotations

import asyncio
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

from flujo_lens.state.backends.redis import RedisBackend
from flujo_lens.state.views import RunFilter

RUNS = int(sys.argv[1]) if len(sys.argv) > 1 else 2_000
ROUNDS = 60
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


async def _medians(ours: Callable[[], Awaitable[Any]], theirs: Callable[[], Awaitable[Any]]) -> tuple[float, float]:
    """Milliseconds of both, taken in turns."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for call, kept in zip((ours, theirs), times, strict=True):
            began = time.perf_counter()
            await call()
            kept.append(time.perf_counter() - began)
    return median(times[0]) * 1000, median(times[1]) * 1000


async def main(uri: str, path: str) -> None:
    """Print a table."""
    client = redis.Redis(unix_socket_path=path)
    async with RedisBackend(f"{uri}?prefix=b:", timeout=60) as backend:
        began = time.perf_counter()
        for at in range(0, RUNS, 10):
            states = [state(number) for number in range(at, min(at + 10, RUNS))]
            await asyncio.gather(*(backend.save_state(one["run_id"], one) for one in states))
        print(f"{RUNS:,} runs saved in {time.perf_counter() - began:.1f} s, ten at once")
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
            mine, bare = await _medians(ours, theirs)
            print(f"  {name:24} {mine:8.3f} ms   redis-py {bare:8.3f} ms   ratio {mine / bare:6.2f}")
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
