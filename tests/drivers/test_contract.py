"""Every driver against the conformance suite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flujo_lens.state.backends.base import JSONObject, StateBackend
from flujo_lens.state.backends.file import FileBackend
from flujo_lens.state.backends.memory import InMemoryBackend
from flujo_lens.state.backends.sqlite import SQLiteBackend
from flujo_lens.testing.contract import ReadingContract


class Placed(ReadingContract):
    """Has a folder of its own."""

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.folder = tmp_path


class TestMemory(ReadingContract):
    async def new_backend(self) -> StateBackend:
        return InMemoryBackend()


class TestSQLite(Placed):
    async def new_backend(self) -> StateBackend:
        return SQLiteBackend(self.folder / "store.db")


class TestFile(Placed):
    states_only = True

    async def new_backend(self) -> StateBackend:
        return FileBackend(self.folder / "states", cache_dir=self.folder / "cache")


class ListingBackend(StateBackend):
    """A driver of somebody else: the application's half alone, of which some is missing."""

    def __init__(self) -> None:
        self.kept = InMemoryBackend()

    async def save_state(self, run_id: str, state: JSONObject) -> None:
        await self.kept.save_state(run_id, state)

    async def load_state(self, run_id: str) -> JSONObject | None:
        return await self.kept.load_state(run_id)

    async def delete_state(self, run_id: str) -> None:
        await self.kept.delete_state(run_id)

    async def list_states(self, status: str | None = None) -> list[JSONObject]:
        return await self.kept.list_states(status)

    async def find_run_ids(self, prefix: str, limit: int = 10) -> list[str]:
        return await self.kept.find_run_ids(prefix, limit)


class TestListing(ReadingContract):
    """What the base class makes of a driver that only lists its states."""

    states_only = True
    complete = False

    async def new_backend(self) -> StateBackend:
        return ListingBackend()


class HistoryBackend(ListingBackend):
    """One with history, too: runs as the library keeps them, beside the states."""

    async def save_run_start(self, run_data: JSONObject) -> None:
        await self.kept.save_run_start(run_data)

    async def save_run_end(self, run_id: str, end_data: JSONObject) -> None:
        await self.kept.save_run_end(run_id, end_data)

    async def save_step_result(self, step_data: JSONObject) -> None:
        await self.kept.save_step_result(step_data)

    async def save_spans(self, run_id: str, spans: list[JSONObject]) -> None:
        await self.kept.save_spans(run_id, spans)

    async def get_spans(self, run_id: str, status: str | None = None, name: str | None = None) -> list[JSONObject]:
        return await self.kept.get_spans(run_id, status, name)

    async def get_trace(self, run_id: str) -> Any:
        return await self.kept.get_trace(run_id)

    async def get_run_details(self, run_id: str) -> JSONObject | None:
        found = self.kept._runs.get(run_id)
        return dict(found) if found else None

    async def list_runs(
        self,
        status: str | None = None,
        pipeline_name: str | None = None,
        limit: int | None = None,
        offset: int = 0,
        metadata_filter: JSONObject | None = None,
    ) -> list[JSONObject]:
        return [dict(run) for run in self.kept._runs.values()]

    async def list_background_tasks(
        self,
        parent_run_id: str | None = None,
        status: str | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[JSONObject]:
        return await self.kept.list_background_tasks(parent_run_id, status, limit, offset)

    async def list_run_steps(self, run_id: str) -> list[JSONObject]:
        return [dict(step) for step in self.kept._steps.get(run_id, [])]

    async def persist_evaluation(
        self,
        run_id: str,
        score: float,
        feedback: str | None = None,
        step_name: str | None = None,
        metadata: JSONObject | None = None,
    ) -> None:
        await self.kept.persist_evaluation(run_id, score, feedback, step_name, metadata)

    async def list_evaluations(self, limit: int = 20, run_id: str | None = None) -> list[JSONObject]:
        return await self.kept.list_evaluations(limit, run_id)

    async def set_system_state(self, key: str, value: JSONObject) -> None:
        await self.kept.set_system_state(key, value)


class TestHistory(ReadingContract):
    """What the base class makes of a driver whose listings hold what one table has, as the library's do."""

    complete = False
    test_runs_are_listed_as_dicts = None
    test_the_details_of_a_run = None

    async def new_backend(self) -> StateBackend:
        return HistoryBackend()
