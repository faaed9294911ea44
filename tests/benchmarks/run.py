"""The performance figures, each as a ratio to the bare engine or to the same command on a small store.

    python tests/benchmarks/run.py [--folder .bench] [--runs 1000000] [--files 100000] [--rounds 7] [--only TEXT]

Stores are generated once and kept in the folder. Every ratio is the median over interleaved pairs, for the clock of
a shared machine drifts. A row whose ratio is over its limit is marked, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import os
import pty
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bench_files
import generate

SMALL = 10_000
NOW = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
BASE = [sys.executable, "-c", "import typer, asyncio, aiosqlite, orjson, tomllib, platformdirs"]
LENS = [sys.executable, "-c", "from flujo_lens.__main__ import main; main()"]
TYPER = [sys.executable, "-c", "import typer; a = typer.Typer(); a.command()(lambda: None); a()"]
STATS_SQL = Path(__file__).with_name("stats.sql")


@dataclass(frozen=True)
class Row:
    """One figure: what was measured, its value, its limit, and the times behind it."""

    what: str
    value: float
    limit: float
    unit: str
    detail: str

    @property
    def holds(self) -> bool:
        """Whether the value is within its limit."""
        return self.value <= self.limit


def seconds(command: list[str], *, terminal: bool = False) -> float:
    """Wall time of a command, its output thrown away (read from a terminal, if `terminal`)."""
    began = time.perf_counter()
    if not terminal:
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        return time.perf_counter() - began
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdout=theirs, stderr=subprocess.DEVNULL) as process:
        os.close(theirs)
        while _read(ours):
            pass
        process.wait()
    os.close(ours)
    return time.perf_counter() - began


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""


def pairs(one: Callable[[], float], other: Callable[[], float], rounds: int) -> tuple[float, float]:
    """Median times of two things measured in turn, after one unmeasured round."""
    one(), other()
    times = [(one(), other()) for _ in range(rounds)]
    return statistics.median(t[0] for t in times), statistics.median(t[1] for t in times)


def on(store: Path, *arguments: str) -> list[str]:
    """A command line of lens on a store."""
    return [*LENS, *arguments, "--quiet", "--store", str(store)]


def start(folder: Path, rounds: int) -> Iterator[Row]:
    """How long `lens list` takes beyond its imports."""
    store = ensure(folder, 200_000)
    lens, base = pairs(lambda: seconds(on(store, "list")), lambda: seconds(BASE), rounds * 2)
    detail = f"{lens * 1000:.0f} ms, imports {base * 1000:.0f} ms"
    yield Row("list in a pipe, 200,000 runs: (time - 25 ms) / imports", (lens - 0.025) / base, 1.2, "x", detail)
    seen, piped = pairs(
        lambda: seconds(on(store, "list"), terminal=True), lambda: seconds(on(store, "list")), rounds * 2
    )
    more = (seen - piped) * 1000
    yield Row("list on a terminal: more than in a pipe", more, 80, "ms", f"{seen * 1000:.0f} ms")
    typed = [*LENS, "__complete", "bash", "show", "--store", str(store), "run_"]
    for what, ours, bare in (("--help", [*LENS, "--help"], [*TYPER, "--help"]), ("completing a run id", typed, TYPER)):
        took, least = pairs(lambda c=ours: seconds(c), lambda c=bare: seconds(c), rounds)
        yield Row(
            f"{what}: more than a Typer app of one command", (took - least) * 1000, 60, "ms", f"{took * 1000:.0f} ms"
        )


def scale(folder: Path, runs: int, rounds: int) -> Iterator[Row]:
    """The same command on the large and on the small store."""
    large, small = ensure(folder, runs), ensure(folder, SMALL)
    commands: dict[str, Callable[[Path], list[str]]] = {
        "list": lambda s: on(s, "list"),
        "list, a page in the middle": lambda s: on(s, "list", "--cursor", middle(s)),
        "show": lambda s: on(s, "show", example(s)),
        "trace": lambda s: on(s, "trace", example(s)),
    }
    for status in ("paused", "running", "failed", "completed", "cancelled"):
        commands[f"list --status {status}"] = lambda s, v=status: on(s, "list", "--status", v)
    for name in ("tax-close", "audit-export", "report-nightly", "orders"):
        commands[f"list --pipeline {name}"] = lambda s, v=name: on(s, "list", "--pipeline", v)
    for what, made in commands.items():
        big, little = made(large), made(small)
        times = pairs(lambda c=big: seconds(c), lambda c=little: seconds(c), rounds)
        yield Row(
            f"{what}: {runs:,} to {SMALL:,} runs", times[0] / times[1], 1.5, "x",
            f"{times[0] * 1000:.0f} ms, {times[1] * 1000:.0f} ms",
        )  # fmt: skip
    for what, limit in (("status", 1.5), ("failed", 1.0)):
        took = statistics.median(seconds(on(large, what)) for _ in range(rounds))
        yield Row(f"{what}: {runs:,} runs", took, limit, "s", "")


def counting(folder: Path, runs: int, rounds: int) -> Iterator[Row]:
    """`lens stats` against SQL for the same figures in the sqlite3 shell."""
    store = ensure(folder, runs)
    ours = on(store, "stats", "-o", "json")
    shell = ["sqlite3", "-readonly", f"file:{store}?immutable=1", f".read {STATS_SQL}"]
    times = pairs(lambda: seconds(ours), lambda: seconds(shell), max(1, rounds // 4))
    yield Row(
        "stats: to SQL in the sqlite3 shell", times[0] / times[1], 1.4, "x", f"{times[0]:.1f} s, {times[1]:.1f} s"
    )
    yield Row("stats: memory", peak_mib(ours), 80, "MiB", "")


def peak_mib(command: list[str]) -> float:
    """The most memory that a command held."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    return os.wait4(process.pid, 0)[2].ru_maxrss / 1024


