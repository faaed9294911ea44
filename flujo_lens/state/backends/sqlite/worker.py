"""One thread for one connection: a call is one hop, and a cancelled one stops its statement."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

__all__ = ["Worker"]

T = TypeVar("T")


class Worker:
    """Runs functions on a thread of its own, one after the other.

    Args:
        interrupt: Called (from the caller's thread) when a caller is cancelled while its function runs; one
            that waits for its turn is taken off.
    """

    def __init__(self, interrupt: Callable[[], None]) -> None:
        self._interrupt = interrupt
        self._threads: ThreadPoolExecutor | None = None

    async def run(self, work: Callable[[], T]) -> T:
        """Return ``work()``, done on the thread."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lens-sqlite")
        job = self._threads.submit(work)
        future = asyncio.wrap_future(job)
        # A caller that is cancelled twice asks for the outcome no more: that is no reason to complain about it.
        future.add_done_callback(lambda done: None if done.cancelled() else done.exception())
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if not job.cancel() and not job.done():
                self._interrupt()
            await asyncio.wait([future])
            raise

    async def iterate(self, items: Iterator[T], batch: int) -> AsyncIterator[T]:
        """Yield the items of a generator whose work is done on the thread, `batch` of them a hop."""
        while True:
            found = await self.run(lambda: list(islice(items, batch)))
            for item in found:
                yield item
            if len(found) < batch:
                return

    async def close(self, finish: Callable[[], None]) -> None:
        """Do `finish` on the thread and end it."""
        if self._threads is not None:
            await self.run(finish)
        threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(wait=True)
