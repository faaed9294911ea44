"""Counts and durations in SQL: one pass over each table, memory bounded by the number of names.

The status is the joined one. States are not read for it where an index tells: the states that do not have
the store's most common status are noted by rowid first, and the join then needs the two primary keys alone.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from flujo_lens.state.aggregate import (
    BUCKET_RATIO,
    ENDED,
    Failures,
    Histogram,
    pipeline_stats,
    total_by_status,
)
from flujo_lens.state.backends.sqlite.runs import select
from flujo_lens.state.backends.sqlite.session import Session
from flujo_lens.state.timestamps import parse_instant
from flujo_lens.state.views import RunFilter, SpanStats, Stats

__all__ = ["last_write", "run_stats", "span_stats"]

LOG_RATIO = math.log(BUCKET_RATIO)


def last_write(session: Session) -> datetime | None:
    """The newest time among the rows that were written last (the row that a save makes has the highest rowid)."""
    found: list[datetime | None] = []
    if session.shape.has("workflow_state", "updated_at"):
        text = session.value("SELECT updated_at FROM workflow_state ORDER BY rowid DESC LIMIT 1")
        found.append(parse_instant(text, session.zone))
    for column in ("updated_at", "created_at", "end_time", "start_time"):
        if session.shape.has("runs", column):
            found.append(
                parse_instant(session.value(f"SELECT {column} FROM runs ORDER BY rowid DESC LIMIT 1"))
            )
    return max((when for when in found if when), default=None)


def run_stats(session: Session, wanted: RunFilter) -> Stats:
    """Statistics over the runs that `wanted` admits."""
    counts: Counter[tuple[str, str]] = Counter()
    durations: defaultdict[str, Histogram] = defaultdict(Histogram)
    failures = Failures()
    bad = 0
    for run in select(session, wanted, None, reverse=False, ordered=False, details=True):
        counts[run.pipeline_name, run.status] += 1
        if run.status in ENDED and run.duration_ms is not None:
            durations[run.pipeline_name].add(run.duration_ms)
        if run.status == "failed":
            failures.add_run(run)
        bad += bool(run.problems)
    return Stats(
        total=counts.total(),
        by_status=total_by_status(counts.items()),
        by_pipeline=pipeline_stats(counts, durations),
        failures=failures.groups(),
        spans=(),
        since=wanted.since,
        until=wanted.until,
        problems=(f"{bad} runs have unreadable parts",) if bad else (),
    )


def span_stats(session: Session, wanted: RunFilter) -> tuple[SpanStats, ...]:
    """Spans by name, the most frequent first; of all runs, or of those that `wanted` admits."""
    if not session.shape.has("spans", "name", "start_time", "end_time", "status"):
        return ()
    groups: defaultdict[str, Histogram] = defaultdict(Histogram)
    counts: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for name, bucket, count, measured, total, failures in _span_groups(session, wanted):
        counts[name] += count
        failed[name] += failures
        if measured:
            groups[name].add_bucket(bucket, measured, total)
    made = [SpanStats(name, n, failed[name], groups[name].durations()) for name, n in counts.items()]
    return tuple(sorted(made, key=lambda span: (-span.count, span.name)))


def _span_groups(session: Session, wanted: RunFilter) -> Iterator[tuple[Any, ...]]:
    restricted = wanted != RunFilter()
    if restricted:
        _note_wanted(session, wanted)
    source = "spans p JOIN temp.wanted w ON w.run_id = p.run_id" if restricted else "spans p"
    ms = "(p.end_time - p.start_time) * 1000.0"
    sql = (
        f"SELECT p.name, CASE WHEN {ms} > 0 THEN CAST(floor(ln({ms}) / {LOG_RATIO!r}) AS INTEGER) END, count(*), "
        f"count({ms}), total(max({ms}, 0.0)), sum(p.status = 'failed') FROM {source} GROUP BY 1, 2"
    )
    return iter(session.rows(sql))


def _note_wanted(session: Session, wanted: RunFilter) -> None:
    """Fill the temporary table ``wanted`` with the ids of the runs that are meant."""
    session.rows("CREATE TEMP TABLE IF NOT EXISTS wanted (run_id TEXT PRIMARY KEY) WITHOUT ROWID")
    session.rows("DELETE FROM temp.wanted")
    found = select(session, wanted, None, reverse=False, ordered=False, details=False)
    session.connection.executemany("INSERT OR IGNORE INTO temp.wanted VALUES (?)", ((r.run_id,) for r in found))
