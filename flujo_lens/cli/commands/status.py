"""``lens status``."""

from __future__ import annotations

from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.options import OutputOptions


def status(
    app: App,
    output: OutputOptions,
    exit_status: Annotated[
        bool, typer.Option("--exit-status", help="Exit with 1 if runs are failing or stale.")
    ] = False,
) -> None:
    """Show failing, stale and waiting runs, and what to type next.

    Failures of the last hour are compared with the usual number.

    lens status --exit-status --quiet >/dev/null || alert "runs are failing"
    """
    from flujo_lens.cli.screens.lists import print_status

    red = print_status(app, app.output(output, ("table", "json", "ndjson", "csv", "tsv"), is_document=True))
    if exit_status and red:
        raise typer.Exit(1)
