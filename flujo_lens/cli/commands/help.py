"""``lens help``."""

from __future__ import annotations

from typing import Annotated

import typer

from flujo_lens.cli.context import App


def show_help(
    app: App,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TOPIC|COMMAND...]", help="A topic, or a command.", show_default=False),
    ] = None,
) -> None:
    """Show help for a command or topic, or list them.

    lens help formatting     output formats, columns and times
    lens help list           the same as lens list --help
    """
    from flujo_lens.cli.screens.help import print_help

    if code := print_help(app, words or []):
        raise typer.Exit(code)
