"""``lens optimize``."""

from __future__ import annotations

from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.options import ChangeOptions, YesOption


def optimize(
    app: App,
    change: ChangeOptions,
    vacuum: Annotated[bool, typer.Option("--vacuum", help="Also return free space to the disk.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Even if another process has the store open.")] = False,
    yes: YesOption = False,
) -> None:
    """Create indexes, update query statistics and shrink the file.

    Runs ANALYZE; VACUUM only with --vacuum.

    lens optimize --vacuum --dry-run     what it would do, and the space it needs
    """
    from flujo_lens.cli.screens.optimize import OptimizeArguments, run_optimization

    run_optimization(app, OptimizeArguments(yes, vacuum, force), change)
