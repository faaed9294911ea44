"""``lens init``."""

from __future__ import annotations

from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.options import ChangeOptions


def init(
    app: App,
    change: ChangeOptions,
    uri: Annotated[
        str,
        typer.Argument(
            metavar="URI", help="The store to create: a URI, a path (runs.db, states/), or a name.", show_default=False
        ),
    ],
) -> None:
    """Create an empty store.

    A store that exists is left as it is.

    lens init sqlite:///runs.db
    lens init 'postgresql://lens@db/ops?schema=lens'
    """
    from flujo_lens.cli.screens.init import run_init

    run_init(app, uri, change)
