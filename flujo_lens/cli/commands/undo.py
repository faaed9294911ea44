"""``lens undo``."""

from __future__ import annotations

from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.options import ChangeOptions, Formats, RowOptions, YesOption, given

FORMATS = ("table", "json", "ndjson", "csv", "tsv", "id")


def undo(
    app: App,
    change: Annotated[ChangeOptions, Formats(FORMATS)],
    rows: RowOptions,
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
) -> None:
    """Undo a delete, prune or cancel.

    Without AUDIT_ID, lists what can be restored, and until when.

    lens undo                  the contents of the bin
    lens undo 20261121 --run run-1
    """
    from flujo_lens.cli.input.contradictions import refuse_combination
    from flujo_lens.cli.screens.undo import UndoArguments, list_bin, run_undo

    if audit_id is None:
        list_bin(app, change, rows, run or (), yes=yes)
        return
    refuse_combination("AUDIT_ID", given(rows), "they apply to the list of what can be restored: lens undo")
    if code := run_undo(app, UndoArguments(audit_id, tuple(run or ()), yes, change)):
        raise typer.Exit(code)
