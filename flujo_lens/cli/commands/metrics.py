"""``lens metrics``."""

from __future__ import annotations

from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.groups import make_group


def serve(
    app: App,
    port: Annotated[
        int, typer.Option("--port", help="Port to listen on; 0 selects a free one.", min=0, max=65535, metavar="PORT")
    ] = 9464,
    host: Annotated[
        str,
        typer.Option(
            "--host", help="Address to listen on; 0.0.0.0 for all addresses of this machine.", metavar="ADDRESS"
        ),
    ] = "127.0.0.1",
    interval: Annotated[
        float,
        typer.Option("--interval", help="Read the store at most once in this time.", min=0, metavar="SECONDS"),
    ] = 15.0,
) -> None:
    """Serve metrics of the store for Prometheus, at /metrics.

    While the store cannot be read, lens_up is 0. A store that does not exist at the start is an error. Ctrl-C or
    SIGTERM stops it.

    lens metrics serve --store prod                        for a Prometheus on this machine
    lens metrics serve --host 0.0.0.0 --interval 60        for another machine; reads the store once a minute
    """
    from flujo_lens.cli.screens.metrics import serve_metrics

    serve_metrics(app, host, port, interval)


group = make_group("Metrics for Prometheus; lens stats -o prometheus prints them once.", {"serve": serve})
