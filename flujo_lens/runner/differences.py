"""What can differ between a saved pipeline and the code of today: every kind by name, and what follows from it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["CODES", "Difference"]

CODES = {
    "completed-step-missing": "LENS-C1",
    "completed-step-moved": "LENS-C1",
    "completed-step-kind": "LENS-C1",
    "completed-step-output": "LENS-C2",
    "step-inserted": "LENS-C3",
    "waiting-step-missing": "LENS-C4",
    "waiting-step-kind": "LENS-C8",
    "context-field-required": "LENS-C5",
    "context-field-removed": "LENS-C5",
    "context-field-retyped": "LENS-C5",
    "context-unreadable": "LENS-C5",
    "deserializer-failed": "LENS-C5",
    "deserializer-missing": "LENS-C5",
    "place-unclear": "LENS-C6",
    "names-differ": "LENS-C6",
    "version-differs": "LENS-C6",
    "not-registered": "LENS-C7",
    "migration-failed": "LENS-C9",
    "input-lost": "LENS-C10",
    "input-unreadable": "LENS-C10",
    "value-lost": "LENS-C10",
}
"""Kind of a difference that keeps a run from going on -> error code. Of several the first in this order counts."""

MOVES = {"step-renamed", "waiting-step-moved"}
"""Kinds with which a run goes on, but not where or as it was saved."""

HARMLESS = {
    "context-field-added",
    "context-field-optional",
    "context-field-wider",
    "later-step-added",
    "later-step-changed",
    "later-step-moved",
    "later-step-removed",
    "later-step-renamed",
    "output-renamed",
    "output-untold",
    "output-wider",
    "pipeline-renamed",
    "question-changed",
    "version-changed",
    "version-not-bumped",
    "waiting-step-output",
}
"""Kinds with which a run goes on as it was saved."""

WORDING = {"question-changed"}
"""Those of `HARMLESS` that are no change of the shape: a note, and the verdict is as without them."""


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it was.

    Attributes:
        kind: A key of `CODES`, or one of `MOVES` or `HARMLESS`.
        step: The step's name in the saved pipeline, or if that has none in the current one; for a field of the
            context, the field's. None where it concerns the whole pipeline.
        saved: What was saved, in a word: a name, a type, a version. None where there was nothing.
        current: What the code has instead. None where it has nothing.
        sentence: All of it in one sentence, without a full stop.
    """

    kind: str
    step: str | None
    saved: str | None
    current: str | None
    sentence: str

    @property
    def code(self) -> str | None:
        """The error code, if this keeps a run from going on."""
        return CODES.get(self.kind)

    def to_dict(self) -> dict[str, Any]:
        """Its fields, as ``-o json`` prints them, and whether it hinders the run."""
        return {**asdict(self), "hinders": self.code is not None}
