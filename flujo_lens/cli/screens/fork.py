"""``lens fork``: change and report, without a question."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from flujo_lens.cli.change_output import recorder, report_output, tell
from flujo_lens.cli.context import App
from flujo_lens.cli.input.confirm import can_ask, check_writable
from flujo_lens.cli.input.run_arguments import meant
from flujo_lens.cli.options import ChangeOptions, words_of
from flujo_lens.cli.screens.cancel import check_cancellable
from flujo_lens.operations.cancel import held_claims
from flujo_lens.operations.fork import Forked, ForkPlan, fork, plan_fork
from flujo_lens.rendering.text import escape_controls, run_command
from flujo_lens.state.backends.base import StateBackend


class ForkArguments(NamedTuple):
    """Arguments of ``lens fork``."""

    run: str
    from_step: str
    cancel_old: bool
    change: ChangeOptions

    def words(self, store: str | None, run_id: str) -> list[str]:
        """The command line with long options."""
        return ["lens", "fork", *words_of(self, "from_step", "cancel_old"), *self.change.words(store), run_id]


def run_fork(app: App, asked: ForkArguments) -> None:
    """Create the new run, and report."""
    check_writable(app, dry_run=asked.change.dry_run)
    out, now = report_output(app, asked.change), app.world.now()

    from flujo_lens.runner.library_version import check_store

    async def work(backend: StateBackend) -> tuple[ForkPlan, Forked]:
        await check_store(backend)
        run_id = await meant(backend, asked.run, can_ask(app))
        plan = await plan_fork(backend, run_id, asked.from_step)
        if asked.cancel_old:
            claims = await held_claims(backend, [run_id], now)
            check_cancellable({name: str(claim.holder) for name, claim in claims.items()}, force=False)

        words = asked.words(app.options.store, run_id)
        record = None if asked.change.dry_run else partial(recorder, app, backend, words, asked.change)
        return plan, await fork(backend, plan, now, record, cancels_old=asked.cancel_old)

    plan, done = app.run(work, keeps_sealed=True)
    document = {
        **done.report.document(),
        "run_id": done.run_id,
        "forked_from": plan.old.run.run_id,
        "from_step": plan.step,
        "kept": list(plan.kept),
        "runs_again": list(plan.again),
        "cancelled": done.is_cancelled,
    }
    ids = [done.run_id] if done.run_id is not None else []
    lines, brief = _lines(plan, done), ""
    if done.run_id is not None:
        brief = escape_controls(lines[0])
        lines.append(f"next: {app.suggest(run_command('resume', done.run_id))}")
    tell(app, out, document, ids, [escape_controls(line) for line in lines], brief)


def _lines(plan: ForkPlan, done: Forked) -> list[str]:
    old = plan.old.run.run_id
    again = f"runs again: {', '.join(plan.again)}" if plan.again else "runs again: no finished step"
    kept = f"kept: {', '.join(plan.kept)}" if plan.kept else "kept: nothing, it starts from the beginning"
    if done.run_id is None:
        head = f"{old} would be forked: the new run continues at {plan.step}"
        return [head, f"  {kept}", f"  {again}", "nothing was changed (--dry-run)"]
    fate = f", in place of {old}" if done.is_cancelled else f"; {old} is unchanged"
    return [f"{done.run_id} continues at {plan.step}{fate}", f"  {kept}", f"  {again}"]
