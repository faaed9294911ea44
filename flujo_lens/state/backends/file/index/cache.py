"""A cache of a folder's `Table`, so that unchanged files are not read again.

One file a folder in the user's cache directory: a line with the format's version and a digest of the rest,
then the table's columns as JSON. A time without a zone is kept as the text that the file holds, so the
setting for naive times may change and the cache holds. Which rows count, see
`flujo_lens.state.backends.file.index.state_table`.

Anything wrong with the cache (missing, cut off, altered, another version, another owner, a directory that
cannot be written) means that there is none; it never is an error. Processes write it at once without harm:
each replaces the whole file.
"""

from __future__ import annotations

import os
import threading
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import orjson

from flujo_lens.folders import cache_folder
from flujo_lens.state.backends.core.fork_hooks import begin_anew_in_children
from flujo_lens.state.backends.file.format.document import history_folder
from flujo_lens.state.backends.file.index.state_table import Rows, Scan, Table, scan

if TYPE_CHECKING:
    from flujo_lens.serialization.codec import StateCodec
    from flujo_lens.state.backends.file.index.history_table import HistoryTable

__all__ = ["Catalogue", "IndexFile"]

R = TypeVar("R", bound=Rows)

WORTH_WRITING = 64
"""The cache is written when more than one row in so many has changed: reading a few files is cheaper."""

_FORMAT = b"flujo-lens files 3"
_FOLDER_MODE, _FILE_MODE = 0o700, 0o600


class IndexFile(Generic[R]):
    """The cache of one folder's table.

    Args:
        cache_dir: The directory for caches; made if it is missing. None for the user's own.
        folder: The folder of the store. A cache inside it is none: reading never writes there.
        kind: The table's class.
        stem: What the file's name begins with.
    """

    def __init__(self, cache_dir: Path | None, folder: Path, kind: type[R], stem: str) -> None:
        self._kind = kind
        chosen = cache_folder(os.environ) if cache_dir is None else cache_dir
        self.path = None if chosen is None else _index_path(chosen, folder, stem)

    def load(self) -> R:
        """The table, empty if the cache is missing or in any way wrong."""
        try:
            data = self._read()
        except OSError:
            return self._kind.empty()
        end = data.find(b"\n") + 1
        body = memoryview(data)[end:]
        return _parse(body, self._kind) if end and data[: end - 1] == _head(body) else self._kind.empty()

    def _read(self) -> bytes:
        if self.path is None:
            return b""
        with open(self.path, "rb") as file:
            own = os.fstat(file.fileno()).st_uid == os.geteuid()
            return file.read() if own else b""

    def save(self, table: R) -> None:
        """Put `table` in place of what was there; nothing happens where that is not possible."""
        if self.path is None:
            return
        body = _dump(table)
        part = f"{self.path}.{os.getpid()}-{os.urandom(4).hex()}.tmp"
        try:
            os.makedirs(os.path.dirname(self.path), _FOLDER_MODE, exist_ok=True)
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _FILE_MODE), "wb") as file:
                file.writelines((_head(body), b"\n", body))
            os.replace(part, self.path)
        except OSError:
            _forget(part)


def _index_path(cache_dir: Path, folder: Path, stem: str) -> str | None:
    """The file of a folder's cache; None if it would be inside the folder."""
    real, cache = os.path.realpath(folder), os.path.realpath(cache_dir)
    if cache == real or cache.startswith(os.path.join(real, "")):
        return None
    return os.path.join(cache, f"{stem}-{blake2b(os.fsencode(real), digest_size=16).hexdigest()}.index")


def _head(body: bytes | memoryview) -> bytes:
    return _FORMAT + b" " + blake2b(body, digest_size=16).hexdigest().encode()


def _parse(body: memoryview, kind: type[R]) -> R:
    try:
        columns = orjson.loads(body)
    except orjson.JSONDecodeError:
        return kind.empty()
    return kind.of(columns) if len(columns) == kind.width() else kind.empty()


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


def _forget(part: str) -> None:
    try:
        os.unlink(part)
    except OSError:
        return


class _Kept(Generic[R]):
    """A table, kept from call to call and from process to process."""

    def __init__(self, index: IndexFile[R]) -> None:
        self._index = index
        self.table = index.load()
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
                self._states = _Kept(IndexFile(self._cache_dir, self._folder, Table, "files"))
            found = scan(folder, self._states.table, stop)
            self._states.keep(found.settled(), found.reread)
            if found.has_history:
                self._add_histories(folder, found, stop)
            return found

    def _add_histories(self, folder: int, found: Scan, stop: threading.Event) -> None:
        from flujo_lens.state.backends.file.index.history_table import HistoryTable, scan_histories

        if self._histories is None:
            self._histories = _Kept(IndexFile(self._cache_dir, self._folder, HistoryTable, "histories"))
        with history_folder(folder) as histories:
            if histories is not None:
                found.histories = scan_histories(folder, histories, self._histories.table, self._codec, stop)
                self._histories.keep(found.histories.kept, found.histories.reread)

    def forget(self) -> None:
        """Let go of what is kept in memory."""
        with self._lock:
            self._states = self._histories = None
