"""Output of ``lens status``."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from flujo_lens.cli.context import App
from flujo_lens.cli.output import Output
from flujo_lens.rendering import human
from flujo_lens.rendering.text import escape_controls, one_line, run_command
from flujo_lens.state.statistics import FailureGroup, StoreStatus
from flujo_lens.state.views import GONE

_MOST, _LABEL = 5, 10
_Line = tuple[str, str, Text, str]


def brief_line(status: StoreStatus) -> str:
    """The status in a line, for --quiet."""
    failing = sum(group.count for group in status.failing)
    return f"{failing:,} failing, {status.silent_count:,} stale, {status.waiting_count:,} waiting"


def draw_status(app: App, out: Output, status: StoreStatus) -> None:
    """Print the status: a line per finding, with the next command."""
    updated = out.human.time(status.last_write_at) if status.last_write_at else "never"
    lines = [(label, style, text, app.suggest(command)) for label, style, text, command in _lines(app, out, status)]
    out.print(Text(one_line(status.store), style="bold"))
    for line, command in _laid_out([*lines, ("updated", "", Text(updated), "")], app.world.columns):
        out.print(line)
        if command:
            out.command(command, "dim", _LABEL)
    out.next(*_next(status))


def _laid_out(lines: list[_Line], width: int) -> Iterator[tuple[Text | Table, str]]:
    """Align the commands in a column after the texts; a command that does not fit is placed below its text.

    A text without a command may take the whole line; a long text is folded with an indent. Yields each line with the
    command to print below it, if any.
    """
    room = width - _LABEL
    ends = [text.cell_len for _, _, text, command in lines if command and text.cell_len + 2 + len(command) <= room]
    column = min(max(ends, default=0), room - max((len(line[3]) for line in lines), default=0) - 2)
    for label, style, text, command in lines:
        head = Text(f" {label:<{_LABEL - 1}}", style=style)
        begin = max(column, text.cell_len) + 2
        if command and begin + len(command) <= room:
            yield head.append_text(text.copy()).append(" " * (begin - text.cell_len)).append(command, "dim"), ""
        elif text.cell_len <= room:
            yield head.append_text(text), command
        else:
            yield _hanging(head, text), command


def _hanging(head: Text, text: Text) -> Table:
    grid = Table.grid()
    grid.add_column(width=_LABEL)
    grid.add_column(overflow="fold")
    grid.add_row(head, text)
    return grid


def _lines(app: App, out: Output, status: StoreStatus) -> Iterator[_Line]:
    count = sum(group.count for group in status.failing)
    usual = f", usually {_about(status.usual)} an hour" if status.usual is not None else ""
    yield (
        "failing",
        "red" if count else "green",
        Text(f"{f'{count:,}' if count else 'none'} in the last hour{usual}"),
        "lens failed --hours 1" if count else "lens failed",
    )
    for group in status.failing[:_MOST]:
        yield "", "", _group(out, group), ""
    if len(status.failing) > _MOST:
        yield "", "", Text(f"and {len(status.failing) - _MOST} other errors"), ""
    yield from _since(out, status)
    yield from _silent(app, out, status)
    yield from _waiting(out, status)
    runs = human.plural(status.runs, "run")
    size = human.size(status.size_bytes) if status.size_bytes is not None else ""
    yield "store", "", Text(", ".join(part for part in (size, runs) if part)), "lens stats"


def _since(out: Output, status: StoreStatus) -> Iterator[_Line]:
    """Failed and started runs since the shift began."""
    if status.since is None:
        return
    length = out.human.now - status.since
    share = f" ({status.failing_share:.1%})".replace(".0%", "%") if status.failed_since else ""
    text = f"{out.human.time(status.since)}: {status.failed_since:,} failed, {status.started_since:,} started{share}"
    hours = max(1, round(length.total_seconds() / 3600))
    yield "since", "", Text(text), f"lens failed --hours {hours} --by version" if status.failed_since else ""


def _about(usual: float) -> str:
    """A rounded average."""
    if usual == 0:
        return "none"
    return "less than 1" if usual < 1 else f"{usual:,.0f}"


def _group(out: Output, group: FailureGroup) -> Text:
    where = f" at {one_line(group.step_name)}" if group.step_name else ""
    since = f", first {out.human.time(group.first_at)}" if group.first_at else ""
    return Text(
        f"{group.count:,}  {one_line(out.redactor.text(group.error), 120 if out.folds else 0)}{where}{since}",
        style="red",
    )


def _silent(app: App, out: Output, status: StoreStatus) -> Iterator[_Line]:
    border = human.age(app.silent_after)
    if not status.silent:
        yield "stale", "green", Text(f"none: no running run is without activity for {border}"), ""
        return
    gone = sum(run.stale == GONE for run in status.silent)
    quiet = [run for run in status.silent if run.stale != GONE]
    texts = [f"{gone:,} running, process gone"] if gone else []
    if quiet:
        longest = human.age(out.human.now - quiet[0].updated_at) if quiet[0].updated_at else "unknown"
        texts.append(f"{len(quiet):,} running, no activity for {border} or more (longest {longest})")
    yield "stale", "yellow", Text("; ".join(texts)), "lens list --status running"
    for run in status.silent[:_MOST]:
        where = f" at {one_line(run.step_name)}" if run.step_name else ""
        why = f", {escape_controls(run.holder)} is gone" if run.stale == GONE and run.holder else ""
        yield "", "", Text(f"  {escape_controls(run.run_id)}{where}, {out.human.time(run.updated_at)}{why}"), ""
    if len(status.silent) > _MOST:
        yield "", "", Text(f"  and {len(status.silent) - _MOST:,} more"), ""


def _waiting(out: Output, status: StoreStatus) -> Iterator[_Line]:
    oldest = status.oldest_waiting
    if oldest is None:
        yield "waiting", "green", Text("none"), ""
        return
    asks = one_line(out.redactor.text(oldest.pause_message or ""), 100 if out.folds else 0)
    question = f': "{asks}"' if asks else ""
    text = f"{status.waiting_count:,} for a person, oldest {out.human.since(oldest.updated_at)}{question}"
    yield "waiting", "cyan", Text(text), "lens waiting"


def _next(status: StoreStatus) -> tuple[str, ...]:
    if status.failing:
        return "lens failed --hours 1", run_command("trace", status.failing[0].sample_run_id)
    if status.silent:
        return run_command("show", status.silent[0].run_id), "lens list --status running"
    if status.oldest_waiting is not None:
        return run_command("show", status.oldest_waiting.run_id), "lens waiting"
    return "lens list", "lens stats"
