"""Cancelling runs, so that they cannot be resumed. Their history stays; the bin keeps their former state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from inspect import signature
from typing import Any, NamedTuple

from flujo_lens.errors import NotSupportedError, RunNotFoundError
from flujo_lens.operations.archive import driver_kind
from flujo_lens.operations.archive_format import Header
from flujo_lens.operations.audit_chain import new_audit_id
from flujo_lens.operations.change_report import Recorder, Report
from flujo_lens.operations.deletion_copies import Copies, Keeping
from flujo_lens.state.backends.base import StateBackend, overrides
from flujo_lens.state.claims import Claim
from flujo_lens.state.views import RunSummary

_ENDS = ("completed", "cancelled")


class CancelPlan(NamedTuple):
    """The runs that would be cancelled.

    Attributes:
        runs: The resumable runs.
        ended: Runs that are already completed or cancelled, which do not change.
        held: The claims of live processes on some of `runs`.
    """

    runs: tuple[RunSummary, ...]
    ended: tuple[RunSummary, ...]
    held: Mapping[str, str]


async def plan_cancel(backend: StateBackend, run_ids: Sequence[str], now: datetime) -> CancelPlan:
    """Plan a cancellation. Writes nothing.

    Args:
        run_ids: Their whole ids.

    Raises:
        RunNotFoundError: a run does not exist.
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
    """The valid claims on these runs; none if the driver has no claims."""
    try:
        claims = await backend.read_claims(run_ids)
    except NotSupportedError:
        return {}
    return {run_id: claim for run_id, claim in claims.items() if not claim.has_ended(now)}


class Cancelled(NamedTuple):
    """The result of a cancellation.

    Attributes:
        run_ids: The cancelled runs; in a dry run, those that would be.
        report: The counts.
        can_undo: Whether the bin has their former state.
    """

    run_ids: Sequence[str]
    report: Report
    can_undo: bool = False

    def document(self) -> dict[str, Any]:
        """The report for ``-o json``."""
        return self.report.document() | {"undo": self.can_undo}


def can_keep(backend: StateBackend) -> bool:
    """Whether a driver can copy runs before cancelling them, and restore the copies."""
    kind = type(backend)
    takes = "keep" in signature(kind.cancel_runs).parameters
    return takes and overrides(kind, "cancel_runs") and overrides(kind, "restore")


async def cancel(
    backend: StateBackend,
    plan: CancelPlan,
    record: Callable[[], Recorder] | None,
    keeping: Keeping,
    now: datetime,
    *,
    force: bool = False,
) -> Cancelled:
    """Cancel the runs of a plan, after writing an entry in the audit log and their copies to the bin.

    Each run is checked again in its transaction; a run that has ended since, or is held, is skipped.

    Args:
        record: Creates the recorder; None for a dry run.
        keeping: The bin, if there is one and the driver `can_keep`.
        force: Also cancel runs held by live processes, which cannot save them any more.

    Raises:
        LensError: the bin, the log or the store cannot be written.
    """
    ids = [run.run_id for run in plan.runs]
    matched = len(ids) + len(plan.ended)
    if record is None or not ids:
        report = Report(matched, skipped=len(plan.ended), left=len(ids), dry_run=record is None)
        return Cancelled(ids, report, bool(ids) and keeping.bin is not None)
    recorder, audit_id = record(), new_audit_id(now)
    recorder.log.check()
    header = Header(keeping.store, driver_kind(backend), now, audit_id, tuple(recorder.command))
    with Copies(keeping, header) as copies:

        async def change() -> Sequence[str]:
            more: dict[str, Any] = {"keep": copies.keep} if copies else {}
            return await backend.cancel_runs(ids, force=force, **more)

        audit_id, done = await recorder.recorded({"runs": len(ids)}, ids, change, _counted, audit_id=audit_id)
        copies.finish(complete=True, by_status={}, rows={})
    if keeping.bin is not None:
        keeping.bin.expire(now)
    return Cancelled(done, Report(matched, len(done), matched - len(done), audit_id=audit_id), copies.has_bin)


def _counted(done: Sequence[str]) -> tuple[dict[str, int], Sequence[str]]:
    """The result for the audit log."""
    return {"cancelled": len(done)}, done
