"""``lens undo``."""

from __future__ import annotations

from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.options import ChangeOptions, YesOption


def undo(
    app: App,
    change: ChangeOptions,
    audit_id: Annotated[
        str | None,
        typer.Argument(
            metavar="[AUDIT_ID]",
            help="The id printed by delete, prune or cancel.",
            show_default=False,
        ),
    ] = None,
    run: Annotated[
        list[str] | None,
        typer.Option("--run", help="Restore only this run; repeatable.", metavar="RUN", show_default=False),
    ] = None,
    yes: YesOption = False,
    no_header: Annotated[bool, typer.Option("--no-header", help="Omit the header of the list in a pipe.")] = False,
) -> None:
    """Undo a delete, prune or cancel.

    Without AUDIT_ID, lists what can be restored, and until when.

    lens undo                  the contents of the bin
    lens undo 20261121 --run run-1
    """
    from flujo_lens.cli.screens.undo import UndoArguments, list_bin, run_undo

    if audit_id is None:
        list_bin(app, change, run or (), yes=yes, no_header=no_header)
    elif code := run_undo(app, UndoArguments(audit_id, tuple(run or ()), yes, change)):
        raise typer.Exit(code)
