"""``lens show``."""

from __future__ import annotations

from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.options import OutputOptions, RunArgument


def show(
    app: App,
    run: RunArgument,
    output: OutputOptions,
    show_input: Annotated[bool, typer.Option("--show-input", help="What each step was given.")] = False,
    show_output: Annotated[bool, typer.Option("--show-output", help="What each step returned.")] = False,
    show_error: Annotated[bool, typer.Option("--show-error", help="The whole text of errors.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="All three.")] = False,
    state: Annotated[bool, typer.Option("--state", help="The whole saved state.")] = False,
    final_output: Annotated[bool, typer.Option("--final-output", help="Only what the run returned, as JSON.")] = False,
) -> None:
    """Show one run: where it stands and why, and its steps.

    Each step is with its time, cost, tokens and tries.

    lens show @failed -v            the newest failed run, with all texts
    """
    from flujo_lens.cli.show_screen import ShowParts, print_final_output, print_run

    out = app.output(output)
    if final_output:
        print_final_output(app, out, run)
    else:
        parts = ShowParts(show_input or verbose, show_output or verbose, show_error or verbose, state)
        print_run(app, out, run, parts)
