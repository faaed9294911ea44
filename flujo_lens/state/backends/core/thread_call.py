"""A function on its way through another thread, and back into the event loop of its caller: once, for all drivers.

The event loop's own pool would do, but it hands a call over through three objects with locks of their own, which takes
a fifth of the time of a save. Here a call is one entry in a queue and one wake-up of the loop. A caller without an
event loop waits in its own thread: a short command of the command line does not pay for the import of `asyncio`.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

_WAITING, _RUNNING, _OVER = range(3)


def _nothing() -> None:
    return


def in_event_loop() -> bool:
    """Whether the caller runs in an event loop of `asyncio`."""
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None


class Call:
    """One call: its work, done by a thread, and its state.

    Args:
        work: What to do.
    """

    __slots__ = ("_lock", "_state", "_stop", "work")

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work = work
        self._lock = threading.Lock()
        self._state = _WAITING
        self._stop: threading.Event | None = None

    @property
    def stop(self) -> threading.Event:
        """Set when the caller is cancelled while the work runs."""
        with self._lock:
            if self._stop is None:
                self._stop = threading.Event()
            return self._stop

    def do(self) -> None:
        """Do the work, on this thread, unless it was taken off."""
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
        self._hand_over(result, error)

    def _hand_over(self, result: Any, error: BaseException | None) -> None:
        """Give the caller what came of the work; called on the thread that did it."""
        raise NotImplementedError

    def _is_first(self) -> bool:
        """Whether the thread comes to it before its caller takes it off, or the other way round."""
        with self._lock:
            is_first, self._state = self._state == _WAITING, max(self._state, _RUNNING)
            return is_first

    def _interrupt(self, interrupt: Callable[[], None] | None) -> None:
        stop = self.stop
        with self._lock:
            if self._state == _RUNNING:
                stop.set()
                if interrupt is not None:
                    interrupt()


class BlockingCall(Call):
    """A call whose caller, without an event loop, waits in its own thread."""

    __slots__ = ("_error", "_over", "_result")

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__(work)
        self._over = threading.Event()
        self._result: Any = None
        self._error: BaseException | None = None

    def _hand_over(self, result: Any, error: BaseException | None) -> None:
        self._result, self._error = result, error
        self._over.set()

    def wait(self, interrupt: Callable[[], None] | None = None) -> Any:
        """Return the result of the work, or raise its error.

        A caller that is interrupted (Ctrl-C) takes the call off; work that runs is stopped and its end awaited.

        Args:
            interrupt: Called if the work runs; it must not wait for anything.
        """
        try:
            self._over.wait()
        except BaseException:
            if not self._is_first():
                self._interrupt(interrupt)
                self._over.wait()
            raise
        if self._error is not None:
            raise self._error
        return self._result


class ThreadCall(Call):
    """A call that is made by its caller in an event loop."""

    __slots__ = ("_delivered", "future", "loop")

    def __init__(self, work: Callable[[], Any]) -> None:
        import asyncio

        super().__init__(work)
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self._delivered = False

    def _hand_over(self, result: Any, error: BaseException | None) -> None:
        try:
            self.loop.call_soon_threadsafe(self._deliver, result, error)
        except RuntimeError:  # the loop was closed, so its caller need not know
            self._delivered = True

    def _deliver(self, result: Any, error: BaseException | None) -> None:
        self._delivered = True
        if self.future.done():
            return
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)

    async def result(self, interrupt: Callable[[], None] | None = None) -> Any:
        """Return the result of the work, or raise its error; when the caller is cancelled, `withdraw`."""
        import asyncio

        try:
            return await self.future
        except asyncio.CancelledError:
            await self.withdraw(interrupt)
            raise

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

    async def end(self) -> None:
        """Wait for the end of the work, whatever comes of it, in place of the caller, which has gone."""
        import asyncio

        if not self._delivered:
            self.future = self.loop.create_future()
            # A caller that is cancelled twice asks for the outcome no more: that is no reason to complain about it.
            self.future.add_done_callback(_look)
            await asyncio.wait([self.future])


def _look(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()
