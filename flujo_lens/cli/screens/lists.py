"""Output of the smaller commands: rows, and the next command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from flujo_lens.cli.context import App
from flujo_lens.cli.hints import with_filters
from flujo_lens.cli.input.contradictions import check_statuses
from flujo_lens.cli.options import FilterOptions
from flujo_lens.cli.output import Output
from flujo_lens.cli.paging import note_problems
from flujo_lens.errors import OperationFailedError, UsageError
from flujo_lens.operations.runs import resolve_run
from flujo_lens.rendering import columns
from flujo_lens.rendering.text import escape_controls, quoted, unescape
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.views import Evaluation, RunFilter, RunSummary, SystemEntry

if TYPE_CHECKING:
    from flujo_lens.config import StoreChoice

FEW_GROUPS = 20
PAUSED = frozenset({"paused"})
_WAITING = RunFilter(statuses=PAUSED)


def glob_of(error: str) -> str:
    """A glob that matches the errors of a group, quoted for a shell."""
    head = error.split("#")[0].rstrip("'\"`‘“ ")
    return quoted(f"{head}*" if len(head) >= 8 else error)


def answer_command(run: RunSummary) -> str:
    """The command that answers the current question of a run, and fails for any other."""
    from flujo_lens.errors import command_line
    from flujo_lens.state.questions import question_of

    return command_line("resume", escape_controls(run.run_id), f"--question {question_of(run)} --input ANSWER")


def waiting_list(app: App, out: Output, filters: FilterOptions, limit: int | None) -> None:
    """Print paused runs, those that have waited longest first, and how to answer."""
    wanted = app.wanted(filters)
    check_statuses("lens waiting", wanted.statuses, PAUSED, "lens list --status S shows the runs of another status")
    wanted = wanted._replace(statuses=PAUSED)

    async def work(backend: StateBackend) -> list[RunSummary]:
        return [run async for run in backend.iter_runs(wanted, ordered=False)]

    found = sorted(app.read(work), key=lambda run: (run.updated_at or app.world.now(), run.run_id))
    runs = found[:limit]
    out.show(columns.WAITING, runs, "no waiting runs" if wanted == _WAITING else "no waiting runs match", wanted)
    note_problems(app, runs)
    if len(runs) < len(found):
        every = app.suggest(with_filters("lens waiting", filters))
        app.note(f"showing the {len(runs):,} that have waited longest, of {len(found):,}; all: {every}")
    if runs and out.is_table:
        app.note(f"answer: {app.suggest(answer_command(runs[0]))}")


def task_list(app: App, out: Output, filters: FilterOptions, parent: str | None, limit: int) -> None:
    """Print background tasks, newest first."""
    wanted = app.wanted(filters)._replace(tasks_only=True)

    async def work(backend: StateBackend) -> list[RunSummary]:
        asked = wanted
        if parent is not None:
            asked = wanted._replace(parent=await resolve_run(backend, parent, unescape(parent)))
        page = await backend.query_runs(asked, limit=limit)
        if page.next is not None:
            of = f" --parent {quoted(parent)}" if parent is not None else ""
            more = app.suggest(with_filters(f"lens tasks list -n {limit * 10}{of}", filters))
            app.note(f"showing the newest {limit}; more: {more}")
        return await app.with_signs(backend, page.items)

    runs = app.read(work)
    out.show(columns.TASK, runs, "no background tasks", wanted)
    note_problems(app, runs)


def evaluation_list(app: App, out: Output, run: str | None, limit: int) -> None:
    """Print evaluation scores, newest first."""

    async def work(backend: StateBackend) -> Sequence[Evaluation]:
        run_id = None if run is None else await resolve_run(backend, run, unescape(run))
        return await backend.read_evaluations(run_id, limit + 1)

    found = app.read(work)
    out.show(columns.EVALUATION, found[:limit], "no evaluation scores")
    if len(found) > limit:
        of = f" {quoted(run)}" if run is not None else ""
        app.note(f"showing the newest {limit:,}; more: {app.suggest(f'lens evals -n {limit * 10}{of}')}")


async def _entries(backend: StateBackend) -> Sequence[SystemEntry]:
    return await backend.read_system_state()


def system_list(app: App, out: Output) -> None:
    """Print the keys of the system state."""
    entries = [_masked(out, entry) for entry in app.read(_entries)]
    out.show(columns.SYSTEM, entries, "no system state")


def _masked(out: Output, entry: SystemEntry) -> SystemEntry:
    """The entry with its secrets masked, or all of its value if the key is secret."""
    return entry._replace(value=out.redactor.under(entry.key, entry.value))


def system_value(app: App, out: Output, key: str) -> None:
    """Print a key of the system state: its value, or the whole entry in a machine format.

    Raises:
        OperationFailedError: the key does not exist.
    """
    from flujo_lens.errors import nearest

    entries = {entry.key: entry for entry in app.read(_entries)}
    entry = entries.get(key) or entries.get(unescape(key))
    if entry is None:
        near = nearest(key, entries)
        raise OperationFailedError(
            f'no key "{key}" in the system state',
            hint=f"did you mean {near}?" if near else "lens system list lists the keys",
        )
    entry = _masked(out, entry)
    if out.options.output is None and not out.options.json and out.options.columns is None:
        out.document(entry.value)
    elif out.form == "json":
        out.document(columns.SYSTEM.row(entry, out.fields(columns.SYSTEM)))
    else:
        out.show(columns.SYSTEM, [entry], "")


def store_list(app: App, out: Output) -> None:
    """Print the configured stores, and the selected one if it is not among them."""
    from flujo_lens.operations.stores import known_stores

    rows, problems = known_stores(app.settings, lambda: app.store, out.redactor.show)
    out.show(columns.STORE, rows, "no stores are configured")
    for problem in problems:
        app.note(problem)


def driver_list(app: App, out: Output) -> None:
    """The drivers that are there, and what each can do or lacks."""
    from flujo_lens.operations.stores import known_drivers

    out.show(columns.DRIVER, known_drivers(app.settings), "")


def print_status(app: App, out: Output, since: str | None) -> bool:
    """Print the status of the store; return whether anything is over its threshold (see `Alerts`)."""
    from flujo_lens.operations.status import SHIFT, Alerts, store_status
    from flujo_lens.state.typed_times import parse_when

    now = app.world.now()
    length = SHIFT if since is None else now - parse_when(since, now, app.zone)
    if since is not None and length.total_seconds() <= 0:
        raise UsageError(f"--since {since} is not in the past", hint="for example --since 12h")
    label, silent_after = app.store_name, app.silent_after
    status = app.read(lambda backend: store_status(backend, label, now, silent_after, RunFilter(), length))
    for problem in status.problems:
        app.note(problem)
    if out.is_table and out.options.columns is None and app.options.quiet:
        from flujo_lens.cli.screens.status import brief_line

        app.say([brief_line(status)])
    elif out.is_table and out.options.columns is None:
        from flujo_lens.cli.screens.status import draw_status

        draw_status(app, out, replace(status, store=f"{_named(app, app.store)}({app.store.source})"))
    elif out.form == "json":
        out.document(columns.STATUS.row(status, out.fields(columns.STATUS)))
    else:
        out.show(columns.STATUS, [status], "")
    settings = app.settings
    alerts = Alerts(settings.alerts_failing_share, settings.alerts_oldest_waiting, settings.alerts_stale)
    return bool(alerts.of(status, now))


def _named(app: App, choice: StoreChoice) -> str:
    uri = app.redactor.text(choice.uri)
    return f"{choice.name}  {uri}  " if choice.name else f"{uri}  "
