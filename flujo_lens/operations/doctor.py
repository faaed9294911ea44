"""Looking for what is wrong with a store."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.upkeep import Finding

__all__ = ["check_up"]


async def check_up(
    backend: StateBackend, now: datetime, silent_after: timedelta, *, full: bool = False
) -> Sequence[Finding]:
    """What a store's checks found (see `StateBackend.check_up`): what is wrong first, else in their order."""
    found = await backend.check_up(now, silent_after, full=full)
    return sorted(found, key=lambda finding: finding.ok)
