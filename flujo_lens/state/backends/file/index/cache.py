"""A cache of what lists need of a folder, so that unchanged files are not read again.

One small SQLite file a folder in the user's cache directory, with one row for the table of states and one for that of
histories: its columns as JSON, which is read in a fraction of the time that rows of their own would take, and a digest
of that. A time without a zone is kept as the text that the file holds, so the setting for naive times may change and
the cache holds. Which rows count, see `flujo_lens.state.backends.file.index.state_table`.

Anything wrong with the cache (missing, cut off, altered, another version, another owner, a directory that cannot be
written, another process that writes it) means that there is none; it never is an error.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import orjson

from flujo_lens.folders import cache_folder
from flujo_lens.state.backends.core.fork_hooks import begin_anew_in_children
from flujo_lens.state.backends.file.format.document import history_folder
from flujo_lens.state.backends.file.index.state_table import Rows, Scan, Table, scan

if TYPE_CHECKING:
    import sqlite3

    from flujo_lens.serialization.codec import StateCodec
    from flujo_lens.state.backends.file.index.history_table import HistoryTable

R = TypeVar("R", bound=Rows)

WORTH_WRITING = 64
"""The cache is written when more than one row in so many has changed: reading a few files is cheaper."""

_VERSION = 4
_FOLDER_MODE, _FILE_MODE = 0o700, 0o600
_IN_USE = (5, 6)
"""What SQLite says of a file that another process writes: SQLITE_BUSY and SQLITE_LOCKED."""


class IndexFile:
    """The cache of one folder.

    Args:
        cache_dir: The directory for caches; made if it is missing. None for the user's own.
        folder: The folder of the store. A cache inside it is none: reading never writes there.
    """

    def __init__(self, cache_dir: Path | None, folder: Path) -> None:
        chosen = cache_folder(os.environ) if cache_dir is None else cache_dir
        self.path = None if chosen is None else _index_path(chosen, folder)

    def load(self, kind: type[R]) -> R:
        """A table, empty if the cache is missing or in any way wrong."""
        try:
            with self._opened() as db:
                return kind.empty() if db is None else _load(db, kind)
        except _errors():
            return kind.empty()

    def save(self, table: Rows) -> None:
        """Put `table` in place of what was there; nothing happens where that is not possible."""
        for is_last in (False, True):
            try:
                with self._opened(writes=True) as db:
                    if db is not None:
                        _save(db, table)
                return
            except _errors() as error:
                if is_last or getattr(error, "sqlite_errorcode", None) in _IN_USE:
                    return
            self._forget()

    @contextmanager
    def _opened(self, *, writes: bool = False) -> Iterator[sqlite3.Connection | None]:
        """The file; None if it is not there, or belongs to another user."""
        import sqlite3

        if writes and self.path is not None:
            os.makedirs(os.path.dirname(self.path), _FOLDER_MODE, exist_ok=True)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, _FILE_MODE))
        if self.path is None or os.stat(self.path).st_uid != os.geteuid():
            yield None
            return
        with closing(sqlite3.connect(self.path, timeout=0, isolation_level=None)) as db:
            yield db

    def _forget(self) -> None:
        for name in (self.path, f"{self.path}-journal"):
            with suppress(OSError):
                os.unlink(name or "")


def _errors() -> tuple[type[Exception], ...]:
    import sqlite3

    return OSError, sqlite3.Error, ValueError, OverflowError


def _index_path(cache_dir: Path, folder: Path) -> str | None:
    """The file of a folder's cache; None if it would be inside the folder."""
    real, cache = os.path.realpath(folder), os.path.realpath(cache_dir)
    if cache == real or cache.startswith(os.path.join(real, "")):
        return None
    return os.path.join(cache, f"files-{blake2b(os.fsencode(real), digest_size=16).hexdigest()}.sqlite")


# --- tables


