"""Deleting from a driver of somebody else that knows nothing of plans."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flujo_lens.errors import NotSupportedError
from flujo_lens.state.backends.base import JSONObject, StateBackend, capabilities_of
from flujo_lens.state.backends.memory import InMemoryBackend
from flujo_lens.state.deletion import Deleted, DeletionRequest
from flujo_lens.testing.samples import plain_state

NOW = datetime.now(UTC)


class ThreeMethods(StateBackend):
    """States in a dict."""

    def __init__(self) -> None:
        self.states: dict[str, JSONObject] = {}

    async def save_state(self, run_id: str, state: JSONObject) -> None:
        self.states[run_id] = state

    async def load_state(self, run_id: str) -> JSONObject | None:
        return self.states.get(run_id)

    async def delete_state(self, run_id: str) -> None:
        self.states.pop(run_id, None)


class Listing(ThreeMethods):
    """One that can be listed, too."""

    async def list_states(self, status: str | None = None) -> list[JSONObject]:
        return list(self.states.values())


def delete(backend: ThreeMethods, keep: Any = None, **more: Any) -> list[Deleted]:
    async def work() -> list[Deleted]:
        for run_id, days in (("old", 60), ("young", 1)):
            await backend.save_state(run_id, plain_state(run_id, "completed", NOW - timedelta(days=days)))
        plan = await backend.plan_deletion(DeletionRequest(now=datetime.now(UTC), **more))
        return [done async for done in backend.delete_planned(plan, keep=keep)]

    return asyncio.run(work())


def test_runs_by_name_need_no_list() -> None:
    backend = ThreeMethods()
    (done,) = delete(backend, run_ids=("young", "nobody"))
    assert (done.run_ids, list(backend.states)) == (("young",), ["old"])


def test_runs_by_age_need_one() -> None:
    with pytest.raises(NotSupportedError, match="list"):
        delete(ThreeMethods(), cutoff=NOW - timedelta(days=30))
    backend = Listing()
    (done,) = delete(backend, cutoff=NOW - timedelta(days=30))
    assert (done.run_ids, done.by_status, list(backend.states)) == (("old",), {"completed": 1}, ["young"])


def test_what_cannot_be_kept_is_not_deleted() -> None:
    backend = Listing()
    kept: list[Any] = []
    with pytest.raises(NotSupportedError, match="restore"):
        delete(backend, kept.extend, cutoff=NOW)
    with pytest.raises(NotSupportedError):
        delete(backend, run_ids=("old",), state_only=True)
    assert (sorted(backend.states), kept) == (["old", "young"], [])


def test_what_each_can_do() -> None:
    assert "undo" not in capabilities_of(Listing)
    assert "undo" in capabilities_of(InMemoryBackend)
