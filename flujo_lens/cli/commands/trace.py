"""``lens trace`` and ``lens spans``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.options import OutputOptions, RunArgument
from flujo_lens.errors import UsageError

Statuses = Annotated[
    list[str] | None,
    typer.Option("--status", help="Only spans with this status; repeatable, or a,b.", metavar="STATUS"),
]
Name = Annotated[str | None, typer.Option("--name", help="Only spans with this name.", metavar="NAME")]


def trace(
    app: App,
    output: OutputOptions,
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN]",
            help="A run id, a unique prefix of 4 or more characters, or @latest, @failed, @paused.",
            show_default=False,
        ),
    ] = None,
    flat: Annotated[bool, typer.Option("--spans", help="Print a flat list instead of a tree.")] = False,
    status: Statuses = None,
    name: Name = None,
    depth: Annotated[int | None, typer.Option("--depth", help="Maximum number of levels.", min=1, metavar="N")] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            help="Read a trace saved by -o json, --export html, chrome or otlp, or flujo run --debug-export.",
            metavar="FILE",
        ),
    ] = None,
    export: Annotated[
        tuple[str, str] | None,
        typer.Option(
            "--export",
            help="Write FILE (- for stdout) in this format: html, svg, chrome, otlp or mermaid.",
            metavar="FORMAT FILE",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="With --export: replace an existing file.")] = False,
) -> None:
    """Show the spans of a run as a tree, with a time bar for each.

    lens trace @failed                            where the newest failed run failed
    lens trace @failed --export html trace.html   a page to open in a browser
    """
    from flujo_lens.cli.input.contradictions import refuse_combination
    from flujo_lens.cli.screens.trace import SpanChoice, print_trace, refuse_export_format

    refuse_export_format(output, run)
    if (run is None) == (file is None):
        raise UsageError("trace takes either a RUN or --file FILE", hint="lens trace @latest")
    if file is not None:
        refuse_combination("--file", {"--store": app.options.store}, "a saved trace is read without a store")
    if overwrite and export is None:
        raise UsageError("--overwrite applies only to --export", hint="lens trace @latest --export html trace.html")
    choice = SpanChoice(flat, status, name, depth)
    if export is None:
        print_trace(app, app.output(output, is_document=not choice.is_list), run, file, choice)
    else:
        from flujo_lens.cli.screens.trace_export import export_spans

        export_spans(app, output, run, file, choice, export, overwrite=overwrite)


def spans(app: App, run: RunArgument, output: OutputOptions, status: Statuses = None, name: Name = None) -> None:
    """List the spans of a run; the same as trace --spans.

    lens spans @failed --status failed     failed spans of the newest failed run
    """
    from flujo_lens.cli.screens.trace import SpanChoice, print_trace

    print_trace(app, app.output(output), run, None, SpanChoice(True, status, name, None))
