"""The status of a store: failing, stale and waiting runs."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from flujo_lens.operations.failures import FAILED, stale_runs
from flujo_lens.state.aggregate import Failures
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.forks import unstarted_fork_of
from flujo_lens.state.statistics import StoreStatus
from flujo_lens.state.views import RunFilter, RunSummary

__all__ = ["store_status"]

_WINDOW = timedelta(hours=1)
"""The window of current failures."""

USUAL_OVER = 24
"""Number of earlier windows for the usual number of failures."""


async def store_status(
    backend: StateBackend, store: str, now: datetime, silent_after: timedelta, wanted: RunFilter
) -> StoreStatus:
    """Read the status of a store.

    Args:
        backend: The store.
        store: Its name.
        now: The current time.
        silent_after: Time without activity after which a running run is stale.
        wanted: Only these runs.
    """
    counted = asyncio.ensure_future(backend.count_runs(wanted))
    try:
        failing, usual = await _failing(backend, now, wanted)
        silent = await stale_runs(backend, wanted, now, silent_after)
        waiting, oldest = await _waiting(backend, wanted)
        facts = await backend.read_facts()
        runs = await counted
    finally:
        counted.cancel()
    return StoreStatus(
        store=store,
        last_write_at=facts.get("last_write_at"),
        failing=failing.groups(),
        silent=tuple(silent),
        waiting_count=waiting,
        oldest_waiting=oldest,
        size_bytes=facts.get("size_bytes"),
        runs=runs,
        usual=usual,
        silent_count=len(silent),
        problems=tuple(facts.get("notes", ())),
    )


async def _failing(backend: StateBackend, now: datetime, wanted: RunFilter) -> tuple[Failures, float]:
    """The failures of the last hour, and the average per hour of the day before."""
    recent = wanted._replace(statuses=FAILED, active_since=now - _WINDOW * (USUAL_OVER + 1))
    lately: list[str] = []
    before = 0
    async for run in backend.iter_runs(recent, ordered=False, details=False):
        if run.updated_at is not None and run.updated_at >= now - _WINDOW:
            lately.append(run.run_id)
        else:
            before += 1
    failing = Failures()
    for run in await backend.read_summaries(lately):
        if unstarted_fork_of(run) is None:
            failing.add_run(run)
    return failing, before / USUAL_OVER


async def _waiting(backend: StateBackend, wanted: RunFilter) -> tuple[int, RunSummary | None]:
    oldest: RunSummary | None = None
    count = 0
    paused = wanted._replace(statuses=frozenset({"paused"}))
    async for run in backend.iter_runs(paused, ordered=False, details=False):
        count += 1
        since = run.updated_at
        if oldest is None or (since and oldest.updated_at and since < oldest.updated_at):
            oldest = run
    found = await backend.read_summaries([oldest.run_id] if oldest else [])
    return count, found[0] if found else oldest
