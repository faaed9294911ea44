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
        typer.Option(
            "--from-step", help="A step that is done, or at which the run stands.", metavar="STEP", show_default=False
        ),
    ],
    cancel_old: Annotated[bool, typer.Option("--cancel-old", help="Cancel the run that is forked.")] = False,
) -> None:
    """Make a new run out of one: it goes back to an earlier step.

    That step runs again, and all behind it. The new run has the outputs of the steps before; of the context it has
    what there is now. It acts at once.

    lens fork run-1 --from-step enrich --dry-run     what would run again
    """
    from flujo_lens.cli.screens.fork import Forking, run_fork

    run_fork(app, Forking(run, from_step, cancel_old, change))
