"""``lens stats``."""

from __future__ import annotations

from flujo_lens.cli.context import App
from flujo_lens.cli.options import FilterOptions, OutputOptions


def stats(app: App, filters: FilterOptions, output: OutputOptions) -> None:
    """Count runs by pipeline, failures by error and spans by name.

    With percentiles of the durations of runs and spans.

    lens stats --since 7d --pipeline orders     one pipeline, one week
    """
    from flujo_lens.cli.screens.lists import print_stats

    print_stats(app, app.output(output), filters)
