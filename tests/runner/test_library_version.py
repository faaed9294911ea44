"""The check before the library gets a run: which version or runner saved its context."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from typing import Any

import pytest
from support import DATA, NEW, OLD

from flujo_lens import Flujo, Step, step
from flujo_lens.errors import LibraryVersionError
from flujo_lens.runner import library_version
from flujo_lens.state.backends.memory import InMemoryBackend


def _saved(name: str, run_id: str) -> dict[str, Any]:
    """The state of a run that the library saved."""
    with closing(sqlite3.connect(f"file:{DATA / name / 'flujo_ops.db'}?immutable=1", uri=True)) as store:
        (text,) = store.execute("SELECT pipeline_context FROM workflow_state WHERE run_id = ?", (run_id,)).fetchone()
    return {"pipeline_context": json.loads(text)}


def _own() -> dict[str, Any]:
    """The state of a run that waits, saved by the runner of this package."""

    @step
    async def load(number: int) -> int:
        return number

    store = InMemoryBackend()
    flow = Flujo(load >> Step.human_in_the_loop("ask", "Go on?"), state_backend=store, pipeline_name="p")
    assert flow.run(1, run_id="own").status == "paused"
    state = asyncio.run(store.load_state("own"))
    assert state is not None
    return state


def test_a_run_of_this_package_does_not_need_an_old_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library_version, "installed_version", lambda: "0.6.11")
    with pytest.raises(LibraryVersionError, match=r"own is of flujo_lens\.Flujo, but flujo 0\.6\.11") as caught:
        library_version.check_context("own", _own())
    assert "pipelines of flujo_lens: --app" in str(caught.value.hint)
    assert "pip install" not in str(caught.value.hint)


def test_a_run_of_the_other_series_needs_that_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library_version, "installed_version", lambda: "0.6.11")
    library_version.check_context("paused-001", _saved(NEW, "paused-001"))
    with pytest.raises(LibraryVersionError, match=r"is of flujo 0\.4") as caught:
        library_version.check_context("paused-001", _saved(OLD, "paused-001"))
    assert "pip install 'flujo<0.5'" in str(caught.value.hint)
    monkeypatch.setattr(library_version, "installed_version", lambda: "0.4.35")
    library_version.check_context("paused-001", _saved(OLD, "paused-001"))
    with pytest.raises(LibraryVersionError, match=r"is of flujo 0\.6"):
        library_version.check_context("paused-001", _saved(NEW, "paused-001"))
