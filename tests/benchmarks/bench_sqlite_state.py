"""How long `SQLiteBackend` takes to save and to load a state, against the barest use of aiosqlite.

python tests/benchmarks/bench_sqlite_state.py [--rounds N] [--calls N]

Both keep one connection open, on files of their own in one folder, in WAL mode with ``synchronous=NORMAL``, and
make the same orjson calls. A round saves (loads) the same runs on each side in turn: one run again and again, as
a process does that runs one workflow, and 100 in turn. The medians of the rounds' ratios are what counts.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiosqlite
import orjson

from flujo_lens.state.backends.sqlite import SQLiteBackend
from flujo_lens.state.backends.sqlite.schema.tables import WRITTEN_COLUMNS

SAVE_LIMIT, LOAD_LIMIT = 1.1, 1.0
RUNS = 100
COLUMNS = WRITTEN_COLUMNS["workflow_state"]
BLOBS = ("pipeline_context", "last_step_output", "step_history", "metadata")
INSERT = f"INSERT OR REPLACE INTO workflow_state ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"
SELECT = f"SELECT {', '.join(COLUMNS)} FROM workflow_state WHERE run_id = ?"

Call = Callable[[str, dict[str, Any]], Awaitable[Any]]
Measured = tuple[str, float, float, float, float]
"""What, ratio, its limit, microseconds of ours, of the bare one."""


def state(number: int) -> dict[str, Any]:
    """A state of about 5 kB."""
    now = datetime.now(UTC).isoformat()
    entry = {"name": "load", "success": True, "attempts": 1, "latency_s": 0.25, "output": "x" * 200, "feedback": None}
    return {
        "run_id": f"run-{number}",
        "pipeline_id": "orders-id",
        "pipeline_name": "orders",
        "pipeline_version": "1.0",
        "current_step_index": 7,
        "pipeline_context": {"current_step": "price", "items": [{"sku": f"sku-{n}", "n": n} for n in range(80)]},
        "last_step_output": {"total": 9.5},
        "step_history": [entry] * 7,
        "status": "running",
        "created_at": now,
        "updated_at": now,
        "total_steps": 9,
        "error_message": None,
        "execution_time_ms": 1750,
        "memory_usage_mb": None,
        "metadata": {"customer": "4711"},
        "is_background_task": False,
        "parent_run_id": None,
        "task_id": None,
        "background_error": None,
    }


class Bare:
    """aiosqlite, as its documentation uses it."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self.connection = connection

    async def save_state(self, run_id: str, saved: dict[str, Any]) -> None:
        """Four blobs, one statement, one commit."""
        row = [orjson.dumps(saved[c]).decode() if c in BLOBS else saved[c] for c in COLUMNS]
        await self.connection.execute(INSERT, row)
        await self.connection.commit()

    async def load_state(self, run_id: str) -> dict[str, Any]:
        """One row, four blobs, two times."""
        async with self.connection.execute(SELECT, (run_id,)) as cursor:
            row = await cursor.fetchone()
        assert row is not None
        found = dict(zip(COLUMNS, row, strict=True))
        found |= {name: orjson.loads(found[name]) for name in BLOBS}
        return found | {name: datetime.fromisoformat(found[name]) for name in ("created_at", "updated_at")}


async def seconds(call: Call, runs: int, calls: int) -> float:
    """How long one call takes, over so many, for so many runs in turn."""
    states = [state(number % runs) for number in range(calls)]
    began = time.perf_counter()
    for each in states:
        await call(each["run_id"], each)
    return (time.perf_counter() - began) / calls


async def measure(folder: Path, rounds: int = 21, calls: int = 200) -> list[Measured]:
    """Medians over `rounds` interleaved pairs, after one pair that is not counted."""
    async with SQLiteBackend(folder / "ours.db") as ours, aiosqlite.connect(folder / "bare.db") as connection:
        await ours.save_state("x", state(0))
        async with SQLiteBackend(folder / "bare.db") as maker:
            await maker.save_state("x", state(0))
        await connection.execute("PRAGMA synchronous = NORMAL")
        bare = Bare(connection)
        save, load = (ours.save_state, bare.save_state), (_loads(ours), _loads(bare))
        return [
            await _compare("save_state, 1 run", save, 1, SAVE_LIMIT, rounds, calls),
            await _compare(f"save_state, {RUNS} runs", save, RUNS, SAVE_LIMIT, rounds, calls),
            await _compare("load_state, 1 run", load, 1, LOAD_LIMIT, rounds, calls),
            await _compare(f"load_state, {RUNS} runs", load, RUNS, LOAD_LIMIT, rounds, calls),
        ]


def _loads(backend: Any) -> Call:
    return lambda run_id, _: backend.load_state(run_id)


async def _compare(
    what: str, calls_of: tuple[Call, Call], runs: int, limit: float, rounds: int, calls: int
) -> Measured:
    one, other = calls_of
    times = [(await seconds(one, runs, calls), await seconds(other, runs, calls)) for _ in range(rounds + 1)][1:]
    ours, bare = (statistics.median(column) * 1e6 for column in zip(*times, strict=True))
    return what, statistics.median(mine / theirs for mine, theirs in times), limit, ours, bare


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure saving and loading of states.")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--calls", type=int, default=200)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lens-bench-") as place:
        found = asyncio.run(measure(Path(place), given.rounds, given.calls))
    print(f"{'what':30} {'ratio':>7} {'limit':>7} {'ours':>9} {'bare':>9}")
    for what, ratio, limit, ours, bare in found:
        print(
            f"{what:30} {ratio:7.2f} {limit:7.2f} {ours:6.0f} us {bare:6.0f} us{'' if ratio <= limit else '  TOO SLOW'}"
        )


if __name__ == "__main__":
    main()
