"""What a save of `FileBackend` costs, against a bare write, sync and rename of the same bytes.

    python tests/benchmarks/bench_file_state.py [--folder .] [--rounds 300]

Save and bare writes are interleaved, and the medians are compared: the clock of a shared machine drifts, and so does
its disk. The first ratio is to a bare write of which the new name does not survive the death of the machine, the other
to one that syncs the folder too, as a save promises. The last columns are the CPU of a save, of both its threads, and
of the latter. On a busy machine a save waits for its thread.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from flujo_lens.state.backends.file import FileBackend

LIMIT = 1.15
"""Of the time of a bare write, sync and rename, with the folder synced."""


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


class Costs(NamedTuple):
    """Median seconds of a save, a bare write, and one that syncs the folder; and seconds of CPU of the save and of the
    latter."""

    save: float
    plain: float
    synced: float
    save_cpu: float
    synced_cpu: float


async def measure(folder: Path, size: int, rounds: int) -> Costs:
    """The costs for a state of about so many bytes."""
    descriptor = os.open(folder, os.O_RDONLY)
    times: list[tuple[float, ...]] = []
    async with FileBackend(folder) as backend:
        made = state(size)
        await backend.save_state("saved", made)
        data = (folder / "saved.json").read_bytes()
        for _ in range(rounds):
            plain, began = bare(folder, descriptor, data, sync_folder=False), time.process_time()
            synced, between = bare(folder, descriptor, data, sync_folder=True), time.process_time()
            save, ended = await one_save(backend, made), time.process_time()
            times.append((save, plain, synced, ended - between, between - began))
    os.close(descriptor)
    return Costs(*(statistics.median(column) for column in zip(*times, strict=True)))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure saves of JSON files.")
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--rounds", type=int, default=300)
    given = parser.parse_args()
    names = ("bytes", "save", "bare", "ratio", "+ folder", "ratio", "limit", "CPU", "of bare")
    print(" ".join(f"{name:>9}" for name in names))
    for size in (1_000, 10_000, 100_000):
        with tempfile.TemporaryDirectory(dir=given.folder) as place:
            found = asyncio.run(measure(Path(place), size, given.rounds))
        save, plain, synced, *cpu = (f"{seconds * 1e6:6.0f} us" for seconds in found)
        ratios = [f"{found.save / found.plain:9.2f}", f"{found.save / found.synced:9.2f}"]
        mark = "" if found.save / found.synced <= LIMIT else "  TOO SLOW"
        print(f"{size:9} {save} {plain} {ratios[0]} {synced} {ratios[1]} {LIMIT:9.2f} {' '.join(cpu)}{mark}")


if __name__ == "__main__":
    main()
