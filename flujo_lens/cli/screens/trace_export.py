"""Writing the file of ``lens trace --export``."""

from __future__ import annotations

from pathlib import Path

from flujo_lens.cli.context import App
from flujo_lens.cli.options import OutputOptions
from flujo_lens.cli.output_file import write_file
from flujo_lens.cli.screens.trace import SpanChoice, missing_spans, trace_of
from flujo_lens.errors import OperationFailedError, UnknownValueError, UsageError
from flujo_lens.rendering import human
from flujo_lens.rendering.export import TRACE_FORMATS, export_trace
from flujo_lens.rendering.text import escape_controls
from flujo_lens.state.traces import prune_depth


def export_spans(
    app: App,
    output: OutputOptions,
    run: str | None,
    file: Path | None,
    choice: SpanChoice,
    export: tuple[str, str],
    *,
    overwrite: bool,
) -> None:
    """Write the spans of a run, or of a saved trace, in the format of a picture or of another tool.

    Raises:
        UsageError: an unknown format, options that do not apply, or the file exists.
        OperationFailedError: the run has no spans, or the file cannot be written.
    """
    form, name = export
    _check(form, output, choice)
    trace = trace_of(app, run, file)
    if not trace.roots:
        raise OperationFailedError(f"{missing_spans(app, trace)}; nothing was written")
    if trace.lost is not None:
        app.note(missing_spans(app, trace))
    from flujo_lens.rendering.export.timeline import make_timeline

    roots = trace.roots if choice.depth is None else prune_depth(trace.roots, choice.depth)
    timeline = make_timeline(roots, trace.run, app.output(output).redactor)
    made = export_trace(timeline, form)
    write_file(app, name, made.data, overwrite=overwrite)
    if name != "-":
        shown = human.plural(len(timeline.spans) - made.omitted, "span")
        app.note(f"wrote {shown} to {escape_controls(name)}")
    if made.omitted:
        app.note(f"no room for {human.plural(made.omitted, 'span')}: --depth N, or --export html for all of them")


def _check(form: str, output: OutputOptions, choice: SpanChoice) -> None:
    if form not in TRACE_FORMATS:
        raise UnknownValueError.of("export format", form, list(TRACE_FORMATS))
    given = {"--spans": choice.flat, "--status": choice.status, "--name": choice.name}
    given |= {
        "--json": output.json,
        "--output": output.output,
        **{f"--{name.replace('_', '-')}": getattr(output, name) for name in ("columns", "no_header", "raw", "utc")},
        "--time": output.time,
    }
    wrong = [option for option, value in given.items() if value]
    if wrong:
        raise UsageError(f"--export and {wrong[0]} contradict each other", hint="--depth N limits what is exported")
