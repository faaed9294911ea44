"""The thread of an `aiosqlite.Connection`: the one place that knows how aiosqlite passes work to it.

aiosqlite's own way back into the event loop cannot be used: if the loop was closed by then, its thread dies with a
traceback. So work is put into the connection's queue as it puts it there itself, with a place for the result that
takes it and drops it; the caller gets it by a `ThreadCall`. Nor is its way to open a file used, since a store is
opened again, on the same thread, whenever another file is at its path.

`Connection._tx` and, before 0.22, `Connection._stop_running` are not public: ``pyproject.toml`` allows the minor
versions that have them, and ``tests/drivers/test_aiosqlite_thread.py`` fails when one has not.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from typing import Any, NoReturn, Protocol

import aiosqlite


class _Dropped:
    """Stands where aiosqlite has the future of a call, and for its loop: what a function returns goes nowhere."""

    def get_loop(self) -> _Dropped:
        return self

    def call_soon_threadsafe(self, *_: object) -> None:
        """Take a result, or an error."""


_DROPPED: Any = _Dropped()


def _not_opened() -> NoReturn:
    raise sqlite3.ProgrammingError("this connection has a thread and no file")


def _new_connection() -> aiosqlite.Connection:
    """A connection whose thread does not keep the process alive: it is a daemon, as that which makes it."""
    made: list[aiosqlite.Connection] = []
    maker = threading.Thread(target=lambda: made.append(aiosqlite.Connection(_not_opened, 1)), daemon=True)
    maker.start()
    maker.join()
    return made[0]


def _stop(connection: aiosqlite.Connection) -> None:
    """Called on the thread of the connection: `stop` looks for a running loop, and has none to write to there."""
    stop: Callable[[], object] = getattr(connection, "stop", None) or connection._stop_running  # type: ignore[attr-defined]
    stop()


class _Ended(Protocol):
    """A thread that can be waited for."""

    def join(self) -> None: ...


class AiosqliteThread:
    """Does functions, one after the other, until it is stopped. It does not keep the process alive.

    Args:
        after: A thread that has been stopped: nothing is done before it has ended.
    """

    def __init__(self, after: _Ended | None = None) -> None:
        self._connection = _new_connection()
        self._queue: Any = self._connection._tx
        self._thread: threading.Thread | None = None
        self.put(self._begin)
        if after is not None:
            self.put(after.join)
        # Awaiting a connection starts its thread, and then opens a file.
        self._connection.__await__().close()

    def _begin(self) -> None:
        self._thread = threading.current_thread()
        self._thread.name = "lens-sqlite"

    def put(self, work: Callable[[], object]) -> None:
        """Have `work` done in its turn. An error of it is dropped, and the function kept until the next is done."""
        self._queue.put_nowait((_DROPPED, work))

    def stop(self) -> None:
        """End the thread after all that was put."""
        connection = self._connection
        self.put(lambda: _stop(connection))

    def join(self) -> None:
        """Wait for the end of the thread, which has done something, and been stopped."""
        assert self._thread is not None
        self._thread.join()
