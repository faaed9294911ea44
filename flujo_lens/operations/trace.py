"""The spans of a run, from a store or from a saved file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flujo_lens.errors import OperationFailedError, UsageError
from flujo_lens.operations.runs import read_run
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.timestamps import parse_instant
from flujo_lens.state.views import RunSummary, Span

__all__ = ["Trace", "pick_spans", "read_trace", "read_trace_file"]


class Trace(NamedTuple):
    """The span trees of a run; `run` is None where they come from a file."""

    roots: Sequence[Span]
    run: RunSummary | None = None


async def read_trace(backend: StateBackend, text: str, unescaped: str | None = None) -> Trace:
    """The spans of the run that `text` means."""
    run = (await read_run(backend, text, unescaped)).run
    return Trace(await backend.read_spans(run.run_id), run)


def pick_spans(spans: Sequence[Span], statuses: frozenset[str], name: str | None) -> list[Span]:
    """The flat spans of these statuses (any, if empty) and this name."""
    return [span for span in spans if (not statuses or span.status in statuses) and (name is None or span.name == name)]


def read_trace_file(path: Path) -> Trace:
    """A trace that ``lens trace RUN -o json`` printed into a file.

    Raises:
        OperationFailedError: the file cannot be read.
        UsageError: it holds no trace.
    """
    import orjson

    try:
        document = orjson.loads(path.read_bytes())
    except OSError as error:
        raise OperationFailedError(f"cannot read {path}: {error.strerror or error}") from error
    except orjson.JSONDecodeError as error:
        raise UsageError(f"{path} is no saved trace: {error}") from error
    roots = document if isinstance(document, list) else [document]
    if not all(isinstance(root, dict) and "name" in root for root in roots):
        raise UsageError(f"{path} is no saved trace", hint=f"lens trace RUN -o json > {path.name} makes one")
    return Trace([_span(root) for root in roots])


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
