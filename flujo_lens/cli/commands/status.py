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
    """The 3 a.m. screen: what fails now against usual, what is silent, who waits, what to type next."""
    from flujo_lens.cli.screens import print_status

    red = print_status(app, app.output(output, ("table", "json", "ndjson", "csv", "tsv")))
    if exit_status and red:
        raise typer.Exit(1)
