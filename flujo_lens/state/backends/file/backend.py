"""`FileBackend`: the contract on a folder of JSON files, one a run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from flujo_lens.errors import NotAStoreError, StoreNotFoundError
from flujo_lens.serialization.envelope import is_sealed
from flujo_lens.state import interpret
from flujo_lens.state.backends.base import JSONObject, Position
from flujo_lens.state.backends.core.backend import CoreBackend
from flujo_lens.state.backends.core.port import run_without_waiting
from flujo_lens.state.backends.core.rows import (
    as_object,
    as_saved,
    end_row,
    evaluation_row,
    filled,
    run_row,
    span_rows,
    step_row,
    trace_rows,
)
from flujo_lens.state.backends.core.run_codec import RunCodec
from flujo_lens.state.backends.core.run_reader import RunReader
from flujo_lens.state.backends.core.validation import (
    asked_id,
    check_run_id,
    check_timeout,
    check_zone,
    findable_filter,
    place_of,
)
from flujo_lens.state.backends.file.folder import Folder
from flujo_lens.state.backends.file.format import document as documents
from flujo_lens.state.backends.file.format.history_lines import line_of
from flujo_lens.state.backends.file.store import FileStore, InThisThread
from flujo_lens.state.backends.file.transaction import FileTransaction
from flujo_lens.state.backends.file.writes import Changes, Stop
from flujo_lens.state.filtering import matches, needs_details
from flujo_lens.state.timestamps import local_zone, parse_instant
from flujo_lens.state.traces import build_trees, flatten
from flujo_lens.state.traces import span_rows as read_span_rows
from flujo_lens.state.views import RunFilter, RunSummary, Span

if TYPE_CHECKING:
    from flujo_lens.state.aggregate import SpanTally
    from flujo_lens.state.backends.core.port import RunRow, Transaction
    from flujo_lens.state.backends.file.index.joined_table import RunEntry
    from flujo_lens.state.backends.file.index.run_selection import Snapshot
    from flujo_lens.state.claims import Progress
    from flujo_lens.state.deletion import BackupCallback, Deleted, DeletionPlan, Record, Restored
    from flujo_lens.state.maintenance import Finding, Repaired
    from flujo_lens.state.statistics import SpanStats

_BATCH = 200


def folder_of_uri(uri: str) -> Path:
    """The folder of ``file:///absolute/folder`` or a bare path."""
    from urllib.parse import unquote

    if not uri.lower().startswith("file://"):
        return Path(uri)
    rest = uri[len("file://") :].partition("?")[0]
    return Path(unquote(rest.removeprefix("localhost") if rest.startswith("localhost/") else rest))


class FileCodec(RunCodec):
    """The documents of runs as files hold them: keys in order, in ASCII, and the run id that counts put in."""

    def state(self, run_id: str, state: JSONObject) -> bytes:
        kept = as_object(state, self._default)
        self.fields.check(kept)
        return documents.encode_state(self.fields, run_id, filled(kept, run_id))

    def rewritten_state(self, row: RunRow, change: Callable[[JSONObject], JSONObject]) -> bytes | None:
        if row.state is None or row.unreadable:
            return row.state
        state = change(documents.parse_object(row.state, exact=True))
        return documents.encode_state(self.fields, row.run_id, state, is_stored=True)

    def opened_state(self, row: RunRow | None) -> JSONObject | None:
        found = super().opened_state(row)
        if row is None or found is None or found.get("run_id") == row.run_id:
            return found
        return {**found, "run_id": row.run_id}

    def shown_state(self, row: RunRow) -> JSONObject | None:
        found = super().shown_state(row)
        return found if found is None or found.get("run_id") == row.run_id else {**found, "run_id": row.run_id}

    def _sealed_names(self, kind: str, row: JSONObject) -> Iterable[str]:
        """All that look so: a line seals whatever runs are not found by."""
        return [name for name, value in row.items() if isinstance(value, str) and is_sealed(value)]


class FileRunReader(RunReader):
    """Reads one run after the other: what a state is parsed into is gone before the next one is.

    Background tasks are counted by the table that lists are made of.
    """

    async def raws(
        self, tx: Transaction, rows: Sequence[RunRow], *, index_only: bool = False
    ) -> list[interpret.RawRun]:
        assert isinstance(tx, FileTransaction)
        if tx.has_histories:
            return await super().raws(tx, rows, index_only=index_only)
        return [self._codec.raw(row) for row in rows]

    async def summaries(self, tx: Transaction, rows: Sequence[RunRow]) -> list[RunSummary]:
        return [(await super(FileRunReader, self).summaries(tx, [row]))[0] for row in rows]

    async def with_tasks(self, tx: Transaction, runs: Sequence[RunSummary]) -> list[RunSummary]:
        assert isinstance(tx, FileTransaction)
        tasks = tx.snapshot.tasks([run.run_id for run in runs])
        return [run._replace(tasks=tasks[run.run_id]) if run.run_id in tasks else run for run in runs]


