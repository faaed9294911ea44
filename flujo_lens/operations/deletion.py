"""Deleting runs: copies, audit entries and limits.

The order makes it safe. First come the steps that can fail without harm: the lock, the files for copies, the entry in
the audit log. Then, for each batch, the copies are synced to disk before the runs are deleted. A process that dies at
any line leaves each run complete in the store, or complete in the bin and the archive; the same command again
finishes the work.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from flujo_lens.errors import BusyError, ReadOnlyStoreError
from flujo_lens.operations.archive import driver_kind
from flujo_lens.operations.archive_format import Header
from flujo_lens.operations.audit import AuditLog
from flujo_lens.operations.audit_chain import new_audit_id
from flujo_lens.operations.change_report import error_code
from flujo_lens.operations.deletion_copies import Copies, Keeping
from flujo_lens.operations.deletion_limits import check_room
from flujo_lens.operations.store_permissions import check_may_write
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.deletion import Deleted, DeletionPlan
from flujo_lens.state.maintenance import Space

MOST_NAMED = 10_000
"""Maximum number of runs whose ids, or their digest, are in the audit log; of more, only the number is."""


class Stop:
    """When to stop early: checked after each batch.

    Args:
        deadline: In seconds of the monotonic clock; None for none.
    """

    def __init__(self, deadline: float | None = None) -> None:
        self.deadline = deadline
        self.signal: int | None = None
        """The signal that requested the stop, if any."""

    def __bool__(self) -> bool:
        return self.signal is not None or (self.deadline is not None and time.monotonic() >= self.deadline)


HEADS = frozenset({"workflow_state", "runs", "states"})
"""The tables with a row per run; the other tables have their details."""

_NOTHING = Space(0, 0)
Watch = Callable[["Deletion", Deleted], None]
"""Called with the totals so far and the last batch."""


@dataclass(slots=True)
class Deletion:
    """The result of a deletion.

    Attributes:
        audit_id: Its entry in the audit log; None for a dry run or an empty plan.
        is_dry: Whether it was a dry run.
        by_status: Number of deleted runs by status.
        rows: Number of deleted rows by table.
        skipped: Number of runs that were kept, or already ``gone``, by reason.
        orphans: Number of deleted rows without a run.
        run_ids: The deleted runs; empty if more than `MOST_NAMED` were planned.
        seen: Number of processed runs.
        is_stopped: Whether it was stopped early.
        archive: The path of the archive; None without one.
        can_undo: Whether the bin has all of it.
        before, after: The size of the store.
    """

    plan: DeletionPlan
    audit_id: str | None = None
    is_dry: bool = False
    by_status: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    orphans: int = 0
    run_ids: list[str] = field(default_factory=list)
    seen: int = 0
    is_stopped: bool = False
    archive: Path | None = None
    can_undo: bool = False
    before: Space = _NOTHING
    after: Space = _NOTHING

    @property
    def deleted(self) -> int:
        """Number of deleted runs."""
        return self.by_status.total()

    @property
    def left(self) -> int:
        """Number of planned runs that were not processed."""
        return self.plan.count if self.is_dry else (self.plan.count - self.seen if self.is_stopped else 0)

    @property
    def is_through(self) -> bool:
        """Whether all of the plan was processed, except runs that other processes deleted in the meantime."""
        return self.seen >= self.plan.count and self.orphans >= sum(self.plan.orphans.values())

    def document(self) -> dict[str, Any]:
        """The report for ``-o json``."""
        plan, kept = self.plan, self.plan.kept
        cutoff = plan.request.cutoff
        return {
            "matched": plan.count,
            "done": self.deleted,
            "skipped": self.skipped.total(),
            "failed": 0,
            "left": self.left,
            "dry_run": self.is_dry,
            "audit_id": self.audit_id,
            "deleted": 0 if plan.request.strip else self.deleted,
            "by_status": _by_number(plan.by_status if self.is_dry else self.by_status),
            "kept": kept._asdict(),
            "cutoff": cutoff,
            "archive": None if self.archive is None else str(self.archive),
            "undo": self.can_undo,
            "reusable_bytes": self.after.reusable_bytes,
            "file_bytes_before": self.before.file_bytes,
            "file_bytes_after": self.after.file_bytes,
            "rows": {t: n for t, n in (plan.rows if self.is_dry else self.rows).items() if t not in HEADS},
            "orphans": sum(plan.orphans.values()) if self.is_dry else self.orphans,
            "estimated": self.is_dry and plan.is_estimate,
            **self._stripped(),
        }

    def _stripped(self) -> dict[str, Any]:
        """What a strip adds to the report: its parts, and the number of runs and of what they lost."""
        strip = self.plan.request.strip
        if not strip:
            return {}
        rows = self.plan.rows if self.is_dry else self.rows
        return {"strip": sorted(strip), "stripped": self.deleted, "rows": dict(rows)}


def _by_number(statuses: Mapping[str, int]) -> dict[str, int]:
    """The same in an order of its own: the most first."""
    return dict(sorted(statuses.items(), key=lambda item: (-item[1], item[0])))


async def dry_run(backend: StateBackend, plan: DeletionPlan, keeping: Keeping) -> Deletion:
    """The report of a dry run."""
    space = await backend.read_space()
    can_undo = keeping.bin is not None and not plan.is_empty
    return Deletion(plan, is_dry=True, archive=keeping.archive, can_undo=can_undo, before=space, after=space)


async def delete(
    backend: StateBackend,
    plan: DeletionPlan,
    keeping: Keeping,
    log: AuditLog,
    *,
    command: Sequence[str],
    reason: str | None,
    now: datetime,
    batch_size: int = 100,
    stop: Stop | None = None,
    watch: Watch | None = None,
) -> Deletion:
    """Execute a plan: write copies and audit entries, and delete.

    An audit entry with the planned numbers is written before the first deletion; a second one has the result.

    Args:
        keeping: Where copies are kept.
        batch_size: Maximum number of runs per transaction.
        watch: Called after each batch.

    Raises:
        OperationFailedError: the bin, the archive or the log cannot be written; nothing (more) was deleted.
        LensError: as for `StateBackend.delete_planned`.
    """
    done = Deletion(plan, before=await backend.read_space())
    done.after = done.before
    if plan.is_empty:
        return done
    check_may_write(getattr(backend, "path", None))
    log.check()
    check_room(getattr(backend, "path", None), min(batch_size, max(plan.count, 1)))
    audit_id = new_audit_id(now)
    header = Header(keeping.store, driver_kind(backend), now, audit_id, tuple(command), plan.request.cutoff)
    with Copies(keeping, header) as copies:
        entry: dict[str, Any] = {"command": command, "reason": reason, "counts": _planned(plan)}
        log.append(**entry, run_ids=await _ids(backend, plan), audit_id=audit_id, state="started")
        done.audit_id = audit_id
        try:
            await _carry_out(backend, plan, copies, done, batch_size, Stop() if stop is None else stop, watch)
            copies.finish(complete=not done.is_stopped, by_status=done.by_status, rows=done.rows)
        except BaseException as error:
            if isinstance(error, BusyError | ReadOnlyStoreError) and not (done.seen or done.rows):
                copies.discard()
            _tell_end(log, done, command, reason, error)
            raise
        _tell_end(log, done, command, reason)
    done.archive, done.can_undo = copies.archive_path, copies.has_bin
    done.after = await backend.read_space()
    return done


async def _carry_out(
    backend: StateBackend,
    plan: DeletionPlan,
    copies: Copies,
    done: Deletion,
    batch_size: int,
    stop: Stop,
    watch: Watch | None,
) -> None:
    batches = backend.delete_planned(plan, keep=copies.keep if copies else None, batch_size=batch_size)
    try:
        # a signal during a batch takes effect after it, and after the last part of a run
        async for batch in batches:
            _count(done, batch)
            if watch is not None:
                watch(done, batch)
            await asyncio.sleep(0)
            is_part = bool(batch.rows) and not (batch.run_ids or batch.orphans)  # of a run with very many rows
            if stop and not (is_part or done.is_through):
                done.is_stopped = True
                break
    except BusyError:
        # stop at once if requested, instead of waiting for the lock
        if stop.signal is None and not (stop and done.seen):
            raise
        done.is_stopped = True
    _count_gone(done)


def _count(done: Deletion, batch: Deleted) -> None:
    done.by_status.update(batch.by_status)
    done.rows.update(batch.rows)
    done.skipped.update(skipped.why for skipped in batch.skipped)
    done.orphans += batch.orphans
    done.seen += len(batch.run_ids) + len(batch.skipped)
    if done.plan.count <= MOST_NAMED:
        done.run_ids += batch.run_ids


def _count_gone(done: Deletion) -> None:
    """Count the planned runs that the driver does not report, because another process has deleted them."""
    gone = done.plan.count - done.seen
    if gone > 0 and not done.is_stopped:
        done.skipped["gone"] += gone
        done.seen += gone


def _planned(plan: DeletionPlan) -> dict[str, int]:
    """The counts of the first audit entry."""
    more = {"orphans": sum(plan.orphans.values()), "kept_paused": plan.kept.paused}
    return {"planned": plan.count, **{what: count for what, count in more.items() if count}}


async def _ids(backend: StateBackend, plan: DeletionPlan) -> list[str]:
    if plan.count > MOST_NAMED:
        return []
    return [run_id async for run_id in backend.planned_ids(plan)]


def _tell_end(
    log: AuditLog, done: Deletion, command: Sequence[str], reason: str | None, error: BaseException | None = None
) -> None:
    """Write the second audit entry: the result, with the ids if the first entry has them."""
    if done.audit_id is None:
        return
    did = "stripped" if done.plan.request.strip else "deleted"
    counts = {did: done.deleted, "skipped": done.skipped.total(), "left": done.plan.count - done.seen}
    log.append_result(
        done.audit_id, command=command, reason=reason, run_ids=done.run_ids,
        counts=counts | ({"orphans": done.orphans} if done.plan.orphans else {}),
        error=None if error is None else error_code(error),
    )  # fmt: skip
