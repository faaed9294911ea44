"""What the tests of the drivers share: copies of real stores, stores made of any rows, and how to read them."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import closing
from datetime import tzinfo
from pathlib import Path
from typing import Any, TypeVar

from flujo_lens.errors import NotAStoreError, StoreNotFoundError
from flujo_lens.operations.transfer import groups_of
from flujo_lens.state.backends.sqlite import SQLiteBackend
from flujo_lens.state.backends.sqlite.schema.tables import CREATE
from flujo_lens.state.portable import digests_of
from flujo_lens.state.registry import open_backend
from flujo_lens.state.views import RunDetail, RunFilter, RunSummary, Span

T = TypeVar("T")
DATA = Path(__file__).resolve().parent.parent / "data"
NEW, WAL, OLD, OLDEST, MIXTURE = "flujo-0.6.11", "flujo-0.6.11-wal", "flujo-0.4.35", "flujo-0.4.32", "mixture"
ALL = (NEW, WAL, OLD, OLDEST, MIXTURE)


def copy(name: str, folder: Path) -> Path:
    """A copy of a real store in `folder`, with what lies beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in (DATA / name).glob("flujo_ops.db*"):
        shutil.copyfile(path, folder / path.name)
    return folder / "flujo_ops.db"


def read(path: Path, work: Callable[[SQLiteBackend], Awaitable[T]], zone: tzinfo | None = None, **more: Any) -> T:
    """What `work` makes of a backend on the store at `path`."""

    async def opened() -> T:
        async with SQLiteBackend(path, zone=zone, **more) as backend:
            return await work(backend)

    return asyncio.run(opened())


def digests(uri: str | Path) -> dict[str, str]:
    """The digest of each run of a store."""

    async def work() -> dict[str, str]:
        found: dict[str, str] = {}
        async with open_backend(str(uri), {}) as backend:
            async for group in groups_of(backend, RunFilter()):
                found |= digests_of(group)
        return found

    return asyncio.run(work())


def digests_there(uri: str | Path) -> dict[str, str]:
    """The same of a store that may not be made yet."""
    try:
        return digests(uri)
    except (NotAStoreError, StoreNotFoundError):
        return {}


async def listed(backend: SQLiteBackend, wanted: RunFilter | None = None, **more: Any) -> list[RunSummary]:
    """The runs of a store as `iter_runs` gives them."""
    return [run async for run in backend.iter_runs(wanted or RunFilter(), **more)]


def runs(path: Path, wanted: RunFilter | None = None, zone: tzinfo | None = None, **more: Any) -> list[RunSummary]:
    """The runs of a store; a list says the same as a page, forwards and backwards, as the count and as the detail."""

    async def work(backend: SQLiteBackend) -> list[RunSummary]:
        found = await listed(backend, wanted, **more)
        page = await backend.query_runs(wanted or RunFilter(), limit=10_000)
        assert list(page.items) == found
        backwards = await listed(backend, wanted, reverse=True)
        assert backwards == found[::-1]
        assert await backend.count_runs(wanted or RunFilter()) == len(found)
        return found

    return read(path, work, zone)


def by_id(path: Path, **more: Any) -> dict[str, RunSummary]:
    """The runs of a store by their id, each there once."""
    found = runs(path, **more)
    assert len({run.run_id for run in found}) == len(found)
    return {run.run_id: run for run in found}


def detail(path: Path, run_id: str, zone: tzinfo | None = None) -> RunDetail:
    """One run of a store."""
    found = read(path, lambda backend: backend.read_run(run_id), zone)
    assert found is not None
    return found


def spans(path: Path, run_id: str) -> list[Span]:
    """The roots of the spans of a run."""
    return list(read(path, lambda backend: backend.read_spans(run_id)))


def outline(roots: Iterable[Span]) -> str:
    """Names and statuses of spans, indented by depth."""

    def lines(spans: Iterable[Span], depth: int) -> Iterable[str]:
        for span in spans:
            yield f"{'  ' * depth}{span.name} {span.status}"
            yield from lines(span.children, depth + 1)

    return "\n".join(lines(roots, 0))


def edit(path: Path, *statements: str | tuple[str, Sequence[Any]]) -> Path:
    """Change a store as its owner would; it is left checkpointed."""
    with closing(sqlite3.connect(path)) as db:
        for statement in statements:
            sql, values = (statement, ()) if isinstance(statement, str) else statement
            db.execute(sql, values)
        db.commit()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


STATE: Mapping[str, Any] = {
    "pipeline_id": "p-id",
    "pipeline_name": "p",
    "pipeline_version": "1",
    "current_step_index": 0,
    "pipeline_context": "{}",
    "step_history": "[]",
    "status": "completed",
    "created_at": "2026-03-01T10:00:00+00:00",
    "updated_at": "2026-03-01T10:00:05+00:00",
}
RUN: Mapping[str, Any] = {
    "pipeline_id": "p-id",
    "pipeline_name": "p",
    "pipeline_version": "1",
    "status": "completed",
    "created_at": "2026-03-01T10:00:00+00:00",
    "updated_at": "2026-03-01T10:00:10+00:00",
}


def make(path: Path, tables: Mapping[str, Iterable[Mapping[str, Any]]], schema: str = CREATE) -> Path:
    """A store with these rows, checkpointed, with a rollback journal (the quickest to make and to open)."""
    with closing(sqlite3.connect(path)) as db:
        db.executescript(schema)
        for table, rows in tables.items():
            for row in rows:
                marks = ", ".join("?" * len(row))
                names = ", ".join(f'"{name}"' for name in row)
                db.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", tuple(row.values()))
        db.commit()
    return path


def state(run_id: Any, **more: Any) -> dict[str, Any]:
    """A row of ``workflow_state``."""
    return {**STATE, "run_id": run_id, **more}


def run(run_id: Any, **more: Any) -> dict[str, Any]:
    """A row of ``runs``."""
    return {**RUN, "run_id": run_id, **more}


def traces_of(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Every file below `folder`, and itself: kind, size, time of its last change, inode, and its bytes' hash.

    Not ctime: SQLite, when root runs it, sets the owner of a -wal to that of the store, which it is already.
    """
    found = {}
    for path in (folder, *sorted(folder.rglob("*"))):
        facts = path.lstat()
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        name = str(path.relative_to(folder))
        found[name] = (facts.st_mode, facts.st_size, facts.st_mtime_ns, facts.st_ino, digest)
    return found
