"""What this build costs next to an earlier one: CPU time (user and system) and memory, side by side in one run.

    python tests/benchmarks/bench_builds.py --before FOLDER [--runs 200000] [--rounds 15] [--only TEXT]

`FOLDER` has the source of the earlier build (``git worktree add FOLDER COMMIT``). Builds take turns, and the smallest
time of each counts: other work on a machine only ever adds to it. The exit code is 1 if a ratio is over its limit.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import bench_prune
import run as bench

ROOT = Path(__file__).resolve().parents[2]
LIMIT, MEMORY_LIMIT = 1.05, 1.10

CALLS = """
import asyncio, sys, tempfile, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from bench_file_state import state
from bench_progress import entry, parts, state_after
from flujo_lens.state.backends.sqlite import SQLiteBackend
from flujo_lens.state.claims import Holder, Progress

SAVES, STEPS, PARTS = 100, 50, 15

async def smallest(name, count, work):
    took = []
    for part in range(PARTS):
        began = time.process_time()
        await work(str(part))
        took.append((time.process_time() - began) / count * 1e6)
    print(name, min(took))

async def main(folder):
    async with SQLiteBackend(Path(folder) / "s.db") as backend:
        saved = state(1000)

        async def save(part):
            for number in range(SAVES):
                await backend.save_state(f"run-{number % 50}", saved)

        async def load(part):
            for number in range(SAVES):
                await backend.load_state(f"run-{number % 50}")

        async def progress(part):
            history, claim = [], await backend.claim_run(part, Holder.current(), 60)
            for at in range(STEPS):
                history.append(entry(at))
                made = state_after(at + 1, history)
                await backend.save_progress(Progress(part, state=made, claim=claim, **parts(at)))

        await smallest("save_state", SAVES, save)
        await smallest("load_state", SAVES, load)
        await smallest("save_progress", STEPS, progress)

with tempfile.TemporaryDirectory(dir=sys.argv[2]) as folder:
    asyncio.run(main(folder))
"""


class Cost(NamedTuple):
    """CPU time in milliseconds (of a call: in microseconds), and the largest memory in MiB."""

    cpu: float
    memory: float


Costs = dict[str, Cost]


def cost(build: Path, command: list[str]) -> tuple[Costs, str]:
    """What a command costs with the source of a build, and what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(build)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        out = process.stdout.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = status
    if status:
        raise SystemExit(f"{' '.join(command[-8:])}: {status}\n{out}")
    return {"command": Cost((usage.ru_utime + usage.ru_stime) * 1000, usage.ru_maxrss / 1024)}, out


def calls(build: Path, folder: Path) -> Costs:
    """What calls of the library cost, in microseconds."""
    whole, out = cost(build, [sys.executable, "-c", CALLS, str(Path(__file__).parent), str(folder)])
    lines = (line.split() for line in out.splitlines())
    return {name: Cost(float(took), whole["command"].memory) for name, took in lines}


def on(store: Path, *words: str) -> list[str]:
    """A command line of lens that works in every build."""
    return [*bench.LENS, *words, "--store", str(store), "--quiet"]


def prune(store: Path, folder: Path) -> Callable[[Path], Costs]:
    """A prune of half of the runs of a copy."""
    hours, _ = bench_prune.middle(store)

    def one(build: Path) -> Costs:
        path = bench_prune.fresh(store, folder / "builds.db")
        words = ("prune", "--older-than", f"{hours}h", "--include-paused", "--no-bin", "--yes", "--max-share=100%")
        return cost(build, on(path, *words))[0]

    return one


def smallest(one: Callable[[Path], Costs], builds: tuple[Path, Path], rounds: int) -> Iterator[tuple[str, Cost, Cost]]:
    """The smallest costs of both builds, in turn, after one round that does not count."""
    for build in builds:
        one(build)
    found: tuple[list[Costs], list[Costs]] = ([], [])
    for number in range(rounds):
        for at in (0, 1) if number % 2 else (1, 0):
            found[at].append(one(builds[at]))
    for name in found[0][0]:
        before, after = (Cost(*map(min, zip(*(each[name] for each in side), strict=True))) for side in found)
        yield name, before, after


def measure(
    builds: tuple[Path, Path], folder: Path, runs: int, rounds: int, only: str
) -> Iterator[tuple[str, Cost, Cost]]:
    """What is compared, before and after."""
    store = bench.ensure(folder, runs)
    parts: dict[str, tuple[Callable[[Path], Costs], int]] = {
        "list": (lambda build: cost(build, on(store, "list"))[0], rounds),
        "show": (lambda build: cost(build, on(store, "show", bench.example(store)))[0], rounds),
        "calls": (lambda build: calls(build, folder), rounds),
        "stats": (lambda build: cost(build, on(store, "stats"))[0], rounds // 4 + 1),
        "prune": (prune(store, folder), rounds // 5 + 1),
    }
    for part, (one, count) in parts.items():
        if only in part:
            for name, before, after in smallest(one, builds, count):
                yield part if name == "command" else name, before, after
    (folder / "builds.db").unlink(missing_ok=True)


def main() -> int:
    """Measure, and print a table; 1 if a limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--folder", type=Path, default=Path(".bench"))
    parser.add_argument("--only", default="", help="only the part whose name has this: list show calls stats prune")
    asked = parser.parse_args()
    builds = (asked.before.resolve(), ROOT)
    print(f"{'':2}{'WHAT':14} {'BEFORE':>10} {'AFTER':>10} {'RATIO':>6}   {'MiB':>6} {'MiB':>6} {'RATIO':>6}")
    broken = 0
    for what, before, after in measure(builds, asked.folder, asked.runs, asked.rounds, asked.only):
        cpu, memory = after.cpu / before.cpu, after.memory / before.memory
        is_over = cpu > LIMIT or memory > MEMORY_LIMIT
        broken += is_over
        print(
            f"{'!' if is_over else '':2}{what:14} {before.cpu:10.1f} {after.cpu:10.1f} {cpu:6.2f}   "
            f"{before.memory:6.0f} {after.memory:6.0f} {memory:6.2f}",
            flush=True,
        )
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
