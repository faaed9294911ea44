"""Deleting runs, and giving up dead background tasks: on tables of any version, as they are.

Each function but `old_runs` is called inside a transaction of the writer.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from datetime import datetime, tzinfo
from pathlib import Path
from typing import NamedTuple

from flujo_lens.state.backends.sqlite import queries
from flujo_lens.state.backends.sqlite.schema import TABLES, Shape, read_shape
from flujo_lens.state.backends.sqlite.session import Session, as_text, open_session
from flujo_lens.state.backends.vocabulary import is_stale, last_update, timed_out
from flujo_lens.state.interpret import RawRun, decode

__all__ = ["Old", "delete_old", "delete_run", "delete_state", "fail_stale", "old_runs"]

_CHILDREN_FIRST = tuple(table for table in (*TABLES[2:], *TABLES[:2]) if table != "system_state")
_THIS_RUN = "run_id IN (:run, CAST(:run AS BLOB))"
"""An id is a text; odd stores hold its bytes."""


class Old(NamedTuple):
    """Runs that were old when somebody looked, and what they were measured by."""

    run_ids: Sequence[str]
    cutoff: datetime
    zone: tzinfo
    zone_is_set: bool

    def parts(self, size: int) -> Iterator[Old]:
        """The same, `size` runs at a time."""
        for at in range(0, len(self.run_ids), size):
            yield self._replace(run_ids=self.run_ids[at : at + size])


def old_runs(session: Session, cutoff: datetime) -> Old:
    """The runs of a store whose last update was before `cutoff`."""
    tables = [table for table in ("runs", "workflow_state") if session.shape.has(table)]
    ids = " UNION ".join(f"SELECT run_id FROM {table}" for table in tables)
    found = _old_ones(session, session.rows(queries.by_ids(session.shape, ids, details=False)), cutoff)
    return Old(found, cutoff, session.zone, session.zone_is_set)


def _old_ones(session: Session, rows: sqlite3.Cursor, cutoff: datetime) -> list[str]:
    return [as_text(raw.run_id) for raw in (RawRun(*row) for row in rows) if _is_old(session, raw, cutoff)]


def _is_old(session: Session, raw: RawRun, cutoff: datetime) -> bool:
    state, run = (raw.state_created, raw.state_updated), (raw.run_start, raw.run_updated, raw.run_end)
    updated = last_update(state, run, session.zone_of(raw))
    return updated is not None and updated < cutoff


def delete_old(db: sqlite3.Connection, path: Path, old: Old) -> int:
    """Delete those of the runs that are old still, with all that hangs on them; return how many."""
    session = Session(db, read_shape(db, path), old.zone, old.zone_is_set)
    sql = queries.by_ids(session.shape, "SELECT value FROM json_each(?)", details=False)
    found = _old_ones(session, session.rows(sql, (json.dumps(old.run_ids),)), old.cutoff)
    for table in _tables(session.shape):
        db.execute(f"DELETE FROM {table} WHERE run_id IN (SELECT value FROM json_each(?))", (json.dumps(found),))
    return len(found)


def _tables(shape: Shape) -> list[str]:
    return [table for table in _CHILDREN_FIRST if shape.has(table, "run_id")]


def delete_run(db: sqlite3.Connection, path: Path, run_id: str) -> None:
    """Delete a run from every table."""
    for table in _tables(read_shape(db, path)):
        db.execute(f"DELETE FROM {table} WHERE {_THIS_RUN}", {"run": run_id})


def delete_state(db: sqlite3.Connection, path: Path, run_id: str) -> None:
    """Delete the state of a run."""
    if read_shape(db, path).has("workflow_state"):
        db.execute(f"DELETE FROM workflow_state WHERE {_THIS_RUN}", {"run": run_id})


def fail_stale(
    db: sqlite3.Connection, path: Path, cutoff: datetime, hours: float, now: str, zone: tzinfo | None
) -> int:
    """Mark the background tasks that run, and gave no sign since `cutoff`, as failed; return how many."""
    session = open_session(db, path, zone)
    if not session.shape.has("workflow_state"):
        return 0
    names = ("status", "is_background_task", "metadata", "updated_at")
    columns = ", ".join(session.shape.col("workflow_state", "s", name) for name in names)
    rows = session.rows(f"SELECT s.rowid, {columns} FROM workflow_state s WHERE s.status = 'running'").fetchall()
    stale = []
    for rowid, *values in rows:
        state = dict(zip(names, values, strict=True)) | {"metadata": decode(values[2])}
        if is_stale(state, cutoff, session.zone):
            stale.append(rowid)
    fields = {k: v for k, v in timed_out(hours, now).items() if session.shape.has("workflow_state", k)}
    sets = ", ".join(f"{name} = ?" for name in fields)
    db.executemany(f"UPDATE workflow_state SET {sets} WHERE rowid = ?", [(*fields.values(), rowid) for rowid in stale])
    return len(stale)
