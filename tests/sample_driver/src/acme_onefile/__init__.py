"""A driver on the port of flujo-lens: a whole store in one JSON file, for tests and small jobs.

`OneFileStore` knows how the file is locked, read and replaced; `Rows` how runs are found in it. All the rest, from
filters to deletions, is `CoreBackend`.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from flujo_lens.errors import BusyError, CorruptStoreError, StoreNotFoundError, UnreachableStoreError
from flujo_lens.state.backends.core.backend import CoreBackend
from flujo_lens.state.backends.core.port import ChildRow, RunIndex, RunRow, Transaction, run_without_waiting

__all__ = ["OneFileBackend"]


class OneFileBackend(CoreBackend):
    """Keeps all runs in one file; every save writes it anew, and replaces it."""

    any_loop = True

    def __init__(self, path: str | Path, *, timeout: float = 10.0, **options: Any) -> None:
        self.path = Path(path)
        super().__init__(OneFileStore(self.path, timeout), **options)

    @classmethod
    def from_uri(cls, uri: str, *, timeout: float = 10.0) -> OneFileBackend:
        """The backend for ``onefile:///path``; ``lens`` calls this."""
        return cls(unquote(urlsplit(uri).path), timeout=timeout)


class OneFileStore:
    """The file. It is read whole, and written whole under a lock; readers need none."""

    def __init__(self, path: Path, timeout: float) -> None:
        self._path, self._timeout = path, timeout

    async def read(self, work: Any) -> Any:
        return await asyncio.to_thread(lambda: run_without_waiting(work(Rows(self._load()))))

    async def write(self, work: Any, *, creates: bool = True, run_id: str | None = None) -> Any:
        return await asyncio.to_thread(self._write, work, creates)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Transaction]:
        yield Rows(await asyncio.to_thread(self._load))

    def clone(self) -> OneFileStore:
        return OneFileStore(self._path, self._timeout)

    async def facts(self) -> Mapping[str, Any]:
        await asyncio.to_thread(self._load)
        return {"size_bytes": self._path.stat().st_size}

    async def close(self) -> None:
        return

    def _load(self) -> dict[str, dict[str, Any]]:
        try:
            return dict(json.loads(self._path.read_bytes()))
        except FileNotFoundError as error:
            raise StoreNotFoundError(f"there is no store at {self._path}", hint="check the path") from error
        except OSError as error:
            raise UnreachableStoreError(f"cannot read {self._path}: {error.strerror}", hint="check the path") from error
        except ValueError as error:
            raise CorruptStoreError(f"{self._path} is damaged: {error}", hint="restore it from a backup") from error

    def _write(self, work: Any, creates: bool) -> Any:
        with self._locked(creates):
            try:
                tables = self._load()
            except StoreNotFoundError:
                if not creates:
                    raise
                tables = {}
            done = run_without_waiting(work(Rows(tables)))
            self._replace(json.dumps(tables).encode())
            return done

    def _replace(self, data: bytes) -> None:
        """Dying on any line leaves the old file or the new one."""
        new = self._path.with_name(f".{self._path.name}.new")
        with open(new, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, self._path)

    @contextmanager
    def _locked(self, creates: bool) -> Iterator[None]:
        if not creates and not self._path.exists():
            self._load()  # says that there is none
        try:
            file = os.open(self._path.with_name(f".{self._path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise UnreachableStoreError(
                f"cannot write {self._path}: {error.strerror}", hint="check the path"
            ) from error
        end = time.monotonic() + self._timeout
        try:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > end:
                        raise BusyError(f"{self._path} is locked by another process", hint="try later") from None
                    time.sleep(0.005)
            yield
        finally:
            os.close(file)


class Rows:
    """One transaction: the tables of the file as dicts, which are written back when the work is done."""

    def __init__(self, tables: dict[str, dict[str, Any]]) -> None:
        self._tables = tables

    def _table(self, name: str) -> dict[str, Any]:
        return self._tables.setdefault(name, {})

    async def runs(self, run_ids: Sequence[str]) -> Mapping[str, RunRow]:
        found = self._table("run")
        return {run_id: _row(run_id, found[run_id]) for run_id in run_ids if run_id in found}

    async def scan(
        self, hint: Any, after: tuple[int, str] | None, reverse: bool, limit: int | None
    ) -> AsyncIterator[RunRow]:
        order = sorted(((run["index"][0], run_id) for run_id, run in self._table("run").items()), reverse=not reverse)
        for key in order:
            if after is None or (key > after if reverse else key < after):
                yield _row(key[1], self._table("run")[key[1]])

    async def ids(self, prefix: str, limit: int) -> list[str]:
        return sorted(run_id for run_id in self._table("run") if run_id.startswith(prefix))[:limit]

    async def tasks_of(self, run_ids: Sequence[str]) -> list[str]:
        return [run_id for run_id, run in self._table("run").items() if RunIndex(*run["index"]).parent in run_ids]

    async def children(self, kind: str, run_ids: Sequence[str] | None) -> AsyncIterator[ChildRow]:
        found = self._table(kind)
        for run_id in list(found) if run_ids is None else run_ids:
            for key, data in found.get(run_id, ()):
                yield ChildRow(run_id, data.encode(), key)

    async def put_run(self, row: RunRow, index: RunIndex) -> None:
        if row.state is None and row.run is None:
            self._table("run").pop(row.run_id, None)
        else:
            self._table("run")[row.run_id] = {"state": _text(row.state), "run": _text(row.run), "index": list(index)}

    async def put_children(self, kind: str, rows: Sequence[ChildRow], *, replaces: str | None = None) -> None:
        if replaces is not None:
            self._table(kind).pop(replaces, None)
        for row in rows:
            held = self._table(kind).setdefault(row.run_id, [])
            same = (at for at, (key, _) in enumerate(held) if key is not None and key == row.key)
            place = next(same, len(held))
            held[place : place + 1] = [[row.key, row.data.decode()]]

    async def drop(self, run_ids: Sequence[str]) -> None:
        for name in ("run", "step", "span", "evaluation", "claim", "binding"):
            for run_id in run_ids:
                self._table(name).pop(run_id, None)

    async def get(self, space: str, keys: Sequence[str] | None = None) -> dict[str, bytes]:
        found = self._table(space)
        return {key: found[key].encode() for key in (found if keys is None else keys) if key in found}

    async def set(self, space: str, key: str, value: bytes | None) -> None:
        if value is None:
            self._table(space).pop(key, None)
        else:
            self._table(space)[key] = value.decode()

    async def lock(self, run_ids: Iterable[str]) -> None:
        return


def _row(run_id: str, run: Mapping[str, Any]) -> RunRow:
    state, metadata = run["state"], run["run"]
    return RunRow(run_id, None if state is None else state.encode(), None if metadata is None else metadata.encode())


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode()
