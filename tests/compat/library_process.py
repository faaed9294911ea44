"""What the library itself does to a store: run by a Python that has it (see test_round_trip_with_library.py).

Usage: library_process.py TASK STORE ANSWER; the answer is JSON in the file ANSWER, because the library logs to
both streams. Nothing of ours is imported here.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import logging
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import rich_state
from flujo.state.backends.file import FileBackend
from flujo.state.backends.sqlite import SQLiteBackend
from flujo.utils import serialization

logging.disable(logging.CRITICAL)


async def version(store: Path) -> Any:
    return importlib.metadata.version("flujo")


async def shapes(store: Path) -> Any:
    """What its serializer makes of the values."""
    robust = getattr(serialization, "robust_serialize", None) or serialization._robust_serialize_internal
    return robust(rich_state.common())


async def write_file(store: Path) -> Any:
    await FileBackend(store).save_state("one", rich_state.state("one", rich_state.common()))


async def write_files(store: Path) -> Any:
    backend = FileBackend(store)
    for name in ("one", "two"):
        await backend.save_state(name, rich_state.state(name, rich_state.theirs()))
    return await read_files(store)


async def read_files(store: Path) -> Any:
    """Every state in the folder, as it loads them."""
    backend = FileBackend(store)
    return {path.stem: await backend.load_state(path.stem) for path in sorted(store.glob("*.json"))}


async def change_files(store: Path) -> Any:
    """Delete one state, save another in place of what was there."""
    backend = FileBackend(store)
    await backend.delete_state("one")
    await backend.save_state("two", rich_state.state("two", {"changed": True}, status="completed"))
    return await read_files(store)


async def write_sqlite(store: Path) -> Any:
    async with SQLiteBackend(store) as backend:
        for name in ("whole", "other"):
            await backend.save_state(name, rich_state.state(name, rich_state.theirs()))
        await backend.save_run_start(rich_state.HISTORY["start"])
        for step in rich_state.HISTORY["steps"]:
            await backend.save_step_result(step)
        await backend.save_trace("whole", rich_state.HISTORY["trace"])
        await backend.save_run_end("whole", rich_state.HISTORY["end"])
    return await read_sqlite(store)


async def read_sqlite(store: Path) -> Any:
    """All that it reads of the store."""
    async with SQLiteBackend(store) as backend:
        listed = await backend.list_workflows()
        return {
            "states": {row["run_id"]: await backend.load_state(row["run_id"]) for row in listed},
            "workflows": listed,
            "paused": await backend.list_workflows(status="paused"),
            "runs": await backend.list_runs(),
            "run": await backend.get_run_details("whole"),
            "steps": await backend.list_run_steps("whole"),
            "spans": await backend.get_spans("whole"),
            "trace": await backend.get_trace("whole"),
            "span_statistics": await backend.get_span_statistics(),
            "stats": await backend.get_workflow_stats(),
        }


async def columns(store: Path) -> Any:
    """What its decoder makes of the JSON columns, read without its backend."""
    names = ("pipeline_context", "last_step_output", "step_history", "metadata")
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as db:
        rows = db.execute(f"SELECT run_id, {', '.join(names)} FROM workflow_state").fetchall()
    decode = serialization.safe_deserialize
    return {
        row[0]: {n: None if text is None else decode(json.loads(text)) for n, text in zip(names, row[1:], strict=True)}
        for row in rows
    }


if __name__ == "__main__":
    task, store, answer = sys.argv[1:]
    found = asyncio.run(globals()[task](Path(store)))
    Path(answer).write_text(json.dumps(found, default=lambda value: value.isoformat()))
