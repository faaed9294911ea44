"""``lens list``."""

from __future__ import annotations

from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.options import FilterOptions, OutputOptions

Limit = Annotated[
    int | None, typer.Option("--limit", "-n", help="Maximum number of runs (default 50).", min=1, metavar="N")
]
DEFAULT_LIMIT = 50
_COUNTED = ("table", "json", "ndjson", "csv", "tsv")


def list_runs(
    app: App,
    filters: FilterOptions,
    output: OutputOptions,
    limit: Limit = None,
    all_: Annotated[bool, typer.Option("--all", help="Every run, however many.")] = False,
    cursor: Annotated[
        str | None, typer.Option("--cursor", help="Continue after the page that printed this cursor.", metavar="CURSOR")
    ] = None,
    reverse: Annotated[bool, typer.Option("--reverse", help="The oldest start first.")] = False,
    count: Annotated[bool, typer.Option("--count", help="Only how many there are.")] = False,
) -> None:
    """List every run that any table knows, the newest start first.

    lens list --status failed --since 2h        what failed lately
    lens list --meta customer=4711 -o id        ids alone, for a script
    """
    from flujo_lens.cli import paging
    from flujo_lens.cli.input.contradictions import refuse_beside
    from flujo_lens.rendering.columns import RUN

    if all_:
        refuse_beside("--all", {"--limit": limit})
    if count:
        others = {"--limit": limit, "--cursor": cursor, "--reverse": reverse, "--columns": output.columns}
        refuse_beside("--count", others, "--count counts all runs that match the filters")
    out, wanted = app.output(output, _COUNTED if count else None), app.wanted(filters)
    if count:
        paging.print_count(app, out, wanted)
    elif all_ and not out.is_table:
        paging.stream_all(app, out, RUN, wanted, cursor, reverse)
    else:
        page = paging.Asked(filters, limit, cursor, reverse)
        paging.print_page(app, out, RUN, wanted, None if all_ else limit or DEFAULT_LIMIT, page)
