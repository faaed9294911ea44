"""The figures of a store for monitoring, by a fixed number of queries."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta

from flujo_lens.operations.failures import unstarted_forks
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.known_costs import KnownCosts
from flujo_lens.state.stale_runs import silent_ids
from flujo_lens.state.statistics import StoreMetrics
from flujo_lens.state.views import RunFilter

RECENT = timedelta(hours=1)
"""The window of recent failures."""

USUAL_OVER = 24
"""Number of windows before it, of which the average is usual."""

_FAILED, _PAUSED, _RUNNING = (frozenset({status}) for status in ("failed", "paused", "running"))


async def store_metrics(
    backend: StateBackend, now: datetime, silent_after: timedelta, wanted: RunFilter, known: KnownCosts | None = None
) -> StoreMetrics:
    """Read the figures of the runs that match.

    Args:
        known: As of `StateBackend.read_pipelines`.
    """
    pipelines = tuple(await backend.read_pipelines(wanted, known))
    failures, usual = await _failures(backend, now, wanted)
    running, stale, stale_age = await _running(backend, now, silent_after, wanted)
    facts = await backend.read_facts()
    return StoreMetrics(
        read_at=now,
        pipelines=pipelines,
        failures=failures,
        usual_failures=usual,
        waiting_age=await _waiting(backend, now, wanted),
        running_age=running,
        stale_age=stale_age,
        stale=stale,
        size_bytes=facts.get("size_bytes"),
        last_write_at=facts.get("last_write_at"),
    )


async def _failures(backend: StateBackend, now: datetime, wanted: RunFilter) -> tuple[Counter[str], float]:
    """The runs that failed in the last hour by pipeline, and the average per hour of the day before.

    Forks that were not resumed yet have not failed.
    """
    recent: Counter[str] = Counter()
    before = 0
    window = _narrowed(wanted, _FAILED)
    first = now - RECENT * (USUAL_OVER + 1)
    window = window._replace(active_since=max(first, window.active_since or first))
    found = [run async for run in backend.iter_runs(window, ordered=False, details=False)]
    forks = await unstarted_forks(backend, (run.run_id for run in found))
    for run in found:
        if run.run_id in forks:
            continue
        if run.updated_at is not None and run.updated_at >= now - RECENT:
            recent[run.pipeline_name] += 1
        else:
            before += 1
    return recent, before / USUAL_OVER


async def _waiting(backend: StateBackend, now: datetime, wanted: RunFilter) -> float:
    paused = await backend.read_activity(_narrowed(wanted, _PAUSED))
    return max((_age(now, updated_at) for _, updated_at in paused), default=0.0)


async def _running(
    backend: StateBackend, now: datetime, silent_after: timedelta, wanted: RunFilter
) -> tuple[float, int, float]:
    """The age of the oldest running run, the number of stale ones, and the longest time without a sign."""
    stale = set(await silent_ids(backend, wanted, now - silent_after, now))
    oldest = longest = 0.0
    async for run in backend.iter_runs(_narrowed(wanted, _RUNNING), ordered=False, details=False):
        oldest = max(oldest, _age(now, run.created_at))
        if run.run_id in stale:
            longest = max(longest, _age(now, run.updated_at))
    return oldest, len(stale), longest


def _narrowed(wanted: RunFilter, statuses: frozenset[str]) -> RunFilter:
    """The filter for these statuses, as far as it admits them."""
    return wanted._replace(statuses=statuses & wanted.statuses or frozenset({""}) if wanted.statuses else statuses)


def _age(now: datetime, when: datetime | None) -> float:
    return max((now - when).total_seconds(), 0.0) if when is not None else 0.0
