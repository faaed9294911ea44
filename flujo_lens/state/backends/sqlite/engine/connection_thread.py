"""One thread for one connection: a call is one hop, and a cancelled one stops its statement."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import islice
from queue import SimpleQueue
from typing import Any, TypeVar

__all__ = ["ConnectionThread"]

T = TypeVar("T")


def _nothing() -> None:
    return


class _Job:
    """A function that waits for its turn, runs or is done, and the future of whoever waits for it."""

    __slots__ = ("done", "future", "loop", "taken_off", "work")

    def __init__(self, work: Callable[[], Any], loop: asyncio.AbstractEventLoop) -> None:
        self.work = work
        self.loop = loop
        self.future: asyncio.Future[Any] = loop.create_future()
        self.taken_off = False
        self.done = False

    def do(self) -> None:
        """Run the function, and tell the loop; one that was closed meanwhile need not know."""
        result, error = None, None
        try:
            result = self.work()
        except BaseException as caught:  # noqa: BLE001 - it is the caller's, who gets it
            error = caught
        # Whoever waits may be gone before this thread goes on: it must not keep alive what the function knows.
        self.work = _nothing
        try:
            self.loop.call_soon_threadsafe(self._settle, result, error)
        except RuntimeError:
            self.done = True

    def _settle(self, result: Any, error: BaseException | None) -> None:
        self.done = True
        if self.future.done():
            return
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)

    async def ended(self) -> None:
        """Wait for the end of the function, whatever comes of it, in place of the caller who has gone."""
        if not self.done:
            self.future = self.loop.create_future()
            # Who is cancelled twice asks for the outcome no more: that is no reason to complain about it.
            self.future.add_done_callback(asyncio.Future.exception)
            await asyncio.wait([self.future])


class _Order(_Job):
    """A function for whose end nobody waits."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work, self.taken_off, self.done = work, False, False
        self.over = threading.Event()

    def do(self) -> None:
        """Run the function."""
        try:
            self.work()
        finally:
            self.over.set()


class _Turn:
    """What a worker and its thread share: whose turn it is."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.stopped = threading.Event()
        self.running: _Job | None = None

    def begin(self, job: _Job) -> bool:
        """Whether the job is still wanted; from then on it runs."""
        with self.lock:
            if job.taken_off:
                return False
            self.running = job
            return True

    def end(self) -> None:
        """The next job must not be hit by what was meant for this one."""
        with self.lock:
            self.running = None
            self.stopped.clear()

    def stop(self, job: _Job, interrupt: Callable[[], None]) -> bool:
        """Take a job off, or stop it; whether it runs."""
        with self.lock:
            job.taken_off = True
            if self.running is not job:
                return False
            self.stopped.set()
            interrupt()
            return True


def _serve(jobs: SimpleQueue[_Job | None], turn: _Turn, before: threading.Thread | None) -> None:
    """Do jobs until there is a None. Knows nothing of the worker, so that a forgotten one can go."""
    if before is not None:
        before.join()
    while (job := jobs.get()) is not None:
        if turn.begin(job):
            try:
                job.do()
            finally:
                turn.end()
        del job


class ConnectionThread:
    """Runs functions on a thread of its own, one after the other, for callers of any loop in any thread.

    The thread is made when it is needed. It does not keep the process alive, and ends with the worker.

    Args:
        interrupt: Called (from the caller's thread) when a caller is cancelled while its function runs; one
            that waits for its turn is taken off. It must not wait for anything.
    """

    def __init__(self, interrupt: Callable[[], None]) -> None:
        self._interrupt = interrupt
        self._turn = _Turn()
        self._starting = threading.Lock()
        self._jobs: SimpleQueue[_Job | None] | None = None
        self._thread: threading.Thread | None = None

    @property
    def stopped(self) -> threading.Event:
        """Set while a function runs whose caller was cancelled: for one that waits for something."""
        return self._turn.stopped

    async def run(self, work: Callable[[], T]) -> T:
        """Return ``work()``, done on the thread.

        A caller that is cancelled gets its `asyncio.CancelledError` when the function has ended, so that
        nothing happens behind its back; cancelled twice, at once.
        """
        job = _Job(work, asyncio.get_running_loop())
        self._put(job)
        try:
            result: T = await job.future
        except asyncio.CancelledError:
            if self._turn.stop(job, self._interrupt):
                await job.ended()
            raise
        return result

    def post(self, work: Callable[[], None]) -> threading.Event | None:
        """Have `work`, which must not fail, done in its turn; return what is set then, None if there is no thread."""
        with self._starting:
            if self._jobs is None:
                return None
            order = _Order(work)
            self._jobs.put(order)
            return order.over

    def _put(self, job: _Job) -> None:
        with self._starting:
            if self._jobs is None:
                self._jobs = self._start()
            self._jobs.put(job)

    def _start(self) -> SimpleQueue[_Job | None]:
        jobs: SimpleQueue[_Job | None] = SimpleQueue()
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
        """Do `finish` on the thread, behind all that waits, and end the thread; a later call starts another."""
        with self._starting:
            if self._jobs is None:
                return
            job, thread = _Job(finish, asyncio.get_running_loop()), self._thread
            for last in (job, None):
                self._jobs.put(last)
            self._jobs = None
        try:
            await job.future
        except asyncio.CancelledError:
            await job.ended()
            raise
        if thread is not None:
            thread.join()
