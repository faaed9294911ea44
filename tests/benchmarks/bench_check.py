"""How long ``lens check`` takes on a large store, its start included, and how much memory.

python tests/benchmarks/bench_check.py [--runs 1000000] [--rounds 5] [--folder .bench] [--store FILE]

Of a copy of the store 15 runs in 100 are made such as could resume, in 50 groups: ten pipelines, at five steps of each.
Every run has a manifest, as a store of this runner has.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import run

from flujo_lens.runner.context import PipelineContext
from flujo_lens.runner.dsl import Pipeline, Step
from flujo_lens.runner.manifests import digest_of, manifest_of
from flujo_lens.state.backends.sqlite import SQLiteBackend

LIMIT, MEMORY_LIMIT = 3.0, 80.0
PIPELINES, STEPS, SHARE = 10, 5, 15
APPLICATION = f"""
from flujo_lens import Pipeline, PipelineRegistry, Step

registry = PipelineRegistry()
for number in range({PIPELINES}):
    steps = tuple(Step.human_in_the_loop(f"step-{{at}}", "?") for at in range({STEPS}))
    registry.register(Pipeline(steps), f"pipeline-{{number}}", "1.0.0")
"""
STANDING = f"(rowid / 100 % {PIPELINES * STEPS})"
WANTED = f"rowid % 100 < {SHARE} AND COALESCE(parent_run_id, '') = ''"


def manifests() -> list[tuple[str, dict[str, object]]]:
    """Those of the application below, by digest."""
    steps = tuple(Step.human_in_the_loop(f"step-{at}", "?") for at in range(STEPS))
    made = [manifest_of(Pipeline(steps), f"pipeline-{n}", "1.0.0", PipelineContext) for n in range(PIPELINES)]
    return [(digest_of(each), each) for each in made]


async def put(path: Path) -> None:
    """Store the manifests, and bind one run to one: the tables are there then."""
    from flujo_lens.state.claims import Progress

    async with SQLiteBackend(path) as backend:
        for digest, manifest in manifests():
            await backend.put_manifest(digest, manifest)
        await backend.save_progress(Progress("bench", run_start={"run_id": "bench"}, manifest=manifests()[0][0]))


def stand(path: Path) -> int:
    """Make the runs of a store stand where this measures; how many could resume then."""
    asyncio.run(put(path))
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA synchronous = OFF")
        db.execute("DELETE FROM runs WHERE run_id = 'bench'")
        db.execute("UPDATE workflow_state SET status = 'completed' WHERE status <> 'completed'")
        db.execute("UPDATE runs SET status = 'completed' WHERE status <> 'completed'")
        db.execute(
            f"UPDATE workflow_state SET status = 'paused', pipeline_version = '1.0.0', pipeline_name = 'pipeline-' || "
            f"({STANDING} / {STEPS}), current_step_index = {STANDING} % {STEPS} WHERE {WANTED}"
        )
        db.execute(
            "UPDATE runs SET status = 'paused', pipeline_name = s.pipeline_name, pipeline_version = '1.0.0' "
            "FROM workflow_state s WHERE s.run_id = runs.run_id AND s.status = 'paused'"
        )
        digests = [digest for digest, _ in manifests()]
        which = f"CASE {STANDING} / {STEPS} {' '.join(f'WHEN {n} THEN ?' for n in range(PIPELINES))} END"
        db.execute(f"INSERT OR REPLACE INTO lens_run_manifests SELECT run_id, {which} FROM workflow_state", (*digests,))
        db.commit()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return int(db.execute("SELECT count(*) FROM workflow_state WHERE status = 'paused'").fetchone()[0])


def by_lens(store: Path, folder: Path) -> tuple[float, float, int]:
    """Seconds that ``lens check`` takes, its largest memory in MiB, and how many groups it found."""
    words = ["check", "--store", str(store), "--app", "bench_check_app:registry", "--app-dir", str(folder), "-o", "id"]
    began = time.perf_counter()
    with subprocess.Popen([sys.executable, "-m", "flujo_lens", *words, "-q"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        found = process.stdout.read().count(b"\n")
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"lens check failed: {process.returncode}")
    return time.perf_counter() - began, usage.ru_maxrss / 1024, found


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure lens check.")
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path(".bench"))
    parser.add_argument("--store", type=Path, help="a store of that many runs; made in the folder if not given")
    given = parser.parse_args()
    given.folder.mkdir(exist_ok=True)
    copy = given.folder / "check.db"
    try:
        shutil.copyfile(given.store or run.ensure(given.folder, given.runs), copy)
        runs = stand(copy)
        (given.folder / "bench_check_app.py").write_text(APPLICATION, encoding="utf-8")
        rounds = [by_lens(copy, given.folder) for _ in range(given.rounds)]
    finally:
        for ending in ("", "-wal", "-shm"):
            Path(f"{copy}{ending}").unlink(missing_ok=True)
    seconds, memory = statistics.median(each[0] for each in rounds), max(each[1] for each in rounds)
    groups, expected = rounds[0][2], PIPELINES * STEPS
    is_good = seconds <= LIMIT and memory <= MEMORY_LIMIT and groups == expected
    print(f"{'could resume':>12} {'groups':>6} {'check':>8} {'limit':>6} {'memory':>9} {'limit':>7}")
    mark = "" if is_good else "  TOO MUCH"
    print(f"{runs:12,} {groups:6} {seconds:6.2f} s {LIMIT:4.1f} s {memory:5.0f} MiB {MEMORY_LIMIT:3.0f} MiB{mark}")
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
