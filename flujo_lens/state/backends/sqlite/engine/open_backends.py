"""The backends of this process: readers of a SQLite file may have to let go of it, and after a fork all begin anew."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakSet

if TYPE_CHECKING:
    from flujo_lens.state.backends.sqlite.read_methods import SQLiteReads

__all__ = ["living", "make_way"]


class Living:
    """The backends of this process."""

    def __init__(self) -> None:
        self._all: WeakSet[SQLiteReads] = WeakSet()
        self._lock = threading.Lock()
        self._inherited: list[object] = []
        os.register_at_fork(after_in_child=self._renew)

    def add(self, reads: SQLiteReads) -> None:
        with self._lock:
            self._all.add(reads)

    def all(self) -> tuple[SQLiteReads, ...]:
        with self._lock:
            return tuple(self._all)

    def _renew(self) -> None:
        """In a child of `os.fork`: what the parent had open is not used, nor closed, which would drop its locks."""
        self._lock = threading.Lock()
        for reads in self.all():
            self._inherited.append(dict(vars(reads)))
            reads._begin()


living = Living()


def make_way(path: Path, seconds: float = 0.0) -> bool:
    """Have every connection of this process that reads the file as `Reader.give_way` says closed, in its turn.

    Returns:
        Whether all of them are, after waiting for so many seconds at most.
    """
    turns = [reads._thread.post(reads._reader.give_way) for reads in living.all() if reads._reader.path == path]
    end = time.monotonic() + seconds
    return all(turn.wait(max(0.0, end - time.monotonic())) for turn in turns if turn is not None)
