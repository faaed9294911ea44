"""``lens audit``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.groups import make_group
from flujo_lens.cli.options import JsonOption, OutputOptions

AuditFile = Annotated[Path | None, typer.Option("--audit-file", help="Where the audit log is.", metavar="FILE")]


def list_entries(
    app: App,
    output: OutputOptions,
    run: Annotated[
        str | None,
        typer.Option("--run", help="Changes of this run: its id; on a terminal, a beginning of it.", metavar="RUN"),
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Made at or after: 2h, 30d, today.", metavar="TIME")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", help="So many entries.", min=1, metavar="N")] = 50,
    all_stores: Annotated[
        bool, typer.Option("--all-stores", help="Changes of every store: of this log, and of those that settings name.")
    ] = False,
    audit_file: AuditFile = None,
) -> None:
    """List who changed what in the store and what came of it, the newest first.

    A change is started, finished or failed.

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
    """Follow the chain of hashes through the audit log.

    Exit 1 at the first line that does not fit.

    lens audit verify || page somebody
    """
    from flujo_lens.cli.screens.audit import print_verdict

    if not print_verdict(
        app, app.output(OutputOptions(output=output, json=json), ("table", "tsv", "json")), audit_file
    ):
        raise typer.Exit(1)


group = make_group("Look at who changed what in the store.", {"list": list_entries, "verify": verify_log}, "list")