def files(folder: Path, count: int, rounds: int) -> Iterator[Row]:
    """A folder of JSON files."""
    store = folder / f"files-{count}"
    if not store.exists():
        generate.make_files(store, count, now=NOW)
    for what, ratio, limit, took in bench_files.measure(store, max(3, rounds // 2)):
        yield Row(f"{what}, {count:,} files", ratio, limit, "x", f"{took:.2f} s")


# --- stores


def ensure(folder: Path, runs: int) -> Path:
    """The generated store with so many runs."""
    store = folder / f"runs-{runs}.db"
    if not store.exists():
        print(f"generating {store} ...", file=sys.stderr, flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        generate.make_sqlite(store, runs, now=NOW)
    return store


def query(store: Path, sql: str) -> list[str]:
    """The first row of a query."""
    import sqlite3

    connection = sqlite3.connect(f"file:{store}?mode=ro&immutable=1", uri=True)
    try:
        return list(connection.execute(sql).fetchone())
    finally:
        connection.close()


def example(store: Path) -> str:
    """A completed run in the middle of the store."""
    sql = "SELECT run_id FROM runs WHERE status = 'completed' AND rowid >= (SELECT max(rowid) / 2 FROM runs) LIMIT 1"
    return query(store, sql)[0]


def middle(store: Path) -> str:
    """A cursor in the middle of the list."""
    from flujo_lens.operations.cursor import encode_cursor

    run_id, start = query(store, "SELECT run_id, created_at FROM runs WHERE rowid = (SELECT max(rowid) / 2 FROM runs)")
    return encode_cursor((datetime.fromisoformat(start), run_id))


# --- the table


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(".bench"))
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="only the parts whose name has this: start scale counting files")
    asked = parser.parse_args()
    parts: dict[str, Callable[[], Iterator[Row]]] = {
        "start": lambda: start(asked.folder, asked.rounds),
        "scale": lambda: scale(asked.folder, asked.runs, asked.rounds),
        "counting": lambda: counting(asked.folder, asked.runs, asked.rounds),
        "files": lambda: files(asked.folder, asked.files, asked.rounds),
    }
    print(f"{'':2}{'WHAT':66} {'RATIO':>9} {'LIMIT':>9}  TIMES")
    rows = []
    for row in (row for name, part in parts.items() if asked.only in name for row in part()):
        rows.append(row)
        mark = " " if row.holds else "!"
        value, limit = f"{row.value:.2f} {row.unit}", f"{row.limit:g} {row.unit}"
        print(f"{mark:2}{row.what:66} {value:>9} {limit:>9}  {row.detail}", flush=True)
    broken = sum(not row.holds for row in rows)
    print(f"{len(rows) - broken} of {len(rows)} within their limits")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
