"""What ``lens undo`` and ``lens import`` ask, do and print."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from flujo_lens.cli import exit_codes
from flujo_lens.cli.changing import recorder, report_output, tell
from flujo_lens.cli.confirm import actor_of, can_ask, check_can_ask, check_writable, confirm
from flujo_lens.cli.context import App
from flujo_lens.cli.options import ChangeOptions, OutputOptions
from flujo_lens.cli.progress_screen import Bar
from flujo_lens.cli.signals import code_of, heard
from flujo_lens.errors import NotSupportedError, UsageError
from flujo_lens.operations.bin import Bin, BinItem
from flujo_lens.operations.changes import Recorder, Report
from flujo_lens.operations.deletion import Stop
from flujo_lens.operations.restoring import Restoration, RestorePlan, bring_back, plan_restore
from flujo_lens.operations.store_lock import StoreLock
from flujo_lens.operations.undo import runs_meant, undo
from flujo_lens.rendering import columns, human
from flujo_lens.rendering.text import unescape
from flujo_lens.state.backends.base import StateBackend

__all__ = ["Importing", "Undoing", "bin_of", "list_bin", "run_import", "run_undo", "store_path"]

_MOST_SHOWN = 20
Progress = Callable[[int], None]
Work = Callable[[StateBackend, Recorder, Stop, Progress], Awaitable[Restoration]]


class Undoing(NamedTuple):
    """What was asked of ``lens undo``."""

    audit_id: str
    runs: tuple[str, ...]
    yes: bool
    change: ChangeOptions


class Importing(NamedTuple):
    """What was asked of ``lens import``."""

    file: Path
    yes: bool
    change: ChangeOptions


def store_path(backend: StateBackend) -> Path:
    """Where the store is, for what lies beside it.

    Raises:
        NotSupportedError: it is at no path.
    """
    path = getattr(backend, "path", None)
    if isinstance(path, Path):
        return path
    raise NotSupportedError(
        f"the driver {type(backend).__qualname__} keeps its store at no path: there is no bin beside it",
        hint="prune --archive FILE keeps what it deletes, on any driver that can hand it out",
    )


def bin_of(app: App, backend: StateBackend) -> Bin:
    """The bin beside a store.

    Raises:
        NotSupportedError: the store is at no path.
    """
    settings = app.settings
    return Bin(Bin.path_beside(store_path(backend)), settings.bin_keep, settings.bin_max_runs)


def list_bin(app: App, change: ChangeOptions, runs: Sequence[str]) -> None:
    """Print what is in the bin, the newest first."""
    if runs or change.dry_run:
        raise UsageError("what is to be brought back? nothing was changed", hint="lens undo lists the ids")
    out = app.output(OutputOptions(output=change.output, json=change.json))

    async def look(backend: StateBackend) -> list[BinItem]:
        found = bin_of(app, backend).items()
        if not found:
            await backend.read_facts()  # tells an empty bin from no store
        return found

    found = app.run(look)
    out.show(columns.BIN, found, "nothing is in the bin: nothing was deleted lately")
    if found and out.is_table:
        app.note(f"bring it back: lens undo {found[0].audit_id}")


def run_undo(app: App, asked: Undoing) -> int:
    """Ask, bring back what a command deleted, and report; return the exit code."""
    check_writable(app)
    prefix = not asked.yes and can_ask(app)

    async def look(backend: StateBackend) -> tuple[BinItem, RestorePlan]:
        item = bin_of(app, backend).find(asked.audit_id, prefix=prefix)
        wanted = runs_meant(item, {run: unescape(run) for run in asked.runs}, prefix=prefix) if asked.runs else None
        return item, await plan_restore(backend, item.path, wanted)

    item, plan = app.run(look)
    words = ["lens", "undo", item.audit_id, *(f"--run={run}" for run in asked.runs)]

    async def work(backend: StateBackend, writer: Recorder, stop: Stop, progress: Progress) -> Restoration:
        bin = bin_of(app, backend)
        return await undo(backend, bin, item, plan, writer, app.world.now(), stop=stop, progress=progress)

    what = f"{human.plural(len(plan.run_ids), 'run')} that {item.audit_id} deleted"
    return _run(app, plan, asked.change, asked.yes, words, f"bring back {what}?", work)


def run_import(app: App, asked: Importing) -> int:
    """Ask if the store holds runs, import an archive, and report; return the exit code."""
    check_writable(app)
    path = app.world.cwd / asked.file

    async def look(backend: StateBackend) -> RestorePlan:
        return await plan_restore(backend, path)

    plan = app.run(look)
    if plan.found.manifest is None:
        app.note(
            f"{path} was cut off when it was written: its {human.plural(len(plan.found.run_ids), 'run')} are whole"
        )

    async def work(backend: StateBackend, writer: Recorder, stop: Stop, progress: Progress) -> Restoration:
        return await bring_back(backend, plan, writer, stop=stop, progress=progress)

    question = f"import {human.plural(len(plan.run_ids), 'run')} of {plan.found.header.store}?"
    yes = asked.yes or plan.store_is_empty
    return _run(app, plan, asked.change, yes, ["lens", "import", str(asked.file)], question, work)


def _run(
    app: App, plan: RestorePlan, change: ChangeOptions, yes: bool, words: list[str], question: str, work: Work
) -> int:
    out = report_output(app, change)
    if change.dry_run:
        lines = [*_counted(plan.report, len(plan.run_ids), "would be brought back"), "nothing was changed (--dry-run)"]
        tell(app, out, plan.report.document(), plan.run_ids, lines)
        return exit_codes.OK
    if plan.run_ids:
        check_can_ask(app, yes)
        if plan.existing and not yes:
            app.tell(_existing(len(plan.existing)))
        if not confirm(app, question, yes):
            return exit_codes.FAILED
    told, stop = [*words, *(["--yes"] if yes else []), *change.words(app.options.store)], Stop()

    async def locked(backend: StateBackend) -> Restoration:
        writer = recorder(app, backend, told, change)
        with _lock(app, backend, writer), heard(stop), Bar(app, "bringing back", "runs", len(plan.run_ids)) as bar:
            return await work(backend, writer, stop, bar.update)

    done = app.run(locked)
    tell(app, out, done.report.document(), done.run_ids, _lines(done))
    _note_failed(app, done)
    partial = done.report.skipped or done.report.failed
    return code_of(stop) or (exit_codes.PARTIAL if partial else exit_codes.OK)


def _lock(app: App, backend: StateBackend, writer: Recorder) -> StoreLock:
    return StoreLock(
        StoreLock.path_beside(store_path(backend)),
        command=writer.command,
        actor=actor_of(app),
        now=app.world.now(),
        timeout=app.options.timeout or 0,
    )


def _counted(report: Report, count: int, verb: str) -> list[str]:
    if not report.matched:
        return ["there is nothing to bring back"]
    return [f"{human.plural(count, 'run')} {verb}", *([_existing(report.skipped)] if report.skipped else [])]


def _existing(count: int) -> str:
    return f"left alone: {human.plural(count, 'run')} whose id exists"


def _lines(done: Restoration) -> list[str]:
    lines = _counted(done.report, len(done.run_ids), "brought back")
    lines += [f"stopped: {human.plural(done.report.left, 'run')} left; the same command goes on"] * bool(
        done.report.left
    )
    lines += [f"  {run_id}" for run_id in done.run_ids[:_MOST_SHOWN]]
    more = len(done.run_ids) - _MOST_SHOWN
    return [*lines, f"  and {more:,} more (-o id has them all)"] if more > 0 else lines


def _note_failed(app: App, done: Restoration) -> None:
    from flujo_lens.rendering.text import escape_controls

    for run_id, why in list(done.failed.items())[:_MOST_SHOWN]:
        app.note(escape_controls(f"not brought back: {run_id}: {why}"))
