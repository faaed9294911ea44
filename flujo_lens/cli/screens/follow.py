"""Output of ``lens watch RUN``: its steps and spans until it ends, as a screen or a line for each event."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from flujo_lens.cli import exit_codes
from flujo_lens.cli.context import App
from flujo_lens.cli.output import Output
from flujo_lens.cli.screens.live import EventLines, LiveScreen, Outage, has_screen, run_until_stopped, until_now
from flujo_lens.cli.screens.show import RunScreen, ShowParts
from flujo_lens.operations.runs import resolve_run
from flujo_lens.operations.watch import Followed, follow_events, looks, read_followed
from flujo_lens.rendering.columns import STEP
from flujo_lens.rendering.events import EVENT
from flujo_lens.rendering.text import run_command, unescape
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.views import RunDetail, RunSummary, Span, StepRecord

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

FORMATS = ("table", "ndjson", "csv", "tsv")
"""Formats of what has no end."""

_PARTS = ShowParts(False, False, False, False)
_CODES = {"completed": exit_codes.OK, "paused": exit_codes.PARTIAL}

_GRACE = 5.0
"""Seconds after which a run whose process is gone counts as ended: it may just be restarted."""

_BETWEEN = 3
"""Lines between the parts, and the header of the steps."""


def follow_run(app: App, out: Output, text: str, interval: float) -> int:
    """Show a run until it ends or pauses.

    Returns:
        The exit code for its outcome: 0 for completed, 6 for paused, 1 for everything else.
    """
    out.fields(STEP if has_screen(app, out) else EVENT)

    async def work(backend: StateBackend) -> Followed:
        run_id = await resolve_run(backend, text, unescape(text))
        following = _Following(app, out, backend, run_id, interval)
        return await (following.draw() if has_screen(app, out) else following.print_events())

    found = run_until_stopped(app, work)
    if has_screen(app, out):
        RunScreen(app, app.output(out.options, out.formats), found.detail, _PARTS).draw()
    elif not found.has_ended:
        command = app.suggest(run_command("resume", found.run.run_id))
        app.note(f"its process is gone ({found.run.holder}); to continue: {command}")
    return _CODES.get(found.run.status, exit_codes.FAILED)


class _Following:
    """Follows one run, until it ends or pauses, or its process has been gone for a while."""

    def __init__(self, app: App, out: Output, backend: StateBackend, run_id: str, interval: float) -> None:
        self._app, self._out, self._backend, self._run_id = app, out, backend, run_id
        self._interval, self._outage = interval, Outage(app)
        self._gone_at: float | None = None
        self._shown = Followed(RunDetail(RunSummary(run_id)))

    async def _read(self) -> Followed:
        return await read_followed(self._backend, self._run_id)

    def _is_over(self, found: Followed) -> bool:
        """Take what was read; whether there is nothing more to wait for."""
        self._shown = found.at(self._app.world.now(), self._app.silent_after)
        if not self._shown.is_gone:
            self._gone_at = None
            return self._shown.has_ended
        self._gone_at = self._gone_at or time.monotonic()
        return time.monotonic() - self._gone_at >= _GRACE

    async def print_events(self) -> Followed:
        """Print an event for each step and span; return the run as it was last."""
        lines, found = EventLines(self._app, self._out), await self._read()
        is_over, before = self._is_over(found), self._shown
        lines.write(follow_events(None, self._shown))
        if is_over:
            return self._shown
        async for look in looks(self._backend, self._read, found, self._interval, lines.sleep):
            lines.tell(look.problem)
            is_over = self._is_over(look.value)
            lines.write(follow_events(before, self._shown))
            if is_over:
                break
            before = self._shown
        return self._shown

    async def draw(self) -> Followed:
        """Draw the run on the terminal; return it as it was last."""
        found = await self._read()
        if self._is_over(found):
            return self._shown
        with LiveScreen(self._app, self._rendered) as screen:
            screen.draw()
            async for look in looks(self._backend, self._read, found, self._interval, screen.sleep):
                is_other, was_gone = self._outage.takes(look.problem), self._shown.is_gone
                if self._is_over(look.value):
                    break
                if look.is_new or is_other or was_gone != self._shown.is_gone:
                    screen.draw()
        return self._shown

    def _rendered(self, width: int, height: int) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        out = self._app.output(self._out.options, self._out.formats)  # its times count from now
        shown = self._shown.at(self._app.world.now(), self._app.silent_after)
        detail = shown.detail._replace(run=until_now(shown.run, self._app.world.now()))
        screen = RunScreen(self._app, out, detail, _PARTS)
        spans, steps = self._spans(out, shown.spans, width), screen.steps()
        if steps and steps[-1].status == "running" and steps[-1].duration_ms is None:
            steps[-1] = steps[-1]._replace(duration_ms=_since(shown.run.updated_at, self._app.world.now()))
        head = [screen.title(), *screen.facts()]
        used = sum(-(-line.cell_len // width) for line in head) + bool(self._outage.problem)
        room = max(height - _BETWEEN - used, 2)
        most = max(room - len(spans), room // 2)
        parts: list[RenderableType] = [*head, *self._outage.lines(), Text()]
        if steps:
            parts.append(self._steps(out, steps[-most:], width))
        if spans:
            parts += [Text(), *spans[-max(room - min(len(steps), most), 1) :]]
        return Group(*parts)

    def _steps(self, out: Output, steps: Sequence[StepRecord], width: int) -> RenderableType:
        from flujo_lens.rendering.tables import table

        fields = out.fields(STEP) if out.options.columns is not None else ()
        header = not out.options.no_header
        return table(STEP, steps, out.human, out.redactor, width, fields, header=header, cut=True).rendered

    def _spans(self, out: Output, roots: Sequence[Span], width: int) -> list[Text]:
        from flujo_lens.rendering.trace import tree_lines

        return tree_lines(roots, width, unicode=self._app.world.unicode, mask=out.redactor.text)


def _since(when: datetime | None, now: datetime) -> float | None:
    """Milliseconds from an instant until now: the step after the last save has run for so long."""
    return None if when is None else max((now - when).total_seconds() * 1000, 0.0)
