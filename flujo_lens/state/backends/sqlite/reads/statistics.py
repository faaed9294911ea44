"""Counts and durations: one pass over each table, memory bounded by the number of names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from flujo_lens.state.aggregate import SpanTally
from flujo_lens.state.backends.sqlite.engine.session import Session, as_text
from flujo_lens.state.backends.sqlite.reads import queries, statistics_queries
from flujo_lens.state.backends.sqlite.reads.plain_runs import odd_runs, plain_runs
from flujo_lens.state.backends.sqlite.reads.run_selection import select, with_details
from flujo_lens.state.backends.sqlite.schema.shape import Shape
from flujo_lens.state.groups import GroupedTally, Grouping
from flujo_lens.state.known_costs import KnownCosts
from flujo_lens.state.statistics import SpanStats, Stats
from flujo_lens.state.views import RunFilter, RunSummary

_SCAN_CACHE_KIB = 2 * 1024
"""For a table that is read once in its order. What SQLite sorts in memory is limited by it, too."""

_SPANS_AT_ONCE = 20_000
"""Spans of which the lengths are in memory at the same time."""


def run_stats(
    session: Session,
    wanted: RunFilter,
    grouping: Grouping | None = None,
    *,
    failures: bool = True,
    known: KnownCosts | None = None,
) -> Stats:
    """Statistics over the runs that `wanted` admits, also by groups of runs.

    Without `failures`, these are not looked at; `known` as of `StateBackend.read_pipelines`.
    """
    tally = GroupedTally(grouping or Grouping(()), whole=failures or grouping is None)
    details = grouping is not None and grouping.needs_details
    if wanted == RunFilter() and is_plain(session.shape) and not details:
        tally.add_plain(plain_runs(session, known=known))
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


def is_plain(shape: Shape) -> bool:
    """Whether SQL tells names and statuses of most runs."""
    return not shape.odd and shape.has("runs", "status", "pipeline_name") and shape.has("workflow_state", "status")


def span_stats(session: Session, wanted: RunFilter) -> tuple[SpanStats, ...]:
    """Spans by name, the most frequent first; of all runs, or of those that `wanted` admits.

    Every span is read in the order of its table: to have SQLite group them takes twice as long, as it sorts them first.
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
    spans = session.rows(statistics_queries.span_lengths(source))
    while some := spans.fetchmany(_SPANS_AT_ONCE):
        found: defaultdict[tuple[Any, Any], list[float | None]] = defaultdict(list)
        for name, status, ms in some:
            found[name, status].append(ms)
        for (name, status), lengths in found.items():
            tally.add_all(as_text(name), as_text(status), lengths)
    return tally.stats()


def note_wanted(session: Session, wanted: RunFilter) -> None:
    """Fill the temporary table ``wanted`` with the ids of the runs that are meant."""
    session.rows("CREATE TEMP TABLE IF NOT EXISTS wanted (run_id TEXT PRIMARY KEY) WITHOUT ROWID")
    session.rows("DELETE FROM temp.wanted")
    found = select(session, wanted, None, reverse=False, ordered=False, details=False)
    session.connection.executemany("INSERT OR IGNORE INTO temp.wanted VALUES (?)", ((r.run_id,) for r in found))
