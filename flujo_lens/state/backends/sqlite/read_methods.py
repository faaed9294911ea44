"""The reading half of `SQLiteBackend`."""

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
from flujo_lens.state.backends.core.application_reads import ReadingBackend, empty_if_missing
from flujo_lens.state.backends.core.documents import WorkflowTally
from flujo_lens.state.backends.core.validation import (
    LONGEST_PAGE,
    asked_id,
    check_key,
    check_page,
    check_prefix,
    check_text,
    findable,
    findable_filter,
    findable_ids,
)
from flujo_lens.state.backends.sqlite.engine.connection_thread import ConnectionThread
from flujo_lens.state.backends.sqlite.engine.engine_errors import ENGINE_ERRORS
from flujo_lens.state.backends.sqlite.engine.open_backends import living
from flujo_lens.state.backends.sqlite.engine.read_connection import Reader, translate
from flujo_lens.state.backends.sqlite.engine.session import Session, open_session
from flujo_lens.state.backends.sqlite.reads import run_selection
from flujo_lens.state.backends.sqlite.reads.load_state import load
from flujo_lens.state.backends.sqlite.schema.shape import KNOWN_VERSION
from flujo_lens.state.interpret import BAD, decode
from flujo_lens.state.traces import span_document
from flujo_lens.state.views import Evaluation, Page, RunDetail, RunFilter, RunSummary, Span, SystemEntry

if TYPE_CHECKING:
    from flujo_lens.serialization.codec import StateCodec
    from flujo_lens.state.statistics import SpanStats, Stats

__all__ = ["SQLiteReads"]

T = TypeVar("T")
_BATCH = 200


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


