"""Ending long work cleanly: the first Ctrl-C or SIGTERM is a wish, the second Ctrl-C an order."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from flujo_lens.cli import exit_codes
from flujo_lens.operations.deletion import Stop

__all__ = ["code_of", "heard"]


@contextmanager
def heard(stop: Stop) -> Iterator[None]:
    """Have signals noted in `stop` rather than end the program; what ignores them (a background job) still does."""

    def note(number: int, _: FrameType | None) -> None:
        if stop.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.signal = stop.signal or number

    before = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, note)
    except ValueError:  # not the main thread: whoever runs lens there hears the signals
        pass
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def code_of(stop: Stop) -> int:
    """The exit code of work that a signal ended; 0 if none did."""
    if stop.signal is None:
        return exit_codes.OK
    return exit_codes.INTERRUPTED if stop.signal == signal.SIGINT else exit_codes.TERMINATED
