"""What ``lens status`` prints."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC

from rich.table import Table
from rich.text import Text

from flujo_lens.cli.context import App
from flujo_lens.cli.output import Output
from flujo_lens.cli.screens import quoted
from flujo_lens.rendering import human
from flujo_lens.rendering.text import escape_controls, one_line
from flujo_lens.state.figures import FailureGroup, StoreStatus

__all__ = ["draw_status"]

_MOST = 5
_Line = tuple[str, str, Text, str]


def draw_status(app: App, out: Output, status: StoreStatus) -> None:
    """The screen: a line a finding, with the command that leads on."""
    written = out.human.ago(status.last_write_at) if status.last_write_at else "never"
    grid = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(3):
        grid.add_column(overflow="fold")
    for label, style, text, command in _lines(app, out, status):
        grid.add_row(Text(f" {label}", style=style), text, Text(app.suggest(command), style="dim"))
    grid.add_row(Text(" written"), Text(written), Text())
    out.print(Text(one_line(status.store), style="bold"), grid)
    out.next(*_next(status))


def _lines(app: App, out: Output, status: StoreStatus) -> Iterator[_Line]:
    count = sum(group.count for group in status.failing)
    usual = f", usually {_about(status.usual)}" if status.usual is not None else ""
    yield (
        "failing",
        "red" if count else "green",
        Text(f"{count:,} in 1 h{usual}" if count else f"none in 1 h{usual}"),
        "lens failed --hours 1" if count else "lens failed",
    )
    for group in status.failing[:_MOST]:
        yield "", "", _group(out, group), ""
    if len(status.failing) > _MOST:
        yield "", "", Text(f"and {len(status.failing) - _MOST} other errors"), ""
    yield from _silent(app, out, status)
    yield from _waiting(out, status)
    runs = human.plural(status.runs, "run")
    size = human.size(status.size_bytes) if status.size_bytes is not None else ""
    yield "store", "", Text(", ".join(part for part in (size, runs) if part)), "lens stats"


def _about(usual: float) -> str:
    """An average of counts, as a person would say it."""
    if usual == 0:
        return "none"
    return "less than 1" if usual < 1 else f"{usual:,.0f}"


def _group(out: Output, group: FailureGroup) -> Text:
    where = f" at {one_line(group.step_name)}" if group.step_name else ""
    first = group.first_at.astimezone(UTC if out.options.utc else out.human.zone) if group.first_at else None
    since = f", first {first:%H:%M}" if first else ""
    return Text(f"{group.count:,}  {one_line(out.redactor.text(group.error), 120)}{where}{since}", style="red")


def _silent(app: App, out: Output, status: StoreStatus) -> Iterator[_Line]:
    border = human.age(app.silent_after)
    if not status.silent:
        yield "silent", "green", Text(f"none running without a sign for {border}"), ""
        return
    longest = out.human.since(status.silent[0].updated_at)
    text = f"{status.silent_count:,} running, no sign for {border} or more (the longest {longest})"
    yield "silent", "yellow", Text(text), "lens list --status running"
    for run in status.silent[:_MOST]:
        where = f" at {one_line(run.step_name)}" if run.step_name else ""
        yield "", "", Text(f"  {escape_controls(run.run_id)}{where}, {out.human.ago(run.updated_at)}"), ""


def _waiting(out: Output, status: StoreStatus) -> Iterator[_Line]:
    oldest = status.oldest_waiting
    if oldest is None:
        yield "waiting", "green", Text("nobody is waited for"), ""
        return
    asks = out.redactor.text(one_line(oldest.pause_message or "", 100))
    question = f': "{asks}"' if asks else ""
    text = f"{status.waiting_count:,} for a person, oldest {out.human.since(oldest.updated_at)}{question}"
    yield "waiting", "cyan", Text(text), "lens waiting"


def _next(status: StoreStatus) -> tuple[str, ...]:
    if status.failing:
        return "lens failed --hours 1", f"lens trace {quoted(status.failing[0].sample_run_id)}"
    if status.silent:
        return f"lens show {quoted(status.silent[0].run_id)}", "lens list --status running"
    if status.oldest_waiting is not None:
        return f"lens show {quoted(status.oldest_waiting.run_id)}", "lens waiting"
    return "lens list", "lens stats"
