"""Calls with which an application's code would end the process of lens without a report."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_NAMES = ("_exit", "abort", "execv", "execve")
"""The other functions of `os` that replace the process call `execv` or `execve`."""


@contextmanager
def exits_guarded() -> Iterator[None]:
    """In this block, `os._exit` and the like raise `SystemExit` where an application's code calls them.

    Otherwise a step that calls ``os._exit(0)`` would end ``lens resume`` with exit code 0 and no result. In a thread of
    the application, `os._exit` still ends the process, but never with 0. Child processes are not affected.
    """
    from flujo_lens.runner.application_code import IN_STEP

    before = {name: getattr(os, name) for name in _NAMES if hasattr(os, name)}
    for name, call in before.items():
        setattr(os, name, _guarded(name, call, os.getpid(), IN_STEP.get))
    try:
        yield
    finally:
        for name, call in before.items():
            setattr(os, name, call)


def _guarded(name: str, call: Callable[..., Any], pid: int, in_step: Callable[[], bool]) -> Callable[..., Any]:
    def guarded(*arguments: Any, **named: Any) -> Any:
        if os.getpid() != pid:
            return call(*arguments, **named)
        if in_step() or threading.current_thread() is threading.main_thread():
            raise SystemExit(f"os.{name}({', '.join(map(repr, arguments[:1]))})")
        return call(1) if name == "_exit" and arguments == (0,) else call(*arguments, **named)

    return guarded
