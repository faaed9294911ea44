"""The stores of this process: readers of a file may have to close it, and after a fork all begin anew."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakSet

if TYPE_CHECKING:
    from flujo_lens.state.backends.sqlite.engine.store import SqliteStore


class OpenStores:
    """The stores of this process."""

    def __init__(self) -> None:
        self._all: WeakSet[SqliteStore] = WeakSet()
        self._lock = threading.Lock()
        self._inherited: list[object] = []
        os.register_at_fork(after_in_child=self._renew)

    def add(self, store: SqliteStore) -> None:
        with self._lock:
            self._all.add(store)

    def all(self) -> tuple[SqliteStore, ...]:
        with self._lock:
            return tuple(self._all)

    def _renew(self) -> None:
        """In a child of `os.fork`: what the parent had open is not used, nor closed, which would drop its locks."""
        self._lock = threading.Lock()
        for store in self.all():
            self._inherited.append(dict(vars(store)))
            store.begin()


open_stores = OpenStores()


def make_way(path: Path, seconds: float = 0.0) -> bool:
    """Have every connection of this process that reads the file as `Reader.give_way` says closed, in its turn.

    Returns:
        Whether all of them are, after waiting for `seconds` at most.
    """
    turns = [store.thread.post(store.reader.give_way) for store in open_stores.all() if store.reader.path == path]
    end = time.monotonic() + seconds
    return all(turn.wait(max(0.0, end - time.monotonic())) for turn in turns if turn is not None)
