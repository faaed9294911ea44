"""``lens failed``."""

from __future__ import annotations

from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.options import FilterOptions, LimitOption, OutputOptions


def failed(
    app: App,
    filters: FilterOptions,
    output: OutputOptions,
    hours: Annotated[
        float | None,
        typer.Option("--hours", help="Failures of the last N hours (default 24).", min=0, metavar="N"),
    ] = None,
    flat: Annotated[bool, typer.Option("--flat", help="List runs instead of errors.")] = False,
    by: Annotated[
        str | None,
        typer.Option(
            "--by",
            help="New failures by version or hour, compared with the usual number: version or hour.",
            metavar="WHAT",
        ),
    ] = None,
    limit: LimitOption = None,
) -> None:
    """Show recent failures by error: how often, when and where.

    lens failed --hours 1                           the last hour
    lens failed --error "RateLimitError*" --flat    the runs of one group
    lens failed --by version                        new failures of each version
    lens failed --by version --version 2.0.0        what is new in version 2.0.0
    """
    from flujo_lens.cli.screens.failed import FailedArguments, show_failed

    show_failed(app, app.output(output), FailedArguments(filters, hours, flat, limit, by))
