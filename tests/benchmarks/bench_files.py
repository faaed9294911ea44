"""How long the first and the second `list` of a folder of JSON files take, against a bare loop over the files.

python tests/benchmarks/bench_files.py [FOLDER] [--rounds N]

Without FOLDER one of 100,000 runs is made (see generate.py) in a temporary folder, which takes a minute.
Bare loop, first and second `list` are interleaved, and the medians of the rounds' ratios are what counts.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import orjson

from flujo_lens.state.backends.file import FileBackend
from flujo_lens.state.views import RunFilter

FIRST_LIMIT = 1.3
"""Of the bare loop's time."""

SECOND_LIMIT = 0.2
"""Of the first list's time."""

Measured = tuple[str, float, float, float]
"""What, ratio, its limit, seconds."""


def bare_loop(folder: Path) -> None:
    """Read and parse every file in the plainest way."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".json"):
                with open(entry.path, "rb") as file:
                    orjson.loads(file.read())


def list_runs(folder: Path, cache: Path) -> None:
    """One page of the newest runs, by a backend that knows nothing yet."""

    async def work() -> None:
        async with FileBackend(folder, cache_dir=cache) as backend:
            await backend.query_runs(RunFilter(), limit=50)

    asyncio.run(work())


def seconds(work: Callable[[], None]) -> float:
    """How long `work` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def one_round(folder: Path) -> tuple[float, float, float]:
    """Seconds of the bare loop, the first and the second list."""
    cache = Path(tempfile.mkdtemp(prefix="lens-bench-"))
    try:
        bare = seconds(lambda: bare_loop(folder))
        return bare, seconds(lambda: list_runs(folder, cache)), seconds(lambda: list_runs(folder, cache))
    finally:
        shutil.rmtree(cache)


def measure(folder: Path, rounds: int = 3) -> list[Measured]:
    """Medians over `rounds` rounds; a first bare loop brings the files into memory and is not counted."""
    bare_loop(folder)
    taken = [one_round(folder) for _ in range(rounds)]
    bare, first, second = (statistics.median(column) for column in zip(*taken, strict=True))
    return [
        ("bare loop", 1.0, 1.0, bare),
        ("first list / bare loop", statistics.median(f / b for b, f, _ in taken), FIRST_LIMIT, first),
        ("second list / first list", statistics.median(s / f for _, f, s in taken), SECOND_LIMIT, second),
    ]


def show(folder: Path, rounds: int) -> None:
    """Print the table."""
    print(f"{'what':26} {'ratio':>7} {'limit':>7} {'seconds':>9}")
    for what, ratio, limit, took in measure(folder, rounds):
        print(f"{what:26} {ratio:7.2f} {limit:7.2f} {took:9.3f}{'' if ratio <= limit else '  TOO SLOW'}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure lists of a folder of JSON files.")
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if given.folder is not None:
        show(given.folder, given.rounds)
        return
    from generate import make_files

    with tempfile.TemporaryDirectory(prefix="lens-bench-") as place:
        make_files(Path(place) / "files", 100_000)
        show(Path(place) / "files", given.rounds)


if __name__ == "__main__":
    main()
