"""What ``lens delete`` and ``lens prune`` have in common: asking, carrying out, reporting."""

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
from flujo_lens.cli.sidecars import base_of, bin_of, lock_of
from flujo_lens.cli.signals import code_of, heard
from flujo_lens.errors import LensError, NotSupportedError, OperationFailedError
from flujo_lens.operations.change_report import Recorder
from flujo_lens.operations.deletion import Deletion, Stop, delete, dry_run
from flujo_lens.operations.deletion_copies import Keeping
from flujo_lens.rendering import human
from flujo_lens.state.backends.base import StateBackend, overrides
from flujo_lens.state.deletion import Deleted, DeletionPlan

__all__ = [
    "Work",
    "carry_out",
    "check_bin",
    "check_unlocked",
    "copy_lines",
    "report_dry",
    "say",
    "store_name",
    "vacuum_lines",
]


class Work(NamedTuple):
    """How a plan is carried out.

    Attributes:
        words: The command in its long form.
        change: How it is written down and reported.
        yes: Whether nobody was asked, so that what the question says has still to be told.
        stop: When to end early.
        batch_size: Runs a transaction at most.
        locks: Whether it takes the lock of the store.
        lock_file: Where that is; None for beside the store.
        vacuum: Whether free room is given back to the disk then.
        force: Whether that is done while another process has the store open.
        one: Describes the only run of a plan; None if there are more.
        all_meant: Whether each run was named, so that one that stays makes the work partial.
        may_be_missing: Whether it is no matter that one of those was gone already.
        needs_bin: Whether nothing goes where the bin cannot take it.
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


def say(app: App, lines: Sequence[str]) -> None:
    """Tell a person something before a question, in lines that fit the terminal."""
    for line in folded(lines, app.world.columns):
        app.tell(line)


def store_name(app: App) -> str:
    """The store that is meant, as it may be shown."""
    return app.redactor.text(app.store.uri)


def keeping_of(
    app: App, backend: StateBackend, plan: DeletionPlan, archive: Path | None, uses_bin: bool
) -> tuple[Keeping, str | None]:
    """Where a copy of a plan's runs goes, and why not into the bin, if somebody should know that.

    Raises:
        NotSupportedError: there is to be an archive, and the driver cannot hand out what it deletes.
    """
    can_keep = overrides(type(backend), "restore")
    if archive is not None and not can_keep:
        raise NotSupportedError.of(type(backend), "restore", "--archive")
    keeping = Keeping(None, archive, store_name(app))
    if not uses_bin or plan.is_empty:
        return keeping, None
    if not can_keep or base_of(app, backend) is None:
        return keeping, "this driver has no bin"
    bin = bin_of(app, backend)
    why = bin.why_not(plan.count, plan.size_bytes)
    return (keeping, why) if why else (keeping._replace(bin=bin), None)


def no_bin(plan: DeletionPlan, why: str) -> OperationFailedError:
    """The error of what was to go where nobody is asked, and could not be brought back."""
    it = "it" if plan.count == 1 else "they"
    return OperationFailedError(
        f"{why}, so {it} could not be brought back; nothing was deleted",
        hint="--no-bin deletes without a copy for lens undo",
    )


async def check_bin(app: App, backend: StateBackend, plan: DeletionPlan, uses_bin: bool) -> None:
    """See that what is to go fits into the bin, if it is to be kept there.

    Raises:
        OperationFailedError: it does not.
    """
    _, why = keeping_of(app, backend, plan, None, uses_bin)
    if why:
        raise no_bin(plan, why)


def copy_lines(
    app: App, plan: DeletionPlan, archive: Path | None, uses_bin: bool, *, takes_archive: bool = False
) -> list[str]:
    """How what goes can be brought back, or why not; `takes_archive`: whether the command could make an archive."""

    async def look(backend: StateBackend) -> list[str]:
        keeping, why = keeping_of(app, backend, plan, archive, uses_bin)
        lines = [f"a copy goes to {archive}"] if archive else []
        if keeping.bin is not None:
            it = "it" if plan.count == 1 else "them"
            return [*lines, f"lens undo can bring {it} back within {human.age(app.settings.bin_keep)}"]
        return lines or [_lost(plan, why or "--no-bin", _can_archive(backend, takes_archive))]

    return app.run(look)


def _can_archive(backend: StateBackend, takes_archive: bool) -> bool:
    return takes_archive and overrides(type(backend), "restore")


def _lost(plan: DeletionPlan, why: str, can_archive: bool) -> str:
    it = "it" if plan.count == 1 else "they"
    return f"{why}: {it} cannot be brought back{'; --archive FILE keeps a copy' if can_archive else ''}"


async def vacuum_lines(backend: StateBackend) -> list[str]:
    """What giving the free room back takes.

    Raises:
        NotSupportedError: the driver cannot do that.
    """
    if not overrides(type(backend), "vacuum"):
        raise NotSupportedError(
            f"a store of the driver {type(backend).__qualname__} cannot be vacuumed; nothing was deleted",
            hint="leave --vacuum out: it is for files that keep the room of what was deleted",
        )
    plan = await backend.plan_optimization(vacuum=True)
    needs = [f"{human.size(room.needed)} of the {human.size(room.free)} free in {room.folder}" for room in plan.rooms]
    return [
        f"then the file is written anew without what is free in it: that takes up to {' and '.join(needs)}",
        "nobody else can write meanwhile; it is left out while another process has the store open, unless --force",
    ]


def report_dry(
    app: App, out: Output, plan: DeletionPlan, archive: Path | None, uses_bin: bool, told: Sequence[str]
) -> None:
    """Print what would be deleted, in the lines of the plan and of `copy_lines`; with ``-o id`` every id, as read."""

    async def look(backend: StateBackend) -> Deletion:
        keeping, _ = keeping_of(app, backend, plan, archive, uses_bin)
        if out.form == "id":
            async for run_id in backend.planned_ids(plan):
                out.ids([run_id])
        return await dry_run(backend, plan, keeping)

    done = app.run(look)
    if out.form != "id":
        _report(app, out, done, [*told, "nothing was changed (--dry-run)"])


def _report(app: App, out: Output, done: Deletion, lines: Sequence[str]) -> None:
    if app.options.quiet:
        told = [] if is_nothing(done) else [short_line(done, _undo_line(app, done))]
    else:
        told = folded(lines, app.world.columns)
    tell(app, out, done.document(), (), told)


def _undo_line(app: App, done: Deletion) -> str:
    return app.suggest(f"lens undo {done.audit_id}")


def carry_out(app: App, out: Output, plan: DeletionPlan, archive: Path | None, uses_bin: bool, work: Work) -> int:
    """Delete what was planned, and report; return the exit code."""
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
        _report(app, out, done, done_lines(done, app.settings.bin_keep, _undo_line(app, done), work.one))
    if code := code_of(work.stop):
        return code
    if failed:
        raise failed[0]
    stayed = [why for why in done.skipped if not (why == "gone" and work.may_be_missing)]
    return exit_codes.PARTIAL if work.all_meant and stayed else exit_codes.OK


async def _deleted(
    app: App, out: Output, backend: StateBackend, plan: DeletionPlan, keeping: Keeping, writer: Recorder, work: Work
) -> Deletion:
    """Delete with a bar; what was deleted before a failure is told."""
    so_far: list[Deletion] = []

    def watch(done: Deletion, batch: Deleted) -> None:
        so_far[:] = [done]
        bar.update(done.seen)
        if out.form == "id":
            out.ids(batch.run_ids)

    try:
        with heard(work.stop), Bar(app, "deleting", "runs", plan.count) as bar:
            return await delete(
                backend, plan, keeping, writer.log, command=writer.command, reason=writer.reason,
                now=app.world.now(), batch_size=work.batch_size, stop=work.stop, watch=watch,
            )  # fmt: skip
    except LensError as error:
        if so_far and so_far[0].deleted:
            raise _after_some(error, so_far[0]) from error
        raise


def _after_some(error: LensError, done: Deletion) -> LensError:
    """The error of a batch, as that of a deletion which had come so far."""
    why = error.message.replace("; nothing was changed", "; nothing of this batch was deleted")
    were = "1 run was" if done.deleted == 1 else f"{done.deleted:,} runs were"
    message = f"{why}; before that {were} deleted, of {done.plan.count:,} (audit entry {done.audit_id})"
    return type(error)(
        message, hint=error.hint, **{**error.details, "deleted": done.deleted, "audit_id": done.audit_id}
    )


async def _vacuumed(app: App, backend: StateBackend, done: Deletion, force: bool) -> list[LensError]:
    """Give free room back to the disk; the error if that fails, which undoes nothing of the deletion."""
    app.note("writing the file anew; nobody else can write to it meanwhile")
    try:
        done.after = (await backend.vacuum(force=force))[1]
    except LensError as error:
        why = error.message.removesuffix("; nothing was changed")
        hint = "\n".join(filter(None, ("lens optimize --vacuum does it later", error.hint)))
        return [type(error)(f"the runs are deleted, but the file could not be made smaller: {why}", hint=hint)]
    return []


async def _locked(
    app: App,
    backend: StateBackend,
    command: Sequence[str],
    work: Callable[[], Awaitable[Deletion]],
    lock_file: Path | None,
) -> Deletion:
    """Do `work` while the lock of the store is held, where the store is at a path.

    With a lock elsewhere, nobody may hold the one beside the store.
    """
    has_path = base_of(app, backend) is not None
    if has_path and lock_file is not None:
        lock_of(app, backend, command).check()
    with lock_of(app, backend, command, lock_file) if has_path else nullcontext():
        return await work()


def check_unlocked(app: App, backend: StateBackend) -> None:
    """See that no other command cleans up the store, unless it is to be waited for; to be asked in vain is no fun.

    Raises:
        BusyError: another does.
    """
    if base_of(app, backend) is not None and not app.options.timeout:
        lock_of(app, backend, ()).check()
