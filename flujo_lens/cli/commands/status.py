"""``lens status``."""

from __future__ import annotations

from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.options import Formats, OutputOptions

FORMATS = ("table", "json", "ndjson", "csv", "tsv")


def status(
    app: App,
    output: Annotated[OutputOptions, Formats(FORMATS)],
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            help="Count failed and started runs since then (default 12h, a shift).",
            metavar="TIME",
            show_default=False,
        ),
    ] = None,
    exit_status: Annotated[
        bool,
        typer.Option("--exit-status", help="Exit with 1 if runs are failing or stale, by the settings [alerts]."),
    ] = False,
) -> None:
    """Show failing, stale and waiting runs, and what to type next.

    Failures of the last hour are compared with the usual number. With --quiet, one line. A shell takes the exit code
    of the last command of a pipe, and lens exits with 0 if its reader ends early: use --exit-status with a file, not
    with a pipe.

    lens status --exit-status --quiet >/dev/null || alert "runs are failing"
    """
    from flujo_lens.cli.screens.lists import print_status

    out = app.output(output, FORMATS, is_document=True)
    red = print_status(app, out, since)
    if exit_status and red:
        raise typer.Exit(1)
