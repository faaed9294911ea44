"""`SQLiteBackend`: the contract on one database file."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Generator, Mapping, Sequence
from datetime import tzinfo
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from flujo_lens.errors import BusyError, StoreNotFoundError
from flujo_lens.state.backends.base import JSONObject, Position
from flujo_lens.state.backends.reading import ReadingBackend
from flujo_lens.state.backends.sqlite import runs
from flujo_lens.state.backends.sqlite.opening import Reader, translate
from flujo_lens.state.backends.sqlite.schema import KNOWN_VERSION
from flujo_lens.state.backends.sqlite.session import Session, open_session
from flujo_lens.state.backends.sqlite.worker import Worker
from flujo_lens.state.views import Evaluation, Page, RunDetail, RunFilter, RunSummary, Span, SystemEntry

if TYPE_CHECKING:
    from flujo_lens.state.backends.sqlite.writing import Writer
    from flujo_lens.state.figures import SpanStats, Stats

__all__ = ["SQLiteBackend", "path_of_uri"]

T = TypeVar("T")
_BATCH = 200


def path_of_uri(uri: str) -> Path:
    """The file of ``sqlite:///relative.db``, ``sqlite:////absolute.db`` or a bare path."""
    rest = uri.removeprefix("sqlite:///") if uri.startswith("sqlite:///") else uri.removeprefix("sqlite://")
    if rest == uri:
        return Path(uri)
    return Path(rest.partition("?")[0])


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


