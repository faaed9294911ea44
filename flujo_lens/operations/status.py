"""The status of a store: failing, stale and waiting runs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from flujo_lens.operations.concurrent_reads import read_together
from flujo_lens.operations.failures import FAILED, stale_runs, unstarted_forks, with_root_causes
from flujo_lens.state.aggregate import Failures
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.statistics import StoreStatus
from flujo_lens.state.views import RunFilter, RunSummary

_WINDOW = timedelta(hours=1)
"""The window of current failures."""

SHIFT = timedelta(hours=12)
"""How far back failed and started runs are counted, by default: a shift."""

USUAL_OVER = 24
"""Number of earlier windows for the usual number of failures."""


_NEVER = datetime.max.replace(tzinfo=UTC)


class Alerts(NamedTuple):
    """From when on ``lens status --exit-status`` exits with 1.

    Attributes:
        failing_share: From this share (0 to 1) of the started runs; None for any failure in the last hour.
        oldest_waiting: From this age of the oldest question; None for never.
        stale: Above this number of stale runs; None for 0.
    """

    failing_share: float | None = None
    oldest_waiting: timedelta | None = None
    stale: int | None = None

    def of(self, status: StoreStatus, now: datetime) -> list[str]:
        """What is over its threshold: ``failing``, ``stale``, ``waiting``."""
        oldest = status.oldest_waiting.updated_at if status.oldest_waiting else None
        found = {
            "failing": bool(status.failing)
            if self.failing_share is None
            else bool(status.failed_since) and status.failing_share >= self.failing_share,
            "stale": status.silent_count > (self.stale or 0),
            "waiting": self.oldest_waiting is not None and oldest is not None and now - oldest >= self.oldest_waiting,
        }
        return [name for name, is_over in found.items() if is_over]


async def store_status(
    backend: StateBackend,
    store: str,
    now: datetime,
    silent_after: timedelta,
    wanted: RunFilter,
    since: timedelta = SHIFT,
) -> StoreStatus:
    """Read the status of a store. Its parts are read at the same time.

    Args:
        since: How far back failed and started runs are counted.
    """
    begin = now - since
    (runs, started), (failing, usual, failed, forked), (silent, (waiting, oldest), facts) = await read_together(
        backend,
        backend.count_started(wanted, begin),
        _failing(backend, now, wanted, begin),
        _stale_and_waiting(backend, wanted, now, silent_after),
    )
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
        since=begin,
        failed_since=failed,
        started_since=started - forked,
    )


async def _stale_and_waiting(
    backend: StateBackend, wanted: RunFilter, now: datetime, silent_after: timedelta
) -> tuple[list[RunSummary], tuple[int, RunSummary | None], Mapping[str, Any]]:
    """The stale runs, the number of waiting ones with the oldest of them, and the facts about the store."""
    stale = await stale_runs(backend, wanted, now, silent_after)
    return stale, await _waiting(backend, wanted), await backend.read_facts()


async def _failing(
    backend: StateBackend, now: datetime, wanted: RunFilter, begin: datetime
) -> tuple[Failures, float, int, int]:
    """The failures of the last hour, the average per hour of the day before, and their number since `begin`.

    The last is the number of forks that were made since then and not resumed yet: they are no failures, nor started.
    """
    day = now - _WINDOW * (USUAL_OVER + 1)
    recent = wanted._replace(statuses=FAILED, active_since=min(day, begin))
    lately: list[str] = []
    before = since = 0
    found = await backend.read_activity(recent)
    forks = await unstarted_forks(backend, (run_id for run_id, _ in found))
    for run_id, updated_at in found:
        if updated_at is None or run_id in forks:
            continue
        since += updated_at >= begin
        if updated_at >= now - _WINDOW:
            lately.append(run_id)
        else:
            before += updated_at >= day
    made = [run.created_at for run in forks.values()] if not wanted.statuses or wanted.statuses >= FAILED else []
    forked = sum(when is not None and when >= begin for when in made)
    failing = Failures()
    for run in await with_root_causes(backend, await backend.read_summaries(lately)):
        failing.add_run(run)
    return failing, before / USUAL_OVER, since, forked


async def _waiting(backend: StateBackend, wanted: RunFilter) -> tuple[int, RunSummary | None]:
    paused = await backend.read_activity(wanted._replace(statuses=frozenset({"paused"})))
    # The one whose update is unknown last.
    oldest = min(paused, key=lambda run: run[1] or _NEVER, default=None)
    found = await backend.read_summaries([oldest[0]]) if oldest else []
    return len(paused), found[0] if found else None
