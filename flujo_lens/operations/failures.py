"""Failed runs grouped by their normalised error, and stale runs."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from flujo_lens.operations.concurrent_reads import read_together
from flujo_lens.state.aggregate import Failures
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.forks import ID_PART, unstarted_fork_of
from flujo_lens.state.stale_runs import silent_ids, with_signs
from flujo_lens.state.statistics import FailureGroup
from flujo_lens.state.views import RunFilter, RunSummary

FAILED = frozenset({"failed"})
_SECONDHAND = re.compile(r"background[ _-]?task|\btask[s]? .*\bfail|_bg_|\bbg_[0-9a-f]{6,}|\bchild", re.IGNORECASE)
"""What an error says that is only about the failure of a background task."""


@dataclass(frozen=True, slots=True)
class FailureReport:
    """Failures in a time window. `runs` is the number of runs last updated in it, None if unknown."""

    groups: tuple[FailureGroup, ...]
    count: int
    silent: int
    problems: tuple[str, ...] = ()


async def failed_runs(backend: StateBackend, wanted: RunFilter, *, ordered: bool = True) -> AsyncIterator[RunSummary]:
    """The failed runs that match, with their errors, except forks that were not resumed yet."""
    async for run in backend.iter_runs(wanted._replace(statuses=FAILED), ordered=ordered):
        if unstarted_fork_of(run) is None:
            yield (await with_root_causes(backend, [run]))[0]


async def unstarted_forks(backend: StateBackend, run_ids: Iterable[str]) -> dict[str, RunSummary]:
    """Those of these runs that are forks and were not resumed yet, by id; only runs with the id of a fork are read."""
    found = await backend.read_summaries([run_id for run_id in run_ids if ID_PART in run_id])
    return {run.run_id: run for run in found if unstarted_fork_of(run) is not None}


async def with_root_causes(backend: StateBackend, runs: Sequence[RunSummary]) -> list[RunSummary]:
    """The runs; those that failed for a background task of theirs have its step and error."""
    return [await _with_root_cause(backend, run) if _may_be_secondhand(run) else run for run in runs]


def _may_be_secondhand(run: RunSummary) -> bool:
    """Whether the error of a failed run may only say that a task failed."""
    if run.status != "failed" or run.is_background_task:
        return False
    return run.error_message is None or _SECONDHAND.search(run.error_message) is not None


async def _with_root_cause(backend: StateBackend, run: RunSummary) -> RunSummary:
    tasks = [task async for task in backend.iter_runs(RunFilter(parent=run.run_id, statuses=FAILED), reverse=True)]
    named = [task for task in tasks if run.error_message and task.task_id and task.task_id in run.error_message]
    for task in [*named, *tasks]:
        error = task.background_error or task.error_message
        if error:
            return run._replace(error_message=error, step_name=task.step_name or run.step_name)
    return run


async def failure_report(
    backend: StateBackend, wanted: RunFilter, now: datetime, silent_after: timedelta
) -> FailureReport:
    """The failed runs that match, grouped by error; stale runs are counted separately."""
    apart = wanted._replace(active_since=None, active_until=None, error=None)
    failures, silent = await read_together(
        backend, _grouped(backend, wanted), silent_ids(backend, apart, now - silent_after, now)
    )
    return FailureReport(failures[0].groups(), failures[0].count, len(silent), tuple(failures[1]))


async def _grouped(backend: StateBackend, wanted: RunFilter) -> tuple[Failures, list[str]]:
    """The failed runs grouped by error, and problems of reading them."""
    failures = Failures()
    problems: list[str] = []
    async for run in failed_runs(backend, wanted, ordered=False):
        failures.add_run(run)
        problems += [f"{run.run_id}: {problem}" for problem in run.problems]
    return failures, problems


async def stale_runs(
    backend: StateBackend, wanted: RunFilter, now: datetime, silent_after: timedelta
) -> list[RunSummary]:
    """Running runs without activity for `silent_after`, or whose process is dead.

    The longest without activity come first.
    """
    found = await backend.read_summaries(await silent_ids(backend, wanted, now - silent_after, now))
    return sorted(
        await with_signs(backend, found, now, silent_after), key=lambda run: (run.updated_at or now, run.run_id)
    )
