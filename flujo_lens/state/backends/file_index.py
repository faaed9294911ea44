"""What `list` needs of every file of a folder, and a cache of it, so that unchanged files are not read again.

The cache is one file a folder in the user's cache directory: a line with the format's version and a digest of
the rest, then a JSON object with one entry a file (see `Entry`). A time without a zone is kept as the text
that the file holds, so the setting for naive times may change and the entries hold.

An entry counts as long as the four are what the system says now. Two writes within one tick of the file
system's clock could leave all four equal, so an entry is kept only if the file had been at rest for two
seconds when its folder was scanned: a later write then has another change time, which (other than the
modification time) no program can set. What has changed within the last two seconds is read each time.

Anything wrong with the cache (missing, cut off, altered, another version, another owner, a directory that
cannot be written) means that there is none; it never is an error. Processes write it at once without harm:
each replaces the whole file.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import orjson

from flujo_lens.state import interpret
from flujo_lens.state.backends import file_documents as documents
from flujo_lens.state.backends.file_documents import UnreadableFile
from flujo_lens.state.timestamps import EPOCH, parse_instant
from flujo_lens.state.views import UNREADABLE

__all__ = ["Catalogue", "Entry", "IndexFile", "Moment", "Scan", "Stopped", "scan"]

Entry = list[Any]
"""Of a file: `MTIME` and `CTIME` in nanoseconds, `SIZE`, `INODE`; of a run also `RUN_ID` to `READABLE`."""

Moment = int | str | None
"""Microseconds since 1970; the text of a time without a zone; None for what is no time."""

MICROSECOND = timedelta(microseconds=1)

MTIME, CTIME, SIZE, INODE = range(4)
RUN_ID, CREATED, UPDATED, STATUS, PIPELINE, VERSION, PARENT, BACKGROUND, READABLE = range(4, 13)

REST_NS = 2_000_000_000
"""How long a file must have been at rest before its entry is kept; no file system's clock is coarser."""

WORTH_WRITING = 64
"""The cache is written when more than one entry in so many has changed: reading a few files is cheaper."""

_FORMAT = b"flujo-lens files 1"
_FOLDER_MODE, _FILE_MODE = 0o700, 0o600


class Stopped(Exception):  # noqa: N818 - it is no error
    """The caller does not want the result any more."""


@dataclass(slots=True)
class Scan:
    """A folder at one moment. `moving` are the names whose entries must not be kept."""

    entries: dict[str, Entry] = field(default_factory=dict)
    moving: set[str] = field(default_factory=set)
    reread: set[str] = field(default_factory=set)
    foreign: int = 0
    """Files of other names than a store's."""
    leftovers: list[str] = field(default_factory=list)
    blobs: list[str] = field(default_factory=list)

    def settled(self) -> dict[str, Entry]:
        """The entries that may be kept."""
        if not self.moving:
            return self.entries
        return {name: entry for name, entry in self.entries.items() if name not in self.moving}


# --- scanning


def scan(folder: int, known: Mapping[str, Entry], stop: threading.Event) -> Scan:
    """Look at every file of a folder; read those of which `known` has no entry that holds.

    Raises:
        Stopped: `stop` was set on the way.
        OSError: the folder cannot be read.
    """
    found = Scan()
    at_rest = time.time_ns() - REST_NS
    names = _names(folder, found)
    found.entries = _unchanged(folder, names, known, stop)
    for name in names if len(found.entries) < len(names) else ():
        if stop.is_set():
            raise Stopped
        entry = None if name in found.entries else _entry(folder, name, found)
        if entry is not None:
            found.entries[name] = entry
            if entry[CTIME] > at_rest:
                found.moving.add(name)
    return found


def _names(folder: int, found: Scan) -> list[str]:
    """The names of the files that can be runs; the others are counted."""
    names = []
    with os.scandir(folder) as listing:
        for file in listing:
            name = file.name
            if name.endswith(documents.ENDING):
                names.append(name)
            elif name.endswith(documents.LEFTOVER):
                found.leftovers.append(name)
            elif file.is_file():
                found.foreign += 1
    found.blobs = [name for name in names if documents.is_blob(name)]
    return [name for name in names if not documents.is_blob(name)] if found.blobs else names


def _unchanged(folder: int, names: list[str], known: Mapping[str, Entry], stop: threading.Event) -> dict[str, Entry]:
    """The known entries that hold. The time of a second look at a big folder is spent here."""
    entries: dict[str, Entry] = {}
    stat, known_of = os.stat, known.get
    for name in names if known else ():
        entry = known_of(name)
        if entry is None or stop.is_set():
            continue
        try:
            now = stat(name, dir_fd=folder)
        except OSError:
            continue
        mtime, ctime, size, inode = entry[:RUN_ID]
        if mtime == now.st_mtime_ns and ctime == now.st_ctime_ns and size == now.st_size and inode == now.st_ino:
            entries[name] = entry
    return entries


def _entry(folder: int, name: str, found: Scan) -> Entry | None:
    """What is read of a file; None if the file is gone or no file."""
    try:
        now = documents.stat_document(folder, name)
    except UnreadableFile:
        found.moving.add(name)
        return _unreadable(name, [0, 0, 0, 0])
    if now is None:
        return None
    found.reread.add(name)
    return _read(folder, name, [now.st_mtime_ns, now.st_ctime_ns, now.st_size, now.st_ino], found)


def _read(folder: int, name: str, stamp: Entry, found: Scan) -> Entry | None:
    try:
        state = documents.load_object(folder, name, stamp[SIZE])
    except FileNotFoundError:
        return None
    except UnreadableFile as error:
        if isinstance(error.__cause__, OSError):
            # Whether this user may read the file can change without a change of the file.
            found.moving.add(name)
        return _unreadable(name, stamp)
    return stamp + _light(name, state) if documents.is_state(state) else stamp


