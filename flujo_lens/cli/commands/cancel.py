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
    """Cancel runs: they cannot be resumed; their history stays.

    To revert it, use lens undo.

    lens cancel run-1 --reason "the order was withdrawn"
    lens list --status paused --active-until 90d -o id | lens cancel - --yes
    """
    from flujo_lens.cli.screens.cancel import CancelArguments, run_cancel

    if code := run_cancel(app, CancelArguments(tuple(runs), force, yes, change)):
        raise typer.Exit(code)
