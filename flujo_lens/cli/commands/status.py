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
        bool, typer.Option("--exit-status", help="Exit 1 if anything fails now or is silent.")
    ] = False,
) -> None:
    """Show what fails, what is silent, who waits, what to type next.

    Failures of the last hour are held against what is usual.

    lens status --exit-status --quiet >/dev/null || page somebody
    """
    from flujo_lens.cli.screens.lists import print_status

    red = print_status(app, app.output(output, ("table", "json", "ndjson", "csv", "tsv")))
    if exit_status and red:
        raise typer.Exit(1)
