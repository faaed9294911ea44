"""Odd things in the files of `FileBackend`: any depth, many digits, ids, lines of a history that somebody edited."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from flujo_lens.errors import CorruptStoreError
from flujo_lens.serialization import safe_dumps
from flujo_lens.serialization.codec import StateCodec
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.backends.file import FileBackend
from flujo_lens.state.backends.file.format.document import encode_state
from flujo_lens.state.backends.memory import InMemoryBackend
from flujo_lens.state.views import RunFilter

T = TypeVar("T")
AT = "2026-03-01T09:00:00+00:00"


def state(**more: Any) -> dict[str, Any]:
    return {"pipeline_name": "p", "status": "running", "created_at": AT, "updated_at": AT, **more}


def use(folder: Path, work: Callable[[FileBackend], Awaitable[T]]) -> T:
    async def run() -> T:
        async with FileBackend(folder / "states", cache_dir=folder / "cache") as backend:
            return await work(backend)

    return asyncio.run(run())


def nested(depth: int) -> Any:
    made: Any = {"n": 1}
    for _ in range(depth):
        made = [made]
    return made


def depth_of(value: Any) -> int:
    """How many lists lie in one another; comparing them would be a recursion."""
    depth = 0
    while isinstance(value, list):
        value, depth = value[0], depth + 1
    assert value == {"n": 1}
    return depth


# --- depth


@pytest.mark.parametrize("depth", [900, 1023, 1024, 1025, 10_000])
@pytest.mark.parametrize("kind", [FileBackend, InMemoryBackend])
def test_depth_is_no_limit(tmp_path: Path, depth: int, kind: type[StateBackend]) -> None:
    made = state(pipeline_context={"deep": nested(depth)}, last_step_output=nested(depth))

    async def work(backend: StateBackend) -> None:
        await backend.save_state("deep", made)
        await backend.save_state("other", state())
        loaded = await backend.load_state("deep")
        assert loaded is not None
        assert depth_of(loaded["pipeline_context"]["deep"]) == depth
        assert depth_of(loaded["last_step_output"]) == depth
        listed = {one["run_id"]: one for one in await backend.list_states()}
        assert depth_of(listed["deep"]["pipeline_context"]["deep"]) == depth
        for details in (True, False):
            runs = {run.run_id: run async for run in backend.iter_runs(RunFilter(), details=details)}
            assert sorted(runs) == ["deep", "other"]
            assert (runs["deep"].status, runs["deep"].problems) == ("running", ())
        detail = await backend.read_run("deep")
        assert detail is not None
        assert detail.state is not None
        assert depth_of(detail.state["pipeline_context"]["deep"]) == depth
        assert depth_of(detail.final_output) == depth

    if kind is FileBackend:
        use(tmp_path, work)
    else:
        asyncio.run(work(InMemoryBackend()))


def test_deep_histories(tmp_path: Path) -> None:
    async def work(backend: FileBackend) -> None:
        await backend.save_step_result({"run_id": "r", "step_name": "s", "output": nested(3_000)})
        await backend.save_spans("r", [{"span_id": "a", "name": "n", "attributes": {"deep": nested(3_000)}}])
        await backend.set_system_state("k", {"deep": nested(3_000)})
        (step,) = await backend.list_run_steps("r")
        assert depth_of(step["output"]) == 3_000
        (span,) = await backend.get_spans("r")
        assert depth_of(span["attributes"]["deep"]) == 3_000
        assert depth_of((await backend.get_system_state("k") or {})["value"]["deep"]) == 3_000

    use(tmp_path, work)


def test_a_deep_file_that_is_torn_does_not_parse(tmp_path: Path) -> None:
    use(tmp_path, lambda b: b.save_state("r", state(pipeline_context=nested(5_000))))
    path = tmp_path / "states" / "r.json"
    path.write_bytes(path.read_bytes()[:4_000])
    with pytest.raises(CorruptStoreError, match=r"r\.json"):
        use(tmp_path, lambda b: b.load_state("r"))

    async def statuses(backend: FileBackend) -> list[str]:
        return [run.status async for run in backend.iter_runs(RunFilter())]

    assert use(tmp_path, statuses) == ["unreadable"]


def test_a_stale_task_that_is_deep_is_given_up(tmp_path: Path) -> None:
    old = "2020-01-01T00:00:00+00:00"
    made = state(is_background_task=True, created_at=old, updated_at=old, pipeline_context=nested(2_000))

    async def work(backend: FileBackend) -> None:
        await backend.save_state("bg", made)
        assert await backend.cleanup_stale_background_tasks(1) == 1
        loaded = await backend.load_state("bg")
        assert loaded is not None
        assert (loaded["status"], depth_of(loaded["pipeline_context"])) == ("failed", 2_000)

    use(tmp_path, work)


# --- numbers and ids


def test_all_digits_come_back_from_every_method(tmp_path: Path) -> None:
    """An application that saves what it has listed must not round it."""
    text = '{"run_id": "r", "status": "running", "pipeline_context": {"n": 123456789012345678901234567890}}'
    (tmp_path / "states").mkdir()
    (tmp_path / "states" / "r.json").write_text(text)
    wanted = {"n": 123456789012345678901234567890}

    async def work(backend: FileBackend) -> None:
        loaded, (listed,), detail = (
            await backend.load_state("r"),
            await backend.list_states(),
            await backend.read_run("r"),
        )
        assert loaded is not None
        assert detail is not None
        assert detail.state is not None
        found = [one["pipeline_context"] for one in (loaded, listed, detail.state)]
        assert found == [wanted] * 3

    use(tmp_path, work)


@pytest.mark.parametrize("rest", [{}, {"z": [1], "a": "\U0001f600", "run_id": "other"}])
def test_an_id_that_is_no_text_is_written_as_it_was(rest: dict[str, Any]) -> None:
    """No new run can have one; an old one keeps it when it is marked."""
    written = encode_state(StateCodec(), "half\ud800", rest)
    assert written.isascii()
    assert json.loads(written) == {**rest, "run_id": "half\ud800"}


def test_a_state_of_an_id_that_is_no_text_keeps_its_depth_and_digits() -> None:
    written = encode_state(StateCodec(), "half\ud800", {"deep": nested(3_000), "n": safe_dumps(2**70).decode()})
    assert written.startswith(b'{"run_id":"half\\ud800",')
    assert written.count(b"[") == 3_000


# --- lines that somebody edited


ODD_LINES = [
    '{"run_id":"r","kind":"step","at":"x"}',
    '{"run_id":"r","kind":"step","at":"x","data":[]}',
    '{"run_id":"r","kind":"step","at":7,"data":{"output":1},"step_index":"one","step_name":null}',
    '{"run_id":"r","kind":"spans","at":"x","data":{"spans":[{"span_id":"a"}]}}',
    '{"run_id":"r","kind":"spans","at":"x","data":{"spans":[{"name":"without an id"}]}}',
    '{"run_id":"r","kind":"spans","at":"x","data":{"spans":[{"span_id":"a","start_time":"soon","attributes":[1]}]}}',
    '{"run_id":"r","kind":"trace","at":"x","data":{"spans":"none"}}',
    '{"run_id":"r","kind":"evaluation","at":"x"}',
    '{"run_id":"r","kind":"evaluation","at":"x","score":"high","data":{"feedback":[1]}}',
    '{"run_id":"r","kind":"run_start","at":"x","created_at":[1]}',
    '{"run_id":"r","kind":"run_end","at":"x","data":"lens1:k2xlbnMB!"}',
    '{"run_id":"r","kind":["run_end"],"at":null}',
    '{"run_id":"r"}',
]


@pytest.mark.parametrize("line", ODD_LINES)
def test_an_odd_line_breaks_no_method(tmp_path: Path, line: str) -> None:
    async def fill(backend: FileBackend) -> None:
        await backend.save_run_start({"run_id": "r", "pipeline_name": "p", "start_time": AT})
        await backend.save_spans("r", [{"span_id": "b", "name": "n", "start_time": 1.0}])

    use(tmp_path, fill)
    path = tmp_path / "states" / ".lens-history" / "r.ndjson"
    path.write_text(path.read_text() + line + "\n")

    async def work(backend: FileBackend) -> None:
        assert [run.run_id async for run in backend.iter_runs(RunFilter())] == ["r"]
        assert await backend.read_run("r") is not None
        await backend.list_runs()
        await backend.list_run_steps("r")
        await backend.list_evaluations()
        await backend.read_span_stats(RunFilter())
        await backend.get_workflow_stats()
        assert {"b", "a"} >= {span["span_id"] for span in await backend.get_spans("r")}
        await backend.read_spans("r")
        await backend.get_trace("r")
        if "lens1" not in line:
            await backend.get_run_details("r")

    use(tmp_path, work)
    assert os.path.exists(path)
