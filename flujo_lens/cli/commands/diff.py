"""``lens diff``."""

from __future__ import annotations

from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.options import Formats, OutputOptions, RunArgument

FORMATS = ("table", "json", "ndjson")


def diff(
    app: App,
    left: RunArgument,
    right: RunArgument,
    output: Annotated[OutputOptions, Formats(FORMATS)],
    all_: Annotated[
        bool, typer.Option("--all", help="Show all differences (default: the first 20 of each kind).")
    ] = False,
    exit_status: Annotated[bool, typer.Option("--exit-status", help="Exit with 1 if the runs differ.")] = False,
) -> None:
    """Compare two runs: their steps side by side, context and metadata.

    The shapes of their pipelines are compared, too. The first step that differs is marked. Times, costs and tokens are
    shown, but are no differences.

    lens diff run-1 run-2
    lens diff run-1 @failed -o json | jq .context
    """
    from flujo_lens.cli.screens.diff import print_diff

    out = app.output(output, FORMATS, is_document=True)
    differs = print_diff(app, out, left, right, show_all=all_)
    if exit_status and differs:
        raise typer.Exit(1)
