"""What a walk leaves out in SQL: by status, off the index alone where there is one, and by pipeline."""

from __future__ import annotations

from typing import Any

from flujo_lens.state.backends.sqlite.engine.session import Session
from flujo_lens.state.backends.sqlite.reads import queries
from flujo_lens.state.views import RunFilter

_RUNS, _WS = "runs", "workflow_state"


def condition(session: Session, wanted: RunFilter, *, run: bool) -> tuple[str, list[Any]]:
    """SQL that leaves out most of the rows that are not wanted, and its values. What it lets pass is tested again.

    Args:
        session: The store.
        wanted: What is wanted.
        run: Whether the rows are those of ``runs`` (as ``r``), rather than of states alone (as ``s``).
    """
    conditions, values = ["1"], []
    state = session.shape.has(_WS, "status")
    if wanted.statuses:
        found, more = _status_condition(session, wanted.statuses, state=state, run=run)
        conditions.append(found)
        values += more
    if wanted.pipeline is not None:
        table, alias = (_RUNS, "r") if run else (_WS, "s")
        name = session.shape.col(table, alias, "pipeline_name")
        conditions.append(f"COALESCE({name}, '') IN (?, 'unknown', '')")
        values.append(wanted.pipeline)
    return " AND ".join(conditions), values


def _status_condition(session: Session, statuses: frozenset[str], *, state: bool, run: bool) -> tuple[str, list[str]]:
    """The status by the state's where there is one. It may be stored as another: see `interpret.status_of`."""
    asked = sorted(statuses | {""})
    if not run:
        return _state_has(session, sorted({*asked, "paused"}) if "failed" in statuses else asked)
    test, values = _state_has(session, asked)
    marks = queries.marks(asked)
    if not state:
        return f"r.status IN {marks}", asked
    if "cancelled" in statuses:
        disguised, more = _state_has(session, ["failed"])
        test, values = f"({test} OR (r.status = 'completed' AND {disguised}))", values + more
    if "failed" in statuses:
        disguised, more = _state_has(session, ["paused"])
        test, values = f"({test} OR (r.status = 'failed' AND {disguised}))", values + more
    return f"CASE WHEN s.run_id IS NULL THEN r.status IN {marks} ELSE {test} END", [*asked, *values]


def _state_has(session: Session, statuses: list[str]) -> tuple[str, list[str]]:
    """Whether the state has one of these statuses, by the index alone where there is one.

    In the row itself the status lies behind the blobs, and to get there takes several pages.
    """
    index = session.shape.index_on(_WS, "status")
    if index is None:
        return f"s.status IN {queries.marks(statuses)}", statuses
    sought = f"SELECT 1 FROM {_WS} INDEXED BY {index} WHERE status = ? LIMIT 1"
    present = [status for status in statuses if session.value(sought, (status,))]
    if not present:
        return "0", []
    row = session.shape.row(_WS)
    test = f"SELECT 1 FROM {_WS} f INDEXED BY {index} WHERE f.status IN {queries.marks(present)} AND f.{row} = s.{row}"
    return f"EXISTS ({test})", present
