"""The text of plans and reports of ``lens delete`` and ``lens prune``."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from datetime import timedelta

from flujo_lens.operations.deletion import HEADS, Deletion
from flujo_lens.rendering import human
from flujo_lens.rendering.text import escape_controls
from flujo_lens.state.deletion import DeletionPlan
from flujo_lens.state.views import RUN_STATUSES

_MOST_PIPELINES = 8
_TIED = "\N{NO-BREAK SPACE}"
"""Keeps a name and its number on one line when lines are folded."""

_NOTES = {
    "paused": "could still be resumed (lens waiting)",
    "running": "stale, but may be alive (lens status)",
}
_UNKNOWN = "unknown status"
_HANGING = {
    "steps": "step",
    "spans": "span",
    "traces": "trace",
    "evaluations": "evaluation",
    "history": "history line",
}


_STRIPPED = {"spans": "span", "traces": "trace", "outputs": "output", "states": "state"}


def _in_order(by_status: Mapping[str, int]) -> list[tuple[str, int]]:
    """Paused first, since they could still be resumed."""
    order = ("paused", *(status for status in RUN_STATUSES if status != "paused"))
    known = [(status, by_status[status]) for status in order if by_status.get(status)]
    return known + [(status, count) for status, count in by_status.items() if status not in order and count]


def statuses(by_status: Mapping[str, int]) -> str:
    """``3 paused, 812 completed``."""
    return ", ".join(f"{count:,} {escape_controls(status)}" for status, count in _in_order(by_status))


def hanging(rows: Mapping[str, int], is_estimate: bool = False) -> str:
    """`` with 2 steps and 3 spans``; "" without rows."""
    listed = hung(rows)
    return f" with {'about ' if is_estimate else ''}{listed}" if listed else ""


def hung(rows: Mapping[str, int], words: Mapping[str, str] = _HANGING) -> str:
    """``2 steps and 3 spans``."""
    parts = [_many(rows[table], name) for table, name in words.items() if rows.get(table)]
    return parts[0] if len(parts) == 1 else " and ".join(filter(None, (", ".join(parts[:-1]), "".join(parts[-1:]))))


def _many(number: int, word: str) -> str:
    return f"{number / 1e6:,.1f} M {word}s" if number >= 1_000_000 else human.plural(number, word)


def folded(lines: Iterable[str], width: int) -> list[str]:
    """Lines folded to a width between words, with continuation lines indented."""
    return [part.replace(_TIED, " ") for line in lines for part in _fold(line, width) or [""]]


def _fold(line: str, width: int) -> list[str]:
    indent = " " * (2 + len(line) - len(line.lstrip()))
    return textwrap.wrap(
        line, max(width, 20), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False,
        drop_whitespace=True, replace_whitespace=False, expand_tabs=False,
    )  # fmt: skip


def plan_lines(plan: DeletionPlan, store: str, clock: human.Human, age: str | None = None) -> list[str]:
    """A plan: runs by status and pipeline, and their size; `age`: the requested age, as typed."""
    which = _which(plan, clock, age)
    if plan.is_empty:
        do = "strip" if plan.request.strip else "delete"
        return [escape_controls(line) for line in [f"{which} in {store}: nothing to {do}", *_kept_lines(plan)]]
    lines = [f"{which} in {store}:", *_count_lines(plan)]
    if len(plan.by_pipeline) > 1:
        lines.append(f"by pipeline: {_pipelines(plan.by_pipeline)}")
    if plan.count:
        size = f", {'about ' if plan.is_size_estimate else ''}{human.size(plan.size_bytes)}" if plan.size_bytes else ""
        lines.append(f"{human.plural(plan.count, 'run')}{_going(plan)}{size}")
    if plan.orphans:
        rows = ", ".join(f"{count:,} {table}" for table, count in plan.orphans.items())
        lines.append(f"rows without a run: {rows}")
    return [escape_controls(line) for line in [*lines, *_kept_lines(plan)]]


def _going(plan: DeletionPlan) -> str:
    """What goes of the runs of a plan: `` with 2 steps``; of a strip, `` lose 2 outputs``."""
    if not plan.request.strip:
        return hanging(plan.rows, plan.is_estimate)
    lost = f" {'loses' if plan.count == 1 else 'lose'} {'about ' if plan.is_estimate else ''}{stripped(plan.rows)}"
    return f"{lost}, and {'keeps its row' if plan.count == 1 else 'keep their rows'}"


def stripped(rows: Mapping[str, int]) -> str:
    """``3 spans, 2 outputs and 1 state``."""
    return hung(rows, _STRIPPED) or "nothing"


def _count_lines(plan: DeletionPlan) -> list[str]:
    counts = _in_order(plan.by_status)
    notes = {**_NOTES, "running": "may be alive (--force)"} if plan.request.force else _NOTES
    noted = [
        (f"{status:<9}", count, notes.get(status, "" if status in RUN_STATUSES else _UNKNOWN))
        for status, count in counts
    ]
    if plan.unfinished:
        noted.append((f"{'begun':<9}", plan.unfinished, "left by an interrupted deletion, which is finished first"))
    width = max((len(f"{count:,}") for _, count, _ in noted), default=0)
    return [f"  {name}  {count:>{width},}   {note}".rstrip() for name, count, note in noted]


def _which(plan: DeletionPlan, clock: human.Human, age: str | None) -> str:
    asked = plan.request
    parts = []
    if asked.cutoff is not None:
        age = age or human.age(asked.now - asked.cutoff)
        parts.append(f"Older than {age} (last update before {clock.clock(asked.cutoff)})")
    if asked.keep_last is not None:
        but = (
            "except the last of each pipeline"
            if asked.keep_last == 1
            else f"except the last {asked.keep_last:,} of each pipeline"
        )
        parts.append(f"{'all ' if not parts else ''}{but}")
    if not parts:
        parts.append("Without a run" if asked.orphans_before else "These runs")
    sentence = ", ".join(parts)
    return sentence[:1].upper() + sentence[1:]


def _pipelines(by_pipeline: Mapping[str, int]) -> str:
    most = sorted(by_pipeline.items(), key=lambda pair: (-pair[1], pair[0]))
    named = ", ".join(f"{name}{_TIED}{count:,}" for name, count in most[:_MOST_PIPELINES])
    return f"{named}, and {len(most) - _MOST_PIPELINES} more" if len(most) > _MOST_PIPELINES else named


def _kept_lines(plan: DeletionPlan) -> list[str]:
    kept = plan.kept
    reasons = (
        (kept.paused, "paused; --include-paused deletes them, too"),
        (kept.unknown_status, "of unknown status; --status NAME deletes them"),
        (kept.unknown_age, "of unknown age: a time is missing, unreadable or in the future"),
        (
            kept.family,
            "because another run of the same family (a run and its background tasks) is newer or not selected",
        ),
        (kept.last, "as the last of their pipeline (--keep-last)"),
        (kept.held, "that may be alive: held by a process, or recently active; --force deletes them, too"),
    )
    if plan.request.strip:
        return [f"kept {count:,} {why.replace('deletes them', 'strips them')}" for count, why in reasons if count]
    said = [(count, why.replace(" them", " it") if count == 1 else why) for count, why in reasons]
    return [f"kept {count:,} {why}" for count, why in said if count] + _young_orphans(plan)


def _young_orphans(plan: DeletionPlan) -> list[str]:
    asked = plan.request
    if not plan.young_orphans or asked.orphans_before is None:
        return []
    age = human.age(asked.now - asked.orphans_before)
    return [f"kept {human.plural(plan.young_orphans, 'row')} without a run, newer than {age}"]


def is_nothing(done: Deletion) -> bool:
    """Whether a real deletion had nothing to do and prints nothing, since cron mails all output."""
    return not (done.is_dry or done.deleted or _orphans(done) or done.skipped or done.is_stopped)


def short_line(done: Deletion, undo: str = "") -> str:
    """The report on one line, for cron; `undo`: the command that undoes it."""
    plan, kept = done.plan, done.plan.kept
    did = "strip" if plan.request.strip else "delete"
    verb = f"would {did}" if done.is_dry else {"strip": "stripped", "delete": "deleted"}[did]
    count = plan.count if done.is_dry else done.deleted
    parts = [f"{verb} {_states(plan, count)}{human.plural(count, 'run')}"]
    parts += [f"{number:,} rows without a run"] if (number := _orphans(done)) else []
    parts += [
        f"kept {number:,} {why}"
        for number, why in (
            (kept.paused, "paused"),
            (kept.unknown_status, "of unknown status"),
            (kept.unknown_age, "of unknown age"),
            (kept.held, "held"),
        )
        if number
    ]
    parts += [f"{done.skipped.total():,} skipped"] if done.skipped else []
    parts += [f"{done.left:,} left"] if done.is_stopped else []
    parts += [f"archive {done.archive}"] if done.archive else []
    parts += [f"undo: {undo}"] if done.can_undo and done.audit_id else []
    parts += ["no undo"] if done.deleted and not (done.can_undo or done.archive) else []
    return escape_controls(", ".join(parts))


def _states(plan: DeletionPlan, count: int) -> str:
    """``the states of `` before a number of runs, of which the states alone go."""
    return f"the {'state' if count == 1 else 'states'} of " if plan.request.state_only and count else ""


def _orphans(done: Deletion) -> int:
    return sum(done.plan.orphans.values()) if done.is_dry else done.orphans


def done_lines(done: Deletion, keep: timedelta, undo: str, one: str | None = None, stays: str = "") -> list[str]:
    """What was deleted, what was kept and why, and how to undo it.

    Args:
        keep: How long the bin keeps it.
        one: Description of the only run; None if there are more.
        stays: What stays of the runs, of a deletion of their states alone.
    """
    strip = done.plan.request.strip
    if done.plan.is_empty:
        return [f"nothing to {'strip' if strip else 'delete'}", *_kept_lines(done.plan)]
    rows = {table: count for table, count in done.rows.items() if table not in HEADS}
    lines = []
    if done.deleted or not done.orphans:
        counts = f" ({statuses(done.by_status)})" if done.by_status else ""
        what = (
            one
            if one and done.deleted == 1
            else f"{_states(done.plan, done.deleted)}{human.plural(done.deleted, 'run')}{counts}"
        )
        lines.append(
            f"Stripped {what} of {stripped(done.rows)}." if strip else f"Deleted {what}{hanging(rows)}{stays}."
        )
    if done.orphans:
        lines.append(f"Deleted {human.plural(done.orphans, 'row')} without a run.")
    lines += [f"skipped {count:,}: {_WHY.get(why, why)}" for why, count in done.skipped.items()]
    if done.is_stopped:
        other = ", with another archive file (--archive DIR/ names each)" if done.archive else ""
        lines.append(f"stopped with {done.left:,} left; run the same command to continue{other}")
    lines += _kept_lines(done.plan)
    if done.archive:
        lines.append(f"archive: {done.archive} (lens import restores it)")
    if done.can_undo:
        lines.append(f"To undo within {human.age(keep)}: {undo}")
    free = done.after.reusable_bytes
    if free >= 1 << 20:
        lines.append(
            f"{human.size(free)} of the file's {human.size(done.after.file_bytes)} can be reused for new runs "
            "(to return it to the disk: lens optimize --vacuum)"
        )
    return [escape_controls(line) for line in lines]


_WHY = {
    "stateless": "they have no state to delete",
    "changed": "they changed in the meantime, or are being saved",
    "gone": "another process deleted them first",
    "held": "held by a live process",
    "paused": "they are paused now",
    "sealed": "they are encrypted, and what has to stay of them cannot be read: set LENS_KEY",
    "unreadable": "what has to stay of them cannot be read",
}
