"""``lens optimize``: question, change and report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from flujo_lens.cli.change_output import recorder, report_output, tell
from flujo_lens.cli.context import App
from flujo_lens.cli.input.confirm import check_writable, confirm
from flujo_lens.cli.options import ChangeOptions, words_of
from flujo_lens.operations.change_report import Report
from flujo_lens.operations.optimize import Done, optimize
from flujo_lens.rendering import human
from flujo_lens.state.backends.base import StateBackend

if TYPE_CHECKING:
    from flujo_lens.state.maintenance import OptimizationPlan, Space


class OptimizeArguments(NamedTuple):
    """Arguments of ``lens optimize``."""

    yes: bool
    vacuum: bool
    force: bool


def run_optimization(app: App, asked: OptimizeArguments, change: ChangeOptions) -> None:
    """Print the plan, ask, execute it and report."""
    check_writable(app, dry_run=change.dry_run)
    out = report_output(app, change, ("table", "json"))
    plan = app.run(lambda backend: backend.plan_optimization(vacuum=asked.vacuum))
    if plan.store is None or change.dry_run:
        tell(app, out, _document(plan, None, change.dry_run), (), _planned(plan, asked.force))
        return
    if not confirm(app, f"optimize {app.shown(app.store_name)}?", asked.yes, _plan_lines(plan, asked.force)):
        raise typer.Exit(1)

    async def work(backend: StateBackend) -> Done:
        words = ["lens", "optimize", *words_of(asked), *change.words(app.options.store)]
        return await optimize(backend, plan, recorder(app, backend, words, change), force=asked.force)

    done = app.run(work)
    tell(
        app,
        out,
        _document(plan, done, dry_run=False),
        (),
        _done_lines(plan, done),
        f"optimized {plan.store}: {_sizes(done.optimized.after)}",
    )


def _planned(plan: OptimizationPlan, force: bool) -> list[str]:
    if plan.store is None:
        return ["nothing to optimize: this store has neither indexes nor free space"]
    return [*_plan_lines(plan, force), "nothing was changed (--dry-run)"]


def _plan_lines(plan: OptimizationPlan, force: bool) -> list[str]:
    lines = [f"{plan.store} ({_sizes(plan.space)}):"]
    lines += [f"  create the index {index}" for index in plan.indexes]
    lines.append("  update the query statistics (ANALYZE)")
    if plan.place is not None:
        return [*lines, *["  free the space of deleted rows (VACUUM)"] * plan.vacuum, *_ON_A_SERVER]
    if plan.vacuum:
        lines.append("  rewrite the file without its free space (VACUUM)")
        lines += [f"    needs {_room(room.needed, room.free)} in {room.folder}" for room in plan.rooms]
    blocks = "VACUUM" if plan.vacuum else "this"
    if force:
        return [*lines, f"{blocks} blocks all other writers, also those that have the store open now (--force)"]
    also = f"{blocks} blocks all other writers; it is" if plan.vacuum else "this is"
    return [*lines, f"{also} refused while another process has the store open, unless --force"]


_ON_A_SERVER = (
    "runs can be saved during this; creating an index waits up to --timeout for open transactions",
    "an application that starts during this may have to wait: choose a quiet time",
)


def _room(needed: int, free: int) -> str:
    enough = "" if needed <= free else ": not enough, so the vacuum will be refused"
    return f"{human.size(needed)} of {human.size(free)} free{enough}"


def _sizes(space: Space) -> str:
    if not space.reusable_bytes:
        return human.size(space.file_bytes)
    return f"{human.size(space.file_bytes)}, {human.size(space.reusable_bytes)} of it free"


def _done_lines(plan: OptimizationPlan, done: Done) -> list[str]:
    indexes, before, after = done.optimized
    made = [f"created the index {index}" for index in indexes] or ["all indexes exist"]
    did = "freed the space of deleted rows" if plan.place is not None else "rewrote the file"
    vacuumed = [did] if plan.vacuum else []
    return [*made, "updated the query statistics", *vacuumed, f"before: {_sizes(before)}", f"after: {_sizes(after)}"]


def _document(plan: OptimizationPlan, done: Done | None, dry_run: bool) -> dict[str, Any]:
    matched = 0 if plan.store is None else len(plan.indexes) + 1 + plan.vacuum
    report = Report(
        matched,
        done=matched if done else 0,
        left=0 if done else matched,
        dry_run=dry_run,
        audit_id=done.audit_id if done else None,
    )
    before, after = (done.optimized.before, done.optimized.after) if done else (plan.space, plan.space)
    return {
        **report.document(),
        "indexes": list(done.optimized.indexes if done else plan.indexes),
        "vacuum": plan.vacuum,
        "reusable_bytes": after.reusable_bytes,
        "file_bytes_before": before.file_bytes,
        "file_bytes_after": after.file_bytes,
    }
