"""The indexes of our own that make lists of failures and statistics fast, and gathering figures about all of them.

Their names begin with ``lens_idx_``. The library neither needs nor minds them: SQLite keeps them up to date for every
writer, at some cost for each save. A migration keeps those whose columns stay.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from flujo_lens.errors import OperationFailedError
from flujo_lens.state.backends.sqlite.engine.lock_retry import transaction
from flujo_lens.state.backends.sqlite.reads.queries import start_columns
from flujo_lens.state.backends.sqlite.schema.migrations import read_layout
from flujo_lens.state.backends.sqlite.schema.shape import Shape, read_shape
from flujo_lens.state.backends.sqlite.upkeep.vacuum import check_rooms, read_space, rooms_of_vacuum, taken, vacuum_open
from flujo_lens.state.maintenance import OptimizationPlan, Optimized, Space

OURS = "lens_idx_"
"""What the names of our indexes begin with."""


class _Index(NamedTuple):
    name: str
    table: str
    columns: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name} on {self.table}({', '.join(self.columns)})"

    @property
    def sql(self) -> str:
        return f"CREATE INDEX {self}"


def _wanted(shape: Shape) -> Iterator[_Index]:
    """All our indexes for the columns that there are."""
    if shape.has("workflow_state", "status", "updated_at"):
        # Failed and silent runs of the last hours: else every state of that status is read.
        yield _Index(f"{OURS}workflow_state_status_updated_at", "workflow_state", ("status", "updated_at"))
    times = [*start_columns(shape), *(name for name in ("updated_at", "end_time") if shape.has("runs", name))]
    if shape.has("runs", "status") and times:
        # The same for runs, of which any time may be the newest; with the id, their rows need not be read.
        yield _Index(f"{OURS}runs_status_times", "runs", ("status", *times, "run_id"))
    if shape.has("spans", "name", "status", "start_time", "end_time"):
        # Statistics of spans, off the index alone: their rows hold the attributes.
        yield _Index(f"{OURS}spans_figures", "spans", ("name", "status", "start_time", "end_time"))


def missing_of_ours(connection: sqlite3.Connection, path: Path) -> list[_Index]:
    """The indexes that `optimize` would make."""
    there = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'index'")}
    return [index for index in _wanted(read_shape(connection, path)) if index.name not in there]


def plan(connection: sqlite3.Connection, path: Path, *, vacuum: bool) -> OptimizationPlan:
    """What `optimize` would do; nothing is written.

    Raises:
        NotAStoreError, SchemaError: as `migrations.read_layout`.
    """
    read_layout(connection, path)
    rooms = rooms_of_vacuum(connection, path) if vacuum else ()
    return OptimizationPlan(
        path, tuple(map(str, missing_of_ours(connection, path))), vacuum, read_space(connection), rooms
    )


def optimize(
    path: Path, timeout: float, *, vacuum: bool, force: bool, stopped: threading.Event | None = None
) -> Optimized:
    """Make the indexes that are missing, and gather figures for the choice between all, in one transaction.

    A process that dies on any line of it leaves the file as it was, optimized, or with `vacuum`, vacuumed too.

    Args:
        path: The database file, absolute. No connection of this process may have it open.
        timeout: Seconds to wait for others to close it.
        vacuum: Whether to vacuum afterwards (`space.vacuum`).
        force: Do it while others have it open; they cannot write until it is done.
        stopped: Ends the waiting and the work when it is set.

    Raises:
        BusyError: another process has the file open, or with `force`, holds a lock.
        OperationFailedError: there is no room, or a write failed.
        StoreError: it is missing, damaged, no store, of a schema not written to, or cannot be written.
    """
    with taken(path, timeout, force=force, stopped=stopped) as db:
        before = read_space(db)
        check_rooms(rooms_of_vacuum(db, path) if vacuum else ())
        missing = _make(db, path)
        after = _vacuumed(db, path) if vacuum else read_space(db)
    return Optimized(tuple(map(str, missing)), before, after)


def _vacuumed(db: sqlite3.Connection, path: Path) -> Space:
    try:
        return vacuum_open(db, path)[1]
    except sqlite3.Error as error:
        raise OperationFailedError(
            f"{path} has its indexes, but could not be vacuumed: {error}; its size is unchanged",
            hint="lens optimize --vacuum tries again",
            path=str(path),
        ) from error


def _make(db: sqlite3.Connection, path: Path) -> list[_Index]:
    with transaction(db):
        read_layout(db, path)
        missing = missing_of_ours(db, path)
        for index in missing:
            db.execute(index.sql)
        db.execute("ANALYZE")
        return missing
