"""A Mermaid Gantt chart, which code hosts draw inside Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from flujo_lens.rendering import human
from flujo_lens.rendering.export.timeline import TimedSpan, Timeline

MOST_CHARACTERS = 48_000
"""Mermaid draws nothing from a text of more than 50,000 characters."""

_NS_OF_MS = 1_000_000
_LONGEST_NAME = 80
_LONG_RUN = 60_000
"""Milliseconds from which the axis shows the time of day."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TAGS = {"failed": "crit", "completed": "done"}
_SAFE = re.compile(r"[^\w .,()/+\-]", re.ASCII)
_KEYWORD = re.compile(
    r"(title|section|gantt|click|excludes|includes|todayMarker|dateFormat|axisFormat|tickInterval|weekday|weekend"
    r"|inclusiveEndDates|topAxis|accTitle|accDescr|call|href|callback)\b",
    re.IGNORECASE,
)


def mermaid_gantt(timeline: Timeline) -> tuple[str, int]:
    """The chart, and the number of spans for which there was no room.

    A section for each child of the root; failed spans are ``crit``, completed ones ``done``, others ``active``.
    """
    lines = list(_head(timeline))
    room = MOST_CHARACTERS - sum(len(line) + 1 for line in lines)
    shown = 0
    section: str | None = None
    for at, span in enumerate(timeline.spans):
        made = [_task(timeline, at)]
        if span.depth <= 1 and span.name != section:
            made.insert(0, f"    section {escape(span.name)}")
        room -= sum(len(line) + 1 for line in made)
        if room < 0:
            break
        section = span.name if span.depth <= 1 else section
        lines += made
        shown += 1
    return "\n".join(lines) + "\n", len(timeline.spans) - shown


def escape(text: str) -> str:
    """`text` as the name of a task or section: all but plain characters as entity codes."""
    line = " ".join(text.split()) or "-"
    line = line if len(line) <= _LONGEST_NAME else f"{line[: _LONGEST_NAME - 3]}..."
    made = _SAFE.sub(lambda found: f"#{ord(found.group())};", line)
    return f"#{ord(made[0])};{made[1:]}" if _KEYWORD.match(made) else made


def _head(timeline: Timeline) -> Iterator[str]:
    yield "gantt"
    yield f"    title {escape(f'{timeline.title} {timeline.status} {timeline.pipeline}'.strip())}"
    yield "    dateFormat x"
    yield f"    axisFormat {'%H:%M:%S' if _is_long(timeline) else '%S.%L'}"
    yield "    todayMarker off"


def _is_long(timeline: Timeline) -> bool:
    return timeline.length >= _LONG_RUN * _NS_OF_MS


def _task(timeline: Timeline, at: int) -> str:
    span = timeline.spans[at]
    zero = 0
    if _is_long(timeline) and timeline.started_at is not None:
        zero = (timeline.started_at - _EPOCH) // timedelta(milliseconds=1)
    start, end = zero + span.start // _NS_OF_MS, zero + -(-span.end // _NS_OF_MS)
    return f"    {escape(_label(span))} :{_TAGS.get(span.status, 'active')}, s{at}, {start}, {max(end, start + 1)}"


def _label(span: TimedSpan) -> str:
    time = "unfinished" if span.unfinished else human.duration((span.end - span.start) / _NS_OF_MS)
    error = f": {span.error}" if span.error else ""
    return f"{span.name[: _LONGEST_NAME // 2 if error else _LONGEST_NAME]} ({time}){error}"
