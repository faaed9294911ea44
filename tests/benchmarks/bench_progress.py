"""What it costs to save a run step by step on SQLite, against bare saves of the same growing states.

    python tests/benchmarks/bench_progress.py [--folder .] [--steps 1000] [--rounds 5]

After each step a runner saves the state, the step and a span, with the claim checked, by one `save_progress`. Both
ways are interleaved, and the median of the rounds' ratios counts: the clock of a shared machine drifts.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from flujo_lens.state.backends.sqlite import SQLiteBackend
from flujo_lens.state.claims import Holder, Progress

LIMIT = 1.7
"""Of the time of the bare saves."""

_AT = "2026-11-21T00:00:00+00:00"


def state_after(steps: int, history: list[dict[str, Any]]) -> dict[str, Any]:
    """The state of a run with so many steps behind it."""
    run = {"pipeline_id": "p", "pipeline_name": "p", "pipeline_version": "1", "status": "running"}
    times = {"created_at": _AT, "updated_at": _AT}
    return {**run, **times, "current_step_index": steps, "pipeline_context": {"n": steps}, "step_history": history}


def entry(at: int) -> dict[str, Any]:
    """What a step that does nothing leaves in the history."""
    return {"name": f"step {at}", "success": True, "attempts": 1, "latency_s": 0.0, "output": None, "feedback": None}


def parts(at: int) -> dict[str, Any]:
    """The step and the span of one."""
    named = {"step_name": f"step {at}", "step_index": at, "status": "completed", "execution_time_ms": 0.1}
    span = {"span_id": f"{at:016x}", "parent_span_id": "root", "name": f"step {at}", "status": "completed"}
    return {"step": named, "spans": [{**span, "start_time": float(at), "end_time": at + 0.1, "attributes": {}}]}


async def bare(backend: SQLiteBackend, steps: int) -> None:
    """Save the states alone."""
    history: list[dict[str, Any]] = []
    for at in range(steps):
        history.append(entry(at))
        await backend.save_state("r", state_after(at + 1, history))


async def whole(backend: SQLiteBackend, steps: int) -> None:
    """Save what a runner saves."""
    history: list[dict[str, Any]] = []
    claim = await backend.claim_run("r", Holder.current(), 60)
    for at in range(steps):
        history.append(entry(at))
        await backend.save_progress(Progress("r", state_after(at + 1, history), claim=claim, **parts(at)))


async def seconds(folder: Path, steps: int, work: Any) -> float:
    """How long `work` takes on a new store."""
    async with SQLiteBackend(folder / "store.db") as backend:
        await backend.save_run_start({"run_id": "another"})
        began = time.perf_counter()
        await work(backend, steps)
        return time.perf_counter() - began


def measured(place: Path, steps: int, work: Any) -> float:
    """`seconds` in a folder of its own."""
    with tempfile.TemporaryDirectory(dir=place) as folder:
        return asyncio.run(seconds(Path(folder), steps, work))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure saves of progress.")
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    pairs = [tuple(measured(given.folder, given.steps, way) for way in (bare, whole)) for _ in range(given.rounds)]
    alone, progress = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(theirs / mine for mine, theirs in pairs)
    mark = "" if ratio <= LIMIT else "  TOO SLOW"
    print(f"{'steps':>6} {'bare':>9} {'progress':>9} {'ratio':>6} {'limit':>6}")
    print(f"{given.steps:6} {alone * 1e3:6.0f} ms {progress * 1e3:6.0f} ms {ratio:6.2f} {LIMIT:6.2f}{mark}")


if __name__ == "__main__":
    main()
