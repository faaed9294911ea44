"""Selecting runs: narrow by an index or walk by time, then dig details out of the blobs of what is left."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from itertools import islice

from flujo_lens.state.backends.base import Position
from flujo_lens.state.backends.sqlite import queries
from flujo_lens.state.backends.sqlite.candidates import Candidates, find_candidates
from flujo_lens.state.backends.sqlite.session import Session, page_ids
from flujo_lens.state.backends.sqlite.walk import BudgetSpentError, Walk, walk
from flujo_lens.state.matching import matches, needs_details, sort_key
from flujo_lens.state.views import RunFilter, RunSummary

__all__ = ["count_all", "find_ids", "select", "select_page", "with_details"]

WALK_BUDGET = 20_000
"""Rows a walk may look at before all candidates are read and sorted instead."""

BATCH = 200


def select_page(
    session: Session, wanted: RunFilter, after: Position | None, limit: int, reverse: bool
) -> list[RunSummary]:
    """The first `limit` runs behind `after`, in order, with details.

    The narrowest index is used if it leaves few runs. Else a walk by time, which stops after a budget if the
    runs wanted are all far away, and all candidates are read and sorted after all.
    """
    narrow = find_candidates(session, wanted)
    if narrow is None or not narrow.few:
        budget = WALK_BUDGET if narrow is not None else None
        way = Walk(wanted, after, reverse, budget)
        try:
            return list(islice(_detailed(session, walk(session, way), wanted), limit))
        except BudgetSpentError:
            assert narrow is not None
    return list(islice(_from_candidates(session, narrow, wanted, after, reverse, limit), limit))


def select(
    session: Session, wanted: RunFilter, after: Position | None, reverse: bool, ordered: bool, details: bool
) -> Iterator[RunSummary]:
    """All runs behind `after`; in order if `ordered`."""
    narrow = find_candidates(session, wanted)
    if narrow is not None and (narrow.few or not ordered):
        found = _light(session, narrow, wanted)
        if ordered:
            found = iter(sorted(_behind(found, after, reverse), key=sort_key, reverse=not reverse))
    else:
        found = walk(session, Walk(wanted, after, reverse))
    if details or needs_details(wanted):
        yield from _detailed(session, found, wanted)
    else:
        yield from (run for run in found if matches(wanted, run))


def _from_candidates(
    session: Session, narrow: Candidates, wanted: RunFilter, after: Position | None, reverse: bool, limit: int
) -> Iterator[RunSummary]:
    found = _behind(_light(session, narrow, wanted), after, reverse)
    if needs_details(wanted):
        ordered = sorted(found, key=sort_key, reverse=not reverse)
    else:
        pick = heapq.nsmallest if reverse else heapq.nlargest
        ordered = pick(limit, found, key=sort_key)
    return _detailed(session, iter(ordered), wanted)


def _light(session: Session, narrow: Candidates, wanted: RunFilter) -> Iterator[RunSummary]:
    """Candidates that pass what can be tested without details."""
    without_texts = wanted._replace(error=None, search=None, meta=())
    sql = queries.by_ids(session.shape, narrow.sql, details=False)
    for run in session.runs(session.rows(sql, narrow.values)):
        if matches(without_texts, run):
            yield run


def _behind(runs: Iterator[RunSummary], after: Position | None, reverse: bool) -> Iterator[RunSummary]:
    if after is None:
        return runs
    border = sort_key(RunSummary(run_id=after[1], created_at=after[0]))
    return (run for run in runs if (sort_key(run) > border if reverse else sort_key(run) < border))


def _detailed(session: Session, runs: Iterator[RunSummary], wanted: RunFilter) -> Iterator[RunSummary]:
    """The runs with their details, a batch at a time, tested once more."""
    without_texts = wanted._replace(error=None, search=None, meta=())
    passing = (run.run_id for run in runs if matches(without_texts, run))
    while ids := list(islice(passing, BATCH)):
        found = page_ids(session, ids, details=True)
        tasks = _tasks_of(session, ids)
        for run in found:
            if matches(wanted, run):
                yield run._replace(tasks=tasks[run.run_id]) if run.run_id in tasks else run


def with_details(session: Session, ids: Iterable[str]) -> Iterator[RunSummary]:
    """The runs with these ids, with details, a batch at a time."""
    waiting = iter(ids)
    while batch := list(islice(waiting, BATCH)):
        yield from page_ids(session, batch, details=True)


def _tasks_of(session: Session, ids: list[str]) -> dict[str, dict[str, int]]:
    """Background tasks by status, by parent."""
    if not session.shape.indexed("workflow_state", "parent_run_id"):
        return {}
    counts: dict[str, dict[str, int]] = {}
    for parent, status, count in session.rows(queries.children_by_status(len(ids)), ids):
        counts.setdefault(parent, {})[status] = count
    return counts


def count_all(session: Session) -> int:
    """How many runs any table knows."""
    shape = session.shape
    if not (shape.has("runs") and shape.has("workflow_state")):
        table = "runs" if shape.has("runs") else "workflow_state"
        return int(session.value(f"SELECT count(*) FROM {table}"))
    return int(
        session.value(
            "SELECT (SELECT count(*) FROM runs) + (SELECT count(*) FROM workflow_state s "
            "WHERE NOT EXISTS (SELECT 1 FROM runs r WHERE r.run_id = s.run_id))"
        )
    )


def find_ids(session: Session, prefix: str, limit: int) -> list[str]:
    """Run ids that begin with `prefix`, by the primary keys, in order."""
    parts = [
        f"SELECT * FROM (SELECT run_id FROM {table} WHERE run_id >= ?1 AND run_id < ?2 ORDER BY run_id LIMIT ?3)"
        for table in ("runs", "workflow_state")
        if session.shape.has(table)
    ]
    sql = f"SELECT run_id FROM ({' UNION '.join(parts)}) ORDER BY run_id LIMIT ?3"
    return [str(row[0]) for row in session.rows(sql, (prefix, prefix + "\U0010ffff", limit))]
