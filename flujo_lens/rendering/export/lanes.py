"""Lanes for spans that overlap: on each of them, spans nest or follow one another."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush

from flujo_lens.rendering.export.timeline import TimedSpan


def drawing_order(spans: Sequence[TimedSpan]) -> list[int]:
    """The indices of the spans by start, the longer first, and parents before their children."""
    return sorted(range(len(spans)), key=lambda at: (spans[at].start, -spans[at].end, at))


def assign_lanes(spans: Sequence[TimedSpan]) -> list[int]:
    """The lane of each span, from 0.

    A span is on the lane of its parent if it fits there: within its parent, and after its siblings. Otherwise it gets
    the first lane on which nothing else happens at that time, or a new one.
    """
    lanes = _Lanes(spans)
    for at in drawing_order(spans):
        lanes.place(at)
    return lanes.of


class _Lanes:
    """Lanes with the spans that are open on them, the outermost first."""

    def __init__(self, spans: Sequence[TimedSpan]) -> None:
        self._spans = spans
        self.of = [0] * len(spans)
        self._open: list[list[int]] = []
        self._busy: list[tuple[int, int]] = []
        """A heap of lanes with the end of their outermost span."""
        self._free: list[int] = []

    def place(self, at: int) -> None:
        """Put the next span in drawing order on a lane."""
        if not self._nests(at):
            lane = self._free_lane(self._spans[at].start)
            self._open[lane] = [at]
            self.of[at] = lane
            heappush(self._busy, (self._spans[at].end, lane))

    def _nests(self, at: int) -> bool:
        """Put a span into its parent, if that is possible."""
        span, parent = self._spans[at], self._spans[at].parent
        if parent is None or span.start < self._spans[parent].start or span.end > self._spans[parent].end:
            return False
        open_ = self._open[self.of[parent]]
        while open_ and open_[-1] != parent and self._spans[open_[-1]].end <= span.start:
            open_.pop()
        if not open_ or open_[-1] != parent:
            return False
        open_.append(at)
        self.of[at] = self.of[parent]
        return True

    def _free_lane(self, now: int) -> int:
        while self._busy and self._busy[0][0] <= now:
            heappush(self._free, heappop(self._busy)[1])
        if self._free:
            return heappop(self._free)
        self._open.append([])
        return len(self._open) - 1
