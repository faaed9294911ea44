"""Output of ``lens failed``: failures by error or by run, and the next command."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import islice
from typing import NamedTuple

from flujo_lens.cli.context import App
from flujo_lens.cli.hints import with_filters
from flujo_lens.cli.input.contradictions import check_statuses, refuse_combination
from flujo_lens.cli.options import FilterOptions
from flujo_lens.cli.output import Output
from flujo_lens.cli.paging import note_problems
from flujo_lens.cli.screens.lists import FEW_GROUPS, glob_of
from flujo_lens.errors import UnknownValueError, UsageError
from flujo_lens.operations.failures import FAILED, FailureReport, failed_runs, failure_report
from flujo_lens.rendering import columns, human
from flujo_lens.rendering.text import one_line, run_command
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.views import RunFilter, RunSummary

_HOURS = 24


class FailedArguments(NamedTuple):
    """Arguments of ``lens failed``."""

    filters: FilterOptions
    hours: float | None
    flat: bool
    limit: int | None
    by: str | None = None

    def command(self, more: str = "", *, flat: bool | None = None, without: tuple[str, ...] = ()) -> str:
        """A ``lens failed`` command for the same runs, with `more` options."""
        is_flat = self.flat if flat is None else flat
        hours = "" if self.hours is None else f" --hours {self.hours:g}"
        by = f" --by {self.by}" if self.by and not is_flat else ""
        shape = f"{by}{' --flat' if is_flat else ''}"
        return with_filters(f"lens failed{more}{shape}{hours}", self.filters, without=without)


def show_failed(app: App, out: Output, asked: FailedArguments) -> None:
    """Print the failures of the time window.

    Raises:
        UsageError: options that contradict each other, or a window without length.
    """
    filters = asked.filters
    if asked.hours is not None:
        if not asked.hours > 0:
            raise UsageError(f"--hours takes a number above 0, not {asked.hours:g}", hint="lens failed --hours 1")
        others = {"--since": filters.since, "--active-since": filters.active_since}
        refuse_combination("--hours", others, "both set the start of the window; give one of them")
    wanted = app.wanted(filters)
    check_statuses("lens failed", wanted.statuses, FAILED, "lens list --status S shows the runs of another status")
    if wanted.active_since is None and wanted.since is None:
        wanted = wanted._replace(active_since=_begin(app, wanted, _HOURS if asked.hours is None else asked.hours))
    if asked.by is not None:
        refuse_combination("--by", {"--flat": asked.flat})
        _show_changes(app, out, wanted, asked, asked.by)
    elif asked.flat:
        _show_runs(app, out, wanted, asked)
    else:
        _show_groups(app, out, wanted, asked)


def _begin(app: App, wanted: RunFilter, hours: float) -> datetime:
    """The start of the window, which ends at --active-until or now."""
    try:
        return (wanted.active_until or app.world.now()) - timedelta(hours=hours)
    except (ValueError, OverflowError):
        raise UsageError(f"--hours {hours:g} is too large") from None


def _nothing(app: App, asked: FailedArguments) -> str:
    """The message without failures, with the command for a longer window."""
    if asked.filters.since is not None or asked.filters.active_since is not None:
        return "no failed runs match"
    hours = _HOURS if asked.hours is None else asked.hours
    further = app.suggest(asked._replace(hours=max(hours, 1) * 30).command())
    return f"no failed runs in {hours:g} h; to look further back: {further}"


def _show_groups(app: App, out: Output, wanted: RunFilter, asked: FailedArguments) -> None:
    """Print failures by error; a table has the most frequent, and the command for the first."""

    report = app.run(lambda backend: failure_report(backend, wanted, app.world.now(), app.silent_after))
    groups, most = report.groups, asked.limit or (FEW_GROUPS if out.is_table else None)
    out.show(columns.FAILURE, groups[:most], _nothing(app, asked), wanted)
    for problem in islice(report.problems, 5):
        app.note(f"unreadable: {one_line(problem)}")
    if report.count or report.silent:
        hidden = _hidden(app, groups, most, asked)
        app.note(f"{human.plural(report.count, 'failed run')}{hidden}{_silent(app, report, asked)}")
    if groups and out.is_table:
        one = asked.command(f" --error {glob_of(groups[0].error)}", flat=True, without=("error",))
        app.note(f"one group: {app.suggest(one)}")
        app.note(f"one run:   {app.suggest(run_command('trace', groups[0].sample_run_id))}")


def _show_changes(app: App, out: Output, wanted: RunFilter, asked: FailedArguments, by: str) -> None:
    """Print failures by version or hour and error, new ones first."""
    from datetime import UTC

    from flujo_lens.operations.failure_changes import BASELINE, failure_changes
    from flujo_lens.rendering.groups import change_view

    if by not in ("version", "hour"):
        raise UnknownValueError.of("--by", by, ("version", "hour"))
    until = wanted.active_until or app.world.now()
    begin = wanted.active_since or wanted.since or until
    zone = UTC if out.options.utc else app.zone

    found = app.run(lambda backend: failure_changes(backend, wanted, by, begin, until, zone))
    most = asked.limit or (FEW_GROUPS if out.is_table else None)
    out.show(change_view(by), found[:most], _nothing(app, asked))
    if found:
        new = sum(change.new for change in found)
        whose = "other versions" if by == "version" else "this error"
        app.note(
            f"{human.plural(len(found), 'error')}, {new:,} new; USUAL is the average of {whose} in the {BASELINE} "
            f"windows of the same length before"
        )
    if unknown := sum(not change.compared for change in found):
        of = "runs of another version" if by == "version" else "earlier runs"
        app.note(f"USUAL is ? for {human.plural(unknown, 'error')}: there are no {of} of the pipeline to compare with")
    if most and len(found) > most:
        every = app.suggest(asked.command(f" -n {len(found)}"))
        app.note(f"{len(found) - most:,} more: {every}")
    if found and out.is_table:
        one = asked.command(f" --error {glob_of(found[0].group.error)}", flat=True, without=("error",))
        app.note(f"one group: {app.suggest(one)}")


def _hidden(app: App, groups: tuple[object, ...], most: int | None, asked: FailedArguments) -> str:
    left = len(groups) - (most or len(groups))
    if left <= 0:
        return ""
    every = app.suggest(asked.command(f" -n {len(groups)}"))
    return f", {human.plural(left, 'rarer error')} not shown ({every})"


def _silent(app: App, report: FailureReport, asked: FailedArguments) -> str:
    if not report.silent:
        return ""
    apart = ("status", "error", "active_since", "active_until")
    running = app.suggest(with_filters("lens list --status running", asked.filters, without=apart))
    return f"; {report.silent} stale ({running})"


def _show_runs(app: App, out: Output, wanted: RunFilter, asked: FailedArguments) -> None:
    """Print failed runs, newest first."""

    async def work(backend: StateBackend) -> list[RunSummary]:
        return [run async for run in failed_runs(backend, wanted)]

    found = app.run(work)
    runs = found[: asked.limit]
    out.show(columns.RUN, runs, _nothing(app, asked), wanted)
    note_problems(app, runs)
    if len(runs) < len(found):
        app.note(f"showing the newest {len(runs):,} of {len(found):,}; all: {app.suggest(asked.command())}")
