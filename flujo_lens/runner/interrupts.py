"""SIGTERM during a run: cancels its task, which saves its position, and then ends the process."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_tasks: dict[asyncio.AbstractEventLoop, set[asyncio.Task[Any]]] = {}
"""The tasks of runs by loop, while the handler is installed."""

_asked = threading.Event()


@contextmanager
def terminable() -> Iterator[None]:
    """Cancel the current task on SIGTERM; when the last run has ended, apply the signal's default action.

    Only in the main thread, and only if the application does not handle the signal.
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
    """Install the handler; False if that is not possible, or another handler is installed."""
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
    """Remove the handler, and apply a pending signal."""
    del _tasks[loop]
    loop.remove_signal_handler(signal.SIGTERM)
    if _asked.is_set():
        _asked.clear()
        signal.raise_signal(signal.SIGTERM)


def _cancel(loop: asyncio.AbstractEventLoop) -> None:
    _asked.set()
    for task in _tasks.get(loop, ()):
        task.cancel()
