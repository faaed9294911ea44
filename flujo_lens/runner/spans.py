"""The spans of a run: one of the run itself, and below it one for each step that ran and each question that was asked.

Times are in seconds since 1970. The span of a run and those of its questions have ids that follow from the run, so
that whoever goes on with it ends the spans that another process began.
"""

from __future__ import annotations

import secrets
import time
import uuid
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from flujo_lens.serialization import safe_dumps

if TYPE_CHECKING:
    from flujo_lens.runner.run_record import Record

__all__ = ["as_text", "of_question", "of_step", "root"]

JSONObject = dict[str, Any]

_SPACE = uuid.UUID("6c656e73-0000-4000-8000-72756e6e6572")
_LONGEST = 1000
"""Characters of an input that a span shows; the whole is in the step history."""

_MEASURES = ("success", "attempts", "latency_s", "cost_usd", "token_counts", "feedback")


def root(record: Record[Any]) -> JSONObject:
    """The span of the run itself."""
    attributes = {
        "flujo.run_id": record.run_id,
        "flujo.pipeline.name": record.name,
        "flujo.pipeline.version": record.version,
    }
    ended = record.status != "running"
    return {
        "span_id": _id(record.run_id),
        "parent_span_id": None,
        "name": "pipeline_run",
        "start_time": record.began.timestamp(),
        "end_time": time.time() if ended else None,
        "status": record.status,
        "attributes": attributes,
    }


def of_step(record: Record[Any], entry: JSONObject, began: float) -> JSONObject:
    """The span of the step of `record` that ran last; `entry` is what the history says of it."""
    return _below(record, secrets.token_hex(16), entry["name"], began, entry, "Step")


def of_question(record: Record[Any], entry: JSONObject | None) -> JSONObject:
    """The span of the question that `record` is at; `entry` is what the history says of the answer, if there is one."""
    at = len(record.history) - (entry is not None)
    began = record.asked_at or time.time()
    return _below(record, _id(record.run_id, str(at)), record.step.name, began, entry, "HumanInTheLoopStep")


def as_text(value: Any) -> str:
    """Plain data as a text: itself, or JSON."""
    return value if isinstance(value, str) else safe_dumps(value).decode()


def _below(
    record: Record[Any], span_id: str, name: str, began: float, entry: JSONObject | None, kind: str
) -> JSONObject:
    """A span below that of the run. It stands at its step still: the step's input is the value to be passed on."""
    given = as_text(record.saved_value)
    shown = given if len(given) <= _LONGEST else f"{given[:_LONGEST]}…"
    measured = {} if entry is None else {name: entry[name] for name in _MEASURES}
    return {
        "span_id": span_id,
        "parent_span_id": _id(record.run_id),
        "name": name,
        "start_time": began,
        "end_time": None if entry is None else time.time(),
        "status": "paused" if entry is None else "completed" if entry["success"] else "failed",
        "attributes": {"step_type": kind, "step_input": shown, **measured},
    }


@lru_cache(maxsize=64)
def _id(*parts: str) -> str:
    return uuid.uuid5(_SPACE, "\0".join(parts)).hex
