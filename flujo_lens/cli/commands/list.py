"""``lens list``."""

from __future__ import annotations

from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.options import FilterOptions, OutputOptions
from flujo_lens.errors import UsageError

Limit = Annotated[int | None, typer.Option("--limit", "-n", help="So many runs (50).", min=1, metavar="N")]
DEFAULT_LIMIT = 50


def list_runs(
    app: App,
    filters: FilterOptions,
    output: OutputOptions,
    limit: Limit = None,
    all_: Annotated[bool, typer.Option("--all", help="Every run, however many.")] = False,
    cursor: Annotated[
        str | None, typer.Option("--cursor", help="Go on behind the page that printed this.", metavar="CURSOR")
    ] = None,
    reverse: Annotated[bool, typer.Option("--reverse", help="The oldest start first.")] = False,
    count: Annotated[bool, typer.Option("--count", help="Only how many there are.")] = False,
) -> None:
    """List every run that any table knows, the newest start first.

    lens list --status failed --since 2h        what failed lately
    lens list --meta customer=4711 -o id        ids alone, for a script
    """
    from flujo_lens.cli import paging
    from flujo_lens.rendering.columns import RUN

    if all_ and limit is not None:
        raise UsageError("--all and --limit contradict each other")
    wanted, out = app.wanted(filters), app.output(output)
    if count:
        paging.print_count(app, out, wanted)
    elif all_ and not out.is_table:
        paging.stream_all(app, out, RUN, wanted, cursor, reverse)
    else:
        most = None if all_ else limit or DEFAULT_LIMIT
        paging.print_page(app, out, RUN, wanted, most, cursor, reverse)