class SQLiteReads(ReadingBackend):
    """Reads one SQLite file, of any version, and never writes.

    No file is made, changed or left, whatever state the store is in (see
    `flujo_lens.state.backends.sqlite.engine.read_connection`). All reads of one call see the store at one moment.

    Args:
        path: The database file.
        timeout: Seconds to wait for a lock.
        zone: How naive local times of old stores are read; None to find out from the store.
        make_codec: Makes what opens the blobs, when one has to be opened.
        validates: Whether it checks states that are loaded.
    """

    def __init__(
        self,
        path: Path,
        timeout: float,
        zone: tzinfo | None,
        make_codec: Callable[[], StateCodec],
        validates: bool = False,
    ) -> None:
        self.path, self._timeout, self._zone, self._make_codec = path, timeout, zone, make_codec
        self._validates = validates
        self._begin()
        living.add(self)

    def _begin(self) -> None:
        """Be as new: nothing open, no thread."""
        self._session: Session | None = None
        self._reader = Reader(self.path, self._timeout, self._prepare)
        self._thread = ConnectionThread(self._reader.interrupt)
        self._readings: set[SQLiteReads] = set()

    @cached_property
    def _codec(self) -> StateCodec:
        return self._make_codec()

    def _beside(self) -> SQLiteReads:
        """Another backend on the same store, with a connection and a thread of its own."""
        raise NotImplementedError

    def _prepare(self, connection: sqlite3.Connection) -> None:
        self._session = open_session(connection, self.path, self._zone)

    async def _read(self, work: Callable[[Session], T]) -> T:
        return await self._thread.run(lambda: self._reader.run(lambda _: work(self._current())))

    def _current(self) -> Session:
        assert self._session is not None
        return self._session

    async def shutdown(self) -> None:
        """Close the connections and end the threads. What is called afterwards opens them again."""
        for reading in tuple(self._readings):
            await reading.shutdown()
        await self._thread.close(self._reader.close)

    # --- what applications read

    @empty_if_missing(lambda: None)
    async def load_state(self, run_id: str) -> JSONObject | None:
        """Return the saved state, or None; also if there is no file yet (see `loading.load`).

        Raises:
            SealedStateError: it is encrypted, and the key is not here.
            InvalidStateError: it does not fit the model that states are checked against.
        """
        sought = findable(asked_id(run_id))
        found = await self._thread.run(lambda: load(self._reader, self._current, self._codec.value, sought))
        if found is not None and self._validates:
            self._codec.check(found)
        return found

    def _value(self, run_id: str, field: str, blob: Any) -> Any:
        """The value of a blob; one that is neither JSON nor sealed as it is."""
        if isinstance(blob, bytes):
            return self._codec.value(run_id, field, blob)
        value = decode(blob)
        return blob if value is BAD else value

    @empty_if_missing(list[JSONObject])
    async def list_states(self, status: str | None = None) -> list[JSONObject]:
        """Return all states (whose own status is `status`), the last saved first, times as texts."""
        from flujo_lens.state.backends.sqlite.reads import run_detail

        check_text(status, "status")
        wanted = findable(status) if status is not None else None
        return await self._read(lambda session: run_detail.states(session, wanted, self._codec.value))

    @empty_if_missing(lambda: None)
    async def get_trace(self, run_id: str) -> Any:
        """Return the stored trace tree of a run, else the first root of its spans, or None."""
        from flujo_lens.state.backends.sqlite.reads import run_detail

        sought = findable(asked_id(run_id))
        stored = await self._read(lambda session: run_detail.trace(session, sought))
        return stored if stored is not None else await super().get_trace(run_id)

    @empty_if_missing(list[JSONObject])
    async def get_spans(self, run_id: str, status: str | None = None, name: str | None = None) -> list[JSONObject]:
        """Return the spans of a run in the order of their start, times in seconds of the writer's clock."""
        from flujo_lens.state.backends.sqlite.reads import run_detail

        sought = findable(asked_id(run_id))
        rows = await self._read(lambda session: run_detail.span_rows(session, sought, self._value))
        return [span_document(row) for row in rows if status in (None, row.status) and name in (None, row.name)]

    async def read_extras(self, run_ids: Sequence[str], *, contexts: bool = False) -> Mapping[str, JSONObject]:
        """Return the columns of runs that a summary does not hold."""
        from flujo_lens.state.backends.sqlite.reads import application_documents

        sought = findable_ids(run_ids)
        return await self._read(
            lambda session: application_documents.run_extras(session, sought, contexts, self._value)
        )

    async def read_step_extras(self, run_id: str) -> Mapping[tuple[int | None, str], JSONObject]:
        """Return the columns of a run's steps that a `StepRecord` does not hold."""
        from flujo_lens.state.backends.sqlite.reads import application_documents

        sought = findable(asked_id(run_id))
        return await self._read(lambda session: application_documents.step_extras(session, sought, self._value))

    @empty_if_missing(lambda: WorkflowTally().document())
    async def get_workflow_stats(self) -> JSONObject:
        """Return counts of all runs, and their average duration in milliseconds, of one moment."""
        from flujo_lens.state.backends.sqlite.reads import application_documents

        return await self._read(application_documents.workflow_stats)

    def get_workflow_stats_sync(self) -> JSONObject:
        """`get_workflow_stats` on a connection of its own in the calling thread; waits for no event loop."""
        from flujo_lens.state.backends.sqlite.reads import application_documents

        reading = self._beside()
        try:
            return reading._reader.run(lambda _: application_documents.workflow_stats(reading._current()))
        except StoreNotFoundError:
            return WorkflowTally().document()
        finally:
            reading._reader.close()

    @empty_if_missing(lambda: None)
    async def get_system_state(self, key: str) -> JSONObject | None:
        """Return a global key with its value, or None."""
        from flujo_lens.state.backends.sqlite.reads import run_detail

        check_key(key)
        found = await self._read(lambda session: run_detail.system_entries(session, key))
        if not found:
            return None
        updated = found[0].updated_at
        return {"key": key, "value": found[0].value, "updated_at": updated.isoformat() if updated else None}

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
            async for run in reading._thread.iterate(items, _BATCH):
                yield run
        finally:
            self._readings.discard(reading)
            await reading._thread.close(items.close)

    def _selected(
        self, wanted: RunFilter, after: Position | None, reverse: bool, ordered: bool, details: bool
    ) -> Generator[RunSummary, None, None]:
        began, last = time.monotonic(), None
        wanted = findable_filter(wanted)
        while True:
            try:
                self._reader.begin()
                for run in run_selection.select(self._current(), wanted, last or after, reverse, ordered, details):
                    if not self._reader.unchanged():
                        break
                    yield run
                    began, last = time.monotonic(), (run.created_at, run.run_id)
                else:
                    return
            except ENGINE_ERRORS as error:
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
        check_page(limit)
        limit = min(limit, LONGEST_PAGE)
        sought = findable_filter(wanted)
        found = await self._read(lambda session: run_selection.select_page(session, sought, after, limit + 1, reverse))
        if len(found) <= limit:
            return Page(tuple(found))
        last = found[limit - 1] if limit else None
        return Page(tuple(found[:limit]), (last.created_at, last.run_id) if last else after)

    async def count_runs(self, wanted: RunFilter) -> int:
        """Return how many runs `wanted` admits; on a connection of its own, so that others need not wait."""
        if wanted != RunFilter():
            return await super().count_runs(wanted)
        async with self._beside() as counting:
            return await counting._read(run_selection.count_all)

    async def read_statuses(self) -> frozenset[str]:
        """Return every status that a run has; of one whose state says otherwise, also that of its row in ``runs``."""
        return await self._read(run_selection.statuses)

    async def find_run_ids(self, prefix: str, limit: int = 10) -> list[str]:
        """Return run ids that begin with `prefix`."""
        check_prefix(prefix, limit)
        return await self._read(
            lambda session: run_selection.find_ids(session, findable(prefix), min(limit, LONGEST_PAGE))
        )

    async def read_run(self, run_id: str) -> RunDetail | None:
        """Return all about one run, or None."""
        from flujo_lens.state.backends.sqlite.reads import run_detail

        sought = findable(asked_id(run_id))
        return await self._read(lambda session: run_detail.read_run(session, sought, self._value))

    async def read_summaries(self, run_ids: Sequence[str]) -> Sequence[RunSummary]:
        """Return those of the runs with these ids that are known, with details, in their order."""
        from flujo_lens.state.backends.sqlite.reads import application_documents

        sought = findable_ids(run_ids)
        return await self._read(
            lambda session: list(run_selection.with_details(session, application_documents.known(session, sought)))
        )

    async def read_spans(self, run_id: str) -> Sequence[Span]:
        """Return the spans of a run as trees."""
        from flujo_lens.state.backends.sqlite.reads import run_detail

        sought = findable(asked_id(run_id))
        return await self._read(lambda session: run_detail.spans(session, sought, self._value))

    async def read_stats(self, wanted: RunFilter) -> Stats:
        """Return counts, durations and failures."""
        from flujo_lens.state.backends.sqlite.reads import statistics

        return await self._read(lambda session: statistics.run_stats(session, findable_filter(wanted)))

    async def read_span_stats(self, wanted: RunFilter) -> tuple[SpanStats, ...]:
        """Return counts and durations of spans by name; on a connection of its own, beside `read_stats`."""
        from flujo_lens.state.backends.sqlite.reads import statistics

        async with self._beside() as reading:
            return await reading._read(lambda session: statistics.span_stats(session, findable_filter(wanted)))

    async def read_evaluations(self, run_id: str | None = None, limit: int = 50) -> Sequence[Evaluation]:
        """Return evaluations, newest first."""
        from flujo_lens.state.backends.sqlite.reads import run_detail

        check_page(limit)
        check_text(run_id, "run_id")
        sought = None if run_id is None else findable(run_id)
        most = min(limit, LONGEST_PAGE)
        return await self._read(lambda session: run_detail.evaluations(session, sought, most, self._value))

    async def read_system_state(self) -> Sequence[SystemEntry]:
        """Return all global keys, by key."""
        from flujo_lens.state.backends.sqlite.reads import run_detail

        return await self._read(run_detail.system_entries)

    async def read_facts(self) -> Mapping[str, Any]:
        """Return ``size_bytes`` (with the WAL), ``last_write_at``, ``notes`` and ``library`` (``0.4`` or ``0.6``)."""
        return await self._read(self._facts)

    def _facts(self, session: Session) -> dict[str, Any]:
        from flujo_lens.state.backends.sqlite.reads import statistics

        version = session.shape.version
        newer = f"the store's schema version {version} is newer than {KNOWN_VERSION}, the newest that is known"
        return {
            "size_bytes": sum(_size(f"{self._reader.path}{end}") for end in ("", "-wal")),
            "last_write_at": statistics.last_write(session),
            "notes": (newer,) if version > KNOWN_VERSION else (),
            "library": session.shape.series,
        }
