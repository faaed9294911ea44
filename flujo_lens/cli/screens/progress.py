"""A progress bar on stderr: on a terminal, and only when the work takes over a second."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from flujo_lens.cli.context import App

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_SOON = 1.0


class Bar:
    """A context manager that shows progress: number done, rate and remaining time."""

    def __init__(self, app: App, verb: str, unit: str, total: int) -> None:
        self._app, self._verb, self._unit, self._total = app, verb, unit, total
        known = app.world.stderr_tty
        self._is_shown = not app.options.quiet and (app.world.stderr.isatty() if known is None else known)
        self._began = time.monotonic()
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def update(self, done: int) -> None:
        """Set the number done."""
        if not self._is_shown or time.monotonic() - self._began < _SOON:
            return
        if self._progress is None:
            self._begin()
        assert self._progress is not None
        assert self._task is not None
        rate = done / (time.monotonic() - self._began)
        self._progress.update(
            self._task, completed=done, done=f"{done:,}/{self._total:,}", rate=f"{rate:,.0f} {self._unit}/s"
        )

    def _begin(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(file=self._app.world.stderr, no_color=not self._app.stderr_colour)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[done]}"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task(self._verb, total=self._total, done="", rate="")
        self._progress.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._progress is not None:
            self._progress.stop()
