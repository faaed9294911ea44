"""``lens watch``."""

from __future__ import annotations

from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.options import FilterOptions, OutputOptions, words_of
from flujo_lens.errors import UsageError

Interval = Annotated[
    float,
    typer.Option(
        "--interval", help="Seconds between looks (default 1).", min=0.1, metavar="SECONDS", show_default=False
    ),
]


def watch(
    app: App,
    filters: FilterOptions,
    output: OutputOptions,
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN]",
            help="Follow this run until it ends: an id, a unique prefix, or @latest, @failed, @paused.",
            show_default=False,
        ),
    ] = None,
    interval: Interval = 1.0,
    recent: Annotated[
        str | None,
        typer.Option("--recent", help="Show finished runs for this long (default 15m).", metavar="LENGTH"),
    ] = None,
    exit_status: Annotated[
        bool, typer.Option("--exit-status", help="Exit with the outcome of RUN: 0 completed, 1 failed, 6 paused.")
    ] = False,
) -> None:
    """Show running, paused and just finished runs as they change.

    With RUN, follow the steps and spans of one run until it ends or pauses. In a pipe, print a line for each event.

    lens watch --pipeline orders                     until Ctrl-C
    lens watch run-1 --exit-status && ./deploy.sh    wait for a run
    lens watch -o ndjson | jq -c 'select(.event == "failed")'
    """
    from flujo_lens.cli.input.contradictions import refuse_combination
    from flujo_lens.cli.input.parsing import length
    from flujo_lens.cli.screens.follow import FORMATS, follow_run

    out = app.output(output, FORMATS)
    if run is None:
        from flujo_lens.cli.screens.watch import WatchArguments, watch_store

        if exit_status:
            raise UsageError("--exit-status needs a RUN", hint="lens watch @latest --exit-status")
        watch_store(app, out, WatchArguments(filters, interval, length(recent or "15m", "--recent")))
        return
    others = {"--recent": recent, **{word.partition("=")[0]: True for word in words_of(filters)}}
    refuse_combination("RUN", others, "filters select runs; RUN names one")
    code = follow_run(app, out, run, interval)
    if exit_status:
        raise typer.Exit(code)
