"""A function on its way through another thread, and back into the event loop of its caller: once, for all drivers.

The event loop's own pool would do, but it hands a call over through three objects with locks of their own, which takes
a fifth of the time of a save. Here a call is one entry in a queue and one wake-up of the loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

_WAITING, _RUNNING, _OVER = range(3)


def _nothing() -> None:
    return


class ThreadCall:
    """One call. It is made by the caller, in its event loop, and done by a thread.

    Args:
        work: What to do.
    """

    __slots__ = ("_delivered", "_lock", "_state", "_stop", "future", "loop", "work")

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work, self.loop = work, asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self._lock = threading.Lock()
        self._state, self._delivered = _WAITING, False
        self._stop: threading.Event | None = None

    @property
    def stop(self) -> threading.Event:
        """Set when the caller is cancelled while the work runs."""
        with self._lock:
            if self._stop is None:
                self._stop = threading.Event()
            return self._stop

    def do(self) -> None:
        """Do the work, on this thread, unless it was taken off; a loop that was closed by then need not know."""
        if not self._is_first():
            return
        result, error = None, None
        try:
            result = self.work()
        except BaseException as raised:  # noqa: BLE001 - it is the caller's, who gets it
            error = raised
        with self._lock:
            self._state = _OVER
        # The caller may be gone before this thread goes on: it must not keep alive what the function knows.
        self.work = _nothing
        try:
            self.loop.call_soon_threadsafe(self._deliver, result, error)
        except RuntimeError:
            self._delivered = True

    def _is_first(self) -> bool:
        """Whether the thread comes to it before its caller takes it off, or the other way round."""
        with self._lock:
            is_first, self._state = self._state == _WAITING, max(self._state, _RUNNING)
            return is_first

    def _deliver(self, result: Any, error: BaseException | None) -> None:
        self._delivered = True
        if self.future.done():
            return
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)

    async def withdraw(self, interrupt: Callable[[], None] | None = None) -> None:
        """For a caller that was cancelled while it waited for `future`: take the call off; one that runs is stopped.

        In that case its end is awaited: nothing goes on behind the back of a caller that believes that it was stopped.
        Cancelled twice, it ends at once.

        Args:
            interrupt: Called as long as the work runs; it must not wait for anything.
        """
        if not self._is_first():
            self._interrupt(interrupt)
            await self.end()

    def _interrupt(self, interrupt: Callable[[], None] | None) -> None:
        stop = self.stop
        with self._lock:
            if self._state == _RUNNING:
                stop.set()
                if interrupt is not None:
                    interrupt()

    async def end(self) -> None:
        """Wait for the end of the work, whatever comes of it, in place of the caller, which has gone."""
        if not self._delivered:
            self.future = self.loop.create_future()
            # A caller that is cancelled twice asks for the outcome no more: that is no reason to complain about it.
            self.future.add_done_callback(_look)
            await asyncio.wait([self.future])


def _look(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()
