"""Cancelling the runs of a driver that has no way of its own for it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from flujo_lens.errors import NotSupportedError
from flujo_lens.state.backends.base import StateBackend, overrides
from flujo_lens.state.backends.core.rows import cancelled, is_open


async def cancel_gathered(backend: StateBackend, run_ids: Sequence[str], force: bool) -> list[str]:
    """`StateBackend.cancel_runs` by the other methods."""
    free = list(dict.fromkeys(run_ids)) if force else await _free(backend, run_ids)
    return [run_id for run_id in free if await _cancel(backend, run_id)]


async def _free(backend: StateBackend, run_ids: Sequence[str]) -> list[str]:
    now = datetime.now(UTC)
    try:
        claims = await backend.read_claims(run_ids)
    except NotSupportedError:
        claims = {}
    return [one for one in dict.fromkeys(run_ids) if one not in claims or claims[one].has_ended(now)]


async def _cancel(backend: StateBackend, run_id: str) -> bool:
    state = await backend.load_state(run_id)
    run = await backend.get_run_details(run_id) if overrides(type(backend), "get_run_details") else None
    if not is_open(state, run):
        return False
    now = datetime.now(UTC).isoformat()
    if state is not None:
        await backend.save_state(run_id, state | cancelled(now))
    if run is not None and overrides(type(backend), "save_run_end"):
        await backend.save_run_end(run_id, cancelled(now))
    return True
