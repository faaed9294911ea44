"""`Record`: a run in progress, and the documents to save for it; `execution` saves them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Generic, NamedTuple

from flujo_lens.runner import spans
from flujo_lens.runner.context import HumanInteraction, dump_context
from flujo_lens.runner.dsl import Pipeline, Step
from flujo_lens.runner.results import ContextT, PipelineResult, StepResult
from flujo_lens.runner.spans import as_text
from flujo_lens.serialization import PlainList, safe_serialize
from flujo_lens.state.claims import Progress
from flujo_lens.state.questions import token_of

JSONObject = dict[str, Any]


def new_run_id() -> str:
    """A new run id."""
    return f"run_{uuid.uuid4().hex}"


class Mark(NamedTuple):
    """A snapshot of the position of a record."""

    context: Any
    value: Any
    saved_value: Any
    at: int
    status: str
    results: int
    entries: int


@dataclass
class Record(Generic[ContextT]):
    """A run in progress.

    Attributes:
        name: The name of its pipeline.
        version: The version of its pipeline.
        value: The input of the next step: the output of the last successful step, or the input of the run.
        index: The index of the next step in `pipeline`.
        results: The results of the executed steps, with their original outputs.
        history: The saved entries of the executed steps, in order; entries do not change.
        status: ``running``, ``paused``, ``completed`` or ``failed``.
        error: The error of a failed run.
        asked: The current question of a paused run.
        asked_at: The time of the question.
        began: The start of the run.
        kept: The loaded state, whose fields of others are kept.
        saved_at: The time of the last stop.
        carried: Fields of the loaded context that are not in the model, and are kept.
        tried: Attempts of the step at which the loaded run failed, by its index; they count as attempts of that step.
    """

    run_id: str
    name: str
    version: str
    pipeline: Pipeline
    context: ContextT
    value: Any
    index: int = 0
    results: list[StepResult] = field(default_factory=list)
    history: PlainList = field(default_factory=PlainList)
    status: str = "running"
    error: str | None = None
    asked: str | None = None
    asked_at: float | None = None
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    kept: JSONObject = field(default_factory=dict)
    carried: JSONObject = field(default_factory=dict)
    tried: dict[int, int] = field(default_factory=dict)
    saved_value: Any = None
    saved_at: str | None = None

    @property
    def step(self) -> Step:
        """The next step."""
        return self.pipeline.steps[self.index]

    @property
    def is_done(self) -> bool:
        """Whether there is no next step."""
        return self.index >= len(self.pipeline.steps)

    # --- transitions; each returns the progress to save

    def begin(self, digest: str | None) -> Progress:
        """Start or resume; `digest` is that of the manifest of the pipeline."""
        self.status, self.error = "running", None
        self.saved_value = safe_serialize(self.value)
        start = {
            "run_id": self.run_id,
            "pipeline_id": self.name,
            "pipeline_name": self.name,
            "pipeline_version": self.version,
            "status": self.status,
            "created_at": self.began.isoformat(),
            "updated_at": _now(),
            "total_steps": len(self.pipeline.steps),
        }
        return self._progress(run_start=start, spans=(spans.root(self),), manifest=digest)

    def succeed(self, result: StepResult, began: float) -> Progress:
        """The next step, started at `began`, succeeded."""
        entry = self._add(self._counted(result))
        row, span = self._row(entry), spans.of_step(self, entry, began)
        return self._advanced(result.output, entry, row, span)

    def fail(self, result: StepResult, began: float) -> Progress:
        """The next step and the run failed."""
        entry = self._add(self._counted(result))
        self.status, self.error = "failed", result.feedback
        return self._ended(self._row(entry), spans.of_step(self, entry, began))

    def pause(self) -> Progress:
        """The next step waits for a person."""
        step = self.step
        self.status = "paused"
        self.asked = step.message_for_user if step.message_for_user is not None else as_text(self.saved_value)
        self.asked_at = time.time()
        return self._ended(None, spans.of_question(self, None))

    def answer(self, response: Any) -> Progress:
        """The question of the next step was answered."""
        history = getattr(self.context, "hitl_history", None)
        if isinstance(history, list):
            history.append(HumanInteraction(message_to_human=self.asked or "", human_response=response))
        entry = self._add(StepResult(self.step.name, response, attempts=1))
        row, span = self._row(entry), spans.of_question(self, entry)
        self.status, self.asked, self.asked_at = "running", None, None
        return self._advanced(response, entry, row, span)

    # --- rollback

    def mark(self) -> Mark:
        """A snapshot for `back_to`."""
        sizes = len(self.results), len(self.history)
        return Mark(self.context, self.value, self.saved_value, self.index, self.status, *sizes)

    def back_to(self, mark: Mark) -> None:
        """Return to a snapshot, since the step after it was not saved."""
        self.context, self.value, self.saved_value, self.index, self.status, results, entries = mark
        del self.results[results:]
        del self.history[entries:]

    # --- documents

    def result(self) -> PipelineResult[ContextT]:
        """The result for the caller."""
        waits = self.status == "paused"
        return PipelineResult(
            run_id=self.run_id,
            status=self.status,
            step_history=list(self.results),
            final_pipeline_context=self.context,
            output=self.value,
            error=self.error,
            paused_step=self.step.name if waits else None,
            pause_message=self.asked if waits else None,
            input_schema=self.step.input_schema if waits else None,
            question=self._question() if waits else None,
        )

    def _question(self) -> str:
        return token_of(self.run_id, self.index, datetime.fromisoformat(self.saved_at) if self.saved_at else None)

    def _counted(self, result: StepResult) -> StepResult:
        """The result of the next step, with the attempts before the run was resumed."""
        return replace(result, attempts=result.attempts + self.tried.get(self.index, 0))

    def _add(self, result: StepResult) -> JSONObject:
        entry: JSONObject = safe_serialize(vars(result))
        self.results.append(result)
        self.history.append(entry)
        return entry

    def _advanced(self, output: Any, entry: JSONObject, row: JSONObject, span: JSONObject) -> Progress:
        self.value, self.saved_value = output, entry["output"]
        self.index += 1
        if not self.is_done:
            return self._progress(step=row, spans=(span,))
        self.status = "completed"
        return self._ended(row, span)

    def _row(self, entry: JSONObject) -> JSONObject:
        """The row of ``steps`` for the last entry, which for the first step has the only copy of its input."""
        at = len(self.history) - 1
        return {
            "run_id": self.run_id,
            "step_name": entry["name"],
            "step_index": at,
            "status": "completed" if entry["success"] else "failed",
            "output": entry["output"],
            "error": entry["feedback"],
            "cost_usd": entry["cost_usd"],
            "token_counts": entry["token_counts"],
            "execution_time_ms": round(entry["latency_s"] * 1000, 3),
            "created_at": _now(),
            "input": self.saved_value if at == 0 else None,
        }

    def _ended(self, step: JSONObject | None, span: JSONObject) -> Progress:
        """The progress of a run that has stopped."""
        self.saved_at = now = _now()
        end = {
            "status": self.status,
            "updated_at": now,
            "end_time": now,
            "total_cost": sum(cost for entry in self.history if isinstance(cost := entry.get("cost_usd"), int | float)),
            "total_steps": len(self.pipeline.steps),
            "error_message": self.error,
        }
        return self._progress(step=step, spans=(span, spans.root(self)), run_end=end)

    def _progress(
        self,
        *,
        run_start: JSONObject | None = None,
        step: JSONObject | None = None,
        spans: Sequence[JSONObject] = (),
        run_end: JSONObject | None = None,
        manifest: str | None = None,
    ) -> Progress:
        return Progress(self.run_id, self._state(), run_start, step, spans, run_end, manifest)

    def _state(self) -> JSONObject:
        own = {
            "run_id": self.run_id,
            "pipeline_id": self.name,
            "pipeline_name": self.name,
            "pipeline_version": self.version,
            "current_step_index": self.index,
            "pipeline_context": {**self.carried, **dump_context(self.context, self._notes())},
            "last_step_output": self.saved_value,
            "step_history": self.history,
            "status": self.status,
            "created_at": self.began.isoformat(),
            "updated_at": _now() if self.status == "running" else self.saved_at,
            "total_steps": len(self.pipeline.steps),
            "error_message": self.error,
        }
        return {**self.kept, **own}

    def _notes(self) -> JSONObject:
        notes: JSONObject = {"status": self.status, "current_step": None if self.is_done else self.step.name}
        if self.status == "paused":
            notes |= {"pause_message": self.asked, "hitl_data": {"last_hitl_step": self.step.name}}
        return notes


def _now() -> str:
    return datetime.now(UTC).isoformat()
