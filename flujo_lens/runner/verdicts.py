"""Whether a stored run can go on under the code of today: `assess`.

Pure: manifests and a place in, a verdict out. No store is opened and nothing is changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from flujo_lens.runner.comparison import Comparison, is_called
from flujo_lens.runner.differences import CODES, MOVES, WORDING, Difference
from flujo_lens.runner.manifests import FORMAT
from flujo_lens.runner.migrations import MigrationFunction
from flujo_lens.runner.type_descriptions import JSONObject

__all__ = ["Place", "Verdict", "VerdictKind", "assess"]

VerdictKind = Literal["identical", "compatible", "remapped", "needs-migration", "broken", "names-match", "unknown"]


_NO_VERSION = "latest"
"""What the library's JSON files have in place of a version."""


@dataclass(frozen=True)
class Place:
    """Where a stored run stands.

    Attributes:
        status: Of the run: running, paused or failed.
        index: Of the next step, as it is stored. Never trusted alone.
        waiting: Name of the step it stands at; None if the store does not say.
        completed: Names of the steps that are done, in order; empty where they were not read.
        version: Of the pipeline, as the run names it; needed only where there is no manifest.
    """

    status: str
    index: int
    waiting: str | None = None
    completed: tuple[str, ...] = ()
    version: str | None = None


