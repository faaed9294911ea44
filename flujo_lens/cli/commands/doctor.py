"""``lens doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.options import ChangeOptions, OutputOptions, YesOption
from flujo_lens.errors import UsageError

_CHANGE = "The change"


def doctor(
    app: App,
    output: OutputOptions,
    full: Annotated[bool, typer.Option("--full", help="Look at everything, however long it takes.")] = False,
    fix: Annotated[bool, typer.Option("--fix", help="Mend what can be mended without losing anything.")] = False,
    yes: YesOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --fix: say what it would do.", rich_help_panel=_CHANGE)
    ] = False,
    reason: Annotated[
        str | None,
        typer.Option("--reason", help="With --fix: why; for the audit log.", metavar="TEXT", rich_help_panel=_CHANGE),
    ] = None,
    audit_file: Annotated[
        Path | None,
        typer.Option(
            "--audit-file", help="With --fix: where the audit log is.", metavar="FILE", rich_help_panel=_CHANGE
        ),
    ] = None,
) -> None:
    """Look for what is wrong with the store, and say what mends it.

    Exit 1 if anything is wrong.

    lens doctor --full              every page and every value
    lens doctor --fix --dry-run     what it would mend by itself
    """
    from flujo_lens.cli.screens.doctor import Mending, fix_findings, print_checkup

    if not fix and (yes or dry_run or reason or audit_file):
        raise UsageError("--yes, --dry-run, --reason and --audit-file belong to --fix: looking changes nothing")
    change = ChangeOptions(dry_run, reason, audit_file)
    well = fix_findings(app, output, Mending(yes, full, change)) if fix else print_checkup(app, output, full)
    if not well:
        raise typer.Exit(1)
