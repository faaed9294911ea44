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
    full: Annotated[bool, typer.Option("--full", help="Check every page and value; can be slow.")] = False,
    fix: Annotated[bool, typer.Option("--fix", help="Repair what can be repaired without losing data.")] = False,
    yes: YesOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --fix: show the repairs, change nothing.", rich_help_panel=_CHANGE)
    ] = False,
    reason: Annotated[
        str | None,
        typer.Option(
            "--reason", help="With --fix: reason, for the audit log.", metavar="TEXT", rich_help_panel=_CHANGE
        ),
    ] = None,
    audit_file: Annotated[
        Path | None,
        typer.Option(
            "--audit-file", help="With --fix: path of the audit log.", metavar="FILE", rich_help_panel=_CHANGE
        ),
    ] = None,
) -> None:
    """Check the store for problems, and show how to repair them.

    Exits with 1 if there is a problem.

    lens doctor --full              every page and every value
    lens doctor --fix --dry-run     what it would repair
    """
    from flujo_lens.cli.screens.doctor import FixArguments, fix_findings, print_checkup

    if not fix and (yes or dry_run or reason or audit_file):
        raise UsageError("--yes, --dry-run, --reason and --audit-file need --fix: checking changes nothing")
    change = ChangeOptions(dry_run, reason, audit_file)
    well = fix_findings(app, output, FixArguments(yes, full, change)) if fix else print_checkup(app, output, full)
    if not well:
        raise typer.Exit(1)
