"""``lens stores``."""

from __future__ import annotations

from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.options import OutputOptions


def stores(
    app: App,
    output: OutputOptions,
    drivers: Annotated[
        bool, typer.Option("--drivers", help="List the drivers instead, with their sources and capabilities.")
    ] = False,
) -> None:
    """List the configured stores, their drivers and capabilities.

    Opens no store.

    lens stores -o json     with all capabilities
    lens stores --drivers   the supported kinds of stores
    """
    from flujo_lens.cli.screens.lists import driver_list, store_list

    show = driver_list if drivers else store_list
    show(app, app.output(output, is_document=True))
