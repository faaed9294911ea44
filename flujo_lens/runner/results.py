"""What a run gives back: `PipelineResult`, and `StepResult` for each of its steps."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["ContextT", "PipelineResult", "ReadyResult", "StepResult"]

ContextT = TypeVar("ContextT", bound="BaseModel")


@dataclass
class StepResult:
    """One step that ran: an entry of the saved ``step_history``.

    Attributes:
        name: The step.
        output: What it returned; of a run that was loaded from a store, in plain JSON data.
        success: Whether it did.
        attempts: How often it was tried.
        latency_s: Seconds that the tries took together, with the waits between them.
        token_counts: The output's own ``token_counts``, if it has any.
        cost_usd: The output's own ``cost_usd``, if it has any.
        feedback: Why it failed.
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
    """How a run stands.

    Attributes:
        run_id: The run.
        status: ``completed``, ``paused`` (a person is waited for), ``failed`` or ``cancelled``.
        step_history: The steps that ran, in order; of a failed run the last one failed.
        final_pipeline_context: The context as the last step left it.
        output: What the last step that succeeded returned, which is what the next one would get.
        error: Why the run failed.
        paused_step: The step that waits for a person.
        pause_message: What the person is asked.
        input_schema: The type that the answer is checked against; None if any will do.
        question: What tells this question from every other one, of the same step too: to be given back with the
            answer where the result itself is not at hand, as behind a web form.
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
        """What all its steps cost."""
        return sum(step.cost_usd for step in self.step_history)

    @property
    def total_tokens(self) -> int:
        """The tokens of all its steps."""
        return sum(step.token_counts for step in self.step_history)


class ReadyResult(PipelineResult[ContextT], Coroutine[Any, Any, PipelineResult[ContextT]]):
    """A result that may be awaited too: what was asked for outside of an event loop is there already.

    So ``flujo.resume_async(paused, answer)`` does what it says whether or not a script awaits it.
    """

    @classmethod
    def of(cls, result: PipelineResult[ContextT]) -> ReadyResult[ContextT]:
        """The same result, to be awaited."""
        return cls(**vars(result))

    def __await__(self) -> Generator[Any, Any, PipelineResult[ContextT]]:
        return _given(self._plain()).__await__()

    def send(self, value: Any, /) -> Any:
        """End at once with the result."""
        raise StopIteration(self._plain())

    def throw(self, kind: Any, value: Any = None, traceback: TracebackType | None = None, /) -> Any:
        """Raise what is thrown: nothing is under way that could catch it."""
        raise kind if value is None else value

    def close(self) -> None:
        """Nothing is under way."""

    def _plain(self) -> PipelineResult[ContextT]:
        return PipelineResult(**vars(self))


async def _given(result: PipelineResult[ContextT]) -> PipelineResult[ContextT]:
    return result
