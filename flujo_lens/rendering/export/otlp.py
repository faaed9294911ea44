"""OTLP/JSON, as OpenTelemetry collectors and the OpenTelemetry proto's own readers take it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from flujo_lens.rendering.export.plain_values import json_of, plain_text
from flujo_lens.rendering.export.timeline import TimedSpan, Timeline

_INTERNAL = 1
_OK, _ERROR = 1, 2
_DEEPEST = 20
"""Levels of nested values; readers of the protocol refuse messages over 100 levels, of which a value takes three."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def otlp_document(timeline: Timeline) -> bytes:
    """The spans as one document of ``resourceSpans``.

    Ids of spans are their own if they have 16 hexadecimal digits, else derived from them. Times count from 1970, or
    from the start of the run if that is unknown; the attribute ``lens.time_of_day`` says which.
    """
    trace_id = _trace_id(timeline)
    ids = _span_ids(timeline, trace_id)
    zero = 0 if timeline.started_at is None else (timeline.started_at - _EPOCH) // timedelta(microseconds=1) * 1000
    spans = [_span(timeline, at, trace_id, ids, zero) for at in range(len(timeline.spans))]
    scope = {"scope": {"name": "flujo_lens"}, "spans": spans}
    return json_of({"resourceSpans": [{"resource": {"attributes": _resource(timeline)}, "scopeSpans": [scope]}]})


def _trace_id(timeline: Timeline) -> str:
    return hashlib.sha256(f"trace {timeline.title}".encode()).hexdigest()[:32]


def _span_ids(timeline: Timeline, trace_id: str) -> list[str]:
    """An id of 16 hexadecimal digits for each span, all different."""
    taken: set[str] = set()
    made: list[str] = []
    for at, span in enumerate(timeline.spans):
        own = span.span_id
        if not re.fullmatch("[0-9a-f]{16}", own) or own == "0" * 16:
            own = hashlib.sha256(f"{trace_id} {own}".encode()).hexdigest()[:16]
        while own in taken:
            own = hashlib.sha256(f"{trace_id} {own} {at}".encode()).hexdigest()[:16]
        taken.add(own)
        made.append(own)
    return made


def _resource(timeline: Timeline) -> list[dict[str, Any]]:
    run = timeline.run
    known: dict[str, Any] = {"lens.time_of_day": timeline.started_at is not None}
    if run is not None:
        known |= {
            "service.name": run.pipeline_name,
            "service.version": run.pipeline_version,
            "lens.run_id": run.run_id,
            "lens.run_status": run.status,
        }
    known.setdefault("service.name", "flujo")
    return list(_attributes({key: plain_text(v) if isinstance(v, str) else v for key, v in known.items()}))


def _span(timeline: Timeline, at: int, trace_id: str, ids: list[str], zero: int) -> dict[str, Any]:
    span = timeline.spans[at]
    made: dict[str, Any] = {"traceId": trace_id, "spanId": ids[at]}
    if span.parent is not None:
        made["parentSpanId"] = ids[span.parent]
    return made | {
        "name": span.name,
        "kind": _INTERNAL,
        "startTimeUnixNano": str(zero + span.start),
        "endTimeUnixNano": str(zero + span.end),
        "attributes": [*_attributes(span.attributes), *_attributes(_own(span))],
        "status": _status(span),
    }


def _own(span: TimedSpan) -> dict[str, Any]:
    """What OTLP has no field for; `trace --file` reads it back."""
    made: dict[str, Any] = {"lens.span_id": span.span_id, "lens.status": span.status}
    return made | {"lens.unfinished": True} if span.unfinished else made


def _status(span: TimedSpan) -> dict[str, Any]:
    if span.status == "failed":
        return {"code": _ERROR, "message": span.error} if span.error else {"code": _ERROR}
    return {"code": _OK} if span.status == "completed" else {}


def _attributes(values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    return ({"key": key, "value": _value(value, 1)} for key, value in values.items())


def _value(value: Any, depth: int) -> dict[str, Any]:
    if value is None:
        return {}
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, str):
        return {"stringValue": value}
    if depth > _DEEPEST:
        return {"stringValue": json_of(value).decode()}
    if isinstance(value, list):
        return {"arrayValue": {"values": [_value(item, depth + 1) for item in value]}}
    pairs = [{"key": key, "value": _value(item, depth + 1)} for key, item in value.items()]
    return {"kvlistValue": {"values": pairs}}
