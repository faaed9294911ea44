"""Selecting runs: narrow by an index or walk by time, then dig details out of the blobs of what is left."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator
from datetime import UTC, datetime, tzinfo
from itertools import islice
from typing import TYPE_CHECKING, Any

from flujo_lens.errors import BusyError
from flujo_lens.state.backends.base import Position
from flujo_lens.state.backends.sqlite.engine.engine_errors import ENGINE_ERRORS
from flujo_lens.state.backends.sqlite.engine.read_connection import translate
from flujo_lens.state.backends.sqlite.engine.session import Session, as_text, page_ids
from flujo_lens.state.backends.sqlite.reads import queries
from flujo_lens.state.backends.sqlite.reads.index_choice import Candidates, find_candidates
from flujo_lens.state.backends.sqlite.reads.keyset_scan import BudgetSpentError, Walk, order_of, walk
from flujo_lens.state.filtering import matches, needs_details, sort_key
from flujo_lens.state.timestamps import parse_instant
from flujo_lens.state.views import UNREADABLE, RunFilter, RunSummary

if TYPE_CHECKING:
    from flujo_lens.state.backends.sqlite.engine.store import SqliteStore


WALK_BUDGET = 30_000
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
        try:
            found = _walked(session, Walk(wanted, after, reverse, budget, details=_selects_most(wanted)), limit)
            return list(islice(found, limit))
        except BudgetSpentError:
            assert narrow is not None
    ids = _ordered_ids(session, narrow, after, reverse)
    return list(islice(_checked(session, ids, wanted, min(limit, BATCH)), limit))


def select_resuming(
    store: SqliteStore, wanted: RunFilter, after: Position | None, reverse: bool, ordered: bool, details: bool
) -> Generator[RunSummary, None, None]:
    """`select` in one read transaction of a store that is used for this alone.

    Where no lock guards the file and it changes on the way, the reading goes on after the last run.

    Raises:
        BusyError: the file changes for longer than the timeout, or once where there is no order.
    """
    began, last, reader = time.monotonic(), None, store.reader
    while True:
        try:
            reader.begin()
            for run in select(store.session(), wanted, last or after, reverse, ordered, details):
                if not reader.unchanged():
                    break
                yield run
                began, last = time.monotonic(), (run.created_at, run.run_id)
            else:
                return
        except ENGINE_ERRORS as error:
            if reader.is_final(error):
                raise translate(error, store.path) from error
        finally:
            reader.close()
        if (last and not ordered) or time.monotonic() - began > store.timeout:
            raise BusyError(f"{store.path} changed while being read", hint="try again")


def select(
    session: Session,
    wanted: RunFilter,
    after: Position | None,
    reverse: bool,
    ordered: bool,
    details: bool,
    costs: bool = False,
) -> Iterator[RunSummary]:
    """All runs behind `after`; in order if `ordered`. Without `details`, `costs` asks for cost and tokens alone."""
    narrow = find_candidates(session, wanted)
    details = details or needs_details(wanted)
    if narrow is None or not (narrow.few or not ordered):
        way = Walk(wanted, after, reverse, details=details and _selects_most(wanted), costs=costs)
        found = _walked(session, way, BATCH) if details else walk(session, way)
        yield from (run for run in found if matches(wanted, run))
    elif ordered:
        yield from _checked(session, _ordered_ids(session, narrow, after, reverse), wanted, BATCH, details=details)
    else:
        sql = queries.by_ids(session.shape, narrow.sql, details=details, costs=costs)
        every = _behind(session.runs(session.rows(sql, narrow.values)), after, reverse)
        yield from (run for run in every if matches(wanted, run))


def _selects_most(wanted: RunFilter) -> bool:
    """Whether a walk lets nearly all runs pass, so that they may as well be read with details at once."""
    return wanted._replace(since=None, until=None, top_level=False) == RunFilter()


def _walked(session: Session, way: Walk, batch: int) -> Iterator[RunSummary]:
    """The runs of a walk that are wanted, with details."""
    found = walk(session, way)
    if not way.details:
        without_texts = way.wanted._replace(error=None, search=None, meta=())
        passing = (run.run_id for run in found if matches(without_texts, run))
        return _checked(session, passing, way.wanted, batch)
    return _with_tasks(session, (run for run in found if matches(way.wanted, run)), batch)


def _ordered_ids(session: Session, narrow: Candidates, after: Position | None, reverse: bool) -> Iterator[str]:
    """Ids of candidates in order of their start, which is all that is read of them."""
    sql = queries.starts_by_ids(session.shape, narrow.sql)
    rows = session.rows(sql, narrow.values)
    found = (RunSummary(as_text(run_id), created_at=_start(session, start, naive)) for run_id, start, naive in rows)
    ordered = sorted(_behind(found, after, reverse), key=sort_key, reverse=not reverse)
    return (run.run_id for run in ordered)


def _start(session: Session, run_start: Any, first_save: Any) -> datetime | None:
    return parse_instant(run_start) if run_start else parse_instant(first_save, session.zone)


def _behind(runs: Iterator[RunSummary], after: Position | None, reverse: bool) -> Iterator[RunSummary]:
    if after is None:
        return runs
    border = sort_key(RunSummary(run_id=after[1], created_at=after[0]))
    return (run for run in runs if (sort_key(run) > border if reverse else sort_key(run) < border))


def _checked(
    session: Session, ids: Iterator[str], wanted: RunFilter, batch: int, *, details: bool = True
) -> Iterator[RunSummary]:
    """Those of the runs with these ids that are wanted, in their order, a batch at a time."""
    while some := list(islice(ids, batch)):
        found = (run for run in page_ids(session, some, details=details) if matches(wanted, run))
        yield from _with_tasks(session, found, batch) if details else found


def _with_tasks(session: Session, runs: Iterator[RunSummary], batch: int) -> Iterator[RunSummary]:
    """The runs with their background tasks counted."""
    while some := list(islice(runs, batch)):
        tasks = _tasks_of(session, [run.run_id for run in some])
        yield from (run._replace(tasks=tasks[run.run_id]) if run.run_id in tasks else run for run in some)


def with_details(session: Session, ids: Iterable[str]) -> Iterator[RunSummary]:
    """The runs with these ids, with details, a batch at a time."""
    waiting = iter(ids)
    while batch := list(islice(waiting, BATCH)):
        yield from page_ids(session, batch, details=True)


def _tasks_of(session: Session, ids: list[str]) -> dict[str, dict[str, int]]:
    """Background tasks by status, by parent."""
    if not (session.shape.indexed("workflow_state", "parent_run_id") and session.shape.has("workflow_state", "status")):
        return {}
    counts: dict[str, dict[str, int]] = {}
    for parent, status, count in session.rows(queries.children_by_status(len(ids)), ids):
        counts.setdefault(parent, {})[status] = count
    return counts


def count(session: Session, wanted: RunFilter) -> int | None:
    """How many runs any table knows, or have some metadata; None for what has to be selected."""
    if wanted == RunFilter():
        return int(session.value(queries.count_all(session.shape)))
    if wanted.meta:
        from flujo_lens.state.backends.sqlite.reads.text_filters import count_by_meta

        found = count_by_meta(session, wanted)
        return found and found[0] + sum(matches(wanted, run) for run in with_details(session, found[1]))
    counted = count_started(session, wanted, wanted.since)
    return counted and counted[1]


def count_started(session: Session, wanted: RunFilter, since: datetime | None) -> tuple[int, int] | None:
    """How many runs there are, and how many of them started since a time, off the indexes of ids and starts.

    None if anything else is wanted, or the indexes do not tell.
    """
    shape = session.shape
    columns = queries.start_columns(shape)
    if since is None or wanted._replace(since=None) != RunFilter() or len(columns) != 1:
        return None
    if shape.odd or not shape.has("workflow_state") or session.value(queries.run_without_start(shape)) is not None:
        return None
    for sql in queries.note_lone_states(shape):
        session.rows(sql)
    alone = session.value("SELECT count(*) FROM temp.alone")
    every = session.value("SELECT count(*) FROM runs WHERE run_id IS NOT NULL") + alone
    started = _starts(session, queries.starts_of_runs(shape), "runs", columns[0], since, UTC)
    lone_starts = queries.starts_of_lone_states(shape)
    return every, started + _starts(session, lone_starts, "workflow_state", "created_at", since, session.zone)


def _starts(session: Session, sql: str, table: str, column: str, since: datetime, naive: tzinfo) -> int:
    """How many of the texts that `sql` yields from a bound on are times since `since`."""
    border = order_of(session, table, column, naive).at_least(since)
    times = (parse_instant(text, naive) for (text,) in session.rows(sql, (border,)))
    return sum(when is not None and when >= since for when in times)


_DISGUISED = {"failed": "cancelled", "paused": "failed"}


def statuses(session: Session) -> frozenset[str]:
    """The statuses of either table, as `interpret` reads them; off an index where there is one."""
    sql = queries.statuses(session.shape)
    found = {as_text(status) if status is not None else "" for (status,) in session.rows(sql)} if sql else {""}
    # What is stored as failed may be cancelled, and as paused, failed: see `interpret.status_of`.
    meant = {_DISGUISED[status] for status in found if status in _DISGUISED}
    return frozenset(status or UNREADABLE for status in found) | meant


def find_ids(session: Session, prefix: str, limit: int) -> list[str]:
    """Run ids that begin with `prefix`, by the primary keys, in order."""
    values = {"from": prefix, "to": prefix + "\U0010ffff", "limit": limit}
    return [str(row[0]) for row in session.rows(queries.ids_between(session.shape), values)]
