"""The common part of ``lens delete`` and ``lens prune``: question, execution and report."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

from flujo_lens.cli import exit_codes
from flujo_lens.cli.change_output import recorder, tell
from flujo_lens.cli.context import App
from flujo_lens.cli.options import ChangeOptions
from flujo_lens.cli.output import Output
from flujo_lens.cli.screens.deletion_text import done_lines, folded, is_nothing, short_line
from flujo_lens.cli.screens.progress import Bar
from flujo_lens.cli.sidecars import base_of, bin_of, lock_of, why_no_bin
from flujo_lens.cli.signals import code_of, heard
from flujo_lens.errors import LensError, NotSupportedError, OperationFailedError
from flujo_lens.operations.change_report import Recorder
from flujo_lens.operations.deletion import Deletion, Stop, delete, dry_run
from flujo_lens.operations.deletion_copies import Keeping
from flujo_lens.rendering import human
from flujo_lens.state.backends.base import StateBackend, overrides
from flujo_lens.state.deletion import Deleted, DeletionPlan


class Work(NamedTuple):
    """How a plan is executed.

    Attributes:
        words: The command line with long options.
        change: How the change is logged and reported.
        yes: Whether no question was asked, so that its text is still to be printed.
        batch_size: Maximum number of runs per transaction.
        locks: Whether to take the lock of the store.
        lock_file: Path of the lock; None for the default.
        vacuum: Whether to return free space to the disk afterwards.
        force: Whether to vacuum even if another process has the store open.
        one: Description of the only run of a plan; None if there are more.
        all_meant: Whether runs were named, so that the work is partial if one stays.
        may_be_missing: Whether missing runs are ignored.
        needs_bin: Whether to delete nothing that does not fit into the bin.
        stays: What stays of the runs, of a deletion of their states alone.
    """

    words: Sequence[str]
    change: ChangeOptions
    yes: bool
    stop: Stop
    batch_size: int = 100
    locks: bool = False
    lock_file: Path | None = None
    vacuum: bool = False
    force: bool = False
    one: str | None = None
    all_meant: bool = False
    may_be_missing: bool = False
    needs_bin: bool = False
    stays: str = ""


def say(app: App, lines: Sequence[str]) -> None:
    """Print lines before a question, folded to the terminal."""
    for line in folded(lines, app.world.columns):
        app.tell(line)


def store_name(app: App) -> str:
    """The name of the selected store, with passwords masked."""
    return app.redactor.text(app.store.uri)


def keeping_of(
    app: App, backend: StateBackend, plan: DeletionPlan, archive: Path | None, uses_bin: bool
) -> tuple[Keeping, str | None]:
    """Where copies of the runs are kept, and the reason if not in the bin.

    Raises:
        NotSupportedError: an archive is requested, but the driver does not support copies.
    """
    can_keep = overrides(type(backend), "restore")
    if archive is not None and not can_keep:
        raise NotSupportedError.of(type(backend), "restore", "--archive")
    keeping = Keeping(None, archive, store_name(app))
    if not uses_bin or plan.is_empty:
        return keeping, None
    if why := why_no_bin(app, backend):
        return keeping, why
    bin = bin_of(app, backend)
    why = bin.why_not(plan.count, plan.size_bytes)
    return (keeping, why) if why else (keeping._replace(bin=bin), None)


def no_bin(plan: DeletionPlan, why: str) -> OperationFailedError:
    """The error for a deletion without a question that could not be undone."""
    it = "it" if plan.count == 1 else "they"
    return OperationFailedError(
        f"{why}, so {it} could not be restored; nothing was deleted",
        hint="--no-bin deletes without a copy for lens undo",
    )


async def check_bin(app: App, backend: StateBackend, plan: DeletionPlan, uses_bin: bool) -> None:
    """Check that the runs fit into the bin, if it is used.

    Raises:
        OperationFailedError: they do not fit.
    """
    _, why = keeping_of(app, backend, plan, None, uses_bin)
    if why:
        raise no_bin(plan, why)


def copy_lines(
    app: App, plan: DeletionPlan, archive: Path | None, uses_bin: bool, *, takes_archive: bool = False
) -> list[str]:
    """How the runs can be restored, or why not; `takes_archive`: whether the command has ``--archive``."""

    async def look(backend: StateBackend) -> list[str]:
        keeping, why = keeping_of(app, backend, plan, archive, uses_bin)
        lines = [f"a copy goes to {archive}"] if archive else []
        if keeping.bin is not None:
            it = "it" if plan.count == 1 else "them"
            return [*lines, f"lens undo can restore {it} within {human.age(app.settings.bin_keep)}"]
        return lines or [_lost(plan, why or "--no-bin", _can_archive(backend, takes_archive))]

    return app.run(look)


def _can_archive(backend: StateBackend, takes_archive: bool) -> bool:
    return takes_archive and overrides(type(backend), "restore")


def _lost(plan: DeletionPlan, why: str, can_archive: bool) -> str:
    it = "it" if plan.count == 1 else "they"
    return f"{why}: {it} cannot be restored{'; --archive FILE keeps a copy' if can_archive else ''}"


async def vacuum_lines(backend: StateBackend) -> list[str]:
    """What a vacuum needs, in lines.

    Raises:
        NotSupportedError: the driver has no vacuum.
    """
    if not overrides(type(backend), "vacuum"):
        raise NotSupportedError(
            f"the driver {type(backend).__qualname__} does not support vacuum; nothing was deleted",
            hint="omit --vacuum: this store needs none",
        )
    plan = await backend.plan_optimization(vacuum=True)
    needs = [f"{human.size(room.needed)} of the {human.size(room.free)} free in {room.folder}" for room in plan.rooms]
    return [
        f"then the file is rewritten without its free space, which needs up to {' and '.join(needs)}",
        "this blocks all other writers; skipped while another process has the store open, unless --force",
    ]


def report_dry(
    app: App, out: Output, plan: DeletionPlan, archive: Path | None, uses_bin: bool, lines: Sequence[str]
) -> None:
    """Print the plan, in the given lines; with ``-o id``, every id."""

    async def look(backend: StateBackend) -> Deletion:
        keeping, _ = keeping_of(app, backend, plan, archive, uses_bin)
        if out.form == "id":
            async for run_id in backend.planned_ids(plan):
                out.ids([run_id])
        return await dry_run(backend, plan, keeping)

    done = app.run(look)
    if out.form != "id":
        _report(app, out, done, [*lines, "nothing was changed (--dry-run)"])


def _report(app: App, out: Output, done: Deletion, lines: Sequence[str]) -> None:
    if app.options.quiet:
        printed = [] if is_nothing(done) else [short_line(done, _undo_line(app, done))]
    else:
        printed = folded(lines, app.world.columns)
    tell(app, out, done.document(), (), printed)


def _undo_line(app: App, done: Deletion) -> str:
    return app.suggest(f"lens undo {done.audit_id}")


def carry_out(app: App, out: Output, plan: DeletionPlan, archive: Path | None, uses_bin: bool, work: Work) -> int:
    """Execute the plan and report; return the exit code."""
    failed: list[LensError] = []

    async def run(backend: StateBackend) -> Deletion:
        keeping, why = keeping_of(app, backend, plan, archive, uses_bin)
        writer = recorder(app, backend, work.words, work.change)
        if why and work.needs_bin:
            raise no_bin(plan, why)
        if why and work.yes and archive is None:
            app.note(_lost(plan, why, _can_archive(backend, work.locks)))

        async def delete_all() -> Deletion:
            done = await _deleted(app, out, backend, plan, keeping, writer, work)
            if work.vacuum and not (plan.is_empty or work.stop):
                failed.extend(await _vacuumed(app, backend, done, work.force))
            return done

        done = await (_locked(app, backend, writer.command, delete_all, work.lock_file) if work.locks else delete_all())
        if base_of(app, backend) is not None:
            bin_of(app, backend).expire(app.world.now())
        return done

    done = app.run(run)
    if out.form != "id":
        _report(app, out, done, done_lines(done, app.settings.bin_keep, _undo_line(app, done), work.one, work.stays))
    if code := code_of(work.stop):
        return code
    if failed:
        raise failed[0]
    stayed = [why for why in done.skipped if not (why == "gone" and work.may_be_missing)]
    return exit_codes.PARTIAL if work.all_meant and stayed else exit_codes.OK


async def _deleted(
    app: App, out: Output, backend: StateBackend, plan: DeletionPlan, keeping: Keeping, writer: Recorder, work: Work
) -> Deletion:
    """Delete with a progress bar; an error reports what was deleted before it."""
    so_far: list[Deletion] = []

    def watch(done: Deletion, batch: Deleted) -> None:
        so_far[:] = [done]
        bar.update(done.seen)
        if out.form == "id":
            out.ids(batch.run_ids)

    try:
        doing = "stripping" if plan.request.strip else "deleting"
        with heard(work.stop), Bar(app, doing, "runs", plan.count) as bar:
            return await delete(
                backend, plan, keeping, writer.log, command=writer.command, reason=writer.reason,
                now=app.world.now(), batch_size=work.batch_size, stop=work.stop, watch=watch,
            )  # fmt: skip
    except LensError as error:
        if so_far and so_far[0].deleted:
            raise _after_some(error, so_far[0]) from error
        raise


def _after_some(error: LensError, done: Deletion) -> LensError:
    """The error of a batch, with what was deleted before it."""
    why = error.message.replace("; nothing was changed", "; nothing of this batch was deleted")
    were = "1 run was" if done.deleted == 1 else f"{done.deleted:,} runs were"
    message = f"{why}; before that, {were} deleted of {done.plan.count:,} (audit entry {done.audit_id})"
    return type(error)(
        message, hint=error.hint, **{**error.details, "deleted": done.deleted, "audit_id": done.audit_id}
    )


async def _vacuumed(app: App, backend: StateBackend, done: Deletion, force: bool) -> list[LensError]:
    """Return free space to the disk; the error if that fails, which does not affect the deletion."""
    app.note("rewriting the file; this blocks all other writers")
    try:
        done.after = (await backend.vacuum(force=force))[1]
    except LensError as error:
        why = error.message.removesuffix("; nothing was changed")
        hint = "\n".join(filter(None, ("to retry: lens optimize --vacuum", error.hint)))
        return [type(error)(f"the runs were deleted, but the vacuum failed: {why}", hint=hint)]
    return []


async def _locked(
    app: App,
    backend: StateBackend,
    command: Sequence[str],
    work: Callable[[], Awaitable[Deletion]],
    lock_file: Path | None,
) -> Deletion:
    """Run `work` while holding the lock of the store, if the store is at a path.

    With a lock at another path, the default lock must be free.
    """
    has_path = base_of(app, backend) is not None
    if has_path and lock_file is not None:
        lock_of(app, backend, command).check()
    with lock_of(app, backend, command, lock_file) if has_path else nullcontext():
        return await work()


def check_unlocked(app: App, backend: StateBackend) -> None:
    """Before the question, check that no other command is cleaning up the store, unless it will be waited for.

    Raises:
        BusyError: another command is.
    """
    if base_of(app, backend) is not None and not app.options.timeout:
        lock_of(app, backend, ()).check()
