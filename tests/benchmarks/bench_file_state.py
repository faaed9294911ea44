"""What a save of `FileBackend` costs, against a bare write, sync and rename of the same bytes.

    python tests/benchmarks/bench_file_state.py [--folder .] [--rounds 300]

Save and bare write are interleaved, and the medians are compared: the clock of a shared machine drifts, and so does
its disk. The second figure is against a bare write that syncs the folder too, as one has to for the new name to
survive the death of the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from flujo_lens.state.backends.file import FileBackend

LIMIT = 1.2
"""Of the time of a bare write, sync and rename."""


def state(size: int) -> dict[str, Any]:
    """A state of about so many bytes."""
    at = "2026-11-21T00:00:00+00:00"
    entry = {"name": "load", "success": True, "latency_s": 0.5, "output": "x" * 100, "feedback": None}
    history = [entry] * (size // 180)
    return {"status": "running", "created_at": at, "updated_at": at, "pipeline_context": {}, "step_history": history}


def bare(folder: Path, descriptor: int, data: bytes, *, sync_folder: bool) -> float:
    """Seconds of the plainest way to write a file that is whole or not there."""
    began = time.perf_counter()
    file = os.open(folder / "bare.tmp", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    os.write(file, data)
    os.fsync(file)
    os.close(file)
    os.rename(folder / "bare.tmp", folder / "bare.json")
    if sync_folder:
        os.fsync(descriptor)
    return time.perf_counter() - began


async def one_save(backend: FileBackend, made: dict[str, Any]) -> float:
    """Seconds of a save."""
    began = time.perf_counter()
    await backend.save_state("saved", made)
    return time.perf_counter() - began


async def measure(folder: Path, size: int, rounds: int) -> tuple[float, float, float]:
    """Median seconds of a save, a bare write, and a bare write that syncs the folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    times: list[tuple[float, float, float]] = []
    async with FileBackend(folder) as backend:
        made = state(size)
        await backend.save_state("saved", made)
        data = (folder / "saved.json").read_bytes()
        for _ in range(rounds):
            plain = bare(folder, descriptor, data, sync_folder=False)
            synced = bare(folder, descriptor, data, sync_folder=True)
            times.append((await one_save(backend, made), plain, synced))
    os.close(descriptor)
    save, plain, synced = (statistics.median(column) for column in zip(*times, strict=True))
    return save, plain, synced


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure saves of JSON files.")
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--rounds", type=int, default=300)
    given = parser.parse_args()
    print(f"{'bytes':>8} {'save':>9} {'bare':>9} {'ratio':>6} {'limit':>6}", "  bare with the folder synced too")
    for size in (1_000, 10_000, 100_000):
        with tempfile.TemporaryDirectory(dir=given.folder) as place:
            save, plain, synced = asyncio.run(measure(Path(place), size, given.rounds))
        ratio, mark = save / plain, "" if save / plain <= LIMIT else "  TOO SLOW"
        shown = f"{size:8} {save * 1e6:6.0f} us {plain * 1e6:6.0f} us {ratio:6.2f} {LIMIT:6.2f}{mark:10}"
        print(f"{shown} {synced * 1e6:6.0f} us {save / synced:6.2f}")


if __name__ == "__main__":
    main()
