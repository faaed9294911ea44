"""Coroutines for programs without an event loop: one loop a thread, which is kept from call to call.

A driver's connections belong to the loop that they were opened in. So a program that calls `run` and then `resume`
needs the same loop for both.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["loop_runs", "run_to_end"]

T = TypeVar("T")


class _Kept:
    """A loop of one thread of one process. It is closed when the thread or the process ends."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.runner = asyncio.Runner()
        weakref.finalize(self, _close, self.runner, self.pid)


_thread = threading.local()
_of_parents: list[_Kept] = []
"""Loops that a child process has inherited: not to be used, nor closed."""


def loop_runs() -> bool:
    """Whether this thread is inside an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def run_to_end(work: Coroutine[Any, Any, T]) -> T:
    """Return what the coroutine does; as by `asyncio.run`, but that the loop stays. No loop may be running."""
    kept = getattr(_thread, "kept", None)
    if kept is not None and kept.pid != os.getpid():
        _of_parents.append(kept)
        kept = None
    if kept is None:
        kept = _thread.kept = _Kept()
    try:
        return kept.runner.run(work)
    finally:
        _end_tasks(kept.runner.get_loop())


def _end_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what the steps left behind: nobody would bring it on."""
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))


def _close(runner: asyncio.Runner, pid: int) -> None:
    """Close a loop, but not that of a parent process: they share what it waits with."""
    if os.getpid() == pid:
        runner.close()
