"""Running coroutines in programs without an event loop: one loop per thread, kept between calls.

Connections of a driver belong to the loop in which they were opened, so `run` and a later `resume` need the same loop.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Kept:
    """The loop of a thread, closed at the end of the thread or process."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.runner = asyncio.Runner()
        weakref.finalize(self, _close, self.runner, self.pid)


_thread = threading.local()
_of_parents: list[_Kept] = []
"""Loops inherited by a child process, which must not be used or closed."""


def loop_runs() -> bool:
    """Whether an event loop is running in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def run_to_end(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine like `asyncio.run`, but keep the loop. No loop may be running."""
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
    """Cancel tasks left by steps, which would not run any more."""
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))


def _close(runner: asyncio.Runner, pid: int) -> None:
    """Close a loop, except that of a parent process, with which it shares file descriptors.

    At the end of a process Python 3.12 and newer start no thread, which asyncio needs to wait for the threads of
    ``asyncio.to_thread``. They have ended by then, and the loop is closed even so.
    """
    if os.getpid() != pid:
        return
    loop = runner.get_loop()
    try:
        runner.close()
    except RuntimeError:
        if not loop.is_closed():
            raise
