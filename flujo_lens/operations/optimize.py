"""Optimizing a store, with an entry in its audit log."""

from __future__ import annotations

from typing import NamedTuple

from flujo_lens.operations.change_report import Recorder
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.maintenance import OptimizationPlan, Optimized


class Done(NamedTuple):
    """The result, and its entry in the audit log."""

    optimized: Optimized
    audit_id: str


async def optimize(backend: StateBackend, plan: OptimizationPlan, record: Recorder, *, force: bool) -> Done:
    """Execute a plan, after writing an audit entry.

    Args:
        force: Whether to continue if other processes have the store open.

    Raises:
        LensError: as for `StateBackend.optimize`; or the log cannot be written, and nothing was changed.
    """
    counts = {"indexes": len(plan.indexes), "vacuum": int(plan.vacuum)}
    audit_id, done = await record.recorded(counts, (), lambda: backend.optimize(vacuum=plan.vacuum, force=force))
    return Done(done, audit_id)
