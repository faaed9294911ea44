"""``lens prune``."""

from __future__ import annotations

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.options import ChangeOptions, FilterOptions, PruneOptions, YesOption


def prune(app: App, what: PruneOptions, filters: FilterOptions, change: ChangeOptions, yes: YesOption = False) -> None:
    """Delete old runs in small batches, without blocking writers.

    A run is deleted with its steps, spans, scores and background tasks (with --top-level, too).

    lens prune --older-than 30d --dry-run            what would be deleted
    lens prune --days-old 90 --status completed --yes
    """
    from flujo_lens.cli.screens.prune import PruneArguments, run_prune

    if code := run_prune(app, PruneArguments(what, filters, change, yes)):
        raise typer.Exit(code)
