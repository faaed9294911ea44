"""Stopping long work cleanly: the first Ctrl-C, SIGTERM or SIGHUP (a closed terminal) finishes the current batch, a
second Ctrl-C stops at once."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from flujo_lens.cli import exit_codes
from flujo_lens.operations.deletion import Stop

_ENDS = (signal.SIGTERM, signal.SIGHUP)
_CODES = {signal.SIGINT: exit_codes.INTERRUPTED, signal.SIGHUP: exit_codes.HUNG_UP}


@contextmanager
def heard(stop: Stop) -> Iterator[None]:
    """Note signals in `stop` instead of ending the program. Signals that are ignored (in a background job) stay so."""

    def note(number: int, _: FrameType | None) -> None:
        if stop.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.signal = stop.signal or number

    before = {}
    try:
        for number in (signal.SIGINT, *_ENDS):
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, note)
    except ValueError:  # not the main thread, where the embedding program handles signals
        pass
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def cut_off(stop: Stop) -> Iterator[None]:
    """On SIGTERM and SIGHUP, note them in `stop` and cancel the current task, which saves its position as on Ctrl-C.

    Only in the main thread, and only signals without another handler.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    if task is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: signal.Signals) -> None:
        stop.signal = stop.signal or number
        task.cancel()

    ours = [number for number in _ENDS if signal.getsignal(number) is signal.SIG_DFL]
    with suppress(NotImplementedError):  # not supported on this system
        for number in ours:
            loop.add_signal_handler(number, end, number)
    try:
        yield
    finally:
        for number in ours:
            loop.remove_signal_handler(number)


def code_of(stop: Stop) -> int:
    """The exit code of work stopped by a signal; 0 if none was received."""
    if stop.signal is None:
        return exit_codes.OK
    return _CODES.get(signal.Signals(stop.signal), exit_codes.TERMINATED)
