"""The figures of runs whose name and status SQL tells, without reading more of them: what statistics are made of.

States are not read for the status where an index tells: the states that are not completed, which is what most are, are
noted first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

from orjson import loads

from flujo_lens.state.aggregate import ENDED
from flujo_lens.state.backends.sqlite.engine.session import Session, as_text
from flujo_lens.state.backends.sqlite.reads import queries, statistics_queries
from flujo_lens.state.costs import DIGITS, total_of
from flujo_lens.state.groups import PlainRun
from flujo_lens.state.known_costs import Costs, KnownCosts
from flujo_lens.state.timestamps import parse_instant
from flujo_lens.state.views import UNREADABLE, RunSummary

_MILLISECOND = timedelta(milliseconds=1)
_BATCH = 200
_MOST = 1e15
"""Up to this, a number is one for `costs.total_of`, too."""

_STATUS = 3
_NO_COSTS: Costs = (None, None)
_Row = Sequence[Any]
"""The columns of `statistics_queries.plain_runs`."""

_Costed = tuple[_Row, Costs]


def plain_runs(session: Session, *, costs: bool = True, known: KnownCosts | None = None) -> Iterator[PlainRun]:
    """The runs of a plain store (see `statistics.is_plain`) without the `odd_runs`, in no order; notes the odd states.

    Args:
        costs: Whether cost and tokens are wanted; without, they are None, and no state is read.
        known: The costs that are known of ended runs; those of other runs are added.
    """
    for sql in statistics_queries.note_odd_states():
        session.rows(sql)
    if not costs:
        found: Iterator[_Costed] = ((row, _NO_COSTS) for row in _runs(session))
    elif known is None:
        found = _read(session)
    else:
        found = _not_read_again(session, known) if len(known) else _noted(known, _read(session))
    for row, sums in found:
        yield _plain_run(row, sums)


def _runs(session: Session) -> Iterator[_Row]:
    return session.rows(statistics_queries.plain_runs(session.shape))


def _read(session: Session) -> Iterator[_Costed]:
    """The plain runs with their costs; every state is read."""
    untold: list[_Row] = []
    for *row, found in session.rows(statistics_queries.plain_states(session.shape)):
        sums = _sums(found)
        if sums is not None:
            yield row, sums
            continue
        untold.append(row)
        if len(untold) == _BATCH:
            yield from _with_costs(session, untold)
            untold = []
    yield from _with_costs(session, untold)
    for *row, usd, tokens in session.rows(statistics_queries.plain_runs_alone(session.shape)):
        yield row, total_of([(usd, tokens)])


def _not_read_again(session: Session, known: KnownCosts) -> Iterator[_Costed]:
    """The plain runs with their costs; only states of runs that are not known are read."""
    untold: list[_Row] = []
    for row in _runs(session):
        sums = known.find(row) if row[_STATUS] in ENDED else None
        if sums is not None:
            yield row, sums
            continue
        untold.append(row)
        if len(untold) == _BATCH:
            yield from _noted(known, _with_costs(session, untold))
            untold = []
    yield from _noted(known, _with_costs(session, untold))


def _noted(known: KnownCosts, runs: Iterator[_Costed]) -> Iterator[_Costed]:
    """The same; those of ended runs are known from now on, as long as nothing of the row is another."""
    for row, sums in runs:
        if row[_STATUS] in ENDED:
            known.put(tuple(row), sums)
        yield row, sums


def odd_runs(session: Session, *, details: bool = False) -> Iterator[RunSummary]:
    """The runs of a plain store that `plain_runs` leaves out, once it has begun."""
    ids = statistics_queries.odd_runs(session.shape)
    return session.runs(session.rows(queries.by_ids(session.shape, ids, details=details, costs=True)))


def _plain_run(row: _Row, costs: Costs) -> PlainRun:
    run_id, name, version, status, start, end, spent = row
    ms = _elapsed_ms(start, end) if spent is None else spent
    if status in ("running", UNREADABLE) or (ms is not None and ms < 0):
        ms = None  # as `interpret` has it
    return PlainRun(run_id, name, version or "latest", status, start, ms, spent is None and ms is not None, *costs)


def _elapsed_ms(start: Any, end: Any) -> float | None:
    """The time from a stored start to a stored end; None if one of them is none."""
    first, last = parse_instant(start), parse_instant(end)
    return (last - first) / _MILLISECOND if first and last else None


def _sums(found: str | None) -> Costs | None:
    """Cost and tokens of a run by the JSON array of `statistics_queries.plain_states`.

    None where that does not tell: a step has no cost or no tokens, or one that is no number.
    """
    if found is None or "u" in found or "l" in found:  # null, true, false: see `costs.total_of`
        return None
    values = loads(found)
    half = len(values) // 2
    try:
        usd, tokens = sum(values[:half]), sum(values[half:])
    except TypeError:  # a text, or tokens by kind
        return None
    if type(tokens) is not int or max(values) > _MOST or min(values) < -_MOST:
        return None
    return round(float(usd), DIGITS), tokens


def _with_costs(session: Session, rows: Sequence[_Row]) -> Iterator[_Costed]:
    """Runs of which the costs are in a history that has to be decoded, or in the rows of their steps."""
    if not rows:
        return
    sql = queries.by_ids(session.shape, f"VALUES {', '.join(['(?)'] * len(rows))}", details=False, costs=True)
    found = session.runs(session.rows(sql, [row[0] for row in rows]))
    costs = {run.run_id: (run.cost_usd, run.tokens) for run in found}
    for row in rows:
        yield row, costs.get(as_text(row[0]), _NO_COSTS)
