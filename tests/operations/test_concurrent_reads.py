"""Several reads at the same time, with an event loop and without one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stores import NEW, copy
from support import Lens

from flujo_lens.operations.concurrent_reads import read_together
from flujo_lens.state.backends.sqlite import SQLiteBackend
from flujo_lens.state.backends.sqlite.engine import store
from flujo_lens.state.views import RunFilter


def drive(work: Any) -> Any:
    """The result of a coroutine, without an event loop."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it suspended")


@pytest.mark.parametrize("way", [drive, asyncio.run])
def test_results_are_in_order(way: Callable[[Any], Any], tmp_path: Path) -> None:
    async def work() -> list[Any]:
        async with SQLiteBackend(copy(NEW, tmp_path)) as backend:
            wanted = RunFilter(statuses=frozenset({"failed"}))
            found = await read_together(
                backend, backend.count_runs(RunFilter()), backend.count_runs(wanted), backend.read_facts()
            )
            return [*found[:2], found[2]["library"]]

    count, failed, library = way(work())
    assert count > failed > 0
    assert library == "0.6"


@pytest.mark.parametrize("way", [drive, asyncio.run])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_error_of_any_part_is_raised(way: Callable[[Any], Any], place: int, tmp_path: Path) -> None:
    async def failing() -> None:
        raise LookupError(place)

    async def work() -> None:
        async with SQLiteBackend(copy(NEW, tmp_path)) as backend:
            parts: list[Any] = [backend.count_runs(RunFilter()), backend.read_facts()]
            parts.insert(place, failing())
            await read_together(backend, *parts)

    with pytest.raises(LookupError, match=str(place)):
        way(work())
    assert not [thread for thread in threading.enumerate() if type(thread).__name__ == "_PartThread"]


def test_the_status_of_a_large_store_is_the_same(lens: Lens, monkeypatch: pytest.MonkeyPatch) -> None:
    small = lens("status -o json").json
    monkeypatch.setattr(store, "_LARGE", 0)
    assert lens("status -o json").json == small
