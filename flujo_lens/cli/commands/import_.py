"""``lens import``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.options import ChangeOptions, YesOption


def import_archive(
    app: App,
    change: ChangeOptions,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="An archive: .ndjson, .ndjson.gz or .ndjson.zst.", show_default=False)
    ],
    yes: YesOption = False,
) -> None:
    """Bring in the runs of an archive that prune --archive made.

    Those that exist are left alone.

    lens import archive.ndjson.zst --dry-run
    """
    from flujo_lens.cli.restoring import Importing, run_import

    if code := run_import(app, Importing(file, yes, change)):
        raise typer.Exit(code)
