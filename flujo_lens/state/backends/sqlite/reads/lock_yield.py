"""Letting others write while a store without a WAL is read for long.

There a reader keeps everybody from committing, and an application waits a second before it takes that for a corrupt
file. So a long read is cut into many, between which the lock is free; what is read is then not of one moment.
"""

from __future__ import annotations

import sqlite3
import threading
import time

from flujo_lens.state.backends.sqlite.engine.lock_retry import retry_while_locked

_LONGEST = 0.1
"""Seconds of one read."""

_LONGEST_WAIT = 5.0
"""Seconds to wait for those that write then."""


class LockYielder:
    """The pauses of one long read, in the transaction that is open on a connection."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._is_in_the_way = str(db.execute("PRAGMA journal_mode").fetchone()[0]).lower() != "wal"
        self._since = time.monotonic()

    def take(self) -> None:
        """Let others write, if they had to wait for long; to be called while no query is open.

        Raises:
            sqlite3.Error: another connection writes for longer than any should.
        """
        if self._is_in_the_way and time.monotonic() - self._since > _LONGEST:
            self._db.rollback()
            retry_while_locked(self._begin, time.monotonic() + _LONGEST_WAIT, threading.Event())
            self._since = time.monotonic()

    def _begin(self) -> None:
        if not self._db.in_transaction:
            self._db.execute("BEGIN")
        self._db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
