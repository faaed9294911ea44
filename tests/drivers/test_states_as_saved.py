"""`load_state` of the memory and of JSON files gives what was saved: nothing is added, and any object is a state."""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel

from flujo_lens import FileBackend, InMemoryBackend, SQLiteBackend
from flujo_lens.serialization import register_custom_serializer, scoped_registry
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.models import WorkflowState
from flujo_lens.state.views import RunFilter

Make = Callable[[Path], StateBackend]
WHOLE: dict[str, Make] = {"memory": lambda folder: InMemoryBackend(), "files": FileBackend}
EVERY: dict[str, Make] = {**WHOLE, "sqlite": lambda folder: SQLiteBackend(folder / "store.db")}


def loaded(backend: StateBackend, state: Any, run_id: str = "r") -> Any:
    async def work() -> Any:
        async with backend:
            await backend.save_state(run_id, state)
            return await backend.load_state(run_id)

    return asyncio.run(work())


@pytest.mark.parametrize("make", WHOLE.values(), ids=WHOLE)
@pytest.mark.parametrize(
    "state",
    [
        {},
        {"foo": "bar"},
        {"status": "paused", "created_at": None, "updated_at": ""},
        {"status": "paused", "updated_at": "2026-01-02T00:00:00+00:00", "run_id": "r"},
        {"nested": {"run_id": "another", "created_at": None, "lens_filled": [["x"]]}, "漢字": [1, {"a": None}]},
    ],
    ids=["empty", "one field", "no times", "one time", "nested"],
)
def test_nothing_is_added(make: Make, tmp_path: Path, state: dict[str, Any]) -> None:
    given = json.loads(json.dumps(state))
    assert loaded(make(tmp_path), state) == given == state


@pytest.mark.parametrize("make", WHOLE.values(), ids=WHOLE)
def test_the_run_has_its_times_all_the_same(make: Make, tmp_path: Path) -> None:
    async def work() -> None:
        before = datetime.now(UTC)
        async with make(tmp_path) as backend:
            await backend.save_state("r", {"foo": "bar"})
            (run,) = [run async for run in backend.iter_runs(RunFilter())]
            assert run.run_id == "r"
            assert run.created_at is not None
            assert run.updated_at is not None
            assert before <= run.created_at <= run.updated_at <= datetime.now(UTC)
            detail = await backend.read_run("r")
            assert detail is not None
            assert detail.state == {"foo": "bar"} == await backend.load_state("r")
            assert await backend.list_states() == [{"run_id": "r", "foo": "bar"}]
            assert await backend.cancel_runs(["r"]) == ["r"]
            assert await backend.load_state("r") == {"foo": "bar", "status": "cancelled"}
            await backend.save_state("r", {"foo": "baz"})
            assert await backend.load_state("r") == {"foo": "baz"}

    asyncio.run(work())


@dataclass
class Saved:
    status: str
    pipeline_context: dict[str, Any]


class Model(BaseModel):
    status: str
    pipeline_context: dict[str, Any]


class Own:
    def __init__(self, **fields: Any) -> None:
        self.fields = fields


FIELDS: dict[str, Any] = {"status": "paused", "pipeline_context": {"at": "2026-01-02T00:00:00+00:00", "n": [1]}}
CONTEXT: dict[str, Any] = {"at": datetime(2026, 1, 2, tzinfo=UTC), "n": (1,)}


@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize(
    "state",
    [
        Saved("paused", CONTEXT),
        Model(status="paused", pipeline_context=CONTEXT),
        SimpleNamespace(status="paused", pipeline_context=CONTEXT),
        OrderedDict(status="paused", pipeline_context=CONTEXT),
        MappingProxyType({"status": "paused", "pipeline_context": CONTEXT}),
        Own(status="paused", pipeline_context=CONTEXT),
    ],
    ids=lambda state: type(state).__name__,
)
def test_any_object_is_a_state(make: Make, tmp_path: Path, state: Any) -> None:
    with scoped_registry():
        register_custom_serializer(Own, lambda own: own.fields)
        found = loaded(make(tmp_path), state)
    assert {name: found[name] for name in FIELDS} == FIELDS


@pytest.mark.parametrize("make", WHOLE.values(), ids=WHOLE)
def test_the_model_of_a_state_comes_back_as_its_fields(make: Make, tmp_path: Path) -> None:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    state = WorkflowState(
        run_id="r",
        pipeline_id="p",
        pipeline_name="p",
        pipeline_version="1",
        current_step_index=0,
        pipeline_context={},
        status="running",
        created_at=now,
        updated_at=now,
    )
    assert WorkflowState.model_validate(loaded(make(tmp_path), state)) == state


@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize("state", [[1], "text", 7, None, {1}, object()], ids=lambda state: type(state).__name__)
def test_what_has_no_fields_is_no_state(make: Make, tmp_path: Path, state: Any) -> None:
    with pytest.raises(TypeError, match="a state must be a dict, not"):
        loaded(make(tmp_path), state)


def test_files_that_others_wrote_are_read_as_they_are(tmp_path: Path) -> None:
    for odd in (7, ["created_at"], [[]], [["foo", 1]], {}):
        (tmp_path / "r.json").write_text(json.dumps({"run_id": "r", "status": "paused", "lens_filled": odd}))

        async def work() -> Any:
            async with FileBackend(tmp_path) as backend:
                return await backend.load_state("r")

        assert asyncio.run(work())["status"] == "paused"
