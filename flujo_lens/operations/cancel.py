"""Cancelling runs: nothing resumes them any more, and their history stays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from flujo_lens.errors import NotSupportedError, RunNotFoundError
from flujo_lens.operations.changes import Recorder, Report
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.claims import Claim
from flujo_lens.state.views import RunSummary

__all__ = ["CancelPlan", "cancel", "held_claims", "plan_cancel"]

_ENDS = ("completed", "cancelled")


class CancelPlan(NamedTuple):
    """What would be cancelled.

    Attributes:
        runs: Those that could go on.
        ended: Those that are completed or cancelled already; they stay as they are.
        held: Of `runs`, those that a living process holds, and which.
    """

    runs: tuple[RunSummary, ...]
    ended: tuple[RunSummary, ...]
    held: Mapping[str, str]


async def plan_cancel(backend: StateBackend, run_ids: Sequence[str], now: datetime) -> CancelPlan:
    """Look at runs. Nothing is written.

    Args:
        backend: The store.
        run_ids: Their whole ids.
        now: The present.

    Raises:
        RunNotFoundError: one of them is not there.
    """
    wanted = list(dict.fromkeys(run_ids))
    found = await backend.read_summaries(wanted)
    there = {run.run_id for run in found}
    for run_id in wanted:
        if run_id not in there:
            raise RunNotFoundError(f'no run "{run_id}" in this store; nothing was changed', run_id=run_id)
    open_ones = tuple(run for run in found if run.status not in _ENDS)
    claims = await held_claims(backend, [run.run_id for run in open_ones], now)
    held = {run_id: str(claim.holder) for run_id, claim in claims.items()}
    return CancelPlan(open_ones, tuple(run for run in found if run.status in _ENDS), held)


async def held_claims(backend: StateBackend, run_ids: Sequence[str], now: datetime) -> dict[str, Claim]:
    """The claims on these runs that have not ended; none where the driver has no claims."""
    try:
        claims = await backend.read_claims(run_ids)
    except NotSupportedError:
        return {}
    return {run_id: claim for run_id, claim in claims.items() if not claim.has_ended(now)}


async def cancel(
    backend: StateBackend, plan: CancelPlan, record: Callable[[], Recorder] | None, *, force: bool = False
) -> tuple[Sequence[str], Report]:
    """Cancel the runs of a plan; the entry in the audit log comes first.

    Each is looked at again when it is marked; one that has ended meanwhile, or is held, stays, and is counted as
    skipped.

    Args:
        backend: The store.
        plan: What to cancel.
        record: Makes the recorder; None to change nothing.
        force: Also what a living process holds, which saves nothing more of it.

    Returns:
        The runs that were cancelled (that would be, if nothing is changed), and the report.

    Raises:
        LensError: the log or the store cannot be written.
    """
    ids = [run.run_id for run in plan.runs]
    matched = len(ids) + len(plan.ended)
    if record is None or not ids:
        return ids, Report(matched, skipped=len(plan.ended), left=len(ids), dry_run=record is None)

    async def change() -> Sequence[str]:
        return await backend.cancel_runs(ids, force=force)

    audit_id, done = await record().recorded({"runs": len(ids)}, ids, change)
    return done, Report(matched, len(done), matched - len(done), audit_id=audit_id)
