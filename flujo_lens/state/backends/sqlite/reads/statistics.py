"""Counts and durations in SQL: one pass over each table, memory bounded by the number of names.

The status is the joined one. States are not read for it where an index tells: the states that do not have
the store's most common status are noted by rowid first, and the join then needs the two primary keys alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from orjson import loads

from flujo_lens.state.aggregate import SpanTally
from flujo_lens.state.backends.sqlite.engine.session import Session, as_text
from flujo_lens.state.backends.sqlite.reads import queries
from flujo_lens.state.backends.sqlite.reads.run_selection import select, with_details
from flujo_lens.state.backends.sqlite.schema.shape import KNOWN_VERSION, Shape
from flujo_lens.state.costs import DIGITS
from flujo_lens.state.groups import GroupedTally, Grouping, PlainRun
from flujo_lens.state.interpret import RawRun, cost_of
from flujo_lens.state.statistics import SpanStats, Stats
from flujo_lens.state.timestamps import parse_instant
from flujo_lens.state.views import UNREADABLE, RunFilter, RunSummary

_SCAN_CACHE_KIB = 2 * 1024
"""For a table that is read once in its order. What SQLite sorts in memory is limited by it, too."""

_MILLISECOND = timedelta(milliseconds=1)

FEW_SPANS = 50_000
"""Of up to this many spans every duration is looked at, so that percentiles are exact; of more, counts by bucket."""


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


def run_stats(session: Session, wanted: RunFilter, grouping: Grouping | None = None, *, failures: bool = True) -> Stats:
    """Statistics over the runs that `wanted` admits, also by groups of runs.

    Without `failures`, these are not looked at.
    """
    tally = GroupedTally(grouping or Grouping(()), whole=failures or grouping is None)
    details = grouping is not None and grouping.needs_details
    if wanted == RunFilter() and is_plain(session.shape) and not details:
        tally.add_plain(plain_runs(session))
        for odd in odd_runs(session):
            tally.add(odd, failures=False)
        failed: Iterator[RunSummary] = (
            run for run in session.runs(session.rows(queries.failed(session.shape))) if run.status == "failed"
        )
    else:
        ids = []
        for run in select(session, wanted, None, False, ordered=False, details=details, costs=True):
            tally.add(run, failures=False)
            if run.status == "failed" and failures:
                ids.append(run.run_id)
        failed = with_details(session, ids)
    for run in failed if failures else ():
        tally.runs.add_failure(run)
    return tally.stats(wanted, "failed runs")


def plain_runs(session: Session, *, costs: bool = True) -> Iterator[PlainRun]:
    """The runs of a plain store (see `is_plain`) without the `odd_runs`, in no order; notes the odd states."""
    _note_odd_states(session)
    rows = session.rows(queries.plain_runs(session.shape, costs=costs))
    for run_id, name, version, status, start, end, spent, *stored in rows:
        ms = _elapsed_ms(start, end) if spent is None else spent
        if status in ("running", UNREADABLE) or (ms is not None and ms < 0):
            ms = None  # as `interpret` has it
        waits = spent is None and ms is not None
        usd, tokens = _costs(run_id, *stored) if costs else (None, None)
        yield PlainRun(run_id, name, version or "latest", status, start, ms, waits, usd, tokens)


def _elapsed_ms(start: Any, end: Any) -> float | None:
    """The time from a stored start to a stored end; None if one of them is none."""
    first, last = parse_instant(start), parse_instant(end)
    return (last - first) / _MILLISECOND if first and last else None


def _costs(run_id: Any, history: bytes | None, cost: Any, tokens: Any) -> tuple[float | None, int | None]:
    """Cost and tokens of a run out of the columns of `queries.plain_runs`.

    What most histories have, numbers in every entry, is summed here: `cost_of` takes five times as long.
    """
    try:
        steps = loads(history or b"")
        usd, counts = [step["cost_usd"] for step in steps], [step["token_counts"] for step in steps]
        if steps and type(steps) is list:
            return round(float(sum(usd)), DIGITS), sum(counts)
    except (KeyError, TypeError, ValueError):  # sealed, an entry without both, a text, or counts by kind
        pass
    text = None if history is None else as_text(history)
    return cost_of(RawRun(as_text(run_id), history=text, stored_cost=cost, stored_tokens=tokens))


def odd_runs(session: Session, *, details: bool = False) -> Iterator[RunSummary]:
    """The runs of a plain store that `plain_runs` leaves out, once it has begun."""
    sql = queries.by_ids(session.shape, queries.odd_runs(), details=details, costs=True)
    return session.runs(session.rows(sql))


def _note_odd_states(session: Session) -> None:
    """Fill the temporary table ``odd`` with the states that are not completed, by rowid: the index alone tells."""
    session.rows("CREATE TEMP TABLE IF NOT EXISTS odd (id INTEGER PRIMARY KEY, status TEXT)")
    session.rows("DELETE FROM temp.odd")
    for comparison in ("<", ">"):
        session.rows(
            f"INSERT INTO temp.odd SELECT rowid, status FROM workflow_state WHERE status {comparison} 'completed'"
        )


def is_plain(shape: Shape) -> bool:
    """Whether SQL tells names and statuses of most runs."""
    return not shape.odd and shape.has("runs", "status", "pipeline_name") and shape.has("workflow_state", "status")


def span_stats(session: Session, wanted: RunFilter) -> tuple[SpanStats, ...]:
    """Spans by name, the most frequent first; of all runs, or of those that `wanted` admits.

    The session must be for this alone.
    """
    if not session.shape.has("spans", "run_id", "name", "start_time", "end_time", "status"):
        return ()
    restricted = wanted != RunFilter()
    if restricted:
        note_wanted(session, wanted)
    else:
        session.rows(f"PRAGMA cache_size = -{_SCAN_CACHE_KIB}")
    source = "spans p JOIN temp.wanted w ON w.run_id = p.run_id" if restricted else "spans p"
    tally = SpanTally()
    if session.value(f"SELECT count(*) FROM (SELECT 1 FROM {source} LIMIT {FEW_SPANS + 1})") <= FEW_SPANS:
        for name, status, ms in session.rows(queries.span_lengths(source)):
            tally.add(as_text(name), as_text(status), None if ms is None else float(ms))
        return tally.stats()
    for name, status, spans, bucket, measured, total, low, high in session.rows(queries.span_groups(source)):
        ends = None if low is None else (low, high)
        tally.add_group(as_text(name), as_text(status), spans, bucket, measured, total, ends)
    return tally.stats()


def note_wanted(session: Session, wanted: RunFilter) -> None:
    """Fill the temporary table ``wanted`` with the ids of the runs that are meant."""
    session.rows("CREATE TEMP TABLE IF NOT EXISTS wanted (run_id TEXT PRIMARY KEY) WITHOUT ROWID")
    session.rows("DELETE FROM temp.wanted")
    found = select(session, wanted, None, reverse=False, ordered=False, details=False)
    session.connection.executemany("INSERT OR IGNORE INTO temp.wanted VALUES (?)", ((r.run_id,) for r in found))
