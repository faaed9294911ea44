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
    show_input: Annotated[bool, typer.Option("--show-input", help="Show the input of each step.")] = False,
    show_output: Annotated[bool, typer.Option("--show-output", help="Show the output of each step.")] = False,
    show_error: Annotated[bool, typer.Option("--show-error", help="Show errors in full.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="All three.")] = False,
    state: Annotated[bool, typer.Option("--state", help="Show the saved state.")] = False,
    final_output: Annotated[
        bool, typer.Option("--final-output", help="Print only the output of the run, as JSON.")
    ] = False,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Show it as it changes until it ends; the same as lens watch RUN.")
    ] = False,
) -> None:
    """Show a run: its status, the reason, and its steps.

    Steps have their duration, cost, tokens and attempts.

    lens show @failed -v            the newest failed run, with all texts
    """
    from flujo_lens.cli.input.contradictions import refuse_combination
    from flujo_lens.cli.screens.show import ShowParts, print_final_output, print_run

    texts = {"--show-input": show_input, "--show-output": show_output, "--show-error": show_error}
    if follow:
        from flujo_lens.cli.screens.follow import FORMATS, follow_run

        refuse_combination(
            "--follow", {**texts, "--verbose": verbose, "--state": state, "--final-output": final_output}
        )
        follow_run(app, app.output(output, FORMATS), run, 1.0)
    elif final_output:
        others = {**texts, "--verbose": verbose, "--state": state, "--columns": output.columns}
        refuse_combination("--final-output", others, "--final-output prints a single JSON value")
        print_final_output(app, app.output(output, ("json", "table") if output.output else None), run)
    else:
        out = app.output(output, is_document=True)
        if state and (output.columns is not None or (output.output is not None and out.form in _ROWS)):
            raise UsageError(
                f"--state does not go with {'--columns' if output.columns is not None else f'-o {out.form}'}, "
                "which print steps",
                hint="to print the state: lens show RUN --state -o json",
            )
        parts = ShowParts(show_input or verbose, show_output or verbose, show_error or verbose, state)
        print_run(app, out, run, parts)
