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
    """Make indexes for lists and statistics, and shrink the file.

    Figures about the indexes are gathered for the choice between them.

    lens optimize --vacuum --dry-run     what it would do, and the room that it needs
    """
    from flujo_lens.cli.screens.optimize import Optimizing, run_optimization

    run_optimization(app, Optimizing(yes, vacuum, force), change)
