"""Saving states and history. Each function is called inside a transaction; its caller commits."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from flujo_lens.state.backends.sqlite.schema.tables import WRITTEN_COLUMNS
from flujo_lens.state.backends.sqlite.writes import queries

Row = tuple[Any, ...]

_LARGE = 8 * 2**20
"""Bytes or characters."""

_PLACES = {"input_blob": True, "error_blob": True, "start_time": False, "end_time": False}
"""Columns of ``steps`` that 0.6.11 does not have, and whether one that is missing is made."""


def save_state(db: sqlite3.Connection, values: Row, is_newest: bool) -> None:
    """Save the row of a state in place of the one before: one statement changes it, a transaction by itself.

    Args:
        values: The row.
        is_newest: Whether this run may well be the one that was saved last.
    """
    if not (is_newest and db.execute(queries.SAVE_NEWEST, (*values, values[0])).rowcount):
        db.execute(queries.SAVE_STATE, values)


def is_large(values: Row) -> bool:
    """Whether a row has a value of which a copy more or less matters."""
    return any(isinstance(value, str | bytes) and len(value) > _LARGE for value in values)


def save_large_state(db: sqlite3.Connection, values: list[Any]) -> None:
    """`save_state` for a row of hundreds of megabytes, with one copy of it less in memory.

    SQLite copies what it is given, and makes the row of the copies. So it is given a large value when it asks for
    it, and the value is let go of: `values` is empty afterwards, also if this fails.
    """
    large = {at: value for at, value in enumerate(values) if is_large((value,))}
    small = [at if at in large else value for at, value in enumerate(values)]
    values.clear()
    db.create_function("lens_take", 1, large.pop)
    db.execute(queries.with_functions([at in large for at in range(len(small))]), small)


def _announce(db: sqlite3.Connection, run: Row | None) -> None:
    """Make the row of a run that no table knows, so that its children can be found; None: it is known."""
    if run is None:
        return
    if db.execute(queries.IS_KNOWN, (run[0], run[0])).fetchone() is None:
        db.execute(queries.SAVE_RUN, run)


def add_step(db: sqlite3.Connection, values: Mapping[str, Any], run: Row | None, makes_columns: bool) -> bool:
    """Add an execution of a step; `run` is the row of its run if there is none. Whether a column was made for it."""
    _announce(db, run)
    made, left_out = False, set()
    there = {row[1] for row in db.execute("PRAGMA table_info(steps)")} if _more(values) else set()
    for column, is_made in _PLACES.items():
        if column in there:
            continue
        if is_made and makes_columns and values.get(column) is not None:
            db.execute(queries.add_column("steps", column))
            made = True
        else:
            left_out.add(column)
    kept = {column: value for column, value in values.items() if column not in left_out}
    db.execute(queries.insert("steps", list(kept)), tuple(kept.values()))
    return made


def _more(values: Mapping[str, Any]) -> bool:
    return any(values.get(column) is not None for column in _PLACES)


def replace_spans(db: sqlite3.Connection, run_id: str, rows: Sequence[Row], run: Row | None) -> None:
    """Add spans of a run; those of the same ids go. (0.6.11 has no unique key to tell it by.)"""
    _announce(db, run)
    at = WRITTEN_COLUMNS["spans"].index("span_id")
    ids = [row[at] for row in rows]
    if len(ids) == 1:
        db.execute(queries.REMOVE_SPAN, (run_id, *ids))
    else:
        db.execute(queries.REMOVE_SPANS, (run_id, json.dumps(ids)))
    db.executemany(queries.ADD_SPAN, rows)


def save_trace(db: sqlite3.Connection, run_id: str, rows: Sequence[Row], run: Row) -> None:
    """Make these the only spans of a run."""
    _announce(db, run)
    for table in ("spans", "traces"):
        db.execute(queries.delete_of_run(table), {"run": run_id})
    db.executemany(queries.ADD_SPAN, rows)
