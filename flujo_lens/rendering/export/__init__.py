"""Pictures of traces, and traces in the formats of other tools."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from flujo_lens.errors import UnknownValueError

if TYPE_CHECKING:
    from flujo_lens.rendering.export.timeline import Timeline

__all__ = ["TRACE_FORMATS", "Exported", "export_trace"]


class Exported(NamedTuple):
    """The content of a file, and the number of spans that did not fit into it."""

    data: bytes
    omitted: int = 0


def _html(timeline: Timeline) -> Exported:
    from flujo_lens.rendering.export.html import html_page

    return Exported(html_page(timeline))


def _svg(timeline: Timeline) -> Exported:
    from flujo_lens.rendering.export.svg import svg_picture

    text, omitted = svg_picture(timeline)
    return Exported(text.encode(), omitted)


def _chrome(timeline: Timeline) -> Exported:
    from flujo_lens.rendering.export.chrome import chrome_trace

    return Exported(chrome_trace(timeline))


def _otlp(timeline: Timeline) -> Exported:
    from flujo_lens.rendering.export.otlp import otlp_document

    return Exported(otlp_document(timeline))


def _mermaid(timeline: Timeline) -> Exported:
    from flujo_lens.rendering.export.mermaid import mermaid_gantt

    text, omitted = mermaid_gantt(timeline)
    return Exported(text.encode(), omitted)


TRACE_FORMATS: dict[str, Callable[[Timeline], Exported]] = {
    "html": _html,
    "svg": _svg,
    "chrome": _chrome,
    "otlp": _otlp,
    "mermaid": _mermaid,
}


def export_trace(timeline: Timeline, form: str) -> Exported:
    """The spans in one of `TRACE_FORMATS`.

    Raises:
        UnknownValueError: there is no such format.
    """
    if form not in TRACE_FORMATS:
        raise UnknownValueError.of("export format", form, list(TRACE_FORMATS))
    return TRACE_FORMATS[form](timeline)
