"""What a scrape of `lens metrics serve` costs once the costs of ended runs are known, as a ratio to the first.

    python tests/benchmarks/bench_scrape.py [--folder .bench] [--runs 100000] [--rounds 3]

CPU time of this process. The figures of all scrapes must agree; the exit code is 1 if the ratio is over its limit.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import run as bench

from flujo_lens.operations.metrics import store_metrics
from flujo_lens.state.backends.sqlite import SQLiteBackend
from flujo_lens.state.known_costs import KnownCosts
from flujo_lens.state.views import RunFilter

LIMIT = 0.6


async def scrapes(store: Path, rounds: int) -> list[float]:
    """CPU seconds of the first scrape and of the following ones."""
    known, now, took, seen = KnownCosts(), datetime.now(UTC), [], set()
    for _ in range(rounds + 1):
        began = time.process_time()
        async with SQLiteBackend(store) as backend:
            figures = await store_metrics(backend, now, timedelta(hours=1), RunFilter(), known)
        took.append(time.process_time() - began)
        seen.add(
            tuple(sorted((each.pipeline_name, each.total, each.cost_usd, each.tokens) for each in figures.pipelines))
        )
    assert len(seen) == 1
    return took


def main() -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(".bench"))
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    first, *later = asyncio.run(scrapes(bench.ensure(asked.folder, asked.runs), asked.rounds))
    ratio = min(later) / first
    times = f"{first:.2f} s, {min(later):.2f} s"
    print(f"{'!' if ratio > LIMIT else ' '} a scrape, to the first: {ratio:.2f} (at most {LIMIT}); {times}")
    return int(ratio > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
