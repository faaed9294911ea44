"""One database file with the two connections on it: that which reads without a trace, and that which writes."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Hashable
from datetime import tzinfo
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar
from weakref import WeakSet

from flujo_lens.errors import StoreNotFoundError
from flujo_lens.state.backends.core.change_tokens import file_token
from flujo_lens.state.backends.core.fork_hooks import begin_anew_in_children
from flujo_lens.state.backends.sqlite.engine.connection_thread import ConnectionThread
from flujo_lens.state.backends.sqlite.engine.read_connection import Reader
from flujo_lens.state.backends.sqlite.engine.session import Session, open_session
from flujo_lens.state.unreachable_paths import unreached

if TYPE_CHECKING:
    from flujo_lens.state.backends.sqlite.writes.write_connection import Writer

T = TypeVar("T")
_RUNS_A_HOP = 200
_LARGE = 64 * 1024 * 1024
_inherited: list[object] = []
"""What the parent of a fork had open: it is not used, nor closed, which would drop its locks."""


class _Stores:
    """The stores of this process: readers of a file may have to close it."""

    def __init__(self) -> None:
        self._all: WeakSet[SqliteStore] = WeakSet()
        self.begin()
        begin_anew_in_children(self)

    def begin(self) -> None:
        """Be as new: nobody holds the lock."""
        self._lock = threading.Lock()

    def add(self, store: SqliteStore) -> None:
        with self._lock:
            self._all.add(store)

    def reading(self, path: Path) -> list[SqliteStore]:
        """Those whose reader has this file."""
        with self._lock:
            return [store for store in self._all if store.reader.path == path]


_stores = _Stores()


def make_way(path: Path, seconds: float = 0.0) -> bool:
    """Have every connection of this process that reads the file as `Reader.give_way` says closed, in its turn.

    Returns:
        Whether all of them are, after waiting for `seconds` at most.
    """
    turns = [store.thread.post(store.reader.give_way) for store in _stores.reading(path)]
    end = time.monotonic() + seconds
    return all(turn.wait(max(0.0, end - time.monotonic())) for turn in turns if turn is not None)


class SqliteStore:
    """Runs functions on the threads of its connections, one hop a call; they are opened when they are needed.

    Args:
        path: The database file.
        timeout: Seconds to wait for a lock.
        zone: How naive local times of old stores are read; None to find out from the store.
        synchronous: ``NORMAL`` or ``FULL``.
        migrates: Whether a store of an older schema is migrated when something is written that needs the new one.
    """

    def __init__(
        self,
        path: Path,
        timeout: float,
        zone: tzinfo | None = None,
        synchronous: str = "NORMAL",
        migrates: bool = True,
    ) -> None:
        self.path, self.timeout, self.zone = path, timeout, zone
        self.synchronous, self.migrates = synchronous, migrates
        self.begin()
        _stores.add(self)
        begin_anew_in_children(self)

    def begin(self) -> None:
        """Be as new: nothing open, no thread."""
        if "thread" in vars(self):
            _inherited.append(dict(vars(self)))
        self._session: Session | None = None
        self.reader = Reader(self.path, self.timeout, self._prepare)
        self.thread = ConnectionThread(self.reader.interrupt)
        self._clones: set[SqliteStore] = set()
        vars(self).pop("writer", None)

    @cached_property
    def writer(self) -> Writer:
        """The connection that writes; there is none before the first write."""
        from flujo_lens.state.backends.sqlite.writes.write_connection import Writer

        alone = self._without_reading
        return Writer(self.reader.given, self.timeout, self.synchronous, self.migrates, alone, make_way)

    @property
    def has_writer(self) -> bool:
        """Whether anything was written by this store."""
        return "writer" in vars(self)

    @property
    def is_large(self) -> bool:
        """Whether reading much of the file takes long."""
        try:
            return os.stat(self.path).st_size > _LARGE
        except OSError:
            return False

    def clone(self) -> SqliteStore:
        """Another store on the same file, with a connection and a thread of its own: others need not wait."""
        return SqliteStore(self.path, self.timeout, self.zone)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections and end the threads. What is called afterwards opens them again."""
        for clone in tuple(self._clones):
            await clone.close()
        await self.thread.close(self.reader.close)
        if self.has_writer:
            await self.writer.close()

    # --- reading

    def _prepare(self, connection: sqlite3.Connection) -> None:
        self._session = open_session(connection, self.path, self.zone)

    def session(self) -> Session:
        """What is known of the file that the reader has open."""
        assert self._session is not None
        return self._session

    async def read(self, work: Callable[[Session], T]) -> T:
        """Return ``work(session)``, all of whose reads see the store at one moment."""
        return await self.thread.run(lambda: self.read_now(work))

    def read_now(self, work: Callable[[Session], T]) -> T:
        """The same in the calling thread, of a store that no other thread uses."""
        return self.reader.run(lambda _: work(self.session()))

    async def iterate(self, make: Callable[[SqliteStore], Generator[T, None, None]]) -> AsyncIterator[T]:
        """Yield what ``make(clone)`` yields on a connection of its own: other calls may come between."""
        clone = self.clone()
        items = make(clone)
        self._clones.add(clone)
        try:
            async for item in clone.thread.iterate(items, _RUNS_A_HOP):
                yield item
        finally:
            self._clones.discard(clone)
            await clone.thread.close(items.close)

    async def forget_shape(self) -> None:
        """Have the next read look at the columns anew."""
        await self.thread.run(self.reader.close)

    async def change_token(self) -> Hashable:
        """What tells whether the file or its ``-wal`` was written. No connection is opened, and none stays open.

        `PRAGMA data_version` would need one, and then an application that ends could not checkpoint its ``-wal``.
        """
        if self.reader.is_open:
            await self.forget_shape()
        try:
            path = os.path.realpath(self.reader.given)
            return file_token(path, f"{path}-wal")
        except OSError as error:
            raise unreached(self.path, error) from error

    # --- writing

    async def write(
        self, work: Callable[[sqlite3.Connection], T], *needs: str, creates: bool = True, hold: float | None = None
    ) -> T:
        """Return ``work(connection)``, done in one transaction.

        Args:
            work: What to do; may be done again from its start.
            needs: The tables that must be of the newest schema.
            creates: Whether a file that is not there is made.
            hold: As of `Writer.write`.

        Raises:
            StoreNotFoundError: there is no file, and none is to be made.
        """
        done = await self.writer.write(lambda db: (work(db),), *needs, creates=creates, hold=hold)
        if done is None:
            raise StoreNotFoundError(f"there is no store at {self.path}", hint="nothing was created")
        return done[0]

    async def change(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """The same on tables of any version; None, and nothing done, if there is no file."""
        return await self.writer.write(work, creates=False)

    async def alone(self, work: Callable[..., T]) -> T:
        """Return ``work(path, timeout, stopped=...)``, done while no store of this process has the file open."""
        done: list[T] = []
        if self.has_writer:
            # The writer's is the last connection, which takes the -wal and the -shm away.
            await self._without_reading(lambda _: None)
            await self.writer.close()
        path, timeout = self.reader.path, self.timeout
        make_way(path)
        await self._without_reading(lambda stopped: done.append(work(path, timeout, stopped=stopped)))
        return done[0]

    async def _without_reading(self, work: Callable[[threading.Event], None]) -> None:
        def alone() -> None:
            self.reader.close()
            work(self.thread.stopped)

        await self.thread.run(alone)
