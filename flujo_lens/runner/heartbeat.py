"""Heartbeats for the claims of this process, sent by a separate thread, so that a blocked or cancelled event loop of
the steps does not stop them.

A driver that can only be called in the event loop in which it was opened (`StateBackend.any_loop` is False) is called
there; then a step that blocks that loop also blocks the heartbeats.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from contextlib import suppress
from typing import Any, ClassVar

from flujo_lens.errors import LostClaimError
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.claims import WORKING, Claim

_BEATS = 3
"""Heartbeats per lease."""

_log = logging.getLogger("flujo_lens")


class _Thread:
    """An event loop on a daemon thread."""

    current: ClassVar[_Thread | None] = None
    _starting: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.loop = asyncio.SelectorEventLoop()
        threading.Thread(target=self._serve, name="lens-heartbeat", daemon=True).start()

    def _serve(self) -> None:
        """Run the loop; an exception of a driver or a signal handler ends only one call."""
        while not self.loop.is_closed():
            try:
                self.loop.run_forever()
            except OSError as error:  # of the selector: the application closed its file descriptor
                _log.warning("heartbeats have stopped: %s", error)
                return
            except BaseException as error:  # noqa: BLE001 - a driver's
                _log.warning("a heartbeat raised %s", type(error).__name__)

    @classmethod
    def get(cls) -> _Thread:
        """The thread of this process; a child of `os.fork` needs a new one."""
        found = cls.current
        if found is not None and found.pid == os.getpid():
            return found
        with cls._starting:
            if cls.current is None or cls.current.pid != os.getpid():
                cls.current = cls()
            return cls.current


class Heartbeat:
    """Heartbeats for a claim of the current task, until stopped or the claim is lost.

    Attributes:
        lost: The error after the claim was lost, when its task is cancelled; None while it is held.
    """

    def __init__(self, backend: StateBackend, claim: Claim) -> None:
        self.lost: LostClaimError | None = None
        self._backend, self._claim = backend, claim
        self._loop, self._owner = asyncio.get_running_loop(), asyncio.current_task()
        self._thread = _Thread.get()
        self._is_stopped = False
        self._beating: Any = None

    def start(self) -> None:
        """Start; the first heartbeat is after a third of the lease."""
        WORKING.add(self._claim.token)
        self._beating = asyncio.run_coroutine_threadsafe(self._beat(), self._thread.loop)

    def stop(self) -> None:
        """Stop. A heartbeat in progress may find the claim already released."""
        self._is_stopped = True
        WORKING.discard(self._claim.token)
        self._beating.cancel()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._claim.lease / _BEATS)
            if self._is_abandoned():
                WORKING.discard(self._claim.token)
                return
            try:
                await self._given()
            except LostClaimError as error:
                self._give_up(error)
                return
            except Exception as error:  # noqa: BLE001 - of whatever driver; there will be another sign
                _log.warning("heartbeat for %s failed: %s", self._claim.run_id, error)

    def _is_abandoned(self) -> bool:
        """Whether the loop of the run was closed or its task has ended without a `stop`."""
        return self._loop.is_closed() or (self._owner is not None and self._owner.done())

    async def _given(self) -> None:
        if self._backend.any_loop:
            await self._backend.heartbeat(self._claim)
            return
        there = asyncio.run_coroutine_threadsafe(self._sign(), self._loop)
        await asyncio.wrap_future(there)

    async def _sign(self) -> None:
        await self._backend.heartbeat(self._claim)

    def _give_up(self, error: LostClaimError) -> None:
        with suppress(RuntimeError):  # the loop was closed
            self._loop.call_soon_threadsafe(self._end_owner, error)

    def _end_owner(self, error: LostClaimError) -> None:
        """Cancel the task that has lost its claim; called in its loop, like `stop`."""
        if not self._is_stopped:
            self.lost = error
            if self._owner is not None:
                self._owner.cancel()