def _load(db: sqlite3.Connection, kind: type[R]) -> R:
    found = "SELECT digest, columns FROM tables WHERE name = ? AND version = ?"
    row = db.execute(found, (kind.__name__, _VERSION)).fetchone()
    if row is None or not isinstance(row[1], bytes) or row[0] != _digest(row[1]):
        return kind.empty()
    columns = orjson.loads(row[1])
    return kind.of(columns) if len(columns) == kind.width() else kind.empty()


def _save(db: sqlite3.Connection, table: Rows) -> None:
    db.execute("PRAGMA synchronous = OFF")
    db.execute("BEGIN IMMEDIATE")
    db.execute("CREATE TABLE IF NOT EXISTS tables (name TEXT PRIMARY KEY, version INT, digest TEXT, columns BLOB)")
    columns = _dump(table)
    row = (type(table).__name__, _VERSION, _digest(columns), columns)
    db.execute("INSERT OR REPLACE INTO tables VALUES (?, ?, ?, ?)", row)
    db.execute("COMMIT")


def _digest(columns: bytes) -> str:
    return blake2b(columns, digest_size=16).hexdigest()


def _dump(table: Rows) -> bytes:
    try:
        return orjson.dumps(list(table.columns))
    except orjson.JSONEncodeError:
        clean = (at for at, row in enumerate(zip(*table.columns, strict=True)) if _dumps(row))
        return orjson.dumps(list(table.take(clean).columns))


def _dumps(row: tuple[Any, ...]) -> bool:
    """False for texts with lone surrogates: names that are no UTF-8, and escapes in a file."""
    try:
        orjson.dumps(row)
    except orjson.JSONEncodeError:
        return False
    return True


# --- tables that are kept


class _Kept(Generic[R]):
    """A table, kept from call to call and from process to process."""

    def __init__(self, index: IndexFile, kind: type[R]) -> None:
        self._index = index
        self.table = index.load(kind)
        self._stale = 0

    def keep(self, settled: R, reread: int) -> None:
        """Keep these rows, of which so many are new; written if enough has changed since they were."""
        count, before = len(settled.columns[0]), len(self.table.columns[0])
        self._stale += max(reread, before - (count - reread))
        if self._stale * WORTH_WRITING > count:
            self._index.save(settled)
            self._stale = 0
        self.table = settled


class Catalogue:
    """The tables of a folder's states and histories, kept from call to call and from process to process.

    Args:
        folder: The folder of the store.
        cache_dir: See `IndexFile`.
        codec: Reads histories.
    """

    def __init__(self, folder: Path, cache_dir: Path | None, codec: StateCodec) -> None:
        self._folder, self._cache_dir, self._codec = folder, cache_dir, codec
        self.begin()
        begin_anew_in_children(self)

    def begin(self) -> None:
        """Be as new: nothing is kept."""
        self._states: _Kept[Table] | None = None
        self._histories: _Kept[HistoryTable] | None = None
        self._lock = threading.Lock()

    def refresh(self, folder: int, stop: threading.Event) -> Scan:
        """The folder as it is now; see `scan`. A folder without histories costs nothing for them."""
        with self._lock:
            if self._states is None:
                self._states = _Kept(IndexFile(self._cache_dir, self._folder), Table)
            found = scan(folder, self._states.table, stop)
            self._states.keep(found.settled(), found.reread)
            if found.has_history:
                self._add_histories(folder, found, stop)
            return found

    def _add_histories(self, folder: int, found: Scan, stop: threading.Event) -> None:
        from flujo_lens.state.backends.file.index.history_table import HistoryTable, scan_histories

        if self._histories is None:
            self._histories = _Kept(IndexFile(self._cache_dir, self._folder), HistoryTable)
        with history_folder(folder) as histories:
            if histories is not None:
                found.histories = scan_histories(folder, histories, self._histories.table, self._codec, stop)
                self._histories.keep(found.histories.kept, found.histories.reread)

    def forget(self) -> None:
        """Let go of what is kept in memory."""
        with self._lock:
            self._states = self._histories = None
