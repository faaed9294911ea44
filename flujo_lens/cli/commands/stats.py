"""``lens stats``."""

from __future__ import annotations

from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.options import FilterOptions, LimitOption, OutputOptions
from flujo_lens.errors import UsageError


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
    output_file: Annotated[
        str | None,
        typer.Option(
            "--output-file",
            help="With -o prometheus: write this file (NAME.prom), for node_exporter.",
            metavar="FILE",
        ),
    ] = None,
) -> None:
    """Count runs, failures, durations, cost and tokens.

    By pipeline, error and span; with --by, by pipeline, version, day and others, also combined.

    lens stats --since 7d --by pipeline --sort cost     cost by pipeline this week
    lens stats --by version --by day                    what changed with a version
    lens stats --by step --sort p95 -n 10               the slowest steps
    lens stats -o prometheus                            figures for Prometheus
    """
    from flujo_lens.cli.screens.stats import StatsArguments, print_stats

    if output.output == "prometheus":
        from flujo_lens.cli.screens.metrics import check_metrics_options, print_metrics

        check_metrics_options(output, {"--by": by, "--sort": sort, "--limit": limit})
        print_metrics(app, app.wanted(filters), output_file)
        return
    if output_file is not None:
        raise UsageError("--output-file applies only to -o prometheus", hint="lens stats > FILE")
    print_stats(app, app.output(output, is_document=True), StatsArguments(filters, by, sort, limit))