class SQLiteBackend(ReadingBackend):
    """Keeps states in one SQLite file, in the format of the library's version 0.6.11; reads older ones too.

    Reading never writes: no file is made, changed or left, whatever state the store is in (see
    `flujo_lens.state.backends.sqlite.opening`). All reads of one call see the store at one moment. Writing
    opens the file at the first write, in WAL mode; it makes the file if there is none.

    Args:
        db_path: The database file.
        timeout: Seconds to wait for a lock.
        zone: How naive local times of old stores are read; None to find out from the store.

    Raises (from any method):
        BusyError: locked for longer than `timeout`.
        StoreError: the file is missing (when reading), no store, damaged, or of a schema not written to.
    """

    def __init__(self, db_path: Path | str, *, timeout: float = 10.0, zone: tzinfo | None = None) -> None:
        self.path = Path(db_path)
        self._zone = zone
        self._session: Session | None = None
        self._reader = Reader(self.path, timeout, self._prepare)
        self._worker = Worker(self._reader.interrupt)
        self._timeout = timeout
        self._readings: set[SQLiteBackend] = set()

    @classmethod
    def from_uri(cls, uri: str, *, timeout: float = 10.0, zone: tzinfo | None = None) -> SQLiteBackend:
        """The backend for a ``sqlite:`` URI or a path."""
        return cls(path_of_uri(uri), timeout=timeout, zone=zone)

    def _beside(self) -> SQLiteBackend:
        """Another connection to the same store, with a thread of its own."""
        return SQLiteBackend(self.path, timeout=self._timeout, zone=self._zone)

    def _prepare(self, connection: sqlite3.Connection) -> None:
        self._session = open_session(connection, self.path, self._zone)

    async def _read(self, work: Callable[[Session], T]) -> T:
        return await self._worker.run(lambda: self._reader.run(lambda _: work(self._current())))

    def _current(self) -> Session:
        assert self._session is not None
        return self._session

    @cached_property
    def _writer(self) -> Writer:
        from flujo_lens.state.backends.sqlite.writing import Writer

        return Writer(self.path, self._timeout)

    async def shutdown(self) -> None:
        """Close the connections and end the threads."""
        for reading in tuple(self._readings):
            await reading.shutdown()
        await self._worker.close(self._reader.close)
        if "_writer" in vars(self):
            await self._writer.close()

    # --- what applications read

    async def load_state(self, run_id: str) -> JSONObject | None:
        """Return the saved state with its blobs decoded, or None; also if there is no file yet."""
        from flujo_lens.state.backends.sqlite import detail

        try:
            return await self._read(lambda session: detail.load_state(session, run_id))
        except StoreNotFoundError:
            return None

    async def list_states(self, status: str | None = None) -> list[JSONObject]:
        """Return all states (whose own status is `status`), the last saved first."""
        from flujo_lens.state.backends.sqlite import detail

        return await self._read(lambda session: detail.states(session, status))

    async def get_trace(self, run_id: str) -> Any:
        """Return the stored trace tree of a run, else the first root of its spans, or None."""
        from flujo_lens.state.backends.sqlite import detail

        stored = await self._read(lambda session: detail.trace(session, run_id))
        return stored if stored is not None else await super().get_trace(run_id)

    async def get_spans(self, run_id: str, status: str | None = None, name: str | None = None) -> list[JSONObject]:
        """Return the spans of a run in the order of their start, times in seconds of the writer's clock."""
        from flujo_lens.state.backends.sqlite import detail

        rows = await self._read(lambda session: detail.span_rows(session, run_id))
        return [
            {
                "span_id": row.span_id,
                "parent_span_id": row.parent_span_id,
                "name": row.name,
                "start_time": row.start,
                "end_time": row.end,
                "status": row.status,
                "attributes": dict(row.attributes),
            }
            for row in rows
            if status in (None, row.status) and name in (None, row.name)
        ]

    async def list_evaluations(self, limit: int = 20, run_id: str | None = None) -> list[JSONObject]:
        """Return evaluations, newest first."""
        return [
            {
                "run_id": found.run_id,
                "step_name": found.step_name,
                "score": found.score,
                "feedback": found.feedback,
                "metadata": found.metadata,
                "created_at": found.created_at.isoformat() if found.created_at else None,
            }
            for found in await self.read_evaluations(run_id, limit)
        ]

    async def get_system_state(self, key: str) -> JSONObject | None:
        """Return a global key with its value, or None."""
        from flujo_lens.state.backends.sqlite import detail

        found = await self._read(lambda session: detail.system_entries(session, key))
        if not found:
            return None
        updated = found[0].updated_at
        return {
            "key": key,
            "value": found[0].value,
            "updated_at": updated.isoformat() if updated else None,
        }

    # --- what operators read

    async def iter_runs(
        self,
        wanted: RunFilter,
        *,
        after: Position | None = None,
        reverse: bool = False,
        ordered: bool = True,
        details: bool = True,
    ) -> AsyncIterator[RunSummary]:
        """Yield the runs that `wanted` admits.

        The rows come as they are read, in one read transaction on a connection of its own: other calls may
        come between. Where no lock guards the file and it changes on the way, the reading goes on behind the
        last run; without an order it cannot, and that is an error.
        """
        reading = self._beside()
        items = reading._selected(wanted, after, reverse, ordered, details)
        self._readings.add(reading)
        try:
            async for run in reading._worker.iterate(items, _BATCH):
                yield run
        finally:
            self._readings.discard(reading)
            await reading._worker.close(items.close)

    def _selected(
        self, wanted: RunFilter, after: Position | None, reverse: bool, ordered: bool, details: bool
    ) -> Generator[RunSummary, None, None]:
        began, last = time.monotonic(), None
        while True:
            try:
                self._reader.begin()
                for run in runs.select(self._current(), wanted, last or after, reverse, ordered, details):
                    if not self._reader.unchanged():
                        break
                    yield run
                    began, last = time.monotonic(), (run.created_at, run.run_id)
                else:
                    return
            except sqlite3.Error as error:
                if self._reader.is_final(error):
                    raise translate(error, self.path) from error
            finally:
                self._reader.close()
            if (last and not ordered) or time.monotonic() - began > self._timeout:
                raise BusyError(f"{self.path} was changed while it was read", hint="try again")

    async def query_runs(
        self, wanted: RunFilter, *, after: Position | None = None, limit: int = 50, reverse: bool = False
    ) -> Page[RunSummary]:
        """Return one page, found by keyset: no plan of it takes longer on a larger store."""
        found = await self._read(lambda session: runs.select_page(session, wanted, after, limit + 1, reverse))
        if len(found) <= limit:
            return Page(tuple(found))
        last = found[limit - 1] if limit else None
        return Page(tuple(found[:limit]), (last.created_at, last.run_id) if last else after)

    async def count_runs(self, wanted: RunFilter) -> int:
        """Return how many runs `wanted` admits; on a connection of its own, so that others need not wait."""
        if wanted != RunFilter():
            return await super().count_runs(wanted)
        async with self._beside() as counting:
            return await counting._read(runs.count_all)

    async def find_run_ids(self, prefix: str, limit: int = 10) -> list[str]:
        """Return run ids that begin with `prefix`."""
        return await self._read(lambda session: runs.find_ids(session, prefix, limit))

    async def read_run(self, run_id: str) -> RunDetail | None:
        """Return all about one run, or None."""
        from flujo_lens.state.backends.sqlite import detail

        return await self._read(lambda session: detail.read_run(session, run_id))

    async def read_summaries(self, run_ids: Sequence[str]) -> Sequence[RunSummary]:
        """Return the runs with these ids, with details, in their order."""
        return await self._read(lambda session: list(runs.with_details(session, run_ids)))

    async def read_spans(self, run_id: str) -> Sequence[Span]:
        """Return the spans of a run as trees."""
        from flujo_lens.state.backends.sqlite import detail

        return await self._read(lambda session: detail.spans(session, run_id))

    async def read_stats(self, wanted: RunFilter) -> Stats:
        """Return counts, durations and failures."""
        from flujo_lens.state.backends.sqlite import stats

        return await self._read(lambda session: stats.run_stats(session, wanted))

    async def read_span_stats(self, wanted: RunFilter) -> tuple[SpanStats, ...]:
        """Return counts and durations of spans by name; on a connection of its own, beside `read_stats`."""
        from flujo_lens.state.backends.sqlite import stats

        async with self._beside() as reading:
            return await reading._read(lambda session: stats.span_stats(session, wanted))

    async def read_evaluations(self, run_id: str | None = None, limit: int = 50) -> Sequence[Evaluation]:
        """Return evaluations, newest first."""
        from flujo_lens.state.backends.sqlite import detail

        return await self._read(lambda session: detail.evaluations(session, run_id, limit))

    async def read_system_state(self) -> Sequence[SystemEntry]:
        """Return all global keys, by key."""
        from flujo_lens.state.backends.sqlite import detail

        return await self._read(detail.system_entries)

    async def read_facts(self) -> Mapping[str, Any]:
        """Return ``size_bytes`` (with the WAL), ``last_write_at`` and ``notes``."""
        return await self._read(self._facts)

    def _facts(self, session: Session) -> dict[str, Any]:
        from flujo_lens.state.backends.sqlite import stats

        version = session.shape.version
        newer = f"the store's schema version {version} is newer than {KNOWN_VERSION}, the newest that is known"
        return {
            "size_bytes": sum(_size(f"{self._reader.path}{end}") for end in ("", "-wal")),
            "last_write_at": stats.last_write(session),
            "notes": (newer,) if version > KNOWN_VERSION else (),
        }

    # --- writing

    async def save_state(self, run_id: str, state: JSONObject) -> None:
        """Save the state in one transaction; when this returns, it survives the death of the process."""
        await self._writer.save_state(run_id, state)

    async def delete_state(self, run_id: str) -> None:
        """Delete the state of a run; history stays."""
        await self._writer.delete_state(run_id)

    async def save_run_start(self, run_data: JSONObject) -> None:
        """Save the metadata of a run, in place of what was there."""
        await self._writer.save_run(run_data)

    async def save_run_end(self, run_id: str, end_data: JSONObject) -> None:
        """Change the metadata of a run; a run that is not there is no error."""
        await self._writer.end_run(run_id, end_data)

    async def save_step_result(self, step_data: JSONObject) -> None:
        """Add one execution of a step."""
        await self._writer.add_step(step_data)

    async def save_spans(self, run_id: str, spans: list[JSONObject]) -> None:
        """Add spans, all or none."""
        await self._writer.add_spans(run_id, spans)

    async def persist_evaluation(
        self,
        run_id: str,
        score: float,
        feedback: str | None = None,
        step_name: str | None = None,
        metadata: JSONObject | None = None,
    ) -> None:
        """Add an evaluation of a run that is in ``runs``."""
        row = {"run_id": run_id, "score": score, "feedback": feedback, "step_name": step_name}
        await self._writer.add_evaluation({**row, "metadata": metadata})

    async def set_system_state(self, key: str, value: JSONObject) -> None:
        """Set a global key."""
        await self._writer.set_system_state(key, value)
