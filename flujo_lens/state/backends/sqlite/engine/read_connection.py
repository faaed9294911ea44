"""Opening a database file to look at it, without leaving a trace.

SQLite's own read-only mode is not enough: on a checkpointed WAL store it makes ``-wal`` and ``-shm`` files and
leaves them, it fails in a folder that is not writable, and it touches a ``-shm`` that is there. What is right
depends on the files next to it (measured with SQLite 3.40; `Way` names the cases)::

    rollback journal                 ROLLBACK   mode=ro: takes a shared lock, waits for a writer
    WAL, no -wal or an empty one     CLEAN      immutable=1: takes no lock, so re-checked after the read
    WAL, with -wal and -shm          LIVE       mode=ro, readonly_shm=1: sees the WAL, writes no byte
    WAL, -wal without -shm           LEFT       unix-none and an exclusive locking mode: the index of the WAL
                                                is built in memory; takes no lock, so re-checked

The re-check is by `os.stat` alone, and the header is read through a descriptor that is kept (see `_header`):
to close the file while a connection of this process is open drops the locks that SQLite holds, and the next
process to close the store deletes the WAL that the connection still writes to.
"""

from __future__ import annotations

import os
import shlex
import sqlite3
import stat
import threading
import time
from collections.abc import Callable
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from flujo_lens.errors import (
    NAME_ANOTHER,
    BusyError,
    CorruptStoreError,
    InternalError,
    LensError,
    NotAStoreError,
    OperationFailedError,
    ReadOnlyStoreError,
    UnreachableStoreError,
)
from flujo_lens.state.backends.sqlite.engine.engine_errors import ENGINE_ERRORS
from flujo_lens.state.unreachable_paths import databases_in, unreached

T = TypeVar("T")
Stamp = tuple[int, ...]
Identity = tuple[int, int]
WHO_MAY_WRITE = "the file, and the folder it is in, must be writable: write as the user that owns them"
_APPLICATION_DEFINED = ("no such collation sequence", "no such module", "no such function", "unknown function")
_MAY_I_READ = "read as a user who may read the file and its folder; `lens doctor` if it is there and readable"
_MAGIC = b"SQLite format 3\x00"
_WRITE_VERSION = 18
_WAL_HEADER = 32
"""Bytes of a ``-wal`` that has no page in it: killed at that point. SQLite itself tries for 10 s to read such a one."""

_MOST_KEPT = 64
_CACHE_KIB = 16 * 1024
"""Ids lie all over the trees that they are looked up in: with SQLite's 2 MiB, each look-up reads a page anew."""

_LOCK_WAIT = 0.1
"""Seconds that SQLite waits for a lock at a time: while it does, it cannot be interrupted."""

_kept: dict[tuple[int, int], int] = {}
_keeping = threading.Lock()
_UNFINISHED = "its last write was not finished, and only a writer can roll it back (there is a -journal file)"


class Way(Enum):
    """How a file has to be opened; the value is the query of its URI."""

    ROLLBACK = "mode=ro"
    CLEAN = "mode=ro&immutable=1"
    LIVE = "mode=ro&readonly_shm=1"
    LEFT = "mode=ro&vfs=unix-none"

    @property
    def locks(self) -> bool:
        """Whether SQLite itself sees to it that what is read belongs together."""
        return self in (Way.ROLLBACK, Way.LIVE)


