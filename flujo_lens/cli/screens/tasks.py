"""``lens tasks sweep`` and ``lens system set``: change and report, without a question."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import NamedTuple

from flujo_lens.cli.change_output import recorder, report_output, tell
from flujo_lens.cli.context import App
from flujo_lens.cli.input.confirm import check_writable
from flujo_lens.cli.input.contradictions import check_statuses
from flujo_lens.cli.input.run_arguments import listed
from flujo_lens.cli.options import ChangeOptions, FilterOptions, words_of
from flujo_lens.errors import TimeFormatError, UsageError
from flujo_lens.operations.change_report import Report
from flujo_lens.operations.runs import resolve_run
from flujo_lens.operations.system import parse_value, set_system_value, stored_key
from flujo_lens.operations.tasks import Swept, sweep
from flujo_lens.rendering import human
from flujo_lens.rendering.text import quoted, unescape
from flujo_lens.state.backends.base import StateBackend


class StaleAge(NamedTuple):
    """The age of a stale task, by one of two options."""

    silent_for: str | None
    stale_hours: float | None

    def length(self, usual: timedelta) -> timedelta:
        """The duration of the option, else the default.

        Raises:
            UsageError: both options were given, or the value is not a duration.
        """
        from flujo_lens.state.typed_times import parse_age

        if self.silent_for is not None and self.stale_hours is not None:
            raise UsageError("--silent-for and --stale-hours contradict each other; give one of them")
        found: timedelta | None = usual
        try:
            if self.stale_hours is not None:
                found = timedelta(hours=self.stale_hours)
            elif self.silent_for is not None:
                found = parse_age(self.silent_for.strip())
        except (OverflowError, ValueError):
            found = None
        if not found or found < timedelta(0):
            raise TimeFormatError(
                f'"{self.stale_hours if self.silent_for is None else self.silent_for}" is not a duration',
                hint="--silent-for takes 30m, 2h or 1d, --stale-hours a number of hours",
            )
        return found


_SWEPT = frozenset({"running"})


def sweep_tasks(app: App, filters: FilterOptions, silence: StaleAge, parent: str | None, asked: ChangeOptions) -> None:
    """Mark stale background tasks as failed, and report."""
    check_writable(app, dry_run=asked.dry_run)
    out, now = report_output(app, asked), app.world.now()
    wanted, silent_for = app.wanted(filters), silence.length(app.silent_after)
    check_statuses("lens tasks sweep", wanted.statuses, _SWEPT, "nothing was changed")

    async def work(backend: StateBackend) -> Swept:
        limited = wanted
        if parent is not None:
            limited = wanted._replace(parent=await resolve_run(backend, parent, unescape(parent)))
        command = ["lens", "tasks", "sweep", *words_of(silence), *words_of(filters), *asked.words(app.options.store)]
        if limited.parent is not None:
            command.append(f"--parent={limited.parent}")

        record = None if asked.dry_run else partial(recorder, app, backend, command, asked)
        return await sweep(backend, limited, now, silent_for, record)

    swept = app.run(work)
    lines = _swept_lines(swept, human.age(silent_for))
    tell(app, out, swept.report.document(), swept.run_ids, lines, "" if swept.report.dry_run else lines[0])


def _swept_lines(swept: Swept, silent_for: str) -> list[str]:
    report, ids = swept.report, swept.run_ids
    if not report.matched:
        return [f"no stale background tasks: none without activity for {silent_for}"]
    verb = "would be marked failed" if report.dry_run else "marked failed"
    lines = [f"{human.plural(len(ids), 'background task')} {verb}: no activity for {silent_for}"]
    lines += listed(ids, suffix=" (-o id has them all)")
    if report.skipped:
        lines.append(f"{report.skipped:,} became active again: not marked")
    return [*lines, "nothing was changed (--dry-run)"] if report.dry_run else lines


def set_value(app: App, key: str, text: str, asked: ChangeOptions) -> None:
    """Set a key of the system state, and report.

    Raises:
        UsageError: the key is empty, or the value is not a JSON object.
    """
    check_writable(app, dry_run=asked.dry_run)
    if not key:
        raise UsageError("the key is empty")
    out, value = report_output(app, asked, ("table", "json")), parse_value(text)

    async def work(backend: StateBackend) -> tuple[str, bool, Report]:
        meant, was_set = await stored_key(backend, key, unescape(key))
        words = ["lens", "system", "set", *asked.words(app.options.store), meant, text]

        record = None if asked.dry_run else partial(recorder, app, backend, words, asked)
        return meant, was_set, await set_system_value(backend, meant, value, record)

    meant, was_set, report = app.run(work)
    tell(app, out, report.document(), (), [_set_line(meant, was_set, report.dry_run)])


def _set_line(key: str, was_set: bool, dry_run: bool) -> str:
    how = ", replacing its value" if was_set else " (a new key)"
    if dry_run:
        return f"{quoted(key)} would be set{how}; nothing was changed (--dry-run)"
    return f"{quoted(key)} is set{how}"
