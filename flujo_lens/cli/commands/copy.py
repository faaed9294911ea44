"""``lens copy``."""

from __future__ import annotations

from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.options import ChangeOptions, FilterOptions, PartOptions, TransferOptions, YesOption


def copy(
    app: App,
    filters: FilterOptions,
    parts: PartOptions,
    writing: TransferOptions,
    change: ChangeOptions,
    source: Annotated[
        str, typer.Argument(metavar="FROM", help="The store to copy from: a name, URI or path.", show_default=False)
    ],
    target: Annotated[
        str,
        typer.Argument(metavar="TO", help="The store to copy to; created if it does not exist.", show_default=False),
    ],
    yes: YesOption = False,
) -> None:
    """Copy runs from one store to another, of any kind.

    Run the same command again after an interruption: runs that are equal in both stores are left as they are. By
    default, it stops at a run that exists in TO and differs (--on-conflict fail).

    lens copy prod sqlite:///runs.db --since 30d --verify
    lens copy prod laptop.db --status failed --redact      failed runs, without secrets
    """
    from flujo_lens.cli.screens.copy import CopyArguments, run_copy

    if code := run_copy(app, CopyArguments(source, target, filters, parts, writing, change, yes)):
        raise typer.Exit(code)
