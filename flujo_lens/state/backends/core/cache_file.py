"""A cache in the user's cache directory: a small SQLite file that several processes use, and that may be removed.

Anything wrong with the file (missing, cut off, of another version, another owner, a directory that cannot be written,
another process that holds it) means that a process has a database of its own instead, in a temporary file that SQLite
makes and removes by itself; it never is an error. After a restart of the machine, which may have lost a part of what
was written, the file is made anew.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar
from weakref import finalize

T = TypeVar("T")
D = TypeVar("D", bound="CacheDatabase")
Kind = Literal["shared", "own", "memory"]
Row = tuple[Any, ...]
Values = Sequence[Any]

_FOLDER_MODE, _FILE_MODE = 0o700, 0o600
_WAIT = 1.0
"""Seconds to wait for another process, which writes some rows at a time."""

_KEPT = 8_000
"""Kilobytes of the cache that are held in memory."""

_PAGE = 4096
"""Bytes of a page of it."""

_KINDS: tuple[Kind, ...] = ("shared", "shared", "own", "memory")
"""Which database is used, if the one before fails."""

_IN_USE = (5, 6, 8)
"""What SQLite says of a file that another process writes, or that may not be written: it is not broken."""

_BOOT = "/proc/sys/kernel/random/boot_id"
_TEMPORARY = ("/var/tmp", "/usr/tmp", "/tmp")


class CacheFile:
    """The file of a cache.

    Args:
        cache_dir: The directory for caches; made if it is missing. None: there is none.
        place: The folder of which it is a cache. One inside it is none: reading never writes there.
        kind: What is in it; the beginning of its name.
        what: What else the cache depends on.
    """

    def __init__(self, cache_dir: Path | None, place: Path, kind: str, what: str) -> None:
        self.path = None if cache_dir is None else _path(cache_dir, place, kind, what)

    def opened(self) -> sqlite3.Connection | None:
        """The file, made if it is missing; None if it cannot be used.

        Raises:
            sqlite3.Error: it is no cache.
        """
        if self.path is None:
            return None
        try:
            os.makedirs(os.path.dirname(self.path), _FOLDER_MODE, exist_ok=True)
            with suppress(OSError):
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, _FILE_MODE))
            found = os.stat(self.path)
        except OSError:
            return None
        if found.st_uid != os.geteuid():
            return None
        if found.st_size % _PAGE:
            raise sqlite3.DatabaseError("a part of the file is missing")
        return sqlite3.connect(self.path, timeout=_WAIT, isolation_level=None, check_same_thread=False)

    def forget(self) -> None:
        """Remove the file."""
        for name in (self.path, f"{self.path}-journal"):
            with suppress(OSError):
                os.unlink(name or "")


def _path(cache_dir: Path, place: Path, kind: str, what: str) -> str | None:
    """The file of a cache; None if it would be inside the folder."""
    real, cache = os.path.realpath(place), os.path.realpath(cache_dir)
    if cache == real or cache.startswith(os.path.join(real, "")):
        return None
    name = blake2b(os.fsencode(real) + b"\0" + what.encode(), digest_size=16).hexdigest()
    return os.path.join(cache, f"{kind}-{name}.sqlite")


def _own(*, in_memory: bool) -> sqlite3.Connection:
    """A database for this process alone: SQLite puts what it does not hold into a file that it removes."""
    places = (os.environ.get("SQLITE_TMPDIR"), os.environ.get("TMPDIR"), *_TEMPORARY)
    has_place = any(place and os.access(place, os.W_OK | os.X_OK) for place in places)
    path = "" if has_place and not in_memory else ":memory:"
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False)


class CacheDatabase:
    """An open cache. Safe to use from several threads.

    Texts in statements are ``CAST(? AS TEXT)``, since not every text can be handed over as one.

    Args:
        file: The file that processes share.
        kind: Which database: that file; one of this process, which begins as a copy of it, where that can be; or an
            empty one in memory.

    Raises (from any method):
        sqlite3.Error: it can no longer be used.
    """

    version = 1
    """A file of another version is none."""

    def __init__(self, file: CacheFile, kind: Kind = "shared") -> None:
        self._lock = threading.RLock()
        shared = None if kind == "memory" else file.opened()
        self._is_shared = kind == "shared" and shared is not None
        self._db = shared if self._is_shared and shared is not None else _own(in_memory=kind == "memory")
        if shared is not None and not self._is_shared:
            self._copy(shared)
        self._db.execute(f"PRAGMA page_size = {_PAGE}")
        self._db.execute(f"PRAGMA cache_size = -{_KEPT}")
        self._db.execute("PRAGMA synchronous = " + ("OFF" if _boot() or not self._is_shared else "NORMAL"))
        self._prepare()

    def schema(self) -> Iterable[str]:
        """The statements that make its tables."""
        return ()

    def _copy(self, shared: sqlite3.Connection) -> None:
        with closing(shared), suppress(sqlite3.Error):
            shared.execute("BEGIN")
            shared.execute("SELECT 1 FROM meta")  # a backup would wait for ever, if another process has locked the file
            shared.backup(self._db)
            if not self._is_current():
                self._db = _own(in_memory=False)

    def close(self) -> None:
        """Release the file."""
        with self._lock:
            self._db.close()

    def _prepare(self) -> None:
        if self._is_current():
            return
        with self.writing():
            if not self._is_current():
                if self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                    raise sqlite3.DatabaseError("a cache of another version, or of before a restart")
                for statement in self.schema():
                    self._db.execute(statement)
                self._db.execute("CREATE TABLE meta (version INT, boot TEXT, writes INT, is_odd INT)")
                self._db.execute("INSERT INTO meta VALUES (?, ?, 0, 0)", (self.version, _boot()))
        self._is_current()

    def _is_current(self) -> bool:
        try:
            version, boot, is_odd = self._db.execute("SELECT version, boot, is_odd FROM meta").fetchone() or (0, "", 0)
        except sqlite3.OperationalError as error:
            if "no such" not in str(error):
                raise
            return False
        if is_odd:
            self._db.text_factory = partial(str, encoding="utf-8", errors="surrogatepass")
        return bool(version == self.version and (boot == _boot() or not self._is_shared))

    def rows(self, query: str, values: Values = ()) -> list[Row]:
        """The rows of a query."""
        with self._lock:
            try:
                return self._db.execute(query, values).fetchall()
            except UnicodeEncodeError:
                return self._db.execute(query, _encoded(values)).fetchall()

    def value(self, query: str, values: Values = ()) -> Any:
        """The one value of a query.

        Raises:
            sqlite3.DatabaseError: it has none.
        """
        for row in self.rows(query, values):
            return row[0]
        raise sqlite3.DatabaseError("a part of the cache is missing")

    @property
    def writes(self) -> int:
        """How many transactions there were."""
        return int(self.value("SELECT writes FROM meta"))

    def each(self, statement: str, rows: Sequence[Values]) -> None:
        """Execute a statement once for each row of values."""
        if not rows:
            return
        try:
            self._db.executemany(statement, rows)
        except UnicodeEncodeError:
            self._db.execute("UPDATE meta SET is_odd = 1")
            self._db.text_factory = partial(str, encoding="utf-8", errors="surrogatepass")
            self._db.executemany(statement, map(_encoded, rows))

    @contextmanager
    def writing(self) -> Iterator[int]:
        """A transaction; its number."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                if self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
                    self._db.execute("UPDATE meta SET writes = writes + 1")
                    yield self.writes
                else:
                    yield 0
                self._db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise


