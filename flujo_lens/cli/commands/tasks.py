"""``lens tasks``."""

from __future__ import annotations

from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.groups import make_group
from flujo_lens.cli.options import ChangeOptions, FilterOptions, OutputOptions
from flujo_lens.errors import UsageError

Parent = Annotated[str | None, typer.Option("--parent", help="Tasks of this run.", metavar="RUN")]


def list_tasks(
    app: App,
    filters: FilterOptions,
    output: OutputOptions,
    parent: Parent = None,
    limit: Annotated[int, typer.Option("--limit", "-n", help="So many tasks.", min=1, metavar="N")] = 50,
) -> None:
    """List background tasks, the newest first.

    lens tasks list --status failed --since 1d     which ones failed lately
    """
    from flujo_lens.cli.screens.lists import task_list

    _refuse_top_level(filters)
    task_list(app, app.output(output), filters, parent, limit)


def sweep_tasks(
    app: App,
    filters: FilterOptions,
    change: ChangeOptions,
    silent_for: Annotated[
        str | None,
        typer.Option("--silent-for", help="Without a save so long: 30m, 2h, 1d (silent_after).", metavar="AGE"),
    ] = None,
    stale_hours: Annotated[
        float | None, typer.Option("--stale-hours", help="The same in hours.", metavar="N", show_default=False)
    ] = None,
    parent: Parent = None,
) -> None:
    """Mark background tasks as failed that run, and gave no sign for so long.

    It acts at once.

    lens tasks sweep --silent-for 2h --dry-run     which ones that would be
    """
    from flujo_lens.cli.screens.tasks import Silence, sweep_tasks

    _refuse_top_level(filters)
    sweep_tasks(app, filters, Silence(silent_for, stale_hours), parent, change)


def _refuse_top_level(filters: FilterOptions) -> None:
    if filters.top_level:
        raise UsageError("--top-level leaves background tasks out, and lens tasks is about nothing else")


group = make_group(
    "Look at background tasks, and give up dead ones.", {"list": list_tasks, "sweep": sweep_tasks}, "list"
)
