"""Portable records: any store to any store, with the same digests and the same lists."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from servers import PostgresServer, RedisServer
from stores import DATA, MIXTURE, NEW, OLD, OLDEST, copy, make, run, state

from flujo_lens.errors import SchemaError
from flujo_lens.operations.portable_parts import PortableParts
from flujo_lens.operations.transfer import Target, Transfer, Transferred
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.backends.core.record_spool import RecordSpool
from flujo_lens.state.backends.file import FileBackend
from flujo_lens.state.backends.memory import InMemoryBackend
from flujo_lens.state.backends.postgres import PostgresBackend
from flujo_lens.state.backends.redis import RedisBackend
from flujo_lens.state.backends.sqlite import SQLiteBackend
from flujo_lens.state.deletion import Record
from flujo_lens.state.portable import digests_of
from flujo_lens.state.views import RunFilter

FILES = ("files 0.6", "files 0.4")
REAL = (NEW, OLD, OLDEST, MIXTURE, *FILES)
Open = Callable[[str], StateBackend]


def real(name: str, folder: Path) -> StateBackend:
    """A real store of the library."""
    if name in FILES:
        return FileBackend(DATA / (NEW if name == FILES[0] else OLD) / "file-state")
    return SQLiteBackend(copy(name, folder / "real"), migrate=False)


@pytest.fixture
def stores(tmp_path: Path, pg16: PostgresServer, valkey: RedisServer) -> Callable[[], dict[str, StateBackend]]:
    """Empty stores of all drivers."""

    def made() -> dict[str, StateBackend]:
        schema = f"portable_{tmp_path.name.replace('-', '_')}"[:50].lower()
        pg16.execute(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE', f'CREATE SCHEMA "{schema}"', "SELECT 1")
        valkey.call("FLUSHALL")
        return {
            "memory": InMemoryBackend(),
            "files": FileBackend(tmp_path / "files"),
            "sqlite": SQLiteBackend(tmp_path / "new.db"),
            "postgres": PostgresBackend(f"{pg16.uri}&schema={schema}"),
            "redis": RedisBackend(f"{valkey.uri}?prefix=portable:"),
        }

    return made


async def records_in(backend: StateBackend) -> list[Record]:
    """All runs of a store, oldest first."""
    ids = [run_id async for run_id in backend.portable_ids(RunFilter())]
    return [record async for record in backend.read_portable(ids)]


async def listed(backend: StateBackend) -> list[Any]:
    """What a list says of each run."""
    found = [run async for run in backend.iter_runs(RunFilter())]
    return sorted(
        (run.run_id, run.status, run.pipeline_name, run.pipeline_version, run.created_at, run.updated_at,
         run.error_message, run.pause_message, run.duration_ms, run.current_step_index, run.parent_run_id)
        for run in found
    )  # fmt: skip


@asynccontextmanager
async def closing(backends: Iterable[StateBackend]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        for backend in backends:
            await backend.shutdown()


@pytest.mark.parametrize("name", REAL)
def test_real_runs_are_the_same_in_any_other_store(name: str, stores: Any, tmp_path: Path) -> None:
    source, targets = real(name, tmp_path), stores()

    async def work() -> None:
        async with closing((source, *targets.values())):
            records = await records_in(source)
            digests, lists = digests_of(records), await listed(source)
            assert len(digests) == len(lists) > 5
            assert not any("problem" in record or "lost" in record for record in records)
            half = set(list(digests)[::2])
            for what, target in targets.items():
                await target.write_portable([record for record in records if record["run_id"] in half])
                there = {record["run_id"] async for record in target.read_portable([*digests, "not there"])}
                assert there == half, what
                for run_id in half:
                    await target.delete_run(run_id)
                done = await target.write_portable(records)
                assert (set(done.run_ids), done.existing) == (set(digests), ()), what
                again = await target.write_portable(records)
                assert (again.run_ids, set(again.existing)) == ((), set(digests)), what
                assert digests_of(await records_in(target)) == digests, what
                assert await listed(target) == lists, what

    asyncio.run(work())


def test_a_run_with_very_many_rows_goes_in_parts(stores: Any, tmp_path: Path) -> None:
    spans = [
        {"run_id": "large", "span_id": f"s{i}", "name": "n", "start_time": 1.0, "status": "completed", "created_at": "",
         "attributes": f'{{"n": {i}}}'}
        for i in range(21_000)
    ]  # fmt: skip
    steps = [
        {"run_id": "large", "step_name": f"p{i}", "step_index": i, "status": "completed", "created_at": ""}
        for i in (0, 1)
    ]
    rows = {
        "workflow_state": [state(name) for name in ("before", "large", "last")],
        "runs": [run(name) for name in ("before", "large", "last")],
        "steps": steps,
        "spans": spans,
    }
    source, every = SQLiteBackend(make(tmp_path / "large.db", rows)), stores()

    async def work() -> None:
        async with closing((source, *every.values())):
            targets, records = every, await records_in(source)
            assert len(records) > 20
            if "LENS_SOAK" not in os.environ:
                targets = {what: targets[what] for what in ("memory", "files", "sqlite")}
            digests = digests_of(records)
            for what, target in targets.items():
                done = await target.write_portable(records)
                assert set(done.run_ids) == set(digests), what
                assert digests_of(await records_in(target)) == digests, what
                again = await target.write_portable(records, replace=True)
                assert set(again.run_ids) == set(digests), what
                assert digests_of(await records_in(target)) == digests, what

    asyncio.run(work())


def test_a_run_that_one_table_refuses_is_named_and_the_others_are_saved(tmp_path: Path) -> None:
    path = tmp_path / "target.db"

    async def work() -> None:
        async with InMemoryBackend() as source, SQLiteBackend(path) as target:
            for name in ("one", "two", "three"):
                await source.save_state(name, {"status": "completed", "pipeline_context": {"n": name}})
                span = "same" if name != "three" else "other"
                await source.save_spans(
                    name, [{"span_id": span, "name": "n", "start_time": 1.0, "status": "completed"}]
                )
            records = await records_in(source)
            await target.create_store()
            db = sqlite3.connect(path)
            db.execute("CREATE UNIQUE INDEX own ON spans(span_id)")
            db.close()
            with pytest.raises(SchemaError, match="a row of spans"):
                await target.write_portable(records)
            assert await records_in(target) == []
            done = Transferred(3)
            writing = Transfer(target, PortableParts(), Target(True, 0), done)
            await writing.put(RecordSpool(records))
            assert (done.done, list(done.failed)) == (2, ["two"])
            assert digests_of(await records_in(target)).keys() == {"one", "three"}

    asyncio.run(work())
