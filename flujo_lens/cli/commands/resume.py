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
            "--input-file", help="Read the answer from a file (.json: as JSON).", metavar="FILE", show_default=False
        ),
    ] = None,
    step: Annotated[
        str | None,
        typer.Option("--step", help="Fail unless it waits at this step.", metavar="NAME", show_default=False),
    ] = None,
    question: Annotated[
        str | None,
        typer.Option(
            "--question", help="Fail unless it asks this question (lens waiting).", metavar="ID", show_default=False
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Even if it was saved a moment ago without a claim.")] = False,
) -> None:
    """Resume a run: answer it, or continue at the step that failed.

    Asks for the answer on a terminal. Prints the output of the run, or its next question. Without --question or
    --step, only the first question of a run can be answered.

    lens resume run-1 --app myapp.pipelines:registry --input yes
    lens resume run-1 --question 5a1b9c0d --input yes  that question, or none
    lens resume run-1 --dry-run                 what would run next, and whether it can
    """
    from flujo_lens.cli.screens.resume import Given, ResumeArguments, run_resume

    if exit_code := run_resume(
        app, ResumeArguments(run, code, Given(text, json_text, file), step, question, force, change)
    ):
        raise typer.Exit(exit_code)
