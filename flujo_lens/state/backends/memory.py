"""`InMemoryBackend`: for tests and demos. Data is gone when the process ends."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from flujo_lens.state.backends.core.backend import CoreBackend
from flujo_lens.state.backends.core.port import ChildKind, ChildRow, RunIndex, RunRow, Space, Transaction, Work
from flujo_lens.state.backends.core.port import run_without_waiting as run_now
from flujo_lens.state.views import RunFilter

T = TypeVar("T")
_TABLES = ("run", "step", "span", "evaluation", "claim", "manifest", "binding", "strip", "system")


class InMemoryBackend(CoreBackend):
    """Keeps everything in the memory of one process, serialized as a store would keep it.

    What comes out is what a persistent backend gives: copies in their JSON form (times as texts), so no object of a
    caller changes what is stored. Every call is atomic, under a lock that is held only during it: a backend may be
    shared by threads with event loops of their own. Naive times are read as UTC.

    Args:
        serializer_default: As of `flujo_lens.serialization.codec.StateCodec`; so are envelope and validate.
    """

    any_loop = True

    def __init__(
        self, *, serializer_default: Callable[[Any], Any] | None = None, envelope: Any = None, validate: Any = None
    ) -> None:
        super().__init__(MemoryStore(), serializer_default=serializer_default, envelope=envelope, validate=validate)


class MemoryStore:
    """Tables as dicts of values that are never changed in place, under a lock.

    ``run`` has a pair of row and index by run id, ``step``, ``span`` and ``evaluation`` tuples of rows by run id, the
    others what `Space` says.
    """

    def __init__(self, tables: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self._lock, self._writes = threading.RLock(), 0
        self.tables: dict[str, dict[str, Any]] = {name: dict((tables or {}).get(name, {})) for name in _TABLES}

    async def read(self, work: Work[T]) -> T:
        with self._lock:
            return run_now(work(_MemoryTransaction(self.tables)))

    async def write(self, work: Work[T], *, creates: bool = True, run_id: str | None = None) -> T:
        with self._lock:
            tx = _MemoryTransaction(self.tables)
            self._writes += 1
            try:
                return run_now(work(tx))
            except BaseException:
                tx.undo()
                raise

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Transaction]:
        with self._lock:
            moment = MemoryStore(self.tables)
        yield _MemoryTransaction(moment.tables)

    async def change_token(self) -> Hashable:
        """The number of writes."""
        return self._writes

    def clone(self) -> MemoryStore:
        return self

    async def facts(self) -> Mapping[str, Any]:
        return {}

    async def close(self) -> None:
        return


class _MemoryTransaction:
    def __init__(self, tables: dict[str, dict[str, Any]]) -> None:
        self._tables = tables
        self._before: list[tuple[str, str, Any]] = []

    def _write(self, table: str, key: str, value: Any) -> None:
        rows = self._tables[table]
        self._before.append((table, key, rows.pop(key, None) if value is None else rows.get(key)))
        if value is not None:
            rows[key] = value

    def undo(self) -> None:
        """Put back what was there before, the last change first."""
        for change in reversed(self._before[:]):
            self._write(*change)

    async def runs(self, run_ids: Sequence[str]) -> Mapping[str, RunRow]:
        found = self._tables["run"]
        return {run_id: found[run_id][0] for run_id in run_ids if run_id in found}

    async def scan(
        self, hint: RunFilter, after: tuple[int, str] | None, reverse: bool, limit: int | None
    ) -> AsyncIterator[RunRow]:
        runs = self._tables["run"].items()
        found = [((index.started, run_id), row) for run_id, (row, index) in runs if hint.parent in (None, index.parent)]
        for key, row in sorted(found, reverse=not reverse):
            if after is None or (key > after if reverse else key < after):
                yield row

    async def ids(self, prefix: str, limit: int) -> list[str]:
        return sorted(run_id for run_id in self._tables["run"] if run_id.startswith(prefix))[:limit]

    async def tasks_of(self, run_ids: Sequence[str]) -> list[str]:
        parents = set(run_ids)
        return [run_id for run_id, (_, index) in self._tables["run"].items() if index.parent in parents]

    async def children(self, kind: ChildKind, run_ids: Sequence[str] | None) -> AsyncIterator[ChildRow]:
        found = self._tables[kind]
        for run_id in found if run_ids is None else run_ids:
            for row in found.get(run_id, ()):
                yield row

    async def put_run(self, row: RunRow, index: RunIndex) -> None:
        self._write("run", row.run_id, None if row == RunRow(row.run_id) else (row, index))

    async def put_children(self, kind: ChildKind, rows: Sequence[ChildRow], *, replaces: str | None = None) -> None:
        if replaces is not None:
            self._write(kind, replaces, None)
        for run_id in dict.fromkeys(row.run_id for row in rows):
            new = [row for row in rows if row.run_id == run_id]
            both = (*self._tables[kind].get(run_id, ()), *new)  # the later row of a key in the place of the first
            self._write(kind, run_id, tuple({id(row) if row.key is None else row.key: row for row in both}.values()))

    async def drop(self, run_ids: Sequence[str]) -> None:
        for table in ("run", "step", "span", "evaluation", "claim", "binding", "strip"):
            for run_id in run_ids:
                self._write(table, run_id, None)

    async def get(self, space: Space, keys: Sequence[str] | None = None) -> dict[str, bytes]:
        found = self._tables[space]
        return dict(found) if keys is None else {key: found[key] for key in keys if key in found}

    async def set(self, space: Space, key: str, value: bytes | None) -> None:
        self._write(space, key, value)

    async def lock(self, run_ids: Iterable[str]) -> None:
        return
