"""The screen for a run that does not fit the code: saved and current steps side by side, then numbered remedies."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import Any, NamedTuple

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from flujo_lens.rendering.human import Human, plural
from flujo_lens.rendering.text import escape_controls

_MOST_STEPS = 14
"""Maximum number of steps shown in full; longer pipelines are shown around their differences."""

_LEAST_WORDS = 20

_REMARKS = {
    "completed-step-missing": "completed; not in this code",
    "completed-step-moved": "completed; in another position",
    "completed-step-kind": "completed; kind: {saved} {arrow} {current}",
    "completed-step-output": "completed; output: {saved} {arrow} {current}",
    "step-inserted": "did not run",
    "waiting-step-missing": "current step; not in this code",
    "waiting-step-kind": "current step; kind: {saved} {arrow} {current}",
    "context-field-required": "has no default",
    "context-field-removed": "is gone",
    "context-field-retyped": "has another type",
}
"""Remarks next to a step or field; other kinds of differences are shown as sentences."""


class _Row(NamedTuple):
    what: str
    saved: str
    current: str
    remark: str = ""
    marks_saved: bool = False
    marks_current: bool = False

    @property
    def matters(self) -> bool:
        return bool(self.remark) or self.saved != self.current


def incompatibility(
    error: Mapping[str, Any], shown: Human, width: int, *, unicode: bool = True, folds: bool = True
) -> RenderableType:
    """Render the error.

    Args:
        error: The result of `StateIncompatibilityError.to_dict`.
        width: Width in cells. Commands are never folded, so that they can be copied.
        unicode: False for ASCII terminals.
        folds: Whether sentences are folded to the width, as on a terminal.
    """
    arrow = "→" if unicode else "->"
    opening = Text.assemble(
        ("error", "bold red"), f" {error['code']}: StateIncompatibilityError: {error['message'].partition(chr(10))[0]}"
    )
    said = [opening, *(Text(escape_controls(line)) for line in (_problem(error), *_sentences(error)))]
    for line in () if folds else said:
        line.no_wrap, line.overflow = True, "ignore"
    more = Text(f"more: {error['hint']}")
    return Group(
        *said,
        Text(),
        _side_by_side(_rows(error, arrow), _saved_title(error, shown), arrow),
        Text(),
        Text("  WHAT TO DO, safest first", style="bold"),
        *_remedies(error["remediations"], width),
        more,
    )


def _problem(error: Mapping[str, Any]) -> str:
    text = f"{error['reason']}. Nothing was changed: it is still {error['status']}."
    others = error.get("others")
    if others:
        text += f" {plural(others, 'other run')} {'has' if others == 1 else 'have'} this problem."
    return text


def _sentences(error: Mapping[str, Any]) -> list[str]:
    """The differences that prevent resuming and are not in the table, after their cause."""
    cause = error.get("cause")
    return [
        *([f"  {cause}"] if cause else []),
        *(f"  {each['sentence']}" for each in _hindrances(error) if each["kind"] not in _REMARKS),
    ]


def _hindrances(error: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [each for each in error["differences"] if each["hinders"]]


def _saved_title(error: Mapping[str, Any], shown: Human) -> str:
    when = error.get("saved_at")
    return f"SAVED ({shown.ago(datetime.fromisoformat(when))})" if when else "SAVED"


# --- side by side


def _side_by_side(rows: Sequence[_Row], saved_title: str, arrow: str) -> RenderableType:
    made = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
    indent = " " * (len(arrow) + 1)
    for title in ("", indent + saved_title, indent + "THIS CODE", ""):
        made.add_column(title, overflow="fold")
    for row in rows:
        marked = row.marks_saved or row.marks_current
        cells = (
            row.what,
            (f"{arrow} " if row.marks_saved else indent) + row.saved,
            (f"{arrow} " if row.marks_current else indent) + row.current,
            row.remark,
        )
        made.add_row(*(Text(escape_controls(cell), style="bold" if marked and cell else "") for cell in cells))
    return Padding(made, (0, 0, 0, 2))


def _rows(error: Mapping[str, Any], arrow: str) -> list[_Row]:
    steps = list(_step_rows(error, arrow))
    return [_version_row(error), *_shortened(steps), *_field_rows(error)]


def _version_row(error: Mapping[str, Any]) -> _Row:
    current = error["current"]
    registered = next((each["current"] for each in error["differences"] if each["kind"] == "not-registered"), None)
    here = current["version"] if current else f"registered: {registered}" if registered else "not registered"
    kept = any(each["kind"] == "version-not-bumped" for each in error["differences"])
    return _Row("version", error["pipeline_version"] or "-", here, "same version, changed code" if kept else "")


def _step_rows(error: Mapping[str, Any], arrow: str) -> Iterator[_Row]:
    saved, current = _saved_names(error), _names(error["current"])
    found = {each["step"]: each for each in _hindrances(error)}
    renamed = any(remedy["id"] == "alias" for remedy in error["remediations"])
    for index, old, new in _aligned(error, saved, current):
        theirs = found.get(old) if _is_of_saved(found.get(old)) else None
        ours = found.get(new) if found.get(new, {}).get("kind") == "step-inserted" else None
        remark = _remark(theirs or ours, arrow)
        if theirs and renamed and theirs["kind"].endswith("-missing"):
            remark = "same kind and output: renamed?"
        if not remark and old and old == error["waiting"]:
            remark = "stands here"
        unknown = "" if error["saved"] else "?"
        yield _Row(
            "" if index is None else f"step {index}",
            old or unknown,
            new or "",
            remark,
            theirs is not None,
            ours is not None,
        )


def _is_of_saved(difference: Mapping[str, Any] | None) -> bool:
    return difference is not None and difference["kind"] in _REMARKS and "-step-" in difference["kind"]


def _field_rows(error: Mapping[str, Any]) -> Iterator[_Row]:
    for each in _hindrances(error):
        if each["kind"].startswith("context-") and each["kind"] in _REMARKS:
            remark = _REMARKS[each["kind"]]
            yield _Row(f"field {each['step']}", each["saved"] or "-", each["current"] or "-", remark, False, True)


def _remark(difference: Mapping[str, Any] | None, arrow: str) -> str:
    return "" if difference is None else _REMARKS[difference["kind"]].format(**difference, arrow=arrow)


def _shortened(rows: Sequence[_Row]) -> Iterator[_Row]:
    """All rows of a short pipeline; for a long one, the differences with adjacent steps, and gaps."""
    near = {at + by for at, row in enumerate(rows) if row.matters for by in (-1, 0, 1)}
    left_out = 0
    for at, row in enumerate(rows):
        if len(rows) > _MOST_STEPS and at not in near:
            left_out += 1
            continue
        yield from _gap(left_out)
        yield row
        left_out = 0
    yield from _gap(left_out)


def _gap(left_out: int) -> Iterator[_Row]:
    if left_out:
        same = f"{plural(left_out, 'step')}, the same"
        yield _Row("...", same, same)


def _saved_names(error: Mapping[str, Any]) -> list[str]:
    """The names of the saved steps, as far as known."""
    if error["saved"]:
        return _names(error["saved"])
    waiting = error["waiting"]
    return [*error["completed"], *([waiting] if waiting else [])]


def _names(manifest: Mapping[str, Any] | None) -> list[str]:
    return [step["name"] for step in manifest["steps"]] if manifest else []


def _aligned(
    error: Mapping[str, Any], saved: Sequence[str], current: Sequence[str]
) -> Iterator[tuple[int | None, str | None, str | None]]:
    """The steps aligned side by side, as in a diff, with gaps for missing and new steps.

    Yields:
        The index in the saved pipeline, the saved name and the current name; None for a missing step.
    """
    if not error["saved"]:  # only some names are known: nothing to compare
        for index in range(max(len(saved), len(current))):
            yield index, _at(saved, index), _at(current, index)
        return
    former = _former_names(error["current"], saved)
    kinds = _kinds(error["saved"]), _kinds(error["current"])
    for tag, begin, end, start, stop in SequenceMatcher(None, saved, former, autojunk=False).get_opcodes():
        pairs: Iterable[tuple[int | None, int | None]] = zip_longest(range(begin, end), range(start, stop))
        if tag == "replace" and end - begin != stop - start and all(kinds):
            pairs = _by_kind(range(begin, end), range(start, stop), *kinds)
        for at, now in pairs:
            yield at, None if at is None else saved[at], None if now is None else current[now]


def _at(names: Sequence[str], index: int) -> str | None:
    return names[index] if index < len(names) else None


def _by_kind(old: range, new: range, was: Sequence[str], now: Sequence[str]) -> Iterator[tuple[int | None, int | None]]:
    """Replaced steps, aligned by kind."""
    matcher = SequenceMatcher(None, [was[at] for at in old], [now[at] for at in new], autojunk=False)
    for _, begin, end, start, stop in matcher.get_opcodes():
        yield from zip_longest(old[begin:end], new[start:stop])


def _former_names(current: Mapping[str, Any] | None, saved: Sequence[str]) -> list[str]:
    """The names of the code's steps, or the saved name if it is an alias."""
    steps = current["steps"] if current else ()
    return [next((name for name in _called(step) if name in saved), step["name"]) for step in steps]


