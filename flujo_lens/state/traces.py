"""Building trees from span rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from flujo_lens.state.timestamps import read_instant
from flujo_lens.state.views import EMPTY, Span

EPOCH_FROM = 1e9
"""Minimum seconds of a wall clock (2001); a monotonic clock would need 31 years to reach it."""


class SpanRow(NamedTuple):
    """A stored span; times in seconds of the writer's clock, which is a wall clock or monotonic."""

    span_id: str
    parent_span_id: str | None
    name: str
    status: str
    start: float | None
    end: float | None
    attributes: Mapping[str, Any] = EMPTY

    @property
    def duration_ms(self) -> float | None:
        """Its duration in milliseconds; None if it has not ended."""
        return None if self.start is None or self.end is None else round((self.end - self.start) * 1000, 6)


def span_rows(spans: Iterable[Mapping[str, Any]]) -> list[SpanRow]:
    """Rows from the dicts returned by `get_spans`."""
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


def step_inputs(rows: Iterable[SpanRow]) -> dict[str, list[Any]]:
    """The inputs of steps by the names of their spans, in order of start."""
    found: dict[str, list[Any]] = {}
    for row in sorted(rows, key=lambda row: (row.start is None, row.start or 0.0)):
        if "step_input" in row.attributes:
            found.setdefault(row.name, []).append(row.attributes["step_input"])
    return found


def spans_of_tree(tree: Mapping[str, Any], parent: str | None = None) -> list[SpanRow]:
    """The spans of a stored trace tree (children under ``children``), parents first.

    A span without an id gets its number; its events are added to its attributes.
    """
    rows: list[SpanRow] = []
    waiting = [(tree, parent)]
    while waiting:
        node, above = waiting.pop()
        rows += span_rows(
            [{**_with_events(node), "span_id": node.get("span_id", len(rows) + 1), "parent_span_id": above}]
        )
        children = node.get("children")
        if isinstance(children, list):
            waiting += [(child, rows[-1].span_id) for child in reversed(children) if isinstance(child, dict)]
    return rows


def _with_events(node: Mapping[str, Any]) -> Mapping[str, Any]:
    attributes = node.get("attributes")
    if not node.get("events"):
        return node
    return {**node, "attributes": {**(attributes if isinstance(attributes, dict) else {}), "events": node["events"]}}


