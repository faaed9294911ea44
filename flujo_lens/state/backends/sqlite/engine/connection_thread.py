"""One thread for one connection: a call is one hop, and a cancelled one stops its statement."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import islice
from typing import TypeVar

from flujo_lens.state.backends.core.thread_call import ThreadCall
from flujo_lens.state.backends.sqlite.engine.aiosqlite_thread import AiosqliteThread

__all__ = ["ConnectionThread"]

T = TypeVar("T")


class _Turn:
    """The call that runs."""

    call: ThreadCall | None = None


class _Job:
    """A call in its turn. It is forgotten when it is done: what it returned may be large, or keep its caller alive."""

    __slots__ = ("_call", "_turn")

    def __init__(self, call: ThreadCall, turn: _Turn) -> None:
        self._call: ThreadCall | None = call
        self._turn = turn

    def __call__(self) -> None:
        call, self._call = self._call, None
        self._turn.call = call
        if call is not None:
            call.do()
        self._turn.call = None


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
        self._starting = threading.Lock()
        self._thread: AiosqliteThread | None = None
        self._ended: AiosqliteThread | None = None

    @property
    def stopped(self) -> threading.Event:
        """Set while a function runs whose caller was cancelled: for one that waits for something."""
        call = self._turn.call
        return threading.Event() if call is None else call.stop

    async def run(self, work: Callable[[], T]) -> T:
        """Return ``work()``, done on the thread.

        A caller that is cancelled gets its `asyncio.CancelledError` when the function has ended, so that
        nothing happens behind its back; cancelled twice, at once.
        """
        call = ThreadCall(work)
        self._put(call)
        try:
            result: T = await call.future
        except asyncio.CancelledError:
            await call.withdraw(self._interrupt)
            raise
        return result

    def post(self, work: Callable[[], None]) -> threading.Event | None:
        """Have `work`, which must not fail, done in its turn; return what is set then, None if there is no thread."""
        over = threading.Event()

        def order() -> None:
            try:
                work()
            finally:
                over.set()

        with self._starting:
            if self._thread is None:
                return None
            self._thread.put(order)
        return over

    def _put(self, call: ThreadCall) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = AiosqliteThread(after=self._ended)
                self._ended = None
                weakref.finalize(self, self._thread.stop)
            self._thread.put(_Job(call, self._turn))

    async def iterate(self, items: Iterator[T], batch: int) -> AsyncIterator[T]:
        """Yield the items of a generator whose work is done on the thread, `batch` of them a hop."""
        while True:
            found = await self.run(lambda: list(islice(items, batch)))
            for item in found:
                yield item
            if len(found) < batch:
                return

    async def close(self, finish: Callable[[], None]) -> None:
        """Do `finish` on the thread, after all that waits, and end the thread; a later call starts another."""
        call = ThreadCall(finish)
        with self._starting:
            thread, self._thread = self._thread, None
            if thread is None:
                return
            self._ended = thread
            thread.put(_Job(call, self._turn))
            thread.stop()
        try:
            await call.future
        except asyncio.CancelledError:
            await call.end()
            raise
        thread.join()
