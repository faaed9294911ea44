"""What live views share: the alternate screen, event lines, and the end by a signal."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.output import Output, live_console
from flujo_lens.cli.signals import code_of, cut_off
from flujo_lens.errors import LensError
from flujo_lens.operations.deletion import Stop
from flujo_lens.operations.watch import Event
from flujo_lens.rendering import human
from flujo_lens.rendering.text import one_line
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.views import RunSummary

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

T = TypeVar("T")
Draw = Callable[[int, int], "RenderableType"]
"""Makes the screen for a width and a height in cells."""

TICK, LONG_TICK = 10.0, 60.0
"""Seconds after which an unchanged screen is drawn again, which costs some 10 ms; the second where nothing runs."""


def has_screen(app: App, out: Output) -> bool:
    """Whether the view is drawn on the terminal; else events are printed as lines."""
    return out.is_table and app.world.is_terminal and app.world.env.get("TERM") not in ("dumb", "unknown")


def run_until_stopped(app: App, work: Callable[[StateBackend], Awaitable[T]]) -> T:
    """`App.run` for work that lasts until a signal.

    Raises:
        KeyboardInterrupt: Ctrl-C.
        typer.Exit: SIGTERM, or the terminal was closed.
    """
    stop = Stop()

    async def stoppable(backend: StateBackend) -> T:
        with cut_off(stop):
            return await work(backend)

    try:
        return app.run(stoppable)
    except asyncio.CancelledError:
        if not stop:
            raise
        raise typer.Exit(code_of(stop)) from None


class Outage:
    """Whether a store can be read at the moment, and since when not.

    Args:
        app: The invocation.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self.problem: LensError | None = None
        self._since = app.world.now()

    def takes(self, problem: LensError | None) -> bool:
        """Take what a look found; whether it is to be shown."""
        began, ended = problem is not None and self.problem is None, problem is None and self.problem is not None
        if began:
            self._since = self._app.world.now()
        self.problem = problem
        return began or ended

    def lines(self) -> Iterator[Text]:
        """A line that says so, if there is a problem."""
        from rich.text import Text

        if self.problem is not None:
            words = f"{self.problem.code}: {self.problem.message}"
            since = human.age(self._app.world.now() - self._since)
            text = one_line(self._app.redactor.text(words))
            yield Text(f"no connection for {since}, trying again: {text}", "red", no_wrap=True, overflow="ellipsis")


def until_now(run: RunSummary, now: datetime) -> RunSummary:
    """A running run with the time that it has run until now."""
    if run.status != "running" or run.stale is not None or run.created_at is None:
        return run
    return run._replace(duration_ms=max((now - run.created_at).total_seconds() * 1000, 0.0))


class LiveScreen:
    """The alternate screen of a terminal, from ``with`` to its end.

    It is drawn again when the window changes, and every few seconds. Ctrl-Z leaves it until the process goes on.

    Args:
        app: The invocation.
        draw: Makes the screen.
    """

    def __init__(self, app: App, draw: Draw) -> None:
        from rich.live import Live

        self._app, self._draw = app, draw
        self._console = live_console(app)
        self._live = Live(
            console=self._console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )
        self._changed = asyncio.Event()
        self._drawn_at = 0.0
        self.tick = TICK
        self._signals: list[int] = []

    def __enter__(self) -> Self:
        self._resize()
        self._live.start()
        if threading.current_thread() is threading.main_thread():
            loop = asyncio.get_running_loop()
            for name, handle in (("SIGWINCH", self._changed.set), ("SIGTSTP", self._suspend)):
                number = getattr(signal, name, None)
                if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                    loop.add_signal_handler(number, handle)
                    self._signals.append(number)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number in self._signals:
            asyncio.get_running_loop().remove_signal_handler(number)
        vars(self._app.world).pop("columns", None)  # the window may have changed
        with suppress(OSError):  # the terminal may be closed
            self._live.stop()

    def _resize(self) -> None:
        self._console.size = self._app.world.size()

    def _suspend(self) -> None:
        self._live.stop()
        self._app.world.stdout.flush()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._live.start()
        self._changed.set()

    def draw(self) -> None:
        """Draw the screen."""
        self._resize()
        self._live.update(self._draw(*self._console.size), refresh=True)
        self._app.world.stdout.flush()
        self._drawn_at = asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        """Wait for some seconds, and draw again where there is cause."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while (left := end - loop.time()) > 0:
            due = self._drawn_at + self.tick - loop.time()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), min(left, max(due, 0.0)))
            if self._changed.is_set() or loop.time() >= self._drawn_at + self.tick:
                self._changed.clear()
                self.draw()


class EventLines:
    """Prints events as they come, one a line.

    Args:
        app: The invocation.
        out: The output, in any format.
    """

    def __init__(self, app: App, out: Output) -> None:
        from flujo_lens.rendering.events import EVENT

        self._app, self._out, self._outage = app, out, Outage(app)
        self._writer = None if out.is_table else out.writer(EVENT)
        if self._writer is not None:
            self._out.write(self._writer.head())
            self._app.world.stdout.flush()

    def write(self, events: Iterable[Event]) -> None:
        """Print events."""
        from flujo_lens.rendering.events import event_text

        for event in events:
            event = event if event.at is not None else event._replace(at=self._app.world.now())
            if self._writer is not None:
                self._out.write(self._writer.line(event))
            else:
                self._app.say_masked([event_text(event, self._out.human)])
        self._app.world.stdout.flush()

    def tell(self, problem: LensError | None) -> None:
        """Print an event if the store has gone away, or is back."""
        if self._outage.takes(problem):
            kind, message = ("store_back", None) if problem is None else ("store_lost", problem.message)
            self.write([Event(self._app.world.now(), kind, message=message)])

    async def sleep(self, seconds: float) -> None:
        """Wait for some seconds.

        Raises:
            BrokenPipeError: the reader of the pipe is gone.
        """
        await asyncio.sleep(seconds)
        if _has_no_reader(self._app.world.stdout):
            raise BrokenPipeError


def _has_no_reader(stream: Any) -> bool:
    """Whether a stream is a pipe without a reader: nothing may be printed for hours, by which it would be noticed."""
    import select

    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return any(state & select.POLLERR for _, state in poll.poll(0))
    except (OSError, ValueError, AttributeError):
        return False
