"""The span tree with a time bar per span, in the width of the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from rich.cells import cell_len
from rich.text import Text

from flujo_lens.rendering import human
from flujo_lens.rendering.tables import STATUS_STYLES
from flujo_lens.rendering.text import one_line
from flujo_lens.state.fingerprint import plain_error
from flujo_lens.state.views import Span

_LEAST_BAR, _WHOLE_BAR = 10, 40
_WIDEST_LABEL = 80
_NOTE = 40
_LEAST_NOTE = 4
_EIGHTHS = "▏▎▍▌▋▊▉█"


class _Line(NamedTuple):
    span: Span
    label: str
    note: str
    start: float
    end: float
    open: bool


class _Glyphs(NamedTuple):
    branch: str
    last: str
    pipe: str
    full: str
    fraction: str


_UNICODE = _Glyphs("├─ ", "└─ ", "│  ", "█", _EIGHTHS)
_ASCII = _Glyphs("|- ", "`- ", "|  ", "#", "")


def tree_lines(
    roots: Sequence[Span], width: int | None, *, unicode: bool = True, mask: Callable[[str], str] = str
) -> list[Text]:
    """A line per span: tree, status unless completed, duration, bar and error.

    Args:
        width: Width of a line in cells; None for unlimited: then no name or error is cut.
        unicode: False for ASCII terminals.
    """
    glyphs = _UNICODE if unicode else _ASCII
    made: list[Text] = []
    for root in roots:
        lines = list(_lines(root, glyphs, mask))
        made += _drawn(lines, width, glyphs) if width is not None else _whole(lines, glyphs)
    return made


def _lines(root: Span, glyphs: _Glyphs, mask: Callable[[str], str]) -> Iterator[_Line]:
    waiting: list[tuple[Span, str, str]] = [(root, "", "")]
    horizon = _horizon(root)
    while waiting:
        span, lead, below = waiting.pop()
        start = max(span.start_offset_ms or 0.0, 0.0)
        length = span.duration_ms
        end = max(start + length, start) if length is not None else horizon
        tries = span.attributes.get("attempts")
        name = one_line(span.name) + (f"  (try {tries})" if isinstance(tries, int) and tries > 1 else "")
        yield _Line(span, lead + name, _note(span, mask), start, end, length is None)
        for at, child in enumerate(reversed(span.children)):
            branch, after = (glyphs.last, "   ") if at == 0 else (glyphs.branch, glyphs.pipe)
            waiting.append((child, below + branch, below + after))


def _horizon(root: Span) -> float:
    """The end of the tree, up to which a span without an end is drawn."""
    latest = 0.0
    waiting = [root]
    while waiting:
        span = waiting.pop()
        latest = max(latest, (span.start_offset_ms or 0.0) + (span.duration_ms or 0.0))
        waiting += span.children
    return latest


def _drawn(lines: Sequence[_Line], width: int, glyphs: _Glyphs) -> Iterable[Text]:
    labels = max(cell_len(line.label) for line in lines)
    statuses = max(len(_status(line.span)) for line in lines)
    times = max(len(_time(line)) for line in lines)
    notes = min(max(_NOTE, width // 3), max(cell_len(line.note) for line in lines))
    labels = min(labels, max(20, width - statuses - times - _LEAST_BAR - 6))
    fixed = labels + 2 + (statuses + 2 if statuses else 0) + times + 2
    room = width - fixed - (notes + 2 if notes else 0)
    bar = max(_LEAST_BAR, room) if width - fixed >= _LEAST_BAR else 0
    total = max(max(line.end for line in lines), 1e-9)
    for line in lines:
        yield _one(line, (labels, statuses, times, bar, width), total, glyphs)


def _whole(lines: Sequence[_Line], glyphs: _Glyphs) -> Iterator[Text]:
    """The lines with whole names and errors; a name wider than `_WIDEST_LABEL` moves the rest of its line."""
    labels = min(max(cell_len(line.label) for line in lines), _WIDEST_LABEL)
    statuses = max(len(_status(line.span)) for line in lines)
    times = max(len(_time(line)) for line in lines)
    total = max(max(line.end for line in lines), 1e-9)
    for line in lines:
        style = STATUS_STYLES.get(line.span.status, "")
        text = Text(line.label + " " * (labels - cell_len(line.label)) + "  ")
        if statuses:
            text.append(_status(line.span).ljust(statuses) + "  ", style)
        text.append(_time(line).rjust(times) + "  ").append(_bar(line, _WHOLE_BAR, total, glyphs), style or "green")
        text.append(f"  {line.note}", style)
        text.rstrip()
        yield text


def _one(line: _Line, sizes: tuple[int, int, int, int, int], total: float, glyphs: _Glyphs) -> Text:
    labels, statuses, times, bar, width = sizes
    style = STATUS_STYLES.get(line.span.status, "")
    text = Text(_cut(line.label, labels) + "  ", no_wrap=True, overflow="ellipsis")
    if statuses:
        text.append(_status(line.span).ljust(statuses) + "  ", style)
    text.append(_time(line).rjust(times) + "  ")
    if bar:
        text.append(_bar(line, bar, total, glyphs), style or "green")
    note, left = line.note, width - text.cell_len - 2
    if note and left >= _LEAST_NOTE:
        text.append("  ")
        text.append(_cut(note, left).rstrip(), style)
    text.rstrip()
    return text


def _status(span: Span) -> str:
    return "" if span.status == "completed" else one_line(span.status)


def _time(line: _Line) -> str:
    return "-" if line.open else human.duration(line.span.duration_ms)


def _note(span: Span, mask: Callable[[str], str]) -> str:
    feedback = span.attributes.get("feedback")
    return one_line(mask(plain_error(str(feedback)))) if feedback and span.status == "failed" else ""


def _bar(line: _Line, width: int, total: float, glyphs: _Glyphs) -> str:
    begin = min(int(line.start / total * width), width - 1)
    length = (line.end - line.start) / total * width
    whole = min(int(length), width - begin)
    rest = int((length - whole) * 8)
    tail = glyphs.fraction[rest - 1] if glyphs.fraction and rest and whole + begin < width else ""
    body = glyphs.full * whole + tail
    return (" " * begin + (body or (glyphs.fraction[0] if glyphs.fraction else glyphs.full))).ljust(width)


def _cut(text: str, width: int) -> str:
    """`text` padded or cut to exactly `width` cells."""
    if cell_len(text) <= width:
        return text + " " * (width - cell_len(text))
    kept = ""
    for char in text:
        if cell_len(kept + char) >= width:
            break
        kept += char
    return kept + "…"
