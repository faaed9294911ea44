"""What ``lens doctor`` prints, and what ``lens doctor --fix`` asks and does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from flujo_lens.cli.change_output import recorder
from flujo_lens.cli.context import App
from flujo_lens.cli.input.confirm import check_writable, confirm
from flujo_lens.cli.options import ChangeOptions, OutputOptions
from flujo_lens.cli.output import Output
from flujo_lens.cli.screens.deletion_text import folded
from flujo_lens.operations.change_report import Report
from flujo_lens.operations.doctor import Treated, check, repair
from flujo_lens.rendering import columns, human
from flujo_lens.state.backends.base import StateBackend

if TYPE_CHECKING:
    from flujo_lens.state.maintenance import Finding

__all__ = ["Mending", "fix_findings", "print_checkup"]


class Mending(NamedTuple):
    """What was asked of ``lens doctor --fix``."""

    yes: bool
    full: bool
    change: ChangeOptions

    def words(self, store: str | None) -> list[str]:
        """The command as the audit log keeps it."""
        switches = [option for option, is_on in (("--full", self.full), ("--yes", self.yes)) if is_on]
        return ["lens", "doctor", "--fix", *switches, *self.change.words(store)]


def print_checkup(app: App, options: OutputOptions, full: bool) -> bool:
    """Print what the checks of the store found; return whether all is well."""
    out = app.output(options)
    found = _look(app, full)
    if out.is_table and out.options.columns is None:
        from flujo_lens.cli.screens.doctor_view import draw_findings

        draw_findings(out, found)
    else:
        out.show(columns.FINDING, found, "")
    return _told(app, found)


def _look(app: App, full: bool) -> list[Finding]:
    async def work(backend: StateBackend) -> list[Finding]:
        return list(await check(backend, app.world.now(), app.silent_after, full=full))

    found = app.run(work)
    return [replace(finding, fix=app.repeated.prose(finding.fix)) if finding.fix else finding for finding in found]


def _told(app: App, found: Sequence[Finding]) -> bool:
    wrong = sum(not finding.ok for finding in found)
    app.note(f"{human.plural(wrong, 'check')} found something wrong" if wrong else "nothing is wrong")
    return not wrong


def fix_findings(app: App, options: OutputOptions, asked: Mending) -> bool:
    """Mend what loses nothing, after a yes; print what was done and what is left; return whether all is well then."""
    check_writable(app, dry_run=asked.change.dry_run)
    out = app.output(options, ("table", "tsv", "json"))
    found = _look(app, asked.full)
    mendable = [finding for finding in found if finding.repair]
    if not mendable or asked.change.dry_run:
        _report(app, out, found, None, asked.change.dry_run)
        return _told(app, found)
    if not confirm(app, "mend this?", asked.yes, [f"{finding.check}: {finding.repair}" for finding in mendable]):
        raise typer.Exit(1)

    async def work(backend: StateBackend) -> Treated:
        return await repair(backend, mendable, recorder(app, backend, asked.words(app.options.store), asked.change))

    done = app.run(work)
    after = _look(app, asked.full)
    _report(app, out, after, done, dry_run=False, planned=len(mendable))
    return _told(app, after)


def _report(
    app: App, out: Output, found: Sequence[Finding], done: Treated | None, dry_run: bool, planned: int = 0
) -> None:
    if out.form == "json":
        out.document(_document(out, found, done, dry_run, planned))
        return
    lines = _mended_lines(done) if done else _planned_lines(found, dry_run)
    for finding in (finding for finding in found if not finding.ok):
        lines += [f"left: {finding.check}: {finding.detail}", f"  {finding.fix or 'look closer'}"]
    app.say(folded(map(app.shown, lines), app.world.columns))


def _planned_lines(found: Sequence[Finding], dry_run: bool) -> list[str]:
    lines = [f"would mend: {finding.check}: {finding.repair}" for finding in found if finding.repair]
    if not lines:
        return ["there is nothing that can be mended without losing anything"]
    return [*lines, "nothing was changed (--dry-run)"] if dry_run else lines


def _mended_lines(done: Treated) -> list[str]:
    lines = [f"mended: {mended.check}: {mended.done}" for mended in done.mended if mended.done]
    lines += [f"not mended: {mended.check}: {mended.left}" for mended in done.mended if mended.left]
    return lines or ["nothing needed mending any more"]


def _document(
    out: Output, found: Sequence[Finding], done: Treated | None, dry_run: bool, planned: int
) -> dict[str, Any]:
    mendable = [finding for finding in found if finding.repair]
    mended = done.mended if done else ()
    report = Report(
        matched=planned if done else len(mendable),
        done=sum(one.done is not None and one.left is None for one in mended),
        failed=sum(one.left is not None for one in mended),
        skipped=planned - len(mended) if done else 0,
        left=0 if done else len(mendable),
        dry_run=dry_run,
        audit_id=done.audit_id if done else None,
    )
    fixes = [one._asdict() for one in mended] if done else [_planned_fix(finding) for finding in mendable]
    rows = [columns.FINDING.row(finding, out.fields(columns.FINDING)) for finding in found]
    return {**report.document(), "fixes": fixes, "findings": rows}


def _planned_fix(finding: Finding) -> dict[str, Any]:
    return {"check": finding.check, "done": None, "left": finding.repair}
