"""A picture of the span tree: a static SVG of 800 units, light or dark as its viewer prefers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape

from rich.cells import cell_len, set_cell_size

from flujo_lens.rendering import human
from flujo_lens.rendering.export.axis import ticks
from flujo_lens.rendering.export.timeline import TimedSpan, Timeline
from flujo_lens.rendering.json_text import utc
from flujo_lens.rendering.text import one_line

MOST_ROWS = 1_000
"""Rows of a picture; the page of ``--export html`` has all."""

_WIDTH, _MARGIN, _ROW = 800, 20, 24
_TOP = 104
_LINE, _MOST_LINES = 18, 3
_LABELS, _BARS = 318, 338
_BAR_WIDTH = _WIDTH - _MARGIN - _BARS
_INDENT, _DEEPEST = 14, 10
_CHAR, _SMALL_CHAR = 6.7, 6.1
"""Widths of a cell at 12.5 and 11 units, a little more than most fonts need."""

_STATUSES = ("completed", "failed", "running", "paused", "cancelled")
_NO_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")

_STYLE = """
svg{--bg:#fff;--fg:#1f2328;--dim:#59636e;--rule:#d9dee3;--stripe:#f6f8fa;--completed:#4ac26b;--failed:#e5534b;
--running:#d4a72c;--paused:#3aa0b8;--cancelled:#8c959f;--word-failed:#c4242d;--word-running:#8a5a00;
--word-paused:#0b6b80;--word-cancelled:#59636e;--path:#1f2328}
@media (prefers-color-scheme:dark){svg{--bg:#0d1117;--fg:#e6edf3;--dim:#9198a1;--rule:#2b3138;--stripe:#141a21;
--completed:#2f8f46;--failed:#da4b45;--running:#b98a1b;--paused:#2b8ba3;--cancelled:#6e7681;--word-failed:#ff8f87;
--word-running:#e3b341;--word-paused:#66c7dc;--word-cancelled:#9198a1;--path:#e6edf3}}
text{font-family:ui-sans-serif,system-ui,-apple-system,"Segoe UI","Noto Sans","DejaVu Sans",Helvetica,Arial,sans-serif;
font-size:12.5px;fill:var(--fg)}
.title{font-size:17px;font-weight:600}.dim{fill:var(--dim)}.small{font-size:11px}.end{text-anchor:end}
.mid{text-anchor:middle}.bold{font-weight:600}.bg{fill:var(--bg)}.stripe{fill:var(--stripe)}
.rule{stroke:var(--rule);stroke-width:1}.guide{stroke:var(--rule);fill:none}
.path{fill:var(--path)}.open{fill-opacity:.45}
""" + "".join(f".b-{s}{{fill:var(--{s})}}.w-{s}{{fill:var(--word-{s},var(--fg))}}" for s in _STATUSES)


def svg_picture(timeline: Timeline) -> tuple[str, int]:
    """The picture, and the number of spans below its last row."""
    rows = min(len(timeline.spans), MOST_ROWS)
    rest = len(timeline.spans) - rows
    error = _failure_lines(timeline)
    down = len(error) * _LINE + 10 if error else 0
    height = down + _TOP + (rows + bool(rest)) * _ROW + _MARGIN
    label = f"Trace of {timeline.title}: {timeline.status}, {human.plural(len(timeline.spans), 'span')}"
    label = ". ".join([label, *([" ".join(error)] if error else [])])
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'
        f' role="img" aria-label="{_xml(label)}">',
        f"<title>{_xml(label)}</title>",
        f"<style>{_STYLE.strip()}</style>",
        f'<rect class="bg" width="{_WIDTH}" height="{height}"/>',
        *_head(timeline),
        *_failure(error),
        f'<g transform="translate(0 {down})">',
        *_axis(timeline, height - down),
        *(
            part
            for at, above in zip(range(rows), _rows_above(timeline), strict=False)
            for part in _row(timeline, at, above)
        ),
        *_path(timeline, rows),
    ]
    if rest:
        parts.append(_text(_MARGIN, _TOP + rows * _ROW + 16, f"{rest:,} more spans", "dim"))
    return "\n".join([*parts, "</g>", "</svg>\n"]), rest


def _head(timeline: Timeline) -> Iterator[str]:
    status = f" {timeline.status}" if timeline.status else ""
    room = int((_WIDTH - 2 * _MARGIN) / 9.6) - len(status) - 2
    yield (
        f'<text x="{_MARGIN}" y="36" class="title">{_xml(_cut(timeline.title, room))}'
        f'<tspan dx="10" class="w-{_known(timeline.status)}">{_xml(status.strip())}</tspan></text>'
    )
    length = human.duration(timeline.length / 1_000_000)
    parts = [timeline.pipeline, length, human.plural(len(timeline.spans), "span")]
    if timeline.failed:
        parts.append(f"{timeline.failed:,} failed")
    if timeline.started_at is not None:
        parts.append(f"started {utc(timeline.started_at.replace(microsecond=0))}")
    yield _text(_MARGIN, 58, _cut(" · ".join(filter(None, parts)), 112), "dim")


def _failure_lines(timeline: Timeline) -> list[str]:
    """The failing step and its error, in at most `_MOST_LINES` lines."""
    found = timeline.failure
    if found is None:
        return []
    room = int((_WIDTH - 2 * _MARGIN - 12) / _CHAR)
    text = ": ".join(filter(None, map(one_line, found[1:]))) if found.error else f"failed at {one_line(found.step)}"
    return _folded(text, room, _MOST_LINES)


def _failure(lines: list[str]) -> Iterator[str]:
    if lines:
        yield f'<rect class="b-failed" x="{_MARGIN}" y="70" width="3" height="{len(lines) * _LINE}" rx="1.5"/>'
    for at, line in enumerate(lines):
        yield _text(_MARGIN + 12, 83 + at * _LINE, line, "w-failed")


def _axis(timeline: Timeline, height: int) -> Iterator[str]:
    for at, label in ticks(timeline.length, 5):
        x = _x(timeline, at)
        yield f'<line class="rule" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 10}" y2="{height - _MARGIN}"/>'
        if x <= _WIDTH - _MARGIN - 12:
            yield _text(x, _TOP - 16, label, "dim small mid" if at else "dim small")


def _rows_above(timeline: Timeline) -> Iterator[int]:
    """For each span the row to which its guide leads up: of its sibling before, or of its parent."""
    last: dict[int | None, int] = {}
    for at, span in enumerate(timeline.spans):
        yield last.get(span.parent, span.parent or 0)
        last[span.parent] = at


def _row(timeline: Timeline, at: int, above: int) -> Iterator[str]:
    span, y = timeline.spans[at], _TOP + at * _ROW
    yield f"<g><title>{_xml(_tooltip(span))}</title>"
    yield f'<rect x="{_MARGIN - 8}" y="{y}" width="{_BARS - _MARGIN}" height="{_ROW}" fill-opacity="0"/>'
    x = _MARGIN + min(span.depth, _DEEPEST) * _INDENT
    if span.depth:
        left = x - _INDENT + 4.5
        top = _TOP + above * _ROW + (20 if above == span.parent else 12.5)
        yield f'<path class="guide" d="M{left} {top}V{y + 12.5}H{x - 3}"/>'
    word = "" if span.status == "completed" else f"  {one_line(span.status)}"
    room = int((_LABELS - 62 - x) / _CHAR) - len(word)
    name = _xml(_cut(one_line(span.name), max(room, 3)))
    status = f'<tspan dx="6" class="small w-{_known(span.status)}">{_xml(word.strip())}</tspan>' if word else ""
    yield f'<text x="{x}" y="{y + 17}">{name}{status}</text>'
    time = "-" if span.unfinished else human.duration((span.end - span.start) / 1_000_000)
    yield _text(_LABELS, y + 17, time, "dim small end")
    yield from _bar(timeline, span, y)
    yield "</g>"


def _bar(timeline: Timeline, span: TimedSpan, y: int) -> Iterator[str]:
    left, right = _x(timeline, span.start), _x(timeline, span.end)
    width = max(right - left, 2.0)
    left = min(left, _WIDTH - _MARGIN - width)
    style = f"b-{_known(span.status)}{' open' if span.unfinished else ''}"
    yield f'<rect class="{style}" x="{left:.1f}" y="{y + 5}" width="{width:.1f}" height="13" rx="2.5"/>'
    if span.error:
        yield from _note(left, left + width, y, span)


def _note(left: float, right: float, y: int, span: TimedSpan) -> Iterator[str]:
    """The error of a span, on the side of its bar with more room."""
    after, before = _WIDTH - _MARGIN - right - 6, left - _BARS - 6
    room = int(max(after, before) / _SMALL_CHAR)
    if room >= 8:
        text = _cut(one_line(span.error), room)
        style = f"small w-{_known(span.status)}"
        yield (
            _text(right + 6, y + 16, text, style) if after >= before else _text(left - 6, y + 16, text, f"{style} end")
        )


def _path(timeline: Timeline, rows: int) -> Iterator[str]:
    """The critical path: a line below the bars, where the run waited for the span itself."""
    for segment in timeline.critical:
        if segment.span < rows:
            left, right = _x(timeline, segment.start), _x(timeline, segment.end)
            y = _TOP + segment.span * _ROW + 19.5
            yield f'<rect class="path" x="{left:.1f}" y="{y}" width="{max(right - left, 0.8):.1f}" height="1.6"/>'


def _x(timeline: Timeline, at: int) -> float:
    return _BARS + at / max(timeline.length, 1) * _BAR_WIDTH


def _known(status: str) -> str:
    return status if status in _STATUSES else "cancelled"


def _tooltip(span: TimedSpan) -> str:
    length = "unfinished" if span.unfinished else human.duration((span.end - span.start) / 1_000_000)
    lines = [f"{one_line(span.name)}: {one_line(span.status)}, {length}"]
    return "\n".join([*lines, one_line(span.error)] if span.error else lines)


def _text(x: float, y: float, text: str, style: str) -> str:
    return f'<text x="{x:.1f}" y="{y}" class="{style}">{_xml(text)}</text>'


def _cut(text: str, cells: int) -> str:
    text = one_line(text)
    return text if cell_len(text) <= cells else f"{set_cell_size(text, cells - 1).rstrip()}…"


def _folded(text: str, cells: int, most: int) -> list[str]:
    """`text` in at most `most` lines, the last of which is cut."""
    lines: list[str] = []
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and cell_len(longer) <= cells:
            lines[-1] = longer
        else:
            lines.append(word)
    rest = " ".join(lines[most - 1 :])
    return [_cut(line, cells) for line in [*lines[: most - 1], *([rest] if rest else [])]]


def _xml(text: str) -> str:
    return escape(_NO_XML.sub(lambda found: f"\\u{ord(found.group()):04x}", text))
