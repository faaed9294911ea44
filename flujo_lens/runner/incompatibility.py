"""`StateIncompatibilityError`: a saved run does not fit the code; with the reasons and remedies."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from flujo_lens.errors import IncompatibleError
from flujo_lens.runner.differences import Difference
from flujo_lens.runner.migrations import MigrationError
from flujo_lens.runner.remedies import Remediation, as_registered, name_context, remedies_for
from flujo_lens.runner.type_descriptions import JSONObject
from flujo_lens.runner.verdicts import Place, Verdict
from flujo_lens.state.interpret import NAMELESS

OPENING = "Cannot resume workflow due to a mismatch between the saved state and the current pipeline code."
"""The beginning of every message."""

_REASONS = {
    "LENS-C1": "has completed steps that this code does not have, or has in another position",
    "LENS-C2": "has completed a step whose output has another type now",
    "LENS-C3": "has passed a position at which this code has another step",
    "LENS-C4": "{stands} at a step that this code does not have",
    "LENS-C5": "was saved with a context that this code cannot read",
    "LENS-C6": "does not have enough stored data to resume safely",
    "LENS-C7": "belongs to a pipeline or a version that is not registered",
    "LENS-C8": "{stands} at a step that has another kind now",
    "LENS-C9": "was saved by another version, and the migration to this one failed",
    "LENS-C10": "was saved without a value that its next steps need",
}


class StateIncompatibilityError(IncompatibleError):
    """A stored run cannot resume under this code. The store was not changed; the run resumes under the former code.

    Args:
        run_id: The run.
        verdict: The verdict, whose `Verdict.can_resume` is False.
        saved: The manifest of the run; None if the store has none.
        current: The manifest of the code; None if it has no such pipeline.
        place: The position of the run.
        pipeline: The name of the pipeline in the run; by default, that of a manifest.
        saved_at: The time of the last save.
        others: Number of other runs with this problem, if counted; may be set later.
        database: The file name of the store, if it is a file.

    Attributes:
        code: ``LENS-C1`` to ``LENS-C10``.
        message: Begins with `OPENING`, followed by the run, the differences, and the numbered remedies.
        differences: All differences, those that prevent resuming first.
        remediations: The remedies that apply, safest first.
        cause: The cause of the differences, if known from the application (`of_application`).
    """

    def __init__(
        self,
        run_id: str,
        verdict: Verdict,
        *,
        saved: JSONObject | None,
        current: JSONObject | None,
        place: Place,
        pipeline: str | None = None,
        saved_at: datetime | None = None,
        others: int | None = None,
        database: str | None = None,
    ) -> None:
        if verdict.code is None:
            raise ValueError(f"run {run_id} can resume: {verdict.kind}")
        self.code = verdict.code
        self.run_id, self.status, self.verdict = run_id, place.status, verdict.kind
        self.saved, self.current, self.saved_at, self.others = saved, current, saved_at, others
        self.pipeline: str = pipeline or (saved or current or {}).get("pipeline", "")
        self.waiting = _stands_at(saved, place)
        self.completed = place.completed or _names(saved)[: place.index]
        self.version: str | None = saved["version"] if saved else place.version
        hindrances = verdict.hindrances
        self.differences = (*hindrances, *(each for each in verdict.differences if each not in hindrances))
        self.remediations = remedies_for(
            run_id, verdict, saved, current, place, pipeline=self.pipeline, database=database
        )
        self.cause: str | None = None
        super().__init__(self._message(), hint=f"lens explain {self.code}")

    def of_application(self, target: str, *, tells_context: bool, has_version: bool) -> None:
        """Add facts about the application ``module:attribute``, whose remedies come first.

        Args:
            target: The ``module:attribute``.
            tells_context: Whether it has the type of the context.
            has_version: Whether it has registered the version that the run was started with.
        """
        if not tells_context and any(each.kind == "context-field-removed" for each in self.differences):
            self.cause = f"{target} has no context model, but the run has one"
            self.remediations = (name_context(self.run_id, target), *self.remediations)
        if has_version:
            self.remediations = tuple(map(as_registered, self.remediations))
        self.message = self._message()
        self.args = (self.message,)

    @property
    def reason(self) -> str:
        """The problem in one sentence: ``run r1 waits at a step that this code does not have``."""
        return (
            f"run {self.run_id} {_REASONS[self.code].format(stands='waits' if self.status == 'paused' else 'stands')}"
        )

    def to_dict(self) -> dict[str, Any]:
        """The error for ``-o json``, without data from the run's context."""
        return {
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "reason": self.reason,
            "run_id": self.run_id,
            "status": self.status,
            "cause": self.cause,
            "verdict": self.verdict,
            "pipeline_name": self.pipeline,
            "pipeline_version": self.version,
            "waiting": self.waiting,
            "completed": list(self.completed),
            "saved": self.saved,
            "saved_at": None if self.saved_at is None else self.saved_at.isoformat(),
            "current": self.current,
            "others": self.others,
            "differences": [difference.to_dict() for difference in self.differences],
            "remediations": [remedy.to_dict() for remedy in self.remediations],
        }

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the finished error, without building it again."""
        return _revived, (self.message, self.__dict__)

    def _message(self) -> str:
        titled = f"{self.reason} ({self.pipeline} {self.version or ''}".rstrip() + ")"
        lines = [OPENING, f"{titled}. Nothing was changed: it is still {self.status}."]
        lines += [f"  - {self.cause}"] if self.cause else []
        lines += [f"  - {difference.sentence}" for difference in self.differences if difference.code is not None]
        lines.append("What to do, safest first:")
        for number, remedy in enumerate(self.remediations, 1):
            lines += _numbered(number, remedy)
        return "\n".join([*lines, f"More: lens explain {self.code}"])


def not_registered(
    run_id: str, place: Place, pipeline: str, versions: tuple[str, ...], near: str | None = None
) -> StateIncompatibilityError:
    """The error for a run whose pipeline or version is not registered.

    Args:
        run_id: The run.
        place: Its position, with its version.
        pipeline: The name of its pipeline.
        versions: The registered versions of the name, oldest first; empty if the name is unknown.
        near: A similar registered name.
    """
    found = ", ".join(versions) or None
    sentence = f'this code has no version {place.version} of "{pipeline}", only {found}'
    if found is None:
        asked = f", did you mean {near}?" if near else ""
        sentence = f'this code has no pipeline "{pipeline}"{asked}'
    if pipeline in NAMELESS:
        sentence = "the store does not have the name of its pipeline: give the right one, --app module:pipeline"
    difference = Difference("not-registered", None, place.version, found, sentence)
    verdict = Verdict("unknown" if pipeline in NAMELESS else "broken", "LENS-C7", (difference,), None)
    return StateIncompatibilityError(run_id, verdict, saved=None, current=None, place=place, pipeline=pipeline)


def migration_failed(
    run_id: str, error: MigrationError | str, *, saved: JSONObject, current: JSONObject, place: Place
) -> StateIncompatibilityError:
    """The error for a run whose migration raised, or returned a context that does not fit the code."""
    versions = saved["version"], current["version"]
    difference = Difference("migration-failed", None, *versions, str(error))
    verdict = Verdict("needs-migration", "LENS-C9", (difference,), None)
    return StateIncompatibilityError(run_id, verdict, saved=saved, current=current, place=place)


def _revived(message: str, facts: dict[str, Any]) -> StateIncompatibilityError:
    error = StateIncompatibilityError.__new__(StateIncompatibilityError, message)
    error.__dict__.update(facts)
    return error


def _names(manifest: JSONObject | None) -> tuple[str, ...]:
    return tuple(step["name"] for step in manifest["steps"]) if manifest else ()


def _stands_at(saved: JSONObject | None, place: Place) -> str | None:
    names = _names(saved)
    return place.waiting or (names[place.index] if 0 <= place.index < len(names) else None)


def _numbered(number: int, remedy: Remediation) -> list[str]:
    lines = [f"  {number}. {remedy.title}: {remedy.consequence}"]
    lines += [f"     {line}" for line in (remedy.code or "").split("\n") if line]
    return [*lines, *([f"     {_on_one_line(remedy.command)}"] if remedy.command else [])]


def _on_one_line(command: str) -> str:
    """A command on one line, with control characters as escapes, which every command decodes in ids."""
    shown = (one if one.isprintable() or one > "\uffff" else f"\\u{ord(one):04x}" for one in command)
    return "".join(shown)
