"""SIGTERM while a run is under way: its task is cancelled, which saves where it stands; then the process ends."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["terminable"]

_tasks: dict[asyncio.AbstractEventLoop, set[asyncio.Task[Any]]] = {}
"""The tasks of runs by loop, while this module listens."""

_asked = threading.Event()


@contextmanager
def terminable() -> Iterator[None]:
    """Cancel the current task on SIGTERM, and let the signal take its course when the last run has ended.

    Only in the main thread, and only where the application does not handle the signal itself.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    if task is None or not (loop in _tasks or _listen(loop)):
        yield
        return
    _tasks[loop].add(task)
    try:
        yield
    finally:
        _tasks[loop].discard(task)
        if not _tasks[loop]:
            _hush(loop)


def _listen(loop: asyncio.AbstractEventLoop) -> bool:
    """Begin to listen; False where that is not possible, or somebody else does."""
    if threading.current_thread() is not threading.main_thread():
        return False
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return False
    try:
        loop.add_signal_handler(signal.SIGTERM, _cancel, loop)
    except (NotImplementedError, RuntimeError):
        return False
    _tasks[loop] = set()
    return True


def _hush(loop: asyncio.AbstractEventLoop) -> None:
    """Stop to listen; what was asked for happens now."""
    del _tasks[loop]
    loop.remove_signal_handler(signal.SIGTERM)
    if _asked.is_set():
        _asked.clear()
        signal.raise_signal(signal.SIGTERM)


def _cancel(loop: asyncio.AbstractEventLoop) -> None:
    _asked.set()
    for task in _tasks.get(loop, ()):
        task.cancel()
