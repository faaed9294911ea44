"""One thread for one connection: a call is one hop, and a cancelled one stops its statement."""

from __future__ import annotations

import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import islice
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from flujo_lens.state.backends.core.thread_call import BlockingCall, Call, ThreadCall, in_event_loop

if TYPE_CHECKING:
    from flujo_lens.state.backends.sqlite.engine.aiosqlite_thread import AiosqliteThread

T = TypeVar("T")
_Thread: TypeAlias = "AiosqliteThread | _PlainThread"


class _Turn:
    """The call that runs."""

    call: Call | None = None


class _Job:
    """A call in its turn. It is forgotten when it is done: what it returned may be large, or keep its caller alive."""

    __slots__ = ("_call", "_turn")

    def __init__(self, call: Call, turn: _Turn) -> None:
        self._call: Call | None = call
        self._turn = turn

    def __call__(self) -> None:
        call, self._call = self._call, None
        self._turn.call = call
        if call is not None:
            call.do()
        self._turn.call = None


class _PlainThread:
    """Does functions as an `AiosqliteThread` does, for a caller without an event loop, which needs no aiosqlite.

    Args:
        after: A thread that has been stopped: nothing is done before it has ended.
    """

    def __init__(self, after: _Thread | None) -> None:
        self._jobs: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        if after is not None:
            self.put(after.join)
        self._thread = threading.Thread(target=_serve, args=(self._jobs,), name="lens-sqlite", daemon=True)
        self._thread.start()

    def put(self, work: Callable[[], object]) -> None:
        self._jobs.put(work)

    def stop(self) -> None:
        self._jobs.put(None)

    def join(self) -> None:
        self._thread.join()


def _serve(jobs: SimpleQueue[Callable[[], object] | None]) -> None:
    while (job := jobs.get()) is not None:
        job()
        del job


def _new_thread(after: _Thread | None) -> _Thread:
    if not in_event_loop():
        return _PlainThread(after)
    from flujo_lens.state.backends.sqlite.engine.aiosqlite_thread import AiosqliteThread

    return AiosqliteThread(after)


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
        self._thread: _Thread | None = None
        self._ended: _Thread | None = None

    @property
    def stopped(self) -> threading.Event:
        """Set while a function runs whose caller was cancelled: for one that waits for something."""
        call = self._turn.call
        return threading.Event() if call is None else call.stop

    async def run(self, work: Callable[[], T]) -> T:
        """Return ``work()``, done on the thread.

        A caller that is cancelled gets its `asyncio.CancelledError` when the function has ended, so that
        nothing happens behind its back; cancelled twice, at once. A caller without an event loop waits here, and
        the coroutine never suspends.
        """
        result: T
        if in_event_loop():
            call = ThreadCall(work)
            self._put(call)
            result = await call.result(self._interrupt)
        else:
            blocking = BlockingCall(work)
            self._put(blocking)
            result = blocking.wait(self._interrupt)
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

    def _put(self, call: Call) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = _new_thread(self._ended)
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
        call: BlockingCall | ThreadCall = ThreadCall(finish) if in_event_loop() else BlockingCall(finish)
        with self._starting:
            thread, self._thread = self._thread, None
            if thread is None:
                return
            self._ended = thread
            thread.put(_Job(call, self._turn))
            thread.stop()
        if isinstance(call, BlockingCall):
            call.wait()
        else:
            await _finished(call)
        thread.join()


async def _finished(call: ThreadCall) -> None:
    """Wait for a call that a caller who is cancelled does not stop."""
    import asyncio

    try:
        await call.future
    except asyncio.CancelledError:
        await call.end()
        raise
