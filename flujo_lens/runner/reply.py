"""`Reply`: an answer, and the question that it is for."""

from __future__ import annotations

from typing import Any, NamedTuple

from flujo_lens.errors import NotWaitingError
from flujo_lens.runner.dsl import Pipeline
from flujo_lens.runner.results import PipelineResult
from flujo_lens.runner.stored_run import Stored, step_called

NO_ANSWER: Any = object()
"""Marks a missing answer, since None is a valid one."""


class Reply(NamedTuple):
    """An answer with the expected question, for resuming a run.

    Attributes:
        answer: The answer, or `NO_ANSWER`.
        seen: The run when the question was read; None if unknown.
        step: The step that must wait; None for any.
        question: The token of the question that was read (`PipelineResult.question`); None if unknown.
    """

    answer: Any = NO_ANSWER
    seen: PipelineResult[Any] | None = None
    step: str | None = None
    question: str | None = None

    @property
    def has_answer(self) -> bool:
        """Whether there is an answer."""
        return self.answer is not NO_ANSWER

    def check(self, stored: Stored, pipeline: Pipeline | None) -> None:
        """Check that a run waits for this reply; `pipeline` has aliases of its step.

        An answer without a question is accepted only for the first question of a run, where it is unambiguous.

        Raises:
            NotWaitingError: it does not wait for it.
        """
        if not self.has_answer and self.step is None and self.question is None:
            return
        if stored.status != "paused":
            raise NotWaitingError.of(stored.run_id, f"it is {stored.status}")
        waiting = _waiting_step(stored, pipeline)
        is_other = self.seen is not None and not _is_same(self.seen, stored)
        is_other |= self.question is not None and self.question not in stored.questions
        is_other |= self.step is not None and self.step not in _names(waiting, pipeline)
        if is_other:
            raise _another(stored, f"it now waits at {_quoted(waiting)}", waiting)
        names_it = self.seen is not None or self.step is not None or self.question is not None
        if not names_it and stored.has_answers(pipeline):
            raise _another(stored, f"it was answered, and now has another question at {_quoted(waiting)}", waiting)


def _is_same(seen: PipelineResult[Any], stored: Stored) -> bool:
    """Whether a result was read at the current question of the run."""
    if seen.question is not None:
        return seen.question in stored.questions
    done = sum(step.success is not False for step in seen.step_history)
    return (seen.paused_step, done) == (stored.summary.step_name, len(stored.done))


def _waiting_step(stored: Stored, pipeline: Pipeline | None) -> str | None:
    """The name of the step that asks: as it is stored, else the one of `pipeline` behind those that are done.

    Of a second question 0.4.35 stores no name.
    """
    if stored.summary.step_name is not None or pipeline is None:
        return stored.summary.step_name
    following = pipeline.steps[len(stored.done) : len(stored.done) + 1]
    return next((step.name for step in following), None)


def _quoted(step: str | None) -> str:
    return "a step without a name" if step is None else f'"{step}"'


def _another(stored: Stored, found: str, waiting: str | None) -> NotWaitingError:
    message = stored.summary.pause_message
    return NotWaitingError.of(stored.run_id, f"{found}: {message}" if message else found, stored.questions[0], waiting)


def _names(waiting: str | None, pipeline: Pipeline | None) -> set[str | None]:
    """The stored name `waiting` of a step, and its names in the code."""
    known = step_called(pipeline, waiting)
    return {waiting} if known is None else {waiting, known.name, *known.aliases}
