"""Chrome trace JSON, for Perfetto and chrome://tracing.

Spans are complete events (``X``), in microseconds from the start of the run: since 1970, a double would move in steps
of 256 ns. Spans that overlap have lanes (threads) of their own, since both viewers expect those of one thread to nest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flujo_lens.rendering.export.lanes import assign_lanes, drawing_order
from flujo_lens.rendering.export.plain_values import json_of, plain_text
from flujo_lens.rendering.export.timeline import TimedSpan, Timeline
from flujo_lens.rendering.json_text import utc

_PROCESS = 1


def chrome_trace(timeline: Timeline) -> bytes:
    """The spans as a document that Perfetto opens without a dropped span."""
    return json_of(
        {"traceEvents": list(_events(timeline)), "displayTimeUnit": "ms", "otherData": _other_data(timeline)}
    )


def _events(timeline: Timeline) -> Iterator[dict[str, Any]]:
    lanes = assign_lanes(timeline.spans)
    yield _name("process_name", 1, timeline.title)
    for lane in range(max(lanes, default=-1) + 1):
        yield _name("thread_name", lane + 1, "spans" if lane == 0 else f"parallel {lane}")
    for at in drawing_order(timeline.spans):
        yield _event(timeline, timeline.spans[at], lanes[at] + 1)


def _name(what: str, lane: int, text: str) -> dict[str, Any]:
    return {"name": what, "cat": "__metadata", "ph": "M", "ts": 0, "pid": _PROCESS, "tid": lane, "args": {"name": text}}


def _event(timeline: Timeline, span: TimedSpan, lane: int) -> dict[str, Any]:
    args: dict[str, Any] = {"status": span.status, "span_id": span.span_id}
    if span.parent is not None:
        args["parent_span_id"] = timeline.spans[span.parent].span_id
    if span.error:
        args["error"] = span.error
    if span.unfinished:
        args["unfinished"] = True
    if span.attributes:
        args["attributes"] = span.attributes
    return {
        "name": span.name,
        "cat": span.status,
        "ph": "X",
        "ts": span.start / 1000,
        "dur": (span.end - span.start) / 1000,
        "pid": _PROCESS,
        "tid": lane,
        "args": args,
    }


def _other_data(timeline: Timeline) -> dict[str, str]:
    run, made = timeline.run, {}
    if run is not None:
        made = {
            "run_id": run.run_id,
            "pipeline_name": run.pipeline_name,
            "pipeline_version": run.pipeline_version,
            "status": run.status,
        }
    if timeline.started_at is not None:
        made["started_at"] = utc(timeline.started_at)
    return {key: plain_text(value) for key, value in made.items()}
