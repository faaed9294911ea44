"""``lens import``: plan, question and report.

An archive of the driver of the store is restored byte by byte; any other, or one of which only parts are wanted, goes
by the portable form of its runs.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple

from flujo_lens.cli import exit_codes
from flujo_lens.cli.change_output import report_output
from flujo_lens.cli.context import App
from flujo_lens.cli.input.archive import STDIN, ArchiveInput, archive_input
from flujo_lens.cli.input.confirm import check_can_ask, check_writable, confirm
from flujo_lens.cli.input.target_store import at_target
from flujo_lens.cli.options import ChangeOptions, PartOptions, TransferOptions, words_of
from flujo_lens.cli.screens.copy import Writing, Written, conflict_action, left_out, portable_parts, tell_written, write
from flujo_lens.cli.screens.undo import Progress, carry_out
from flujo_lens.errors import ArchiveError
from flujo_lens.operations.archive import driver_kind
from flujo_lens.operations.archive_compression import LIMITS, Limits
from flujo_lens.operations.archive_reader import Survey, read_archive, survey
from flujo_lens.operations.change_report import Recorder
from flujo_lens.operations.deletion import Stop
from flujo_lens.operations.new_store import create_store
from flujo_lens.operations.portable_archive import check_convertible, groups_in
from flujo_lens.operations.restore import Restoration, plan_restore, restore_runs, store_is_empty
from flujo_lens.operations.transfer import Transfer, Transferred, look_at
from flujo_lens.rendering import human
from flujo_lens.rendering.text import escape_controls
from flujo_lens.state.backends.base import StateBackend


class ImportArguments(NamedTuple):
    """Arguments of ``lens import``."""

    file: Path
    yes: bool
    change: ChangeOptions
    parts: PartOptions
    writing: TransferOptions
    limits: Limits = LIMITS

    @property
    def is_plain(self) -> bool:
        """Whether all of the runs is wanted, and existing runs stay."""
        return not words_of(self.parts) and self.writing.on_conflict in (None, "skip") and not self.writing.verify

    def words(self) -> list[str]:
        """The command line, without options of the change."""
        return ["lens", "import", str(self.file), *words_of(self, "parts", "writing")]


def run_import(app: App, asked: ImportArguments) -> int:
    """Ask if the store holds runs, import an archive, and report; return the exit code."""
    if app.options.store is not None:
        app = at_target(app, app.options.store)
    check_writable(app, dry_run=asked.change.dry_run)
    conflict_action(asked.writing, "skip")
    left_out(asked.parts)
    if str(asked.file) == STDIN and not (asked.yes or asked.change.dry_run or app.run(_is_empty)):
        check_can_ask(app, asked.yes, f"import into {app.shown(app.store_name)}, which holds runs?")  # before reading
    with archive_input(app, asked.file) as given:
        with read_archive(given.path, asked.limits, given.source) as archive:
            first = archive.header.driver

        async def kind(backend: StateBackend) -> str:
            return driver_kind(backend)

        own = app.run(kind)
        if first == own and asked.is_plain:
            return _restored(app, asked, given)
        return _transferred(app, asked, given)


async def _is_empty(backend: StateBackend) -> bool:
    return await store_is_empty(backend, creates=True)


# --- byte by byte


def _restored(app: App, asked: ImportArguments, given: ArchiveInput) -> int:
    look = partial(plan_restore, path=given.path, limits=asked.limits, source=given.source, creates=True)
    plan = app.run(look)
    _note_incomplete(app, given.path, plan.found)

    async def work(backend: StateBackend, writer: Recorder, stop: Stop, progress: Progress) -> Restoration:
        if plan.run_ids and plan.store_is_empty:
            await create_store(backend)
        return await restore_runs(backend, plan, writer, stop=stop, progress=progress)

    into = app.shown(app.options.store or app.store_name)
    question = f"import {human.plural(len(plan.run_ids), 'run')} of {plan.found.header.store} to {into}?"
    yes = asked.yes or plan.store_is_empty
    return carry_out(app, plan, asked.change, yes, asked.words(), question, work)


def _note_incomplete(app: App, path: Path, found: Survey) -> None:
    """Print, also with --quiet, that the end of an archive is missing.

    Raises:
        ArchiveError: it has no complete run.
    """
    if found.manifest is not None and not found.torn:
        return
    name = "the archive on stdin" if str(path) == STDIN else escape_controls(str(path))
    if not found.run_ids:
        raise ArchiveError.cut_off(path, "it has no complete run")
    app.tell(f"{name} is truncated: it has {human.plural(len(found.run_ids), 'complete run')}")


# --- by the portable form


def _transferred(app: App, asked: ImportArguments, given: ArchiveInput) -> int:
    with read_archive(given.path, asked.limits, given.source) as archive:
        check_convertible(given.path, [archive.header.driver])
    found = survey(given.path, asked.limits, given.source)
    check_convertible(given.path, [header.driver for header in found.headers])
    _note_incomplete(app, given.path, found)
    into = app.run(look_at)
    matched = len(found.run_ids)
    out, done = report_output(app, asked.change), Transferred(matched, asked.change.dry_run)
    shown = app.shown(app.options.store or app.store.name or app.store.uri)
    if into.runs and matched and not asked.change.dry_run:
        question = f"import {human.plural(matched, 'run')} of {found.header.store} to {shown}, which has {into.runs:,}?"
        if not confirm(app, question, asked.yes):
            return exit_codes.FAILED

    async def work(backend: StateBackend) -> int:
        parts = portable_parts(app, backend, left_out(asked.parts), redact=asked.parts.redact)
        action = conflict_action(asked.writing, "skip")
        writing = Transfer(backend, parts, into, done, on_conflict=action, verify=asked.writing.verify)
        groups = groups_in(given.path, found, app.settings.timezone, asked.limits, given.source)
        how = Writing(writing, into, asked.change, _words(app, asked), "importing", "imported")
        return await write(app, backend, groups, done, how)

    code = app.run(work)
    how = Written("imported", shown, into, skips_fail=asked.writing.on_conflict is None)
    return tell_written(app, out, done, code, how, {"complete": found.is_complete})


def _words(app: App, asked: ImportArguments) -> list[str]:
    return [*asked.words(), *(["--yes"] if asked.yes else []), *asked.change.words(app.options.store)]
