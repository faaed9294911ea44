"""The connection that writes: one, on a thread of its own; a call is one transaction and one hop.

With ``synchronous=NORMAL`` in WAL mode what was acknowledged survives the death of the process at any line; with
``FULL`` that of the machine. A process that dies in the middle of a call has changed nothing: SQLite rolls back.

Foreign keys are not enforced, as the library does not enforce them for what it saves: a step or a span may come
before its run. The rows of a run are deleted with it by name.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from flujo_lens.errors import BusyError, OperationFailedError, ReadOnlyStoreError
from flujo_lens.state.backends.sqlite.engine.connection_thread import ConnectionThread
from flujo_lens.state.backends.sqlite.engine.lock_retry import (
    SLICE,
    check_may_write,
    retry_while_locked,
    translate_write,
)
from flujo_lens.state.backends.sqlite.engine.read_connection import Identity, check_is_sqlite, identity, is_busy
from flujo_lens.state.backends.sqlite.schema import migrations
from flujo_lens.state.backends.sqlite.schema.tables import CREATE
from flujo_lens.state.backends.sqlite.writes.save_sql import is_large, save_large_state, save_state

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]


_NEW_FILE = 512 * 1024
"""Bytes that an empty store takes, with its WAL and some room."""


class _OlderSchemaError(Exception):
    """The store has to be migrated before this can be written."""


def _is_empty(path: Path) -> bool:
    try:
        return os.stat(path).st_size == 0
    except OSError:
        return True


class Writer:
    """Does transactions on one file, made at the first that creates it.

    Args:
        given: The database file, absolute; a link is followed whenever the file is opened.
        timeout: Seconds to wait for a lock.
        synchronous: ``NORMAL`` or ``FULL``.
        migrates: Whether a store of an older schema is migrated when something is written that needs the new one.
        alone: Does a function, which is handed what is set when it is to stop, while this backend reads nothing.
        make_way: Has the readers of the file in this process close it; whether all have, within some seconds.
    """

    def __init__(
        self,
        given: Path,
        timeout: float,
        synchronous: str,
        migrates: bool,
        alone: Callable[[Callable[[threading.Event], None]], Awaitable[None]],
        make_way: Callable[[Path, float], bool],
    ) -> None:
        self.given, self.path = given, Path(os.path.realpath(given))
        self.timeout, self.synchronous, self.migrates = timeout, synchronous, migrates
        self._alone, self._make_way = alone, make_way
        self._connection: sqlite3.Connection | None = None
        self._file: Identity | None = None
        self._wal: Identity | None = None
        self._layout = migrations.Layout()
        self._saved_last: str | None = None
        self._using = threading.Lock()
        self._thread = ConnectionThread(self._interrupt)

    def _interrupt(self) -> None:
        connection = self._connection
        if connection is not None:
            with suppress(sqlite3.ProgrammingError):
                connection.interrupt()

    async def close(self) -> None:
        """Close the connection and end the thread."""
        await self._thread.close(self._close)

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    async def save_state(self, values: tuple[Any, ...]) -> None:
        """Save a row of ``workflow_state`` in place of the one before."""
        if is_large(values):
            held = list(values)
            del values
            await self.write(lambda db: save_large_state(db, held), "workflow_state")
            return
        if not await self._thread.run(lambda: self._quickly(values)):
            await self.write(lambda db: save_state(db, values, is_newest=False), "workflow_state")
        self._saved_last = values[0]

    def _quickly(self, values: tuple[Any, ...]) -> bool:
        """Whether the row was saved without a wait. What stands in the way is found out by doing it again."""
        with self._using:
            if self._connection is None or self._layout.is_older or not self._is_there():
                return False
            try:
                save_state(self._connection, values, values[0] == self._saved_last)
            except (sqlite3.Error, ValueError, OverflowError):
                return False
            return True

    async def write(self, work: Work[T], *needs: str, creates: bool = True, hold: float | None = None) -> T | None:
        """Return ``work(connection)``, done in one transaction.

        Args:
            work: What to do; done again from its start when a migration had to come first.
            needs: The tables that must be of the newest schema.
            creates: Whether a file that is not there is made; else the answer is None.
            hold: Seconds to wait at most for readers when the work is done, since others cannot begin then;
                then it is undone, and done again from its start until the timeout.
        """
        if not creates and not os.path.exists(self.path):
            return None

        def attempt() -> T:
            with self._using:
                return self._in_transaction(work, needs, creates, hold)

        try:
            return await self._thread.run(attempt)
        except _OlderSchemaError:
            await self._alone(self._migrate)
            return await self._thread.run(attempt)

    def _migrate(self, stopped: threading.Event) -> None:
        with self._using:
            self._close()
            migrations.migrate(self.path, self.timeout, stopped)

    async def between(self, work: Work[T]) -> T | None:
        """Return ``work(connection)``, done in no transaction; None if there is no connection."""

        def attempt() -> T | None:
            with self._using:
                return work(self._connection) if self._connection is not None else None

        return await self._thread.run(attempt)

    def _in_transaction(self, work: Work[T], needs: tuple[str, ...], creates: bool, hold: float | None) -> T:
        deadline = time.monotonic() + self.timeout
        try:
            while True:
                try:
                    return self._attempt(work, needs, creates, deadline, hold)
                except sqlite3.Error as error:
                    if hold is None or not is_busy(error) or time.monotonic() > deadline:
                        raise
                    if self._thread.stopped.wait(hold):
                        raise
        except sqlite3.Error as error:
            if not is_busy(error):
                self._close()
            raise translate_write(error, self.path) from error
        except (UnicodeEncodeError, OverflowError) as error:
            raise OperationFailedError(f"{self.path} refused the write: {error}; nothing was changed") from error

    def _attempt(self, work: Work[T], needs: tuple[str, ...], creates: bool, deadline: float, hold: float | None) -> T:
        db = self._patiently(lambda: self._begun(needs, creates), deadline)
        try:
            result = work(db)
            self._patiently(db.commit, deadline if hold is None else min(deadline, time.monotonic() + hold))
        except BaseException:
            self._roll_back(db)
            raise
        return result

    def _patiently(self, step: Callable[[], T], deadline: float) -> T:
        return retry_while_locked(step, deadline, self._thread.stopped, self._passes)

    def _passes(self, error: sqlite3.Error) -> bool:
        """Whether what is in the way may go: a lock, or readers of this process, who are asked to."""
        name = getattr(error, "sqlite_errorname", "") or ""
        if name.startswith("SQLITE_READONLY") and os.access(self.path, os.W_OK):
            self._close()
            self._make_way(self.path, 0.0)
            return True
        return is_busy(error)

    def _begun(self, needs: tuple[str, ...], creates: bool) -> sqlite3.Connection:
        db = self._opened(creates)
        self._check(needs)
        db.execute("BEGIN IMMEDIATE")
        if self._is_there():
            return db
        self._roll_back(db)
        return self._begun(needs, creates)

    def _is_there(self) -> bool:
        """Whether the open file is the one at the path."""
        return identity(self.given) == self._file

    def _leave(self) -> None:
        """Close a file that is not at the path any more.

        What its WAL holds goes into it before: else it would stay behind, and be taken for that of the file that is
        there now. (Unless that has made one of its own: then ours has no name any more.) A second file under
        the same names may not be opened before nothing of this process has the first one open: to close it would
        drop the locks on the second.
        """
        if not self._make_way(self.path, self.timeout):
            raise BusyError(f"{self.path} is another file now; the previous one is still being read", hint="try again")
        if self._connection is not None and identity(f"{self.path}-wal") in (None, self._wal):
            with suppress(sqlite3.Error):
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._close()

    def _roll_back(self, db: sqlite3.Connection) -> None:
        try:
            db.rollback()
        except sqlite3.Error:
            self._close()

    def _opened(self, creates: bool) -> sqlite3.Connection:
        if self._connection is not None and not self._is_there():
            self._leave()
        if self._connection is None:
            self._connection = self._open(creates)
        return self._connection

    def _open(self, creates: bool) -> sqlite3.Connection:
        self.path = Path(os.path.realpath(self.given))
        fresh = creates and _is_empty(self.path)
        if fresh:
            self._make_folder()
            self._check_room()
        else:
            check_is_sqlite(self.path)
            check_may_write(self.path)
        self._file = identity(self.given)
        uri = f"file:{quote(str(self.path))}?mode={'rwc' if fresh else 'rw'}"
        wait = min(self.timeout, SLICE)
        connection = sqlite3.connect(uri, uri=True, timeout=wait, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(connection, creates)
            self._file = self._file or identity(self.given)
            self._wal = identity(f"{self.path}-wal")
        except BaseException:
            connection.close()
            raise
        return connection

    def _make_folder(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            hint = "make the folder, as a user who may, or name another place"
            message = f"cannot make {self.path.parent}: {error.strerror}"
            raise ReadOnlyStoreError(message, hint=hint, path=str(self.path)) from error

    def _check_room(self) -> None:
        """Refuse to begin a file for which there is no room: SQLite would leave an empty one."""
        room = shutil.disk_usage(self.path.parent).free
        if room < _NEW_FILE:
            raise OperationFailedError(
                f"cannot create {self.path}: its disk has only {room >> 10} KiB free; nothing was created",
                hint="free some space, or name a place on another disk",
            )

    def _prepare(self, connection: sqlite3.Connection, creates: bool) -> None:
        connection.execute(f"PRAGMA synchronous = {self.synchronous}")
        connection.execute("PRAGMA foreign_keys = off")
        # Another process may have made the file and not yet its tables: the first to come makes them.
        if creates and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
            connection.execute("PRAGMA journal_mode = wal")
            connection.executescript(f"BEGIN IMMEDIATE; {CREATE} COMMIT;")
        self._layout = migrations.read_layout(connection, self.path)

    def _check(self, needs: tuple[str, ...]) -> None:
        if not (needs and self._layout.is_older):
            return
        if self.migrates:
            self._close()
            raise _OlderSchemaError
        self._layout.check(needs, self.path)
