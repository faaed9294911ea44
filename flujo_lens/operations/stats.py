"""Statistics over runs and spans."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.stale_runs import claims_of, gone_runs
from flujo_lens.state.statistics import Stats
from flujo_lens.state.views import RunFilter

__all__ = ["statistics"]


async def statistics(backend: StateBackend, wanted: RunFilter) -> Stats:
    """Counts, durations and failures of the runs that match, and their spans by name."""
    stats, spans = await asyncio.gather(backend.read_stats(wanted), backend.read_span_stats(wanted))
    gone = await gone_runs(backend, wanted, (await claims_of(backend)).values()) if "running" in stats.by_status else []
    return replace(stats, spans=spans, gone=len(gone))
