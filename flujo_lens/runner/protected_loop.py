"""An event loop that an application's code cannot end: for lens itself, which runs somebody's steps in it.

A task or a callback of the application that calls `sys.exit` or `loop.stop` ends the loop, not the work: it goes on.
Tasks of lens cannot be cancelled by a step, and tasks that steps leave behind are not waited for without end.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from flujo_lens.runner.application_code import IN_STEP, describe, is_signal

__all__ = ["drive"]

T = TypeVar("T")

_GRACE = 2.0
"""Seconds that tasks which steps have left behind get to end."""

_log = logging.getLogger("flujo_lens")


class _OwnTask(asyncio.Task[Any]):
    """A task that no step cancels."""

    def cancel(self, msg: Any | None = None) -> bool:
        return False if IN_STEP.get() else super().cancel(msg)


def _new_task(loop: asyncio.AbstractEventLoop, work: Any, **more: Any) -> asyncio.Task[Any]:
    """Tasks that a step makes are its own."""
    return asyncio.Task(work, loop=loop, **more) if IN_STEP.get() else _OwnTask(work, loop=loop, **more)


def drive(work: Coroutine[Any, Any, T]) -> T:
    """Return what the coroutine does, as `asyncio.run` would.

    Raises:
        KeyboardInterrupt: Ctrl-C. The first one cancels the work, the second one ends it.
    """
    loop = _new_loop()
    loop.set_task_factory(_new_task)
    try:
        task = loop.create_task(work)
        with _interruptible(loop, task) as interrupts:
            try:
                made: T = _to_the_end(loop, task)
            except asyncio.CancelledError:
                if interrupts:
                    raise KeyboardInterrupt from None
                raise
        return made
    finally:
        _close(loop)


def _new_loop() -> asyncio.AbstractEventLoop:
    """Not of the policy: that may be the application's."""
    if sys.platform == "win32":
        return asyncio.ProactorEventLoop()
    return asyncio.SelectorEventLoop()


def _to_the_end(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> Any:
    """Run the loop until the task is done, whatever else ends the loop meanwhile."""
    interrupt: BaseException | None = None
    while True:
        try:
            result = loop.run_until_complete(task)
        except BaseException as error:
            if task.done() or interrupt is not None:
                raise
            if is_signal(error):
                interrupt = error
                task.cancel()
            else:
                _log.warning("code of the application ended the event loop; the run goes on: %s", describe(error))
            continue
        if interrupt is not None:
            raise interrupt
        return result


@contextmanager
def _interruptible(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> Iterator[list[int]]:
    """Cancel the task on Ctrl-C, unless somebody else hears it; yields what has been heard."""
    heard: list[int] = []

    def hear(number: int, _: Any) -> None:
        heard.append(number)
        if len(heard) > 1:
            raise KeyboardInterrupt
        loop.call_soon_threadsafe(task.cancel, context=contextvars.Context())  # not as a step, if one is interrupted

    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield heard
        return
    signal.signal(signal.SIGINT, hear)
    try:
        yield heard
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _close(loop: asyncio.AbstractEventLoop) -> None:
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    with suppress(Exception):
        if left:
            _brought_on(loop, lambda: asyncio.wait(left, timeout=_GRACE))
        _brought_on(loop, lambda: asyncio.wait_for(loop.shutdown_asyncgens(), _GRACE))
    loop.close()


def _brought_on(loop: asyncio.AbstractEventLoop, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    _to_the_end(loop, loop.create_task(work()))
