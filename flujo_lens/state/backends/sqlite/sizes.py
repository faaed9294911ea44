"""How many rows hang on the runs of a plan, and how much room they take: for many runs, from a sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flujo_lens.state.backends.sqlite import queries
from flujo_lens.state.backends.sqlite.orphans import children
from flujo_lens.state.backends.sqlite.session import Session

if TYPE_CHECKING:
    from flujo_lens.state.backends.sqlite.deletion_plan import Choice
    from flujo_lens.state.deletion import DeletionPlan

__all__ = ["ids_of", "measure"]

COUNTED = 500
"""So many runs are all counted; of more, so many that lie evenly among them."""

_ROW = 10
"""Bytes that a row takes beside its values, with its entries in indexes: about."""


def measure(session: Session, plan: DeletionPlan) -> tuple[dict[str, int], int, bool]:
    """Rows by table, bytes, and whether that is estimated."""
    choice: Choice = plan.choice
    runs = len(choice.states)
    step = max(1, runs // COUNTED)
    ids = ids_of(session, choice.states[::step], choice.runs[::step])
    factor = runs / len(ids) if ids else 0.0
    rows: dict[str, int] = {}
    size = 0.0
    for table in (*children(session.shape), "workflow_state", "runs"):
        if session.shape.has(table, "run_id"):
            count, taken = _measure_table(session, table, ids)
            size += taken * factor
            if table not in ("workflow_state", "runs"):
                rows[table] = round(count * factor)
    return {table: count for table, count in rows.items() if count}, round(size), step > 1


def ids_of(session: Session, states: Sequence[int], runs: Sequence[int]) -> list[Any]:
    """The ids in these rows, as they are stored; of rows that are gone, none."""
    found: dict[Any, None] = {}
    for table, rowids in (("workflow_state", states), ("runs", runs)):
        if session.shape.has(table):
            for at in range(0, len(rowids), COUNTED):
                part = list(rowids[at : at + COUNTED])
                sql = f"SELECT run_id FROM {table} WHERE rowid IN {queries.marks(part)} AND run_id IS NOT NULL"
                found.update(dict.fromkeys(row[0] for row in session.rows(sql, part)))
    return list(found)


def _measure_table(session: Session, table: str, ids: Sequence[Any]) -> tuple[int, int]:
    lengths = " + ".join(f'COALESCE(length(CAST("{name}" AS BLOB)), 0)' for name in session.shape.columns[table])
    count = size = 0
    for at in range(0, len(ids), COUNTED):
        part = list(ids[at : at + COUNTED])
        sql = f"SELECT count(*), sum({lengths} + {_ROW}) FROM {table} WHERE run_id IN {queries.marks(part)}"
        found = session.rows(sql, part).fetchone()
        count, size = count + found[0], size + (found[1] or 0)
    return count, size
