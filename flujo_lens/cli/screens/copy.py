"""``lens copy``: plan, question and report. ``lens import`` writes and reports in the same way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from flujo_lens.cli import exit_codes
from flujo_lens.cli.change_output import recorder, report_output, tell
from flujo_lens.cli.context import App
from flujo_lens.cli.empty_result import reasons
from flujo_lens.cli.input.confirm import check_writable, confirm
from flujo_lens.cli.input.run_arguments import MOST_SHOWN
from flujo_lens.cli.input.target_store import at_target
from flujo_lens.cli.options import ChangeOptions, FilterOptions, PartOptions, TransferOptions, words_of
from flujo_lens.cli.output import Output
from flujo_lens.cli.screens.progress import Bar
from flujo_lens.cli.sidecars import lock_of
from flujo_lens.cli.signals import code_of, heard
from flujo_lens.errors import NotSupportedError, StoreNotFoundError, UnknownValueError, UsageError
from flujo_lens.operations.deletion import Stop
from flujo_lens.operations.new_store import create_store
from flujo_lens.operations.portable_parts import PARTS, PortableParts
from flujo_lens.operations.transfer import (
    CONFLICTS,
    MOST_NAMED,
    Groups,
    Target,
    Transfer,
    Transferred,
    groups_of,
    look_at,
    transfer,
)
from flujo_lens.rendering import human
from flujo_lens.rendering.text import escape_controls
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.views import EMPTY, RunFilter


class CopyArguments(NamedTuple):
    """Arguments of ``lens copy``."""

    source: str
    target: str
    filters: FilterOptions
    parts: PartOptions
    writing: TransferOptions
    change: ChangeOptions
    yes: bool

    def words(self) -> list[str]:
        """The command line with long options."""
        options = [*words_of(self, "filters", "parts", "writing"), *self.change.words(None), *words_of(self, "yes")]
        return ["lens", "copy", self.source, self.target, *options]


def run_copy(app: App, asked: CopyArguments) -> int:
    """Look at both stores, ask if the target has runs, copy and report; return the exit code."""
    _check_alone(app, asked)
    source, target = app.at(asked.source), at_target(app, asked.target)
    _check_different(source, target)
    check_writable(target, dry_run=asked.change.dry_run)
    out, action = report_output(target, asked.change), conflict_action(asked.writing, "fail")
    without = left_out(asked.parts)
    wanted = source.wanted(asked.filters)

    async def look(one: StateBackend, two: StateBackend) -> tuple[int, Target]:
        return await one.count_runs(wanted), await look_at(two)

    matched, into = source.run_with(target, look)
    shown = target.shown(asked.target)
    if not asked.change.dry_run and matched:
        question = f"copy {human.plural(matched, 'run')} to {shown}, which has {human.plural(into.runs, 'run')}?"
        if into.runs and not confirm(target, question, asked.yes):
            return exit_codes.FAILED
    done = Transferred(matched, asked.change.dry_run)

    async def work(one: StateBackend, two: StateBackend) -> int:
        parts = portable_parts(app, two, without, redact=asked.parts.redact)
        writing = Transfer(two, parts, into, done, on_conflict=action, verify=asked.writing.verify)
        made = Writing(writing, into, asked.change, asked.words(), "copying", "copied", source.store_path)
        return await write(target, two, groups_of(one, wanted), done, made)

    code = source.run_with(target, work)
    _note_left_behind(app, source, wanted)
    code = tell_written(target, out, done, code, Written("copied", shown, into))
    if not matched and not app.options.quiet:
        for reason in reasons(source.run, wanted):
            source.note(reason)
    return code


def _check_alone(app: App, asked: CopyArguments) -> None:
    if app.options.store is not None:
        raise UsageError(
            "lens copy names both stores: --store does not apply; nothing was changed",
            hint=f"lens copy {asked.source} {asked.target}",
        )


def _check_different(source: App, target: App) -> None:
    from flujo_lens.config_sources import same_store

    if same_store(source.store.uri, target.store.uri):
        raise UsageError("FROM and TO are the same store; nothing was changed", hint="lens stores lists the stores")


def conflict_action(asked: TransferOptions, default: str) -> str:
    """What to do with a run that exists and differs.

    Raises:
        UnknownValueError: it is not one of `CONFLICTS`.
    """
    if asked.on_conflict is None:
        return default
    if asked.on_conflict not in CONFLICTS:
        raise UnknownValueError.of("--on-conflict", asked.on_conflict, CONFLICTS)
    return asked.on_conflict


def left_out(asked: PartOptions) -> frozenset[str]:
    """The parts to leave out.

    Raises:
        UnknownValueError: one is not of `PARTS`.
    """
    given = [part.strip() for text in asked.without or () for part in text.split(",")]
    for part in given:
        if part not in PARTS:
            raise UnknownValueError.of("--without", part, PARTS)
    return frozenset(given)


def portable_parts(app: App, target: StateBackend | None, without: frozenset[str], *, redact: bool) -> PortableParts:
    """What of the runs is moved; `target` is None if they are written to a file."""
    from flujo_lens.redaction import Redactor

    redactor = Redactor(app.settings.redact_keys) if redact else None
    return PortableParts(without, redactor, None if target is None else type(target).portable_fields(), app.world.now())


# --- writing into a store


class Writing(NamedTuple):
    """How runs are written.

    Attributes:
        transfer: Writes them.
        into: What is known of the target.
        change: The options of the change.
        verb: What is done, for the progress bar: ``copying``.
        done: The same in the past tense, for the audit log: ``copied``.
        like: The file that runs are copied from, whose permissions a new store gets.
    """

    transfer: Transfer
    into: Target
    change: ChangeOptions
    words: Sequence[str]
    verb: str
    done: str
    like: Path | None = None


async def write(app: App, target: StateBackend, groups: Groups, done: Transferred, how: Writing) -> int:
    """Write groups of runs into a store, which is created if it does not exist; return the exit code of a signal."""
    stop = Stop()
    if done.dry_run or not done.matched:
        await transfer(target, groups, how.transfer, done, None, stop=stop)
        return exit_codes.OK
    if not how.into.exists:
        await create_store(target, app.store_path, how.like)
    writer = recorder(app, target, how.words, how.change)
    with (
        lock_of(app, target, writer.command),
        heard(stop),
        Bar(app, how.verb, "runs", done.matched) as bar,
    ):
        await transfer(target, groups, how.transfer, done, writer, verb=how.done, stop=stop, progress=bar.update)
    return code_of(stop)


# --- reporting


class Written(NamedTuple):
    """What a report says of the target.

    Attributes:
        verb: What was done: ``copied``.
        target: Its name.
        into: What was known of it before.
        skips_fail: Whether runs that exist and differ make the result partial.
    """

    verb: str
    target: str
    into: Target
    skips_fail: bool = False


def tell_written(
    app: App, out: Output, done: Transferred, code: int, how: Written, more: Mapping[str, object] = EMPTY
) -> int:
    """Print the report, in JSON with `more` fields; return the exit code."""
    document = done.document() | {"created": not how.into.exists and not done.dry_run and bool(done.matched), **more}
    lines = _lines(done, how)
    if app.options.quiet:
        lines = ["; ".join(lines)]
    tell(app, out, document, done.run_ids, lines)
    note_lost(app, done)
    partial = done.failed or (how.skips_fail and done.conflicts)
    return code or (exit_codes.PARTIAL if partial else exit_codes.OK)


def _lines(done: Transferred, how: Written) -> list[str]:
    if not done.matched:
        return ["no runs match: nothing to do"]
    document = done.document()
    verb = f"would be {how.verb}" if done.dry_run else how.verb
    replaced = f", {done.replaced:,} of them replaced" if done.replaced else ""
    lines = [f"{human.plural(done.done, 'run')} {verb} to {how.target}{replaced}"]
    if done.unchanged == done.seen:
        lines = [f"nothing new: {how.target} has {human.plural(done.unchanged, 'run')} already"]
    elif done.unchanged:
        lines.append(f"unchanged: {human.plural(done.unchanged, 'run')} that {how.target} has already")
    if done.conflicts:
        what = "exist there, and differ" if done.conflicts != 1 else "exists there, and differs"
        lines.append(f"skipped: {human.plural(done.conflicts, 'run')} that {what} (--on-conflict replace takes them)")
    if done.verified:
        equal = done.verified - sum("digest" in why for why in done.failed.values())
        lines.append(f"verified: {equal:,} of {done.verified:,} digests are equal")
    if done.failed:
        lines.append(f"failed: {human.plural(len(done.failed), 'run')}")
    if document["left"] and not done.dry_run:
        lines.append(f"{human.plural(document['left'], 'run')} left; run the same command to continue")
    return [*lines, *(["nothing was changed (--dry-run)"] if done.dry_run else [])]


def note_lost(app: App, done: Transferred) -> None:
    """Print what was not moved."""
    for what, count in sorted(done.lost.items()):
        app.note(escape_controls(f"not kept: {count:,} {what}"))
    for run_id, why in list(done.failed.items())[:MOST_SHOWN]:
        app.note(escape_controls(f"failed: {run_id}: {why}"))
    if done.done > MOST_NAMED:
        app.note(f"the audit log has the numbers; the ids of more than {MOST_NAMED:,} runs are not listed")


def _note_left_behind(app: App, source: App, wanted: RunFilter) -> None:
    """Print what is not a part of a run and stays behind, if all runs were copied."""
    if wanted != RunFilter():
        return

    async def count(backend: StateBackend) -> tuple[int, int]:
        found = []
        for read in (backend.read_system_state, backend.read_claims):
            try:
                found.append(len(await read()))
            except (NotSupportedError, StoreNotFoundError):
                found.append(0)
        return found[0], found[1]

    keys, claims = source.run(count)
    if keys:
        app.note(f"not copied: {human.plural(keys, 'key')} of system state (lens system list, lens system set)")
    if claims:
        app.note(f"not copied: {human.plural(claims, 'claim')} of processes that work on runs: they stay with FROM")
