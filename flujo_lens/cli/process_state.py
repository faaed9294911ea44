"""State of the process that an application's code may change, and that lens restores: signals, file descriptors,
limits, the current folder."""

from __future__ import annotations

import locale
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGPIPE") if hasattr(signal, name))
_STANDARD = (1, 2)
"""Standard file descriptors: a file opened after one of them is closed would get its number."""
_HOOKS = ((sys, "excepthook"), (sys, "unraisablehook"), (threading, "excepthook"))
"""Hooks without which no thread can be started. An application may have its own, but there must be one."""


class ProcessState:
    """A snapshot of the state of the process.

    Args:
        spare: A private file descriptor of stderr.
    """

    def __init__(self, spare: int | None) -> None:
        self._spare = spare
        self._is_main = threading.current_thread() is threading.main_thread()
        self._handlers = {number: signal.getsignal(number) for number in _SIGNALS}
        self._wakeup = _wakeup() if self._is_main else -1
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, ()) if hasattr(signal, "pthread_sigmask") else set()
        self._depth = sys.getrecursionlimit()
        self._hooks = [(module, name, getattr(module, name)) for module, name in _HOOKS]
        self._folder = _folder()
        self._locale = locale.setlocale(locale.LC_ALL)

    def restore(self) -> None:
        """Restore what lens needs between two steps."""
        if sys.getrecursionlimit() != self._depth:
            with suppress(RecursionError):
                sys.setrecursionlimit(self._depth)
        for module, name, hook in self._hooks:
            if not callable(getattr(module, name, None)):
                setattr(module, name, hook)
        self._reopen()
        if self._is_main and threading.current_thread() is threading.main_thread():
            self._restore_signals()

    def restore_all(self) -> None:
        """Restore everything, at the end."""
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
            signal.setitimer(signal.ITIMER_REAL, 0)  # an alarm set by a step would end lens

    def _reopen(self) -> None:
        for number in _STANDARD if self._spare is not None else ():
            try:
                os.fstat(number)
            except OSError:
                with suppress(OSError):
                    os.dup2(self._spare, number)  # type: ignore[arg-type]


def _wakeup() -> int:
    """The wakeup file descriptor of signals."""
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
    """Snapshot the process, and restore everything at the end of the block."""
    from flujo_lens.cli.process_exit import exits_guarded
    from flujo_lens.runner.application_code import cleaned_up

    state = ProcessState(spare)
    with cleaned_up(state.restore), exits_guarded():
        try:
            yield state
        finally:
            state.restore_all()
