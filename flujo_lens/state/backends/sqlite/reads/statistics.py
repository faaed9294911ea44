"""Counts and durations in SQL: one pass over each table, memory bounded by the number of names.

The status is the joined one. States are not read for it where an index tells: the states that do not have
the store's most common status are noted by rowid first, and the join then needs the two primary keys alone.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from flujo_lens.state.aggregate import (
    ENDED,
    Failures,
    Histogram,
    SpanTally,
    pipeline_stats,
    total_by_status,
)
from flujo_lens.state.backends.sqlite.engine.session import Session, as_text
from flujo_lens.state.backends.sqlite.reads import queries
from flujo_lens.state.backends.sqlite.reads.run_selection import select, with_details
from flujo_lens.state.backends.sqlite.schema.shape import KNOWN_VERSION, Shape
from flujo_lens.state.statistics import SpanStats, Stats
from flujo_lens.state.timestamps import parse_instant
from flujo_lens.state.views import RunFilter, RunSummary

__all__ = ["facts", "last_write", "note_wanted", "run_stats", "span_stats"]


def last_write(session: Session) -> datetime | None:
    """The newest time among the rows that were written last (the row that a save makes has the highest rowid)."""
    found: list[datetime | None] = []
    if session.shape.has("workflow_state", "updated_at"):
        text = session.value(queries.newest(session.shape, "workflow_state", "updated_at"))
        found.append(parse_instant(text, session.zone))
    for column in ("updated_at", "created_at", "end_time", "start_time"):
        if session.shape.has("runs", column):
            found.append(parse_instant(session.value(queries.newest(session.shape, "runs", column))))
    return max((when for when in found if when), default=None)


def facts(session: Session, path: Path) -> dict[str, Any]:
    """What `StateBackend.read_facts` returns."""
    version = session.shape.version
    newer = f"the store's schema version {version} is newer than {KNOWN_VERSION}, the newest known one"
    return {
        "size_bytes": sum(_size(f"{path}{end}") for end in ("", "-wal")),
        "last_write_at": last_write(session),
        "notes": (newer,) if version > KNOWN_VERSION else (),
        "library": session.shape.series,
    }


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def run_stats(session: Session, wanted: RunFilter) -> Stats:
    """Statistics over the runs that `wanted` admits."""
    tally = _Tally()
    if wanted == RunFilter() and _is_plain(session.shape):
        _note_odd_states(session)
        for row in session.rows(queries.plain_groups(session.shape)):
            tally.add_group(as_text(row[0]), as_text(row[1]), *row[2:])
        sql = queries.by_ids(session.shape, queries.odd_runs(), details=False)
        for run in session.runs(session.rows(sql)):
            tally.add(run)
        failed: Iterator[RunSummary] = (
            run for run in session.runs(session.rows(queries.failed(session.shape))) if run.status == "failed"
        )
    else:
        ids = []
        for run in select(session, wanted, None, False, ordered=False, details=False):
            tally.add(run)
            if run.status == "failed":
                ids.append(run.run_id)
        failed = with_details(session, ids)
    return tally.stats(failed, wanted)


class _Tally:
    """Counts of runs by pipeline and status, and their durations by pipeline."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.durations: defaultdict[str, Histogram] = defaultdict(Histogram)

    def add(self, run: RunSummary) -> None:
        """Count one run."""
        self.counts[run.pipeline_name, run.status] += 1
        if run.status in ENDED and run.duration_ms is not None:
            self.durations[run.pipeline_name].add(run.duration_ms)

    def add_group(self, name: str, status: str, bucket: int | None, runs: int, measured: int, total_ms: float) -> None:
        """Count runs of one pipeline, status and bucket."""
        self.counts[name, status] += runs
        if measured and status in ENDED:
            self.durations[name].add_bucket(bucket, measured, total_ms)

    def stats(self, failed: Iterable[RunSummary], wanted: RunFilter) -> Stats:
        """The statistics, with the failures among `failed` by error."""
        failures = Failures()
        bad = 0
        for run in failed:
            failures.add_run(run)
            bad += bool(run.problems)
        return Stats(
            total=self.counts.total(),
            by_status=total_by_status(self.counts.items()),
            by_pipeline=pipeline_stats(self.counts, self.durations),
            failures=failures.groups(),
            spans=(),
            since=wanted.since,
            until=wanted.until,
            problems=(f"{bad} failed runs have unreadable parts",) if bad else (),
        )


def _note_odd_states(session: Session) -> None:
    """Fill the temporary table ``odd`` with the states that are not completed, by rowid: the index alone tells."""
    session.rows("CREATE TEMP TABLE IF NOT EXISTS odd (id INTEGER PRIMARY KEY, status TEXT)")
    session.rows("DELETE FROM temp.odd")
    for comparison in ("<", ">"):
        session.rows(
            f"INSERT INTO temp.odd SELECT rowid, status FROM workflow_state WHERE status {comparison} 'completed'"
        )


def _is_plain(shape: Shape) -> bool:
    return not shape.odd and shape.has("runs", "status", "pipeline_name") and shape.has("workflow_state", "status")


def span_stats(session: Session, wanted: RunFilter) -> tuple[SpanStats, ...]:
    """Spans by name, the most frequent first; of all runs, or of those that `wanted` admits."""
    if not session.shape.has("spans", "run_id", "name", "start_time", "end_time", "status"):
        return ()
    tally = SpanTally()
    for name, status, *figures in _span_groups(session, wanted):
        tally.add_group(as_text(name), as_text(status), *figures)
    return tally.stats()


def _span_groups(session: Session, wanted: RunFilter) -> Iterator[tuple[Any, ...]]:
    restricted = wanted != RunFilter()
    if restricted:
        note_wanted(session, wanted)
    source = "spans p JOIN temp.wanted w ON w.run_id = p.run_id" if restricted else "spans p"
    return iter(session.rows(queries.span_groups(source)))


def note_wanted(session: Session, wanted: RunFilter) -> None:
    """Fill the temporary table ``wanted`` with the ids of the runs that are meant."""
    session.rows("CREATE TEMP TABLE IF NOT EXISTS wanted (run_id TEXT PRIMARY KEY) WITHOUT ROWID")
    session.rows("DELETE FROM temp.wanted")
    found = select(session, wanted, None, reverse=False, ordered=False, details=False)
    session.connection.executemany("INSERT OR IGNORE INTO temp.wanted VALUES (?)", ((r.run_id,) for r in found))
