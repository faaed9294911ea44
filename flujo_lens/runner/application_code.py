"""Calls of an application's code, which may do whatever it likes: what comes out of them is an `Exception`.

A function may leave by `sys.exit`, raise `KeyboardInterrupt` or `asyncio.CancelledError` itself, or fork, and let the
child come back. None of that is for the application to decide: it has failed, and a child ends where it came back.
"""

from __future__ import annotations

import asyncio
import contextvars
import dis
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import CodeType, TracebackType
from typing import Any, NoReturn

from flujo_lens.errors import ApplicationExitError

__all__ = [
    "IN_STEP",
    "application_code",
    "as_exception",
    "clean_up",
    "cleaned_up",
    "describe",
    "end_child",
    "is_signal",
]

IN_STEP: contextvars.ContextVar[bool] = contextvars.ContextVar("flujo_lens_in_step", default=False)
"""Whether what runs was called by a step, or is a task or a callback of one."""

_LONGEST = 10_000
"""Characters of an exception's text that are kept."""

_FEW = 5
"""Exceptions of a group that are told."""

_RAISES = dis.opmap["RAISE_VARARGS"]

_cleaners: list[Callable[[], None]] = []


class application_code:  # noqa: N801 - a block, as `contextlib.suppress` is one
    """A block in which an application's code is called, outside of any step.

    Raises:
        ApplicationExitError: in place of whatever is no `Exception`. A signal's `KeyboardInterrupt` is left alone.
    """

    def __enter__(self) -> None:
        self._pid = os.getpid()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        end_child(self._pid, error)
        if error is not None and not isinstance(error, Exception):
            raise as_exception(error) from error


def as_exception(error: BaseException) -> Exception:
    """What an application's code raised, as an `Exception`.

    Raises:
        KeyboardInterrupt: it is the one of a signal.
    """
    if isinstance(error, Exception):
        return error
    if is_signal(error):
        raise error
    return ApplicationExitError.of(describe(error))


def is_signal(error: BaseException) -> bool:
    """Whether it is a `KeyboardInterrupt` that a signal has put into the code, rather than a statement of it."""
    if not isinstance(error, KeyboardInterrupt):
        return False
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return False
    code = trace.tb_frame.f_code
    return code in _handlers() or code.co_code[trace.tb_lasti] != _RAISES


def _handlers() -> Iterator[CodeType]:
    """The code of whatever hears Ctrl-C at present."""
    handler: Any = signal.getsignal(signal.SIGINT)
    while isinstance(handler, functools.partial):
        handler = handler.func
    code = getattr(getattr(handler, "__func__", handler), "__code__", None)
    if code is not None:
        yield code


def describe(error: BaseException) -> str:
    """An exception in words: its type and what it says; of a group its members, too."""
    said = _text(error)
    if isinstance(error, BaseExceptionGroup):
        some = error.exceptions[:_FEW]
        more = len(error.exceptions) - len(some)
        said += ": " + "; ".join([*map(describe, some), *([f"{more} more"] if more else [])])
    name = type(error).__name__
    return _shortened(f"{name}: {said}" if said else name)


def _text(error: BaseException) -> str:
    if isinstance(error, asyncio.CancelledError) and not error.args:
        return "cancelled by the application itself"
    try:
        return str.__str__(str(error))
    except BaseException as fault:  # noqa: BLE001 - its own __str__ fails
        as_exception(fault)
        return f"(its text cannot be read: {type(fault).__name__})"


def _shortened(text: str) -> str:
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}… ({len(text):,} characters)"
    return text.encode("utf-8", "backslashreplace").decode()


# --- forks


def end_child(parent: int, error: BaseException | None) -> None:
    """End this process if it is a child that came back from an application's code; `parent` is who called that.

    The run is its parent's, and so are the event loop, the connections and what is to be printed.
    """
    if os.getpid() != parent:
        _end(error)


def _end(error: BaseException | None) -> NoReturn:
    """As Python would end a program, but that nothing of ours is called."""
    status = 0
    if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
        status = (error.code or 0) & 0xFF
    elif error is not None:
        status = 1
        with suppress(OSError):
            os.write(2, f"{describe(error)}\n".encode())
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(status)


# --- what it leaves behind


@contextmanager
def cleaned_up(clean: Callable[[], None]) -> Iterator[None]:
    """Have `clean` called, in this block, whenever a step has come back: to undo what it did to the process."""
    _cleaners.append(clean)
    try:
        yield
    finally:
        _cleaners.remove(clean)


def clean_up() -> None:
    """A step has come back."""
    for clean in _cleaners:
        clean()
