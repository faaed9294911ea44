"""Going on with runs that failed, several at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from flujo_lens.errors import LensError, RunHeldError, RunNotFoundError, UsageError
from flujo_lens.operations.change_report import Recorder, Report
from flujo_lens.operations.deletion import Stop
from flujo_lens.operations.resume import Outcome
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.forks import unstarted_fork_of
from flujo_lens.state.views import RunFilter, RunSummary

__all__ = ["RetryPlan", "plan_named", "plan_wanted", "retry"]

RETRIED = frozenset({"failed", "running"})
"""Statuses of what can be retried; a run that is said to run, if its process is dead."""

_LOOKS = 0.05
"""Seconds between two looks at whether it should end."""

Work = Callable[[str], Awaitable[Outcome]]
Watch = Callable[[Outcome], None]


class RetryPlan(NamedTuple):
    """What would be retried, and what was named and cannot be."""

    runs: tuple[RunSummary, ...]
    others: tuple[RunSummary, ...] = ()


async def plan_named(backend: StateBackend, run_ids: Sequence[str]) -> RetryPlan:
    """The runs that were named. Nothing is written.

    Raises:
        RunNotFoundError: one of them is not there.
    """
    found = {run.run_id: run for run in await backend.read_summaries(run_ids)}
    for run_id in run_ids:
        if run_id not in found:
            raise RunNotFoundError(f'no run "{run_id}" in this store; nothing was changed', run_id=run_id)
    chosen = [found[run_id] for run_id in dict.fromkeys(run_ids)]
    wanted = tuple(run for run in chosen if run.status in RETRIED)
    return RetryPlan(wanted, tuple(run for run in chosen if run.status not in RETRIED))


async def plan_wanted(backend: StateBackend, wanted: RunFilter) -> RetryPlan:
    """The runs that a filter admits: those that failed, unless it asks for those that are said to run.

    A fork that nobody has resumed has not failed: it is retried where it is named.

    Raises:
        UsageError: it asks for others.
    """
    statuses = wanted.statuses or frozenset({"failed"})
    if not statuses <= RETRIED:
        raise UsageError(
            f"{', '.join(sorted(statuses - RETRIED))} runs cannot be retried; nothing was changed",
            hint="retry is for failed runs, and for running ones whose process is dead; paused ones: lens resume RUN",
        )
    chosen = wanted._replace(statuses=statuses, top_level=True)
    found = [run async for run in backend.iter_runs(chosen)]
    return RetryPlan(tuple(run for run in found if unstarted_fork_of(run) is None))


async def retry(
    plan: RetryPlan, work: Work, record: Recorder | None, *, concurrency: int, stop: Stop, watch: Watch
) -> tuple[list[Outcome], Report]:
    """Retry the runs of a plan; the entry in the audit log comes first.

    One that cannot go on does not keep the others from it. When `stop` says so, nothing more is begun, and what is
    under way is cut off: it is left failed, "interrupted".

    Args:
        plan: The runs.
        work: Goes on with one; where nothing is to be changed, sees whether it could.
        record: The recorder; None to change nothing.
        concurrency: How many at once.
        stop: When to end early.
        watch: Is told of each run how far it came.

    Raises:
        LensError: the log cannot be written; nothing was changed.
    """
    matched = len(plan.runs) + len(plan.others)
    ids = [run.run_id for run in plan.runs]
    if record is None or not ids:
        looked = [await _tried(work, run_id) for run_id in ids]
        refused = sum(outcome.code is not None for outcome in looked)
        left = len(ids) - refused
        return looked, Report(matched, 0, len(plan.others), refused, left, dry_run=record is None)
    done: list[Outcome] = []

    def finished(outcome: Outcome) -> None:
        done.append(outcome)
        watch(outcome)

    async def change() -> None:
        await _all(ids, work, concurrency, stop, finished)

    audit_id, _ = await record.recorded({"runs": len(ids)}, ids, change, lambda _: _counted(done, len(ids)))
    failed = sum(outcome.status == "failed" or outcome.code is not None for outcome in done)
    left = len(ids) - len(done)
    return done, Report(matched, len(done) - failed, len(plan.others), failed, left, audit_id=audit_id)


def _counted(done: Sequence[Outcome], matched: int) -> tuple[dict[str, int], list[str]]:
    """How the runs ended, for the log: by status, those that were not retried, and those that nobody came to."""
    ended = Counter("not retried" if one.code is not None else str(one.status) for one in done)
    left = {"left": matched - len(done)} if len(done) < matched else {}
    return {**ended, **left}, [one.run_id for one in done if one.code is None]


async def _all(ids: Sequence[str], work: Work, concurrency: int, stop: Stop, finished: Watch) -> None:
    waiting = iter(ids)
    workers = [asyncio.create_task(_worker(waiting, work, stop, finished)) for _ in range(min(concurrency, len(ids)))]
    watcher = asyncio.create_task(_stopped(stop, workers))
    try:
        await asyncio.gather(*workers)
    finally:
        watcher.cancel()
        with suppress(asyncio.CancelledError):
            await watcher


async def _worker(waiting: Iterator[str], work: Work, stop: Stop, finished: Watch) -> None:
    for run_id in waiting:
        if stop:
            return
        try:
            finished(await _tried(work, run_id))
        except asyncio.CancelledError:
            if not stop:
                raise
            finished(Outcome(run_id, "failed", error="interrupted"))
            return


async def _tried(work: Work, run_id: str) -> Outcome:
    """What comes of a run; what keeps it from going on is part of that."""
    try:
        return await work(run_id)
    except LensError as error:
        told = getattr(error, "reason", error.message)
        status = "running" if isinstance(error, RunHeldError) else "failed"
        return Outcome(run_id, status, error=told, code=error.code)
    except Exception as error:  # noqa: BLE001 - of whatever code: the others go on
        return Outcome(run_id, "failed", error=f"{type(error).__name__}: {error}", code="LENS-F1")


async def _stopped(stop: Stop, workers: Sequence[asyncio.Task[None]]) -> None:
    """Cut off what is under way as soon as it should end."""
    while not stop:
        await asyncio.sleep(_LOOKS)
    for worker in workers:
        worker.cancel()
