"""Sorting of runs by other figures than their start, in memory bounded by the size of a page."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from flujo_lens.errors import UnknownValueError
from flujo_lens.state.views import RunSummary

SORT_FIELDS = ("started", "updated", "duration", "cost", "tokens", "size")
DIRECTIONS = ("desc", "asc")


class Sort(NamedTuple):
    """An order: a field, and whether the greatest (newest, longest, dearest) come first."""

    field: str = "started"
    descending: bool = True

    def __str__(self) -> str:
        return self.field if self.descending else f"{self.field}:asc"

    def reversed(self) -> Sort:
        """The same field, the other way round."""
        return self._replace(descending=not self.descending)


def parse_sort(text: str, fields: Sequence[str] = SORT_FIELDS) -> Sort:
    """The order of ``--sort FIELD[:desc|asc]``; without a direction, the greatest come first.

    Raises:
        UnknownValueError: a field or direction is unknown.
    """
    name, colon, way = text.strip().partition(":")
    if name.startswith("meta") and text.strip() in fields:
        name, colon, way = text.strip(), "", ""
    if name not in fields:
        raise UnknownValueError.of("--sort field", name, fields)
    if colon and way not in DIRECTIONS:
        raise UnknownValueError.of("direction of --sort", way, DIRECTIONS)
    return Sort(name, way != "asc")


def sort_value(run: RunSummary, field: str) -> float | None:
    """What a run is sorted by; None if it is not known. Times are in seconds since 1970."""
    if field == "started":
        return _seconds(run.created_at)
    if field == "updated":
        return _seconds(run.updated_at)
    if field == "duration":
        return run.duration_ms
    return {"cost": run.cost_usd, "tokens": run.tokens, "size": run.size_bytes}[field]


def _seconds(when: datetime | None) -> float | None:
    return None if when is None else when.timestamp()


class Rank(NamedTuple):
    """The place of a run in an order; the first has the greatest. Runs without a value come last, either way."""

    is_known: bool
    value: float
    run_id: str

    @classmethod
    def of(cls, sort: Sort, value: float | None, run_id: str) -> Rank:
        """The rank of a run with this value."""
        if value is None:
            return cls(False, 0.0, run_id)
        return cls(True, value if sort.descending else -value, run_id)


class Top:
    """The first runs of an order, out of any number that are added.

    Args:
        sort: The order.
        limit: How many are kept; None for all.
        after: Only runs behind this value and id.
    """

    def __init__(self, sort: Sort, limit: int | None, after: tuple[float | None, str] | None = None) -> None:
        self._sort, self._limit = sort, limit
        self._border = None if after is None else Rank.of(sort, *after)
        self._heap: list[Rank] = []

    def add(self, run_id: str, value: float | None) -> None:
        """Add a run."""
        rank = Rank.of(self._sort, value, run_id)
        if self._border is not None and rank >= self._border:
            return
        if self._limit is None or len(self._heap) < self._limit:
            heapq.heappush(self._heap, rank)
        elif rank > self._heap[0]:
            heapq.heapreplace(self._heap, rank)

    def first(self) -> list[tuple[str, float | None]]:
        """The ids of the first runs, in order, each with its value."""
        sign = 1 if self._sort.descending else -1
        ranks = sorted(self._heap, reverse=True)
        return [(rank.run_id, rank.value * sign if rank.is_known else None) for rank in ranks]