class Cache(Generic[D]):
    """A cache that is opened when it is needed. One that fails is given up for another kind of database.

    Args:
        file: The file that processes share.
        opened: Opens a database.
    """

    def __init__(self, file: CacheFile, opened: Callable[[CacheFile, Kind], D]) -> None:
        self._file, self._opened = file, opened
        self._database: D | None = None
        self._kind = 0

    def use(self, work: Callable[[D], T]) -> T:
        """Return what `work` returns, which is called again if a database fails."""
        while True:
            try:
                if self._database is None:
                    self._database = self._opened(self._file, _KINDS[self._kind])
                    finalize(self, self._database.close).atexit = False
                return work(self._database)
            except (sqlite3.Error, OverflowError) as error:
                if self._kind + 1 == len(_KINDS):
                    raise
                self._fall_back(error)

    def give_up(self, database: CacheDatabase, error: Exception) -> None:
        """Use another database from now on, since this one failed elsewhere."""
        if self._database is database and self._kind + 1 < len(_KINDS):
            self._fall_back(error)

    def _fall_back(self, error: Exception) -> None:
        is_broken = getattr(error, "sqlite_errorcode", 0) & 0xFF not in _IN_USE
        if self._kind == 0 and is_broken:
            self._file.forget()
        self._kind = self._kind + 1 if is_broken else max(2, self._kind + 1)
        self.close()

    def close(self) -> None:
        """Release the file."""
        if self._database is not None:
            self._database.close()
        self._database = None


def _boot() -> str:
    """What names the time since the machine was started; "" if that is unknown."""
    with suppress(OSError), open(_BOOT) as file:
        return file.read().strip()
    return ""


def _encoded(values: Values) -> list[Any]:
    """Texts that have lone surrogates as bytes: names that are no UTF-8, and escapes in a file. The others stay texts,
    as columns of any type keep them.
    """
    return [value if _is_plain(value) else value.encode("utf-8", "surrogatepass") for value in values]


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return False
    return True
