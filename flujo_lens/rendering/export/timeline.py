"""The spans of a run on one clock, in whole nanoseconds from the start of the run: what every picture is made from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from flujo_lens.redaction import Redactor
from flujo_lens.rendering.export.plain_values import plain_text, plain_value
from flujo_lens.state.fingerprint import plain_error
from flujo_lens.state.views import RunSummary, Span

_NS_OF_MS = 1_000_000
_CENTURY = 100 * 365.25 * 86_400_000.0


class TimedSpan(NamedTuple):
    """A span with its place. `start` and `end` are nanoseconds from the start of the run, never negative.

    `parent` is the index of its parent, which stands before it. `unfinished`: it has no end of its own, and lasts to
    the last sign of the run. `error` is one line, "" without one. `children` is the number of its children.
    """

    span_id: str
    parent: int | None
    depth: int
    name: str
    status: str
    start: int
    end: int
    unfinished: bool
    error: str
    attributes: Mapping[str, Any]
    children: int = 0


class Segment(NamedTuple):
    """A part of the critical path: during it, the run waited for the span with this index itself."""

    span: int
    start: int
    end: int


class Failure(NamedTuple):
    """Why a run failed. `span` is the index of the failing span, None if none says so; `error` is one line, or ""."""

    span: int | None
    step: str
    error: str


class Timeline(NamedTuple):
    """The spans, parents before their children. `started_at` is the time of day of nanosecond 0, None if unknown."""

    run: RunSummary | None
    spans: tuple[TimedSpan, ...]
    started_at: datetime | None
    length: int
    critical: tuple[Segment, ...]

    @property
    def title(self) -> str:
        """The run's id, or what stands for it in a trace from a file."""
        return plain_text(self.run.run_id) if self.run is not None else "trace"

    @property
    def pipeline(self) -> str:
        """Name and version of the pipeline, "" if unknown."""
        return plain_text(f"{self.run.pipeline_name} {self.run.pipeline_version}") if self.run is not None else ""

    @property
    def status(self) -> str:
        """The status of the run, or of the first root."""
        if self.run is not None:
            return plain_text(self.run.status)
        return self.spans[0].status if self.spans else ""

    @property
    def failed(self) -> int:
        """Number of failed spans."""
        return sum(span.status == "failed" for span in self.spans)

    @property
    def failure(self) -> Failure | None:
        """Why the run failed; None if it did not, or nothing but its status says so."""
        if self.status != "failed":
            return None
        way = list(_failing(self.spans))
        error = next((self.spans[at].error for at in reversed(way) if self.spans[at].error), "")
        if self.run is not None and self.run.error_message and not error:
            error = plain_text(plain_error(self.run.error_message))
        if len(way) > 1 or (way and self.spans[way[0]].error):
            return Failure(way[-1], self.spans[way[-1]].name, error)
        step = plain_text(self.run.step_name or "") if self.run is not None else ""
        return Failure(None, step, error) if error else None


class _Placed(NamedTuple):
    span: Span
    parent: int | None
    depth: int
    start: int
    end: int | None


def make_timeline(roots: Sequence[Span], run: RunSummary | None, redactor: Redactor) -> Timeline:
    """Put the trees on one clock, with secrets masked and values that every JSON reader takes.

    Roots whose time of day is known keep their distance; otherwise all start at 0.
    """
    started_at = _first_start(roots)
    placed = list(_places(roots, started_at))
    early = min((each.start for each in placed), default=0)
    last = max((each.end if each.end is not None else each.start for each in placed), default=0)
    if run is not None and run.status == "running" and run.duration_ms:
        last = max(last, round(run.duration_ms * _NS_OF_MS))
    spans = _timed(placed, early, last, redactor)
    if started_at is not None and early < 0:
        started_at += timedelta(microseconds=early / 1000)
    length = max((span.end for span in spans), default=0)
    return Timeline(_masked_run(run, redactor), spans, started_at, length, tuple(_critical_path(spans, length)))


def _failing(spans: Sequence[TimedSpan]) -> Iterator[int]:
    """The failed spans from a root down to where the failure began: of several failed children, the last to end.

    If no root failed, from the failed span that ended last.
    """
    failed = [at for at, span in enumerate(spans) if span.status == "failed"]
    below: dict[int | None, list[int]] = {}
    for at in failed:
        below.setdefault(spans[at].parent, []).append(at)
    among = below.get(None, failed)
    while among:
        found = max(among, key=lambda at: (spans[at].end, -at))
        yield found
        among = below.get(found, [])


