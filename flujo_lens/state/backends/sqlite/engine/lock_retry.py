"""What connections that write have in common: waiting for locks, transactions, the errors of writes that failed."""

from __future__ import annotations

import errno
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from flujo_lens.errors import BusyError, LensError, OperationFailedError, ReadOnlyStoreError, UnreachableStoreError
from flujo_lens.state.backends.sqlite.engine.read_connection import WHO_MAY_WRITE, is_busy, translate

T = TypeVar("T")
SLICE = 0.01
"""Seconds that SQLite itself waits for a lock: while it does, it cannot be interrupted."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.05


def retry_while_locked(
    step: Callable[[], T],
    deadline: float,
    stopped: threading.Event,
    passes: Callable[[sqlite3.Error], bool] = is_busy,
) -> T:
    """Return ``step()``, tried again while another connection is in the way.

    Args:
        step: Does nothing when it fails.
        deadline: In seconds of the monotonic clock.
        stopped: Set when it is no longer wanted; ends the waiting at once.
        passes: Whether what an error tells of may go by itself.
    """
    pause = _FIRST_PAUSE
    while True:
        try:
            return step()
        except sqlite3.Error as error:
            left = deadline - time.monotonic()
            # Unequal pauses: many that wait for the same lock must not all come back at once.
            if not passes(error) or left <= 0 or stopped.wait(min(left, pause * random.uniform(0.5, 1))):
                raise
        pause = min(pause * 2, _LONGEST_PAUSE)


def check_may_write(path: Path) -> None:
    """See that a file may be written, before SQLite opens it.

    It opens one that is not writable for reading, with a ``-wal`` and a ``-shm`` that are not writable either, and
    leaves them behind.

    Raises:
        ReadOnlyStoreError: it may not.
    """
    if os.path.exists(path) and not os.access(path, os.W_OK):
        raise ReadOnlyStoreError(
            f"{path} is not writable: {os.strerror(errno.EACCES)}; nothing was changed",
            hint=WHO_MAY_WRITE,
            path=str(path),
        )


def connect(path: Path, timeout: float) -> sqlite3.Connection:
    """A connection that may write; a file that is not there is not made."""
    uri = f"file:{quote(str(path.absolute()))}?mode=rw"
    return sqlite3.connect(uri, uri=True, timeout=timeout, isolation_level=None)


@contextmanager
def transaction(db: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    """A transaction, which is rolled back after an error."""
    db.execute(f"BEGIN {kind}")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        db.rollback()
        raise


def translate_write(error: sqlite3.Error, path: Path) -> LensError:
    """`opening.translate` for a write that was rolled back."""
    name, where = getattr(error, "sqlite_errorname", "") or "", str(path)
    unchanged = "nothing was changed"
    if is_busy(error):
        return BusyError(
            f"{path} is locked by another process; {unchanged}",
            hint="try later, or wait longer: --timeout SECONDS",
            path=where,
        )
    if name.startswith(("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_TOOBIG", "SQLITE_NOMEM")):
        return OperationFailedError(
            f"cannot write {path}: {error}; {unchanged}",
            hint="is the disk full, the file as large as it may get, or the device failing? then try again",
            path=where,
        )
    if name.startswith(("SQLITE_READONLY", "SQLITE_PERM", "SQLITE_AUTH")):
        return ReadOnlyStoreError(f"{path} is not writable: {error}; {unchanged}", hint=WHO_MAY_WRITE, path=where)
    if name.startswith("SQLITE_CANTOPEN"):
        return UnreachableStoreError(
            f"cannot open {path} to write: {error}; {unchanged}",
            hint="the folder must be there, and both it and the file writable",
            path=where,
        )
    if name in ("SQLITE_ERROR", "SQLITE_CONSTRAINT", "SQLITE_INTERRUPT") or name.startswith("SQLITE_CONSTRAINT_"):
        return OperationFailedError(f"{path} refused the write: {error}; {unchanged}", path=where)
    return translate(error, path)
