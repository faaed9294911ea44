"""The sample store: pipelines of a small company over the last days, with failures."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime, timedelta
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flujo_lens.errors import OperationFailedError, UsageError
from flujo_lens.operations.new_store import create_store

SAMPLE = "demo.json"
_CLOCK_ZERO = 86_400.0
"""Seconds on the monotonic clock of the simulated machine, two days ago."""


async def make_demo(path: Path, now: datetime) -> int:
    """Create a store at `path` from the sample in the package; return its number of runs.

    Times in the sample are relative to `now`. The file is created under a temporary name and renamed when complete.

    Raises:
        UsageError: `path` exists, or its folder does not.
        OperationFailedError: it cannot be written.
    """
    import orjson

    from flujo_lens.state.backends.sqlite import SQLiteBackend

    if os.path.lexists(path):
        raise UsageError(f"{path} already exists; nothing was changed", hint="lens demo OTHER.db")
    if not path.parent.is_dir():
        raise UsageError(f"no such folder: {path.parent}; nothing was changed", hint=f"mkdir -p {path.parent}")
    sample = orjson.loads(files("flujo_lens").joinpath("data", SAMPLE).read_bytes())
    # in a private folder, so that no other user can replace it with a link
    with _folder_in(path.parent) as folder:
        draft = Path(folder, path.name)
        async with SQLiteBackend(draft) as backend:
            await create_store(backend)
            for run in sample["runs"]:
                await _Run(run, now).save(backend)
            for row in sample["evaluations"]:
                await backend.persist_evaluation(**row)
            for key, value in sample["system"].items():
                await backend.set_system_state(key, value)
        draft.rename(path)
    return len(sample["runs"])


def _folder_in(parent: Path) -> TemporaryDirectory[str]:
    try:
        return TemporaryDirectory(prefix=".lens-demo-", dir=parent)
    except OSError as error:
        why = error.strerror or error
        raise OperationFailedError(f"cannot create a store in {parent}: {why}", hint="lens demo OTHER.db") from error


class _Run:
    """A run of the sample, expanded to what the library would have saved."""

    def __init__(self, run: Mapping[str, Any], now: datetime) -> None:
        self.run, self.now = run, now
        self.id = str(run["id"])
        self.start = now - timedelta(seconds=run["ago"])
        self.status = str(run["status"])
        self.steps: list[Mapping[str, Any]] = run["steps"]
        self.is_task = "parent" in run

    async def save(self, backend: Any) -> None:
        """Save run, steps, spans and state."""
        if not self.is_task:
            await backend.save_run_start(self._run_row())
            for index, step in enumerate(self._done()):
                await backend.save_step_result(self._step_row(index, step))
            if self.status != "running":
                await backend.save_spans(self.id, self._spans())
        await backend.save_state(self.id, self._state())

    def _done(self) -> list[Mapping[str, Any]]:
        return [step for step in self.steps if not step.get("waits")]

    def _end(self) -> datetime:
        return self.start + timedelta(milliseconds=sum(step["ms"] for step in self._done()) + 20)

    def _run_row(self) -> dict[str, Any]:
        disguised = {"paused": "completed", "cancelled": "completed"}
        return {
            "run_id": self.id,
            "pipeline_id": f"{self.run['pipeline']}-id",
            "pipeline_name": self.run["pipeline"],
            "pipeline_version": self.run["version"],
            "status": disguised.get(self.status, self.status),
            "created_at": self.start.isoformat(),
            "updated_at": (self.start if self.status == "running" else self._end()).isoformat(),
        }

    def _step_row(self, index: int, step: Mapping[str, Any]) -> dict[str, Any]:
        done = self.start + timedelta(milliseconds=sum(s["ms"] for s in self.steps[: index + 1]))
        return {
            "run_id": self.id,
            "step_name": step["name"],
            "step_index": index,
            "status": "failed" if "error" in step else "completed",
            "output": step.get("output"),
            "created_at": done.isoformat(),
        }

    def _history(self) -> list[dict[str, Any]]:
        return [
            {
                "name": step["name"],
                "output": step.get("output"),
                "success": "error" not in step,
                "attempts": step.get("attempts", 1),
                "latency_s": step["ms"] / 1000,
                "token_counts": step.get("tokens", 0),
                "cost_usd": step.get("cost", 0.0),
                "feedback": step.get("error"),
                "branch_context": None,
                "metadata_": {},
                "step_history": [],
            }
            for step in self._done()
        ]

    def _state(self) -> dict[str, Any]:
        saved = self._end().isoformat()
        waits = next((step for step in self.steps if step.get("waits")), None)
        context: dict[str, Any] = {"run_id": self.id, "initial_prompt": self.run.get("input"), "status": self.status}
        if waits is not None:
            context["current_step"] = waits["name"]
        if self.status == "paused" and waits is not None:
            context |= {"pause_message": waits["waits"], "hitl_data": {"last_hitl_step": waits["name"]}}
        done = self._done()
        return {
            "current_step_index": len(done),
            "pipeline_context": context,
            "last_step_output": done[-1].get("output") if done else None,
            "step_history": [] if self.is_task else self._history(),
            "status": "failed" if self.status == "cancelled" else self.status,
            "created_at": saved,
            "updated_at": saved,
            "metadata": {**self.run.get("metadata", {}), **self._task()},
            "is_background_task": self.is_task,
            "parent_run_id": self.run.get("parent"),
            "task_id": self._task().get("task_id"),
            "background_error": self._task().get("background_error"),
        }

    def _task(self) -> dict[str, Any]:
        if not self.is_task:
            return {}
        step = self.steps[0]
        task = {"is_background_task": True, "parent_run_id": self.run["parent"], "step_name": step["name"]}
        task["task_id"] = self.id.rpartition("_bg_")[2]
        return {**task, "background_error": step["error"]} if "error" in step else task

    def _spans(self) -> list[dict[str, Any]]:
        zero = _CLOCK_ZERO + 2 * 86_400 - float(self.run["ago"])
        attributes = {
            "flujo.input": self.run.get("input"),
            "flujo.run_id": self.id,
            "flujo.pipeline.name": self.run["pipeline"],
            "flujo.pipeline.version": self.run["version"],
        }
        root = _span(f"{self.id}:root", None, "pipeline_run", zero, zero, self.status, attributes)
        spans, clock = [root], zero + 0.002
        for index, step in enumerate(self.steps):
            made = _step_spans(f"{self.id}:{index}", root["span_id"], step, clock)
            spans += made
            clock = (made[0]["end_time"] or clock) + 0.001
        root["end_time"] = clock
        return spans


def _span(
    span_id: str, parent: str | None, name: str, start: float, end: float | None, status: str, attributes: Any
) -> dict[str, Any]:
    return {
        "span_id": span_id,
        "parent_span_id": parent,
        "name": name,
        "start_time": start,
        "end_time": end,
        "status": status,
        "attributes": attributes,
    }


def _step_spans(span_id: str, parent: str, step: Mapping[str, Any], start: float) -> list[dict[str, Any]]:
    """The span of a step and the spans of its parts, which divide its duration."""
    waits = bool(step.get("waits"))
    end = None if waits else start + step["ms"] / 1000
    status = "running" if waits else "failed" if "error" in step else "completed"
    attributes = {
        "flujo.step.type": "HumanInTheLoopStep" if waits else "Step",
        "step_input": step.get("input"),
        "success": status == "completed",
        "attempts": step.get("attempts", 1),
        "latency_s": step["ms"] / 1000,
        "flujo.budget.actual_cost_usd": step.get("cost", 0.0),
        "flujo.budget.actual_tokens": step.get("tokens", 0),
        **({"feedback": step["error"]} if "error" in step else {}),
    }
    spans = [_span(span_id, parent, step["name"], start, end, status, attributes)]
    clock = start
    for at, part in enumerate(step.get("parts", [])):
        spans += _step_spans(f"{span_id}.{at}", span_id, part, clock)
        clock += part["ms"] / 1000
    return spans
