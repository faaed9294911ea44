"""``lens diff``."""

from __future__ import annotations

from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.options import OutputOptions, RunArgument


def diff(
    app: App,
    left: RunArgument,
    right: RunArgument,
    output: OutputOptions,
    all_: Annotated[
        bool, typer.Option("--all", help="Show all differences (default: the first 20 of each kind).")
    ] = False,
    exit_status: Annotated[bool, typer.Option("--exit-status", help="Exit with 1 if the runs differ.")] = False,
) -> None:
    """Compare two runs: steps side by side, context, metadata and the shape of the pipeline.

    The first step that differs is marked. Times, costs and tokens are shown, but are no differences.

    lens diff run-1 run-2
    lens diff run-1 @failed -o json | jq .context
    """
    from flujo_lens.cli.screens.diff import print_diff

    is_open = output.output is None and not output.json
    asked = output._replace(output="table") if is_open and not app.world.is_terminal else output
    differs = print_diff(app, app.output(asked, ("table", "json", "ndjson")), left, right, show_all=all_)
    if exit_status and differs:
        raise typer.Exit(1)
