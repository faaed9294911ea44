"""From span rows to trees."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from flujo_lens.state.timestamps import read_instant
from flujo_lens.state.views import EMPTY, Span

__all__ = ["SpanRow", "build_trees", "flatten", "prune_depth", "span_rows", "spans_of_tree", "tree_document"]

EPOCH_FROM = 1e9
"""Seconds from which a span's clock is the date (2001); a monotonic clock would need 31 years to get there."""


class SpanRow(NamedTuple):
    """A stored span; times in seconds of the writer's clock, which is either the date's or a monotonic one."""

    span_id: str
    parent_span_id: str | None
    name: str
    status: str
    start: float | None
    end: float | None
    attributes: Mapping[str, Any] = EMPTY


def span_rows(spans: Iterable[Mapping[str, Any]]) -> list[SpanRow]:
    """Rows from the dicts that the contract's `get_spans` returns."""
    return [
        SpanRow(
            span_id=str(span.get("span_id")),
            parent_span_id=span.get("parent_span_id"),
            name=str(span.get("name") or "unknown"),
            status=str(span.get("status") or "running"),
            start=_seconds(span.get("start_time")),
            end=_seconds(span.get("end_time")),
            attributes=span["attributes"] if isinstance(span.get("attributes"), dict) else {},
        )
        for span in spans
    ]


def spans_of_tree(tree: Mapping[str, Any], parent: str | None = None) -> list[SpanRow]:
    """The spans of a stored trace tree (children under ``children``), parents first."""
    rows: list[SpanRow] = []
    waiting = [(tree, parent)]
    while waiting:
        node, above = waiting.pop()
        rows += span_rows([{**node, "parent_span_id": above}])
        children = node.get("children")
        if isinstance(children, list):
            waiting += [(child, rows[-1].span_id) for child in reversed(children) if isinstance(child, dict)]
    return rows


def _seconds(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def build_trees(rows: Sequence[SpanRow], run_start: datetime | None) -> list[Span]:
    """Roots with their children, in order of start.

    A span whose parent is not among `rows` is a root; so is the first of a ring of spans that name each other
    as parents. Offsets count from the root. Wall time comes from the span's own clock where that is the date,
    else from `run_start` at the first root.
    """
    ordered = sorted(rows, key=lambda row: (row.start is None, row.start or 0.0))
    ids = {row.span_id for row in ordered}
    below: dict[str | None, list[int]] = {}
    for at, row in enumerate(ordered):
        parent = row.parent_span_id if row.parent_span_id in ids and row.parent_span_id != row.span_id else None
        below.setdefault(parent, []).append(at)
    grower = _Grower(ordered, below, run_start)
    return [grower.grow(at) for at in (*below.get(None, []), *range(len(ordered))) if at not in grower.seen]


class _Grower:
    """Builds trees from the leaves up, without recursion: traces can be thousands of spans deep."""

    def __init__(self, rows: Sequence[SpanRow], below: dict[str | None, list[int]], run_start: datetime | None) -> None:
        self.rows, self.below, self.run_start = rows, below, run_start
        self.clock_zero = next((row.start for row in rows if row.start is not None), None)
        self.seen: set[int] = set()

    def grow(self, root: int) -> Span:
        order: list[tuple[SpanRow, int | None]] = []
        waiting: list[tuple[int, int | None]] = [(root, None)]
        self.seen.add(root)
        while waiting:
            at, parent_at = waiting.pop()
            order.append((self.rows[at], parent_at))
            children = [child for child in self.below.get(self.rows[at].span_id, []) if child not in self.seen]
            self.seen.update(children)
            waiting += [(child, len(order) - 1) for child in reversed(children)]
        return self._assemble(order, self.rows[root].start)

    def _assemble(self, order: list[tuple[SpanRow, int | None]], zero: float | None) -> Span:
        children: list[list[Span]] = [[] for _ in order]
        for at in range(len(order) - 1, -1, -1):
            row, parent_at = order[at]
            span = self._span(row, zero, tuple(reversed(children[at])))
            if parent_at is None:
                return span
            children[parent_at].append(span)
        raise AssertionError("a tree has a root")

    def _span(self, row: SpanRow, zero: float | None, children: tuple[Span, ...]) -> Span:
        length = None if row.start is None or row.end is None else round((row.end - row.start) * 1000, 6)
        return Span(
            span_id=row.span_id,
            parent_span_id=row.parent_span_id,
            name=row.name,
            status=row.status,
            start_offset_ms=None if row.start is None or zero is None else round((row.start - zero) * 1000, 6),
            duration_ms=length,
            started_at=self._wall_time(row.start),
            attributes=row.attributes,
            children=children,
        )

    def _wall_time(self, start: float | None) -> datetime | None:
        if start is None:
            return None
        if start >= EPOCH_FROM:
            return read_instant(start)
        if self.run_start is None or self.clock_zero is None or self.clock_zero >= EPOCH_FROM:
            return None
        return self.run_start + timedelta(seconds=start - self.clock_zero)


def flatten(roots: Iterable[Span]) -> list[Span]:
    """All spans of the trees, parents before their children, without their ``children``."""
    flat: list[Span] = []
    waiting = list(reversed(list(roots)))
    while waiting:
        span = waiting.pop()
        flat.append(span._replace(children=()))
        waiting += reversed(span.children)
    return flat


def tree_document(root: Span) -> dict[str, Any]:
    """A tree as `get_trace` returns it: dicts, with children under ``children``."""
    made: dict[str, Any] = {}
    waiting: list[tuple[Span, dict[str, Any]]] = [(root, made)]
    while waiting:
        span, document = waiting.pop()
        children: list[dict[str, Any]] = [{} for _ in span.children]
        document |= span._asdict() | {
            "started_at": span.started_at.isoformat() if span.started_at else None,
            "attributes": dict(span.attributes),
            "children": children,
        }
        waiting += zip(span.children, children, strict=True)
    return made


def prune_depth(roots: Iterable[Span], depth: int) -> list[Span]:
    """The trees down to `depth` levels (1: the roots alone)."""
    order: list[tuple[Span, int | None]] = []
    waiting: list[tuple[Span, int | None, int]] = [(root, None, 1) for root in reversed(list(roots))]
    while waiting:
        span, parent_at, level = waiting.pop()
        if level <= depth:
            order.append((span, parent_at))
            waiting += [(child, len(order) - 1, level + 1) for child in reversed(span.children)]
    kept: list[Span] = []
    below: list[list[Span]] = [[] for _ in order]
    for at in range(len(order) - 1, -1, -1):
        span, parent_at = order[at]
        siblings = kept if parent_at is None else below[parent_at]
        siblings.append(span._replace(children=tuple(reversed(below[at]))))
    return kept[::-1]
