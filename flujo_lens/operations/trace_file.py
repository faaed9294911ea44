"""Traces from files: saved by lens, exported by lens, or by other tools in the same formats."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flujo_lens.errors import OperationFailedError, UsageError
from flujo_lens.operations.archive_compression import foreign
from flujo_lens.operations.input_file import no_such_file
from flujo_lens.operations.trace import Trace
from flujo_lens.operations.trace_formats import is_chrome, is_otlp, read_chrome, read_otlp
from flujo_lens.state.timestamps import parse_instant
from flujo_lens.state.traces import build_trees, nest, spans_of_tree
from flujo_lens.state.views import RunSummary, Span

_READ = (
    "--file reads html, chrome and otlp files of lens trace --export, "
    "and what lens trace RUN -o json and flujo run --debug-export write"
)
_LONGEST_START = 512
_KINDS = (
    (re.compile(rb"gantt\b|%%|(flowchart|graph|sequenceDiagram|timeline)\s"), "it is a Mermaid chart"),
    (re.compile(rb"<svg\b|<\?xml\b"), "it is a picture (SVG)"),
    (re.compile(rb"<"), "it is a page without a trace of lens"),
    (re.compile(rb"[{\[]"), "its JSON is damaged or cut off"),
    (re.compile(rb"\x1f\x8b|\x28\xb5\x2f\xfd"), "it is compressed"),
)
"""How files begin that are not JSON, and what they are; others are those of `foreign`."""

_PAGE = re.compile(rb'<script id="trace" type="application/json">(.*?)</script>', re.DOTALL)


def read_trace_file(path: Path) -> Trace:
    """Read a trace from a file.

    It may be output of ``lens trace -o json`` or ``lens spans -o json``; of ``lens trace --export html``, ``chrome``
    or ``otlp``; a Chrome trace or OTLP/JSON of another tool; or a debug export (``flujo run --debug-export``), which
    has the tree under ``trace_tree``, or the root of that alone.

    Raises:
        OperationFailedError: the file cannot be read.
        UsageError: it has no trace.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise no_such_file(path) from error
    except OSError as error:
        raise OperationFailedError(f"cannot read {path}: {error.strerror or error}") from error
    documents = _documents(path, content)
    if not documents:
        raise _no_trace(path, "it is empty")
    first = documents[0]
    if all(map(is_otlp, documents)):
        return read_otlp(documents)
    if is_chrome(first):
        return read_chrome(first)
    return _saved(path, first)


def _documents(path: Path, content: bytes) -> list[Any]:
    """The JSON documents of a file: one, that in a page, or one a line."""
    import orjson

    page = _PAGE.search(content)
    try:
        return [orjson.loads(content if page is None else page[1])]
    except orjson.JSONDecodeError as error:
        try:
            return [orjson.loads(line) for line in content.splitlines() if line.strip()]
        except orjson.JSONDecodeError:
            raise _no_trace(path, _kind(content), _is_sqlite(content)) from error


# --- what is no trace


def _no_trace(path: Path, what: str, is_store: bool = False) -> UsageError:
    store = f"to see a run in it: lens trace RUN --store {shlex.quote(str(path))}\n" if is_store else ""
    return UsageError(f"{path} is not a saved trace: {what}", hint=f"{store}{_READ}")


def _is_sqlite(content: bytes) -> bool:
    return content.startswith(b"SQLite format 3\0")


def _kind(content: bytes) -> str:
    """What a file is that is not JSON."""
    start = content[:_LONGEST_START].removeprefix(b"\xef\xbb\xbf").lstrip()
    for pattern, what in _KINDS:
        if pattern.match(start):
            return what
    found = foreign(content[:_LONGEST_START])
    return found[0] if found is not None else "it is not JSON"


# --- what lens and the library save


def _saved(path: Path, document: Any) -> Trace:
    run = None
    if isinstance(document, dict) and isinstance(document.get("spans"), list):
        run, document = _run_of_page(document.get("run")), document["spans"]
    elif isinstance(document, dict) and "trace_tree" in document:
        run, document = _exported_run(document), document["trace_tree"] or []
    roots = document if isinstance(document, list) else [document]
    if not all(isinstance(root, dict) and "name" in root for root in roots):
        raise _no_trace(path, "its JSON has no spans")
    return Trace(_trees(roots), run)


def _trees(roots: Sequence[Mapping[str, Any]]) -> list[Span]:
    """The trees of a file whose spans have either the offsets of lens or the clock times of the library."""
    if any("start_time" in root or "end_time" in root for root in roots):
        return [_clocked(root) for root in roots]
    if any("children" in root for root in roots):
        return [_tree(root) for root in roots]
    return nest(_span(root) for root in roots)


def _clocked(root: Mapping[str, Any]) -> Span:
    """A tree with clock times."""
    return build_trees(spans_of_tree(root), None)[0]


def _run_of_page(document: Any) -> RunSummary | None:
    if not isinstance(document, dict) or not isinstance(document.get("run_id"), str):
        return None
    texts = {name: str(document[name]) for name in _RUN_TEXTS if document.get(name) is not None}
    return RunSummary(**texts, duration_ms=_number(document.get("duration_ms")))  # type: ignore[arg-type]


_RUN_TEXTS = ("run_id", "pipeline_name", "pipeline_version", "status")


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


def _tree(document: Mapping[str, Any]) -> Span:
    """A span with its children, without recursion, since a trace can be deep."""
    order: list[tuple[Mapping[str, Any], int]] = [(document, -1)]
    for at, (node, _) in enumerate(order):
        order += ((child, at) for child in _children(node))
    below: list[list[Span]] = [[] for _ in order]
    for at in range(len(order) - 1, 0, -1):
        node, parent = order[at]
        below[parent].append(_span(node, reversed(below[at])))
    return _span(document, reversed(below[0]))


def _children(node: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    children = node.get("children")
    listed = children if isinstance(children, list) else ()
    return (child for child in listed if isinstance(child, dict) and "name" in child)


def _span(document: Mapping[str, Any], children: Iterable[Span] = ()) -> Span:
    attributes, parent = document.get("attributes"), document.get("parent_span_id")
    return Span(
        span_id=str(document.get("span_id")),
        parent_span_id=None if parent is None else str(parent),
        name=str(document["name"]),
        status=str(document.get("status") or "running"),
        start_offset_ms=_number(document.get("start_offset_ms")),
        duration_ms=_number(document.get("duration_ms")),
        started_at=parse_instant(document.get("started_at")),
        attributes=attributes if isinstance(attributes, dict) else {},
        children=tuple(children),
    )


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
