"""Reading Chrome traces and OTLP/JSON: those that lens exports, and those of other tools."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from flujo_lens.operations.trace import Trace
from flujo_lens.state.timestamps import parse_instant
from flujo_lens.state.traces import nest
from flujo_lens.state.views import RunSummary, Span

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LARGEST = 1e18
"""Microseconds; a larger number in an event is no time."""

_STATUS_OF_CODE = {1: "completed", 2: "failed", "STATUS_CODE_OK": "completed", "STATUS_CODE_ERROR": "failed"}


@dataclass(slots=True)
class _Found:
    """A span of a file; times in nanoseconds. `end` is None if it did not end."""

    span_id: str
    parent: str | None
    name: str
    status: str
    start: int
    end: int | None
    attributes: Any


def _trees(found: Sequence[_Found], zero: datetime | None) -> list[Span]:
    """The trees, with offsets from their roots. `zero` is the time of day of nanosecond 0, None if unknown."""
    by_id = {each.span_id: each for each in found}
    origins: dict[str, int] = {}
    for each in found:
        origins[each.span_id] = origins.get(each.parent or "", _root_start(each, by_id))
    return nest(
        Span(
            span_id=each.span_id,
            parent_span_id=each.parent,
            name=each.name,
            status=each.status,
            start_offset_ms=(each.start - origins[each.span_id]) / 1_000_000,
            duration_ms=None if each.end is None else (each.end - each.start) / 1_000_000,
            started_at=None if zero is None else _time_of_day(zero, each.start),
            attributes=each.attributes,
        )
        for each in found
    )


def _time_of_day(zero: datetime, nanoseconds: int) -> datetime | None:
    try:
        return zero + timedelta(microseconds=nanoseconds / 1000)
    except OverflowError:
        return None


def _root_start(each: _Found, by_id: Mapping[str, _Found]) -> int:
    """The start of the outermost span that is known above a span."""
    seen = {each.span_id}
    while each.parent is not None and each.parent in by_id and each.parent not in seen:
        each = by_id[each.parent]
        seen.add(each.span_id)
    return each.start


# --- Chrome


def is_chrome(document: Any) -> bool:
    """Whether it is a Chrome trace: an object of ``traceEvents``, or a list of events."""
    events = document.get("traceEvents") if isinstance(document, dict) else document
    return isinstance(events, list) and bool(events) and all(isinstance(e, dict) and "ph" in e for e in events)


def read_chrome(document: Any) -> Trace:
    """The complete events (``X``); those of other tools nest by their times on each thread."""
    other = document.get("otherData") if isinstance(document, dict) else None
    known = other if isinstance(other, dict) else {}
    events = document["traceEvents"] if isinstance(document, dict) else document
    complete = [event for event in events if event["ph"] == "X" and _is_number(event.get("ts"))]
    own = all("span_id" in _object(event.get("args")) for event in complete)
    found = list(map(_own_event, complete)) if own else list(_foreign_events(complete))
    return Trace(_trees(found, parse_instant(known.get("started_at"))), _run_of(known))


def _run_of(known: Mapping[str, Any]) -> RunSummary | None:
    names = ("run_id", "pipeline_name", "pipeline_version", "status")
    if not isinstance(known.get("run_id"), str):
        return None
    return RunSummary(**{name: known[name] for name in names if isinstance(known.get(name), str)})


def _own_event(event: Mapping[str, Any]) -> _Found:
    args = event["args"]
    start, end = _times(event)
    parent, status = args.get("parent_span_id"), str(args.get("status") or "completed")
    return _Found(
        str(args["span_id"]),
        None if parent is None else str(parent),
        str(event.get("name")),
        status,
        start,
        None if args.get("unfinished") else end,
        _object(args.get("attributes")),
    )


def _foreign_events(events: Sequence[Mapping[str, Any]]) -> Iterator[_Found]:
    """Events with numbers as ids; the parent is the event of the same thread in whose time one lies."""
    open_: dict[tuple[Any, Any], list[tuple[int, str]]] = {}
    ordered = sorted(events, key=lambda event: (event["ts"], -_times(event)[1]))
    for number, event in enumerate(ordered, 1):
        start, end = _times(event)
        stack = open_.setdefault((str(event.get("pid")), str(event.get("tid"))), [])
        while stack and (stack[-1][0] <= start or stack[-1][0] < end):
            stack.pop()
        parent = stack[-1][1] if stack else None
        stack.append((end, str(number)))
        args = _object(event.get("args"))
        yield _Found(str(number), parent, str(event.get("name")), "completed", start, end, args)


def _times(event: Mapping[str, Any]) -> tuple[int, int]:
    start, length = round(event["ts"] * 1000), event.get("dur", 0)
    return start, start + (round(length * 1000) if _is_number(length) else 0)


# --- OTLP


def is_otlp(document: Any) -> bool:
    """Whether it is OTLP/JSON with spans."""
    return isinstance(document, dict) and isinstance(document.get("resourceSpans"), list)


def read_otlp(documents: Sequence[Mapping[str, Any]]) -> Trace:
    """The spans of one or more documents, as one list of trees."""
    found: list[_Found] = []
    resource: dict[str, Any] = {}
    for each in (part for document in documents for part in _objects(document["resourceSpans"])):
        resource = resource or _attributes(_object(each.get("resource")).get("attributes"))
        for scope in _objects(each.get("scopeSpans")):
            found += map(_otlp_span, _objects(scope.get("spans")))
    known = {
        "run_id": resource.get("lens.run_id"),
        "pipeline_name": resource.get("service.name"),
        "pipeline_version": resource.get("service.version"),
        "status": resource.get("lens.run_status"),
    }
    zero = None if resource.get("lens.time_of_day") is False else _EPOCH
    return Trace(_trees(_with_stored_ids(found), zero), _run_of(known))


def _otlp_span(document: Mapping[str, Any]) -> _Found:
    attributes = _attributes(document.get("attributes"))
    start, end = _whole(document.get("startTimeUnixNano")), _whole(document.get("endTimeUnixNano"))
    code, parent = _object(document.get("status")).get("code"), document.get("parentSpanId")
    ended = end >= start and end > 0 and not attributes.pop("lens.unfinished", False)
    status = attributes.pop("lens.status", None) or _STATUS_OF_CODE.get(
        code if isinstance(code, int | str) else 0, "completed" if ended else "running"
    )
    return _Found(
        str(document.get("spanId")),
        str(parent) if parent else None,
        str(document.get("name")),
        str(status),
        start,
        end if ended else None,
        attributes,
    )


def _with_stored_ids(found: Sequence[_Found]) -> Sequence[_Found]:
    """The spans under the ids that they had in their store, where they say so."""
    stored = {each.span_id: str(each.attributes.pop("lens.span_id", each.span_id)) for each in found}
    for each in found:
        each.span_id = stored[each.span_id]
        each.parent = stored.get(each.parent, each.parent) if each.parent else None
    return found


def _attributes(pairs: Any) -> dict[str, Any]:
    known = (pair for pair in pairs if isinstance(pair, dict)) if isinstance(pairs, list) else ()
    return {str(pair.get("key")): _value(pair.get("value")) for pair in known}


def _value(value: Any) -> Any:
    """What an ``AnyValue`` holds."""
    if not isinstance(value, dict) or not value:
        return None
    kind, held = next(iter(value.items()))
    if kind == "intValue":
        return _whole(held)
    if kind == "arrayValue":
        return [_value(item) for item in _list(_object(held).get("values"))]
    if kind == "kvlistValue":
        return _attributes(_object(held).get("values") or [])
    if kind == "bytesValue":
        return _bytes(held)
    return held


def _bytes(held: Any) -> Any:
    try:
        return base64.b64decode(held).decode("utf-8", "replace")
    except (binascii.Error, ValueError, TypeError):
        return held


def _whole(value: Any) -> int:
    try:
        return int(value or 0)
    except (TypeError, ValueError, OverflowError):
        return 0


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """The objects of a list; what else a damaged file has there is left out."""
    return (each for each in _list(value) if isinstance(each, dict))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST
