"""``lens resume``: prompt, change and report."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from flujo_lens.cli import exit_codes
from flujo_lens.cli.application import the_application
from flujo_lens.cli.change_output import recorder
from flujo_lens.cli.context import App
from flujo_lens.cli.input.answer_form import ask_answer
from flujo_lens.cli.input.confirm import can_ask, check_writable
from flujo_lens.cli.input.run_arguments import meant
from flujo_lens.cli.options import AppOptions, ChangeOptions, OutputOptions, words_of
from flujo_lens.cli.output import Output
from flujo_lens.cli.screens.lists import answer_command
from flujo_lens.cli.signals import code_of, cut_off
from flujo_lens.cli.streams import decoded, read_text
from flujo_lens.errors import UsageError, command_line
from flujo_lens.operations.deletion import Stop
from flujo_lens.operations.system import parse_json
from flujo_lens.rendering.text import escape_controls, run_command
from flujo_lens.state.backends.base import StateBackend

if TYPE_CHECKING:
    from flujo_lens.operations.resume import Outcome, Prepared
    from flujo_lens.runner.application import Application
    from flujo_lens.runner.stored_run import Stored

_VERDICTS = {
    "identical": "the pipeline is the same as when the run started",
    "compatible": "the pipeline has changed, but not for this run",
    "remapped": "the pipeline has changed; the position of the run was mapped to it",
    "needs-migration": "the saved context will be migrated first",
    "names-match": "the run has no manifest; its step names and version match this code",
}


class Given(NamedTuple):
    """The answer on the command line, by one of three options."""

    text: str | None
    json: str | None
    file: Path | None

    @property
    def is_there(self) -> bool:
        """Whether an answer was given."""
        return any(value is not None for value in self)

    def words(self) -> list[str]:
        """The options for the audit log, with their values masked."""
        names = ("--input", "--input-json", "--input-file")
        return [f"{name}=..." for name, value in zip(names, self, strict=True) if value is not None]

    def value(self, app: App) -> Any:
        """The answer: a text unchanged, JSON as its value; a file is JSON if its name ends in .json.

        Raises:
            UsageError: several options were given, or the answer cannot be read or is not JSON.
        """
        if sum(value is not None for value in self) > 1:
            raise UsageError("--input, --input-json and --input-file contradict each other; give one of them")
        if self.json is not None:
            return parse_json(self.json)
        if self.file is None:
            return _utf8(self.text)
        text = _content(app, self.file)
        return parse_json(text) if self.file.suffix.lower() == ".json" else text.removesuffix("\n")


class ResumeArguments(NamedTuple):
    """Arguments of ``lens resume``."""

    run: str
    code: AppOptions
    given: Given
    step: str | None
    question: str | None
    force: bool
    change: ChangeOptions

    def words(self, store: str | None, run_id: str) -> list[str]:
        """The command line with long options."""
        more = words_of(self, "step", "question", "force")
        options = [*self.code.words(), *self.given.words(), *more, *self.change.words(store)]
        return ["lens", "resume", *options, run_id]


def run_resume(app: App, asked: ResumeArguments) -> int:
    """Resume a run, and report; return the exit code."""
    from flujo_lens.operations.resume import resume_run, stored_outcome
    from flujo_lens.runner.reply import NO_ANSWER, Reply

    if not asked.change.dry_run:
        check_writable(app)
    out = app.output(
        OutputOptions(output=asked.change.output, json=asked.change.json), ("table", "tsv", "json", "ndjson", "id")
    )
    answer = asked.given.value(app) if asked.given.is_there else NO_ANSWER
    stored = app.run(lambda backend: _found(app, backend, asked))
    reply = Reply(answer, None, asked.step, asked.question)
    ended = stored_outcome(stored, reply)
    if ended is not None:
        app.note(f"{escape_controls(stored.run_id)} is already completed: nothing was run")
        return _report(app, out, ended)
    application = the_application(app, asked.code.target, asked.code.app_dir)
    prepared = _prepared(app, application, stored, asked)
    reply.check(prepared.stored, prepared.pipeline)
    if asked.change.dry_run:
        _tell_dry(app, out, prepared)
        return exit_codes.OK
    answer = _answer(app, prepared, answer)

    async def work(backend: StateBackend) -> Outcome:
        async def change() -> Outcome:
            return await resume_run(backend, application, stored, answer, asked.code.pipeline_version)

        writer = recorder(app, backend, asked.words(app.options.store, stored.run_id), asked.change)
        return (await writer.recorded({"runs": 1}, [stored.run_id], change, _counted))[1]

    return _report(app, out, _done(app, stored, work))


def _counted(outcome: Outcome) -> tuple[dict[str, int], list[str]]:
    """The result for the audit log."""
    return {str(outcome.status): 1}, [outcome.run_id]


def _content(app: App, file: Path) -> str:
    if str(file) == "-":
        return _some(read_text(app.world.stdin), "stdin")
    try:
        raw = (app.world.cwd / file).read_bytes()
    except FileNotFoundError as error:
        from flujo_lens.operations.input_file import no_such_file

        raise no_such_file(file) from error
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from error
    return _some(decoded(raw, str(file)), str(file))


def _utf8(text: str | None) -> str | None:
    """The text of --input.

    Raises:
        UsageError: it is not UTF-8: its bytes arrive as lone surrogates, which cannot be stored.
    """
    if text is not None and any("\ud800" <= char <= "\udfff" for char in text):
        raise UsageError("--input is not UTF-8 text; nothing was changed")
    return text


def _some(text: str, name: str) -> str:
    """The text, unless it is empty, as after a failed command.

    Raises:
        UsageError: it is empty.
    """
    if not text:
        raise UsageError(f"{name} is empty; nothing was changed", hint='to answer with an empty text: --input ""')
    return text


async def _found(app: App, backend: StateBackend, asked: ResumeArguments) -> Stored:
    from flujo_lens.operations.resume import stored_run

    return await stored_run(backend, await meant(backend, asked.run, can_ask(app)))


def _prepared(app: App, application: Application, stored: Stored, asked: ResumeArguments) -> Prepared:
    from flujo_lens.operations.resume import check_free, prepare
    from flujo_lens.runner.lease import lease_of

    async def look(backend: StateBackend) -> Prepared:
        if not asked.change.dry_run:
            lease = lease_of(application.lease)
            await check_free(backend, stored, app.world.now(), lease, force=asked.force)
        return await prepare(backend, application, stored, asked.code.pipeline_version)

    return app.run_steps(look)


def _answer(app: App, prepared: Prepared, given: Any) -> Any:
    """The answer that the run waits for: as given, or typed on the terminal.

    Raises:
        UsageError: no answer was given and there is no terminal; or it does not fit.
        NotWaitingError: an answer was given, but the run does not wait.
    """
    from flujo_lens.errors import NotWaitingError
    from flujo_lens.runner.answer_forms import wanted
    from flujo_lens.runner.reply import NO_ANSWER
    from flujo_lens.runner.value_checks import checked_answer

    run_id, step = prepared.stored.run_id, prepared.step or ""
    if not prepared.waits:
        if given is not NO_ANSWER:
            raise NotWaitingError.of(run_id, f"it is {prepared.stored.status}; without --input it continues")
        return NO_ANSWER
    if given is not NO_ANSWER:
        checked_answer(given, prepared.schema, step)
        return given
    message = prepared.stored.summary.pause_message or ""
    if not can_ask(app):
        raise UsageError(
            f'{run_id} waits at "{step}" for a person: {message or "(no message)"}',
            hint="\n".join([answer_command(prepared.stored.summary), *wanted(prepared.schema)]),
            run_id=run_id,
            step=step,
            pause_message=message,
        )
    app.tell(f"{escape_controls(run_id)} waits at {escape_controls(step)}:\n")
    for line in app.redactor.text(message).splitlines():
        app.tell(f"    {line}")
    app.tell("")
    return ask_answer(app, prepared.schema, step)


def _done(app: App, stored: Stored, work: Any) -> Outcome:
    """Run to the next stop; if Ctrl-C or SIGTERM interrupts, print how to continue.

    Raises:
        KeyboardInterrupt: Ctrl-C.
        typer.Exit: SIGTERM.
    """
    stop = Stop()

    async def terminable(backend: StateBackend) -> Outcome:
        with cut_off(stop):
            outcome: Outcome = await work(backend)
        return outcome

    try:
        return app.run_steps(terminable)
    except KeyboardInterrupt:
        _tell_interrupted(app, stored.run_id)
        raise
    except asyncio.CancelledError:
        if not stop:
            raise
        _tell_interrupted(app, stored.run_id)
        raise typer.Exit(code_of(stop)) from None


def _tell_interrupted(app: App, run_id: str) -> None:
    command = app.suggest(run_command("resume", run_id))
    left = f'{escape_controls(run_id)} is now failed, "interrupted", at the current step'
    app.tell(f"{left}: to continue, {command}")


# --- reporting


def _tell_dry(app: App, out: Output, prepared: Prepared) -> None:
    summary, verdict = prepared.stored.summary, prepared.verdict
    if out.form in ("json", "ndjson"):
        out.document(
            {
                "run_id": prepared.stored.run_id,
                "status": prepared.stored.status,
                "dry_run": True,
                "pipeline_name": summary.pipeline_name,
                "pipeline_version": summary.pipeline_version,
                "goes_on_with": prepared.version,
                "next_step": prepared.step,
                "pause_message": summary.pause_message,
                "has_manifest": prepared.has_manifest,
                **verdict.to_dict(),
                "next_index": prepared.at,
            }
        )
        return
    name = f"{summary.pipeline_name} {prepared.version}"
    does = f'waits at "{prepared.step}" (step {prepared.at})' if prepared.waits else None
    goes = f'would continue at "{prepared.step}" (step {prepared.at})' if prepared.step else "has no step left to run"
    lines = [f"{prepared.stored.run_id} {does or goes} of {name}"]
    message = app.redactor.text(summary.pause_message or "")
    lines += [f"    {line}" for line in message.splitlines()] if prepared.waits else []
    notes = (f"  {app.redactor.text(note)}" for note in verdict.notes)
    lines += [f"{verdict.kind}: {_VERDICTS[verdict.kind]}", *notes]
    app.say_masked([*lines, "nothing was changed (--dry-run)"])


def _report(app: App, out: Output, outcome: Outcome) -> int:
    """Print the result of a run; return the exit code."""
    code = exit_codes.FAILED if outcome.status == "failed" else exit_codes.OK
    if out.form == "json":
        out.document(outcome.document())
    elif out.form == "ndjson":
        out.line(outcome.document())
    elif out.form == "id":
        out.ids([outcome.run_id])
    elif outcome.status == "completed":
        _print_output(app, out, outcome.output)
    else:
        _tell_open(app, outcome)
    return code


def _print_output(app: App, out: Output, output: Any) -> None:
    """Print the output of a run: a text as lines, anything else as JSON."""
    if isinstance(output, str):
        out.result("\n".join(map(escape_controls, out.redactor.text(output).split("\n"))))
    else:
        out.document(output)


def _tell_open(app: App, outcome: Outcome) -> None:
    """Print a run that is not completed: a question on stdout, a failure on stderr."""
    if outcome.status != "failed":
        app.say_masked(_outcome_lines(app, outcome))
        return
    for line in _outcome_lines(app, outcome):
        app.tell(line)


def _outcome_lines(app: App, outcome: Outcome) -> list[str]:
    """The lines of a run that is not completed."""
    run_id, step = outcome.run_id, outcome.step or "a step"
    if outcome.status != "paused":
        next_one = app.suggest(run_command("resume", run_id))
        error = app.redactor.text(str(outcome.error))
        return [f"{run_id} {outcome.status} at {step}: {error}", f"next: {next_one}"]
    message = [f"    {line}" for line in app.redactor.text(outcome.pause_message or "").splitlines()]
    options = f"--question {outcome.question} --input ANSWER"
    answer = app.suggest(command_line("resume", escape_controls(run_id), options))
    return [f"{run_id} waits at {step}:", *message, f"to answer: {answer}"]
