"""``lens show``."""

from __future__ import annotations

from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.options import OutputOptions, RunArgument
from flujo_lens.errors import UsageError

_ROWS = ("csv", "tsv", "id")


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
    from flujo_lens.cli.input.contradictions import refuse_beside
    from flujo_lens.cli.screens.show import ShowParts, print_final_output, print_run

    if final_output:
        texts = {"--show-input": show_input, "--show-output": show_output, "--show-error": show_error}
        others = {**texts, "--verbose": verbose, "--state": state, "--columns": output.columns}
        refuse_beside("--final-output", others, "--final-output prints one JSON value, and nothing else")
        print_final_output(app, app.output(output, ("json", "table") if output.output else None), run)
    else:
        out = app.output(output)
        if state and (output.columns is not None or (output.output is not None and out.form in _ROWS)):
            raise UsageError(
                f"--state does not go with {'--columns' if output.columns is not None else f'-o {out.form}'}, "
                "which is about steps",
                hint="the whole state: lens show RUN --state -o json",
            )
        parts = ShowParts(show_input or verbose, show_output or verbose, show_error or verbose, state)
        print_run(app, out, run, parts)
