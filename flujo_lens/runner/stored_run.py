"""`Stored`: a run loaded from a store."""

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
from flujo_lens.state.numbers import as_int
from flujo_lens.state.questions import question_of
from flujo_lens.state.resumable import done_before, stands_at
from flujo_lens.state.stripped import check_whole
from flujo_lens.state.views import RunSummary

if TYPE_CHECKING:
    from pydantic import BaseModel

_PLAIN = (str, int, float, list, dict)
"""Types of inputs whose texts are equal in every process."""

_log = logging.getLogger("flujo_lens")

_FIELDS = {each.name for each in fields(StepResult)}


@dataclass(frozen=True)
class Stored:
    """A loaded run.

    Attributes:
        state: The saved state.
        summary: The summary from the state and the history.
        listed: The summary in the store's lists, for a waiting run: they may use another zone for naive times.
    """

    state: JSONObject
    summary: RunSummary
    listed: RunSummary | None = None

    @property
    def questions(self) -> tuple[str, ...]:
        """The tokens of its current question; empty if it does not wait."""
        found = (question_of(each) for each in (self.listed, self.summary) if each is not None)
        return tuple(token for token in found if token is not None)

    def has_answers(self, pipeline: Pipeline | None) -> bool:
        """Whether a question was already answered; `pipeline` has the human steps."""
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
        """Its status; still ``running`` if its process died."""
        return self.summary.status

    @property
    def goes_on(self) -> bool:
        """Whether it can resume without an answer."""
        return self.status in ("running", "failed")

    @property
    def context(self) -> JSONObject:
        """The saved context, with the runner's notes."""
        found = self.state.get("pipeline_context")
        return found if isinstance(found, dict) else {}

    @property
    def done(self) -> list[JSONObject]:
        """The successful entries of the step history in order; for a failed run, those before the failure."""
        status = "running" if self.status == "paused" else self.status
        return done_before(status, self._history)

    def tries_of(self, name: str) -> int:
        """How often the step at which the run failed was tried, if it has this name; else 0."""
        last = self._history[-1] if self.status == "failed" and self._history else {}
        return as_int(last.get("attempts")) or 0 if last.get("name") == name and not last.get("success") else 0

    @property
    def _history(self) -> list[JSONObject]:
        history = self.state.get("step_history")
        return [entry for entry in (history if isinstance(history, list) else []) if isinstance(entry, dict)]

    @property
    def whole_context(self) -> JSONObject:
        """The saved context; for a killed run of 0.6.11, which saves only notes during a run, that of its last step."""
        if "hitl_data" in self.context or "scratchpad" in self.context:
            return self.context
        kept = (entry.get("branch_context") for entry in reversed(self._history))
        last = next((context for context in kept if isinstance(context, dict) and context), None)
        return self.context if last is None else {**last, "run_id": self.run_id}

    @property
    def began(self) -> datetime:
        """The start of the run."""
        return self.summary.created_at or datetime.now(UTC)

    def compare_input(self, given: Any) -> None:
        """Log a warning if `given` differs from the input of the run in its context."""
        begun = self.context.get("initial_prompt")
        if isinstance(given, _PLAIN) and isinstance(begun, str) and str(given) != begun:
            _log.warning("%s resumes with its stored input, which differs from the given one", self.run_id)

    def place(self) -> Place:
        """Its position, for the comparison of manifests."""
        names = tuple(str(entry.get("name")) for entry in done_before(self.status, self._history))
        stored = self.summary.current_step_index or 0
        index = len(names) if self.status == "failed" else stored
        waiting = stands_at(self.status, self.summary.step_name, self.context, names)
        return Place(self.status, index, waiting, names, self.summary.pipeline_version)

    def value(self, fallback: Any) -> Any:
        """The input of the next step as plain data: the last output, or the input of the run."""
        last = self.state.get("last_step_output")
        if last is None and self.done:
            return self.done[-1].get("output")
        if last is None and fallback is None:
            return self.context.get("initial_prompt")
        return fallback if last is None else last

    def results(self) -> list[StepResult]:
        """The results of the executed steps, with outputs as plain data."""
        return [_result(entry) for entry in self._history]

    def result(self, model: type[BaseModel], pipeline: Pipeline | None) -> PipelineResult[Any]:
        """The result of a run that is not resumed.

        Args:
            model: The type of the context.
            pipeline: The code, if known, with the types of the output and the answer.
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
    """Load a run; None if it has no state. Writes nothing."""
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
        # the library has it only in its spans
        summary = next(iter(await backend.read_summaries([run_id])), summary)
    return Stored(state, summary)


async def load_whole(backend: StateBackend, run_id: str) -> Stored | None:
    """Load a run to resume it, or for its results; None if it has no state. Writes nothing.

    Raises:
        StrippedRunError: its outputs or its state were dropped.
    """
    stored = await load(backend, run_id)
    if stored is not None:
        check_whole(run_id, await backend.read_stripped([run_id]))
    return stored


def step_called(pipeline: Pipeline | None, name: str | None) -> Step | None:
    """The step with this name or alias, or None."""
    steps = pipeline.steps if pipeline else ()
    return next((step for step in steps if name in (step.name, *step.aliases)), None)


def _result(entry: Mapping[str, Any]) -> StepResult:
    known = {name: value for name, value in entry.items() if name in _FIELDS}
    return StepResult(**{"name": "unknown", **known})
