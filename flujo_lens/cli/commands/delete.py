"""``lens delete``."""

from __future__ import annotations

from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.options import ChangeOptions, HeldOption, NoBinOption, RunsArgument, YesOption


def delete(
    app: App,
    change: ChangeOptions,
    runs: RunsArgument,
    state_only: Annotated[bool, typer.Option("--state-only", help="Keep the history, marked as cancelled.")] = False,
    ignore_missing: Annotated[bool, typer.Option("--ignore-missing", help="Ids that no run has are no error.")] = False,
    force: HeldOption = False,
    no_bin: NoBinOption = False,
    yes: YesOption = False,
) -> None:
    """Delete the runs that are named, with all of their history.

    `lens undo` brings them back for a while.

    lens delete run-1 --dry-run              what would go
    lens list --error "Rate*" -o id | lens delete - --yes
    """
    from flujo_lens.cli.screens.delete import Deleting, run_delete

    asked = Deleting(tuple(runs), state_only, ignore_missing, force, not no_bin, yes, change)
    if code := run_delete(app, asked):
        raise typer.Exit(code)
