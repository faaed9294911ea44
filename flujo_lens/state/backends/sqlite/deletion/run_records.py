"""Rows of a run as JSON-ready records, and back, so that what comes back is what went, byte for byte.

Text, whole numbers and finite floats are themselves. What JSON has no form for is an object of one member:
``{"blob": base64}``, ``{"text": base64}`` for text that is no UTF-8, ``{"float": "inf"}``.
"""

from __future__ import annotations

import math
import sqlite3
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from typing import Any

from flujo_lens.state.backends.sqlite.deletion import queries
from flujo_lens.state.backends.sqlite.deletion.queries import ROWID
from flujo_lens.state.backends.sqlite.engine.lock_retry import retry_while_locked
from flujo_lens.state.backends.sqlite.engine.session import Session, as_text
from flujo_lens.state.backends.sqlite.reads.orphans import children
from flujo_lens.state.backends.sqlite.reads.queries import marks
from flujo_lens.state.backends.sqlite.schema import lens_tables
from flujo_lens.state.deletion import Record

_ROWS, _ROWS_AT_ONCE = 1_000, 5_000
"""Rows of one record, and of those that are handed out together, of a run with very many."""

KEPT_OF_OURS = (lens_tables.RUN_MANIFESTS, lens_tables.STRIPS)
"""Our own tables whose rows come back with a run."""

_BYTES = 4 << 20
"""Bytes of values after which such a record ends."""

_LONGEST_WAIT = 10.0
"""Seconds to wait for a lock on the way."""


class NoText(bytes):
    """A text that is no UTF-8."""


def _text(stored: bytes) -> str | NoText:
    try:
        return stored.decode()
    except UnicodeDecodeError:
        return NoText(stored)


def encoded(value: Any) -> Any:
    """A stored value as JSON has it; `decoded` takes it back."""
    if isinstance(value, bytes):
        return {"text" if isinstance(value, NoText) else "blob": b64encode(value).decode()}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    return value


def decoded(value: Any) -> tuple[Any, bool]:
    """What was stored, and whether it is bytes that are to be stored as text."""
    if not isinstance(value, dict):
        return value, False
    kind, text = next(iter(value.items()))
    if kind == "float":
        return float(text), False
    return b64decode(text, validate=True), kind == "text"


def stored_value(value: Any) -> Any:
    """What was stored, as `read_rows` yields it."""
    found, is_text = decoded(value)
    return NoText(found) if is_text else found


def _readable(stored: bytes) -> str:
    return stored.decode(errors="replace")


@contextmanager
def _texts(db: sqlite3.Connection, factory: Callable[[bytes], Any]) -> Iterator[None]:
    before, db.text_factory = db.text_factory, factory
    try:
        yield
    finally:
        db.text_factory = before


def readable_texts(db: sqlite3.Connection) -> AbstractContextManager[None]:
    """While it lasts, a text that is no UTF-8 is read as well as it can be."""
    return _texts(db, _readable)


def tables_of(session: Session) -> list[str]:
    """The tables of which a run's rows are kept: its rows first, the run and its state last."""
    tables = [*children(session.shape), *(t for t in ("runs", "workflow_state") if session.shape.has(t))]
    ours = [table for table in KEPT_OF_OURS if lens_tables.is_there(session.connection, table)]
    return [*ours, *tables]


def read_records(session: Session, run_ids: Sequence[Any], tables: Sequence[str]) -> list[Record]:
    """One record a run, in the order of the ids (as they are stored), with its rows in these tables."""
    found: dict[Any, dict[str, Any]] = {run_id: {} for run_id in run_ids}
    for table, columns, run_id, row in read_rows(session, run_ids, tables):
        # Where a column compares ids in a way of its own, one finds rows that spell it differently.
        kept = found.setdefault(run_id, {}).setdefault(table, {"columns": list(columns), "rows": []})
        kept["rows"].append([encoded(value) for value in row])
    return [{"run_id": as_text(run_id), "tables": kept, "last": True} for run_id, kept in found.items()]


