"""``lens metrics``."""

from __future__ import annotations

from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.groups import make_group


def serve(
    app: App,
    port: Annotated[int, typer.Option("--port", help="Port; 0 takes a free one.", min=0, max=65535)] = 9464,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; 0.0.0.0 is every one.", metavar="ADDRESS")
    ] = "127.0.0.1",
    interval: Annotated[
        float,
        typer.Option("--interval", help="Seconds for which figures are served again.", min=0, metavar="SECONDS"),
    ] = 15.0,
) -> None:
    """Serve the figures of the store for Prometheus, at /metrics.

    A store that goes away is lens_up 0; one that does not exist at the start is an error. SIGTERM or Ctrl-C ends it.

    lens metrics serve --store prod                        for a Prometheus on this machine
    lens metrics serve --host 0.0.0.0 --interval 60        for another one, read once a minute
    """
    from flujo_lens.cli.screens.metrics import serve_metrics

    serve_metrics(app, host, port, interval)


group = make_group("Metrics for Prometheus; lens stats -o prometheus prints them once.", {"serve": serve})
