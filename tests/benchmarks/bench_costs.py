"""`stats --by`, counts by metadata and text, and `status`, as ratios to the sqlite3 shell or to a small store.

    python tests/benchmarks/bench_costs.py [--folder .bench] [--runs 300000] [--rounds 3] [--before FOLDER]

With `--before`, `status` and `--search --count` are also compared with the source in that folder (a `git worktree`).
Stores are generated once. Ratios are medians over interleaved pairs; the exit code is 1 if one is over its limit.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import run as bench

SMALL = 10_000
BY_DAY = """
SELECT r.pipeline_version, substr(r.created_at, 1, 10), count(*), sum(s.status = 'failed'),
  avg((julianday(r.updated_at) - julianday(r.created_at)) * 86400000),
  sum((SELECT sum(json_extract(h.value, '$.cost_usd')) FROM json_each(s.step_history) h)),
  sum((SELECT sum(json_extract(h.value, '$.token_counts')) FROM json_each(s.step_history) h))
FROM runs r LEFT JOIN workflow_state s ON s.run_id = r.run_id GROUP BY 1, 2
"""
BY_META = "SELECT count(*) FROM workflow_state WHERE json_extract(metadata, '$.step_name') = 'notify'"


def shell(store: Path, sql: str) -> list[str]:
    """A query in the sqlite3 shell."""
    return ["sqlite3", "-readonly", f"file:{store}?immutable=1", sql]


def old(folder: Path, store: Path, *arguments: str) -> list[str]:
    """The same command of an older source."""
    return ["env", f"PYTHONPATH={folder}", *bench.on(store, *arguments)]


def compared(what: str, one: list[str], other: list[str], limit: float, rounds: int) -> bench.Row:
    """The ratio of two commands."""
    took, base = bench.pairs(lambda: bench.seconds(one), lambda: bench.seconds(other), rounds)
    return bench.Row(what, took / base, limit, "x", f"{took:.2f} s, {base:.2f} s")


def rows(folder: Path, runs: int, rounds: int, before: Path | None) -> Iterator[bench.Row]:
    """All ratios."""
    store, small = bench.ensure(folder, runs), bench.ensure(folder, SMALL)
    meta = ("list", "--meta", "step_name=notify", "--count")
    cancelled = ("list", "--status", "cancelled")
    yield compared("list --meta k=v --count: to the shell", bench.on(store, *meta), shell(store, BY_META), 3.0, rounds)
    yield compared(
        f"list --status cancelled: to {SMALL:,} runs",
        bench.on(store, *cancelled),
        bench.on(small, *cancelled),
        1.5,
        rounds,
    )
    if before is not None:
        search = ("list", "--search", "no such text", "--count")
        for command in (("status",), search):
            what = f"{' '.join(command)}: to the source before"
            yield compared(what, bench.on(store, *command), old(before, store, *command), 0.5, rounds)
    stats = bench.on(store, "stats", "--by", "version", "--by", "day", "-o", "tsv")
    yield compared("stats --by version --by day: to the shell", stats, shell(store, BY_DAY), 1.3, max(1, rounds // 3))
    yield bench.Row("stats --by version --by day: memory", bench.peak_mib(stats), 80, "MiB", "")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(".bench"))
    parser.add_argument("--runs", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--before", type=Path)
    asked = parser.parse_args()
    broken = 0
    for row in rows(asked.folder, asked.runs, asked.rounds, asked.before):
        broken += not row.holds
        mark = " " if row.holds else "!"
        print(f"{mark} {row.what:60} {row.value:8.2f} {row.unit:4} {row.limit:6g}  {row.detail}", flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
