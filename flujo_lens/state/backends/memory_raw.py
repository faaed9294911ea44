"""A run out of what `InMemoryBackend` keeps of it, for the rules that all drivers share."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from flujo_lens.serialization import safe_dumps
from flujo_lens.state import interpret
from flujo_lens.state.backends.base import JSONObject
from flujo_lens.state.backends.vocabulary import last_update

__all__ = ["last_update_of", "raw_of"]

_STATE_TIMES = ("created_at", "updated_at")
_RUN_TIMES = ("created_at", "updated_at", "end_time")


def raw_of(
    run_id: str,
    state: JSONObject | None,
    row: JSONObject | None,
    spans: Sequence[JSONObject],
    steps: Sequence[JSONObject],
) -> interpret.RawRun:
    """The run; spans and steps in the order in which they were saved."""
    raw = interpret.raw_from_documents(run_id, state, row)
    raw.root_attributes = next((s["attributes"] for s in spans if s["parent_span_id"] is None), None)
    unended = [s for s in spans if s["end_time"] is None and s["parent_span_id"] is not None]
    raw.open_span = max(unended, key=lambda s: s["start_time"] or 0.0)["name"] if unended else None
    failed = [step for step in steps if step["status"] == "failed"]
    if failed:
        raw.failed_step, raw.failed_step_error = failed[-1]["step_name"], safe_dumps(failed[-1].get("error"))
    return raw


def last_update_of(state: JSONObject, row: JSONObject) -> datetime | None:
    """The newest of a run's times; None, which is never old, if there is none or one cannot be read."""
    return last_update([state.get(name) for name in _STATE_TIMES], [row.get(name) for name in _RUN_TIMES])
