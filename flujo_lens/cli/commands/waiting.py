"""``lens waiting``."""

from __future__ import annotations

from flujo_lens.cli.context import App
from flujo_lens.cli.options import FilterOptions, LimitOption, OutputOptions


def waiting(app: App, filters: FilterOptions, output: OutputOptions, limit: LimitOption = None) -> None:
    """List runs that wait for a person, and how to answer them.

    Those that have waited longest come first.

    lens waiting --pipeline approvals     runs of one pipeline
    """
    from flujo_lens.cli.screens.lists import waiting_list

    waiting_list(app, app.output(output), filters, limit)
