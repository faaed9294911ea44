"""Runs that are said to run and give no sign: neither a save, nor the heartbeat of a process that works on them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from flujo_lens.state.backends.base import StateBackend, overrides
from flujo_lens.state.views import RunFilter

__all__ = ["RUNNING", "claimed", "silent_ids"]

RUNNING = frozenset({"running"})


async def silent_ids(backend: StateBackend, wanted: RunFilter, cutoff: datetime, now: datetime) -> list[str]:
    """The runs that are said to run, were not saved since `cutoff`, and that no living process has claimed.

    Args:
        backend: The store.
        wanted: Only these runs, whatever statuses it names.
        cutoff: Saved before this, a run gives no sign.
        now: The present.
    """
    until = cutoff if wanted.active_until is None else min(wanted.active_until, cutoff)
    asked = wanted._replace(statuses=RUNNING, active_until=until)
    found = [run.run_id async for run in backend.iter_runs(asked, ordered=False, details=False)]
    held = await claimed(backend, found, now)
    return [run_id for run_id in found if run_id not in held]


async def claimed(backend: StateBackend, run_ids: Sequence[str], now: datetime) -> frozenset[str]:
    """Those of the runs that a living process works on; none where the driver has no claims."""
    if not run_ids or not overrides(type(backend), "read_claims"):
        return frozenset()
    claims = await backend.read_claims(run_ids)
    return frozenset(run_id for run_id, claim in claims.items() if not claim.has_ended(now))