def _unreadable(name: str, stamp: Entry) -> Entry:
    when = stamp[MTIME] // 1000 if stamp[MTIME] else None
    run_id = documents.stem_of(name)
    return [*stamp, run_id, when, when, UNREADABLE, "unknown", "latest", None, False, False]


def _light(name: str, state: dict[str, Any]) -> Entry:
    metadata = state.get("metadata")
    meta = metadata if isinstance(metadata, dict) else {}
    created, updated = state.get("created_at"), state.get("updated_at")
    moment = _moment(created)
    parent = state.get("parent_run_id") or meta.get("parent_run_id")
    return [
        documents.run_id_of(state, name),
        moment,
        moment if updated == created else _moment(updated),
        *_kind(_text(state.get("status")), _text(state.get("pipeline_name")), _text(state.get("pipeline_version"))),
        _text(parent),
        bool(state.get("is_background_task", meta.get("is_background_task"))),
        True,
    ]


def _moment(text: Any) -> Moment:
    when = parse_instant(text)
    if when is None:
        return None
    return text if datetime.fromisoformat(text).tzinfo is None else (when - EPOCH) // MICROSECOND


@lru_cache(maxsize=4096)
def _kind(status: str | None, pipeline: str | None, version: str | None) -> tuple[str, str, str]:
    """Status, pipeline and version by the rules of everything that is shown; a store has few of them."""
    raw = interpret.RawRun("", has_state=True, state_status=status, state_name=pipeline, state_version=version)
    return interpret.status_of(raw), *interpret.named(raw)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) or value is None else str(value)


# --- the cache


class IndexFile:
    """The cache of one folder's entries.

    Args:
        cache_dir: The directory for caches; made if it is missing. None for the user's own.
        folder: The folder of the store. A cache inside it is none: reading never writes there.
    """

    def __init__(self, cache_dir: Path | None, folder: Path) -> None:
        chosen = _user_cache() if cache_dir is None else cache_dir
        real, cache = os.path.realpath(folder), os.path.realpath(chosen)
        inside = cache == real or cache.startswith(os.path.join(real, ""))
        # Without a home the user's cache directory begins with a bare "~".
        nowhere = cache_dir is None and not chosen.is_absolute()
        name = f"files-{blake2b(os.fsencode(real), digest_size=16).hexdigest()}.index"
        self.path = None if inside or nowhere else os.path.join(cache, name)

    def load(self) -> dict[str, Entry]:
        """The entries, none if the cache is missing or in any way wrong."""
        try:
            data = self._read()
        except OSError:
            return {}
        end = data.find(b"\n") + 1
        body = memoryview(data)[end:]
        return _parse(body) if end and data[: end - 1] == _head(body) else {}

    def _read(self) -> bytes:
        if self.path is None:
            return b""
        with open(self.path, "rb") as file:
            own = os.fstat(file.fileno()).st_uid == os.geteuid()
            return file.read() if own else b""

    def save(self, entries: dict[str, Entry]) -> None:
        """Put `entries` in place of what was there; nothing happens where that is not possible."""
        if self.path is None:
            return
        body = _dump(entries)
        part = f"{self.path}.{os.getpid()}-{os.urandom(4).hex()}.tmp"
        try:
            os.makedirs(os.path.dirname(self.path), _FOLDER_MODE, exist_ok=True)
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _FILE_MODE), "wb") as file:
                file.writelines((_head(body), b"\n", body))
            os.replace(part, self.path)
        except OSError:
            _forget(part)


def _user_cache() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("flujo-lens")


def _head(body: bytes | memoryview) -> bytes:
    return _FORMAT + b" " + blake2b(body, digest_size=16).hexdigest().encode()


def _parse(body: memoryview) -> dict[str, Entry]:
    # One call that makes a list a file, and nothing that a collection could find: it would look at all in vain.
    collecting = gc.isenabled()
    gc.disable()
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    finally:
        if collecting:
            gc.enable()
    return found if isinstance(found, dict) else {}


def _dump(entries: dict[str, Entry]) -> bytes:
    try:
        return orjson.dumps(entries)
    except orjson.JSONEncodeError:
        return orjson.dumps({name: entry for name, entry in entries.items() if _dumps({name: entry})})


def _dumps(value: Any) -> bool:
    """False for texts with lone surrogates: names that are no UTF-8, and escapes in a file."""
    try:
        orjson.dumps(value)
    except orjson.JSONEncodeError:
        return False
    return True


def _forget(part: str) -> None:
    try:
        os.unlink(part)
    except OSError:
        return


class Catalogue:
    """The entries of a folder, kept from call to call and from process to process.

    Args:
        folder: The folder of the store.
        cache_dir: See `IndexFile`.
    """

    def __init__(self, folder: Path, cache_dir: Path | None) -> None:
        self._folder, self._cache_dir = folder, cache_dir
        self._index: IndexFile | None = None
        self._kept: dict[str, Entry] = {}
        self._stale = 0
        self._lock = threading.Lock()

    def refresh(self, folder: int, stop: threading.Event) -> Scan:
        """The folder as it is now; see `scan`."""
        with self._lock:
            if self._index is None:
                self._index = IndexFile(self._cache_dir, self._folder)
                self._kept = self._index.load()
            found = scan(folder, self._kept, stop)
            settled = found.settled()
            read = len(found.reread - found.moving)
            self._stale += max(read, len(self._kept) - (len(settled) - read))
            if self._stale * WORTH_WRITING > len(settled):
                self._index.save(settled)
                self._stale = 0
            self._kept = settled
            return found

    def forget(self) -> None:
        """Let go of what is kept in memory."""
        with self._lock:
            self._index, self._kept = None, {}
