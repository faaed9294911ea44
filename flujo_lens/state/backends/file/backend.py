"""`FileBackend`: the contract on a folder of JSON files, one a run."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from flujo_lens.errors import InternalError
from flujo_lens.state.backends.base import JSONObject
from flujo_lens.state.backends.core.rows import (
    as_object,
    end_row,
    evaluation_row,
    filled,
    moment_before,
    run_row,
    span_rows,
    step_row,
    trace_rows,
)
from flujo_lens.state.backends.core.validation import (
    asked_id,
    check_codec,
    check_days,
    check_hours,
    check_key,
    check_run_id,
    check_timeout,
    check_zone,
    place_of,
)
from flujo_lens.state.backends.core.worker_pool import Workers
from flujo_lens.state.backends.file.folder import Folder
from flujo_lens.state.backends.file.format.codec import Codec
from flujo_lens.state.backends.file.format.document import encode_state
from flujo_lens.state.backends.file.runner_methods import DurableFiles
from flujo_lens.state.timestamps import local_zone

if TYPE_CHECKING:
    from flujo_lens.state.backends.file.writes import Changes
    from flujo_lens.state.deletion import BackupCallback, Deleted, DeletionPlan, DeletionRequest, Record, Restored
    from flujo_lens.state.maintenance import Repaired

__all__ = ["FileBackend", "folder_of_uri"]

T = TypeVar("T")


def folder_of_uri(uri: str) -> Path:
    """The folder of ``file:///absolute/folder`` or a bare path."""
    from urllib.parse import unquote

    if not uri.lower().startswith("file://"):
        return Path(uri)
    rest = uri[len("file://") :].partition("?")[0]
    return Path(unquote(rest.removeprefix("localhost") if rest.startswith("localhost/") else rest))


