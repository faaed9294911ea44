"""``lens stats``."""

from __future__ import annotations

from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.options import FilterOptions, LimitOption, OutputOptions


def stats(
    app: App,
    filters: FilterOptions,
    output: OutputOptions,
    by: Annotated[
        list[str] | None,
        typer.Option(
            "--by",
            help="Group by pipeline, version, status, day, hour, step, model, error or meta:KEY; repeatable.",
            metavar="WHAT",
        ),
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(
            "--sort",
            help="Sort by runs, failed, cost, tokens, duration, p50, p95, p99 or a group, the greatest first.",
            metavar="FIELD[:desc|asc]",
        ),
    ] = None,
    limit: LimitOption = None,
) -> None:
    """Count runs, failures, durations, cost and tokens.

    By pipeline, error and span; with --by, by pipeline, version, day and others, also combined.

    lens stats --since 7d --by pipeline --sort cost     cost by pipeline this week
    lens stats --by version --by day                    what changed with a version
    lens stats --by step --sort p95 -n 10               the slowest steps
    """
    from flujo_lens.cli.screens.stats import StatsArguments, print_stats

    print_stats(app, app.output(output, is_document=True), StatsArguments(filters, by, sort, limit))
