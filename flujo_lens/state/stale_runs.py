"""Stale runs: marked running, but without a recent save or a heartbeat of their process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from flujo_lens.state.backends.base import StateBackend, overrides
from flujo_lens.state.claims import Claim
from flujo_lens.state.filtering import matches
from flujo_lens.state.views import GONE, INACTIVE, RunFilter, RunSummary

if TYPE_CHECKING:
    from flujo_lens.state.maintenance import Finding

RUNNING = frozenset({"running"})


class Signs:
    """Adds holders to runs, and finds stale ones.

    Args:
        claims: The claims of the store, or of the runs in question.
        silent_after: Time without a save after which a run without a valid claim is stale.
    """

    def __init__(self, claims: Mapping[str, Claim], now: datetime, silent_after: timedelta) -> None:
        self._claims, self._now, self._after = claims, now, silent_after

    def of(self, run: RunSummary) -> RunSummary:
        """The run with its `holder`, and the reason if it is `stale`."""
        if run.status not in RUNNING:
            return run
        claim = self._claims.get(run.run_id)
        return run._replace(holder=None if claim is None else str(claim.holder), stale=self._reason(run, claim))

    def _reason(self, run: RunSummary, claim: Claim | None) -> str | None:
        if claim is not None and claim.holder.is_gone():
            return GONE
        if claim is not None and not claim.has_ended(self._now):
            return None
        return INACTIVE if run.updated_at is not None and self._now - run.updated_at > self._after else None


async def with_signs(
    backend: StateBackend, runs: Sequence[RunSummary], now: datetime, silent_after: timedelta
) -> list[RunSummary]:
    """The runs with holders and stale marks. Reads the claims only if there are running runs."""
    running = [run.run_id for run in runs if run.status in RUNNING]
    signs = Signs(await claims_of(backend, running) if running else {}, now, silent_after)
    return [signs.of(run) for run in runs]


async def claims_of(backend: StateBackend, run_ids: Sequence[str] | None = None) -> Mapping[str, Claim]:
    """The stored claims (on these runs); none if the driver has no claims."""
    return await backend.read_claims(run_ids) if overrides(type(backend), "read_claims") else {}


async def gone_runs(backend: StateBackend, wanted: RunFilter, claims: Iterable[Claim]) -> list[RunSummary]:
    """The matching running runs whose process is known to be dead."""
    gone = [claim.run_id for claim in claims if claim.holder.is_gone()]
    found = await backend.read_summaries(gone) if gone else []
    asked = wanted._replace(statuses=RUNNING)
    return [run for run in found if matches(asked, run)]


async def silent_ids(
    backend: StateBackend, wanted: RunFilter, cutoff: datetime, now: datetime, *, gone: bool = True
) -> list[str]:
    """The running runs not saved since `cutoff` and not held by a live process.

    Args:
        wanted: The filter; its statuses are ignored.
        cutoff: Runs last saved before this instant are stale.
        gone: Whether to include all runs whose process is known to be dead.
    """
    until = cutoff if wanted.active_until is None else min(wanted.active_until, cutoff)
    asked = wanted._replace(statuses=RUNNING, active_until=until)
    found = [run_id for run_id, _ in await backend.read_activity(asked)]
    if not found and not gone:
        return []
    claims = await claims_of(backend, None if gone else found)
    silent = [run_id for run_id in found if run_id not in claims or claims[run_id].has_ended(now)]
    dead = await gone_runs(backend, wanted, claims.values()) if gone else []
    return list(dict.fromkeys([*silent, *(run.run_id for run in dead)]))


async def find_silent_runs(backend: StateBackend, now: datetime, silent_after: timedelta) -> Finding:
    """The finding of a check on running runs without activity for `silent_after`."""
    from flujo_lens.state.maintenance import silent_finding

    return silent_finding(len(await silent_ids(backend, RunFilter(), now - silent_after, now)), silent_after)
