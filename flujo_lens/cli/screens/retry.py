"""``lens retry``: question, change and report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from flujo_lens.cli import exit_codes
from flujo_lens.cli.application import the_application
from flujo_lens.cli.change_output import recorder, report_output
from flujo_lens.cli.context import App
from flujo_lens.cli.input.confirm import check_can_ask, check_writable, confirm
from flujo_lens.cli.input.parsing import interval
from flujo_lens.cli.input.run_arguments import MOST_SHOWN, listed_runs, meant_all, named, typed
from flujo_lens.cli.options import AppOptions, ChangeOptions, FilterOptions, words_of
from flujo_lens.cli.output import Output
from flujo_lens.cli.signals import code_of, heard
from flujo_lens.cli.world import silence
from flujo_lens.errors import OperationFailedError, UsageError
from flujo_lens.operations.change_report import Report
from flujo_lens.operations.deletion import Stop
from flujo_lens.operations.retry import Pace, RetryPlan, plan_named, plan_wanted, retry
from flujo_lens.rendering.human import plural
from flujo_lens.rendering.text import escape_controls, escape_tsv
from flujo_lens.state.backends.base import StateBackend

if TYPE_CHECKING:
    from flujo_lens.operations.resume import Outcome
    from flujo_lens.runner.application import Application

_HELD = ("LENS-B2", "LENS-B3")
"""Codes of runs that another process holds or has taken over."""


class RetryArguments(NamedTuple):
    """Arguments of ``lens retry``."""

    runs: tuple[str, ...]
    filters: FilterOptions
    code: AppOptions
    concurrency: int
    rate: str | None
    yes: bool
    change: ChangeOptions

    def words(self, store: str | None, run_ids: list[str]) -> list[str]:
        """The command line with long options."""
        options = [*self.code.words(), *words_of(self, "rate", "filters", "yes"), *self.change.words(store)]
        return ["lens", "retry", f"--concurrency={self.concurrency}", *options, *(named(run_ids) if self.runs else [])]


def run_retry(app: App, asked: RetryArguments) -> int:
    """Find the runs, ask, resume them and report; return the exit code."""
    check_writable(app, dry_run=asked.change.dry_run)
    out = report_output(app, asked.change, ("table", "json", "ndjson", "id"))
    pace = Pace(interval(asked.rate) if asked.rate is not None else 0.0)
    plan = _planned(app, asked)
    asks = len(plan.runs) > 1 and not (asked.change.dry_run or asked.yes)
    if asks:
        check_can_ask(app, asked.yes, f"retry these {len(plan.runs):,} runs?")
    application = the_application(app, asked.code.target, asked.code.app_dir) if plan.runs else None
    if asks and application is not None:
        looked = app.run(lambda backend: _looked(app, backend, application, plan, asked))
        refused = {outcome.run_id: outcome for outcome in looked if outcome.code}
        if len(refused) == len(looked):
            return _all_refused(app, out, plan, looked)
        if not _agreed(app, plan, refused):
            return exit_codes.FAILED
    return _carried_out(app, out, plan, asked, application, pace)


async def _looked(
    app: App, backend: StateBackend, application: Application, plan: RetryPlan, asked: RetryArguments
) -> list[Outcome]:
    """Whether each run could be retried, as a dry run tells."""
    from flujo_lens.operations.resume import check_library, preview_retry

    async def one(run_id: str) -> Outcome:
        return await preview_retry(backend, application, run_id, app.world.now(), asked.code.pipeline_version)

    await check_library(backend, application)
    return (await retry(plan, one, None, concurrency=1, stop=Stop(), watch=lambda _: None))[0]


def _agreed(app: App, plan: RetryPlan, refused: Mapping[str, Outcome]) -> bool:
    """Ask whether to retry the runs, after a list of them and of those that would be refused."""
    going = [run for run in plan.runs if run.run_id not in refused]
    refusals = [_refusal(outcome.document() | {"code": outcome.code}) for outcome in refused.values()]
    question = f"retry {going[0].run_id}?" if len(going) == 1 else f"retry these {len(going):,} runs?"
    return confirm(app, question, False, [*listed_runs(going), *refusals[:MOST_SHOWN]])


def _all_refused(app: App, out: Output, plan: RetryPlan, looked: Sequence[Outcome]) -> int:
    """Report that no run can be retried, without a question; return the exit code."""
    watch = _Watch(out, app.world.stdout)
    for outcome in looked:
        watch(outcome)
    skipped = len(plan.others) + plan.stripped
    rows = [outcome.document() | {"code": outcome.code} for outcome in looked]
    _report(app, out, plan, rows, Report(len(looked) + skipped, 0, skipped, len(looked), 0))
    return exit_codes.PARTIAL


def _planned(app: App, asked: RetryArguments) -> RetryPlan:
    """The selected runs.

    Raises:
        UsageError: neither ids nor filters were given, or both.
    """
    if bool(asked.runs) == bool(words_of(asked.filters)):
        raise UsageError(
            "retry needs either run ids or filters; nothing was changed",
            hint="by id: lens retry RUN RUN\nby filter: lens retry --pipeline orders --since 2h\n"
            "by ids on stdin: lens list --status failed -o id | lens retry - --yes",
        )
    words = typed(app, asked.runs, not (asked.yes or asked.change.dry_run), "retry")
    wanted = app.wanted(asked.filters)

    async def look(backend: StateBackend) -> RetryPlan:
        if not asked.runs:
            return await plan_wanted(backend, wanted)
        return await plan_named(backend, await meant_all(app, backend, words, asked.yes))

    plan = app.run(look)
    if not (plan.runs or plan.others or asked.runs):
        app.note_no_runs("no failed runs match", wanted)
    return plan


def _carried_out(
    app: App, out: Output, plan: RetryPlan, asked: RetryArguments, application: Application | None, pace: Pace
) -> int:
    from flujo_lens.operations.resume import check_library, preview_retry, retry_run

    is_dry = asked.change.dry_run
    stop, watches = Stop(), list[_Watch]()

    async def work(backend: StateBackend) -> tuple[list[Outcome], Report]:
        async def one(run_id: str) -> Outcome:
            assert application is not None
            resume_run = preview_retry if is_dry else retry_run
            return await resume_run(backend, application, run_id, app.world.now(), asked.code.pipeline_version)

        if application is not None:
            await check_library(backend, application)
        command = asked.words(app.options.store, [run.run_id for run in plan.runs])
        writer = None if is_dry else recorder(app, backend, command, asked.change)
        watch = _Watch(out, app.world.stdout)
        watches.append(watch)
        return await retry(plan, one, writer, concurrency=asked.concurrency, stop=stop, watch=watch, pace=pace)

    with heard(stop):
        done, report = (app.run if is_dry else app.run_steps)(work)
    rows = [outcome.document() | {"code": outcome.code} for outcome in done]
    _check_written(app, watches, _summary(plan, report, [row["code"] for row in rows]))
    _report(app, out, plan, rows, report)
    return code_of(stop) or (exit_codes.PARTIAL if report.failed else exit_codes.OK)


def _check_written(app: App, watches: Sequence[_Watch], summary: str) -> None:
    """Check that the results could be printed.

    Raises:
        OperationFailedError: they could not; the message has the results.
    """
    for failure in (watch.failure for watch in watches if watch.failure is not None):
        command = app.suggest("lens list --status failed")
        raise OperationFailedError(
            f"cannot write the output: {failure.strerror}; the runs were retried nevertheless: {summary}",
            hint=f"runs that failed again: {command}",
        )


class _Watch:
    """Prints each run when it ends, if the format is one of lines.

    A closed pipe or a write error does not stop the work.

    Attributes:
        failure: The write error; None without one, or for a closed pipe.
    """

    def __init__(self, out: Output, stdout: TextIO) -> None:
        self._out, self._stdout = out, stdout
        self.failure: OSError | None = None

    def __call__(self, outcome: Any) -> None:
        """Print one."""
        try:
            if line := self._line(outcome):
                self._write(line)
        except BrokenPipeError:
            return
        except OSError as error:
            self.failure = self.failure or error
            silence(self._stdout)  # buffered output would fail again

    def _write(self, line: str) -> None:
        if self._out.form in ("id", "ndjson"):
            self._out.write(f"{line}\n".encode("utf-8", "backslashreplace"), self._stdout)
        else:
            self._stdout.write(f"{line}\n")
        self._stdout.flush()

    def _line(self, outcome: Any) -> str | None:
        from flujo_lens.rendering.json_text import dump

        if self._out.form == "json":
            return None
        if self._out.form == "id":
            return None if outcome.code or outcome.status == "failed" else escape_tsv(outcome.run_id)
        if self._out.form == "ndjson":
            return dump(self._out.redactor.value(outcome.document() | {"code": outcome.code})).decode()
        if self._out.app.options.quiet:
            return None
        return escape_controls(_outcome_line(outcome, self._out.redactor.text))


def _outcome_line(outcome: Any, mask: Callable[[str], str]) -> str:
    error = mask(outcome.error or "")
    if outcome.code in _HELD:
        return f"{outcome.run_id} is held by another process: {outcome.code}: {error}"
    if outcome.code:
        return f"{outcome.run_id} was not retried: {outcome.code}: {error}"
    at = f" at {outcome.step}" if outcome.step and outcome.status != "completed" else ""
    why = error if outcome.status == "failed" else mask(outcome.pause_message or "")
    return f"{outcome.run_id} {outcome.status}{at}{f': {why}' if why else ''}"


def _report(app: App, out: Output, plan: RetryPlan, rows: list[dict[str, Any]], report: Report) -> None:
    if out.form == "json":
        out.document({**report.document(), "runs": rows})
        return
    refused = {row["run_id"]: row for row in rows if report.dry_run and row["code"]}
    going = [run for run in plan.runs if run.run_id not in refused]
    if report.dry_run and out.form == "id":
        out.ids(run.run_id for run in going)
    if out.form in ("id", "ndjson"):
        return
    if report.dry_run:
        app.say([*listed_runs(going), *map(_refusal, list(refused.values())[:MOST_SHOWN])])
    app.say([_summary(plan, report, [row["code"] for row in rows])])


def _refusal(row: Mapping[str, Any]) -> str:
    return escape_controls(f"{row['run_id']} would not be retried: {row['code']}: {row['error_message']}")


def _summary(plan: RetryPlan, report: Report, codes: Sequence[str | None]) -> str:
    skipped = ", ".join(escape_controls(f"{run.run_id} is {run.status}") for run in plan.others[:MOST_SHOWN])
    skips = f"; skipped {len(plan.others)}: {skipped}" if skipped else ""
    skips += f"; skipped {plural(plan.stripped, 'run')} without outputs or state (LENS-F3)" if plan.stripped else ""
    if report.dry_run:
        refused = f", {report.failed} refused" if report.failed else ""
        return f"{plural(report.left, 'run')} would be retried{refused}{skips}; nothing was changed (--dry-run)"
    if not plan.runs:
        return f"nothing to retry{skips}"
    left = f", {report.left} not started" if report.left else ""
    held = sum(code in _HELD for code in codes)
    others = sum(code is not None for code in codes) - held
    apart = f", {held} held by other processes" if held else ""
    apart += f", {others} not retried" if others else ""
    again = report.failed - held - others
    return f"{plural(len(plan.runs), 'run')}: {report.done} resumed, {again} failed again{apart}{left}{skips}"
