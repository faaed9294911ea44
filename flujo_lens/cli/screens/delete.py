"""``lens delete``: selection, question and report."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from flujo_lens.cli import exit_codes
from flujo_lens.cli.change_output import report_output
from flujo_lens.cli.context import App
from flujo_lens.cli.input.confirm import can_ask, check_can_ask, check_writable, confirm
from flujo_lens.cli.input.run_arguments import MOST_SHOWN, check_free, described, listed_runs, named, typed
from flujo_lens.cli.options import ChangeOptions, words_of
from flujo_lens.cli.screens.deletion import Work, carry_out, check_bin, copy_lines, report_dry, say, store_name
from flujo_lens.cli.screens.deletion_text import hanging, hung, statuses
from flujo_lens.errors import NotSupportedError, RunNotFoundError
from flujo_lens.operations.deletion import Stop
from flujo_lens.operations.runs import resolve_run, with_tasks
from flujo_lens.rendering import human
from flujo_lens.rendering.text import escape_controls, quoted, unescape
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.deletion import DeletionPlan, DeletionRequest
from flujo_lens.state.views import RunFilter, RunSummary


class DeleteArguments(NamedTuple):
    """Arguments of ``lens delete``."""

    runs: tuple[str, ...]
    state_only: bool
    family: bool
    ignore_missing: bool
    force: bool
    no_bin: bool
    yes: bool
    change: ChangeOptions

    def words(self, store: str | None, run_ids: Sequence[str]) -> list[str]:
        """The command line with long options."""
        switches = words_of(self, "state_only", "family", "ignore_missing", "force", "no_bin", "yes")
        return ["lens", "delete", *switches, *self.change.words(store), *named(run_ids)]


def run_delete(app: App, asked: DeleteArguments) -> int:
    """Find the runs, ask, delete and report; return the exit code."""
    check_writable(app, dry_run=asked.change.dry_run)
    out = report_output(app, asked.change)
    words = typed(app, asked.runs, not (asked.yes or asked.change.dry_run), "delete")
    now = app.world.now()

    async def look(backend: StateBackend) -> tuple[DeletionPlan, list[RunSummary], int, list[str]]:
        plan = await _plan(app, backend, asked, words, now)
        ids = [run_id for run_id in dict.fromkeys(plan.request.run_ids or ()) if run_id not in plan.missing]
        shown = await app.with_signs(backend, await backend.read_summaries(ids[:MOST_SHOWN]))
        states = await _state_lines(backend, shown) if asked.state_only else []
        return plan, shown, await _tasks_left(backend, ids), states

    plan, shown, tasks, states = app.run(look)
    _check_missing(plan, asked, store_name(app))
    check_free(plan.held, asked.force, undone="deleted", forced="; a run that the process saves again is back")
    alive = _alive_line(shown, now, app.silent_after)
    lines = [*_lines(plan, shown, asked), *states, *alive, *_tasks_line(plan, tasks)]
    if asked.change.dry_run:
        copies = copy_lines(app, plan, None, not asked.no_bin) if lines else []
        text = ["would delete:", *lines, *copies] if lines else ["nothing to delete"]
        report_dry(app, out, plan, None, not asked.no_bin, text)
        app.run(lambda backend: check_bin(app, backend, plan, not asked.no_bin))
        return exit_codes.OK
    question = _question(plan)
    check_can_ask(app, asked.yes, question)
    if not (asked.yes or plan.is_empty):
        say(app, [*lines, *copy_lines(app, plan, None, not asked.no_bin)])
        if not confirm(app, question, asked.yes):
            return exit_codes.FAILED
    for line in [*alive, *[line for line in states if line == _FIGURES]] if asked.yes else ():
        app.note(line)
    command = asked.words(app.options.store, plan.request.run_ids or ())
    one = _one(shown, asked) if plan.count == 1 else None
    stays = _with(plan, asked) if asked.state_only else ""
    work = Work(
        command, asked.change, asked.yes, Stop(), one=one, all_meant=True, may_be_missing=asked.ignore_missing,
        needs_bin=asked.yes, stays=stays,
    )  # fmt: skip
    return carry_out(app, out, plan, None, not asked.no_bin, work)


def _question(plan: DeletionPlan) -> str:
    ids = plan.request.run_ids or ()
    return f"delete {ids[0]}?" if len(ids) == plan.count == 1 else f"delete these {plan.count:,} runs?"


async def _plan(
    app: App, backend: StateBackend, asked: DeleteArguments, typed: Sequence[str], now: datetime
) -> DeletionPlan:
    """The plan. An id that does not exist is tried with its escapes decoded, and on a terminal as a prefix."""
    request = DeletionRequest(now, run_ids=tuple(typed), state_only=asked.state_only, force=asked.force)
    plan = await backend.plan_deletion(request)
    if plan.missing:
        takes_prefixes = can_ask(app) and not asked.yes and "-" not in asked.runs
        takes_prefixes = takes_prefixes and not asked.ignore_missing
        meant = {text: await _meant(backend, text, takes_prefixes) for text in plan.missing}
        request = request._replace(run_ids=tuple(meant.get(text, text) for text in typed))
        plan = await backend.plan_deletion(request)
    if not asked.family:
        return plan
    whole = await with_tasks(backend, plan.request.run_ids or ())
    return await backend.plan_deletion(request._replace(run_ids=tuple(whole)))


async def _meant(backend: StateBackend, text: str, takes_prefixes: bool) -> str:
    return await resolve_run(backend, text, unescape(text)) if takes_prefixes else unescape(text)


def _check_missing(plan: DeletionPlan, asked: DeleteArguments, store: str) -> None:
    if not plan.missing or asked.ignore_missing:
        return
    first = escape_controls(plan.missing[0])
    more = f", and {len(plan.missing) - 1} more" if len(plan.missing) > 1 else ""
    whole = "" if asked.yes is False and not asked.change.dry_run else "\nwith --yes, only whole ids are accepted"
    raise RunNotFoundError(
        f'no run "{first}"{more} in {store}; nothing was deleted',
        hint=f"to search for it: lens list --search {quoted(plan.missing[0])}\n--ignore-missing skips it{whole}",
        run_id=plan.missing[0],
        missing=list(plan.missing),
    )


def _lines(plan: DeletionPlan, shown: Sequence[RunSummary], asked: DeleteArguments) -> list[str]:
    """The runs with their rows; a few are listed one by one."""
    if plan.is_empty:
        return []
    if len(shown) == 1 and plan.count == 1:
        return [f"  {_one(shown, asked)}{_with(plan, asked)}"]
    lines = listed_runs(shown, plan.count)
    what = "the states of " if asked.state_only else ""
    lines += [f"{what}{human.plural(plan.count, 'run')} ({statuses(plan.by_status)}){_with(plan, asked)}"]
    return lines


def _with(plan: DeletionPlan, asked: DeleteArguments) -> str:
    if not asked.state_only:
        return hanging(plan.rows, plan.is_estimate)
    history = hung(plan.rows)
    if not history:
        return "; it is all that is stored of the run"
    return f"; {'its' if plan.count == 1 else 'their'} {history} stay, marked as cancelled"


def _one(shown: Sequence[RunSummary], asked: DeleteArguments) -> str:
    what = "the state of " if asked.state_only else ""
    return f"{what}{described(shown[0])}" if shown else "1 run"


def _alive_line(shown: Sequence[RunSummary], now: datetime, silent_after: timedelta) -> list[str]:
    """A line on runs that an application may be working on: not every application takes claims."""
    running = [run for run in shown if run.status == "running" and not run.stale]
    signs = [run.updated_at or now for run in running]
    if not signs or max(signs) < now - silent_after:
        return []
    whose = "it is" if len(shown) == 1 else f"{len(running)} of them are" if len(running) > 1 else "one of them is"
    return [f"{whose} marked running, last activity {human.age(max(now - max(signs), timedelta(0)))} ago"]


async def _state_lines(backend: StateBackend, shown: Sequence[RunSummary]) -> list[str]:
    """A line for each run without a state, and one on the figures that go, for --state-only."""
    states = {run.run_id: await backend.load_state(run.run_id) for run in shown}
    lines = [f"{run_id} has no state: nothing to delete" for run_id, state in states.items() if state is None]
    return lines + [_FIGURES] * any(state.get("step_history") for state in states.values() if state is not None)


_FIGURES = "costs, tokens and durations of steps are in the state and go with it (lens prune --strip keeps them)"


async def _tasks_left(backend: StateBackend, ids: Sequence[str]) -> int:
    """Number of background tasks of the runs that are not selected themselves; 0 for many runs."""
    if len(ids) > MOST_SHOWN:
        return 0
    try:
        tasks = {
            task.run_id
            for run_id in ids
            async for task in backend.iter_runs(RunFilter(parent=run_id), ordered=False, details=False)
        }
    except NotSupportedError:
        return 0
    return len(tasks - set(ids))


def _tasks_line(plan: DeletionPlan, tasks: int) -> list[str]:
    whose = "its" if plan.count == 1 else "their"
    stay = "stays: it is a separate run" if tasks == 1 else "stay: they are separate runs"
    return [f"{whose} {human.plural(tasks, 'background task')} {stay} (lens tasks list)"] if tasks else []
