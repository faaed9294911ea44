"""`Reply`: a person's answer, and the question that it is meant for."""

from __future__ import annotations

from typing import Any, NamedTuple

from flujo_lens.errors import NotWaitingError
from flujo_lens.runner.dsl import Pipeline
from flujo_lens.runner.results import PipelineResult
from flujo_lens.runner.stored import Stored, step_called

__all__ = ["NO_ANSWER", "Reply"]

NO_ANSWER: Any = object()
"""None is an answer."""


class Reply(NamedTuple):
    """What goes with a run that goes on.

    Attributes:
        answer: The answer; `NO_ANSWER` where there is none.
        seen: The run as it stood when the question was read; None where nobody says.
        step: The step that has to wait; None for whichever does.
    """

    answer: Any = NO_ANSWER
    seen: PipelineResult[Any] | None = None
    step: str | None = None

    @property
    def has_answer(self) -> bool:
        """Whether there is an answer."""
        return self.answer is not NO_ANSWER

    def check(self, stored: Stored, pipeline: Pipeline | None) -> None:
        """See that a run waits for this reply, if it is for a question; `pipeline` tells other names of its step.

        Raises:
            NotWaitingError: it does not.
        """
        if not self.has_answer and self.step is None:
            return
        if stored.status != "paused":
            raise NotWaitingError.of(stored.run_id, f"it is {stored.status}")
        waiting = stored.summary.step_name
        is_other = self.seen is not None and _question(self.seen) != (waiting, len(stored.done))
        if is_other or (self.step is not None and self.step not in _names(waiting, pipeline)):
            raise NotWaitingError.of(stored.run_id, f'it waits at "{waiting}" by now')


def _question(seen: PipelineResult[Any]) -> tuple[str | None, int]:
    """By this a question is known: its step, and how many steps were done before it."""
    return seen.paused_step, sum(step.success is not False for step in seen.step_history)


def _names(waiting: str | None, pipeline: Pipeline | None) -> set[str | None]:
    """The names under which the code knows the step that is stored as `waiting`, and that one."""
    known = step_called(pipeline, waiting)
    return {waiting} if known is None else {waiting, known.name, *known.aliases}
