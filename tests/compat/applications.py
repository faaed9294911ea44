"""What an application does with a backend: the states it saves, and a store of each kind."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.backends.file import FileBackend
from flujo_lens.state.backends.memory import InMemoryBackend
from flujo_lens.state.backends.sqlite import SQLiteBackend

KINDS = ("memory", "file", "sqlite")
NOW = datetime.now(UTC).replace(microsecond=0)


def asynchronous(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test in an event loop of its own."""

    @functools.wraps(test)
    def run(*args: Any, **named: Any) -> None:
        asyncio.run(test(*args, **named))

    return run


def backend_of(kind: str, folder: Path) -> StateBackend:
    """A backend on a store that is not there yet, in `folder`."""
    if kind == "memory":
        return InMemoryBackend()
    if kind == "file":
        return FileBackend(folder / "states", cache_dir=folder / "cache")
    return SQLiteBackend(folder / "store.db")


def state(run_id: str, **more: Any) -> dict[str, Any]:
    """A state as the library's runner saves it: its times are datetimes."""
    return {
        "run_id": run_id,
        "pipeline_id": "orders-id",
        "pipeline_name": "orders",
        "pipeline_version": "1.0",
        "current_step_index": 1,
        "pipeline_context": {"a": 1},
        "last_step_output": "x",
        "status": "running",
        "created_at": NOW,
        "updated_at": NOW,
        **more,
    }


def ids(rows: list[dict[str, Any]]) -> list[str]:
    """The run ids of listed rows, in their order."""
    return [row["run_id"] for row in rows]


async def emptied(backend: StateBackend) -> None:
    """Make the store of a backend, with nothing in it."""
    await backend.save_state("gone", state("gone"))
    await backend.delete_state("gone")


def moment(value: datetime | str) -> datetime:
    """A time of a loaded state: a datetime from a database, text from files."""
    return value if isinstance(value, datetime) else datetime.fromisoformat(value)
