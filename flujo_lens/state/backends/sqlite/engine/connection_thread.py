"""One thread for one store, kept by aiosqlite: a call is one hop, and a cancelled one stops its statement.

An `aiosqlite.Connection` is a thread, a queue and the way back into the caller's event loop. It calls
``execute(sql, parameters)`` of a `sqlite3.Connection` there; the one that it is given here takes a function in place
of the SQL, so ``execute_fetchall(function)`` runs a whole transaction in one hop. The functions open the store's own
connections, on this thread, in whatever way the file asks for at that moment.

aiosqlite leaves three things to its callers, which are kept here by its public methods:

- A process whose connections nobody closes would never end, for aiosqlite's threads are no daemons. A daemon thread
  waits for the end of the main thread, and stops whatever is open then.
- When an event loop is closed in the middle of a call, aiosqlite's thread ends as it delivers the result, and each
  later call would wait for ever. A call whose loop is closed and that did not come back means another connection.
- A call that is cancelled goes on behind the caller's back. Here it is interrupted, and waited for.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import islice
from typing import Any, TypeVar

import aiosqlite

__all__ = ["ConnectionThread"]

T = TypeVar("T")


class _Functions(sqlite3.Connection):
    """A connection that executes functions."""

    def execute(self, sql: Any, parameters: Any = (), /) -> Any:
        sql()
        return self

    def fetchall(self) -> None:
        """What aiosqlite asks for then; the outcome is with the call itself."""


def _functions() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", factory=_Functions, check_same_thread=False)


def _nothing() -> None:
    return


# --- the end of the process, and of what was forgotten


class _OpenConnections:
    """The connections of this process, so that they can be stopped when nobody closes them."""

    def __init__(self) -> None:
        self._open: weakref.WeakSet[aiosqlite.Connection] = weakref.WeakSet()
        self._stopped: deque[aiosqlite.Connection] = deque(maxlen=64)
        self._watcher: threading.Thread | None = None
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self.__init__)  # type: ignore[misc]

    def add(self, connection: aiosqlite.Connection) -> None:
        with self._lock:
            self._open.add(connection)
            if self._watcher is None:
                self._watcher = threading.Thread(target=self._watch, name="lens-sqlite-exit", daemon=True)
                self._watcher.start()

    def _watch(self) -> None:
        threading.main_thread().join()
        for connection in list(self._open):
            connection.stop()

    def stop(self, connection: aiosqlite.Connection) -> None:
        """End its thread when what waits there is done. It is let go of later: aiosqlite warns of one in use."""
        self._open.discard(connection)
        self._stopped.append(connection)
        connection.stop()


_connections = _OpenConnections()


# --- calls


class _Call:
    """A function on its way through the thread, and what came of it."""

    __slots__ = ("done", "error", "loop", "result", "taken_off", "waiter", "work")

    def __init__(self, work: Callable[[], Any], loop: asyncio.AbstractEventLoop) -> None:
        self.work, self.loop = work, loop
        self.result: Any = None
        self.error: BaseException | None = None
        self.taken_off = self.done = False
        self.waiter: asyncio.Future[None] | None = None

    def do(self) -> None:
        """Run the function. Whoever called may be gone: nothing of it is kept alive from here."""
        try:
            self.result = self.work()
        except BaseException as error:  # noqa: BLE001 - it is the caller's, who gets it
            self.error = error
        self.work = _nothing

    def end(self) -> None:
        """Let go of the function, and tell one who waits for the end."""
        self.done = True
        waiter = self.waiter
        if waiter is not None and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(_settle, waiter)

    async def ended(self) -> None:
        """Wait for the end of the function, whatever comes of it."""
        self.waiter = self.loop.create_future()
        if not self.done:
            await asyncio.wait([self.waiter])

    def outcome(self) -> Any:
        """The result of the function, once; or its error."""
        result, error, self.result, self.error = self.result, self.error, None, None
        if error is not None:
            raise error
        return result


class _Turn:
    """Whose turn it is. Functions of one store exclude each other, also those of a thread that was given up."""

    def __init__(self) -> None:
        self.busy = threading.RLock()
        self.stopped = threading.Event()
        self._lock = threading.Lock()
        self._running: _Call | None = None

    def serve(self, call: _Call) -> None:
        """Run a call, unless it was taken off. The next one must not be hit by what was meant for this one."""
        with self.busy:
            self._running = call
            if not call.taken_off:
                call.do()
            with self._lock:
                self._running = None
                if self.stopped.is_set():
                    self.stopped.clear()
            call.end()

    def stop(self, call: _Call, interrupt: Callable[[], None]) -> bool:
        """Take a call off, or stop its statement; whether it runs."""
        with self._lock:
            call.taken_off = True
            if self._running is not call:
                return False
            self.stopped.set()
            interrupt()
            return True


class _Opening:
    """A connection that one caller makes, and others wait for."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._waiters: list[asyncio.Future[None]] = []
        self._over = False
        self._lock = threading.Lock()

    async def wait(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._lock:
            if self._over:
                return
            self._waiters.append(waiter)
        await waiter

    def end(self) -> None:
        with self._lock:
            self._over = True
        for waiter in self._waiters:
            if not waiter.get_loop().is_closed():
                waiter.get_loop().call_soon_threadsafe(_settle, waiter)


def _settle(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


# --- the thread


class ConnectionThread:
    """Runs functions on a thread of its own, one after the other, for callers of any loop in any thread.

    The thread is made when it is needed. It does not keep the process alive, and ends with this object.

    Args:
        interrupt: Called (from the caller's thread) when a caller is cancelled while its function runs; one
            that waits for its turn is taken off. It must not wait for anything.
    """

    def __init__(self, interrupt: Callable[[], None]) -> None:
        self._interrupt = interrupt
        self._turn = _Turn()
        self._lock = threading.Lock()
        self._connection: aiosqlite.Connection | None = None
        self._opening: _Opening | None = None
        self._forgotten: weakref.finalize[..., Any] | None = None
        self._pending: set[_Call] = set()

    @property
    def stopped(self) -> threading.Event:
        """Set while a function runs whose caller was cancelled: for one that waits for something."""
        return self._turn.stopped

    async def run(self, work: Callable[[], T]) -> T:
        """Return ``work()``, done on the thread.

        A caller that is cancelled gets its `asyncio.CancelledError` when the function has ended, so that
        nothing happens behind its back; cancelled twice, at once.
        """
        call = _Call(work, asyncio.get_running_loop())
        del work
        connection = self._connection
        if connection is None or self._pending:
            connection = await self._opened()
        await self._through(connection, call)
        result: T = call.outcome()
        return result

    async def _through(self, connection: aiosqlite.Connection, call: _Call) -> None:
        # Not in a `finally`: a coroutine that is dropped with its loop has to leave the call pending.
        turn = self._turn
        self._pending.add(call)
        try:
            await connection.execute_fetchall(lambda: turn.serve(call))
        except asyncio.CancelledError:
            if turn.stop(call, self._interrupt):
                await call.ended()
            self._pending.discard(call)
            raise
        self._pending.discard(call)

    async def _opened(self) -> aiosqlite.Connection:
        """The connection; made by the first that asks."""
        while True:
            with self._lock:
                if self._connection is not None and not self._is_lost():
                    return self._connection
                opening = self._opening
                mine = opening is None or opening.loop.is_closed()
                if mine:
                    opening = self._opening = _Opening()
            assert opening is not None
            if not mine:
                await opening.wait()
                continue
            try:
                return await self._open()
            finally:
                self._opening = None
                opening.end()

    def _is_lost(self) -> bool:
        """Whether the thread may have ended with the loop of a caller; if so, the connection is given up."""
        lost = any(call.loop.is_closed() for call in tuple(self._pending))
        if lost:
            self._give_up()
        return lost

    def _give_up(self) -> None:
        self._connection = None
        self._pending.clear()
        if self._forgotten is not None:
            self._forgotten()

    async def _open(self) -> aiosqlite.Connection:
        connection = await aiosqlite.Connection(_functions, 64)
        _connections.add(connection)
        with self._lock:
            self._connection = connection
            self._forgotten = weakref.finalize(self, _connections.stop, connection)
            self._forgotten.atexit = False
        return connection

    def between(self, work: Callable[[], None], seconds: float) -> bool:
        """Do `work` here and now, while no function runs on the thread; whether there was such a moment.

        Args:
            work: What to do; it must not fail.
            seconds: How long to wait for it at most.
        """
        if not self._turn.busy.acquire(timeout=max(0.0, min(seconds, threading.TIMEOUT_MAX))):
            return False
        try:
            work()
        finally:
            self._turn.busy.release()
        return True

    async def iterate(self, items: Iterator[T], batch: int) -> AsyncIterator[T]:
        """Yield the items of a generator whose work is done on the thread, `batch` of them a hop."""
        while True:
            found = await self.run(lambda: list(islice(items, batch)))
            for item in found:
                yield item
            if len(found) < batch:
                return

    async def close(self, finish: Callable[[], None]) -> None:
        """Do `finish` on the thread, behind all that waits, and end the thread; a later call starts another."""
        with self._lock:
            connection, self._connection = self._connection, None
            forgotten, self._forgotten = self._forgotten, None
            lost = any(call.loop.is_closed() for call in self._pending)
        if connection is None:
            return
        if lost:
            self._pending.clear()
            self.between(finish, 60.0)
        else:
            await self._finished(connection, finish)
        if forgotten is not None and forgotten.alive:
            forgotten()

    async def _finished(self, connection: aiosqlite.Connection, finish: Callable[[], None]) -> None:
        call = _Call(finish, asyncio.get_running_loop())
        turn = self._turn
        try:
            await connection.execute_fetchall(lambda: turn.serve(call))
        except asyncio.CancelledError:
            await call.ended()
            raise
        call.outcome()
        await connection.close()
