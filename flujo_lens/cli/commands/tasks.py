"""``lens tasks``."""

from __future__ import annotations

from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.groups import make_group
from flujo_lens.cli.options import FilterOptions, OutputOptions


def list_tasks(
    app: App,
    filters: FilterOptions,
    output: OutputOptions,
    parent: Annotated[str | None, typer.Option("--parent", help="Tasks of this run.", metavar="RUN")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", help="So many tasks.", min=1, metavar="N")] = 50,
) -> None:
    """List background tasks, the newest first."""
    from flujo_lens.cli.screens import task_list

    task_list(app, app.output(output), app.wanted(filters)._replace(tasks_only=True), parent, limit)


group = make_group("Look at background tasks.", {"list": list_tasks}, default="list")
