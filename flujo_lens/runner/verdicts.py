"""Whether a stored run can resume under the current code: `assess`.

A pure function of manifests and a position, without I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from flujo_lens.runner.comparison import Comparison, is_called
from flujo_lens.runner.differences import CODES, MOVES, WORDING, Difference
from flujo_lens.runner.migrations import MigrationFunction
from flujo_lens.runner.type_descriptions import JSONObject
from flujo_lens.state.manifests import is_readable

VerdictKind = Literal["identical", "compatible", "remapped", "needs-migration", "broken", "names-match", "unknown"]


_NO_VERSION = "latest"
"""Values in the library's JSON files for an unknown version."""


@dataclass(frozen=True)
class Place:
    """The position of a stored run.

    Attributes:
        status: Its status: running, paused or failed.
        index: The stored index of the next step, which is not trusted alone.
        waiting: The name of the current step; None if unknown.
        completed: The names of the completed steps in order; empty if not read.
        version: The version of the pipeline in the run; only needed without a manifest.
    """

    status: str
    index: int
    waiting: str | None = None
    completed: tuple[str, ...] = ()
    version: str | None = None


@dataclass(frozen=True)
class Verdict:
    """The verdict on a stored run under the current code.

    Attributes:
        kind: ``identical``; ``compatible`` (no changes that affect this run); ``remapped`` (its position was found by
            alias, or at another index); ``needs-migration`` (the context has changed); ``broken``; and without a
            manifest ``names-match`` or ``unknown``.
        code: ``LENS-C1`` to ``LENS-C10`` if it cannot resume, else None.
        differences: All differences, most important first.
        next_index: The index of the next step in the current code; None if it cannot resume.
        waiting_index: The index of its current step in the current code. It is after `next_index` if steps that have
            not run were moved before it: they run first, and the answer is kept for its step.
        migrations: The migrations of the context to the current version, to apply before the next step.
    """

    kind: VerdictKind
    code: str | None
    differences: tuple[Difference, ...]
    next_index: int | None
    waiting_index: int | None = None
    migrations: tuple[MigrationFunction, ...] = ()

    @property
    def can_resume(self) -> bool:
        """Whether the run can resume."""
        return self.code is None

    @property
    def notes(self) -> tuple[str, ...]:
        """The sentences of differences that do not prevent resuming."""
        return tuple(difference.sentence for difference in self.differences if difference.code is None)

    @property
    def hindrances(self) -> tuple[Difference, ...]:
        """The differences that prevent resuming; the first one has the code of the verdict."""
        if self.can_resume:
            return ()
        order = list(CODES)
        found = [difference for difference in self.differences if difference.code is not None]
        return tuple(sorted(found, key=lambda difference: order.index(difference.kind)))

    def to_dict(self) -> dict[str, Any]:
        """The fields for ``-o json``."""
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
    """The verdict on runs at the same position of the same saved shape.

    Args:
        saved: The manifest of the run; None if the store has none.
        current: The manifest of the current pipeline.
        place: The position of the run.
        migrations: The registered migrations from the saved version to the current one, in order (see
            `PipelineRegistry.migrations`); None without a chain.

    Returns:
        The verdict; `Verdict.code` is None if the run can resume.
    """
    if saved is None or not is_readable(saved):
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
    """The difference if the index, the completed steps and the current step contradict each other."""
    template, names = "the position of the run is not clear: the index says {1}, {2}", [step["name"] for step in steps]
    if not 0 <= place.index <= len(steps):
        return _unclear(template, f"step {place.index}", f"but its pipeline had {len(steps)} steps")
    done = list(place.completed)
    if done and not _are_called(done, steps[: place.index]):
        return _unclear(template, f"after {_row(names[: place.index])}", f"but the history says {_row(done)}")
    if place.waiting is not None and place.index < len(steps) and not is_called(steps[place.index], place.waiting):
        return _unclear(template, f'"{names[place.index]}"', f'but the state says "{place.waiting}"')
    return None


def _unclear(template: str, index: str, other: str) -> Difference:
    return Difference("place-unclear", None, index, other, template.format(None, index, other))


def _are_called(names: Sequence[str], steps: Sequence[JSONObject]) -> bool:
    return len(names) == len(steps) and all(map(is_called, steps, names))


def _by_names(current: JSONObject, place: Place) -> Verdict:
    """The verdict without a manifest, by the names of the completed and the next steps, and the version.

    The library counts the steps of a resumed run twice; then the run is after its completed steps.
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
    sentence = f"the run has version {saved}, this code has {current['version']}, and there is no manifest to compare"
    return [Difference("version-differs", None, place.version, current["version"], sentence)]


def _other_names(steps: Sequence[JSONObject], place: Place) -> list[Difference]:
    names = [step["name"] for step in steps]
    index, done = place.index, list(place.completed)
    if not 0 <= index <= len(steps):
        sentence = f"the run is at step {index}, but this code has {len(steps)} steps"
        return [Difference("names-differ", None, f"step {index}", f"{len(steps)} steps", sentence)]
    if not _are_called(done, steps[:index]):
        sentence = f"the run has completed {_row(done)}, but this code has {_row(names[:index])} there"
        return [Difference("names-differ", None, _row(done), _row(names[:index]), sentence)]
    if place.waiting is not None and not (index < len(steps) and is_called(steps[index], place.waiting)):
        here = names[index] if index < len(steps) else None
        sentence = f'the run is at "{place.waiting}", but this code has "{here or "no step"}" there'
        return [Difference("names-differ", place.waiting, place.waiting, here, sentence)]
    return []


def _row(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing"