def _called(step: Mapping[str, Any]) -> list[str]:
    return [step["name"], *step.get("aliases", ())]


def _kinds(manifest: Mapping[str, Any] | None) -> list[str]:
    return [step["kind"] for step in manifest["steps"]] if manifest else []


# --- what to do


def _remedies(remedies: Sequence[Mapping[str, Any]], width: int) -> Iterator[RenderableType]:
    """Titles with their lines next to them, or below if a line does not fit."""
    titles = max(cell_len(each["title"]) for each in remedies)
    left = 5 + titles + 2
    fits = all(left + cell_len(line) <= width for each in remedies for line in _lines(each))
    for number, each in enumerate(remedies, 1):
        column, head = left if fits else 5, f"  {number}  {each['title']}"
        lines, consequence = _lines(each), _consequence(each)
        if lines and consequence and column + cell_len(lines[-1]) + cell_len(consequence) + 3 <= width:
            lines[-1] += f"   {consequence}"
        else:
            lines += textwrap.wrap(consequence, max(width - column, _LEAST_WORDS))
        if not fits:
            yield Text(head)
        for at, line in enumerate(lines):
            yield _set_in(line, column, head if fits and at == 0 else "")


def _set_in(line: str, column: int, lead: str) -> RenderableType:
    """A line next to its title, never folded, since it may be a command to copy."""
    return Text(lead.ljust(column) + line, no_wrap=True, overflow="ignore")


def _lines(remedy: Mapping[str, Any]) -> list[str]:
    """The code and the command of a remedy."""
    code = [escape_controls(line) for line in (remedy["code"] or "").split("\n") if line]
    return [*code, *([escape_controls(remedy["command"])] if remedy["command"] else [])]


def _consequence(remedy: Mapping[str, Any]) -> str:
    """The consequence: in parentheses after a command; omitted if the remedy is safe."""
    text = escape_controls(remedy["consequence"])
    if remedy["command"]:
        return "" if remedy["safe"] else f"({text})"
    return text
