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
    state_only: Annotated[bool, typer.Option("--state-only", help="Keep the history, marked cancelled.")] = False,
    family: Annotated[bool, typer.Option("--family", help="Also delete their background tasks.")] = False,
    ignore_missing: Annotated[bool, typer.Option("--ignore-missing", help="Ignore ids without a run.")] = False,
    force: HeldOption = False,
    no_bin: NoBinOption = False,
    yes: YesOption = False,
) -> None:
    """Delete the named runs and their history.

    Until the bin expires, they can be restored with lens undo.

    lens delete run-1 --dry-run              what would be deleted
    lens delete run-1 --family               with its background tasks
    lens list --error "Rate*" -o id | lens delete - --yes
    """
    from flujo_lens.cli.screens.delete import DeleteArguments, run_delete

    asked = DeleteArguments(tuple(runs), state_only, family, ignore_missing, force, no_bin, yes, change)
    if code := run_delete(app, asked):
        raise typer.Exit(code)
