"""``lens copy`` through all drivers, SQLite -> PostgreSQL -> Redis -> files -> SQLite: time, memory, digests.

python tests/benchmarks/bench_copy.py [--runs 200000] [--folder .bench] [--store FILE] [--until sqlite]

Each copy is a process of its own; its largest memory is what counts (limit 150 MiB). At the end the digests of all runs
in the last store are compared with those of the first.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))
sys.path.insert(0, str(Path(__file__).parent))

import generate
from servers import postgres_server, redis_server, valkey_program

from flujo_lens.operations.transfer import groups_of
from flujo_lens.state.portable import digests_of
from flujo_lens.state.registry import open_backend
from flujo_lens.state.views import RunFilter

MEMORY_LIMIT = 150.0


class Cost(NamedTuple):
    """What a command took, its start included: seconds, seconds of CPU, and its largest memory in MiB."""

    seconds: float
    cpu: float
    memory: float

    def shown(self, name: str, runs: int) -> str:
        speeds = f"{runs / self.seconds:7,.0f} runs/s  {runs / self.cpu:7,.0f} runs/s of CPU"
        return f"-> {name:9} {self.seconds:7.1f} s  {speeds}  {self.memory:6.1f} MiB"


def lens(*words: str) -> Cost:
    """Run a command."""
    code = "from flujo_lens.cli.app import main; main()"
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", code, *words, "-q"])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"lens {words[0]} failed: {status}")
    return Cost(time.perf_counter() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


async def digest(uri: str) -> tuple[int, str]:
    """The number of runs in a store, and one digest of all of theirs."""
    count, total = 0, 0
    async with open_backend(uri, {}) as backend:
        async for group in groups_of(backend, RunFilter()):
            with group:
                for run_id, one in digests_of(group).items():
                    count += 1
                    total ^= int(sha256(f"{run_id} {one}".encode()).hexdigest(), 16)
    return count, f"{total:064x}"[:16]


def main() -> int:
    """Copy, and print a line for each copy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200_000)
    parser.add_argument("--folder", type=Path, default=Path(".bench"))
    parser.add_argument("--store", type=Path)
    parser.add_argument("--only", default="postgres,redis,files,sqlite,ndjson")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    first = asked.store or asked.folder / f"copy-{asked.runs}.db"
    if not first.exists():
        generate.make_sqlite(first, asked.runs, now=datetime(2026, 11, 1, tzinfo=UTC))
    work = asked.folder / "copy-work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    holds = True
    with postgres_server(16) as pg, redis_server(valkey_program()) as valkey:
        places = {
            "postgres": f"{pg.uri}&schema=bench",
            "redis": f"{valkey.uri}?prefix=bench:",
            "files": f"file://{(work / 'files').absolute()}",
            "ndjson": str((work / "runs.ndjson").absolute()),
            "sqlite": f"sqlite:///{(work / 'last.db').absolute()}",
        }
        pg.execute("CREATE SCHEMA bench", "SELECT 1")
        source = str(first.absolute())
        for name in asked.only.split(","):
            cost = lens("export", places[name], "-s", source) if name == "ndjson" else None
            cost = cost or lens("copy", source, places[name], "--yes")
            print(cost.shown(name, asked.runs), flush=True)
            holds = holds and cost.memory <= MEMORY_LIMIT
            if name == "ndjson":
                cost = lens("import", places[name], "-s", f"{work / 'imported.db'}", "--yes")
                print(cost.shown("imported", asked.runs), flush=True)
                continue
            source = places[name]
        before, after = asyncio.run(digest(str(first.absolute()))), asyncio.run(digest(source))
    print(f"digests: {before} and {after}: {'equal' if before == after else 'DIFFERENT'}")
    shutil.rmtree(work, ignore_errors=True)
    return 0 if holds and before == after else 1


if __name__ == "__main__":
    sys.exit(main())
