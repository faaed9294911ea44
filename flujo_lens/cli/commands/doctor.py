"""``lens doctor``."""

from __future__ import annotations

from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.options import OutputOptions


def doctor(
    app: App,
    output: OutputOptions,
    full: Annotated[bool, typer.Option("--full", help="Look at everything, however long it takes.")] = False,
) -> None:
    """Look for what is wrong with the store, and say what mends it. Exit 1 if anything is wrong.

    lens doctor --full     every page and every value
    """
    from flujo_lens.cli.upkeep import print_checkup

    if not print_checkup(app, app.output(output), full):
        raise typer.Exit(1)
