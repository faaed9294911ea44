"""``lens system``."""

from __future__ import annotations

from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.groups import make_group
from flujo_lens.cli.options import OutputOptions


def list_entries(app: App, output: OutputOptions) -> None:
    """List the global keys with their values."""
    from flujo_lens.cli.screens import system_list

    system_list(app, app.output(output))


def get_entry(
    app: App, key: Annotated[str, typer.Argument(metavar="KEY", show_default=False)], output: OutputOptions
) -> None:
    """Print the value of one global key."""
    from flujo_lens.cli.screens import system_value

    system_value(app, app.output(output), key)


group = make_group("Look at the system state.", {"list": list_entries, "get": get_entry}, default="list")
