"""The SQL that saves, by name, and what is done in one transaction with it.

Each function is called inside a transaction; whoever calls it commits.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from flujo_lens.state.backends.sqlite.schema.tables import WRITTEN_COLUMNS

__all__ = [
    "add_evaluation",
    "add_step",
    "end_run",
    "is_large",
    "replace_spans",
    "save_large_state",
    "save_run",
    "save_state",
    "save_trace",
    "set_system_state",
]

Row = tuple[Any, ...]


def _insert(table: str) -> str:
    columns = WRITTEN_COLUMNS[table]
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"


def _upsert(table: str, key: str, *first: str) -> str:
    """Changes the row that is there rather than replacing it: columns that we do not know keep their values."""
    columns = [f"{column} = excluded.{column}" for column in WRITTEN_COLUMNS[table] if column != key]
    return f"{_insert(table)} ON CONFLICT({key}) DO UPDATE SET {', '.join([*first, *columns])}"


_SAVE_STATE = _upsert("workflow_state", "run_id", "rowid = (SELECT max(rowid) + 1 FROM workflow_state)")
"""The row that was saved last has the highest rowid: lists and `last_write_at` go by that."""

_SAVE_NEWEST = (
    f"UPDATE workflow_state SET {', '.join(f'{column} = ?' for column in WRITTEN_COLUMNS['workflow_state'])} "
    "WHERE run_id = ? AND rowid = (SELECT max(rowid) FROM workflow_state)"
)
"""The same where the row has the highest rowid already: without a new one, most indexes need not change."""

_LARGE = 8 * 2**20
"""Bytes or characters."""

_SAVE_RUN = _upsert("runs", "run_id")
_SET_SYSTEM_STATE = _upsert("system_state", "key")
_ADD_SPAN = _insert("spans")
_ADD_EVALUATION = _insert("evaluations")

_PLACES = {"input_blob": True, "error_blob": True, "start_time": False, "end_time": False}
"""Columns of ``steps`` that 0.6.11 does not have, and whether one that is missing is made."""


def save_state(db: sqlite3.Connection, values: Row, is_newest: bool) -> None:
    """Save the row of a state in place of the one before: one statement changes it, a transaction by itself.

    Args:
        db: The connection.
        values: The row.
        is_newest: Whether this run may well be the one that was saved last.
    """
    if not (is_newest and db.execute(_SAVE_NEWEST, (*values, values[0])).rowcount):
        db.execute(_SAVE_STATE, values)


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
    marks = ", ".join("lens_take(?)" if at in large else "?" for at in range(len(small)))
    db.execute(_SAVE_STATE.replace(", ".join("?" * len(small)), marks, 1), small)


def save_run(db: sqlite3.Connection, values: Row) -> None:
    """Save the row of a run in place of what was there; its steps and spans stay."""
    db.execute(_SAVE_RUN, values)


def end_run(db: sqlite3.Connection, run_id: str, changes: Mapping[str, Any]) -> None:
    """Change these columns of a run, if it is there."""
    sets = ", ".join(f"{column} = ?" for column in changes)
    db.execute(f"UPDATE runs SET {sets} WHERE run_id = ?", (*changes.values(), run_id))


def _announce(db: sqlite3.Connection, run: Row | None) -> None:
    """Make the row of a run that no table knows, so that what hangs on it can be found; None: it is known."""
    if run is None:
        return
    there = "SELECT 1 FROM runs WHERE run_id = ? UNION ALL SELECT 1 FROM workflow_state WHERE run_id = ?"
    if db.execute(there, (run[0], run[0])).fetchone() is None:
        db.execute(_SAVE_RUN, run)


def add_step(db: sqlite3.Connection, values: Mapping[str, Any], run: Row | None, makes_columns: bool) -> bool:
    """Add an execution of a step; `run` is the row of its run if there is none. Whether a column was made for it."""
    _announce(db, run)
    made, left_out = False, set()
    there = {row[1] for row in db.execute("PRAGMA table_info(steps)")} if _more(values) else set()
    for column, is_made in _PLACES.items():
        if column in there:
            continue
        if is_made and makes_columns and values.get(column) is not None:
            db.execute(f"ALTER TABLE steps ADD COLUMN {column} TEXT")
            made = True
        else:
            left_out.add(column)
    kept = {column: value for column, value in values.items() if column not in left_out}
    sql = f"INSERT INTO steps ({', '.join(kept)}) VALUES ({', '.join('?' * len(kept))})"
    db.execute(sql, tuple(kept.values()))
    return made


def _more(values: Mapping[str, Any]) -> bool:
    return any(values.get(column) is not None for column in _PLACES)


def replace_spans(db: sqlite3.Connection, run_id: str, rows: Sequence[Row], run: Row | None) -> None:
    """Add spans of a run; those of the same ids go. (0.6.11 has no unique key to tell it by.)"""
    _announce(db, run)
    at = WRITTEN_COLUMNS["spans"].index("span_id")
    ids = [row[at] for row in rows]
    if len(ids) == 1:  # what a runner saves after each step: to compare with one text takes a third less
        db.execute("DELETE FROM spans WHERE run_id = ? AND span_id = ?", (run_id, *ids))
    else:
        every = "SELECT value FROM json_each(?)"
        db.execute(f"DELETE FROM spans WHERE run_id = ? AND span_id IN ({every})", (run_id, json.dumps(ids)))
    db.executemany(_ADD_SPAN, rows)


def save_trace(db: sqlite3.Connection, run_id: str, rows: Sequence[Row], run: Row) -> None:
    """Make these the only spans of a run."""
    _announce(db, run)
    for table in ("spans", "traces"):
        db.execute(f"DELETE FROM {table} WHERE run_id = ?", (run_id,))
    db.executemany(_ADD_SPAN, rows)


def add_evaluation(db: sqlite3.Connection, values: Row) -> None:
    """Add an evaluation, of a run that need not be in ``runs``."""
    db.execute(_ADD_EVALUATION, values)


def set_system_state(db: sqlite3.Connection, values: Row) -> None:
    """Set a global key."""
    db.execute(_SET_SYSTEM_STATE, values)
