"""``lens cancel``: question, change and report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

from flujo_lens.cli import exit_codes
from flujo_lens.cli.change_output import recorder, report_output, tell
from flujo_lens.cli.context import App
from flujo_lens.cli.input.confirm import check_writable, confirm
from flujo_lens.cli.input.run_arguments import MOST_SHOWN, check_free, listed_runs, meant_all, named, typed
from flujo_lens.cli.options import ChangeOptions, words_of
from flujo_lens.cli.screens.deletion import store_name
from flujo_lens.cli.sidecars import bin_of, why_no_bin
from flujo_lens.operations.cancel import Cancelled, CancelPlan, can_keep, cancel, plan_cancel
from flujo_lens.operations.change_report import Report
from flujo_lens.operations.deletion_copies import Keeping
from flujo_lens.rendering.human import age, plural
from flujo_lens.rendering.text import escape_controls
from flujo_lens.state.backends.base import StateBackend

_RECORD = 4096
"""Estimated size in bytes of the copy of a cancelled run."""


class CancelArguments(NamedTuple):
    """Arguments of ``lens cancel``."""

    runs: tuple[str, ...]
    force: bool
    yes: bool
    change: ChangeOptions

    def words(self, store: str | None, run_ids: Sequence[str]) -> list[str]:
        """The command line with long options."""
        return ["lens", "cancel", *words_of(self, "force", "yes"), *self.change.words(store), *named(run_ids)]


def run_cancel(app: App, asked: CancelArguments) -> int:
    """Find the runs, ask, cancel and report; return the exit code."""
    check_writable(app, dry_run=asked.change.dry_run)
    out, now = report_output(app, asked.change), app.world.now()
    asks = not (asked.yes or asked.change.dry_run)
    words = typed(app, asked.runs, asks, "cancel")

    async def look(backend: StateBackend) -> CancelPlan:
        return await plan_cancel(backend, await meant_all(app, backend, words, asked.yes), now)

    plan = app.run(look)
    check_cancellable(plan.held, asked.force)
    if asks and plan.runs:
        one = plan.runs[0].run_id if len(plan.runs) == 1 else None
        question = f"cancel {one or f'these {len(plan.runs):,} runs'}, never to be resumed?"
        if not confirm(app, question, asked.yes, listed_runs(plan.runs)):
            return exit_codes.FAILED

    async def work(backend: StateBackend) -> Cancelled:
        command = asked.words(app.options.store, [run.run_id for run in plan.runs])

        keeping = _keeping(app, backend, plan)
        record = None if asked.change.dry_run else partial(recorder, app, backend, command, asked.change)
        return await cancel(backend, plan, record, keeping, now, force=asked.force)

    done = app.run(work)
    lines, brief = _report_lines(done.run_ids, plan, done.report), ""
    if not done.report.dry_run:
        brief = f"cancelled {plural(len(done.run_ids), 'run')}"
    if done.can_undo and not done.report.dry_run:
        undo = app.suggest(f"lens undo {done.report.audit_id}")
        lines.append(f"To undo within {age(app.settings.bin_keep)}: {undo}")
        brief += f", undo: {undo}"
    tell(app, out, done.document(), done.run_ids, lines, brief)
    return exit_codes.PARTIAL if done.report.done < len(plan.runs) and not done.report.dry_run else exit_codes.OK


def _keeping(app: App, backend: StateBackend, plan: CancelPlan) -> Keeping:
    """The bin; none if the driver has none or the copies do not fit, after a note.

    A cancellation deletes nothing, so it does not need the bin.
    """
    keeping = Keeping(store=store_name(app))
    if not plan.runs:
        return keeping
    why = why_no_bin(app, backend) if can_keep(backend) else "this driver has no bin"
    if why is None:
        bin = bin_of(app, backend)
        why = bin.why_not(len(plan.runs), len(plan.runs) * _RECORD) or bin.why_unwritable()
        keeping = keeping._replace(bin=None if why else bin)
    if why:
        app.note(f"{why}: lens undo cannot revert this")
    return keeping


def check_cancellable(held: Mapping[str, str], force: bool) -> None:
    """Check that no live process holds one of the runs.

    Raises:
        BusyError: a live process holds one.
    """
    check_free(held, force, undone="changed", forced=": the process cannot save this run any more")


def _report_lines(done: Sequence[str], plan: CancelPlan, report: Report) -> list[str]:
    verb = "would be cancelled" if report.dry_run else "cancelled"
    known = {run.run_id: run for run in plan.runs}
    changed = [known[run_id] for run_id in done]
    lines = [f"{plural(len(done), 'run')} {verb}; the history stays", *listed_runs(changed)] if done else []
    lines += [f"{escape_controls(run.run_id)} is already {run.status}" for run in plan.ended[:MOST_SHOWN]]
    if not report.dry_run and len(done) < len(plan.runs):
        lines.append(f"{plural(len(plan.runs) - len(done), 'run')} ended or continued in the meantime: not cancelled")
    return [*lines, "nothing was changed (--dry-run)"] if report.dry_run else lines
