"""Deleting runs, cancelling them, and giving up dead background tasks: on tables of any version, as they are.

Each function but `old_runs` is called inside a transaction of the writer.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any, NamedTuple

from flujo_lens.state.backends.core.rows import cancelled, is_open, is_stale, last_update, timed_out
from flujo_lens.state.backends.sqlite.deletion.run_records import decoded, encoded
from flujo_lens.state.backends.sqlite.engine.session import Session, as_text, open_session
from flujo_lens.state.backends.sqlite.reads import queries
from flujo_lens.state.backends.sqlite.schema.lens_tables import of_runs
from flujo_lens.state.backends.sqlite.schema.shape import TABLES, Shape, read_shape
from flujo_lens.state.backends.sqlite.writes import queries as writes
from flujo_lens.state.backends.sqlite.writes.key_values import free
from flujo_lens.state.deletion import BackupCallback, Record
from flujo_lens.state.interpret import RawRun, decode

_CHILDREN_FIRST = tuple(table for table in (*TABLES[2:], *TABLES[:2]) if table != "system_state")


class Old(NamedTuple):
    """Runs that were old at one moment, and what they were measured by."""

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
    """Delete those of the runs that are old still, with all their rows; return how many."""
    session = Session(db, read_shape(db, path), old.zone, old.zone_is_set)
    sql = queries.by_ids(session.shape, writes.MANY, details=False)
    found = _old_ones(session, session.rows(sql, (json.dumps(old.run_ids),)), old.cutoff)
    for table in _tables(db, session.shape):
        db.execute(writes.delete_of_runs(table), (json.dumps(found),))
    return len(found)


def _tables(db: sqlite3.Connection, shape: Shape) -> list[str]:
    """The tables that have rows of one run, the library's and ours."""
    return [*of_runs(db), *(table for table in _CHILDREN_FIRST if shape.has(table, "run_id"))]


def delete_run(db: sqlite3.Connection, path: Path, run_id: str) -> None:
    """Delete a run from every table."""
    for table in _tables(db, read_shape(db, path)):
        db.execute(writes.delete_of_run(table), {"run": run_id})


def delete_runs(db: sqlite3.Connection, path: Path, run_ids: Iterable[str]) -> None:
    """Delete some runs from every table."""
    ids = json.dumps([*run_ids])
    for table in _tables(db, read_shape(db, path)):
        db.execute(writes.delete_of_runs(table), (ids,))


def delete_state(db: sqlite3.Connection, path: Path, run_id: str) -> None:
    """Delete the state of a run."""
    if read_shape(db, path).has("workflow_state"):
        db.execute(writes.delete_of_run("workflow_state"), {"run": run_id})


_Fields = Mapping[str, Any]


def cancel(
    db: sqlite3.Connection,
    path: Path,
    run_ids: Sequence[str],
    now: str,
    force: bool,
    keep: BackupCallback | None = None,
) -> list[str]:
    """Mark those of the runs cancelled that could go on and, without `force`, that no process holds; return their ids.

    `keep` is handed what `restore_cancelled` takes: of each table that has the run, the fields that change.
    """
    shape = read_shape(db, path)
    looked = {run_id: _marked_fields(db, shape, run_id) for run_id in dict.fromkeys(run_ids)}
    going = {run_id: had for run_id, had in looked.items() if _may_cancel(db, run_id, had, force)}
    if keep is not None and going:
        keep([_cancelled_record(run_id, now, had) for run_id, had in going.items()])
    for run_id, had in going.items():
        for table, fields in had.items():
            _set_fields(db, table, run_id, {name: cancelled(now)[name] for name in fields})
    return list(going)


def _may_cancel(db: sqlite3.Connection, run_id: str, had: Mapping[str, _Fields], force: bool) -> bool:
    return is_open(had.get("workflow_state"), had.get("runs")) and free(db, run_id, force)


def _marked_fields(db: sqlite3.Connection, shape: Shape, run_id: str) -> dict[str, _Fields]:
    """The fields of a run that a cancellation changes, by table; tables that do not have it are left out."""
    found: dict[str, _Fields] = {}
    for table in (table for table in ("workflow_state", "runs") if shape.has(table, "run_id", "status")):
        names = [name for name in cancelled("") if shape.has(table, name)]
        row = db.execute(writes.fields_of_run(table, names), {"run": run_id}).fetchone()
        if row is not None:
            found[table] = dict(zip(names, row, strict=True))
    return found


def _set_fields(db: sqlite3.Connection, table: str, run_id: str, fields: _Fields) -> None:
    db.execute(writes.set_of_run(table, list(fields)), {**fields, "run": run_id})


def _cancelled_record(run_id: str, now: str, had: Mapping[str, _Fields]) -> Record:
    before = {table: {name: encoded(value) for name, value in fields.items()} for table, fields in had.items()}
    return {"run_id": run_id, "cancelled": {"at": now, "before": before}, "last": True}


def restore_cancelled(db: sqlite3.Connection, shape: Shape, record: Record) -> bool:
    """Make a run what it was before it was cancelled; False, and nothing done, if it has changed since."""
    run_id, change = str(record["run_id"]), record["cancelled"]
    before, now = change["before"], _marked_fields(db, shape, run_id)
    marked = {table: {name: cancelled(change["at"])[name] for name in fields} for table, fields in before.items()}
    if not before or now != marked:
        return False
    for table, fields in before.items():
        _set_fields(db, table, run_id, {name: decoded(value)[0] for name, value in fields.items()})
    return True


def fail_stale(
    db: sqlite3.Connection,
    path: Path,
    cutoff: datetime,
    hours: float,
    now: str,
    zone: tzinfo | None,
    among: Sequence[str] | None = None,
) -> list[str]:
    """Mark the background tasks (of `among`) that run, and gave no sign since `cutoff`, as failed; return their ids."""
    session = open_session(db, path, zone)
    if not session.shape.has("workflow_state"):
        return []
    names = ("status", "is_background_task", "metadata", "updated_at")
    columns = ", ".join(session.shape.col("workflow_state", "s", name) for name in names)
    rows = session.rows(writes.running_states(columns))
    wanted = None if among is None else set(among)
    stale: dict[str, int] = {}
    for rowid, run_id, *values in rows.fetchall():
        state = dict(zip(names, values, strict=True)) | {"metadata": decode(values[2])}
        if (wanted is None or as_text(run_id) in wanted) and is_stale(state, cutoff, session.zone):
            stale[as_text(run_id)] = rowid
    fields = {k: v for k, v in timed_out(hours, now).items() if session.shape.has("workflow_state", k)}
    changes = [(*fields.values(), rowid) for rowid in stale.values()]
    db.executemany(writes.set_by_row("workflow_state", "rowid", list(fields)), changes)
    return list(stale) if among is None else [run_id for run_id in dict.fromkeys(among) if run_id in stale]
