"""Failed runs grouped by their normalised error, and stale runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from flujo_lens.state.aggregate import Failures
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.forks import unstarted_fork_of
from flujo_lens.state.stale_runs import silent_ids, with_signs
from flujo_lens.state.statistics import FailureGroup
from flujo_lens.state.views import RunFilter, RunSummary

__all__ = ["FailureReport", "failed_runs", "failure_report", "stale_runs"]

FAILED = frozenset({"failed"})


@dataclass(frozen=True, slots=True)
class FailureReport:
    """Failures in a time window. `runs` is the number of runs last updated in it, None if unknown."""

    groups: tuple[FailureGroup, ...]
    count: int
    silent: int
    problems: tuple[str, ...] = ()


def failed_runs(backend: StateBackend, wanted: RunFilter, *, ordered: bool = True) -> AsyncIterator[RunSummary]:
    """The failed runs that match, with their errors, except forks that were not resumed yet."""
    found = backend.iter_runs(wanted._replace(statuses=FAILED), ordered=ordered)
    return (run async for run in found if unstarted_fork_of(run) is None)


async def failure_report(
    backend: StateBackend, wanted: RunFilter, now: datetime, silent_after: timedelta
) -> FailureReport:
    """The failed runs that match, grouped by error; stale runs are counted separately."""
    apart = wanted._replace(active_since=None, active_until=None, error=None)
    failures, silent = await asyncio.gather(
        _grouped(backend, wanted), silent_ids(backend, apart, now - silent_after, now)
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
