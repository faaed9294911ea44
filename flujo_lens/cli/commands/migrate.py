"""``lens migrate``."""

from __future__ import annotations

from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.options import ChangeOptions, YesOption


def migrate(
    app: App,
    change: ChangeOptions,
    no_backup: Annotated[bool, typer.Option("--no-backup", help="Make no copy of the store first.")] = False,
    yes: YesOption = False,
) -> None:
    """Bring an older store to the newest schema, after a backup beside it.

    Nothing else may have it open.

    lens migrate --dry-run     what it would do
    """
    from flujo_lens.cli.screens.migrate import Migrating, run_migration

    run_migration(app, Migrating(yes, not no_backup), change)
