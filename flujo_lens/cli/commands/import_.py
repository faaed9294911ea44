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
        Path,
        typer.Argument(
            metavar="FILE", help="An archive: NDJSON, plain, gzip or zstd; - for stdin.", show_default=False
        ),
    ],
    yes: YesOption = False,
    max_record: Annotated[
        str | None,
        typer.Option("--max-record", help="Longest line that is taken (512M).", metavar="SIZE", show_default=False),
    ] = None,
    max_unpacked: Annotated[
        str | None,
        typer.Option(
            "--max-unpacked",
            help="Largest size unpacked (200 times that of the file, and at least 1G).",
            metavar="SIZE",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Bring in the runs of an archive that prune --archive made.

    Those that exist are left alone. How an archive is packed is known by its content; several can be joined.

    lens import archive.ndjson.zst --dry-run
    ssh backup cat runs.ndjson.gz | lens import - --yes
    """
    from flujo_lens.cli.input.archive import parse_size
    from flujo_lens.cli.screens.undo import Importing, run_import
    from flujo_lens.operations.archive_compression import Limits

    record = None if max_record is None else parse_size(max_record, "--max-record")
    unpacked = None if max_unpacked is None else parse_size(max_unpacked, "--max-unpacked")
    if code := run_import(app, Importing(file, yes, change, Limits.asked(record, unpacked))):
        raise typer.Exit(code)
