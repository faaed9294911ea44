"""One thread for one connection: a call is one hop, and a cancelled one stops its statement."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import islice
from queue import SimpleQueue
from typing import TypeVar

from flujo_lens.state.backends.core.thread_call import ThreadCall

__all__ = ["ConnectionThread"]

T = TypeVar("T")
_Jobs = SimpleQueue[ThreadCall | Callable[[], None] | None]


class _Turn:
    """The call that runs."""

    call: ThreadCall | None = None


def _serve(jobs: _Jobs, turn: _Turn, before: threading.Thread | None) -> None:
    """Do jobs until there is a None. Knows nothing of the connection, so that a forgotten one can go."""
    if before is not None:
        before.join()
    while (job := jobs.get()) is not None:
        if isinstance(job, ThreadCall):
            turn.call = job
            job.do()
            turn.call = None
        else:
            job()
        del job


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
        self._jobs: _Jobs | None = None
        self._thread: threading.Thread | None = None

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
            if self._jobs is None:
                return None
            self._jobs.put(order)
        return over

    def _put(self, call: ThreadCall) -> None:
        with self._starting:
            if self._jobs is None:
                self._jobs = self._start()
            self._jobs.put(call)

    def _start(self) -> _Jobs:
        jobs: _Jobs = SimpleQueue()
        self._thread = threading.Thread(
            target=_serve, args=(jobs, self._turn, self._thread), name="lens-sqlite", daemon=True
        )
        weakref.finalize(self, jobs.put, None)
        self._thread.start()
        return jobs

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
            if self._jobs is None:
                return
            thread = self._thread
            self._jobs.put(call)
            self._jobs.put(None)
            self._jobs = None
        try:
            await call.future
        except asyncio.CancelledError:
            await call.end()
            raise
        if thread is not None:
            thread.join()
