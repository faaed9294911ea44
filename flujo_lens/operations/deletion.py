"""Deleting runs: what is kept of them, what is written down, and when it stops.

The order is what makes it safe. First whatever can fail without harm: the lock, the place for what is kept, the entry
in the audit log. Then batch by batch: kept and on the disk, then gone. A process that dies on any line leaves each
run whole in the store, or whole in the bin and the archive; the same command again finishes the work.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from flujo_lens.errors import BusyError, LensError, ReadOnlyStoreError
from flujo_lens.operations.archive import driver_kind
from flujo_lens.operations.archive_format import Header
from flujo_lens.operations.audit import AuditLog, new_audit_id
from flujo_lens.operations.change_report import error_code
from flujo_lens.operations.deletion_copies import Copies, Keeping
from flujo_lens.operations.deletion_limits import check_may_write, check_room
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.deletion import Deleted, DeletionPlan
from flujo_lens.state.maintenance import Space

__all__ = ["HEADS", "MOST_NAMED", "Deletion", "Stop", "Watch", "delete", "dry_run"]

MOST_NAMED = 10_000
"""Runs of which the audit log gets the ids, or their digest; of more, it gets the number."""


class Stop:
    """When to end before the end: asked after each batch.

    Args:
        deadline: In seconds of the monotonic clock; None for none.
    """

    def __init__(self, deadline: float | None = None) -> None:
        self.deadline = deadline
        self.signal: int | None = None
        """The signal that asked for an end, if one did."""

    def __bool__(self) -> bool:
        return self.signal is not None or (self.deadline is not None and time.monotonic() >= self.deadline)


HEADS = frozenset({"workflow_state", "runs", "states"})
"""Where runs themselves are; in the other tables is what hangs on them."""

_NOTHING = Space(0, 0)
Watch = Callable[["Deletion", Deleted], None]
"""Is told how far it is, and what the last batch did."""


@dataclass(slots=True)
class Deletion:
    """What a deletion came to.

    Attributes:
        plan: What was planned.
        audit_id: Its entry in the audit log; None for a dry run, and where there was nothing to do.
        is_dry: Whether nothing was to be done.
        by_status: Runs that went, by the status that they had.
        rows: Rows that went, by table.
        skipped: Runs of the plan that stayed, or were ``gone`` already, by why.
        orphans: Rows without a run that went.
        run_ids: The runs that went, unless `MOST_NAMED` were fewer than the planned ones.
        seen: Runs of the plan that were come to.
        is_stopped: Whether it ended before the end, as it was asked to.
        archive: Where the archive is; None if there is none.
        can_undo: Whether the bin has all of it.
        before, after: What the store took of the disk.
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
        """How many runs went."""
        return self.by_status.total()

    @property
    def left(self) -> int:
        """How many runs of the plan were not come to."""
        return self.plan.count if self.is_dry else (self.plan.count - self.seen if self.is_stopped else 0)

    @property
    def is_through(self) -> bool:
        """Whether it came to all of the plan; what others deleted meanwhile nobody comes to."""
        return self.seen >= self.plan.count and self.orphans >= sum(self.plan.orphans.values())

    def document(self) -> dict[str, Any]:
        """The report as ``-o json`` prints it."""
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
            "deleted": self.deleted,
            "by_status": dict(plan.by_status if self.is_dry else self.by_status),
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
        }


async def dry_run(backend: StateBackend, plan: DeletionPlan, keeping: Keeping) -> Deletion:
    """What `delete` would report, as far as that can be known."""
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
    """Carry out a plan: kept, written down, deleted.

    The entry in the audit log is written before the first run goes, and says how many are planned; a second one says
    what came of it.

    Args:
        backend: The store that the plan is of.
        plan: What is to go.
        keeping: Where a copy goes.
        log: The audit log.
        command: The words that were typed, without secrets.
        reason: Why, if somebody said.
        now: The present.
        batch_size: Runs a transaction at most.
        stop: When to end early.
        watch: Is told after each batch.

    Raises:
        OperationFailedError: the bin, the archive or the log cannot be written: nothing was deleted, or no more was.
        LensError: as `StateBackend.delete_planned`.
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
        told: dict[str, Any] = {"command": command, "reason": reason, "counts": _planned(plan)}
        log.append(**told, run_ids=await _ids(backend, plan), audit_id=audit_id, state="started")
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
        # A signal that comes while a batch is in hand is heard after it, and after the last part of a run.
        async for batch in batches:
            _count(done, batch)
            if watch is not None:
                watch(done, batch)
            await asyncio.sleep(0)
            is_part = bool(batch.rows) and not (batch.run_ids or batch.orphans)  # of a run of very many rows
            if stop and not (is_part or done.is_through):
                done.is_stopped = True
                break
    except BusyError:
        # Whoever asked for an end meanwhile gets that, not a wait in vain.
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
    """Count the runs that drivers do not tell of, since another process has deleted them meanwhile."""
    gone = done.plan.count - done.seen
    if gone > 0 and not done.is_stopped:
        done.skipped["gone"] += gone
        done.seen += gone


def _planned(plan: DeletionPlan) -> dict[str, int]:
    """What the first entry counts."""
    more = {"orphans": sum(plan.orphans.values()), "kept_paused": plan.kept.paused}
    return {"planned": plan.count, **{what: count for what, count in more.items() if count}}


async def _ids(backend: StateBackend, plan: DeletionPlan) -> list[str]:
    if plan.count > MOST_NAMED:
        return []
    return [run_id async for run_id in backend.planned_ids(plan)]


def _tell_end(
    log: AuditLog, done: Deletion, command: Sequence[str], reason: str | None, error: BaseException | None = None
) -> None:
    """Write a second entry: what came of the plan, and the runs that went, as far as the first one names them."""
    counts = {"deleted": done.deleted, "skipped": done.skipped.total(), "left": done.plan.count - done.seen}
    with suppress(LensError):
        log.append(
            command=command, reason=reason, run_ids=done.run_ids, closes=done.audit_id,
            counts=counts | ({"orphans": done.orphans} if done.plan.orphans else {}),
            error=None if error is None else error_code(error),
        )  # fmt: skip
