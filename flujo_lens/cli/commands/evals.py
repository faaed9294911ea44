"""``lens evals``."""

from __future__ import annotations

from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.options import OutputOptions


def evals(
    app: App,
    output: OutputOptions,
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="Only scores of this run.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", help="Maximum number of scores.", min=1, metavar="N")] = 50,
) -> None:
    """List evaluation scores, newest first.

    lens evals run-1     scores of one run
    """
    from flujo_lens.cli.screens.lists import evaluation_list

    evaluation_list(app, app.output(output), run, limit)
