"""One self-contained page with the spans: no network, no fonts or scripts from elsewhere.

The spans are in the page as JSON, in the fields of ``lens trace -o json``, so that ``lens trace --file`` reads them
back. A policy of the page admits its own script and style alone, by their hashes, and nothing that stored text could
bring.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from datetime import timedelta
from html import escape
from importlib.resources import files
from typing import Any

from flujo_lens.rendering import human
from flujo_lens.rendering.export.plain_values import json_of, plain_text
from flujo_lens.rendering.export.timeline import Timeline
from flujo_lens.rendering.json_text import utc
from flujo_lens.rendering.text import one_line

_NS_OF_MS = 1_000_000
_PLACE = re.compile(r"\{\{(\w+)\}\}")
_MARKUP = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def html_page(timeline: Timeline) -> bytes:
    """The page."""
    page, style, script = (_part(f"page.{end}") for end in ("html", "css", "js"))
    parts = {
        "title": escape(one_line(f"{timeline.title} {timeline.status}")),
        "style": style,
        "style_hash": _hash(style),
        "script": script,
        "script_hash": _hash(script),
        "data": _embedded(_document(timeline)),
    }
    return _PLACE.sub(lambda found: parts[found[1]], page).encode()


def _part(name: str) -> str:
    return (files("flujo_lens") / "data" / "trace_page" / name).read_text(encoding="utf-8").strip()


def _hash(text: str) -> str:
    """A source of the page's policy: this text and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _embedded(document: Any) -> str:
    """JSON in which nothing ends or begins an element."""
    text = json_of(document).decode()
    return re.sub("[<>&\u2028\u2029]", lambda found: _MARKUP[found[0]], text)


def _document(timeline: Timeline) -> dict[str, Any]:
    run = timeline.run
    return {
        "title": one_line(timeline.title),
        "status": one_line(timeline.status),
        "facts": list(_facts(timeline)),
        "failure": timeline.failure and timeline.failure._asdict(),
        "length": timeline.length,
        "run": None if run is None else _run(timeline),
        "spans": [_span(timeline, at, root) for at, root in enumerate(_roots(timeline))],
        "critical": [list(segment) for segment in timeline.critical],
    }


def _run(timeline: Timeline) -> dict[str, Any]:
    run = timeline.run
    assert run is not None
    names = ("run_id", "pipeline_name", "pipeline_version", "status")
    return {name: plain_text(getattr(run, name)) for name in names} | {"duration_ms": run.duration_ms}


def _facts(timeline: Timeline) -> Iterator[str]:
    if timeline.pipeline:
        yield one_line(timeline.pipeline)
    yield human.duration(timeline.length / _NS_OF_MS)
    yield human.plural(len(timeline.spans), "span")
    if timeline.failed:
        yield f"{timeline.failed:,} failed"
    if timeline.started_at is not None:
        yield f"started {utc(timeline.started_at.replace(microsecond=0))}"


def _roots(timeline: Timeline) -> list[int]:
    """The index of the root above each span."""
    found: list[int] = []
    for at, span in enumerate(timeline.spans):
        found.append(at if span.parent is None else found[span.parent])
    return found


def _span(timeline: Timeline, at: int, root: int) -> dict[str, Any]:
    """A span in the fields of ``lens trace -o json``, with its place on the clock of the page."""
    span = timeline.spans[at]
    started_at = timeline.started_at and timeline.started_at + timedelta(microseconds=span.start / 1000)
    return {
        "span_id": span.span_id,
        "parent_span_id": None if span.parent is None else timeline.spans[span.parent].span_id,
        "name": span.name,
        "status": span.status,
        "start_offset_ms": (span.start - timeline.spans[root].start) / _NS_OF_MS,
        "duration_ms": None if span.unfinished else (span.end - span.start) / _NS_OF_MS,
        "started_at": None if started_at is None else utc(started_at),
        "attributes": span.attributes,
        "parent": span.parent,
        "depth": span.depth,
        "start": span.start,
        "end": span.end,
        "unfinished": span.unfinished,
        "error": span.error,
    }
