"""From span rows to trees."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from stores import outline
from support import examples

from flujo_lens.state.traces import (
    SpanRow,
    build_trees,
    flatten,
    prune_depth,
    span_rows,
    spans_of_tree,
    trace_document,
)
from flujo_lens.state.views import Span

START = datetime(2026, 11, 21, 0, 11, 9, tzinfo=UTC)
often = settings(max_examples=examples(300))


def row(span_id: str, parent: str | None = None, start: float | None = 0.0, end: float | None = None) -> SpanRow:
    return SpanRow(span_id, parent, span_id, "completed", start, end)


def names(roots: list[Span]) -> str:
    return outline(roots).replace(" completed", "")


def test_rows_in_any_order_make_a_tree_in_the_order_of_start() -> None:
    rows = [row("c", "a", 3.0), row("d", "b", 2.5), row("a", None, 1.0), row("b", "a", 2.0), row("z", None, 0.5)]
    assert names(build_trees(rows, None)) == "z\na\n  b\n    d\n  c"


def test_offsets_count_from_the_own_root() -> None:
    first, second = build_trees([row("a", None, 10.0, 12.5), row("b", "a", 11.0), row("c", None, 20.0)], START)
    assert (first.start_offset_ms, first.duration_ms, first.children[0].start_offset_ms) == (0.0, 2500.0, 1000.0)
    assert (second.start_offset_ms, second.duration_ms) == (0.0, None)


def test_wall_time_of_a_monotonic_clock_counts_from_the_run() -> None:
    first, second = build_trees([row("a", None, 2025.1), row("b", "a", 2025.6), row("c", None, 2030.1)], START)
    assert first.started_at == START
    assert first.children[0].started_at == START + timedelta(milliseconds=500)
    assert second.started_at == START + timedelta(seconds=5)
    assert build_trees([row("a", None, 2025.1)], None)[0].started_at is None


def test_wall_time_of_an_epoch_clock_is_its_own() -> None:
    (root,) = build_trees([row("a", None, 1795219869.5)], START)
    assert root.started_at == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=1795219869.5)


def test_an_orphan_is_a_root() -> None:
    assert names(build_trees([row("a", "gone", 2.0), row("b", "a", 3.0), row("c", None, 1.0)], None)) == "c\na\n  b"


def test_a_span_that_is_its_own_parent_is_a_root() -> None:
    assert names(build_trees([row("a", "a"), row("b", "a", 1.0)], None)) == "a\n  b"


def test_rings_are_opened_at_their_first_span() -> None:
    rows = [row("a", "c", 1.0), row("b", "a", 2.0), row("c", "b", 3.0), row("x", None, 9.0)]
    assert names(build_trees(rows, None)) == "x\na\n  b\n    c"


def test_spans_without_a_start_come_last() -> None:
    first, second = build_trees([row("a", None, None), row("b", None, 5.0)], START)
    assert (first.span_id, second.span_id, second.start_offset_ms, second.started_at) == ("b", "a", None, None)


def test_spans_of_one_id_are_all_there() -> None:
    """0.4.35 has span ids as a key, 0.6.11 does not: a rerun may repeat one."""
    rows = [row("a", None, 1.0), row("a", None, 2.0), row("b", "a", 3.0)]
    assert sorted(span.span_id for span in flatten(build_trees(rows, None))) == ["a", "a", "b"]


def test_ten_thousand_levels() -> None:
    rows = [row(str(at), str(at - 1) if at else None, float(at)) for at in range(10_000)]
    roots = build_trees(rows, None)
    assert [span.span_id for span in flatten(roots)] == [str(at) for at in range(10_000)]
    assert len(flatten(prune_depth(roots, 50))) == 50
    assert len(flatten(prune_depth(roots, 9_000))) == 9_000
    document = trace_document(rows)
    assert document is not None
    assert [found.span_id for found in spans_of_tree(document)] == [str(at) for at in range(10_000)]


def test_ten_thousand_children() -> None:
    rows = [row("root"), *(row(str(at), "root", float(at)) for at in range(10_000))]
    (root,) = build_trees(rows, None)
    assert len(root.children) == 10_000
    assert len(flatten(prune_depth([root], 1))) == 1


ids = st.sampled_from("abcdef")
times = st.none() | st.floats(0, 100)
arbitrary = st.lists(st.builds(row, ids, st.none() | ids | st.just("gone"), times, times), max_size=12)


@often
@given(arbitrary)
def test_every_span_is_there_once_whatever_the_pointers_say(rows: list[SpanRow]) -> None:
    roots = build_trees(rows, START)
    flat = flatten(roots)
    assert sorted((s.span_id, s.parent_span_id or "") for s in flat) == sorted(
        (r.span_id, r.parent_span_id or "") for r in rows
    )
    assert all(span.children == () for span in flat)
    for root in roots:
        assert root.start_offset_ms in (0.0, None)


@often
@given(arbitrary)
def test_a_trace_is_the_first_of_the_trees(rows: list[SpanRow]) -> None:
    def told(document: dict[str, Any]) -> Any:
        return document["span_id"], [told(child) for child in document["children"]]

    def of(span: Span) -> Any:
        return span.span_id, [of(child) for child in span.children]

    roots, document = build_trees(rows, START), trace_document(rows)
    assert (told(document) if document else None) == (of(roots[0]) if roots else None)


@often
@given(arbitrary, st.integers(-1, 4))
def test_depth(rows: list[SpanRow], depth: int) -> None:
    def levels(spans: Any) -> int:
        return 1 + max((levels(span.children) for span in spans), default=0) if spans else 0

    roots = build_trees(rows, None)
    assert levels(prune_depth(roots, depth)) == max(0, min(levels(roots), depth))


def test_rows_from_what_other_drivers_return() -> None:
    (found, odd) = span_rows(
        [
            {"span_id": 5, "name": "n", "start_time": 1, "end_time": 2.5, "status": "failed", "attributes": {"a": 1}},
            {"parent_span_id": "5", "start_time": "soon", "end_time": True, "attributes": "none"},
        ]
    )
    assert found == SpanRow("5", None, "n", "failed", 1.0, 2.5, {"a": 1})
    assert (odd.name, odd.status, odd.start, odd.end, dict(odd.attributes)) == ("unknown", "running", None, None, {})


def test_a_stored_tree() -> None:
    tree = {"span_id": "1", "name": "a", "children": [{"span_id": "2", "name": "b"}, None, {"name": "c"}]}
    assert names(build_trees(spans_of_tree(tree), None)).replace(" running", "") == "a\n  b\n  c"
    assert names(build_trees(spans_of_tree({}), None)) == "unknown running"