class FileBackend(DurableFiles):
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
    `flujo_lens.state.backends.file.writes` and `flujo_lens.state.backends.file.fs.locks`). What several tasks do to
    one run by one backend is done in the order of their calls, so that the last save counts; runs do not wait for
    each other. A call that is cancelled while it waits for its turn or for the lock changes nothing; one that is
    past that is done to its end.

    Args:
        path: The folder; made by the first write if it is missing, and a store from then on if it is empty. ``~`` is
            the home folder.
        zone: How naive local times of old files are read; None for this machine's zone.
        timeout: Seconds to wait for the folder's lock.
        cache_dir: Where the index is kept; None for the user's cache directory.
        serializer_default, envelope, validate: As of `flujo_lens.serialization.codec.StateCodec`.

    Raises (from any method):
        StoreNotFoundError: there is no such folder (when operators read).
        NotAStoreError: it is no folder, or holds files of which not one is a run.
        UnreachableStoreError: it may not be read.
        BusyError: another process held the lock for `timeout` seconds; nothing was changed (when writing).
        ReadOnlyStoreError: the folder may not be written.
        OperationFailedError: it cannot be written (no space); the message says whether anything was changed.
    """

    any_loop = True

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
        check_codec(serializer_default, envelope, validate)
        check_zone(zone)
        self.path = place_of(path, type(self))
        self._codec, self._default = Codec(serializer_default, envelope, validate), serializer_default
        self._folder = Folder(self.path, zone or local_zone(), cache_dir, self._codec)
        self._timeout = check_timeout(timeout)
        self._readers, self._writers = Workers(), Workers()

    @classmethod
    def from_uri(cls, uri: str, *, timeout: float = 10.0, zone: tzinfo | None = None) -> FileBackend:
        """The backend for a ``file:`` URI or a path."""
        return cls(folder_of_uri(uri), timeout=timeout, zone=zone)

    async def _run(self, work: Callable[[threading.Event], T]) -> T:
        """Return ``work(stop)``, done on a thread; `stop` is set when the caller is cancelled."""
        return await self._readers.run(work)

    async def _write(self, work: Callable[[threading.Event], T], what: Hashable | None = None) -> T:
        """As `_run`, on threads of their own: who waits for the lock does not keep others from reading.

        What is done to one thing (`what`: a run's id) is done in the order of the calls, else the last save of a run
        would not be the one that counts.
        """
        return await self._writers.run(work, what)

    @cached_property
    def _changes(self) -> Changes:
        from flujo_lens.state.backends.file.writes import Changes

        return Changes(self._folder, self._timeout)

    async def shutdown(self) -> None:
        """Let go of what is kept in memory. Threads end by themselves when they have had no work for a while."""
        self._folder.close()

    # --- states

    async def save_state(self, run_id: str, state: JSONObject) -> None:
        """Save the state in place of the one before; when this returns, it survives the death of the machine.

        The state is copied before the first await. A process that dies on the way leaves the state before or
        the new one.

        Raises:
            InvalidStateError: it does not fit the model that states are checked against.
        """
        given = as_object(state, self._default)
        self._codec.check(given)
        data = encode_state(self._codec.real, check_run_id(run_id), filled(given, run_id))
        await self._write(lambda stop: self._changes.save(run_id, data, stop), run_id)

    async def delete_state(self, run_id: str) -> None:
        """Delete the files of a run's state; its history stays. One without a state is no error."""
        asked_id(run_id)
        await self._write(lambda stop: self._changes.delete_state(run_id, stop), run_id)

    # --- history

    async def _append(self, run_id: str, kind: str, row: Mapping[str, Any]) -> None:
        """Add a line to the history of a run; when this returns, it survives the death of the machine."""
        from flujo_lens.state.backends.file.format.history_lines import line_of

        line = line_of(self._codec.real, run_id, kind, row)
        await self._write(lambda stop: self._changes.append(run_id, line, stop), run_id)

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

    async def set_system_state(self, key: str, value: JSONObject) -> None:
        """Set a global key. A process that dies on the way leaves the old value or the new one."""
        from flujo_lens.state.backends.file.format import histories

        check_key(key)
        row = histories.system_row(self._codec.real, key, value)
        await self._write(lambda stop: self._changes.set_system(key, row, stop), ("system", key))

    # --- cleaning up, figures

    async def delete_run(self, run_id: str) -> None:
        """Delete a run with all that hangs on it, in one moment; a process that dies on the way leaves all or nothing.

        In a folder without histories a run is its state; of several files of one the one that counts goes last.
        """
        asked_id(run_id)
        await self._write(lambda stop: self._changes.delete_run(run_id, stop), run_id)

    async def cleanup_old_workflows(self, days_old: float = 30) -> int:
        """Delete runs that were last updated more than `days_old` days ago, whatever their status."""
        from flujo_lens.state.backends.file import cleanup

        cutoff = moment_before(datetime.now(UTC), days=check_days(days_old))
        return await self._write(lambda stop: cleanup.delete_old(self._changes, cutoff, stop))

    async def cancel_runs(
        self, run_ids: Sequence[str], *, force: bool = False, keep: BackupCallback | None = None
    ) -> Sequence[str]:
        """Mark runs as cancelled, one after the other."""
        from flujo_lens.state.backends.file import cleanup

        wanted = [asked_id(run_id) for run_id in run_ids]
        return await self._write(lambda stop: cleanup.cancel(self._changes, wanted, force, stop, keep))

    async def cleanup_stale_background_tasks(self, stale_hours: float = 24) -> int:
        """Mark running background tasks without a save for `stale_hours` as failed, one after the other."""
        from flujo_lens.state.backends.file import cleanup

        cutoff = moment_before(datetime.now(UTC), hours=check_hours(stale_hours))
        return len(await self._write(lambda stop: cleanup.give_up(self._changes, cutoff, stale_hours, stop)))

    async def fail_stale_tasks(self, run_ids: Sequence[str], cutoff: datetime, hours: float) -> Sequence[str]:
        """Mark those of these background tasks that are without a save since `cutoff`, one after the other."""
        from flujo_lens.state.backends.file import cleanup

        among, told = list(run_ids), check_hours(hours, "hours")
        return await self._write(lambda stop: cleanup.give_up(self._changes, cutoff, told, stop, among))

    # --- deletion

    async def plan_deletion(self, asked: DeletionRequest) -> DeletionPlan:
        """Return what would be deleted now, as the lists' index tells it; files are counted, not rows."""
        from flujo_lens.state.backends.file.deletion.plan import make_plan

        claims = await self.read_claims()
        held = {run_id: str(claim.holder) for run_id, claim in claims.items() if not claim.has_ended(asked.now)}
        return await self._run(lambda stop: make_plan(self._folder, asked, held, stop))

    async def delete_planned(
        self, plan: DeletionPlan, *, keep: BackupCallback | None = None, batch_size: int = 100
    ) -> AsyncIterator[Deleted]:
        """Delete what was planned. A batch goes in one moment (see
        `flujo_lens.state.backends.file.deletion.execute`)."""
        from flujo_lens.state.backends.file.deletion.execute import Deletion

        deletion = Deletion(self._changes, plan, keep, batch_size)
        await self._write(deletion.begin)
        for batch in deletion.batches():
            yield await self._write(partial(deletion.delete, batch))

    async def restore(self, records: Iterable[Record]) -> Restored:
        """Bring back runs: the same bytes in files of the same names, with the same modification times."""
        from flujo_lens.state.backends.file.deletion.restore import restore

        return await self._write(lambda stop: restore(self._changes, records, stop))

    async def repair(self, checks: Sequence[str]) -> Sequence[Repaired]:
        """Move leftovers of interrupted saves that are older than an hour out of the folder, into the bin beside it."""
        from flujo_lens.state.backends.file.upkeep.repair import mend_leftovers

        done = await self._write(lambda stop: mend_leftovers(self.path)) if "leftovers" in checks else None
        return () if done is None else (done,)

    def get_workflow_stats_sync(self) -> JSONObject:
        """`get_workflow_stats` without an event loop, in the thread that calls."""
        reading = _InThisThread(self)
        try:
            reading.get_workflow_stats().send(None)
        except StopIteration as done:
            return dict(done.value)
        raise InternalError("reading in this thread has waited for another")


class _InThisThread(FileBackend):
    """A backend whose coroutines never wait: one step of each is all of it."""

    def __init__(self, other: FileBackend) -> None:
        self._folder = other._folder

    async def _run(self, work: Callable[[threading.Event], T]) -> T:
        return work(threading.Event())
