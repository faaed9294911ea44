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
        bool, typer.Option("--drivers", help="List the drivers instead: where each is from, and what it can do.")
    ] = False,
) -> None:
    """List the known stores, their drivers and what these can do.

    Opens no store.

    lens stores -o json     with what each driver can do
    lens stores --drivers   which kinds of store can be opened here
    """
    from flujo_lens.cli.screens.lists import driver_list, store_list

    show = driver_list if drivers else store_list
    show(app, app.output(output))
