"""``lens check``: input, output and exit code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from flujo_lens.cli.application import the_application
from flujo_lens.cli.context import App
from flujo_lens.cli.input.contradictions import refuse_combination
from flujo_lens.cli.options import FilterOptions, OutputOptions
from flujo_lens.cli.output import Output
from flujo_lens.cli.screens.progress import Bar
from flujo_lens.errors import LensError, OperationFailedError, UnknownValueError, UsageError
from flujo_lens.operations.runs_in_flight import Inflight, collect, read_inflight, save_inflight
from flujo_lens.rendering import ci, columns, human
from flujo_lens.rendering.data import FORMATS
from flujo_lens.rendering.text import escape_controls
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.typed_times import parse_age
from flujo_lens.state.views import RunFilter

if TYPE_CHECKING:
    from flujo_lens.operations.check import CheckedGroup, CheckReport
    from flujo_lens.runner.application import Application

_CI = {"github": ci.github, "junit": ci.junit}
_CI_ERRORS = {"github": ci.github_error, "junit": ci.junit_error}
_FEW = 3
"""Maximum number of groups with remedies; the others are usually alike."""

_READ_ANYWAY = 1000
"""Number of runs whose contexts are read without ``--deep``: about one second."""

_CLOCKS = timedelta(minutes=5)
"""Tolerated difference between the clocks of two machines."""


class CheckArguments(NamedTuple):
    """Arguments of ``lens check``."""

    target: str | None
    app_dir: Path | None
    deep: bool
    save: Path | None
    force: bool
    from_file: Path | None
    max_age: str | None
    fail_on: str | None
    min_runs: int


def run_check(app: App, filters: FilterOptions, output: OutputOptions, asked: CheckArguments) -> bool:
    """Check the runs; return whether no verdict fails.

    Raises:
        UsageError: the options contradict each other, or no application is given.
        InflightError: the file is not usable.
        OperationFailedError: the file is too old.
    """
    saves_alone = asked.save is not None and asked.target is None
    if saves_alone:
        others = {"--fail-on": asked.fail_on, "--app-dir": asked.app_dir, "--columns": output.columns}
        refuse_combination("--save", others, "without --app, --save only writes the file and checks nothing")
    out = app.output(output, ("table", "tsv", "json") if saves_alone else (*FORMATS, *_CI), is_document=True)
    try:
        return _checked(app, filters, out, asked)
    except Exception as error:
        _tell_ci(out, error)
        raise


def _tell_ci(out: Output, error: Exception) -> None:
    """Write an error in the CI format, so that the report is never empty."""
    if out.form not in _CI:
        return
    code, message = (error.code, error.message) if isinstance(error, LensError) else ("LENS-X1", type(error).__name__)
    for line in _CI_ERRORS[out.form](code, out.redactor.text(message)):
        out.write(f"{line}\n".encode())


def _checked(app: App, filters: FilterOptions, out: Output, asked: CheckArguments) -> bool:
    if asked.from_file is not None:
        refuse_combination("--from", {"--store": app.options.store}, "the file is checked without a store")
    age = _checked_options(asked)
    saved = None if asked.from_file is None else _young_enough(app, asked.from_file, age)
    wanted = app.wanted(filters, saved and (lambda: {group.status for group in saved.groups}))
    out.fields(columns.CHECK)  # refuses an unknown column before anything is read
    if asked.save is not None and asked.target is None:
        found = _found(app, wanted)
        _save(app, out, found, asked)
        return _enough(app, found.runs, asked)
    from flujo_lens.runner.context import PipelineContext

    failing = _fail_on(asked.fail_on)
    kept = None if saved is None else saved.only(wanted)
    application = _application(app, asked)
    report, source = _report(app, wanted, asked, kept, application)
    is_plain = application.context_model is PipelineContext
    return _Screen(app, out, asked, application.target, source, is_plain).show(report, failing)


def _checked_options(asked: CheckArguments) -> timedelta | None:
    """The maximum age of the file.

    Raises:
        UsageError: contradictory options.
    """
    if asked.from_file is not None and (asked.deep or asked.save is not None):
        other = "--deep: the file has no contexts" if asked.deep else "--save"
        raise UsageError(f"--from cannot be combined with {other}")
    if asked.save is not None and asked.deep:
        raise UsageError("--save cannot be combined with --deep: the file never has contexts")
    if asked.force and asked.save is None:
        raise UsageError("--force needs --save")
    if asked.max_age is None:
        return None
    age = parse_age(asked.max_age)
    if asked.from_file is None or not age:
        why = f'takes an age, not "{asked.max_age}"' if asked.from_file is not None else "needs --from"
        raise UsageError(f"--max-age {why}", hint="--from inflight.json --max-age 1d; also 90m, 6h, 2w")
    return age


def _fail_on(asked: str | None) -> frozenset[str] | None:
    """The verdicts that fail; None for all verdicts that prevent resuming."""
    from flujo_lens.operations.check import VERDICTS

    if asked is None:
        return None
    names = [name.strip() for name in asked.lower().split(",") if name.strip()]
    for name in names or [asked]:
        if name not in (*VERDICTS, "none"):
            raise UnknownValueError.of("verdict", name, (*VERDICTS, "none"))
    if "none" in names and len(names) > 1:
        raise UsageError("--fail-on none cannot be combined with a verdict")
    return frozenset(names) - {"none"}


def _application(app: App, asked: CheckArguments) -> Application:
    if asked.target is None and app.settings.resume_app is None:
        raise UsageError(
            "no application to check the runs against",
            hint="--app myapp.pipelines:registry, or in lens.toml: [resume] app = ...",
        )
    return the_application(app, asked.target, asked.app_dir)


# --- what is checked


def _found(app: App, wanted: RunFilter) -> Inflight:
    return app.run(lambda backend: collect(backend, wanted, app.store_name, app.world.now()))


def _report(
    app: App, wanted: RunFilter, asked: CheckArguments, kept: Inflight | None, application: Application
) -> tuple[CheckReport, str]:
    """The report, and the source of the runs; `kept` are those of a file."""
    from flujo_lens.operations.check import check_contexts, check_groups
    from flujo_lens.operations.resume import check_library

    if kept is not None:
        return check_groups(kept, application), f"{kept.store} at {_clock(kept)}"
    app.run(lambda backend: check_library(backend, application))
    found = _found(app, wanted)
    if asked.save is not None:
        save_inflight(app.world.cwd / asked.save, found, force=asked.force)
    if not asked.deep and found.runs > _READ_ANYWAY:
        return check_groups(found, application), found.store

    async def work(backend: StateBackend) -> CheckReport:
        with Bar(app, "checking", "runs", found.runs) as bar:
            return await check_contexts(backend, wanted, application, bar.update)

    return app.run_steps(work), found.store


def _young_enough(app: App, path: Path, age: timedelta | None) -> Inflight:
    """The content of the file.

    Raises:
        OperationFailedError: it is too old, or from the future.
    """
    found = read_inflight(path)
    past = app.world.now() - found.made_at
    if age is not None and not -_CLOCKS <= past <= age:
        when = f"{human.age(past)} old" if past > age else f"from the future, by {human.age(-past)}"
        raise OperationFailedError(
            f"{path} is {when} (saved {_clock(found)}): --max-age allows {human.age(age)}; nothing was checked",
            hint=f"save it again with access to {found.store}: lens check --save {path.name}",
            made_at=found.made_at.isoformat(),
        )
    return found


def _clock(found: Inflight) -> str:
    return f"{found.made_at.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}"


def _save(app: App, out: Output, found: Inflight, asked: CheckArguments) -> None:
    assert asked.save is not None
    save_inflight(asked.save, found, force=asked.force)
    if out.form == "json":
        made = {"path": str(asked.save), "store": found.store, "made_at": found.made_at}
        out.document({**made, "runs": found.runs, "groups": len(found.groups)})
        return
    saved = f"saved the positions of {_counted(found.runs, len(found.groups))} to {asked.save}"
    app.say([saved])


def _counted(runs: int, groups: int) -> str:
    return f"{human.plural(runs, 'run')} in {human.plural(groups, 'group')}"


def _too_few(runs: int, asked: CheckArguments) -> str | None:
    if runs >= asked.min_runs:
        return None
    return f"{human.plural(runs, 'run')} found, fewer than --min-runs {asked.min_runs}: is it the right store?"


def _enough(app: App, runs: int, asked: CheckArguments) -> bool:
    lacking = _too_few(runs, asked)
    if lacking:
        app.tell(lacking)
    return lacking is None


# --- what is printed


class _Screen(NamedTuple):
    """Prints a report."""

    app: App
    out: Output
    asked: CheckArguments
    target: str
    source: str
    is_plain: bool

    def show(self, report: CheckReport, verdicts: frozenset[str] | None) -> bool:
        """Print the report; return whether no verdict fails and there are enough runs."""
        failing = [each for each in report.groups if _fails(each, verdicts)]
        lacking = _too_few(report.runs, self.asked)
        if self.out.form in _CI:
            self._for_ci(self._checked(report, failing, lacking))
            self._limits(report)
        else:
            self.out.show(columns.CHECK, report.groups, "")
            self._remarks(report)
        if lacking:
            self.app.tell(lacking)
        return not failing and lacking is None

    def _checked(self, report: CheckReport, failing: list[CheckedGroup], lacking: str | None) -> ci.Checked:
        properties, mask = self._properties(report), self.out.redactor.text
        return ci.Checked(report.groups, failing, self._summary(report), lacking, properties, mask)

    def _for_ci(self, checked: ci.Checked) -> None:
        for line in _CI[self.out.form](checked):
            self.out.write(f"{line}\n".encode())

    def _properties(self, report: CheckReport) -> tuple[tuple[str, str], ...]:
        return ("app", self.target), ("store", self.source), ("runs", str(report.runs))

    def _summary(self, report: CheckReport) -> str:
        counted = _counted(report.runs, len(report.groups))
        if not report.runs:
            return f"checked 0 runs against {self.target}: no resumable runs in {self.source}"
        worse = f"{report.stranded:,} of them could not resume" if report.stranded else "all could resume"
        unread = f"; {human.plural(report.unread, 'context')} not read" if report.unread else ""
        return f"checked {counted} of {self.source} against {self.target}: {worse}{unread}"

    def _remarks(self, report: CheckReport) -> None:
        """Print what to do, the limits of the check and its summary."""
        if self.out.is_table:
            for line in self._what_to_do(report.groups):
                self.out.print(self.app.shown(line))
        self._limits(report)
        self.app.note(escape_controls(self._summary(report)))

    def _limits(self, report: CheckReport) -> None:
        if report.unread:
            unread = f"the contexts of {human.plural(report.unread, 'run')} were not read: their shapes match"
            hint = "--deep, with the store, reads them" if self.asked.from_file else "--deep reads them"
            self.app.note(f"{unread}; {hint}")
        if report.unshaped:
            named = human.plural(report.unshaped, "run")
            self.app.note(f"{named} without a manifest: checked only by version and step names")
        if self.is_plain and any(group.code == "LENS-C5" for group in report.groups):
            self.app.note(f"{self.target} has no context model: name a Flujo with a context_model if the runs have")

    def _what_to_do(self, groups: Sequence[CheckedGroup]) -> Iterator[str]:
        stuck = [group for group in groups if group.code is not None]
        for group in stuck[:_FEW]:
            yield ""
            yield f"{group.code}  {ci.summary(group)}"
            for number, remedy in enumerate(group.remedies, 1):
                yield f"  {number}  {remedy.title}"
                yield from (f"     {line}" for line in (remedy.code or remedy.consequence).split("\n"))
            yield f"  more: lens explain {group.code}"
        if len(stuck) > _FEW:
            yield ""
            yield f"{human.plural(len(stuck) - _FEW, 'more group')} that could not resume: {self._as_json()}"
        if stuck and self.asked.from_file is None:
            from flujo_lens.rendering.text import quoted, run_command

            yield ""
            command = run_command("resume", stuck[0].sample_run_id, f"--app {quoted(self.target)} --dry-run")
            yield f"details of one run: {self.app.suggest(command)}"

    def _as_json(self) -> str:
        """The command that prints all groups with their differences."""
        return self.app.repeated.whole(*(() if self.out.options.output else ("-o", "json")))


def _fails(group: CheckedGroup, verdicts: frozenset[str] | None) -> bool:
    return group.code is not None if verdicts is None else group.verdict in verdicts
