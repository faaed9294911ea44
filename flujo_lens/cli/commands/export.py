"""``lens export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.options import FilterOptions, JsonOption, PartOptions


def export(
    app: App,
    filters: FilterOptions,
    parts: PartOptions,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="File to create: .ndjson, .ndjson.gz, .ndjson.zst or .parquet; - for stdout.",
            show_default=False,
        ),
    ],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE if it exists.")] = False,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="Format of the report: table or json.", metavar="FORMAT"),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Export runs to a file that any store can import, or to Parquet.

    The file is readable by you alone, and gets its name when it is complete. FILE.parquet creates three tables for
    DuckDB, pandas or Spark: FILE.runs.parquet, FILE.steps.parquet and FILE.spans.parquet.

    lens export failed.ndjson.zst --status failed --since 7d
    lens export - --redact | ssh laptop lens import - --store runs.db
    """
    from flujo_lens.cli.screens.export import ExportArguments, run_export

    if code := run_export(app, ExportArguments(file, filters, parts, overwrite, output, json)):
        raise typer.Exit(code)
