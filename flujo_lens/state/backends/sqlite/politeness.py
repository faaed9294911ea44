"""What a long deletion does between two of its transactions, so that others hardly notice it."""

from __future__ import annotations

import sqlite3
import time
from contextlib import suppress

from flujo_lens.state.backends.sqlite.space import checkpoint

__all__ = ["Politeness"]

_PAUSE = 0.01
"""Seconds in which whoever waits for the lock is sure to get it: SQLite itself looks again after 1, 2, 5, 10 ms."""

_BATCHES_A_CHECKPOINT = 8
_WINDOW, _BETWEEN_WINDOWS = 0.105, 0.7
"""Seconds that nobody holds the lock, and seconds after which that is due again: SQLite looks every 100 ms in the end,
and an application that comes in the middle waits a second for its first commit, before which it is not seen.
"""
_AS_USUAL = 1000
"""Pages of the WAL after which SQLite folds it in by itself."""


class Politeness:
    """Remembers whether others write, and when they last had the time to begin."""

    def __init__(self) -> None:
        self._version: int | None = None
        self._folds = False
        self._batches = 0
        self._last_window = time.monotonic()

    def rest(self, connection: sqlite3.Connection) -> float:
        """Fold in the WAL now and then; return how many seconds to leave to others.

        Called on a connection in no transaction, after each batch. Others are seen by what they commit. Never fails:
        whoever has the lock at this moment is left in peace.
        """
        try:
            return self._rest(connection)
        except sqlite3.Error:
            return _PAUSE

    def _rest(self, connection: sqlite3.Connection) -> float:
        if not self._folds:
            # From here on the WAL is folded in between batches, not at the end of one.
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            self._folds = True
        self._batches += 1
        began = time.monotonic()
        is_due = began - self._last_window > _BETWEEN_WINDOWS
        if is_due or self._batches % _BATCHES_A_CHECKPOINT == 0:
            checkpoint(connection)
        before, self._version = self._version, connection.execute("PRAGMA data_version").fetchone()[0]
        pause = _PAUSE if before is not None and before != self._version else 0.0
        return max(pause, self._window(began)) if is_due else pause

    def _window(self, began: float) -> float:
        """What is left of a window that began with the checkpoint."""
        now = time.monotonic()
        left = max(0.0, began + _WINDOW - now)
        self._last_window = now + left
        return left

    def end(self, connection: sqlite3.Connection) -> None:
        """Leave the connection as it was. Never fails."""
        if self._folds:
            checkpoint(connection)
            with suppress(sqlite3.Error):
                connection.execute(f"PRAGMA wal_autocheckpoint = {_AS_USUAL}")
