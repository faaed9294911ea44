"""What ``lens cancel`` asks, does and prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from flujo_lens.cli import exit_codes
from flujo_lens.cli.changing import recorder, report_output, tell
from flujo_lens.cli.confirm import check_writable, confirm
from flujo_lens.cli.context import App
from flujo_lens.cli.named_runs import MOST_SHOWN, check_free, described, listed, meant_all, named, typed
from flujo_lens.cli.options import ChangeOptions
from flujo_lens.operations.cancel import CancelPlan, cancel, plan_cancel
from flujo_lens.operations.changes import Recorder, Report
from flujo_lens.rendering.human import plural
from flujo_lens.rendering.text import escape_controls
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.views import RunSummary

__all__ = ["Cancelling", "check_cancellable", "run_cancel"]


class Cancelling(NamedTuple):
    """What was asked of ``lens cancel``."""

    runs: tuple[str, ...]
    force: bool
    yes: bool
    change: ChangeOptions

    def words(self, store: str | None, run_ids: Sequence[str]) -> list[str]:
        """The command in its long form."""
        switches = [option for option, on in (("--force", self.force), ("--yes", self.yes)) if on]
        return ["lens", "cancel", *switches, *self.change.words(store), *named(run_ids)]


def run_cancel(app: App, asked: Cancelling) -> int:
    """Find the runs, ask, cancel them and report; return the exit code."""
    check_writable(app, dry_run=asked.change.dry_run)
    out, now = report_output(app, asked.change), app.world.now()
    asks = not (asked.yes or asked.change.dry_run)
    words = typed(app, asked.runs, asks, "cancel")

    async def look(backend: StateBackend) -> CancelPlan:
        return await plan_cancel(backend, await meant_all(app, backend, words, asked.yes), now)

    plan = app.run(look)
    check_cancellable(plan.held, asked.force)
    if asks and plan.runs:
        question = "cancel it? it can never go on then" if len(plan.runs) == 1 else f"cancel these {len(plan.runs):,}?"
        if not confirm(app, question, asked.yes, _lines(plan.runs)):
            return exit_codes.FAILED

    async def work(backend: StateBackend) -> tuple[Sequence[str], Report]:
        told = asked.words(app.options.store, [run.run_id for run in plan.runs])

        def record() -> Recorder:
            return recorder(app, backend, told, asked.change)

        return await cancel(backend, plan, None if asked.change.dry_run else record, force=asked.force)

    done, report = app.run(work)
    tell(app, out, report.document(), done, _report_lines(done, plan, report))
    return exit_codes.PARTIAL if report.done < len(plan.runs) and not report.dry_run else exit_codes.OK


def check_cancellable(held: Mapping[str, str], force: bool) -> None:
    """See that no living process holds one of the runs.

    Raises:
        BusyError: one does.
    """
    check_free(held, force, undone="changed", forced=": then it saves nothing more of this run")


def _lines(runs: Sequence[RunSummary]) -> list[str]:
    return listed([described(run) for run in runs])


def _report_lines(done: Sequence[str], plan: CancelPlan, report: Report) -> list[str]:
    verb = "would be cancelled" if report.dry_run else "cancelled"
    known = {run.run_id: run for run in plan.runs}
    changed = [known[run_id] for run_id in done]
    lines = [f"{plural(len(done), 'run')} {verb}; the history stays", *_lines(changed)] if done else []
    lines += [f"{escape_controls(run.run_id)} is {run.status} already" for run in plan.ended[:MOST_SHOWN]]
    if not report.dry_run and len(done) < len(plan.runs):
        lines.append(f"{plural(len(plan.runs) - len(done), 'run')} ended or went on meanwhile, and stay")
    return [*lines, "nothing was changed (--dry-run)"] if report.dry_run else lines
