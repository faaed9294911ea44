"""Encrypted runs are stripped with their key alone, and what stays of them is as closed as before."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flujo_lens.serialization.envelope import Envelope
from flujo_lens.serialization.keys import KeyRing
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.backends.file import FileBackend
from flujo_lens.state.backends.sqlite import SQLiteBackend
from flujo_lens.state.deletion import Deleted, DeletionRequest, Record

pytest.importorskip("cryptography")
KEY = bytes(range(32))
OLD = "2026-01-01T00:00:00+00:00"
STATE = {
    "status": "failed",
    "pipeline_context": {"secret": "of the context", "current_step": "load"},
    "step_history": [{"name": "load", "success": False, "feedback": "secret error", "output": "secret output"}],
    "last_step_output": "secret output",
    "created_at": OLD,
    "updated_at": OLD,
}
ASKED = DeletionRequest(datetime.now(UTC), datetime.now(UTC), strip=frozenset({"outputs", "state"}))


def _files(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())


@pytest.mark.parametrize("kind", [SQLiteBackend, FileBackend])
def test_with_the_key_alone(tmp_path: Path, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    place, kept = tmp_path / "store", list[Record]()

    def use(work: Callable[[StateBackend], Awaitable[Any]], **more: Any) -> Any:
        async def run() -> Any:
            async with kind(place, **more) as backend:
                return await work(backend)

        return asyncio.run(run())

    async def strip(backend: StateBackend) -> list[Deleted]:
        plan = await backend.plan_deletion(ASKED)
        return [one async for one in backend.delete_planned(plan, keep=kept.extend)]

    use(lambda backend: backend.save_state("one", STATE), envelope=Envelope(keys=KeyRing({"k": KEY})))
    assert b"secret" not in _files(place)
    whole = use(lambda backend: backend.load_state("one"), envelope=Envelope(keys=KeyRing({"k": KEY})))
    refused = use(strip)
    assert [skip for one in refused for skip in one.skipped] == [("one", "sealed")]
    monkeypatch.setenv("LENS_KEY", f"k:{b64encode(KEY).decode()}")
    done = use(strip)
    assert [run_id for one in done for run_id in one.run_ids] == ["one"]
    state = use(lambda backend: backend.load_state("one"))
    assert state["pipeline_context"] == {"current_step": "load"}
    assert state["step_history"] == [{"name": "load", "success": False, "feedback": "secret error"}]
    assert b"secret" not in _files(place)
    assert use(lambda backend: backend.restore(kept)).run_ids == ("one",)
    assert use(lambda backend: backend.load_state("one")) == whole
