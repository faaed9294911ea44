"""``lens stores``."""

from __future__ import annotations

from flujo_lens.cli.context import App
from flujo_lens.cli.options import OutputOptions


def stores(app: App, output: OutputOptions) -> None:
    """List the known stores, their drivers and what these can do.

    Nothing is opened.

    lens stores -o json     with what each driver can do
    """
    from flujo_lens.cli.screens.lists import store_list

    store_list(app, app.output(output))
