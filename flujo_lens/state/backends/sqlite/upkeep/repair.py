"""What of a database file's findings can be repaired without losing anything. Each is done by itself."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from flujo_lens.errors import LensError
from flujo_lens.state.backends.sqlite.engine.lock_retry import connect, transaction, translate_write
from flujo_lens.state.backends.sqlite.engine.read_connection import check_is_sqlite
from flujo_lens.state.backends.sqlite.schema.shape import Shape, read_shape
from flujo_lens.state.backends.sqlite.schema.tables import INDEXES, create_index
from flujo_lens.state.backends.sqlite.upkeep.vacuum import checkpoint, taken
from flujo_lens.state.maintenance import Repaired

_Fix = Callable[[Path, float, threading.Event], Repaired | None]


def missing_indexes(shape: Shape) -> list[str]:
    """The library's own indexes that a store lacks, of those whose columns it has."""
    there = [name for name, where in INDEXES.items() if shape.has(*where)]
    return [name for name in there if not shape.indexed(*INDEXES[name])]


def repair(path: Path, timeout: float, checks: Sequence[str], stopped: threading.Event) -> list[Repaired]:
    """Repair what these checks found, in their order.

    Args:
        path: The database file, absolute. No connection of this process may have it open.
        timeout: Seconds to wait for others.
        checks: The names of the checks; those that have no fix are left out.
        stopped: Ends the waiting and the work when it is set.
    """
    done = [_tried(check, _FIXES[check], path, timeout, stopped) for check in checks if check in _FIXES]
    return [repaired for repaired in done if repaired is not None]


def _tried(check: str, fix: _Fix, path: Path, timeout: float, stopped: threading.Event) -> Repaired | None:
    try:
        return fix(path, timeout, stopped)
    except LensError as error:
        return Repaired(check, left=": ".join(filter(None, (error.message, error.hint))).replace("\n", "; "))


def _make_indexes(path: Path, timeout: float, stopped: threading.Event) -> Repaired | None:
    with taken(path, timeout, stopped=stopped) as db, transaction(db):
        missing = missing_indexes(read_shape(db, path))
        for name in missing:
            db.execute(create_index(name))
    return Repaired("indexes", f"made {', '.join(missing)}") if missing else None


def _fold_wal(path: Path, timeout: float, stopped: threading.Event) -> Repaired | None:
    check_is_sqlite(path)
    try:
        with closing(connect(path, min(timeout, 1.0))) as db:
            folded = checkpoint(db, truncate=True)
    except sqlite3.Error as error:
        raise translate_write(error, path) from error
    if folded:
        return Repaired("WAL", "all of it is in the file now")
    return Repaired("WAL", left="another process reads from it: a part is in the file; close what has the store open")


_FIXES: Mapping[str, _Fix] = {"indexes": _make_indexes, "WAL": _fold_wal}
