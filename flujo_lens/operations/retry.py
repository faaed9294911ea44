"""Retrying failed runs, several at a time."""

from __future__ import annotations

import asyncio
import time
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

RETRIED = frozenset({"failed", "running"})
"""Statuses that can be retried; a running run only if its process is dead."""

_LOOKS = 0.05
"""Seconds between two checks whether to stop."""

Work = Callable[[str], Awaitable[Outcome]]
Watch = Callable[[Outcome], None]


class Pace:
    """Spaces the starts of runs evenly.

    Args:
        interval: Seconds between two starts; 0 for no limit.
        clock: Seconds of a monotonic clock.
        sleep: Waits for a number of seconds.
    """

    def __init__(
        self,
        interval: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._interval, self._clock, self._sleep = interval, clock, sleep
        self._next: float | None = None

    async def turn(self) -> None:
        """Wait until the next run may start."""
        if not self._interval:
            return
        now = self._clock()
        start = now if self._next is None else max(now, self._next)
        self._next = start + self._interval
        await self._sleep(start - now)


class RetryPlan(NamedTuple):
    """The runs to retry, named runs that cannot be retried, and the number of stripped runs, which are left out."""

    runs: tuple[RunSummary, ...]
    others: tuple[RunSummary, ...] = ()
    stripped: int = 0


async def plan_named(backend: StateBackend, run_ids: Sequence[str]) -> RetryPlan:
    """Plan a retry of named runs. Writes nothing.

    Raises:
        RunNotFoundError: a run does not exist.
    """
    found = {run.run_id: run for run in await backend.read_summaries(run_ids)}
    for run_id in run_ids:
        if run_id not in found:
            raise RunNotFoundError(f'no run "{run_id}" in this store; nothing was changed', run_id=run_id)
    chosen = [found[run_id] for run_id in dict.fromkeys(run_ids)]
    wanted = tuple(run for run in chosen if run.status in RETRIED)
    return RetryPlan(wanted, tuple(run for run in chosen if run.status not in RETRIED))


async def plan_wanted(backend: StateBackend, wanted: RunFilter) -> RetryPlan:
    """Plan a retry of the runs that match: failed ones, unless the filter has other statuses. Writes nothing.

    A fork that was not resumed yet has not failed: it is retried only by name. Runs that have lost what they would be
    resumed from, by ``prune --strip``, are left out.

    Raises:
        UsageError: the filter has statuses that cannot be retried.
    """
    statuses = wanted.statuses or frozenset({"failed"})
    if not statuses <= RETRIED:
        raise UsageError(
            f"{', '.join(sorted(statuses - RETRIED))} runs cannot be retried; nothing was changed",
            hint="retry takes failed runs, and running ones whose process is gone; for paused runs: lens resume RUN",
        )
    chosen = wanted._replace(statuses=statuses, top_level=True)
    found = [run async for run in backend.iter_runs(chosen)]
    runs = [run for run in found if unstarted_fork_of(run) is None]
    notes = await backend.read_stripped([run.run_id for run in runs])
    lost = {run_id for run_id, note in notes.items() if not note.can_resume}
    return RetryPlan(tuple(run for run in runs if run.run_id not in lost), stripped=len(lost))


async def retry(
    plan: RetryPlan,
    work: Work,
    record: Recorder | None,
    *,
    concurrency: int,
    stop: Stop,
    watch: Watch,
    pace: Pace | None = None,
) -> tuple[list[Outcome], Report]:
    """Retry the runs of a plan, after writing an audit entry.

    A run that cannot be resumed does not stop the others. When `stop` is set, no more runs are started, and running
    ones are interrupted: they are left failed, "interrupted".

    Args:
        work: Resumes one run; in a dry run, checks whether it could.
        record: The recorder; None for a dry run.
        concurrency: Maximum number of runs at a time.
        watch: Called with the outcome of each run.
        pace: When runs may start; None for at once. A dry run ignores it.

    Raises:
        LensError: the log cannot be written; nothing was changed.
    """
    skipped = len(plan.others) + plan.stripped
    matched = len(plan.runs) + skipped
    ids = [run.run_id for run in plan.runs]
    if record is None or not ids:
        looked = [await _tried(work, run_id) for run_id in ids]
        refused = sum(outcome.code is not None for outcome in looked)
        left = len(ids) - refused
        return looked, Report(matched, 0, skipped, refused, left, dry_run=record is None)
    done: list[Outcome] = []

    def finished(outcome: Outcome) -> None:
        done.append(outcome)
        watch(outcome)

    async def change() -> None:
        await _all(ids, work, concurrency, pace or Pace(), stop, finished)

    audit_id, _ = await record.recorded({"runs": len(ids)}, ids, change, lambda _: _counted(done, len(ids)))
    failed = sum(outcome.status == "failed" or outcome.code is not None for outcome in done)
    left = len(ids) - len(done)
    return done, Report(matched, len(done) - failed, skipped, failed, left, audit_id=audit_id)


def _counted(done: Sequence[Outcome], matched: int) -> tuple[dict[str, int], list[str]]:
    """The counts for the audit log: outcomes by status, runs not retried, and runs not started."""
    ended = Counter("not retried" if one.code is not None else str(one.status) for one in done)
    left = {"left": matched - len(done)} if len(done) < matched else {}
    return {**ended, **left}, [one.run_id for one in done if one.code is None]


async def _all(ids: Sequence[str], work: Work, concurrency: int, pace: Pace, stop: Stop, finished: Watch) -> None:
    waiting = iter(ids)
    count = min(concurrency, len(ids))
    workers = [asyncio.create_task(_worker(waiting, work, pace, stop, finished)) for _ in range(count)]
    watcher = asyncio.create_task(_stopped(stop, workers))
    try:
        await asyncio.gather(*workers)
    finally:
        watcher.cancel()
        with suppress(asyncio.CancelledError):
            await watcher


async def _worker(waiting: Iterator[str], work: Work, pace: Pace, stop: Stop, finished: Watch) -> None:
    for run_id in waiting:
        try:
            await pace.turn()
        except asyncio.CancelledError:
            if not stop:
                raise
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
    """The outcome of a run, including an error that prevents resuming it."""
    try:
        return await work(run_id)
    except LensError as error:
        reason = getattr(error, "reason", error.message)
        status = "running" if isinstance(error, RunHeldError) else "failed"
        return Outcome(run_id, status, error=reason, code=error.code)
    except Exception as error:  # noqa: BLE001 - of whatever code: the others go on
        return Outcome(run_id, "failed", error=f"{type(error).__name__}: {error}", code="LENS-F1")


async def _stopped(stop: Stop, workers: Sequence[asyncio.Task[None]]) -> None:
    """Cancel the workers as soon as `stop` is set."""
    while not stop:
        await asyncio.sleep(_LOOKS)
    for worker in workers:
        worker.cancel()
