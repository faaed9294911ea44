"""``lens prune``: request, plan, question and report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from flujo_lens.cli import exit_codes
from flujo_lens.cli.change_output import report_output
from flujo_lens.cli.context import App
from flujo_lens.cli.empty_result import pipeline_note
from flujo_lens.cli.input import parsing
from flujo_lens.cli.input.confirm import answer, can_ask, check_can_ask, check_writable
from flujo_lens.cli.input.contradictions import refuse_combination
from flujo_lens.cli.options import ChangeOptions, FilterOptions, PruneOptions, words_of
from flujo_lens.cli.screens.deletion import (
    Work,
    carry_out,
    check_unlocked,
    copy_lines,
    report_dry,
    say,
    store_name,
    vacuum_lines,
)
from flujo_lens.cli.screens.deletion_text import plan_lines
from flujo_lens.errors import UsageError
from flujo_lens.operations.archive import archive_path, check_archive_path
from flujo_lens.operations.deletion import Stop
from flujo_lens.operations.deletion_limits import UNATTENDED_SHARE, Bounds
from flujo_lens.operations.pipelines import unknown_pipeline
from flujo_lens.rendering.human import Human
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.deletion import ORPHANS_AGE, DeletionPlan, DeletionRequest

_FIRST = datetime(1, 1, 3, tzinfo=UTC)
"""The earliest cutoff, which is a valid date in every time zone."""


class PruneArguments(NamedTuple):
    """Arguments of ``lens prune``."""

    what: PruneOptions
    filters: FilterOptions
    change: ChangeOptions
    yes: bool

    def words(self, store: str | None) -> list[str]:
        """The command line with long options."""
        return ["lens", "prune", *words_of(self, "what", "filters", "yes"), *self.change.words(store)]


def run_prune(app: App, asked: PruneArguments) -> int:
    """Make the plan, ask, execute it and report; return the exit code."""
    check_writable(app, dry_run=asked.change.dry_run)
    out, lasts = report_output(app, asked.change), _duration(asked)
    request, bounds = _request(app, asked), _bounds(asked)
    archive = _archive(app, asked, request.now)
    if not asked.change.dry_run:
        check_can_ask(app, asked.yes, "delete the runs that match?")
    plans = _planned(app, request, asked)
    plan, uses_bin = plans.unattended, not asked.what.no_bin
    if asked.change.dry_run:
        report_dry(app, out, plan, archive, uses_bin, _plan_text(app, asked, plans, archive))
        _check_dry(app, bounds, plan, asks=can_ask(app) and not asked.yes)
        return exit_codes.OK
    bounds.check(plan)
    if not (asked.yes or plans.shown.is_empty):
        say(app, _plan_text(app, asked, plans, archive))
        answered = _ask(app, plans)
        if answered is None:
            app.tell("nothing was changed")
            return exit_codes.FAILED
        plan = answered
        bounds.check(plan)
    if archive is not None and not plan.is_empty:
        archive = _archive(app, asked, request.now, make=True)
    what = asked.what
    work = Work(
        asked.words(app.options.store), asked.change, asked.yes, _stop(lasts),
        batch_size=what.batch_size, locks=True, lock_file=what.lock_file, vacuum=what.vacuum, force=what.force,
    )  # fmt: skip
    return carry_out(app, out, plan, archive, uses_bin, work)


class _Plans(NamedTuple):
    """The plans for the possible answers.

    Attributes:
        unattended: The plan of `y`, ``--yes`` and a dry run.
        whole: The plan of `a`, which includes runs that an unattended prune keeps; None if it is the same, or there
            is no question.
        notes: The needs of a vacuum, if requested.
    """

    unattended: DeletionPlan
    whole: DeletionPlan | None = None
    notes: Sequence[str] = ()

    @property
    def shown(self) -> DeletionPlan:
        """The larger plan, which the question shows."""
        return self.whole or self.unattended


def _bounds(asked: PruneArguments) -> Bounds:
    """The limits of the deletion. An unattended deletion always has one."""
    what = asked.what
    if what.max_share is not None:
        return Bounds(what.max_delete, parsing.share(what.max_share))
    unattended = asked.yes or asked.change.dry_run
    return Bounds(what.max_delete, UNATTENDED_SHARE if unattended else None, is_default=True)


def _check_dry(app: App, bounds: Bounds, plan: DeletionPlan, *, asks: bool) -> None:
    """Check the plan of a dry run. The default share is only noted where the command would ask."""
    if not (asks and bounds.is_default):
        bounds.check(plan, is_shown=True)
        return
    bounds._replace(share=None).check(plan, is_shown=True)
    if bounds.exceeds_share(plan):
        app.note(
            f"{plan.count:,} of {plan.total:,} runs are more than --max-share {UNATTENDED_SHARE:.0%}, the default with "
            "--yes; without --yes, lens asks"
        )


def _duration(asked: PruneArguments) -> float | None:
    """Maximum duration of the deletion in seconds."""
    given = asked.what.max_duration
    return None if given is None else parsing.length(given, "--max-duration").total_seconds()


def _stop(lasts: float | None) -> Stop:
    return Stop(None if lasts is None else time.monotonic() + lasts)


def _request(app: App, asked: PruneArguments) -> DeletionRequest:
    """The request of an unattended prune.

    Raises:
        UsageError: neither an age, nor a number to keep, nor orphans were given; or filters for runs without an age.
    """
    now, what = app.world.now(), asked.what
    strip = frozenset[str]() if what.strip is None else parsing.parts(what.strip)
    if strip:
        refuse_combination("--strip", {"--orphans": what.orphans}, "prune --orphans deletes rows without a run")
    age, has_filters = _age(app, what), bool(words_of(asked.filters))
    names_runs = not what.orphans or has_filters or _is_old_typed(what) or what.keep_last is not None
    if names_runs and age is None and what.keep_last is None:
        orphans_hint = f"--orphans{' without a filter' if what.orphans else ''} deletes rows without a run"
        raise UsageError(
            "prune needs an age; nothing was changed" if strip else "prune needs an age; nothing was deleted",
            hint="lens prune --older-than 30d --dry-run shows what would be deleted\n"
            f"--keep-last N keeps the last of each pipeline, {orphans_hint}\n"
            "older_than under [prune] in lens.toml sets a default",
        )
    cutoff = None if age is None else _before(now, age)
    orphans = (cutoff or _before(now, ORPHANS_AGE)) if what.orphans else None
    return DeletionRequest(
        now, cutoff if names_runs else None, app.wanted(asked.filters), keep_last=what.keep_last,
        keep_paused=not (what.include_paused or asked.filters.status), keep_unknown=not asked.filters.status,
        orphans_before=orphans, alive_since=_before(now, app.silent_after), force=what.force, strip=strip,
    )  # fmt: skip


def _is_old_typed(what: PruneOptions) -> bool:
    """Whether an age was given as an option; the age in the settings applies only to runs."""
    return what.older_than is not None or what.days_old is not None


def _age(app: App, what: PruneOptions) -> timedelta | None:
    if what.older_than is not None and what.days_old is not None:
        raise UsageError(
            "--older-than and --days-old contradict each other; nothing was deleted", hint="give one of them"
        )
    if what.days_old is not None:
        return parsing.days(what.days_old)
    if what.older_than is not None:
        return parsing.age(what.older_than)
    if what.keep_last is not None or app.settings.prune_older_than is None:
        return None
    return parsing.age(app.settings.prune_older_than, "older_than under [prune]")


def _typed_age(app: App, what: PruneOptions) -> str | None:
    """The age as given by an option or the settings; None without an age."""
    if what.days_old is not None:
        return f"{what.days_old:g}d"
    return what.older_than or app.settings.prune_older_than


def _before(now: datetime, age: timedelta) -> datetime:
    try:
        return max(now - age, _FIRST)
    except OverflowError:
        return _FIRST


def _archive(app: App, asked: PruneArguments, now: datetime, *, make: bool = False) -> Path | None:
    """The archive. Its path must not exist; its folder must, unless it is the one in the settings."""
    stem = Path(app.store.name or app.store.uri.rpartition("/")[2].partition("?")[0] or "runs").stem
    if asked.what.archive is not None:
        path = archive_path(_absolute(app, asked.what.archive), now, stem=stem)
        check_archive_path(path)
        return path
    folder = app.settings.prune_archive_dir
    if folder is None:
        return None
    if not folder.is_dir():
        check_archive_path(folder.with_name("runs.ndjson"))  # does not create a folder that is not mounted
    return archive_path(f"{folder}/", now, stem=stem, make=make)


def _absolute(app: App, place: str) -> str:
    ending = "/" if place.endswith("/") else ""
    return f"{app.world.cwd / place}{ending}"


def _planned(app: App, request: DeletionRequest, asked: PruneArguments) -> _Plans:
    """The plans: for an unattended prune, and for the other answer of a question."""
    asks = not (asked.yes or asked.change.dry_run)

    async def look(backend: StateBackend) -> _Plans:
        if not asked.change.dry_run:
            check_unlocked(app, backend)
        notes = await vacuum_lines(backend) if asked.what.vacuum else []
        plan, whole = await backend.plan_deletion(request), None
        if asks and (plan.kept.paused or plan.kept.unknown_status):
            whole = await backend.plan_deletion(request._replace(keep_paused=False, keep_unknown=False))
        if plan.is_empty and request.wanted.pipeline:
            await _note_unknown(app, backend, request.wanted.pipeline)
        return _Plans(plan, whole if whole and whole.count > plan.count else None, notes)

    return app.run(look)


async def _note_unknown(app: App, backend: StateBackend, pipeline: str) -> None:
    """Print a note if no run is of a pipeline, since its name may be misspelled."""
    unknown = await unknown_pipeline(backend, pipeline)
    if unknown is not None:
        app.note(pipeline_note(unknown))


def _plan_text(app: App, asked: PruneArguments, plans: _Plans, archive: Path | None) -> list[str]:
    """The lines before the question."""
    plan = plans.shown
    lines = plan_lines(plan, store_name(app), Human(app.world.now(), app.zone, "local"), _typed_age(app, asked.what))
    if plan.is_empty:
        return lines
    return [*lines, *plans.notes, *copy_lines(app, plan, archive, not asked.what.no_bin, takes_archive=True)]


def _ask(app: App, plans: _Plans) -> DeletionPlan | None:
    """Ask, after a line that says what each answer does; return the confirmed plan, or None."""
    do, keys = "Strip" if plans.shown.request.strip else "Delete", "y/N"
    if plans.whole is not None:
        choices = _choices(plans.unattended, plans.whole, f"{do.lower()}s")
        app.tell("; ".join(choices.values()))
        keys = "/".join([*choices, "N"])
    typed = answer(app, f"{do} {'it' if plans.shown.count == 1 else 'them'}? [{keys}] ")
    if typed in ("y", "yes"):
        return plans.unattended
    return plans.whole if typed in ("a", "all") else None


def _choices(careful: DeletionPlan, whole: DeletionPlan, does: str) -> dict[str, str]:
    """What each answer does: ``y deletes the 812 that are not paused``, ``a deletes all 815``."""
    kept = careful.kept
    known = "of unknown status"
    others = " or ".join(status for status, count in (("paused", kept.paused), (known, kept.unknown_status)) if count)
    found = {}
    if careful.count:
        are = "is" if careful.count == 1 else "are"
        found["y"] = f"y {does} the {careful.count:,} that {are} not {others}"
    elif careful.orphans:
        found["y"] = f"y {does} the rows without a run"
    return found | {"a": f"a {does} {'it' if whole.count == 1 else f'all {whole.count:,}'}"}
