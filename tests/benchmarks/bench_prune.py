"""How long ``lens prune`` takes, against hand-written SQL that deletes the same runs in batches of 100.

python tests/benchmarks/bench_prune.py [--runs 200000] [--rounds 3] [--folder .bench] [--store FILE]

A round copies one store twice, and prunes half of it on each side; the medians of the rounds' ratios are what counts.
Then ``lens prune`` runs on a fresh copy while another process commits every 5 ms: how long those commits take.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

LIMIT, MEMORY_LIMIT, WAIT_LIMIT = 1.4, 80.0, 60.0
BATCH = 100
TABLES = ("spans", "steps", "traces", "evaluations", "workflow_state", "runs")
OLD = (
    "SELECT s.run_id FROM workflow_state s LEFT JOIN runs r ON r.run_id = s.run_id WHERE max(s.created_at, "
    "s.updated_at, COALESCE(r.created_at, ''), COALESCE(r.updated_at, ''), COALESCE(r.end_time, '')) < ? "
    "UNION SELECT run_id FROM runs WHERE max(created_at, updated_at, COALESCE(end_time, '')) < ? "
    "AND run_id NOT IN (SELECT run_id FROM workflow_state)"
)
WRITER = """
import sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], timeout=1, isolation_level=None)
db.execute("PRAGMA synchronous = NORMAL")
times = []
print("go", flush=True)
try:
    while not __import__("select").select([sys.stdin], [], [], 0.005)[0]:
        began = time.perf_counter()
        db.execute("INSERT OR REPLACE INTO system_state VALUES ('bench', '{}', '')")
        times.append(time.perf_counter() - began)
finally:
    times.sort()
    print(len(times), *(times[int(len(times) * part)] * 1000 for part in (0.5, 0.99)), times[-1] * 1000)
"""


def by_hand(path: Path, cutoff: str) -> float:
    """Seconds that the bare engine takes."""
    began = time.perf_counter()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous = NORMAL")
        ids = [row[0] for row in db.execute(OLD, (cutoff, cutoff))]
        for at in range(0, len(ids), BATCH):
            part = ids[at : at + BATCH]
            db.execute("BEGIN IMMEDIATE")
            for table in TABLES:
                db.execute(f"DELETE FROM {table} WHERE run_id IN ({', '.join('?' * len(part))})", part)
            db.execute("COMMIT")
    return time.perf_counter() - began


def by_lens(path: Path, hours: int) -> tuple[float, float]:
    """Seconds that ``lens prune`` takes, its start included, and its largest memory in MiB."""
    code = "from flujo_lens.cli.app import main; main()"
    words = ["prune", "--store", str(path), "--older-than", f"{hours}h", "--include-paused", "--no-bin", "--yes", "-q"]
    words.append("--max-share=100%")
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"lens prune failed: {status}")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def fresh(store: Path, path: Path) -> Path:
    """A copy whose pages are on the disk: what is written back later would be in the way of what is measured."""
    for ending in ("-wal", "-shm", ""):
        Path(f"{path}{ending}").unlink(missing_ok=True)
    shutil.copyfile(store, path)
    os.sync()
    return path


def middle(store: Path) -> tuple[int, str]:
    """How many hours ago half of the runs were last updated, and when that was."""
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as db:
        count = db.execute("SELECT count(*) FROM workflow_state").fetchone()[0]
        text = db.execute("SELECT created_at FROM workflow_state ORDER BY created_at LIMIT 1 OFFSET ?", (count // 2,))
        hours = round((datetime.now(UTC) - datetime.fromisoformat(text.fetchone()[0])).total_seconds() / 3600)
    return hours, datetime.fromtimestamp(time.time() - hours * 3600, UTC).isoformat()


def waits(path: Path, hours: int) -> tuple[int, float, float, float]:
    """How often another process committed, and how long that took at p50, p99 and at most, in milliseconds."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        by_lens(path, hours)
        out, _ = writer.communicate("stop\n")
    if writer.returncode:
        raise SystemExit("the other process met an error")
    count, p50, p99, most = out.split()
    return int(count), float(p50), float(p99), float(most)


def main() -> int:
    """Measure, and print a table; 1 if a limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(".bench"))
    parser.add_argument("--store", type=Path, help="this store, not a generated one")
    asked = parser.parse_args()
    asked.folder.mkdir(exist_ok=True)
    store = (asked.store or asked.folder / f"prune-{asked.runs}.db").resolve()
    if not store.exists():
        # Not in this process: the largest memory of a child counts from that of its parent.
        code = "import sys, pathlib, generate; generate.make_sqlite(pathlib.Path(sys.argv[1]), int(sys.argv[2]))"
        subprocess.run([sys.executable, "-c", code, str(store), str(asked.runs)], cwd=Path(__file__).parent, check=True)
    ours, bare = asked.folder / "prune-ours.db", asked.folder / "prune-bare.db"
    hours, cutoff = middle(store)
    ratios, memory = [], 0.0
    for number in range(asked.rounds):
        sides = [("bare", bare), ("ours", ours)]
        took = {}
        for side, path in sides if number % 2 else sides[::-1]:
            fresh(store, path)
            if side == "bare":
                took[side] = by_hand(path, cutoff)
            else:
                took[side], used = by_lens(path, hours)
                memory = max(memory, used)
        ratios.append(took["ours"] / took["bare"])
        print(f"round {number + 1}: lens {took['ours']:.1f} s, by hand {took['bare']:.1f} s, ratio {ratios[-1]:.2f}")
    count, p50, p99, most = waits(fresh(store, ours), hours)
    ratio = statistics.median(ratios)
    print(f"prune of half the runs, to SQL by hand   {ratio:.2f}   (limit {LIMIT})")
    print(f"memory                                   {memory:.0f} MiB   (limit {MEMORY_LIMIT:.0f})")
    limits = f"limit {WAIT_LIMIT:.0f}; p50 {p50:.1f}, longest {most:.0f}"
    print(f"another's {count:,} commits, p99           {p99:.1f} ms   ({limits})")
    for path in (ours, bare):
        fresh(store, path).unlink()
    return int(ratio > LIMIT or memory > MEMORY_LIMIT or p99 > WAIT_LIMIT)


if __name__ == "__main__":
    sys.exit(main())
