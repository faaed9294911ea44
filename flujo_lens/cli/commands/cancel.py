"""``lens cancel``."""

from __future__ import annotations

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.options import ChangeOptions, HeldOption, RunsArgument, YesOption


def cancel(
    app: App,
    change: ChangeOptions,
    runs: RunsArgument,
    force: HeldOption = False,
    yes: YesOption = False,
) -> None:
    """Give up runs: nothing resumes them any more; their history stays. lens undo takes it back.

    lens cancel run-1 --reason "the order was withdrawn"
    lens list --status paused --active-until 90d -o id | lens cancel - --yes
    """
    from flujo_lens.cli.screens.cancel import Cancelling, run_cancel

    if code := run_cancel(app, Cancelling(tuple(runs), force, yes, change)):
        raise typer.Exit(code)
