"""Looking for what is wrong with a store, and mending what can be mended without losing anything."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from flujo_lens.operations.change_report import Recorder
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.maintenance import Finding, Repaired

__all__ = ["Treated", "check", "repair"]


class Treated(NamedTuple):
    """What was done about the findings, and its entry in the audit log."""

    mended: Sequence[Repaired]
    audit_id: str


async def check(
    backend: StateBackend, now: datetime, silent_after: timedelta, *, full: bool = False
) -> Sequence[Finding]:
    """What a store's checks found (see `StateBackend.check`): what is wrong first, else in their order."""
    found = await backend.check(now, silent_after, full=full)
    return sorted(found, key=lambda finding: finding.ok)


async def repair(backend: StateBackend, found: Sequence[Finding], record: Recorder) -> Treated:
    """Do what the findings name as their `repair`, each by itself; the entry in the audit log comes first.

    Raises:
        LensError: the log cannot be written, and nothing was changed.
    """
    checks = [finding.check for finding in found if finding.repair]
    audit_id, mended = await record.recorded({"fixes": len(checks)}, (), lambda: backend.repair(checks), _counted)
    return Treated(mended, audit_id)


def _counted(mended: Sequence[Repaired]) -> tuple[dict[str, int], tuple[str, ...]]:
    return {"fixes": sum(one.done is not None for one in mended)}, ()
