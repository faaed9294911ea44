"""``lens audit``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.groups import make_group
from flujo_lens.cli.options import JsonOption, OutputOptions

AuditFile = Annotated[Path | None, typer.Option("--audit-file", help="Path of the audit log.", metavar="FILE")]


def list_entries(
    app: App,
    output: OutputOptions,
    run: Annotated[
        str | None,
        typer.Option("--run", help="Only changes of this run: its id; on a terminal, a prefix.", metavar="RUN"),
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Only changes at or after this time: 2h, 30d, today.", metavar="TIME")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", help="Maximum number of entries.", min=1, metavar="N")] = 50,
    all_stores: Annotated[
        bool, typer.Option("--all-stores", help="Include the changes of every configured store.")
    ] = False,
    audit_file: AuditFile = None,
) -> None:
    """List who changed what in the store, and the result, newest first.

    The state of a change is started, finished or failed.

    lens audit list --since 7d     the last week
    """
    from flujo_lens.cli.screens.audit import Wanted, audit_list

    audit_list(app, app.output(output), audit_file, Wanted(run, since, limit, all_stores))


def verify_log(
    app: App,
    audit_file: AuditFile = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="table or json.", metavar="FORMAT", rich_help_panel="Output"),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Verify the chain of hashes in the audit log.

    Exits with 1 at the first line that does not match.

    lens audit verify || alert "audit log changed"
    """
    from flujo_lens.cli.screens.audit import print_verdict

    if not print_verdict(
        app, app.output(OutputOptions(output=output, json=json), ("table", "tsv", "json")), audit_file
    ):
        raise typer.Exit(1)


group = make_group(
    "Show and verify who changed what in the store.", {"list": list_entries, "verify": verify_log}, "list"
)
