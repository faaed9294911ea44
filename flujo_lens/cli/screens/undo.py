"""``lens undo``: question, change and report."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from flujo_lens.cli import exit_codes
from flujo_lens.cli.change_output import recorder, report_output, tell
from flujo_lens.cli.context import App
from flujo_lens.cli.input.confirm import can_ask, check_writable, confirm
from flujo_lens.cli.input.run_arguments import MOST_SHOWN, listed
from flujo_lens.cli.options import ChangeOptions, OutputOptions, RowOptions, given
from flujo_lens.cli.screens.progress import Bar
from flujo_lens.cli.sidecars import base_of, bin_of, bin_of_gone, lock_of
from flujo_lens.cli.signals import code_of, heard
from flujo_lens.errors import UsageError
from flujo_lens.operations.change_report import Recorder, Report
from flujo_lens.operations.deletion import Stop
from flujo_lens.operations.recycle_bin import BinItem
from flujo_lens.operations.restore import Restoration, RestorePlan, plan_restore
from flujo_lens.operations.store_lock import StoreLock, holder_of
from flujo_lens.operations.undo import check_order, runs_meant, undo
from flujo_lens.rendering import columns, human
from flujo_lens.rendering.text import escape_controls, unescape
from flujo_lens.state.backends.base import StateBackend

Progress = Callable[[int], None]
Work = Callable[[StateBackend, Recorder, Stop, Progress], Awaitable[Restoration]]


class UndoArguments(NamedTuple):
    """Arguments of ``lens undo``."""

    audit_id: str
    runs: tuple[str, ...]
    yes: bool
    change: ChangeOptions


def list_bin(app: App, change: ChangeOptions, rows: RowOptions, runs: Sequence[str], *, yes: bool = False) -> None:
    """Print the contents of the bin, newest first."""
    needs = {"--run": runs, "--yes": yes, **given(change._replace(output=None, json=False))}
    if needing := [name for name, value in needs.items() if value]:
        verb = "needs" if len(needing) == 1 else "need"
        raise UsageError(
            f"{' and '.join(needing)} {verb} an AUDIT_ID; nothing was changed", hint="lens undo lists the ids"
        )
    out = app.output(OutputOptions(change.output, change.json, *rows))

    async def look(backend: StateBackend) -> list[BinItem]:
        found = bin_of(app, backend).items()
        if not found:
            await backend.read_facts()  # fails if there is no store
        return found

    left = bin_of_gone(app)
    found = left.items() if left else app.run(look)
    at_work = None if left else app.run(lambda backend: _at_work(app, backend))
    out.show(columns.BIN, found, "the bin is empty" if at_work else "the bin is empty: no recent deletions")
    if at_work:
        app.note(f"{escape_controls(at_work)} is running: its deletions can be undone when it has finished")
    if found and out.is_table:
        app.note(f"to restore: {app.suggest(f'lens undo {found[0].audit_id}')}")


async def _at_work(app: App, backend: StateBackend) -> str | None:
    """The command that is cleaning up the store, if any; its deletions are not listed yet."""
    path = base_of(app, backend)
    holder = None if path is None else holder_of(StoreLock.sidecar_path(path))
    return None if holder is None else str(holder)


def run_undo(app: App, asked: UndoArguments) -> int:
    """Ask, restore what a command deleted, and report; return the exit code."""
    check_writable(app, dry_run=asked.change.dry_run)
    prefix = not asked.yes and can_ask(app)

    async def look(backend: StateBackend) -> tuple[BinItem, RestorePlan]:
        item = bin_of(app, backend).find(asked.audit_id, prefix=prefix)
        wanted = runs_meant(item, {run: unescape(run) for run in asked.runs}, prefix=prefix) if asked.runs else None
        plan = await plan_restore(backend, item.path, wanted)
        check_order(bin_of(app, backend), item, plan)
        return item, plan

    item, plan = app.run(look)
    words = ["lens", "undo", item.audit_id, *(f"--run={run}" for run in asked.runs)]

    async def work(backend: StateBackend, writer: Recorder, stop: Stop, progress: Progress) -> Restoration:
        bin = bin_of(app, backend)
        return await undo(backend, bin, item, plan, writer, app.world.now(), stop=stop, progress=progress)

    did = "cancelled" if plan.found.cancelled else "stripped" if plan.found.stripped else "deleted"
    what = f"{human.plural(len(plan.run_ids), 'run')} that {item.audit_id} {did}"
    return carry_out(app, plan, asked.change, asked.yes, words, f"restore {what}?", work)


def carry_out(
    app: App, plan: RestorePlan, change: ChangeOptions, yes: bool, words: list[str], question: str, work: Work
) -> int:
    """Ask, restore the runs of a plan, and report; return the exit code."""
    out = report_output(app, change)
    if change.dry_run:
        lines = [
            *_counted(plan.report, len(plan.run_ids), "would be restored"),
            *([_existing(plan)] if plan.existing else []),
            *_named_existing(plan.existing),
            "nothing was changed (--dry-run)",
        ]
        document = plan.report.document() | {"existing": plan.existing, "complete": plan.found.is_complete}
        tell(app, out, document, plan.run_ids, lines)
        return exit_codes.OK
    lines = [_existing(plan), *_named_existing(plan.existing)] if plan.existing else []
    if plan.run_ids and not confirm(app, question, yes, lines):
        return exit_codes.FAILED
    command, stop = [*words, *(["--yes"] if yes else []), *change.words(app.options.store)], Stop()

    async def locked(backend: StateBackend) -> Restoration:
        writer = recorder(app, backend, command, change)
        with (
            lock_of(app, backend, writer.command),
            heard(stop),
            Bar(app, "restoring", "runs", len(plan.run_ids)) as bar,
        ):
            return await work(backend, writer, stop, bar.update)

    done = app.run(locked)
    lines = _lines(plan, done, quiet=app.options.quiet)
    document = done.report.document() | {"existing": done.existing, "complete": plan.found.is_complete}
    tell(app, out, document, done.run_ids, lines)
    _note_failed(app, done)
    partial = done.report.skipped or done.report.failed
    return code_of(stop) or (exit_codes.PARTIAL if partial else exit_codes.OK)


def _counted(report: Report, count: int, verb: str) -> list[str]:
    if not report.matched:
        return ["nothing to restore"]
    return [f"{human.plural(count, 'run')} {verb}"]


def _existing(plan: RestorePlan, count: int | None = None) -> str:
    runs = human.plural(len(plan.existing) if count is None else count, "run")
    is_there = plan.found.cancelled or plan.found.stripped
    return f"skipped: {runs} {'changed since' if is_there else 'whose id exists'}"


def _named_existing(run_ids: Sequence[str]) -> list[str]:
    return listed(run_ids, suffix=" (-o json has them all)")


def _lines(plan: RestorePlan, done: Restoration, *, quiet: bool) -> list[str]:
    came = _counted(done.report, len(done.run_ids), "restored")
    stayed = [_existing(plan, len(done.existing))] if done.existing else []
    left = done.report.left
    stopped = [f"stopped: {human.plural(left, 'run')} left; run the same command to continue"] if left else []
    if quiet:
        return ["; ".join([*came, *stayed, *stopped])]
    ids = listed(done.run_ids, suffix=" (-o id has them all)")
    return [*came, *ids, *stayed, *_named_existing(done.existing), *stopped]


def _note_failed(app: App, done: Restoration) -> None:
    for run_id, why in list(done.failed.items())[:MOST_SHOWN]:
        app.note(escape_controls(f"not restored: {run_id}: {why}"))