def check_is_sqlite(path: Path) -> bytes:
    """Return the first 100 bytes of a database file.

    Raises:
        StoreNotFoundError: nothing is there.
        NotAStoreError: it is not a regular file, empty, or not a SQLite database.
        UnreachableStoreError: it cannot be read.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise _no_file(path)
        header = _header(path)
    except OSError as error:
        raise unreached(path, error) from error
    if not header:
        raise _not_a_store(path, "is an empty file, not a state store yet: the first save makes it one", True)
    if not header.startswith(_MAGIC):
        raise _not_a_store(path, "is not a SQLite database, so not a state store")
    return header


def _no_file(path: Path) -> NotAStoreError:
    inside = databases_in(path)
    if inside:
        why, place = f"{path} is a folder, and no SQLite store; {inside[0]} in it may be one", path / inside[0]
        return NotAStoreError(why, hint=f"lens list --store {shlex.quote(str(place))}", path=str(path))
    return _not_a_store(path, "is not a regular file, so it is not an SQLite store")


def _not_a_store(path: Path, why: str, is_empty: bool | None = None) -> NotAStoreError:
    return NotAStoreError(f"{path} {why}", hint=NAME_ANOTHER, path=str(path), empty=is_empty)


def _header(path: Path) -> bytes:
    """The first 100 bytes of a file, without closing it: that of the 64 files looked at last is kept open."""
    with _keeping:
        found = os.stat(path)
        descriptor = _kept.pop((found.st_dev, found.st_ino), None)
        if descriptor is None:
            descriptor = os.open(path, os.O_RDONLY)
            found = os.fstat(descriptor)
        _kept[found.st_dev, found.st_ino] = descriptor
        while len(_kept) > _MOST_KEPT:
            os.close(_kept.pop(next(iter(_kept))))
        return os.pread(descriptor, 100, 0)


def _way(path: Path, header: bytes) -> Way:
    if len(header) > _WRITE_VERSION and header[_WRITE_VERSION] == 1:
        return Way.ROLLBACK
    wal, shm = (os.path.exists(f"{path}-{end}") for end in ("wal", "shm"))
    if wal and shm and _stamp_of(f"{path}-wal")[0] != _WAL_HEADER:
        return Way.LIVE
    return Way.LEFT if _has_wal(path) else Way.CLEAN


def _has_wal(path: Path) -> bool:
    """Whether there is a ``-wal`` with anything in it. (SQLite would delete an empty one.)"""
    return _stamp_of(f"{path}-wal")[0] > _WAL_HEADER


def identity(path: Path | str) -> Identity | None:
    """What tells a file from every other, whatever its name is: device and inode; None if nothing is there."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino)


def is_busy(error: Exception) -> bool:
    """Whether another connection holds a lock."""
    name = getattr(error, "sqlite_errorname", "") or ""
    return name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))


def translate(error: Exception, path: Path) -> LensError:
    """The error of this package for one of `ENGINE_ERRORS`; the caller raises it ``from`` the original."""
    name = getattr(error, "sqlite_errorname", "") or ""
    where = str(path)
    if is_busy(error):
        return BusyError(
            f"{path} is locked by another process",
            hint="try later, or wait longer: --timeout SECONDS",
            path=where,
        )
    if name.startswith("SQLITE_READONLY_ROLLBACK"):
        hint = "start the application that writes it, or open it once with the sqlite3 shell"
        return UnreachableStoreError(f"cannot read {path}: {_UNFINISHED}", hint=hint, path=where)
    if isinstance(error, UnicodeDecodeError) or name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_TOOBIG")):
        words = error.object.decode(errors="backslashreplace") if isinstance(error, UnicodeDecodeError) else error
        return CorruptStoreError(
            f"{path} is damaged: {words}",
            hint=f"copy the file first; then `sqlite3 {path} .recover` saves what can be read",
            path=where,
        )
    if name.startswith("SQLITE_READONLY"):
        return ReadOnlyStoreError(f"{path} is read-only: {error}", hint=WHO_MAY_WRITE, path=where)
    if name.startswith("SQLITE_CONSTRAINT"):
        return OperationFailedError(f"{path} refused the write: {error}", path=where)
    if name.startswith(("SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_IOERR", "SQLITE_AUTH", "SQLITE_FULL")):
        return UnreachableStoreError(f"cannot read {path}: {error}", hint=_MAY_I_READ, path=where)
    if any(words in str(error) for words in _APPLICATION_DEFINED):
        message = f"{path} has an index, a trigger or a column that its application defines: {error}"
        hint = f"the `sqlite3 {path} .schema` command shows it; change this store through its application"
        return OperationFailedError(message, hint=hint, path=where)
    return InternalError(f"SQLite says of {path}: {error}", path=where)


def _stamp_of(path: Path | str) -> Stamp:
    try:
        found = os.stat(path)
    except OSError:
        return (0, 0, 0)
    return (found.st_size, found.st_mtime_ns, found.st_ino)


