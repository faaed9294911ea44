"""``lens failed``."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.options import FilterOptions, OutputOptions
from flujo_lens.errors import UsageError


def failed(
    app: App,
    filters: FilterOptions,
    output: OutputOptions,
    hours: Annotated[
        float, typer.Option("--hours", help="Runs that failed so many hours back.", min=0, metavar="N")
    ] = 24,
    flat: Annotated[bool, typer.Option("--flat", help="One row a run rather than one an error.")] = False,
) -> None:
    """Show what failed lately, by error: how often, when and where.

    lens failed --hours 1                       the last hour
    lens failed --error "RateLimitError*" --flat    the runs of one group
    """
    from flujo_lens.cli.screens import failed_groups, failed_list

    now = app.world.now()
    wanted = app.wanted(filters)
    if wanted.active_since is None and wanted.since is None:
        wanted = wanted._replace(active_since=_back(now, hours))
    out = app.output(output)
    if flat:
        failed_list(app, out, wanted)
    else:
        failed_groups(app, out, wanted, now)


def _back(now: datetime, hours: float) -> datetime:
    try:
        return now - timedelta(hours=hours)
    except (ValueError, OverflowError):
        raise UsageError(f"--hours {hours:g} is further back than time goes") from None
