"""``lens check``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.options import AppDirOption, AppOption, FilterOptions, OutputOptions


def check(
    app: App,
    filters: FilterOptions,
    output: OutputOptions,
    target: AppOption = None,
    app_dir: AppDirOption = None,
    deep: Annotated[bool, typer.Option("--deep", help="Read every context, even of more than 1,000 runs.")] = False,
    save: Annotated[
        Path | None, typer.Option("--save", help="Save the positions of the runs for --from.", metavar="FILE")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="With --save: overwrite an existing file.")] = False,
    from_file: Annotated[
        Path | None,
        typer.Option("--from", help="Check a file written by --save, without opening a store.", metavar="FILE"),
    ] = None,
    max_age: Annotated[
        str | None, typer.Option("--max-age", help="With --from: fail if the file is older: 6h, 1d.", metavar="AGE")
    ] = None,
    fail_on: Annotated[
        str | None,
        typer.Option("--fail-on", help="Exit with 1 on these verdicts (a,b), or on none.", metavar="VERDICTS"),
    ] = None,
    min_runs: Annotated[
        int, typer.Option("--min-runs", help="Exit with 1 if fewer runs were checked.", min=0, metavar="N")
    ] = 0,
) -> None:
    """Check whether the stored runs would resume under this code.

    Exits with 1 if any would not.

    lens check --app myapp.pipelines:registry               before a deploy
    lens check --save inflight.json                         where the store is
    lens check --from inflight.json --max-age 1d -o github  in CI; or -o junit
    """
    from flujo_lens.cli.screens.check import CheckArguments, run_check

    asked = CheckArguments(target, app_dir, deep, save, force, from_file, max_age, fail_on, min_runs)
    if not run_check(app, filters, output, asked):
        raise typer.Exit(1)
