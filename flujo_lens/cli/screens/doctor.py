"""``lens doctor``: report, question and repair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from flujo_lens.cli.change_output import recorder
from flujo_lens.cli.context import App
from flujo_lens.cli.input.confirm import check_writable, confirm
from flujo_lens.cli.options import ChangeOptions, OutputOptions, words_of
from flujo_lens.cli.output import Output
from flujo_lens.cli.screens.deletion_text import folded
from flujo_lens.operations.change_report import Report
from flujo_lens.operations.doctor import Repairs, check, repair
from flujo_lens.rendering import columns, human
from flujo_lens.state.backends.base import StateBackend

if TYPE_CHECKING:
    from flujo_lens.state.maintenance import Finding


class FixArguments(NamedTuple):
    """Arguments of ``lens doctor --fix``."""

    yes: bool
    full: bool
    change: ChangeOptions

    def words(self, store: str | None) -> list[str]:
        """The command as the audit log keeps it."""
        return ["lens", "doctor", "--fix", *words_of(self, "full", "yes"), *self.change.words(store)]


def print_checkup(app: App, options: OutputOptions, full: bool) -> bool:
    """Check the store and print the findings; return whether there are no problems."""
    out = app.output(options, is_document=True)
    found = _look(app, full)
    if out.is_table and out.options.columns is None:
        from flujo_lens.cli.screens.doctor_view import draw_findings

        draw_findings(out, found)
    else:
        out.show(columns.FINDING, found, "")
    return _report_health(app, found)


def _look(app: App, full: bool) -> list[Finding]:
    async def work(backend: StateBackend) -> list[Finding]:
        return list(await check(backend, app.world.now(), app.silent_after, full=full))

    found = app.run(work)
    return [replace(finding, fix=app.repeated.prose(finding.fix)) if finding.fix else finding for finding in found]


def _report_health(app: App, found: Sequence[Finding]) -> bool:
    wrong = sum(not finding.ok for finding in found)
    app.note(f"{human.plural(wrong, 'check')} found problems" if wrong else "no problems found")
    return not wrong


def fix_findings(app: App, options: OutputOptions, asked: FixArguments) -> bool:
    """Repair what loses no data, after a confirmation; return whether no problems are left."""
    check_writable(app, dry_run=asked.change.dry_run)
    out = app.output(options, ("table", "tsv", "json"))
    found = _look(app, asked.full)
    repairable = [finding for finding in found if finding.repair]
    if not repairable or asked.change.dry_run:
        _report(app, out, found, None, asked.change.dry_run)
        return _report_health(app, found)
    question = f"repair {human.plural(len(repairable), 'problem')} of {app.shown(app.store_name)}?"
    if not confirm(app, question, asked.yes, [f"{finding.check}: {finding.repair}" for finding in repairable]):
        raise typer.Exit(1)

    words = asked.words(app.options.store)
    done = app.run(lambda backend: repair(backend, repairable, recorder(app, backend, words, asked.change)))
    after = _look(app, asked.full)
    _report(app, out, after, done, dry_run=False, planned=len(repairable))
    return _report_health(app, after)


def _report(
    app: App, out: Output, found: Sequence[Finding], done: Repairs | None, dry_run: bool, planned: int = 0
) -> None:
    if out.form == "json":
        out.document(_document(out, found, done, dry_run, planned))
        return
    lines = _repaired_lines(done) if done else _planned_lines(found, dry_run)
    app.say(folded(map(app.shown, lines), app.world.columns))
    for finding in (finding for finding in found if not finding.ok):
        from flujo_lens.cli.screens.doctor_view import split_command

        words, command = split_command(finding.fix or "no automatic repair")
        left = [f"left: {finding.check}: {finding.detail}", f"  {words}"]
        app.say([*folded(map(app.shown, left), app.world.columns), *([f"  {command}"] if command else [])])


def _planned_lines(found: Sequence[Finding], dry_run: bool) -> list[str]:
    lines = [f"would repair: {finding.check}: {finding.repair}" for finding in found if finding.repair]
    if not lines:
        return ["nothing can be repaired without losing data"]
    return [*lines, "nothing was changed (--dry-run)"] if dry_run else lines


def _repaired_lines(done: Repairs) -> list[str]:
    lines = [f"repaired: {one.check}: {one.done}" for one in done.repaired if one.done]
    lines += [f"not repaired: {one.check}: {one.left}" for one in done.repaired if one.left]
    return lines or ["nothing was left to repair"]


def _document(
    out: Output, found: Sequence[Finding], done: Repairs | None, dry_run: bool, planned: int
) -> dict[str, Any]:
    repairable = [finding for finding in found if finding.repair]
    repaired = done.repaired if done else ()
    report = Report(
        matched=planned if done else len(repairable),
        done=sum(one.done is not None and one.left is None for one in repaired),
        failed=sum(one.left is not None for one in repaired),
        skipped=planned - len(repaired) if done else 0,
        left=0 if done else len(repairable),
        dry_run=dry_run,
        audit_id=done.audit_id if done else None,
    )
    fixes = [one._asdict() for one in repaired] if done else [_planned_fix(finding) for finding in repairable]
    rows = [columns.FINDING.row(finding, out.fields(columns.FINDING)) for finding in found]
    return {**report.document(), "fixes": fixes, "findings": rows}


def _planned_fix(finding: Finding) -> dict[str, Any]:
    return {"check": finding.check, "done": None, "left": finding.repair}
