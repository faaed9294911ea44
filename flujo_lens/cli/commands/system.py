"""``lens system``."""

from __future__ import annotations

from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.groups import make_group
from flujo_lens.cli.options import ChangeOptions, OutputOptions

Key = Annotated[str, typer.Argument(metavar="KEY", show_default=False)]


def list_entries(app: App, output: OutputOptions) -> None:
    """List the keys of the system state and their values.

    lens system list -o json     full values
    """
    from flujo_lens.cli.screens.lists import system_list

    system_list(app, app.output(output))


def get_entry(app: App, key: Key, output: OutputOptions) -> None:
    """Print the value of a key.

    lens system get watermark:crm | jq .cursor
    """
    from flujo_lens.cli.screens.lists import system_value

    system_value(app, app.output(output), key)


def set_entry(
    app: App,
    key: Key,
    value: Annotated[str, typer.Argument(metavar="JSON", help="An object.", show_default=False)],
    change: ChangeOptions,
) -> None:
    """Set a key, replacing its value.

    Does not ask.

    lens system set limits '{"per_minute": 60}'
    """
    from flujo_lens.cli.screens.tasks import set_value

    set_value(app, key, value, change)


group = make_group(
    "Show and change the system state: keys shared by all runs.",
    {"list": list_entries, "get": get_entry, "set": set_entry},
    default="list",
)
