"""``lens fork``."""

from __future__ import annotations

from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.options import ChangeOptions, RunArgument


def fork(
    app: App,
    run: RunArgument,
    change: ChangeOptions,
    from_step: Annotated[
        str,
        typer.Option("--from-step", help="A finished step, or the current one.", metavar="STEP", show_default=False),
    ],
    cancel_old: Annotated[bool, typer.Option("--cancel-old", help="Also cancel the original run.")] = False,
) -> None:
    """Create a new run that restarts from an earlier step of a run.

    That step and all later ones run again. The new run keeps the outputs of earlier steps and the current context.
    Does not ask.

    lens fork run-1 --from-step enrich --dry-run     what would run again
    """
    from flujo_lens.cli.screens.fork import ForkArguments, run_fork

    run_fork(app, ForkArguments(run, from_step, cancel_old, change))
