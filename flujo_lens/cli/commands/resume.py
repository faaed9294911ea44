"""``lens resume``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.options import AppOptions, ChangeOptions, RunArgument


def resume(
    app: App,
    run: RunArgument,
    code: AppOptions,
    change: ChangeOptions,
    text: Annotated[
        str | None, typer.Option("--input", help="The answer, as text.", metavar="TEXT", show_default=False)
    ] = None,
    json_text: Annotated[
        str | None, typer.Option("--input-json", help="The answer, as JSON.", metavar="JSON", show_default=False)
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--input-file", help="It is in this file; in a .json as JSON.", metavar="FILE", show_default=False
        ),
    ] = None,
    step: Annotated[
        str | None, typer.Option("--step", help="It has to wait at this step.", metavar="NAME", show_default=False)
    ] = None,
    question: Annotated[
        str | None,
        typer.Option("--question", help="It has to ask this one (lens waiting).", metavar="ID", show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Also one saved a moment ago, which nobody claims.")] = False,
) -> None:
    """Continue a run: answer it, or go on at the step that failed.

    On a terminal it asks for the answer. It prints what the run returns, or the next question. An answer that does not
    say which question it is for (--question, --step) answers the first question of a run alone.

    lens resume run-1 --app myapp.pipelines:registry --input yes
    lens resume run-1 --question 5a1b9c0d --input yes  the question that was read, or none
    lens resume run-1 --dry-run                 what would run next, and whether it fits
    """
    from flujo_lens.cli.screens.resume import Given, Resuming, run_resume

    if exit_code := run_resume(app, Resuming(run, code, Given(text, json_text, file), step, question, force, change)):
        raise typer.Exit(exit_code)
