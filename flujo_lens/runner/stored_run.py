"""`Stored`: a run as the store has it, before anything is done with it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from flujo_lens.errors import NotSupportedError
from flujo_lens.runner.context import peek_context
from flujo_lens.runner.dsl import HUMAN, Pipeline, Step
from flujo_lens.runner.results import PipelineResult, StepResult
from flujo_lens.runner.value_checks import restored
from flujo_lens.runner.verdicts import Place
from flujo_lens.state.backends.base import JSONObject, StateBackend
from flujo_lens.state.interpret import raw_from_documents, summarise
from flujo_lens.state.questions import question_of
from flujo_lens.state.resumable import done_before, stands_at
from flujo_lens.state.views import RunSummary

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["Stored", "load", "step_called"]

_PLAIN = (str, int, float, list, dict)
"""Inputs whose texts are the same in every process."""

_log = logging.getLogger("flujo_lens")

_FIELDS = {each.name for each in fields(StepResult)}


@dataclass(frozen=True)
class Stored:
    """A run that was loaded.

    Attributes:
        state: Its saved document.
        summary: What that and the run's history mean.
        listed: The same as the store's lists have it, of one that waits: of a store whose times have no zone they may
            read them in another.
    """

    state: JSONObject
    summary: RunSummary
    listed: RunSummary | None = None

    @property
    def questions(self) -> tuple[str, ...]:
        """The tokens of the question with which it waits; none if it does not."""
        found = (question_of(each) for each in (self.listed, self.summary) if each is not None)
        return tuple(token for token in found if token is not None)

    def has_answers(self, pipeline: Pipeline | None) -> bool:
        """Whether a person has answered a question of it already; `pipeline` tells which of its steps ask."""
        if self.context.get("hitl_history"):
            return True
        steps = (step_called(pipeline, str(entry.get("name"))) for entry in self.done)
        return any(step is not None and step.kind == HUMAN for step in steps)

    @property
    def run_id(self) -> str:
        """The run."""
        return self.summary.run_id

    @property
    def status(self) -> str:
        """Where it stands; that of a run whose process died is still ``running``."""
        return self.summary.status

    @property
    def goes_on(self) -> bool:
        """Whether it may go on without a person."""
        return self.status in ("running", "failed")

    @property
    def context(self) -> JSONObject:
        """The saved context, with the runner's notes."""
        found = self.state.get("pipeline_context")
        return found if isinstance(found, dict) else {}

    @property
    def done(self) -> list[JSONObject]:
        """The entries of the step history that succeeded, in order; of a run that failed those before it did."""
        status = "running" if self.status == "paused" else self.status
        return done_before(status, self._history)

    @property
    def _history(self) -> list[JSONObject]:
        history = self.state.get("step_history")
        return [entry for entry in (history if isinstance(history, list) else []) if isinstance(entry, dict)]

    @property
    def whole_context(self) -> JSONObject:
        """The saved context; of a killed run of 0.6.11, which saves but notes while it runs, that of its last step."""
        if "hitl_data" in self.context or "scratchpad" in self.context:
            return self.context
        kept = (entry.get("branch_context") for entry in reversed(self._history))
        last = next((context for context in kept if isinstance(context, dict) and context), None)
        return self.context if last is None else {**last, "run_id": self.run_id}

    @property
    def began(self) -> datetime:
        """When it was started."""
        return self.summary.created_at or datetime.now(UTC)

    def compare_input(self, given: Any) -> None:
        """Log a warning if the run was begun with another input than is given now, as far as its context tells."""
        begun = self.context.get("initial_prompt")
        if isinstance(given, _PLAIN) and isinstance(begun, str) and str(given) != begun:
            _log.warning("%s goes on with the input that it began with; the one given now is another", self.run_id)

    def place(self) -> Place:
        """Where it stands, for the comparison of its shape with that of the code."""
        names = tuple(str(entry.get("name")) for entry in done_before(self.status, self._history))
        stored = self.summary.current_step_index or 0
        index = len(names) if self.status == "failed" else stored
        waiting = stands_at(self.status, self.summary.step_name, self.context, names)
        return Place(self.status, index, waiting, names, self.summary.pipeline_version)

    def value(self, fallback: Any) -> Any:
        """What the next step gets, in plain data: the last output; before the first step, the input of the run."""
        last = self.state.get("last_step_output")
        if last is None and self.done:
            return self.done[-1].get("output")
        if last is None and fallback is None:
            return self.context.get("initial_prompt")
        return fallback if last is None else last

    def results(self) -> list[StepResult]:
        """The steps that ran, with outputs in plain data."""
        return [_result(entry) for entry in self._history]

    def result(self, model: type[BaseModel], pipeline: Pipeline | None) -> PipelineResult[Any]:
        """The run as a caller gets it who does not make it go on.

        Args:
            model: The type of the context.
            pipeline: The code, where it is known: it tells the type of the output and of an answer.
        """
        history = self.results()
        last = step_called(pipeline, history[-1].name) if history else None
        waits = step_called(pipeline, self.summary.step_name) if self.status == "paused" else None
        output = self.state.get("last_step_output")
        return PipelineResult(
            run_id=self.run_id,
            status=self.status,
            step_history=history,
            final_pipeline_context=peek_context(self.context, model, self.run_id),
            output=restored(output, last.output_type) if last and history[-1].success else output,
            error=self.summary.error_message,
            paused_step=self.summary.step_name if self.status == "paused" else None,
            pause_message=self.summary.pause_message,
            input_schema=waits.input_schema if waits else None,
            question=next(iter(self.questions), None),
        )


async def load(backend: StateBackend, run_id: str) -> Stored | None:
    """The run as the store has it, or None if it has no state of it. Nothing is written."""
    state = await backend.load_state(run_id)
    if state is None:
        return None
    try:
        run = await backend.get_run_details(run_id)
    except NotSupportedError:
        run = None
    summary = summarise(raw_from_documents(run_id, state, run))
    if summary.status == "paused":
        listed = next(iter(await backend.read_summaries([run_id])), summary)
        return Stored(state, listed if summary.step_name is None else summary, listed)
    if summary.step_name is None and summary.status not in ("completed", "cancelled"):
        # The library tells it in its spans alone.
        summary = next(iter(await backend.read_summaries([run_id])), summary)
    return Stored(state, summary)


def step_called(pipeline: Pipeline | None, name: str | None) -> Step | None:
    """The step of that name, or that had it before; None if there is none."""
    steps = pipeline.steps if pipeline else ()
    return next((step for step in steps if name in (step.name, *step.aliases)), None)


def _result(entry: Mapping[str, Any]) -> StepResult:
    known = {name: value for name, value in entry.items() if name in _FIELDS}
    return StepResult(**{"name": "unknown", **known})