class FileBackend(CoreBackend):
    """Keeps states in a folder, one JSON file a run, as the library's own backend of this name does.

    A file is a run if it is named ``*.json`` and holds a JSON object that is a state; the run id inside
    counts, else the file's name. A file that does not parse is a run of the status ``unreadable``. What else
    lies in the folder is passed over. The history of runs (their start and end, steps, spans, evaluations) and
    the system state are in a sub-folder ``.lens-history``, which is made by the first write of history: a folder
    into which only states are saved stays as the library made it. Spans, evaluations and the system state need a
    history; a run that has left history alone is a run all the same.

    Reading never writes into the folder. What a list needs of every file is kept in an index in the user's
    cache directory (see `flujo_lens.state.backends.file.index.cache`), which may be deleted at any time.

    Writing is safe from several tasks, threads and processes at once (see
    `flujo_lens.state.backends.file.writes` and `flujo_lens.state.backends.core.folder_lock`). What several tasks do to
    one run by one backend is done in the order of their calls, so that the last save counts; runs do not wait for
    each other. A call that is cancelled while it waits for its turn or for the lock changes nothing; one that is
    past that is done to its end.

    Args:
        path: The folder; made by the first write if it is missing, and a store from then on if it is empty. ``~`` is
            the home folder.
        zone: How naive local times of old files are read; None for this machine's zone.
        timeout: Seconds to wait for the folder's lock.
        cache_dir: Where the index is kept; None for the user's cache directory.
        serializer_default: As of `flujo_lens.serialization.codec.StateCodec`; so are envelope and validate.

    Raises (from any method):
        StoreNotFoundError: there is no such folder (when operators read).
        NotAStoreError: it is not a folder, or holds files of which not one is a run.
        UnreachableStoreError: it may not be read.
        BusyError: another process held the lock for `timeout` seconds; nothing was changed (when writing).
        ReadOnlyStoreError: the folder is not writable.
        OperationFailedError: it cannot be written (no space); the message says whether anything was changed.
    """

    any_loop = True
    has_odd_ids = True

    def __init__(
        self,
        path: Path | str,
        *,
        zone: tzinfo | None = None,
        timeout: float = 10.0,
        cache_dir: Path | None = None,
        serializer_default: Callable[[Any], Any] | None = None,
        envelope: Any = None,
        validate: Any = None,
    ) -> None:
        check_zone(zone)
        self.path = place_of(path, type(self))
        zone = zone or local_zone()
        codec = FileCodec(serializer_default, envelope=envelope, validate=validate, zone=zone)
        self._folder = Folder(self.path, zone, cache_dir, codec.fields)
        self._changes = Changes(self.path, check_timeout(timeout))
        self._files = FileStore(self._folder, self._changes)
        super().__init__(self._files, zone=zone)
        self.codec, self.reader = codec, FileRunReader(codec)

    @classmethod
    def from_uri(cls, uri: str, *, timeout: float = 10.0, zone: tzinfo | None = None, envelope: Any = None) -> Self:
        """The backend for a ``file:`` URI or a path."""
        return cls(folder_of_uri(uri), timeout=timeout, zone=zone, envelope=envelope)

    # --- saving

    async def save_state(self, run_id: str, state: JSONObject) -> None:
        """Save the state in place of the one before; when this returns, it survives the death of the machine.

        The state is copied before the first await. A process that dies on the way leaves the state before or
        the new one.

        Raises:
            InvalidStateError: it does not fit the model that states are checked against.
        """
        data = self.codec.state(check_run_id(run_id), state)
        await self._files.change(lambda stop: self._changes.save(run_id, data, stop), run_id)

    async def _append(self, run_id: str, kind: str, row: Mapping[str, Any]) -> None:
        """Add a line to the history of a run; when this returns, it survives the death of the machine."""
        line = line_of(self.codec.fields, run_id, kind, row)
        await self._files.change(lambda stop: self._changes.append(run_id, line, stop), run_id)

    async def save_run_start(self, run_data: JSONObject) -> None:
        """Save the metadata of a run that starts, in place of those before; its steps and spans stay."""
        row = run_row(run_data)
        await self._append(row["run_id"], "run_start", row)

    async def save_run_end(self, run_id: str, end_data: JSONObject) -> None:
        """Update the metadata of a run; one that was never started is made."""
        await self._append(check_run_id(run_id), "run_end", end_row(end_data))

    async def save_step_result(self, step_data: JSONObject) -> None:
        """Add one execution of a step."""
        row = step_row(step_data)
        await self._append(row["run_id"], "step", row)

    async def save_spans(self, run_id: str, spans: list[JSONObject]) -> None:
        """Add spans, all or none; one with the id of an earlier one takes its place."""
        await self._append(check_run_id(run_id), "spans", {"spans": span_rows(spans)})

    async def save_trace(self, run_id: str, trace: JSONObject) -> None:
        """Save a trace tree as spans, in place of those before."""
        await self._append(check_run_id(run_id), "trace", {"spans": trace_rows(trace)})

    async def persist_evaluation(
        self,
        run_id: str,
        score: float,
        feedback: str | None = None,
        step_name: str | None = None,
        metadata: JSONObject | None = None,
    ) -> None:
        """Add an evaluation; the run need not be known, and does not become so."""
        row = evaluation_row(run_id, score, feedback, step_name, metadata)
        await self._append(row.pop("run_id"), "evaluation", row)

    async def save_progress(self, progress: Progress) -> None:
        """Save all of it under the locks of the folder: one line of the history, then the state.

        Those are two files. The line counts from the moment on in which the state is in its place, and else is cut off
        by the next who claims the run or saves its progress (see
        `flujo_lens.state.backends.file.format.progress_lines`). So a process that dies on any line leaves all of it or
        nothing. Only a `save_state` in between, by a process without a claim on the run, makes a line count whose
        state never came.

        Raises:
            LostClaimError: the claim is not held any more. Nothing was saved.
        """
        run_id = check_run_id(progress.run_id)
        state = None if progress.state is None else self.codec.state(run_id, progress.state)
        lines = self._lines_of(progress)

        async def work(tx: Transaction) -> None:
            assert isinstance(tx, FileTransaction)
            await tx.save_progress(run_id, state, lines, progress.claim)

        await self._write(work, run_id)

    def _lines_of(self, progress: Progress) -> list[bytes]:
        """The lines that progress adds to the history of its run."""
        own = {"run_id": progress.run_id}
        rows: list[tuple[str, Mapping[str, Any]]] = []
        if progress.run_start is not None:
            rows.append(("run_start", run_row({**progress.run_start, **own})))
        if progress.step is not None:
            rows.append(("step", step_row({**progress.step, **own})))
        if progress.spans:
            rows.append(("spans", {"spans": span_rows(list(progress.spans))}))
        if progress.run_end is not None:
            rows.append(("run_end", end_row(progress.run_end)))
        if progress.manifest is not None:
            rows.append(("manifest", {"manifest": progress.manifest}))
        return [line_of(self.codec.fields, progress.run_id, kind, row) for kind, row in rows]

    # --- reading

    async def load_state(self, run_id: str) -> JSONObject | None:
        """Return the saved state, times as texts, or None; also if there is no folder yet.

        The file that the run's name stands for comes first, so that no other has to be looked at.

        Raises:
            CorruptStoreError: the run's file does not parse.
            SealedStateError: it is encrypted, and the key is not here.
            InvalidStateError: it does not fit the model that states are checked against.
        """
        asked_id(run_id)
        found = await self._files.run(lambda stop: self._load(run_id, stop))
        if found is not None:
            self.codec.check(found)
        return found

    def _load(self, run_id: str, stop: Stop) -> JSONObject | None:
        try:
            with self._folder.reading() as reader:
                found = reader.state(run_id)
                if found is not None:
                    return as_saved(self.codec.fields.opened(run_id, found))
                row = FileTransaction(self._folder, reader, stop).row(run_id)
        except (StoreNotFoundError, NotAStoreError) as error:
            if isinstance(error, NotAStoreError) and "files" not in error.details:
                raise
            return None
        state = self.codec.opened_state(row)
        return None if state is None else as_saved(state)

    async def iter_runs(
        self,
        wanted: RunFilter,
        *,
        after: Position | None = None,
        reverse: bool = False,
        ordered: bool = True,
        details: bool = True,
    ) -> AsyncIterator[RunSummary]:
        """Yield the runs that `wanted` admits, of those that were there at the first step."""
        wanted, border = findable_filter(wanted), self._border_of(after)

        def look(stop: Stop) -> Snapshot:
            with self._folder.reading() as reader:
                return self._folder.snapshot(reader.folder, stop)

        snapshot = await self._files.run(look)
        pages = snapshot.pages(wanted, border, reverse, ordered=ordered, first=_BATCH)
        while (page := await self._files.run(lambda stop: next(pages, None))) is not None:
            is_light = not (details or needs_details(wanted))
            for run in snapshot.light(page) if is_light else await self._batch(snapshot, page, wanted):
                yield run

    async def _batch(self, snapshot: Snapshot, page: Sequence[RunEntry], wanted: RunFilter) -> list[RunSummary]:
        """The runs of a page that `wanted` admits, with all that their files tell now."""

        async def work(tx: Transaction) -> list[RunSummary]:
            assert isinstance(tx, FileTransaction)
            tx.snapshot = snapshot
            runs = [(await self.reader.summaries(tx, [row]))[0] for row in tx.rows([run.run_id for run in page])]
            return [run for run in await self.reader.with_tasks(tx, runs) if matches(wanted, run)]

        return await self._files.read(work)

    async def read_spans(self, run_id: str) -> Sequence[Span]:
        """Return the spans of a run as trees; no other file than its history is looked at."""
        asked_id(run_id)

        async def work(tx: Transaction) -> tuple[list[JSONObject], Any]:
            assert isinstance(tx, FileTransaction)
            history = tx.history(run_id)
            shown = [self.codec.shown("span", run_id, row.data) or {} async for row in tx.children("span", [run_id])]
            return shown, (history.run or {}).get("created_at") if history else None

        try:
            spans, start = await self._files.read(work)
        except StoreNotFoundError:
            return ()
        return tuple(build_trees(read_span_rows(spans), parse_instant(start)))

    async def read_span_stats(self, wanted: RunFilter) -> tuple[SpanStats, ...]:
        """Return counts and durations of spans by name; of runs with spans alone the files are read."""
        from flujo_lens.state.aggregate import SpanTally

        tally = SpanTally()
        batch: list[str] = []
        async for run in self.iter_runs(wanted, ordered=False, details=False):
            batch.append(run.run_id)
            if len(batch) == _BATCH:
                await self._add_spans_of(batch, tally)
                batch = []
        await self._add_spans_of(batch, tally)
        return tally.stats()

    async def _add_spans_of(self, run_ids: Sequence[str], tally: SpanTally) -> None:
        def traced(stop: Stop) -> list[str]:
            return list(self._folder.last.histories_with("span", run_ids)) if self._folder.last else []

        for run_id in await self._files.run(traced):
            for span in flatten(await self.read_spans(run_id)):
                tally.add(span.name, span.status, span.duration_ms)

    def get_workflow_stats_sync(self) -> JSONObject:
        """`get_workflow_stats` without an event loop, in the thread that calls."""
        other = copy(self)
        other._store = other._files = InThisThread(self._folder, self._changes)
        return run_without_waiting(other.get_workflow_stats())

    # --- deletion and care

    async def delete_planned(
        self, plan: DeletionPlan, *, keep: BackupCallback | None = None, batch_size: int = 100
    ) -> AsyncIterator[Deleted]:
        """Delete what was planned, after what was interrupted earlier is finished.

        A batch goes in one moment (see `flujo_lens.state.backends.file.format.tombstones`): a process that dies on any
        line has deleted all of it or nothing. Only in a folder without a sub-folder of histories, where a list would
        have no place, files go one by one: of several files of a run the one that counts last.
        """
        await self._files.change(self._changes.finish)
        async for done in super().delete_planned(plan, keep=keep, batch_size=batch_size):
            yield done

    # --- moving runs between stores

    async def portable_ids(self, wanted: RunFilter) -> AsyncIterator[str]:
        """Yield ids, oldest first, of one look at the folder: a page would be a look."""
        async for run in self.iter_runs(wanted, reverse=True, details=needs_details(wanted)):
            yield run.run_id

    @classmethod
    def portable_records(cls, records: Iterable[Record], zone: tzinfo | None = None) -> Iterator[Record]:
        """The portable form of records of `delete_planned`."""
        from flujo_lens.state.backends.file.portable_records import portable_records

        return portable_records(records, zone or local_zone())

    async def write_portable(self, records: Iterable[Record], *, replace: bool = False) -> Restored:
        """Save runs from portable records. Runs that are replaced are removed first, in a moment of its own."""
        from flujo_lens.state.backends.file.portable_records import StoredRecords

        if replace:
            ids = list(dict.fromkeys(record["run_id"] for record in records))
            await self._change(lambda tx: tx.drop(ids), None)
        return await self.restore(StoredRecords(records))

    async def check(self, now: datetime, silent_after: timedelta, *, full: bool = False) -> Sequence[Finding]:
        """Look for what is wrong with the folder; unless `full`, histories by their ends."""
        from flujo_lens.state.backends.file.upkeep.check import check
        from flujo_lens.state.stale_runs import find_silent_runs

        silent = await find_silent_runs(self, now, silent_after)
        found = await self._files.run(lambda stop: check(self._folder, stop, full=full))
        return (*found, silent)

    async def repair(self, checks: Sequence[str]) -> Sequence[Repaired]:
        """Move leftovers of interrupted saves, older than an hour, out of the folder into the bin next to it."""
        from flujo_lens.state.backends.file.upkeep.repair import mend_leftovers

        done = await self._files.change(lambda stop: mend_leftovers(self.path)) if "leftovers" in checks else None
        return () if done is None else (done,)
