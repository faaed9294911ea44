"""Several reads of one store at the same time."""

from __future__ import annotations

import sys
import threading
from collections.abc import Coroutine
from typing import Any

from flujo_lens.state.backends.base import StateBackend

_Part = Coroutine[Any, Any, Any]


async def read_together(backend: StateBackend, *parts: _Part) -> list[Any]:
    """Return what these reads of `backend` return, in their order.

    They run as tasks of the event loop; without one (see `StateBackend.needs_loop`), in a thread each.

    Raises:
        Exception: that of the first part that failed.
    """
    if vars(type(backend)).get("needs_loop", True) or _in_event_loop():
        return await _as_tasks(parts)
    return _in_threads(parts)


def _in_event_loop() -> bool:
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None


async def _as_tasks(parts: tuple[_Part, ...]) -> list[Any]:
    import asyncio

    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _in_threads(parts: tuple[_Part, ...]) -> list[Any]:
    """What the parts return, of which the last is driven by this thread."""
    threads = [_PartThread(part) for part in parts]
    for thread in threads[:-1]:
        thread.start()
    threads[-1].run()
    for thread in threads[:-1]:
        thread.join()
    for thread in threads:
        if thread.error is not None:
            raise thread.error
    return [thread.result for thread in threads]


class _PartThread(threading.Thread):
    """A thread that drives one part to its end. It does not keep a process alive that is interrupted."""

    def __init__(self, part: _Part) -> None:
        super().__init__(daemon=True)
        self._part = part
        self.result: Any = None
        self.error: Exception | None = None

    def run(self) -> None:
        """Drive the part, which never suspends."""
        try:
            self._part.send(None)
        except StopIteration as done:
            self.result = done.value
        except Exception as error:  # noqa: BLE001 - it is raised by the caller
            self.error = error
        finally:
            self._part.close()
