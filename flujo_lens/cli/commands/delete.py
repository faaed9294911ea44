"""``lens delete``."""

from __future__ import annotations

from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.options import ChangeOptions, YesOption


def delete(
    app: App,
    change: ChangeOptions,
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Run ids; - reads them from stdin.", show_default=False)
    ],
    state_only: Annotated[bool, typer.Option("--state-only", help="Keep the history, marked as cancelled.")] = False,
    ignore_missing: Annotated[bool, typer.Option("--ignore-missing", help="Ids that no run has are no error.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Also what a living process holds.")] = False,
    no_bin: Annotated[bool, typer.Option("--no-bin", help="Keep no copy for lens undo.")] = False,
    yes: YesOption = False,
) -> None:
    """Delete runs: their states, and all of their history. `lens undo` brings them back for a while.

    lens delete run-1 --dry-run              what would go
    lens list --error "Rate*" -o id | lens delete - --yes
    """
    from flujo_lens.cli.delete_screen import Deleting, run_delete

    asked = Deleting(tuple(runs), state_only, ignore_missing, force, not no_bin, yes, change)
    if code := run_delete(app, asked):
        raise typer.Exit(code)
