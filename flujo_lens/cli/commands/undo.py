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
            help="What a delete, prune or cancel printed; without it, list them.",
            show_default=False,
        ),
    ] = None,
    run: Annotated[
        list[str] | None,
        typer.Option("--run", help="Only this run; repeatable.", metavar="RUN", show_default=False),
    ] = None,
    yes: YesOption = False,
    no_header: Annotated[bool, typer.Option("--no-header", help="No line of names above the list in a pipe.")] = False,
) -> None:
    """Bring back what a delete or prune took, or take a cancel back.

    Without AUDIT_ID: list what can be brought back, and until when.

    lens undo                  what is in the bin
    lens undo 20261121 --run run-1
    """
    from flujo_lens.cli.screens.undo import Undoing, list_bin, run_undo

    if audit_id is None:
        list_bin(app, change, run or (), no_header=no_header)
    elif code := run_undo(app, Undoing(audit_id, tuple(run or ()), yes, change)):
        raise typer.Exit(code)