def large_records(session: Session, run_ids: Sequence[Any]) -> Iterator[tuple[Record, int]]:
    """The records of runs with very many rows, run by run, each with its weight: that of a thousand rows at most.

    The first one of a run has its state and its metadata. Each is read by itself, so that nothing is locked between
    two of them.
    """
    tables = tables_of(session)[::-1]
    for run_id in run_ids:
        strays: dict[Any, dict[str, Any]] = {}
        waiting: tuple[Record, int] | None = None
        for table in tables:
            for columns, rows, weight in _chunks(session, table, run_id):
                own = _own_rows(columns, rows, run_id, table, strays)
                if waiting is not None and waiting[1] + weight > _ROWS:
                    yield waiting
                    waiting = None
                record, before = waiting or ({"run_id": as_text(run_id), "tables": {}}, 0)
                kept = record["tables"].setdefault(table, {"columns": columns, "rows": []})
                kept["rows"] += own
                waiting = record, before + weight
        if waiting is not None:
            yield {**waiting[0], "last": True}, waiting[1]
        for other, kept in strays.items():
            yield {"run_id": as_text(other), "tables": kept, "last": True}, len(kept)


def _own_rows(
    columns: list[str], rows: Sequence[Sequence[Any]], run_id: Any, table: str, strays: dict[Any, dict[str, Any]]
) -> list[list[Any]]:
    """The rows, encoded; those that only a column's own way of comparing takes for the run's are put apart."""
    at, own = columns.index("run_id"), []
    for row in rows:
        values = [encoded(value) for value in row]
        if row[at] == run_id:
            own.append(values)
        else:
            kept = strays.setdefault(row[at], {}).setdefault(table, {"columns": columns, "rows": []})
            kept["rows"].append(values)
    return own


def parts_of(records: Iterable[tuple[Record, int]]) -> Iterator[list[Record]]:
    """Records, some thousands of rows at a time."""
    part: list[Record] = []
    whole = 0
    for record, weight in records:
        part.append(record)
        whole += weight
        if whole >= _ROWS_AT_ONCE:
            yield part
            part, whole = [], 0
    if part:
        yield part


def _chunks(session: Session, table: str, run_id: Any) -> Iterator[tuple[list[str], list[Sequence[Any]], int]]:
    """The rows of a run in a table, in order, as many at a time as are held at once, with their weight."""
    last: Any = None
    while True:
        after, values = ("", (run_id,)) if last is None else (f"AND {ROWID} > ? ", (run_id, last))
        sql = _select(session, table, f"run_id = ? {after}", f" LIMIT {_ROWS}")
        deadline = time.monotonic() + _LONGEST_WAIT
        columns, rows, size = retry_while_locked(partial(_some, session, sql, values), deadline, threading.Event())
        if rows:
            yield columns, rows, max(len(rows), size * _ROWS // _BYTES)
        if not rows or columns[0] != ROWID:
            return
        last = rows[-1][0]


def _some(session: Session, sql: str, values: Sequence[Any]) -> tuple[list[str], list[Sequence[Any]], int]:
    """The first rows of a query, as far as their values are not too large, and their size."""
    rows: list[Sequence[Any]] = []
    size = 0
    with _texts(session.connection, _text), closing(session.rows(sql, values)) as cursor:
        columns = [column[0].lower() for column in cursor.description]
        for row in cursor:
            rows.append(row)
            size += sum(len(value) for value in row if isinstance(value, str | bytes))
            if size > _BYTES:
                break
    return columns, rows, size


def read_rows(
    session: Session, run_ids: Sequence[Any], tables: Sequence[str], *, any_text: bool = True
) -> Iterator[tuple[str, tuple[str, ...], Any, Sequence[Any]]]:
    """Yield the rows of these runs in these tables, in order: the table, its columns, the run id, and the values as
    they are stored.

    Args:
        session: The store.
        any_text: Whether a text that is no UTF-8 is a `NoText`; else it is a `sqlite3.OperationalError`, in a fraction
            of the time.
    """
    with _texts(session.connection, _text if any_text else str):
        for table in tables:
            cursor = session.rows(_select(session, table, f"run_id IN {marks(run_ids)}"), run_ids)
            columns = tuple(column[0].lower() for column in cursor.description)
            at = columns.index("run_id")
            for row in cursor:
                yield table, columns, row[at], row


def _select(session: Session, table: str, where: str, limit: str = "") -> str:
    # All columns but those that SQLite computes, which cannot be inserted.
    columns = [row[1] for row in session.rows(f"PRAGMA table_info({table})")]
    return queries.rows_of(table, columns, where, limit, has_rowid=table not in (*KEPT_OF_OURS, *session.shape.odd))
