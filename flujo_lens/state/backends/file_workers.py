"""Threads that do the blocking work of a backend, for event loops that must not wait for a disk.

The event loop's own pool would do, but it hands a call over through three objects with locks of their own, which
takes a fifth of the time of a save. Here a call is one entry in a queue and one wake-up of the loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

__all__ = ["Workers"]

T = TypeVar("T")
Work = Callable[[threading.Event], T]

_MOST = 8
"""Threads at once: what waits for a disk is best not alone, so that one sync serves several saves."""

_IDLE = 5.0
"""Seconds after which a thread without work ends."""


class _Job:
    """A function, and the future of whoever waits for it."""

    __slots__ = ("ended", "future", "loop", "stop", "work")

    def __init__(self, work: Work[Any], loop: asyncio.AbstractEventLoop) -> None:
        self.work, self.loop = work, loop
        self.stop = threading.Event()
        self.future: asyncio.Future[Any] = loop.create_future()
        self.ended = False

    def do(self) -> None:
        """Do the work, and tell the loop; one that was closed meanwhile need not know."""
        result, error = None, None
        try:
            result = self.work(self.stop)
        except BaseException as raised:  # noqa: BLE001 - it is the caller's, who gets it
            error = raised
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._tell, result, error)

    def _tell(self, result: Any, error: BaseException | None) -> None:
        self.ended = True
        if self.future.done():
            return
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)

    async def end(self) -> None:
        """Have the work stopped, and wait for its end in place of the caller, who has gone."""
        self.stop.set()
        if not self.ended:
            self.future = self.loop.create_future()
            # Who is cancelled twice asks for the outcome no more: that is no reason to complain about it.
            self.future.add_done_callback(_look)
            await asyncio.wait([self.future])


def _look(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


class Workers:
    """A few threads, started when there is work and none is free. They do not keep a process alive."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._free = 0
        """Threads that wait for work, less the work that waits for a thread."""

    async def run(self, work: Work[T]) -> T:
        """Return ``work(stop)``, done on a thread.

        When the caller is cancelled, `stop` is set and the end of the work awaited: nothing goes on behind the
        back of somebody who believes that it was stopped.
        """
        job = _Job(work, asyncio.get_running_loop())
        self._submit(job)
        try:
            found: T = await job.future
        except asyncio.CancelledError:
            await job.end()
            raise
        return found

    def _submit(self, job: _Job) -> None:
        with self._lock:
            self._free -= 1
            self._jobs.put(job)
            if self._free < 0 and self._threads < _MOST:
                self._threads += 1
                threading.Thread(target=self._serve, name="flujo-lens-files", daemon=True).start()

    def _serve(self) -> None:
        while (job := self._next()) is not None:
            job.do()
            del job

    def _next(self) -> _Job | None:
        """The next job; None if there has been none for a while, and the thread is to end."""
        with self._lock:
            self._free += 1
        while True:
            with suppress(Empty):
                return self._jobs.get(timeout=_IDLE)
            with self._lock:
                if self._jobs.empty():
                    self._free -= 1
                    self._threads -= 1
                    return None
