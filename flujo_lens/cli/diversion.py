"""Streams that an application's code cannot get at: whatever it prints, from its import to the end of the process, by
its threads and the programs that it starts too, goes to stderr. Stdout has the result alone."""

from __future__ import annotations

import atexit
import io
import os
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    from flujo_lens.cli.context import World

__all__ = ["divert", "leave", "spare_of"]

_GRACE = 5.0
"""Seconds that threads and exit handlers of an application get."""


class _Diverted:
    """What was changed for a world, to be changed back where a program goes on after lens."""

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
        out, told = _twin(self.stdout), _twin(self.stderr)
        self.spare = told.fileno()
        _replace(self.world, out, told)
        os.dup2(error, number)
        raw = open(number, "wb", buffering=0, closefd=False)  # noqa: SIM115 - as long as the process lives
        encoding = self.stdout.encoding
        sys.stdout = io.TextIOWrapper(cast("Any", raw), encoding, "backslashreplace", write_through=True)

    def undo(self) -> None:
        """As it was before."""
        sys.stdout = self.module
        if self.spare is not None:
            self.world.stdout.flush()
            os.dup2(self.world.stdout.fileno(), _number(self.stdout))
            for stream in (self.world.stdout, self.world.stderr):
                stream.close()
            _replace(self.world, self.stdout, self.stderr)


def divert(world: World) -> None:
    """Have stdout to ourselves from now on; once is enough."""
    if world.diverted is None:
        object.__setattr__(world, "diverted", _Diverted(world))


def undo(world: World) -> None:
    """Give stdout back to a program that goes on; a process of lens alone keeps it to its end."""
    if world.diverted is not None and not world.owns_process:
        world.diverted.undo()
        object.__setattr__(world, "diverted", None)


def spare_of(world: World) -> int | None:
    """A file descriptor of stderr that nobody else knows, if there is one."""
    return world.diverted.spare if world.diverted is not None else None


def _number(stream: TextIO) -> int:
    """The file descriptor of a stream; -1 if it has none."""
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return -1


def _twin(stream: TextIO) -> TextIO:
    """A stream to the same place that nobody else has in hand."""
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
    """End the process with this code, whatever an application has left behind: threads that never end, exit handlers.

    They get a few seconds, as at the end of any program, and what they print goes to stderr.
    """
    threading.Thread(target=_after_a_while, args=(world, code), name="lens-exit", daemon=True).start()
    for end in (threading._shutdown, atexit._run_exitfuncs):  # type: ignore[attr-defined]
        with suppress(BaseException):
            end()
    for stream in (sys.stdout, sys.stderr, world.stdout, world.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(code)


def _after_a_while(world: World, code: int) -> None:
    own = threading.current_thread()
    threading.Event().wait(_GRACE)
    left = [thread.name for thread in threading.enumerate() if not thread.daemon and thread is not own]
    left = [name for name in left if name != threading.main_thread().name] or ["an exit handler"]
    with suppress(Exception):
        world.stderr.write(f"the application has not ended by itself: {', '.join(left)}\n")
        world.stderr.flush()
    os._exit(code)
