"""Output of ``lens watch``: the live table, or a line for each event."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from flujo_lens.cli.context import App
from flujo_lens.cli.options import FilterOptions
from flujo_lens.cli.output import Output
from flujo_lens.cli.screens.live import (
    LONG_TICK,
    TICK,
    EventLines,
    LiveScreen,
    Outage,
    has_screen,
    run_until_stopped,
    until_now,
)
from flujo_lens.operations.watch import (
    Activity,
    Event,
    activity_events,
    finished_since,
    first_events,
    looks,
    read_activity,
    stale_events,
)
from flujo_lens.rendering import human
from flujo_lens.rendering.events import ACTIVITY, EVENT
from flujo_lens.rendering.text import one_line
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.views import RunFilter, RunSummary

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

_MOST_ROWS = 200
"""Maximum number of rows of each kind that a screen can show."""

_HEAD = 6
"""Lines above the rows, and one below."""


class WatchArguments(NamedTuple):
    """The options of ``lens watch``.

    Attributes:
        filters: Which runs are shown.
        interval: Seconds between looks.
        recent: How long a finished run is shown.
    """

    filters: FilterOptions
    interval: float
    recent: timedelta


def watch_store(app: App, out: Output, asked: WatchArguments) -> None:
    """Show what goes on in a store until Ctrl-C."""
    out.fields(ACTIVITY if has_screen(app, out) else EVENT)  # a wrong column is an error before the screen changes
    wanted = app.wanted(asked.filters)

    def wanted_now() -> RunFilter:
        """The filter with ages that count from now."""
        return app.wanted(asked.filters, lambda: wanted.statuses)

    async def work(backend: StateBackend) -> None:
        if has_screen(app, out):
            await _draw_runs(app, out, asked, backend, wanted_now)
        else:
            await _print_events(app, out, asked, backend, wanted_now)

    run_until_stopped(app, work)


# --- lines


async def _print_events(
    app: App, out: Output, asked: WatchArguments, backend: StateBackend, wanted: Callable[[], RunFilter]
) -> None:
    now, lines = app.world.now, EventLines(app, out)
    seen = await read_activity(backend, wanted(), now(), asked.recent, _MOST_ROWS)
    shown = seen.at(now(), app.silent_after)
    lines.write(first_events(shown))

    async def read() -> tuple[Activity, list[Event]]:
        nonlocal seen
        found = await read_activity(backend, wanted(), now(), asked.recent, 0, seen)
        events, seen = await activity_events(backend, seen, found)
        return seen, events

    first: tuple[Activity, list[Event]] = (seen, [])
    async for look in looks(backend, read, first, asked.interval, lines.sleep):
        lines.tell(look.problem)
        activity, events = look.value
        after = activity.at(now(), app.silent_after)
        lines.write([*(events if look.is_new else ()), *stale_events(shown, after)])
        shown = after


# --- the table


async def _draw_runs(
    app: App, out: Output, asked: WatchArguments, backend: StateBackend, wanted: Callable[[], RunFilter]
) -> None:
    table = _RunTable(
        app, out, asked, await read_activity(backend, wanted(), app.world.now(), asked.recent, _MOST_ROWS)
    )

    def read() -> Awaitable[Activity]:
        return read_activity(backend, wanted(), app.world.now(), asked.recent, _MOST_ROWS, table.activity)

    with LiveScreen(app, table.rendered) as screen:
        screen.draw()
        async for look in looks(backend, read, table.activity, asked.interval, screen.sleep):
            table.activity = look.value
            screen.tick = TICK if look.value.running else LONG_TICK
            if table.outage.takes(look.problem) or look.is_new:
                screen.draw()


class _RunTable:
    """The screen: how many runs there are, how fast they finish, and the runs themselves."""

    def __init__(self, app: App, out: Output, asked: WatchArguments, activity: Activity) -> None:
        self._app, self._out, self._asked, self.activity = app, out, asked, activity
        self.outage = Outage(app)
        choice = app.store
        uri = app.redactor.text(choice.uri)
        self._store = one_line(f"{choice.name}  {uri}" if choice.name else uri)

    def rendered(self, width: int, height: int) -> RenderableType:
        """The screen in this size."""
        from rich.console import Group
        from rich.text import Text

        from flujo_lens.rendering.tables import table

        now, out = self._app.world.now(), self._out
        activity = self.activity.at(now, self._app.silent_after)
        groups = list(self._groups(activity, now))
        rows = _fitting(groups, max(height - _HEAD, 1))
        lines = [*self._head(activity, now, width), self._note(len(rows), sum(map(len, groups)))]
        if not rows:
            return Group(*lines, Text("no active runs", style="dim"))
        fields = out.fields(ACTIVITY) if out.options.columns is not None else ()
        shown = out.human._replace(now=now)
        header = not out.options.no_header
        return Group(
            *lines, table(ACTIVITY, rows, shown, out.redactor, width, fields, header=header, cut=True).rendered
        )

    def _groups(self, activity: Activity, now: datetime) -> Iterator[list[RunSummary]]:
        running = [until_now(run, now) for run in activity.shown if run.status == "running"]
        others = [run for run in activity.shown if run.status not in ("running", "paused")]
        yield running
        yield [run for run in activity.shown if run.status == "paused"]
        yield [run for run in others if run.updated_at is not None and run.updated_at >= now - self._asked.recent]

    def _head(self, activity: Activity, now: datetime, width: int) -> Iterator[Text]:
        from rich.text import Text

        from flujo_lens.rendering.tables import STATUS_STYLES

        clock = self._out.human.clock(now)
        title = Text(self._store, style="bold", no_wrap=True, overflow="ellipsis")
        title.truncate(max(width - len(clock) - 2, 0), overflow="ellipsis")
        yield title.append(" " * max(width - title.cell_len - len(clock), 2) + clock, "not bold")
        running = activity.running.values()
        stale = sum(run.stale is not None for run in running)
        counts = Text(f"{len(running):,} running", style=STATUS_STYLES["running"] if running else "")
        counts.append(f" ({stale:,} stale)" if stale else "")
        counts.append(f"   {activity.paused:,} paused", STATUS_STYLES["paused"] if activity.paused else "not yellow")
        finished = finished_since(activity, now - self._asked.recent)
        total, failed = sum(finished.values()), finished.get("failed", 0)
        per_minute = total / (self._asked.recent.total_seconds() / 60)
        rate = Text(f"last {human.age(self._asked.recent)}: {total:,} finished ({per_minute:.1f}/min)")
        if total:
            style = STATUS_STYLES["failed"] if failed else ""
            rate.append(", ").append(f"{failed:,} failed ({failed / total:.0%})", style)
        yield counts
        yield rate

    def _note(self, rows: int, of: int) -> Text:
        """The line below the counts."""
        from rich.text import Text

        for line in self.outage.lines():
            return line
        return Text(f"showing {rows:,} of {of:,}: the window is too low" if rows < of else "", style="dim")


def _fitting(groups: Sequence[Sequence[RunSummary]], room: int) -> list[RunSummary]:
    """The rows that fit: of each group its share, and what others leave."""
    taken = [min(len(group), room // len(groups)) for group in groups]
    for at, group in enumerate(groups):
        taken[at] += min(len(group) - taken[at], room - sum(taken))
    return [run for group, most in zip(groups, taken, strict=True) for run in group[:most]]
