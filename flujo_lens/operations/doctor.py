"""Checking a store for problems, and repairing what can be repaired without losing data."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from flujo_lens.operations.change_report import Recorder
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.maintenance import Finding, Repaired


class Repairs(NamedTuple):
    """The repairs, and their entry in the audit log."""

    repaired: Sequence[Repaired]
    audit_id: str


async def check(
    backend: StateBackend, now: datetime, silent_after: timedelta, *, full: bool = False
) -> Sequence[Finding]:
    """The findings of a store's checks (see `StateBackend.check`), problems first."""
    found = await backend.check(now, silent_after, full=full)
    return sorted(found, key=lambda finding: finding.ok)


async def repair(backend: StateBackend, found: Sequence[Finding], record: Recorder) -> Repairs:
    """Make the repairs of the findings one by one, after writing an entry in the audit log.

    Raises:
        LensError: the log cannot be written; nothing was changed.
    """
    checks = [finding.check for finding in found if finding.repair]
    audit_id, repaired = await record.recorded({"fixes": len(checks)}, (), lambda: backend.repair(checks), _counted)
    return Repairs(repaired, audit_id)


def _counted(repaired: Sequence[Repaired]) -> tuple[dict[str, int], tuple[str, ...]]:
    return {"fixes": sum(one.done is not None for one in repaired)}, ()
