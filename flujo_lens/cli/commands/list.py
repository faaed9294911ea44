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
    all_: Annotated[bool, typer.Option("--all", help="List all runs.")] = False,
    cursor: Annotated[
        str | None, typer.Option("--cursor", help="Continue after the page that printed this cursor.", metavar="CURSOR")
    ] = None,
    reverse: Annotated[bool, typer.Option("--reverse", help="List the oldest first; with --sort, the least.")] = False,
    sort: Annotated[
        str | None,
        typer.Option(
            "--sort",
            help="Sort by started, updated, duration, cost, tokens or size, the greatest first; FIELD:asc the least.",
            metavar="FIELD[:desc|asc]",
        ),
    ] = None,
    count: Annotated[bool, typer.Option("--count", help="Print only the number of runs.")] = False,
) -> None:
    """List runs, newest first or sorted.

    Background tasks are included, as are runs with only a history or only a state.

    lens list --status failed --since 2h        recent failures
    lens list --sort cost -n 10 --since 7d      the ten most expensive runs of the week
    lens list --meta customer=4711 -o id        only ids, for a script
    """
    from flujo_lens.cli import paging
    from flujo_lens.cli.input.contradictions import refuse_combination
    from flujo_lens.cli.screens.list import print_runs

    if all_:
        refuse_combination("--all", {"--limit": limit})
    if count:
        others = {
            "--limit": limit,
            "--cursor": cursor,
            "--reverse": reverse,
            "--sort": sort,
            "--columns": output.columns,
        }
        refuse_combination("--count", others, "--count counts all runs that match the filters")
    out, wanted = app.output(output, _COUNTED if count else None), app.wanted(filters)
    if count:
        paging.print_count(app, out, wanted)
        return
    asked = paging.Asked(filters, limit, cursor, reverse, sort)
    print_runs(app, out, wanted, None if all_ else limit or DEFAULT_LIMIT, asked)
