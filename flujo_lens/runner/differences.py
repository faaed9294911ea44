"""Kinds of differences between a saved pipeline and the current code, and their effects."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

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
"""Kinds of differences that prevent resuming -> error code. The first in this order has precedence."""

MOVES = {"step-renamed", "waiting-step-moved"}
"""Kinds with which a run resumes at another position or with a changed context."""

WORDING = {"question-changed"}
"""Kinds that change neither the shape nor the verdict. With all other kinds, a run resumes unchanged."""


@dataclass(frozen=True)
class Difference:
    """A difference.

    Attributes:
        kind: Its name: ``step-renamed``.
        step: The name of the step (saved, else current) or of the field of the context; None for the whole pipeline.
        saved: The saved name, type or version; None without one.
        current: The current name, type or version; None without one.
        sentence: Description as one sentence, without a full stop.
    """

    kind: str
    step: str | None
    saved: str | None
    current: str | None
    sentence: str

    @property
    def code(self) -> str | None:
        """The error code, if the difference prevents resuming."""
        return CODES.get(self.kind)

    def to_dict(self) -> dict[str, Any]:
        """The fields for ``-o json``, and whether it prevents resuming."""
        return {**asdict(self), "hinders": self.code is not None}
