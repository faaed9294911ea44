"""Diverts output of an application's code to stderr, so that stdout has only the result. This includes its import,
its threads, and the programs that it starts."""

from __future__ import annotations

import atexit
import io
import os
import sys
import threading
from _thread import start_new_thread  # Thread.start waits for ever if there is no memory for the thread
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    from flujo_lens.cli.world import World

_GRACE = 5.0
"""Seconds to wait for threads and exit handlers of an application."""

_exit = os._exit  # whatever an application puts there


class _Diverted:
    """The changes made to a world, to be undone if the program continues after lens."""

    def __init__(self, world: World) -> None:
        self.world, self.stdout, self.stderr = world, world.stdout, world.stderr
        self.module = sys.stdout
        self.spare: int | None = None
        self.stdout.flush()
        self.stderr.flush()
        if self.stdout is sys.stdout and _number(self.stdout) >= 0 and _number(self.stderr) >= 0:
            self._divert_process()
        else:
            sys.stdout = self.stderr

    def _divert_process(self) -> None:
        number, error = _number(self.stdout), _number(self.stderr)
        out, stderr = _twin(self.stdout), _twin(self.stderr)
        self.spare = stderr.fileno()
        _replace(self.world, out, stderr)
        os.dup2(error, number)
        raw = open(number, "wb", buffering=0, closefd=False)  # noqa: SIM115 - as long as the process lives
        encoding = self.stdout.encoding
        sys.stdout = io.TextIOWrapper(cast("Any", raw), encoding, "backslashreplace", write_through=True)

    def undo(self) -> None:
        """Undo the changes."""
        sys.stdout = self.module
        if self.spare is not None:
            self.world.stdout.flush()
            os.dup2(self.world.stdout.fileno(), _number(self.stdout))
            for stream in (self.world.stdout, self.world.stderr):
                stream.close()
            _replace(self.world, self.stdout, self.stderr)


def divert(world: World) -> None:
    """Divert all other output from stdout to stderr; does nothing the second time."""
    if world.diverted is None:
        object.__setattr__(world, "diverted", _Diverted(world))


def undo(world: World) -> None:
    """Restore stdout if the program continues; a process that is lens alone keeps it."""
    if world.diverted is not None and not world.owns_process:
        world.diverted.undo()
        object.__setattr__(world, "diverted", None)


def spare_of(world: World) -> int | None:
    """A private file descriptor of stderr, if there is one."""
    return world.diverted.spare if world.diverted is not None else None


def _number(stream: TextIO) -> int:
    """The file descriptor of a stream, or -1."""
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return -1


def _twin(stream: TextIO) -> TextIO:
    """A private duplicate of a stream."""
    known: Any = stream
    raw = io.BufferedWriter(io.FileIO(os.dup(stream.fileno()), "w"))
    return io.TextIOWrapper(
        raw, stream.encoding, stream.errors, line_buffering=known.line_buffering, write_through=known.write_through
    )


def _replace(world: World, stdout: TextIO, stderr: TextIO) -> None:
    object.__setattr__(world, "stdout", stdout)
    object.__setattr__(world, "stderr", stderr)


# --- the end


def leave(world: World, code: int) -> None:
    """End the process with this code, even if an application left threads or exit handlers that do not end.

    They get a few seconds; their output goes to stderr.
    """
    with suppress(RuntimeError):
        start_new_thread(_after_a_while, (world, code))
    if "--debug" not in sys.argv:
        sys.unraisablehook = _one_line
    for end in (threading._shutdown, atexit._run_exitfuncs):  # type: ignore[attr-defined]
        with suppress(BaseException):
            end()
    for stream in (sys.stdout, sys.stderr, world.stdout, world.stderr):
        with suppress(Exception):
            stream.flush()
    _exit(code)


def _one_line(error: sys.UnraisableHookArgs) -> None:
    """Print the error of an exit handler without its traceback."""
    from flujo_lens.runner.application_code import describe

    with suppress(BaseException):
        told = describe(error.exc_value) if error.exc_value is not None else error.exc_type.__name__
        sys.stderr.write(f"an exit handler of the application failed: {told}\n")


def _after_a_while(world: World, code: int) -> None:
    threading.Event().wait(_GRACE)
    left = [thread.name for thread in threading.enumerate() if not thread.daemon]
    left = [name for name in left if name != threading.main_thread().name] or ["an exit handler"]
    with suppress(Exception):
        world.stderr.write(f"the application did not exit: {', '.join(left)} still running\n")
        world.stderr.flush()
    _exit(code)
