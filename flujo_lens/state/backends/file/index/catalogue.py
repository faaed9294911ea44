"""Looks at a folder: its index is brought up to date, and the files that have changed are read."""

from __future__ import annotations

import os
import stat
import threading
import time
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from flujo_lens.folders import cache_folder
from flujo_lens.serialization.codec import StateCodec
from flujo_lens.state.backends.core.fork_hooks import begin_anew_in_children
from flujo_lens.state.backends.core.worker_pool import Stopped
from flujo_lens.state.backends.file.format import document as documents
from flujo_lens.state.backends.file.format import history as file_history
from flujo_lens.state.backends.file.format.document import HISTORY, INODE, history_folder
from flujo_lens.state.backends.file.format.tombstones import read_graves
from flujo_lens.state.backends.file.index.state_table import (
    MICROSECOND,
    Moment,
    Named,
    at_rest,
    read_states,
)
from flujo_lens.state.timestamps import EPOCH, parse_instant

if TYPE_CHECKING:
    from flujo_lens.state.backends.core.cache_file import Cache
    from flujo_lens.state.backends.file.index.cache import Index, Place

_BATCH = 1_000
"""Files that are read before what they tell is written."""

_SETTLED = 6
"""The columns of a row of `Index.stamps` that have to be the same."""


@dataclass(slots=True)
class Look:
    """A folder at one moment."""

    index: Index
    zone: tzinfo
    """The zone of naive times."""
    seen: int = 0
    """The number of the last write that belongs to it."""
    foreign: int = 0
    """Files of other names than a store's."""
    leftovers: list[str] = field(default_factory=list)
    blobs: list[str] = field(default_factory=list)
    has_history: bool = False
    """Whether there is a sub-folder of histories."""
    unreadable: int = 0
    """Histories that may not be read."""


class Catalogue:
    """The index of a folder, kept from call to call and from process to process.

    Args:
        folder: The folder of the store.
        zone: The zone of naive times.
        cache_dir: The directory for caches; None for the user's own.
        codec: Reads histories.
    """

    def __init__(self, folder: Path, zone: tzinfo, cache_dir: Path | None, codec: StateCodec) -> None:
        self._folder, self._zone, self._cache_dir, self._codec = folder, zone, cache_dir, codec
        self.begin()
        begin_anew_in_children(self)

    def begin(self) -> None:
        """Be as new, in a child of `os.fork`: what the parent has open is its own."""
        self._parents = getattr(self, "_cache", None)
        self._cache: Cache[Index] | None = None
        self._lock = threading.Lock()

    def refresh(self, folder: int, stop: threading.Event) -> Look:
        """Look at an open folder.

        Raises:
            Stopped: `stop` was set on the way.
            OSError: the folder cannot be read.
        """
        with self._lock:
            self._cache = self._cache or self._made()
            return self._cache.use(lambda index: self._look(index, folder, stop))

    def give_up(self, index: Index, error: Exception) -> None:
        """Use another index from now on, since this one fails."""
        with self._lock:
            if self._cache is not None:
                self._cache.give_up(index, error)

    def _made(self) -> Cache[Index]:
        from flujo_lens.state.backends.core.cache_file import Cache, CacheFile
        from flujo_lens.state.backends.file.index.cache import Index

        chosen = cache_folder(os.environ) if self._cache_dir is None else self._cache_dir
        file = CacheFile(chosen, self._folder, "files", _name_of(self._zone))
        micros = partial(_micros, self._zone)
        return Cache(file, lambda file, kind: Index(file, micros, kind))

    def forget(self) -> None:
        """Let go of what is open."""
        with self._lock:
            if self._cache is not None:
                self._cache.close()

    # --- looking

    def _look(self, index: Index, folder: int, stop: threading.Event) -> Look:
        found, since, rested = Look(index, self._zone), index.writes, at_rest()
        names = _names(folder, found)
        with history_folder(folder) as histories:
            graves = read_graves(folder, histories)
            names = [name for name in names if name not in graves.states] if graves else names
            for files, gone, before in _compared(index, "states", folder, names, stop):
                rows, lost = read_states(folder, files, rested, stop)
                index.put("states", rows, [*gone, *lost], before, since)
            names = []
            if histories is not None:
                ending = file_history.ENDING
                names = [n for n in os.listdir(histories) if n.endswith(ending) and n not in graves.histories]
            self._add_histories(found, folder, histories or 0, names, (since, rested), stop)
        index.derive()
        found.seen = index.writes
        return found

    def _add_histories(
        self, found: Look, folder: int, histories: int, names: list[str], since: tuple[int, int], stop: threading.Event
    ) -> None:
        from flujo_lens.state.backends.file.index.history_table import read_histories

        for files, gone, before in _compared(found.index, "histories", histories, names, stop):
            rows, lost, unreadable = read_histories(folder, histories, files, since[1], self._codec, stop)
            found.unreadable += unreadable
            found.index.put("histories", rows, [*gone, *lost], before, since[0])


def _micros(zone: tzinfo, moment: Moment) -> int | None:
    """A time of a state in microseconds since 1970."""
    if isinstance(moment, str):
        when = parse_instant(moment, zone)
        return None if when is None else micros_of(when)
    return moment


def micros_of(when: datetime) -> int:
    """An instant in microseconds since 1970."""
    return (when - EPOCH) // MICROSECOND


def _name_of(zone: tzinfo) -> str:
    """What names a zone, of the machine's by its settings."""
    name = getattr(zone, "key", None) or zone.tzname(None)
    return name or " ".join((*time.tzname, os.environ.get("TZ", ""), os.path.realpath("/etc/localtime")))


def _names(folder: int, found: Look) -> list[str]:
    """The names of the files that can be runs; the others are counted."""
    names = []
    with os.scandir(folder) as listing:
        for file in listing:
            name = file.name
            if name.endswith(documents.ENDING):
                names.append(name)
            elif name.endswith(documents.LEFTOVER):
                found.leftovers.append(name)
            elif name == HISTORY and file.is_dir(follow_symlinks=False):
                found.has_history = True
            elif _is_file(file):
                found.foreign += 1
    found.blobs = [name for name in names if documents.is_blob(name)]
    return [name for name in names if not documents.is_blob(name)] if found.blobs else names


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link that leads in a circle, or where access is denied
        return False


def _compared(
    index: Index, place: Place, folder: int, names: list[str], stop: threading.Event
) -> Iterator[tuple[list[Named], list[str], list[str | None]]]:
    """The files whose rows do not hold, the names of those that are not there any more, and the runs that these had;
    some at a time.

    A second look at a big folder spends its time here.
    """
    names.sort()
    begin = 0
    for known in chain(index.stamps(place), ([],)):
        end = bisect_right(names, known[-1][0], begin) if known else len(names)
        row_of = {row[0]: row for row in known}
        others: list[Named] = []
        before: list[str | None] = []
        for name in names[begin:end]:
            if stop.is_set():
                raise Stopped
            row = row_of.pop(name, None)
            try:
                now = os.stat(name, dir_fd=folder)
                stamp = now.st_mtime_ns, now.st_ctime_ns, now.st_size, now.st_ino & INODE
                if row is not None and row[:_SETTLED] == (name, *stamp, 1):
                    continue
                others.append((name, documents.stamp_of(now) if stat.S_ISREG(now.st_mode) else None))
            except OSError:
                others.append((name, None))
            if row is not None:
                before.append(row[_SETTLED])
            if len(others) >= _BATCH:
                yield others, [], before
                others, before = [], []
        if others or row_of:
            yield others, list(row_of), before + [row[_SETTLED] for row in row_of.values()]
        begin = end
