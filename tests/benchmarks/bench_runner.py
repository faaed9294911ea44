"""What `Flujo` costs on SQLite, against bare saves of the same growing states.

    python tests/benchmarks/bench_runner.py [--folder .] [--steps 1000] [--rounds 7]

A run of steps that do nothing is compared with `save_state` of the very states that it saves. Both ways are
interleaved, each on a new store, and the median of the rounds' ratios counts: the clock of a shared machine drifts.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from flujo_lens import Flujo, Pipeline, Step
from flujo_lens.state.backends.memory import InMemoryBackend
from flujo_lens.state.backends.sqlite import SQLiteBackend
from flujo_lens.state.claims import Progress

LIMIT = 1.7
"""Of the time of the bare saves."""

State = dict[str, Any]
Work = Callable[[SQLiteBackend], Awaitable[None]]


async def nothing(value: Any) -> Any:
    """A step's function."""
    return value


class Noting(InMemoryBackend):
    """Notes each state that is saved, as it is at that time."""

    def __init__(self) -> None:
        super().__init__()
        self.states: list[State] = []

    async def save_progress(self, progress: Progress) -> None:
        """Note the state, and save it."""
        state = progress.state
        assert state is not None
        self.states.append({**state, "step_history": list(state["step_history"])})
        await super().save_progress(progress)


def pipeline(steps: int) -> Pipeline:
    """So many steps that do nothing."""
    return Pipeline(tuple(Step(f"step {at}", function=nothing) for at in range(steps)))


async def states_of(code: Pipeline) -> list[State]:
    """What a run of it saves, one state after the other."""
    backend = Noting()
    await Flujo(code, state_backend=backend, pipeline_name="p", pipeline_version="1").run_async("in", run_id="r")
    return backend.states[1:]


def saving(states: list[State]) -> Work:
    """Saves them."""

    async def work(backend: SQLiteBackend) -> None:
        for state in states:
            await backend.save_state("r", state)

    return work


def running(code: Pipeline) -> Work:
    """Runs the pipeline."""

    async def work(backend: SQLiteBackend) -> None:
        flujo = Flujo(code, state_backend=backend, pipeline_name="p", pipeline_version="1")
        assert (await flujo.run_async("in", run_id="r")).success

    return work


async def seconds(folder: Path, work: Work) -> float:
    """How long `work` takes on a new store."""
    async with SQLiteBackend(folder / "store.db") as backend:
        await backend.save_run_start({"run_id": "another"})
        began = time.perf_counter()
        await work(backend)
        return time.perf_counter() - began


def measured(place: Path, work: Work) -> float:
    """`seconds` in a folder of its own."""
    with tempfile.TemporaryDirectory(dir=place) as folder:
        return asyncio.run(seconds(Path(folder), work))


def main() -> int:
    """The command line; 1 if the limit is passed."""
    parser = argparse.ArgumentParser(description="Measure the runner.")
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    code = pipeline(given.steps)
    ways = saving(asyncio.run(states_of(code))), running(code)
    pairs = [tuple(measured(given.folder, way) for way in ways) for _ in range(given.rounds)]
    bare, run = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(theirs / mine for mine, theirs in pairs)
    print(f"{'steps':>6} {'bare':>9} {'run':>9} {'ratio':>6} {'limit':>6}")
    mark = "" if ratio <= LIMIT else "  TOO SLOW"
    print(f"{given.steps:6} {bare * 1e3:6.0f} ms {run * 1e3:6.0f} ms {ratio:6.2f} {LIMIT:6.2f}{mark}")
    return int(ratio > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
