"""``lens demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.errors import UsageError


def demo(
    app: App,
    path: Annotated[
        Path | None,
        typer.Argument(metavar="[PATH]", help="File to create (default flujo_demo.db).", show_default=False),
    ] = None,
) -> None:
    """Create a sample store to explore.

    lens demo && lens status --store flujo_demo.db
    """
    import asyncio
    import shlex

    from flujo_lens.rendering.text import quoted

    if app.options.store is not None:
        given = shlex.quote(app.options.store)
        raise UsageError(
            "lens demo creates a file and reads no store: --store does not apply", hint=f"lens demo {given}"
        )

    from flujo_lens.operations.demo import make_demo

    target = app.world.cwd / (path or Path("flujo_demo.db"))
    runs = asyncio.run(make_demo(target, app.world.now()))
    shown = quoted(str(path or "flujo_demo.db"))
    app.say([f"created {shown} with {runs} runs" if app.world.is_terminal else shown])
    app.note(f"explore it: lens status --store {shown}")
    app.note(f"            lens list --store {shown}")
