"""``lens cancel``."""

from __future__ import annotations

from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.options import ChangeOptions, YesOption


def cancel(
    app: App,
    change: ChangeOptions,
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Run ids; - reads them from stdin.", show_default=False)
    ],
    force: Annotated[bool, typer.Option("--force", help="Also what a living process holds.")] = False,
    yes: YesOption = False,
) -> None:
    """Give up runs: nothing resumes them any more. Their history stays.

    lens cancel run-1 --reason "the order was withdrawn"
    lens list --status paused --active-until 90d -o id | lens cancel - --yes
    """
    from flujo_lens.cli.cancelling import Cancelling, run_cancel

    if code := run_cancel(app, Cancelling(tuple(runs), force, yes, change)):
        raise typer.Exit(code)
