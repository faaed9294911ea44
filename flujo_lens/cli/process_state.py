"""What an application's code may change of the process, and lens needs as it was: signals, file descriptors, limits,
the current folder."""

from __future__ import annotations

import locale
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

__all__ = ["ProcessState", "kept"]

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGPIPE") if hasattr(signal, name))
_STANDARD = (1, 2)
"""File descriptors that others print to: a file that is opened after one was closed would get its number."""


class ProcessState:
    """The process as it is now.

    Args:
        spare: A file descriptor of stderr that nobody else knows.
    """

    def __init__(self, spare: int | None) -> None:
        self._spare = spare
        self._is_main = threading.current_thread() is threading.main_thread()
        self._handlers = {number: signal.getsignal(number) for number in _SIGNALS}
        self._wakeup = _wakeup() if self._is_main else -1
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, ()) if hasattr(signal, "pthread_sigmask") else set()
        self._depth = sys.getrecursionlimit()
        self._folder = _folder()
        self._locale = locale.setlocale(locale.LC_ALL)

    def restore(self) -> None:
        """What lens itself needs between two steps."""
        if sys.getrecursionlimit() != self._depth:
            with suppress(RecursionError):
                sys.setrecursionlimit(self._depth)
        self._reopen()
        if self._is_main and threading.current_thread() is threading.main_thread():
            self._restore_signals()

    def restore_all(self) -> None:
        """All of it: for what does not come after this one."""
        self.restore()
        if self._folder is not None and _folder() != self._folder:
            with suppress(OSError):
                os.chdir(self._folder)
        with suppress(locale.Error):
            locale.setlocale(locale.LC_ALL, self._locale)

    def _restore_signals(self) -> None:
        for number, handler in self._handlers.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)
        if _wakeup() != self._wakeup:
            with suppress(ValueError, OSError):
                signal.set_wakeup_fd(self._wakeup)
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)  # what a step's alarm would do, it would do to lens

    def _reopen(self) -> None:
        for number in _STANDARD if self._spare is not None else ():
            try:
                os.fstat(number)
            except OSError:
                with suppress(OSError):
                    os.dup2(self._spare, number)  # type: ignore[arg-type]


def _wakeup() -> int:
    """The file descriptor that signals are written to."""
    found: Any = signal.set_wakeup_fd(-1)
    if found != -1:
        with suppress(ValueError, OSError):
            signal.set_wakeup_fd(found)
    return int(found)


def _folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        return None


@contextmanager
def kept(spare: int | None) -> Iterator[ProcessState]:
    """Restore the process after every step of this block, and all of it at the end."""
    from flujo_lens.runner.application_code import cleaned_up

    state = ProcessState(spare)
    with cleaned_up(state.restore):
        try:
            yield state
        finally:
            state.restore_all()
