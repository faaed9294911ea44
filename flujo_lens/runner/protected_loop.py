"""An event loop protected from the application's code, in which lens runs steps.

If a task or callback of the application calls `sys.exit` or `loop.stop`, the work continues. Steps cannot cancel tasks
of lens, and the wait for tasks left by steps is limited.
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

from flujo_lens.errors import OperationFailedError
from flujo_lens.runner.application_code import IN_STEP, describe, is_signal

T = TypeVar("T")

_GRACE = 2.0
"""Seconds to wait for tasks left by steps."""

_log = logging.getLogger("flujo_lens")


class _OwnTask(asyncio.Task[Any]):
    """A task that steps cannot cancel."""

    def cancel(self, msg: Any | None = None) -> bool:
        return False if IN_STEP.get() else super().cancel(msg)


def _new_task(loop: asyncio.AbstractEventLoop, work: Any, **more: Any) -> asyncio.Task[Any]:
    """The task factory: tasks created by a step are ordinary ones."""
    return asyncio.Task(work, loop=loop, **more) if IN_STEP.get() else _OwnTask(work, loop=loop, **more)


def drive(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine like `asyncio.run`.

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
    """Create a loop without the policy, which may belong to the application."""
    if sys.platform == "win32":
        return asyncio.ProactorEventLoop()
    return asyncio.SelectorEventLoop()


def _to_the_end(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> Any:
    """Run the loop until the task is done, restarting it if the application stops it."""
    interrupt: BaseException | None = None
    while True:
        try:
            result = loop.run_until_complete(task)
        except BaseException as error:
            if task.done() or interrupt is not None:
                raise
            if isinstance(error, OSError):  # of the selector: its file descriptor was closed
                raise _unusable(error, task) from error
            if is_signal(error):
                interrupt = error
                task.cancel()
            else:
                _log.warning("the application's code stopped the event loop; the run continues: %s", describe(error))
            continue
        if interrupt is not None:
            raise interrupt
        return result


def _unusable(error: OSError, task: asyncio.Task[Any]) -> OperationFailedError:
    """The error for a loop that cannot continue. Its work is dropped as it stands: its connections are closed, too."""
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    with suppress(BaseException):
        task.get_coro().close()
    return OperationFailedError(
        f"the application's code closed file descriptors of lens, which cannot continue: {error.strerror}",
        hint="the current run stays as it was last saved, and can be resumed: lens list --status running",
    )


@contextmanager
def _interruptible(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> Iterator[list[int]]:
    """Cancel the task on Ctrl-C, unless another handler is installed; yields the received signals."""
    heard: list[int] = []

    def hear(number: int, _: Any) -> None:
        heard.append(number)
        if len(heard) > 1:
            raise KeyboardInterrupt
        loop.call_soon_threadsafe(
            task.cancel, context=contextvars.Context()
        )  # in an empty context, not that of an interrupted step

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
    with suppress(OSError):
        loop.close()


def _brought_on(loop: asyncio.AbstractEventLoop, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    _to_the_end(loop, loop.create_task(work()))
