"""``lens retry``."""

from __future__ import annotations

from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.options import AppOptions, ChangeOptions, FilterOptions, YesOption


def retry(
    app: App,
    code: AppOptions,
    filters: FilterOptions,
    change: ChangeOptions,
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN...]", help="Run ids; - reads them from stdin.", show_default=False),
    ] = None,
    concurrency: Annotated[
        int, typer.Option("--concurrency", help="Maximum number of runs at once.", min=1, metavar="N")
    ] = 1,
    rate: Annotated[
        str | None, typer.Option("--rate", help="Start at most N runs per minute (or N/s, N/h).", metavar="N/m")
    ] = None,
    yes: YesOption = False,
) -> None:
    """Resume failed runs, each at the step that failed.

    A run that fails again does not stop the others.

    lens retry run-1 run-2 --app myapp.pipelines:registry
    lens retry --error "RateLimit*" --since 2h --concurrency 4 --yes
    lens retry --status failed --rate 10/s --yes     ten a second
    """
    from flujo_lens.cli.screens.retry import RetryArguments, run_retry

    if exit_code := run_retry(app, RetryArguments(tuple(runs or ()), filters, code, concurrency, rate, yes, change)):
        raise typer.Exit(exit_code)
