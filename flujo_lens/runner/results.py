"""Results of runs: `PipelineResult`, with a `StepResult` for each step."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from pydantic import BaseModel

ContextT = TypeVar("ContextT", bound="BaseModel")


@dataclass
class StepResult:
    """The result of a step: an entry of the saved ``step_history``.

    Attributes:
        name: The step.
        output: Its output; plain JSON data for a run loaded from a store.
        success: Whether it succeeded.
        attempts: Number of attempts, with those before the run was resumed.
        latency_s: Total seconds of all attempts, including the waits between them.
        token_counts: The ``token_counts`` of the output, if any.
        cost_usd: The ``cost_usd`` of the output, if any.
        feedback: The error of a failed step.
    """

    name: str
    output: Any = None
    success: bool = True
    attempts: int = 0
    latency_s: float = 0.0
    token_counts: int = 0
    cost_usd: float = 0.0
    feedback: str | None = None


@dataclass
class PipelineResult(Generic[ContextT]):
    """The result of a run up to its last stop.

    Attributes:
        run_id: The run.
        status: ``completed``, ``paused`` (waiting for a person), ``failed`` or ``cancelled``.
        step_history: The executed steps in order; the last one of a failed run has failed.
        final_pipeline_context: The context after the last step.
        output: The output of the last successful step.
        error: The error of a failed run.
        paused_step: The step that waits for a person.
        pause_message: The question.
        input_schema: The type of the answer; None if any answer is accepted.
        question: The token of this question: pass it with the answer if the result is not at hand, for example in a web
            form.
    """

    run_id: str
    status: str
    step_history: list[StepResult] = field(default_factory=list)
    final_pipeline_context: ContextT | None = None
    output: Any = None
    error: str | None = None
    paused_step: str | None = None
    pause_message: str | None = None
    input_schema: Any = None
    question: str | None = None

    @property
    def success(self) -> bool:
        """Whether the run is completed."""
        return self.status == "completed"

    @property
    def total_cost_usd(self) -> float:
        """The total cost of all steps."""
        return sum(step.cost_usd for step in self.step_history)

    @property
    def total_tokens(self) -> int:
        """The total tokens of all steps."""
        return sum(step.token_counts for step in self.step_history)


class ReadyResult(PipelineResult[ContextT], Coroutine[Any, Any, PipelineResult[ContextT]]):
    """A result that can be awaited, although it is already complete.

    So ``flujo.resume_async(paused, answer)`` works in a script with and without ``await``.
    """

    @classmethod
    def of(cls, result: PipelineResult[ContextT]) -> ReadyResult[ContextT]:
        """An awaitable copy of a result."""
        return cls(**vars(result))

    def __await__(self) -> Generator[Any, Any, PipelineResult[ContextT]]:
        return _given(self._plain()).__await__()

    def send(self, value: Any, /) -> Any:
        """Return the result at once."""
        raise StopIteration(self._plain())

    def throw(self, kind: Any, value: Any = None, traceback: TracebackType | None = None, /) -> Any:
        """Raise the exception."""
        raise kind if value is None else value

    def close(self) -> None:
        """Do nothing."""

    def _plain(self) -> PipelineResult[ContextT]:
        return PipelineResult(**vars(self))


async def _given(result: PipelineResult[ContextT]) -> PipelineResult[ContextT]:
    return result
