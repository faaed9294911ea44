"""The spans of a run, from a store or from a saved file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flujo_lens.errors import OperationFailedError, UsageError
from flujo_lens.operations.runs import read_run
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.timestamps import parse_instant
from flujo_lens.state.traces import build_trees, spans_of_tree
from flujo_lens.state.views import RunSummary, Span

__all__ = ["Trace", "pick_spans", "read_trace", "read_trace_file"]


class Trace(NamedTuple):
    """The span trees of a run; `run` is None if they come from a file."""

    roots: Sequence[Span]
    run: RunSummary | None = None


async def read_trace(backend: StateBackend, text: str, unescaped: str | None = None) -> Trace:
    """The spans of the run that `text` names."""
    run = (await read_run(backend, text, unescaped)).run
    return Trace(await backend.read_spans(run.run_id), run)


def pick_spans(spans: Sequence[Span], statuses: frozenset[str], name: str | None) -> list[Span]:
    """The flat spans with these statuses (any if empty) and this name."""
    return [span for span in spans if (not statuses or span.status in statuses) and (name is None or span.name == name)]


def read_trace_file(path: Path) -> Trace:
    """Read a trace from a file: output of ``lens trace -o json`` or ``lens spans -o json``, or a debug export.

    A debug export (``flujo run --debug-export``) has the tree under ``trace_tree``; its root alone is accepted, too.

    Raises:
        OperationFailedError: the file cannot be read.
        UsageError: it has no trace.
    """
    import orjson

    try:
        document = orjson.loads(path.read_bytes())
    except OSError as error:
        raise OperationFailedError(f"cannot read {path}: {error.strerror or error}") from error
    except orjson.JSONDecodeError as error:
        raise UsageError(f"{path} is not a saved trace: {error}") from error
    run = None
    if isinstance(document, dict) and "trace_tree" in document:
        run, document = _exported_run(document), document["trace_tree"] or []
    roots = document if isinstance(document, list) else [document]
    if not all(isinstance(root, dict) and "name" in root for root in roots):
        hint = f"to save a trace: lens trace RUN -o json > {path.name}, or flujo run --debug-export"
        raise UsageError(f"{path} is not a saved trace", hint=hint)
    return Trace(_trees(roots), run)


def _trees(roots: Sequence[Mapping[str, Any]]) -> list[Span]:
    """The trees of a file whose spans have either the offsets of lens or the clock times of the library."""
    if any("start_time" in root or "end_time" in root for root in roots):
        return [_clocked(root) for root in roots]
    if any("children" in root for root in roots):
        return [_span(root) for root in roots]
    return _nested([_span(root) for root in roots])


def _clocked(root: Mapping[str, Any]) -> Span:
    """A tree with clock times."""
    return build_trees(spans_of_tree(root), None)[0]


def _nested(flat: Sequence[Span]) -> list[Span]:
    """The trees of a flat list of spans, parents first. A span without its parent is a root."""
    ids = {span.span_id for span in flat}
    children: dict[str | None, list[Span]] = {}
    for span in reversed(flat):
        below = tuple(reversed(children.pop(span.span_id, [])))
        parent = span.parent_span_id if span.parent_span_id in ids else None
        children.setdefault(parent, []).append(span._replace(children=below))
    return children.get(None, [])[::-1]


def _exported_run(document: Mapping[str, Any]) -> RunSummary | None:
    """The run of a debug export, as far as named in it."""
    tree = document["trace_tree"]
    if not isinstance(document.get("run_id"), str) or not isinstance(tree, dict):
        return None
    attributes = tree.get("attributes")
    known = attributes if isinstance(attributes, dict) else {}
    name = known.get("flujo.pipeline.name") or document.get("pipeline_name")
    return RunSummary(
        run_id=document["run_id"],
        pipeline_name=str(name or "unknown"),
        pipeline_version=str(known.get("flujo.pipeline.version") or "latest"),
        status=str(tree.get("status") or "running"),
    )


def _span(document: Mapping[str, Any]) -> Span:
    children = document.get("children")
    attributes = document.get("attributes")
    return Span(
        span_id=str(document.get("span_id")),
        parent_span_id=document.get("parent_span_id"),
        name=str(document["name"]),
        status=str(document.get("status") or "running"),
        start_offset_ms=_number(document.get("start_offset_ms")),
        duration_ms=_number(document.get("duration_ms")),
        started_at=parse_instant(document.get("started_at")),
        attributes=attributes if isinstance(attributes, dict) else {},
        children=tuple(_span(child) for child in children or [] if isinstance(child, dict) and "name" in child),
    )


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) else None
