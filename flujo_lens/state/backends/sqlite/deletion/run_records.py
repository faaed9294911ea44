"""Rows of a run as JSON-ready records, and back, so that what comes back is what went, byte for byte.

Text, whole numbers and finite floats are themselves. What JSON has no form for is an object of one member:
``{"blob": base64}``, ``{"text": base64}`` for text that is no UTF-8, ``{"float": "inf"}``.
"""

from __future__ import annotations

import math
import sqlite3
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from flujo_lens.state.backends.sqlite.engine.session import Session, as_text
from flujo_lens.state.backends.sqlite.reads import queries
from flujo_lens.state.backends.sqlite.reads.orphans import children
from flujo_lens.state.backends.sqlite.schema import lens_tables
from flujo_lens.state.backends.sqlite.schema.shape import quoted
from flujo_lens.state.deletion import Record

__all__ = ["decoded", "encoded", "read_records", "readable_texts", "tables_of"]

ROWID = "rowid"
"""The name of the first column in a record, for what most tables have without saying so."""


class _NoText(bytes):
    """A text that is no UTF-8."""


def _text(stored: bytes) -> str | _NoText:
    try:
        return stored.decode()
    except UnicodeDecodeError:
        return _NoText(stored)


def encoded(value: Any) -> Any:
    """A stored value as JSON has it; `decoded` takes it back."""
    if isinstance(value, bytes):
        return {"text" if isinstance(value, _NoText) else "blob": b64encode(value).decode()}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    return value


def decoded(value: Any) -> tuple[Any, bool]:
    """What was stored, and whether it is bytes that are to be stored as text."""
    if not isinstance(value, dict):
        return value, False
    kind, told = next(iter(value.items()))
    if kind == "float":
        return float(told), False
    return b64decode(told, validate=True), kind == "text"


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
    """The tables of which a run's rows are kept: what hangs on it first, the run and its state last."""
    tables = [*children(session.shape), *(t for t in ("runs", "workflow_state") if session.shape.has(t))]
    bound = [lens_tables.RUN_MANIFESTS] if lens_tables.is_there(session.connection, lens_tables.RUN_MANIFESTS) else []
    return [*bound, *tables]


def read_records(session: Session, run_ids: Sequence[Any], tables: Sequence[str]) -> list[Record]:
    """One record a run, in the order of the ids (as they are stored), with its rows in these tables."""
    found: dict[Any, dict[str, Any]] = {run_id: {} for run_id in run_ids}
    with _texts(session.connection, _text):
        for table in tables:
            for columns, run_id, row in _rows(session, table, run_ids):
                # Where a column compares ids in a way of its own, one finds rows that spell it differently.
                kept = found.setdefault(run_id, {}).setdefault(table, {"columns": columns, "rows": []})
                kept["rows"].append([encoded(value) for value in row])
    return [{"run_id": as_text(run_id), "tables": kept, "last": True} for run_id, kept in found.items()]


def _rows(session: Session, table: str, run_ids: Sequence[Any]) -> Iterator[tuple[list[str], Any, Sequence[Any]]]:
    first = "" if table == lens_tables.RUN_MANIFESTS else f"{ROWID} AS {ROWID}, "
    order = "" if table == lens_tables.RUN_MANIFESTS else f" ORDER BY {ROWID}"
    sql = (
        f"SELECT {first}{_stored_columns(session, table)} FROM {table} WHERE run_id IN {queries.marks(run_ids)}{order}"
    )
    cursor = session.rows(sql, run_ids)
    columns = [column[0].lower() for column in cursor.description]
    at = columns.index("run_id")
    for row in cursor:
        yield columns, row[at], row


def _stored_columns(session: Session, table: str) -> str:
    """All columns but those that SQLite computes, which nobody may insert."""
    names = [row[1] for row in session.rows(f"PRAGMA table_info({table})")]
    return ", ".join(map(quoted, names))
