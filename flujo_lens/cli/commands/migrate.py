"""``lens migrate``."""

from __future__ import annotations

from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.options import ChangeOptions, YesOption


def migrate(
    app: App,
    change: ChangeOptions,
    print_sql: Annotated[
        bool, typer.Option("--print-sql", help="Print the SQL, on PostgreSQL, without running it.")
    ] = False,
    no_backup: Annotated[bool, typer.Option("--no-backup", help="Do not back up the store first.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Even if another process has the store open.")] = False,
    yes: YesOption = False,
) -> None:
    """Migrate an older store to the current schema, after a backup.

    No other process may have the store open, unless --force.

    lens migrate --dry-run     what would change
    lens migrate --print-sql | psql DATABASE
    """
    from flujo_lens.cli.screens.migrate import MigrateArguments, run_migration

    run_migration(app, MigrateArguments(no_backup, yes, print_sql, force), change)