def _first_start(roots: Sequence[Span]) -> datetime | None:
    """The earliest start; None where one is not known, or where they cannot be on one clock."""
    known = [root.started_at for root in roots if root.started_at is not None]
    if not known or len(known) < len(roots) or max(known) - min(known) > timedelta(milliseconds=_CENTURY):
        return None
    return min(known) if all(500 < each.year < 9500 for each in known) else None


def _places(roots: Sequence[Span], started_at: datetime | None) -> Iterator[_Placed]:
    """Each span with its start and end, parents before their children, without recursion."""
    count = 0
    waiting: list[tuple[Span, int | None, int, int, int]] = []
    for root in reversed(roots):
        origin = 0
        if root.started_at is not None and started_at is not None:
            origin = (root.started_at - started_at) // timedelta(microseconds=1) * 1000
        waiting.append((root, None, 0, origin, origin))
    while waiting:
        span, parent, depth, origin, above = waiting.pop()
        offset, length = _nanoseconds(span.start_offset_ms), _nanoseconds(span.duration_ms)
        start = above if offset is None else origin + offset
        end = None if length is None else start + max(length, 0)
        yield _Placed(span, parent, depth, start, end)
        waiting += [(child, count, depth + 1, origin, start) for child in reversed(span.children)]
        count += 1


def _nanoseconds(milliseconds: float | None) -> int | None:
    """None also for what is more than a century, which viewers could not place: no time of a span."""
    if milliseconds is None or not abs(milliseconds) < _CENTURY:
        return None
    return round(milliseconds * _NS_OF_MS)


def _timed(placed: Sequence[_Placed], early: int, last: int, redactor: Redactor) -> tuple[TimedSpan, ...]:
    shift = min(early, 0)
    return tuple(
        TimedSpan(
            span_id=plain_text(each.span.span_id),
            parent=each.parent,
            depth=each.depth,
            name=plain_text(redactor.text(each.span.name)),
            status=plain_text(each.span.status),
            start=each.start - shift,
            end=(last if each.end is None else each.end) - shift,
            unfinished=each.end is None,
            error=_error(each.span, redactor),
            attributes=plain_value(redactor.value(each.span.attributes)),
            children=len(each.span.children),
        )
        for each in placed
    )


def _error(span: Span, redactor: Redactor) -> str:
    feedback = span.attributes.get("feedback") if span.status == "failed" else None
    return plain_text(redactor.text(plain_error(str(feedback)))) if feedback else ""


def _masked_run(run: RunSummary | None, redactor: Redactor) -> RunSummary | None:
    if run is None or run.error_message is None:
        return run
    return run._replace(error_message=redactor.text(run.error_message))


def _critical_path(spans: Sequence[TimedSpan], length: int) -> Iterator[Segment]:
    """What the run waited for at each instant, from the end to the start.

    Going back from the end of a span: its child that ended last was waited for; before that child began, the child
    that had ended last by then; in the gaps, the span itself.
    """
    below: dict[int | None, list[int]] = {}
    for index, span in enumerate(spans):
        if span.end > span.start:
            below.setdefault(span.parent, []).append(index)
    waiting: list[tuple[int | None, int, int]] = [(None, 0, length)]
    while waiting:
        at, low, cursor = waiting.pop()
        for child, start, end in _waited_for(spans, below.get(at, []), low, cursor):
            if at is not None and end < cursor:
                yield Segment(at, end, cursor)
            waiting.append((child, start, end))
            cursor = start
        if at is not None and cursor > low:
            yield Segment(at, low, cursor)


def _waited_for(
    spans: Sequence[TimedSpan], children: Sequence[int], low: int, high: int
) -> Iterator[tuple[int, int, int]]:
    """The children that were waited for between two times, the last first, each with its part of that time."""
    cursor = high
    for child in sorted(children, key=lambda child: (-min(spans[child].end, high), spans[child].start)):
        start, end = max(spans[child].start, low), min(spans[child].end, high)
        if start < end <= cursor:
            yield child, start, end
            cursor = start