def _seconds(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def build_trees(rows: Sequence[SpanRow], run_start: datetime | None) -> list[Span]:
    """Trees of spans, in order of start.

    A span without its parent in `rows` is a root, and so is the first of a cycle. Offsets are relative to the root.
    Wall time comes from the span's clock if it is a wall clock, else from `run_start` at the first root.
    """
    ordered = _in_order(rows)
    clock_zero = next((row.start for row in ordered if row.start is not None), None)
    return [_assembled(tree, _Clock(tree[0][0].start, clock_zero, run_start)) for tree in _forest(ordered)]


def trace_document(rows: Sequence[SpanRow]) -> dict[str, Any] | None:
    """The first root in the form of `get_trace`: dicts with children under ``children``; None without rows.

    A run usually has one root; further roots are only in `build_trees`.
    """
    tree = next(_forest(_in_order(rows)), [])
    documents = [{**span_document(row), "children": []} for row, _ in tree]
    for document, (_, parent_at) in zip(documents, tree, strict=True):
        if parent_at is not None:
            documents[parent_at]["children"].append(document)
    return documents[0] if documents else None


def span_document(row: SpanRow) -> dict[str, Any]:
    """A span in the form of `StateBackend.get_spans`."""
    return {
        "span_id": row.span_id,
        "parent_span_id": row.parent_span_id,
        "name": row.name,
        "start_time": row.start,
        "end_time": row.end,
        "status": row.status,
        "attributes": dict(row.attributes),
    }


def _in_order(rows: Sequence[SpanRow]) -> list[SpanRow]:
    return sorted(rows, key=lambda row: (row.start is None, row.start or 0.0))


_Tree = list[tuple[SpanRow, int | None]]
"""The rows of a tree, parents before their children, each with the index of its parent."""


def _forest(ordered: Sequence[SpanRow]) -> Iterator[_Tree]:
    """The trees of rows, without recursion, since traces can be thousands of spans deep."""
    ids = {row.span_id for row in ordered}
    below: dict[str | None, list[int]] = {}
    for at, row in enumerate(ordered):
        parent = row.parent_span_id if row.parent_span_id in ids and row.parent_span_id != row.span_id else None
        below.setdefault(parent, []).append(at)
    seen: set[int] = set()
    for root in (*below.get(None, []), *range(len(ordered))):
        if root not in seen:
            yield _tree(ordered, below, root, seen)


def _tree(ordered: Sequence[SpanRow], below: Mapping[str | None, list[int]], root: int, seen: set[int]) -> _Tree:
    """The unseen rows below `root`."""
    tree: _Tree = []
    waiting: list[tuple[int, int | None]] = [(root, None)]
    seen.add(root)
    while waiting:
        at, parent_at = waiting.pop()
        tree.append((ordered[at], parent_at))
        children = [child for child in below.get(ordered[at].span_id, []) if child not in seen]
        seen.update(children)
        waiting += [(child, len(tree) - 1) for child in reversed(children)]
    return tree


class _Clock(NamedTuple):
    """The origin of the times of a tree: `zero` is its root's start, `first` the earliest start of the run."""

    zero: float | None
    first: float | None
    run_start: datetime | None

    def offset_ms(self, start: float | None) -> float | None:
        return None if start is None or self.zero is None else round((start - self.zero) * 1000, 6)

    def wall_time(self, start: float | None) -> datetime | None:
        if start is None:
            return None
        if start >= EPOCH_FROM:
            return read_instant(start)
        if self.run_start is None or self.first is None or self.first >= EPOCH_FROM:
            return None
        return self.run_start + timedelta(seconds=start - self.first)


def _assembled(tree: _Tree, clock: _Clock) -> Span:
    """The spans of a tree, built from the leaves up."""
    children: list[list[Span]] = [[] for _ in tree]
    for at in range(len(tree) - 1, -1, -1):
        row, parent_at = tree[at]
        span = _span(row, clock, tuple(reversed(children[at])))
        if parent_at is None:
            return span
        children[parent_at].append(span)
    raise AssertionError("a tree has a root")


def _span(row: SpanRow, clock: _Clock, children: tuple[Span, ...]) -> Span:
    return Span(
        span_id=row.span_id,
        parent_span_id=row.parent_span_id,
        name=row.name,
        status=row.status,
        start_offset_ms=clock.offset_ms(row.start),
        duration_ms=row.duration_ms,
        started_at=clock.wall_time(row.start),
        attributes=row.attributes,
        children=children,
    )


def flatten(roots: Iterable[Span]) -> list[Span]:
    """All spans of the trees, parents before their children, without their ``children``."""
    flat: list[Span] = []
    waiting = list(reversed(list(roots)))
    while waiting:
        span = waiting.pop()
        flat.append(span._replace(children=()))
        waiting += reversed(span.children)
    return flat


def nest(flat: Iterable[Span]) -> list[Span]:
    """The trees of a flat list of spans in any order. A span without its parent is a root, and so is one of a cycle."""
    spans = list(flat)
    ids = {span.span_id for span in spans}
    below: dict[str | None, list[int]] = {}
    for at, span in enumerate(spans):
        parent = span.parent_span_id if span.parent_span_id in ids and span.parent_span_id != span.span_id else None
        below.setdefault(parent, []).append(at)
    order: list[tuple[int, int | None]] = []
    seen: set[int] = set()
    for root in (*below.get(None, []), *range(len(spans))):
        waiting: list[tuple[int, int | None]] = [(root, None)]
        while waiting:
            at, parent_at = waiting.pop()
            if at not in seen:
                seen.add(at)
                order.append((at, parent_at))
                waiting += [(child, len(order) - 1) for child in reversed(below.get(spans[at].span_id, []))]
    return _joined(spans, order)


def _joined(spans: Sequence[Span], order: Sequence[tuple[int, int | None]]) -> list[Span]:
    """The trees of spans whose order (parents first) has the position of each one's parent in it."""
    roots: list[Span] = []
    children: list[list[Span]] = [[] for _ in order]
    for position in range(len(order) - 1, -1, -1):
        at, parent_at = order[position]
        siblings = roots if parent_at is None else children[parent_at]
        siblings.append(spans[at]._replace(children=tuple(reversed(children[position]))))
    return roots[::-1]


def prune_depth(roots: Iterable[Span], depth: int) -> list[Span]:
    """The trees cut to `depth` levels (1: only the roots)."""
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
