"""``lens explain``."""

from __future__ import annotations

from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.options import OutputOptions


def explain(
    app: App,
    output: OutputOptions,
    code: Annotated[
        str | None, typer.Argument(metavar="[CODE]", help="An error code: LENS-B1, or B1.", show_default=False)
    ] = None,
) -> None:
    """Explain an error code: meaning, causes, and what to do.

    Without a code, lists all codes.

    lens explain LENS-B1
    """
    from flujo_lens.cli.screens.explain import print_codes, print_page

    out = app.output(output, is_document=True)
    if code is None:
        print_codes(out)
    else:
        print_page(out, code)