class Reader:
    """One read-only connection to one file, opened again when what it sees has become stale.

    Not thread-safe: every call but `interrupt` belongs on one thread.

    Args:
        path: The database file.
        timeout: Seconds to wait for a lock, or for the file to hold still.
        prepare: Called with each new connection before it is used.
    """

    def __init__(self, path: Path, timeout: float, prepare: Callable[[sqlite3.Connection], None]) -> None:
        self.given = Path(os.path.abspath(path))
        self.path = Path(os.path.realpath(path))
        self.timeout = timeout
        self._prepare = prepare
        self._connection: sqlite3.Connection | None = None
        self._way = Way.ROLLBACK
        self._stamp: Stamp | None = None
        self._file: Identity | None = None
        self._shm_is_useless = False
        self._stopped = False

    def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Return ``work(connection)``, all of whose reads see the store at one moment.

        Where no lock guards that, the work is done again if the file changed in between.

        Raises:
            BusyError: locked, or changing, for longer than the timeout.
            StoreError: the file is missing, damaged or no store.
        """
        deadline = time.monotonic() + self.timeout
        self._stopped = False
        while True:
            try:
                result = self._in_snapshot(work)
                if self.unchanged():
                    return result
            except ENGINE_ERRORS as error:
                waits = is_busy(error) and not self._stopped and time.monotonic() < deadline
                if not waits and self.is_final(error):
                    raise translate(error, self.path) from error
            self.close()
            if time.monotonic() > deadline:
                raise BusyError(f"{self.path} keeps changing while being read", hint="try again")

    def begin(self) -> None:
        """Open a connection and begin to read; what is read until `close` is the store at one moment.

        Raises:
            BusyError: locked for longer than the timeout.
            StoreError: the file is missing, damaged or no store.
        """
        deadline = time.monotonic() + self.timeout
        self._stopped = False
        while True:
            try:
                connection = self.connection()
                connection.execute("BEGIN")
                connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
            except ENGINE_ERRORS as error:
                waits = is_busy(error) and not self._stopped and time.monotonic() < deadline
                final = not waits and self.is_final(error)
                self.close()
                if final:
                    raise translate(error, self.path) from error
            else:
                return

    def _in_snapshot(self, work: Callable[[sqlite3.Connection], T]) -> T:
        connection = self.connection()
        connection.execute("BEGIN")
        try:
            return work(connection)
        finally:
            connection.rollback()

    def connection(self) -> sqlite3.Connection:
        """The open connection; opened if there is none, or if the one there is has become stale."""
        if self._connection is not None and not self._current():
            self.close()
        if self._connection is None:
            self._connection = self._open()
        return self._connection

    def _open(self) -> sqlite3.Connection:
        self.path = Path(os.path.realpath(self.given))
        header = check_is_sqlite(self.path)
        self._file = identity(self.path)
        way = _way(self.path, header)
        self._way = Way.LEFT if way is Way.LIVE and self._shm_is_useless else way
        self._stamp = None if self._way.locks else self._stat()
        uri = f"file:{quote(os.fsencode(self.path))}?{self._way.value}"
        wait = min(self.timeout, _LOCK_WAIT)
        connection = sqlite3.connect(uri, uri=True, timeout=wait, isolation_level=None, check_same_thread=False)
        connection.text_factory = partial(str, encoding="utf-8", errors="replace")
        try:
            if self._way is Way.LEFT:
                connection.execute("PRAGMA locking_mode = exclusive")  # before all that reads: it needs no -shm then
            connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def is_final(self, error: Exception) -> bool:
        """Whether a new connection would fail with the same error."""
        return self.unchanged() and not self._may_open_otherwise(error)

    def _may_open_otherwise(self, error: Exception) -> bool:
        """After a failure to use ``-wal`` and ``-shm``: they may be gone by now, or the ``-shm`` is useless."""
        name = getattr(error, "sqlite_errorname", "") or ""
        first = not self._shm_is_useless
        if self._way is Way.LIVE and first and name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY")):
            self._shm_is_useless = True
            return True
        return False

    def unchanged(self) -> bool:
        """Whether what was read since the connection was opened belongs together."""
        return self._stamp is None or self._stamp == self._stat()

    def _current(self) -> bool:
        """Whether a new read by the open connection would see the newest that was written to what is at the path."""
        return (
            identity(self.given) == self._file
            and self.unchanged()
            and not (self._way is Way.CLEAN and _has_wal(self.path))
        )

    def _stat(self) -> Stamp:
        return _stamp_of(self.path) + (_stamp_of(f"{self.path}-wal") if self._way is Way.LEFT else ())

    def interrupt(self) -> None:
        """Stop the statement that runs, or the waiting for a lock, from any thread."""
        self._stopped = True
        if self._connection is not None:
            self._connection.interrupt()

    def give_way(self) -> None:
        """Close a connection that maps the ``-shm``: SQLite lends its read-only mapping to a writer of this process.

        For the reader it is as if the file had changed.
        """
        if self._connection is not None and self._way is Way.LIVE:
            self.close()
            self._stamp = (-1,)

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return self._connection is not None

    def close(self) -> None:
        """Close the connection; the next use opens another."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        self._stamp = None
