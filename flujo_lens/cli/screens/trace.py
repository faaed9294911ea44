"""Output of ``lens trace`` and ``lens spans``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flujo_lens.cli.context import App
from flujo_lens.cli.input.filters import statuses
from flujo_lens.cli.options import OutputOptions
from flujo_lens.cli.output import Output
from flujo_lens.cli.usage_errors import TRACE_ENDINGS
from flujo_lens.errors import UnknownValueError, command_line
from flujo_lens.operations.trace import Trace, pick_spans, read_trace
from flujo_lens.rendering import human
from flujo_lens.rendering.columns import SPAN
from flujo_lens.rendering.text import escape_controls, unescape
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.traces import flatten, prune_depth
from flujo_lens.state.views import GONE, SPAN_STATUSES, Span


class SpanChoice(NamedTuple):
    """The filter of the spans, and whether to print a tree."""

    flat: bool
    status: list[str] | None
    name: str | None
    depth: int | None

    @property
    def is_list(self) -> bool:
        """Whether the spans are a list and not a tree."""
        return self.flat or bool(self.status) or self.name is not None


def print_trace(app: App, out: Output, run: str | None, file: Path | None, choice: SpanChoice) -> None:
    """Print the spans of a run: a tree on a terminal and in JSON, rows in other formats."""
    trace = trace_of(app, run, file)
    wanted = statuses(choice.status, lambda: {span.status for span in flatten(trace.roots)}, SPAN_STATUSES)
    roots = prune_depth(trace.roots, choice.depth) if choice.depth is not None else list(trace.roots)
    if trace.lost is not None or not trace.roots:
        app.note(missing_spans(app, trace))
    if choice.is_list:
        out.show(SPAN, pick_spans(flatten(roots), wanted, choice.name), "no spans match" if roots else "")
    elif out.form == "json":
        out.document([_tree(out, root) for root in roots])
    elif not out.is_table or out.options.columns is not None:
        out.show(SPAN, flatten(roots), "")
    else:
        _draw(app, out, trace, roots)


def refuse_export_format(asked: OutputOptions, run: str | None) -> None:
    """Refuse ``-o svg``, with the command that writes one.

    Raises:
        UnknownValueError: the output format is one of --export.
    """
    form = asked.output or ""
    if form in TRACE_ENDINGS:
        line = command_line("trace", run or "@latest", f"--export {form} trace.{TRACE_ENDINGS[form]}")
        raise UnknownValueError(f"{form} is a format of --export, not of --output", hint=line, value=form)


def trace_of(app: App, run: str | None, file: Path | None) -> Trace:
    """The trace of a run of the store, or of a file."""
    if file is None:
        return _from_store(app, str(run))
    from flujo_lens.operations.trace_file import read_trace_file

    return read_trace_file(app.world.cwd / file)


def _from_store(app: App, text: str) -> Trace:
    async def work(backend: StateBackend) -> Trace:
        trace = await read_trace(backend, text, unescape(text))
        if trace.run is None:
            return trace
        return trace._replace(run=(await app.with_signs(backend, [trace.run]))[0])

    return app.read(work)


def missing_spans(app: App, trace: Trace) -> str:
    """Why spans of a run are missing."""
    if trace.lost is None:
        return "this run has no spans (a killed run leaves none)"
    from flujo_lens.cli.screens.show import stripped_line

    return stripped_line(app, trace.lost)


def _tree(out: Output, root: Span) -> dict[str, Any]:
    """A root span with its children, built without recursion, since a trace can be deep."""
    fields = out.fields(SPAN)
    top = SPAN.row(root, fields)
    waiting = [(root, top)]
    while waiting:
        span, row = waiting.pop()
        row["children"] = [SPAN.row(child, fields) for child in span.children]
        waiting += zip(span.children, row["children"], strict=True)
    return top


def _draw(app: App, out: Output, trace: Trace, roots: Sequence[Span]) -> None:
    from rich.text import Text

    from flujo_lens.rendering.tables import status_text
    from flujo_lens.rendering.trace import tree_lines

    if trace.run is not None:
        run = trace.run
        title = (
            Text(escape_controls(run.run_id), style="bold")
            .append("   ")
            .append_text(status_text(run.status).append(" (stale: process is gone)" if run.stale == GONE else ""))
        )
        title.append(f"   {escape_controls(f'{run.pipeline_name} {run.pipeline_version}')}", style="not bold")
        if run.duration_ms is not None:
            title.append(f"   {human.duration(run.duration_ms)}", style="not bold")
        out.print(title)
    width = app.world.columns if out.folds else None
    for line in tree_lines(roots, width, unicode=app.world.unicode, mask=out.redactor.text):
        out.print(line)