@dataclass(frozen=True)
class Verdict:
    """What becomes of a stored run under the code of today.

    Attributes:
        kind: ``identical``; ``compatible`` (nothing that matters to this run has changed); ``remapped`` (its place
            was found again by an alias, or at another index); ``needs-migration`` (the context has changed);
            ``broken``; and without a manifest ``names-match`` or ``unknown``.
        code: ``LENS-C1`` to ``LENS-C10`` where it cannot go on, else None.
        differences: All that differs, what matters most first.
        next_index: Of the step that runs next under the current code; None where it cannot go on.
        waiting_index: Where the step at which it stands is now. It is behind `next_index` if steps that were still
            to come were moved before it: they run first, and the answer of a person waits for its step.
        migrations: What brings the context to the current version; to be applied before the next step.
    """

    kind: VerdictKind
    code: str | None
    differences: tuple[Difference, ...]
    next_index: int | None
    waiting_index: int | None = None
    migrations: tuple[MigrationFunction, ...] = ()

    @property
    def can_resume(self) -> bool:
        """Whether the run may go on."""
        return self.code is None

    @property
    def notes(self) -> tuple[str, ...]:
        """What somebody should know although the run goes on: a sentence a difference that does not hinder it."""
        return tuple(difference.sentence for difference in self.differences if difference.code is None)

    @property
    def hindrances(self) -> tuple[Difference, ...]:
        """The differences that keep it from going on, the one that gave the code first."""
        if self.can_resume:
            return ()
        order = list(CODES)
        found = [difference for difference in self.differences if difference.code is not None]
        return tuple(sorted(found, key=lambda difference: order.index(difference.kind)))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, as ``-o json`` prints it."""
        return {
            "verdict": self.kind,
            "code": self.code,
            "can_resume": self.can_resume,
            "next_index": self.next_index,
            "differences": [difference.to_dict() for difference in self.differences],
        }


def assess(
    saved: JSONObject | None,
    current: JSONObject,
    place: Place,
    *,
    migrations: Sequence[MigrationFunction] | None = None,
) -> Verdict:
    """Judge one run, or many that stand at the same place of the same saved shape.

    Args:
        saved: The manifest that the run was started with; None if the store has none.
        current: The manifest of the pipeline as it is now.
        place: Where the run stands.
        migrations: What is registered to bring a context from the saved version to the current one, in order: as
            `PipelineRegistry.migrations` gives it. None, and none at all, where nothing does.

    Returns:
        The verdict; `Verdict.code` is None exactly where the run may go on.
    """
    if saved is None or not _is_readable(saved):
        return _by_names(current, place)
    unclear = _contradiction(saved["steps"], place)
    if unclear is not None:
        return Verdict("unknown", "LENS-C6", (unclear,), None)
    comparison = Comparison(saved, current, place.index)
    differences = tuple(comparison.differences())
    kind, code = _judged(differences, bool(migrations))
    at = comparison.waiting_index
    goes_on = code is None
    used = tuple(migrations or ()) if kind == "needs-migration" and goes_on else ()
    return Verdict(kind, code, differences, place.index if goes_on else None, at if goes_on else None, used)


def _is_readable(saved: JSONObject) -> bool:
    """Whether a stored manifest is of the format that is known here; another lens may have written it."""
    return saved.get("format") == FORMAT and {"pipeline", "version", "steps", "context", "types"} <= saved.keys()


def _judged(differences: Sequence[Difference], has_path: bool) -> tuple[VerdictKind, str | None]:
    kinds = {difference.kind for difference in differences} - WORDING
    codes = [code for kind, code in CODES.items() if kind in kinds]
    if codes and codes != ["LENS-C5"] * len(codes):
        return "broken", next(code for code in codes if code != "LENS-C5")
    if codes:
        return "needs-migration", None if has_path else "LENS-C5"
    if kinds & MOVES:
        return "remapped", None
    return ("compatible" if kinds else "identical"), None


def _contradiction(steps: Sequence[JSONObject], place: Place) -> Difference | None:
    """Where the index, the names of what is done and the step where it stands do not tell the same story."""
    told, names = "the index says {1}, {2}: where the run stands is not clear", [step["name"] for step in steps]
    if not 0 <= place.index <= len(steps):
        return _unclear(told, f"step {place.index}", f"and its pipeline had {len(steps)}")
    done = list(place.completed)
    if done and not _are_called(done, steps[: place.index]):
        return _unclear(told, f"after {_row(names[: place.index])}", f"the history {_row(done)}")
    if place.waiting is not None and place.index < len(steps) and not is_called(steps[place.index], place.waiting):
        return _unclear(told, f'"{names[place.index]}"', f'the state "{place.waiting}"')
    return None


def _unclear(told: str, index: str, other: str) -> Difference:
    return Difference("place-unclear", None, index, other, told.format(None, index, other))


def _are_called(names: Sequence[str], steps: Sequence[JSONObject]) -> bool:
    return len(names) == len(steps) and all(map(is_called, steps, names))


def _by_names(current: JSONObject, place: Place) -> Verdict:
    """Without a manifest there are only names: of the steps that are done, of the next one, and the version.

    The library counts the steps of a run twice that was resumed: then it stands behind those that are done.
    """
    if place.completed and place.index > len(place.completed):
        place = replace(place, index=len(place.completed))
    found = [*_other_version(current, place), *_other_names(current["steps"], place)]
    if found:
        return Verdict("unknown", "LENS-C6", tuple(found), None)
    waiting = place.index if place.index < len(current["steps"]) else None
    return Verdict("names-match", None, (), place.index, waiting)


def _other_version(current: JSONObject, place: Place) -> list[Difference]:
    if place.version in (current["version"], _NO_VERSION):
        return []
    saved = place.version or "none"
    sentence = f"the run names version {saved}, this code is {current['version']}, and no manifest says what changed"
    return [Difference("version-differs", None, place.version, current["version"], sentence)]


def _other_names(steps: Sequence[JSONObject], place: Place) -> list[Difference]:
    names = [step["name"] for step in steps]
    index, done = place.index, list(place.completed)
    if not 0 <= index <= len(steps):
        sentence = f"the run stands at step {index}, and this code has {len(steps)} steps"
        return [Difference("names-differ", None, f"step {index}", f"{len(steps)} steps", sentence)]
    if not _are_called(done, steps[:index]):
        sentence = f"the run has done {_row(done)}, this code would have done {_row(names[:index])} by then"
        return [Difference("names-differ", None, _row(done), _row(names[:index]), sentence)]
    if place.waiting is not None and not (index < len(steps) and is_called(steps[index], place.waiting)):
        here = names[index] if index < len(steps) else None
        sentence = f'the run stands at "{place.waiting}", this code has "{here or "no step"}" there'
        return [Difference("names-differ", place.waiting, place.waiting, here, sentence)]
    return []


def _row(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing"
