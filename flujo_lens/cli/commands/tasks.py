"""``lens tasks``."""

from __future__ import annotations

from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.groups import make_group
from flujo_lens.cli.options import ChangeOptions, FilterOptions, OutputOptions
from flujo_lens.errors import UsageError

Parent = Annotated[str | None, typer.Option("--parent", help="Only tasks of this run.", metavar="RUN")]


def list_tasks(
    app: App,
    filters: FilterOptions,
    output: OutputOptions,
    parent: Parent = None,
    limit: Annotated[int, typer.Option("--limit", "-n", help="Maximum number of tasks.", min=1, metavar="N")] = 50,
) -> None:
    """List background tasks, newest first.

    lens tasks list --status failed --since 1d     recent failures
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
        typer.Option("--silent-for", help="Time without activity: 30m, 2h, 1d (default silent_after).", metavar="AGE"),
    ] = None,
    stale_hours: Annotated[
        float | None, typer.Option("--stale-hours", help="The same in hours.", metavar="N", show_default=False)
    ] = None,
    parent: Parent = None,
) -> None:
    """Mark stale background tasks as failed: running, but without activity.

    Does not ask.

    lens tasks sweep --silent-for 2h --dry-run     what would be marked
    """
    from flujo_lens.cli.screens.tasks import StaleAge, sweep_tasks

    _refuse_top_level(filters)
    sweep_tasks(app, filters, StaleAge(silent_for, stale_hours), parent, change)


def _refuse_top_level(filters: FilterOptions) -> None:
    if filters.top_level:
        raise UsageError("--top-level excludes background tasks, and lens tasks shows nothing else")


group = make_group(
    "List background tasks, and mark stale ones as failed.", {"list": list_tasks, "sweep": sweep_tasks}, "list"
)
