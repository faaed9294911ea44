"""What a long deletion does between two of its transactions, so that others hardly notice it."""

from __future__ import annotations

import sqlite3
import time
from contextlib import suppress

HOLD = 0.1
"""Seconds that the end of a batch waits for readers while no other can begin to read."""

LONGEST, _LONGEST_WITH_OTHERS = 0.06, 0.015
"""Seconds that a transaction takes at most: by itself, and where others write. They poll: see `_PAUSE`."""

_PAUSE = 0.01
"""Seconds in which one that waits for the lock is sure to get it: SQLite itself looks again after 1, 2, 5, 10 ms."""

_SEEN = 1.0
"""Seconds for which others are expected to write again."""

_PAGES = 400
"""Pages of the WAL after which it is folded in: well before the 1,000 at which the commit of another connection does
that, and waits for the disk.
"""

_PAGES_A_ROW = 20.0
"""Pages that a deleted row takes of the WAL, until it is known: those of large values are many."""

_WINDOW, _BETWEEN_WINDOWS = 0.105, 0.7
"""Seconds in which the lock is free, and seconds after which that is due again: SQLite looks every 100 ms in the end,
and an application that comes in the middle waits a second for its first commit, before which it is not seen.
"""
_AS_USUAL = 1000
"""Pages of the WAL after which SQLite folds it in by itself."""


class Pacing:
    """Remembers whether others write, when they last had the time to begin, and how far the WAL has grown."""

    def __init__(self) -> None:
        self._version: int | None = None
        self._folds = False
        self._folded_at = 0
        self._pages_a_row = _PAGES_A_ROW
        self._others_until = 0.0
        self._last_window = time.monotonic()

    @property
    def longest(self) -> float:
        """Seconds that the next transaction should take at most."""
        return _LONGEST_WITH_OTHERS if time.monotonic() < self._others_until else LONGEST

    def begin(self, connection: sqlite3.Connection) -> None:
        """Have the WAL begin anew, if it can: on a full disk what it holds is the room that there is. Never fails."""
        with suppress(sqlite3.Error):
            self._take_over(connection)
            self._fold(connection)

    def _take_over(self, connection: sqlite3.Connection) -> None:
        """From here on the WAL is folded in between batches, not at the end of one."""
        if not self._folds:
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            self._folds = True

    def rest(self, connection: sqlite3.Connection) -> float:
        """Fold in the WAL now and then; return how many seconds to leave to others.

        Called on a connection in no transaction, after each batch. Others are seen by what they commit. Never fails:
        a lock that another has at this moment is left to it.
        """
        try:
            return self._rest(connection)
        except sqlite3.Error:
            return _PAUSE

    def _rest(self, connection: sqlite3.Connection) -> float:
        self._take_over(connection)
        began = time.monotonic()
        before, self._version = self._version, connection.execute("PRAGMA data_version").fetchone()[0]
        if before is not None and before != self._version:
            self._others_until = began + _SEEN
        is_due = began - self._last_window > _BETWEEN_WINDOWS
        if is_due or (connection.total_changes - self._folded_at) * self._pages_a_row > _PAGES:
            self._fold(connection)
        pause = _PAUSE if began < self._others_until else 0.0
        return max(pause, self._window(began)) if is_due else pause

    def _fold(self, connection: sqlite3.Connection) -> None:
        """Fold the WAL into the file, and have the next transaction begin it anew.

        Most of it is folded in while others write. What they write in that time would keep it from ever beginning anew:
        those few pages are folded in while they wait, as they do for a batch.
        """
        busy, there, _ = connection.execute("PRAGMA wal_checkpoint(passive)").fetchone()
        if busy or there > (_PAGES if self._folded_at else 0):
            busy = connection.execute("PRAGMA wal_checkpoint(restart)").fetchone()[0]
        rows = connection.total_changes - self._folded_at
        if there > 0 and rows > 0:
            self._pages_a_row = max(there / rows, self._pages_a_row / 2)
        if not busy:
            self._folded_at = connection.total_changes

    def _window(self, began: float) -> float:
        """What is left of a window that began with the checkpoint."""
        now = time.monotonic()
        left = max(0.0, began + _WINDOW - now)
        self._last_window = now + left
        return left

    def end(self, connection: sqlite3.Connection) -> None:
        """Leave the connection as it was, and nothing for others to fold in. Never fails."""
        if self._folds:
            with suppress(sqlite3.Error):
                self._fold(connection)
            with suppress(sqlite3.Error):
                connection.execute(f"PRAGMA wal_autocheckpoint = {_AS_USUAL}")
