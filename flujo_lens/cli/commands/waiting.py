"""``lens waiting``."""

from __future__ import annotations

from flujo_lens.cli.context import App
from flujo_lens.cli.options import FilterOptions, LimitOption, OutputOptions


def waiting(app: App, filters: FilterOptions, output: OutputOptions, limit: LimitOption = None) -> None:
    """Show the runs that wait for a person: what they ask, how to answer.

    The longest waiting are first.

    lens waiting --pipeline approvals     those of one pipeline
    """
    from flujo_lens.cli.screens.lists import waiting_list

    waiting_list(app, app.output(output), filters, limit)
