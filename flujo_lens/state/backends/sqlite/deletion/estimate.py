"""How many rows belong to the runs of a plan, and how much room they take: from a sample, for many runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flujo_lens.state.backends.sqlite.deletion import queries
from flujo_lens.state.backends.sqlite.deletion.queries import HEADS
from flujo_lens.state.backends.sqlite.deletion.strip import weigh
from flujo_lens.state.backends.sqlite.engine.session import Session
from flujo_lens.state.backends.sqlite.reads.orphans import children

if TYPE_CHECKING:
    from flujo_lens.state.backends.sqlite.deletion.plan import Choice
    from flujo_lens.state.deletion import DeletionPlan

COUNTED = 10_000
"""The rows of up to this many runs are counted, a matter of some tenths of a second; of more they are estimated."""

SAMPLED = 500
"""Number of runs, spread evenly among the others, that are looked at for an estimate."""


def measure(session: Session, plan: DeletionPlan) -> tuple[dict[str, int], int, bool]:
    """Rows by table, about how many bytes they and their runs take, and whether the rows are estimated."""
    if plan.request.strip:
        return _measure_strip(session, plan)
    choice: Choice = plan.choice
    runs = len(choice.states)
    step = max(1, runs // SAMPLED)
    ids = ids_of(session, choice.states[::step], choice.runs[::step])
    factor = runs / len(ids) if ids else 0.0
    is_exact = runs <= COUNTED
    chosen = [f"[{','.join(map(str, rowids))}]" for rowids in (choice.states, choice.runs)] if is_exact else []
    rows: dict[str, int] = {}
    size = 0.0
    for table in (*children(session.shape), "workflow_state", "runs"):
        if session.shape.has(table, "run_id"):
            count, taken = _measure_table(session, table, ids)
            size += taken * factor
            if table not in HEADS:
                rows[table] = _count(session, table, chosen) if is_exact else _about(session, table, count * factor)
    return {table: count for table, count in rows.items() if count}, round(size), not is_exact


def _measure_strip(session: Session, plan: DeletionPlan) -> tuple[dict[str, int], int, bool]:
    """Spans, outputs and states of the runs, about how many bytes they take, and whether that is all an estimate."""
    choice: Choice = plan.choice
    runs = len(choice.states)
    step = 1 if runs <= COUNTED else max(1, runs // SAMPLED)
    counts, size = Counter[str](), 0
    for at in range(0, runs, step * SAMPLED):
        rows = slice(at, at + step * SAMPLED, step)
        ids = ids_of(session, choice.states[rows], choice.runs[rows])
        lost, taken = weigh(session, ids, plan.request.strip)
        counts += lost
        size += taken
    return {name: count * step for name, count in counts.items() if count}, size * step, step > 1


def _count(session: Session, table: str, chosen: Sequence[str]) -> int:
    """How many rows of a table belong to the runs in these rows: one list of rowids for each of `HEADS`, as JSON."""
    there = [(head, rowids) for head, rowids in zip(HEADS, chosen, strict=True) if session.shape.has(head)]
    sql = queries.count_of_rows(table, [head for head, _ in there])
    return int(session.value(sql, [rowids for _, rowids in there]))


def _about(session: Session, table: str, estimate: float) -> int:
    """An estimate of rows, of which there are no more than the table has."""
    return min(round(estimate), int(session.value(f"SELECT count(*) FROM {table}")))


def ids_of(session: Session, states: Sequence[int], runs: Sequence[int]) -> list[Any]:
    """The ids in these rows, as they are stored; of rows that are gone, none."""
    found: dict[Any, None] = {}
    for table, rowids in (("workflow_state", states), ("runs", runs)):
        if session.shape.has(table):
            for at in range(0, len(rowids), SAMPLED):
                part = list(rowids[at : at + SAMPLED])
                rows = session.rows(queries.ids_in_rows(table, len(part)), part)
                found.update(dict.fromkeys(row[0] for row in rows))
    return list(found)


def _measure_table(session: Session, table: str, ids: Sequence[Any]) -> tuple[int, int]:
    count = size = 0
    for at in range(0, len(ids), SAMPLED):
        part = list(ids[at : at + SAMPLED])
        sql = queries.size_of(table, session.shape.columns[table], len(part))
        found = session.rows(sql, part).fetchone()
        count, size = count + found[0], size + (found[1] or 0)
    return count, size
