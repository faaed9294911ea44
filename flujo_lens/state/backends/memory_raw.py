"""A run out of what `InMemoryBackend` keeps of it, for the rules that all drivers share."""

from __future__ import annotations

from collections.abc import Sequence

from flujo_lens.serialization import safe_dumps
from flujo_lens.state import interpret
from flujo_lens.state.backends.base import JSONObject

__all__ = ["raw_of"]


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
