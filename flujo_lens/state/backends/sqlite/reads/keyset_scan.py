"""Runs in the order of their start, read off the indexes that the library makes: no sorting, no OFFSET.

Ordered streams are merged: ``runs`` by start lead, states without a run (by their save) are read up to where
those are. Where an index's order is not quite that of the instants, `TextOrder.slack` says by how much a row may be
late, and a row waits until no earlier one can come.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, NamedTuple

from flujo_lens.state.backends.base import Position
from flujo_lens.state.backends.sqlite.engine.session import Session
from flujo_lens.state.backends.sqlite.reads import queries
from flujo_lens.state.backends.sqlite.reads.scan_conditions import condition
from flujo_lens.state.backends.sqlite.schema.text_order import TextOrder, text_order
from flujo_lens.state.filtering import sort_key
from flujo_lens.state.views import RunFilter, RunSummary

LOOK_AHEAD = 64
"""Rows of the leading streams for which the states that go between them are read at once."""

_RUNS, _WS = "runs", "workflow_state"
Key = tuple[Any, ...]


class BudgetSpentError(Exception):
    """The walk looked at as many rows as it was allowed without coming to the end."""


class Walk(NamedTuple):
    """What is walked: where from, which way, and how far at most.

    `budget` is how many rows of each stream are looked at; None for all. `details` says whether blobs are read, `costs`
    whether the step history is, for cost and tokens.
    """

    wanted: RunFilter
    after: Position | None = None
    reverse: bool = False
    budget: int | None = None
    details: bool = False
    costs: bool = False

    @property
    def direction(self) -> str:
        return "ASC" if self.reverse else "DESC"


def walk(session: Session, way: Walk) -> Iterator[RunSummary]:
    """Yield runs in order, a superset of those wanted.

    Raises:
        BudgetSpentError: the next run would lie beyond the budget.
    """
    undated_first = way.reverse
    past_dated = way.after is not None and way.after[0] is None
    if undated_first:
        yield from _undated(session, way)
    if undated_first or not past_dated:
        after = None if past_dated else way.after
        yield from _merged(_streams(session, way, after), way, after)
    if not undated_first:
        yield from _undated(session, way)


def _undated(session: Session, way: Walk) -> Iterator[RunSummary]:
    """Runs without a readable start, by id."""
    if way.wanted.since is not None or way.wanted.until is not None:
        return
    if way.after is not None and way.after[0] is not None and way.reverse:
        return
    sql = queries.by_ids(session.shape, queries.unreadable_starts(session.shape), details=way.details, costs=way.costs)
    found = sorted(session.runs(session.rows(sql)), key=sort_key, reverse=not way.reverse)
    after = way.after[1] if way.after is not None and way.after[0] is None else None
    for run in found:
        if run.created_at is None and (after is None or ((run.run_id > after) == way.reverse and run.run_id != after)):
            yield run


class _Stream:
    """One ordered source, with the rows that are next."""

    def __init__(self, rows: Iterator[RunSummary], slack: timedelta, sign: int, at_end: Callable[[], None]) -> None:
        self._rows, self._slack, self._sign, self._at_end = rows, slack, sign, at_end
        self._ahead: deque[RunSummary] = deque()
        self.done = False
        self.frontier: datetime | None = None

    def pull(self) -> list[RunSummary]:
        """The next row; none at the end.

        Raises:
            BudgetSpentError: there are more rows, and they may not be looked at.
        """
        run = self._ahead.popleft() if self._ahead else next(self._rows, None)
        if run is None:
            self.done = True
            self._at_end()
            return []
        if run.created_at is not None:
            self.frontier = run.created_at
        return [run]

    def look_ahead(self) -> datetime | None:
        """How far the next rows reach; None if there are none."""
        self._ahead += islice(self._rows, LOOK_AHEAD - len(self._ahead))
        starts = (run.created_at for run in reversed(self._ahead) if run.created_at is not None)
        return next(starts, self.frontier)

    def may_come_before(self, when: datetime) -> bool:
        """Whether a row that is still to come can have to go before (or with) one of `when`."""
        if self.done:
            return False
        if self.frontier is None:
            return True
        try:
            late = self.frontier - self._sign * self._slack
        except OverflowError:
            return True
        return late <= when if self._sign > 0 else late >= when


class _Trailing:
    """States without a run: read up to where the leading streams are, for there are few of them or none.

    To walk them for themselves would mean to look at every state for one that has no run.
    """

    def __init__(self, session: Session, way: Walk, after: Position | None, leaders: list[_Stream]) -> None:
        self._source = _States(session, way, after)
        self._leaders, self._reverse = leaders, way.reverse
        self._rest: _Stream | None = None
        self.frontier: datetime | None = None

    @property
    def done(self) -> bool:
        """Whether there are no more rows."""
        return self._rest is not None and self._rest.done

    def pull(self) -> list[RunSummary]:
        """The rows up to where the leaders will soon be; when these are done, one after the other."""
        reached = [leader.look_ahead() for leader in self._leaders if not leader.done]
        targets = [when for when in reached if when is not None]
        if self._rest is None and targets:
            border = min(targets) if self._reverse else max(targets)
            if self._has_reached(border):
                leader = _furthest_behind(self._leaders, self._reverse)
                return leader.pull() if leader is not None else []
            self.frontier = border
            return self._source.up_to(border)
        if self._rest is None:
            self._rest = self._source.rest()
        found = self._rest.pull()
        self.frontier = self._rest.frontier
        return found

    def may_come_before(self, when: datetime) -> bool:
        """Whether a row that is still to come can have to go before (or with) one of `when`."""
        if self._rest is not None:
            return self._rest.may_come_before(when)
        if self.frontier is None:
            return True
        return self.frontier <= when if self._reverse else self.frontier >= when

    def _has_reached(self, border: datetime) -> bool:
        """Whether the leaders have to go on first: where their order is loose, they may seem to go back."""
        if self.frontier is None:
            return False
        return border <= self.frontier if self._reverse else border >= self.frontier


def _streams(session: Session, way: Walk, after: Position | None) -> list[_Stream | _Trailing]:
    leaders: list[_Stream] = []
    if session.shape.has(_RUNS):
        leaders = [_run_stream(session, way, after, at) for at in range(len(queries.start_columns(session.shape)))]
    if not session.shape.has(_WS, "created_at"):
        return [*leaders]
    return [*leaders, _Trailing(session, way, after, leaders)]


def order_of(session: Session, table: str, column: str, naive: Any) -> TextOrder:
    """The order of a column, from the ends of its index; without one, SQLite has to sort it anyway."""
    ends = [
        session.value(
            f'SELECT "{column}" FROM {table} WHERE "{column}" GLOB \'{queries.READABLE}\' '
            f'AND "{column}" >= \'0\' AND "{column}" < \':\' ORDER BY "{column}" {way} LIMIT 1'
        )
        for way in ("ASC", "DESC")
    ]
    return text_order(ends[0], ends[1], naive)


def _run_stream(session: Session, way: Walk, after: Position | None, at: int) -> _Stream:
    column = queries.start_columns(session.shape)[at]
    order = order_of(session, _RUNS, column, UTC)
    bounds, values = _bounds(order, way, after)
    extra, more = condition(session, way.wanted, run=True)
    sql = queries.runs_by_start(session.shape, at, bounds, extra, way.direction, way.budget)
    columns = queries.run_columns(session.shape, "r.run_id", state=True, run=True, details=way.details, costs=way.costs)
    count = f"SELECT count(*) FROM (SELECT 1 FROM runs WHERE {bounds.format(c=column)} LIMIT {way.budget})"
    return _stream(session, way, sql.replace("{columns}", columns), (*values, *more), count, values, order)


class _States:
    """States without a run, from one border to the next."""

    def __init__(self, session: Session, way: Walk, after: Position | None) -> None:
        self._session, self._way = session, way
        self._order = order_of(session, _WS, "created_at", session.zone)
        self._bounds, (self._least, self._most) = _bounds(self._order, way, after)

    def up_to(self, border: datetime) -> list[RunSummary]:
        """The rows from where the last call ended up to `border`."""
        least, most = self._least, self._most
        if self._way.reverse:
            self._least = most = max(least, min(most, self._order.at_most(border)))
        else:
            self._most = least = min(most, max(least, self._order.at_least(border)))
        sql, more = self._query(None)
        return list(self._session.runs(self._session.rows(sql, (least, most, *more))))

    def rest(self) -> _Stream:
        """All rows from where the last call ended."""
        sql, more = self._query(self._way.budget)
        bound = [self._least, self._most]
        where = self._bounds.format(c="created_at")
        count = f"SELECT count(*) FROM (SELECT 1 FROM workflow_state WHERE {where} LIMIT {self._way.budget})"
        return _stream(self._session, self._way, sql, (*bound, *more), count, bound, self._order)

    def _query(self, budget: int | None) -> tuple[str, list[Any]]:
        way, shape = self._way, self._session.shape
        extra, more = condition(self._session, way.wanted, run=False)
        sql = queries.states_by_first_save(shape, self._bounds, extra, way.direction, budget)
        columns = queries.run_columns(shape, "s.run_id", state=True, run=False, details=way.details, costs=way.costs)
        return sql.replace("{columns}", columns), more


def _stream(
    session: Session, way: Walk, sql: str, values: tuple[Any, ...], count: str, bound: list[Any], order: TextOrder
) -> _Stream:
    def at_end() -> None:
        if way.budget is not None and session.value(count, bound) >= way.budget:
            raise BudgetSpentError

    return _Stream(session.runs(session.rows(sql, values)), order.slack, 1 if way.reverse else -1, at_end)


def _bounds(order: TextOrder, way: Walk, after: Position | None) -> tuple[str, list[Any]]:
    """Conditions on ``{c}`` that leave out what lies outside the asked time, or before the page."""
    least, most = way.wanted.since, way.wanted.until
    border = after[0] if after is not None else None
    if border is not None and way.reverse:
        least = border if least is None else max(least, border)
    elif border is not None:
        most = border if most is None else min(most, border)
    values = ["0" if least is None else order.at_least(least), ":" if most is None else order.at_most(most)]
    return "{c} >= ? AND {c} < ?", values


def _merged(streams: list[_Stream | _Trailing], way: Walk, after: Position | None) -> Iterator[RunSummary]:
    """The streams in one order, from behind `after` on."""
    border = sort_key(RunSummary(run_id=after[1], created_at=after[0])) if after is not None else None
    waiting: list[tuple[Key, int, RunSummary]] = []
    pulled = 0
    while True:
        while waiting and not any(s.may_come_before(_start(waiting[0][2])) for s in streams):
            run = heapq.heappop(waiting)[2]
            if border is None or (sort_key(run) > border if way.reverse else sort_key(run) < border):
                yield run
        stream = _furthest_behind(streams, way.reverse)
        if stream is None:
            return
        for found in stream.pull():
            if found.created_at is not None:
                pulled += 1
                heapq.heappush(waiting, (_heap_key(found, way.reverse), pulled, found))


def _start(run: RunSummary) -> datetime:
    assert run.created_at is not None
    return run.created_at


def _furthest_behind(streams: Sequence[_Stream | _Trailing], reverse: bool) -> _Stream | _Trailing | None:
    """The stream that holds up the others: one that has not begun, else the one with the earliest frontier."""
    live = [stream for stream in streams if not stream.done]
    for stream in live:
        if stream.frontier is None:
            return stream
    pick = min if reverse else max
    return pick(live, key=lambda stream: stream.frontier or datetime.min.replace(tzinfo=UTC), default=None)


def _heap_key(run: RunSummary, reverse: bool) -> Key:
    if reverse:
        return (_start(run).timestamp(), run.run_id)
    return (-_start(run).timestamp(), _Backwards(run.run_id))


class _Backwards:
    """A text that sorts the other way round."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __lt__(self, other: _Backwards) -> bool:
        return self.text > other.text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Backwards) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)
