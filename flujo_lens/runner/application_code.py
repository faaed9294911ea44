"""Calls of an application's code, which turn everything that it raises into an `Exception`.

A function may call `sys.exit`, raise `KeyboardInterrupt` or `asyncio.CancelledError`, or fork and return in the child.
All of these count as failures of the application, and a child process ends where it returns.
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

IN_STEP: contextvars.ContextVar[bool] = contextvars.ContextVar("flujo_lens_in_step", default=False)
"""Whether the current code runs inside a step, or in a task or callback of one."""

_LONGEST = 10_000
"""Maximum length of the text of an exception."""

_FEW = 5
"""Maximum number of described exceptions of a group."""

_RAISES = dis.opmap["RAISE_VARARGS"]

_cleaners: list[Callable[[], None]] = []


class application_code:  # noqa: N801 - a block, as `contextlib.suppress` is one
    """A block that calls an application's code outside of a step.

    Raises:
        ApplicationExitError: in place of any other `BaseException`, except the `KeyboardInterrupt` of a signal.
    """

    def __enter__(self) -> None:
        self._pid = os.getpid()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        end_child(self._pid, error)
        if error is not None and not isinstance(error, Exception):
            raise as_exception(error) from error


def as_exception(error: BaseException) -> Exception:
    """Convert what an application's code raised to an `Exception`.

    Raises:
        KeyboardInterrupt: `error` comes from a signal.
    """
    if isinstance(error, Exception):
        return error
    if is_signal(error):
        raise error
    return ApplicationExitError.of(describe(error))


def is_signal(error: BaseException) -> bool:
    """Whether an error is a `KeyboardInterrupt` from a signal, not raised by a statement."""
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
    """The code objects of the current handlers of SIGINT."""
    handler: Any = signal.getsignal(signal.SIGINT)
    while isinstance(handler, functools.partial):
        handler = handler.func
    code = getattr(getattr(handler, "__func__", handler), "__code__", None)
    if code is not None:
        yield code


def describe(error: BaseException) -> str:
    """Describe an exception: its type and text, and the members of a group."""
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
    """End this process if it is a child that returned from an application's code; `parent` is the calling process.

    The run, the event loop, the connections and the output belong to the parent.
    """
    if os.getpid() != parent:
        _end(error)


def _end(error: BaseException | None) -> NoReturn:
    """Exit like a Python program, without calling handlers of lens."""
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


# --- clean-up


@contextmanager
def cleaned_up(clean: Callable[[], None]) -> Iterator[None]:
    """In this block, call `clean` after every step, to undo its changes of the process."""
    _cleaners.append(clean)
    try:
        yield
    finally:
        _cleaners.remove(clean)


def clean_up() -> None:
    """Clean up after a step."""
    for clean in _cleaners:
        clean()
