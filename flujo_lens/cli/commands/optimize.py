"""``lens optimize``."""

from __future__ import annotations

from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.options import ChangeOptions, YesOption


def optimize(
    app: App,
    change: ChangeOptions,
    vacuum: Annotated[bool, typer.Option("--vacuum", help="Also give back what is free in the file.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Also while another process has the store open.")] = False,
    yes: YesOption = False,
) -> None:
    """Make the indexes that lists and statistics are read by, gather figures about them, and shrink the file.

    lens optimize --vacuum --dry-run     what it would do, and the room that it needs
    """
    from flujo_lens.cli.optimizing import Asked, run_optimization

    run_optimization(app, Asked(yes, vacuum, force), change)
