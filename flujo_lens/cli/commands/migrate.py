"""``lens migrate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.options import OutputOptions


def migrate(
    app: App,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")] = False,
    no_backup: Annotated[bool, typer.Option("--no-backup", help="Make no copy of the store first.")] = False,
    reason: Annotated[str | None, typer.Option("--reason", help="Why; for the audit log.", metavar="TEXT")] = None,
    audit_file: Annotated[
        Path | None, typer.Option("--audit-file", help="Where the audit log is.", metavar="FILE")
    ] = None,
    output: Annotated[str | None, typer.Option("--output", "-o", help="table or json.", metavar="FORMAT")] = None,
    json: Annotated[bool, typer.Option("--json", help="The same as -o json.")] = False,
) -> None:
    """Bring an older store to the newest schema, after a backup beside it; nothing else may have it open.

    lens migrate --dry-run     what it would do
    """
    from flujo_lens.cli.upkeep import Asked, run_migration

    out = app.output(OutputOptions(output=output, json=json), ("table", "json"))
    run_migration(app, out, Asked(yes, dry_run, not no_backup, reason, audit_file))
