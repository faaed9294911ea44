"""Threads that do the blocking work of a backend, for event loops that must not wait for a disk.

Calls with one key are done one after the other, in the order in which they were made; others side by side. How a call
gets through a thread and back is in `flujo_lens.state.backends.core.thread_call`.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Hashable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from flujo_lens.errors import OperationFailedError
from flujo_lens.state.backends.core.fork_hooks import begin_anew_in_children
from flujo_lens.state.backends.core.thread_call import ThreadCall

T = TypeVar("T")
Work = Callable[[threading.Event], T]

_MOST = 8
"""Threads at once: what waits for a disk is best not alone, so that one sync serves several saves."""

_IDLE = 5.0
"""Seconds after which a thread without work ends."""


class Stopped(Exception):  # noqa: N818 - it is no error
    """The caller does not want the result any more."""


class _Job(ThreadCall):
    """A call, and what it has to come after."""

    __slots__ = ("key",)

    def __init__(self, work: Work[Any], key: Hashable | None = None) -> None:
        super().__init__(lambda: work(self.stop))
        self.key = key


class Workers:
    """A few threads, started when there is work and none is free. They do not keep a process alive.

    In a child of `os.fork` there are none of the parent's, and what they had to do is not done there.
    """

    def __init__(self) -> None:
        self.begin()
        begin_anew_in_children(self)

    def begin(self) -> None:
        """Be as new: no threads, and no work."""
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._free = 0
        """Threads that wait for work, less the work that waits for a thread."""
        self._behind: dict[Hashable, deque[_Job]] = {}
        """By the key of work that is being done, or waits for a thread: what comes after it, in order."""

    async def run(self, work: Work[T], key: Hashable | None = None) -> T:
        """Return ``work(stop)``, done on a thread; after all that was asked for before with the same `key`.

        When the caller is cancelled, work that has not begun never does. Else `stop` is set and the end of the
        work awaited.

        Raises:
            OperationFailedError: there is no thread, and none can be had; nothing was done.
        """
        job = _Job(work, key)
        self._submit(job)
        try:
            found: T = await job.future
        except asyncio.CancelledError:
            await job.withdraw()
            raise
        return found

    def _submit(self, job: _Job) -> None:
        with self._lock:
            if job.key is None:
                self._queue(job)
            elif job.key in self._behind:
                self._behind[job.key].append(job)
            else:
                self._queue(job)
                self._behind[job.key] = deque()

    def _queue(self, job: _Job) -> None:
        if self._free <= 0 and self._threads < _MOST:
            self._start()
        self._free -= 1
        self._jobs.put(job)

    def _start(self) -> None:
        try:
            threading.Thread(target=self._serve, name="flujo-lens-files", daemon=True).start()
        except RuntimeError as error:
            if not self._threads:
                raise OperationFailedError(f"no thread can be started: {error}; nothing was changed") from error
        else:
            self._threads += 1

    def _serve(self) -> None:
        key: Hashable | None = None
        while (job := self._next(key)) is not None:
            job.do()
            key = job.key
            del job

    def _next(self, done: Hashable | None) -> _Job | None:
        """The next job; None if there has been none for a while, and the thread is to end.

        Args:
            done: The key of the job that this thread did last: what comes after it may be done now.
        """
        with self._lock:
            self._free += 1
            if done is not None:
                self._go_on(done)
        while True:
            with suppress(Empty):
                return self._jobs.get(timeout=_IDLE)
            with self._lock:
                if self._jobs.empty():
                    self._free -= 1
                    self._threads -= 1
                    return None

    def _go_on(self, key: Hashable) -> None:
        if self._behind[key]:
            self._queue(self._behind[key].popleft())
        else:
            del self._behind[key]
