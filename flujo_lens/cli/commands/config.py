"""``lens config``."""

from __future__ import annotations

from flujo_lens.cli.context import App
from flujo_lens.cli.options import OutputOptions


def config(app: App, output: OutputOptions) -> None:
    """Show every setting, its value and where it came from.

    lens config --store prod     the settings for the store "prod"
    """
    from flujo_lens.config import Setting
    from flujo_lens.rendering.columns import CONFIG

    rows = app.settings.rows
    if app.options.store is not None:
        meant = Setting("store", app.store.uri, "--store")
        rows = tuple(meant if row.key == "store" else row for row in rows)
    app.output(output, is_document=True).show(CONFIG, rows, "there are no settings")
