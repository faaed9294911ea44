"""``lens import``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.options import ChangeOptions, PartOptions, TransferOptions, YesOption


def import_archive(
    app: App,
    parts: PartOptions,
    writing: TransferOptions,
    change: ChangeOptions,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="An archive (NDJSON, plain, gzip or zstd), or - for stdin.", show_default=False
        ),
    ],
    yes: YesOption = False,
    max_record: Annotated[
        str | None,
        typer.Option(
            "--max-record", help="Maximum length of a line (default 512M).", metavar="SIZE", show_default=False
        ),
    ] = None,
    max_unpacked: Annotated[
        str | None,
        typer.Option(
            "--max-unpacked",
            help="Maximum size uncompressed (default 200 times the file, at least 1G).",
            metavar="SIZE",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Import the runs of an archive, from a store of any kind.

    Archives are made by export and prune --archive. The store is created if it does not exist. Existing runs are left
    unchanged (--on-conflict skip). The compression is detected; archives can be concatenated.

    lens import archive.ndjson.zst --dry-run
    ssh backup cat runs.ndjson.gz | lens import - --yes
    """
    from flujo_lens.cli.input.archive import parse_size
    from flujo_lens.cli.screens.import_ import ImportArguments, run_import
    from flujo_lens.operations.archive_compression import Limits

    record = None if max_record is None else parse_size(max_record, "--max-record")
    unpacked = None if max_unpacked is None else parse_size(max_unpacked, "--max-unpacked")
    if code := run_import(app, ImportArguments(file, yes, change, parts, writing, Limits.asked(record, unpacked))):
        raise typer.Exit(code)
