"""The spans of a run: a root span, with a child for each executed step and each question.

Times are in seconds since 1970. The ids of the root span and of questions are derived from the run, so that another
process that resumes it can end the spans.
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

JSONObject = dict[str, Any]

_SPACE = uuid.UUID("6c656e73-0000-4000-8000-72756e6e6572")
_LONGEST = 1000
"""Maximum length of an input in a span; the step history has the whole."""

_MEASURES = ("success", "attempts", "latency_s", "cost_usd", "token_counts", "feedback")


def root(record: Record[Any]) -> JSONObject:
    """The root span."""
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
    """The span of the last executed step of `record`; `entry` is its entry in the history."""
    return _below(record, secrets.token_hex(16), entry["name"], began, entry, "Step")


def of_question(record: Record[Any], entry: JSONObject | None) -> JSONObject:
    """The span of the current question of `record`; `entry` is the entry of its answer, if any."""
    at = len(record.history) - (entry is not None)
    began = record.asked_at or time.time()
    return _below(record, _id(record.run_id, str(at)), record.step.name, began, entry, "HumanInTheLoopStep")


def as_text(value: Any) -> str:
    """Plain data as a text: itself, or JSON."""
    return value if isinstance(value, str) else safe_dumps(value).decode()


def _below(
    record: Record[Any], span_id: str, name: str, began: float, entry: JSONObject | None, kind: str
) -> JSONObject:
    """A child of the root span, made while the record is at its step, whose input is `record.value`."""
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
