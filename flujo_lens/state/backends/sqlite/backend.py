"""`SQLiteBackend`: the contract on one database file.

A method checks what it is asked, and hands one function to the store (`engine.store`), which runs it on the thread of
the connection that reads, or of that which writes. The functions are in the folders `reads`, `writes`, `deletion` and
`upkeep`, and are imported by the methods that need them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from flujo_lens.errors import StoreNotFoundError
from flujo_lens.state.backends.base import JSONObject, Position
from flujo_lens.state.backends.core.application_reads import empty_if_missing
from flujo_lens.state.backends.core.change_tokens import StoreChanges
from flujo_lens.state.backends.core.documents import WorkflowTally
from flujo_lens.state.backends.core.rows import as_object, evaluation_row, moment_before, now_text, trace_rows
from flujo_lens.state.backends.core.validation import (
    LONGEST_PAGE,
    asked_id,
    check_codec,
    check_days,
    check_hours,
    check_key,
    check_object,
    check_page,
    check_prefix,
    check_text,
    check_timeout,
    check_zone,
    findable,
    findable_filter,
    findable_ids,
    place_of,
)
from flujo_lens.state.backends.sqlite.engine.store import SqliteStore
from flujo_lens.state.backends.sqlite.figures import SqliteFigures
from flujo_lens.state.backends.sqlite.reads import run_selection
from flujo_lens.state.backends.sqlite.reads.load_state import load
from flujo_lens.state.backends.sqlite.transfer import SqliteTransfer
from flujo_lens.state.interpret import BAD, decode
from flujo_lens.state.traces import span_document
from flujo_lens.state.views import Evaluation, Page, RunDetail, RunFilter, RunSummary, Span, SystemEntry

if TYPE_CHECKING:
    from flujo_lens.serialization.codec import StateCodec
    from flujo_lens.state.backends.core.port import ValueWork
    from flujo_lens.state.claims import Progress, ResumableGroup
    from flujo_lens.state.deletion import BackupCallback, Deleted, DeletionPlan, DeletionRequest, Record, Restored
    from flujo_lens.state.maintenance import (
        Finding,
        Migration,
        MigrationPlan,
        OptimizationPlan,
        Optimized,
        Repaired,
        Space,
    )

T = TypeVar("T")
_SYNCHRONOUS = ("NORMAL", "FULL")
_RUNS_A_TRANSACTION = 100
"""An application that waits for the lock must not wait long."""


def path_of_uri(uri: str) -> Path:
    """The file of ``sqlite:///relative.db``, ``sqlite:////absolute.db`` or a bare path."""
    rest = uri.removeprefix("sqlite:///") if uri.startswith("sqlite:///") else uri.removeprefix("sqlite://")
    if rest == uri:
        return Path(uri)
    return Path(rest.partition("?")[0])


def _level(synchronous: object) -> str:
    if not isinstance(synchronous, str):
        raise TypeError(f"synchronous must be NORMAL or FULL, not {type(synchronous).__name__}: {synchronous!r}")
    if synchronous.upper() not in _SYNCHRONOUS:
        raise ValueError(f"synchronous must be NORMAL or FULL, not {synchronous!r}")
    return synchronous.upper()


class SQLiteBackend(StoreChanges, SqliteTransfer, SqliteFigures):
    """Keeps states in one SQLite file, in the format of the library's version 0.6.11; reads older ones too.

    Reading never writes: no file is made, changed or left, whatever state the store is in, and all reads of one call
    see the store at one moment. Writing opens the file at the first write; if there is none, or an empty one, it makes
    one, in WAL mode, with the folders above it. What is acknowledged is in the file that is at the path then: where
    it was renamed, removed or replaced since, what is there now is opened (or made).
    Every writing call is one transaction (but `cleanup_old_workflows`: one for 100 runs). What is saved when the
    process dies is whole, and all of it that was acknowledged is there: see `synchronous`. A call that is
    cancelled did it all or nothing, and is over when it raises; the backend can be used on.

    Calls may come from any event loop in any thread, and from many processes. After `os.fork` a child opens the
    file anew. A backend that is not shut down does not keep its process alive.

    A store of an older schema is brought to the newest at the first write that needs it, if `migrate`, and if no
    other process has it open (see `migrations`). Deletions, claims and `cleanup_stale_background_tasks` never need it.

    Args:
        db_path: The database file; ``~`` is the home folder.
        timeout: Seconds to wait for a lock.
        zone: How naive local times of old stores are read; None to find out from the store.
        serializer_default: As of `flujo_lens.serialization.codec.StateCodec`; so are envelope and validate.
        synchronous: ``NORMAL`` (what was acknowledged survives the death of the process) or ``FULL`` (and that of
            the machine; a save waits for the disk).
        migrate: Whether to migrate.

    Raises (from any method):
        BusyError: locked for longer than `timeout`; nothing was changed.
        OperationFailedError: the disk is full, or the like; nothing was changed.
        StoreError: the file is missing (when operators read), no store, damaged, or of a schema not written to.
        ValueError, TypeError: a run id that is none.
    """

    any_loop = True
    needs_loop = False

    def __init__(
        self,
        db_path: Path | str,
        *,
        timeout: float = 10.0,
        zone: tzinfo | None = None,
        serializer_default: Callable[[Any], Any] | None = None,
        envelope: Any = None,
        validate: Any = None,
        synchronous: str = "NORMAL",
        migrate: bool = True,
    ) -> None:
        check_codec(serializer_default, envelope, validate)
        check_zone(zone)
        self._default, self._envelope, self._validate = serializer_default, envelope, validate
        self.path = place_of(db_path, type(self))
        self._store = SqliteStore(self.path, check_timeout(timeout), zone, _level(synchronous), migrate)

    @classmethod
    def from_uri(
        cls,
        uri: str,
        *,
        timeout: float = 10.0,
        zone: tzinfo | None = None,
        envelope: Any = None,
        migrate: bool = False,
    ) -> SQLiteBackend:
        """The backend for a ``sqlite:`` URI or a path, as the command line uses it: it migrates only on demand."""
        return cls(path_of_uri(uri), timeout=timeout, zone=zone, envelope=envelope, migrate=migrate)

    @property
    def db_path(self) -> Path:
        """The database file, as it was given."""
        return self.path

    @cached_property
    def _codec(self) -> StateCodec:
        from flujo_lens.serialization.codec import StateCodec

        return StateCodec(self._default, envelope=self._envelope, validate=self._validate)

    async def shutdown(self) -> None:
        """Close the connections and end the threads. What is called afterwards opens them again."""
        await self._store.close()

    async def _read_values(self, work: ValueWork[T]) -> T:
        from flujo_lens.state.backends.sqlite.writes.key_values import in_values

        return await self._store.read(lambda session: in_values(session.connection, work))

    async def _write_values(self, work: ValueWork[T], *, creates: bool = True, run_id: str | None = None) -> T:
        from flujo_lens.state.backends.sqlite.writes.key_values import in_values

        return await self._store.write(lambda db: in_values(db, work), creates=creates)

    # --- states

    async def save_state(self, run_id: str, state: JSONObject) -> None:
        """Save the state in place of the one before; columns that are not ours keep their values.

        Raises:
            InvalidStateError: it does not fit the model that it is checked against.
        """
        from flujo_lens.state.backends.sqlite.writes.row_values import state_values

        given = as_object(state, self._default)
        self._codec.check(given)
        await self._store.writer.save_state(state_values(self._codec, run_id, given))

    @empty_if_missing(lambda: None)
    async def load_state(self, run_id: str) -> JSONObject | None:
        """Return the saved state, or None; also if there is no file yet (see `reads.load_state.load`).

        Raises:
            SealedStateError, InvalidStateError: its key is not here, or it does not fit the model of states.
        """
        store, sought = self._store, findable(asked_id(run_id))
        found = await store.thread.run(lambda: load(store.reader, store.session, self._codec.value, sought))
        if found is not None and self._validate:
            self._codec.check(found)
        return found

    @empty_if_missing(list[JSONObject])
    async def list_states(self, status: str | None = None) -> list[JSONObject]:
        from flujo_lens.state.backends.sqlite.reads import run_detail

        check_text(status, "status")
        wanted = findable(status) if status is not None else None
        return await self._store.read(lambda session: run_detail.states(session, wanted, self._codec.value))

    async def delete_state(self, run_id: str) -> None:
        from flujo_lens.state.backends.sqlite.writes.run_changes import delete_state

        sought = findable(asked_id(run_id))
        await self._store.change(lambda db: delete_state(db, self.path, sought))

    async def save_progress(self, progress: Progress) -> None:
        """Save all of it in one transaction and one hop; of a large state there is one copy less.

        Raises:
            LostClaimError: the claim is not held any more. Nothing was saved.
        """
        from flujo_lens.state.backends.sqlite.writes.progress import rows_of, save

        rows = rows_of(self._codec, progress)
        made = await self._store.write(lambda db: save(db, rows, self._store.migrates), *rows.tables())
        if made:
            await self._store.forget_shape()

    # --- history

    async def _save_part(self, run_id: Any, **part: Any) -> None:
        from flujo_lens.state.claims import Progress

        await self.save_progress(Progress(run_id, **part))

    async def save_run_start(self, run_data: JSONObject) -> None:
        check_object(run_data, "run_data")
        await self._save_part(run_data.get("run_id"), run_start=run_data)

    async def save_run_end(self, run_id: str, end_data: JSONObject) -> None:
        """Change the metadata of a run; a run that is not there is not made, and no error."""
        check_object(end_data, "end_data")
        await self._save_part(run_id, run_end=end_data)

    async def save_step_result(self, step_data: JSONObject) -> None:
        """Add one execution of a step.

        A run of which neither state nor metadata are known is announced with it. 0.6.11 has no columns for the
        input and the error of a step: they are added when the first step has one, if the backend migrates.
        """
        check_object(step_data, "step_data")
        await self._save_part(step_data.get("run_id"), step=step_data)

    async def save_spans(self, run_id: str, spans: list[JSONObject]) -> None:
        from flujo_lens.state.backends.sqlite.writes import row_values, save_sql

        rows = row_values.span_values(self._codec, run_id, spans)
        run = row_values.announced(self._codec, {"run_id": run_id})
        await self._store.write(lambda db: save_sql.replace_spans(db, run_id, rows, run), "spans", "runs")

    async def save_trace(self, run_id: str, trace: JSONObject) -> None:
        from flujo_lens.state.backends.sqlite.writes import row_values, save_sql

        rows = row_values.span_values(self._codec, run_id, trace_rows(trace))
        run = row_values.announced(self._codec, {"run_id": run_id})
        await self._store.write(lambda db: save_sql.save_trace(db, run_id, rows, run), "spans", "traces", "runs")

    async def persist_evaluation(
        self,
        run_id: str,
        score: float,
        feedback: str | None = None,
        step_name: str | None = None,
        metadata: JSONObject | None = None,
    ) -> None:
        from flujo_lens.state.backends.sqlite.writes import queries, row_values

        row = evaluation_row(run_id, score, feedback, step_name, metadata)
        values = row_values.evaluation_values(self._codec, row)
        await self._store.write(lambda db: db.execute(queries.ADD_EVALUATION, values).rowcount, "evaluations")

    async def set_system_state(self, key: str, value: JSONObject) -> None:
        from flujo_lens.state.backends.sqlite.writes import queries

        check_key(key)
        text = self._codec.column("", "metadata", value)
        values = (key, "null" if text is None else text, now_text())
        await self._store.write(lambda db: db.execute(queries.SET_SYSTEM_STATE, values).rowcount, "system_state")

    # --- what applications read

    def _value(self, run_id: str, field: str, blob: Any) -> Any:
        """The value of a blob; one that is neither JSON nor sealed as it is."""
        if isinstance(blob, bytes):
            return self._codec.value(run_id, field, blob)
        value = decode(blob)
        return blob if value is BAD else value

    @empty_if_missing(lambda: None)
    async def get_trace(self, run_id: str) -> Any:
        from flujo_lens.state.backends.sqlite.reads import run_detail

        sought = findable(asked_id(run_id))
        stored = await self._store.read(lambda session: run_detail.trace(session, sought))
        return stored if stored is not None else await super().get_trace(run_id)

    @empty_if_missing(list[JSONObject])
    async def get_spans(self, run_id: str, status: str | None = None, name: str | None = None) -> list[JSONObject]:
        from flujo_lens.state.backends.sqlite.reads import run_detail

        sought = findable(asked_id(run_id))
        rows = await self._store.read(lambda session: run_detail.span_rows(session, sought, self._value))
        return [span_document(row) for row in rows if status in (None, row.status) and name in (None, row.name)]

    async def read_extras(self, run_ids: Sequence[str], *, contexts: bool = False) -> Mapping[str, JSONObject]:
        from flujo_lens.state.backends.sqlite.reads.application_documents import run_extras

        sought = findable_ids(run_ids)
        return await self._store.read(lambda session: run_extras(session, sought, contexts, self._value))

    async def read_step_extras(self, run_id: str) -> Mapping[tuple[int | None, str], JSONObject]:
        from flujo_lens.state.backends.sqlite.reads.application_documents import step_extras

        sought = findable(asked_id(run_id))
        return await self._store.read(lambda session: step_extras(session, sought, self._value))

    @empty_if_missing(lambda: WorkflowTally().document())
    async def get_workflow_stats(self) -> JSONObject:
        """Return counts of all runs, and their average duration in milliseconds, of one moment."""
        from flujo_lens.state.backends.sqlite.reads.application_documents import workflow_stats

        return await self._store.read(workflow_stats)

    def get_workflow_stats_sync(self) -> JSONObject:
        """`get_workflow_stats` on a connection of its own in the calling thread; waits for no event loop."""
        from flujo_lens.state.backends.sqlite.reads.application_documents import workflow_stats

        clone = self._store.clone()
        try:
            return clone.read_now(workflow_stats)
        except StoreNotFoundError:
            return WorkflowTally().document()
        finally:
            clone.reader.close()

    @empty_if_missing(lambda: None)
    async def get_system_state(self, key: str) -> JSONObject | None:
        from flujo_lens.state.backends.sqlite.reads.run_detail import system_entries

        check_key(key)
        found = await self._store.read(lambda session: system_entries(session, key))
        if not found:
            return None
        entry = found[0]
        return {"key": key, "value": entry.value, "updated_at": entry.updated_at and entry.updated_at.isoformat()}

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
        come between. Where no lock guards the file and it changes on the way, the reading goes on after the
        last run; without an order it cannot, and that is an error.
        """
        sought = findable_filter(wanted)
        select = partial(
            run_selection.select_resuming, wanted=sought, after=after, reverse=reverse, ordered=ordered, details=details
        )
        async for run in self._store.iterate(select):
            yield run

    async def query_runs(
        self, wanted: RunFilter, *, after: Position | None = None, limit: int = 50, reverse: bool = False
    ) -> Page[RunSummary]:
        check_page(limit)
        limit, sought = min(limit, LONGEST_PAGE), findable_filter(wanted)
        select = partial(run_selection.select_page, wanted=sought, after=after, limit=limit + 1, reverse=reverse)
        found = await self._store.read(select)
        if len(found) <= limit:
            return Page(tuple(found))
        last = found[limit - 1] if limit else None
        return Page(tuple(found[:limit]), (last.created_at, last.run_id) if last else after)

    async def count_runs(self, wanted: RunFilter) -> int:
        sought = findable_filter(wanted)
        found: int | None = None
        if wanted.meta:  # which may take long: on a connection of its own, so that others need not wait
            async with self._store.clone() as clone:
                found = await clone.read(lambda session: run_selection.count(session, sought))
        elif wanted == RunFilter() or wanted.since is not None:
            found = await self._store.read(lambda session: run_selection.count(session, sought))
        return await super().count_runs(wanted) if found is None else found

    async def read_statuses(self) -> frozenset[str]:
        """Return every status that a run has; of one whose state says otherwise, also that of its row in ``runs``."""
        return await self._store.read(run_selection.statuses)

    async def find_run_ids(self, prefix: str, limit: int = 10) -> list[str]:
        check_prefix(prefix, limit)
        sought, most = findable(prefix), min(limit, LONGEST_PAGE)
        return await self._store.read(lambda session: run_selection.find_ids(session, sought, most))

    async def read_run(self, run_id: str) -> RunDetail | None:
        from flujo_lens.state.backends.sqlite.reads import run_detail

        sought = findable(asked_id(run_id))
        return await self._store.read(lambda session: run_detail.read_run(session, sought, self._value))

    async def read_summaries(self, run_ids: Sequence[str]) -> Sequence[RunSummary]:
        from flujo_lens.state.backends.sqlite.reads.application_documents import known

        sought = findable_ids(run_ids)
        return await self._store.read(lambda session: list(run_selection.with_details(session, known(session, sought))))

    async def read_spans(self, run_id: str) -> Sequence[Span]:
        from flujo_lens.state.backends.sqlite.reads import run_detail

        sought = findable(asked_id(run_id))
        return await self._store.read(lambda session: run_detail.spans(session, sought, self._value))

    async def read_evaluations(self, run_id: str | None = None, limit: int = 50) -> Sequence[Evaluation]:
        from flujo_lens.state.backends.sqlite.reads import run_detail

        check_page(limit)
        check_text(run_id, "run_id")
        sought, most = None if run_id is None else findable(run_id), min(limit, LONGEST_PAGE)
        return await self._store.read(lambda session: run_detail.evaluations(session, sought, most, self._value))

    async def read_system_state(self) -> Sequence[SystemEntry]:
        from flujo_lens.state.backends.sqlite.reads.run_detail import system_entries

        return await self._store.read(system_entries)

    async def read_facts(self) -> Mapping[str, Any]:
        """Return ``size_bytes`` (with the WAL), ``last_write_at``, ``notes`` and ``library`` (``0.4`` or ``0.6``)."""
        from flujo_lens.state.backends.sqlite.reads.store_facts import facts

        return await self._store.read(lambda session: facts(session, self._store.reader.path))

    async def group_resumable(self, wanted: RunFilter) -> Sequence[ResumableGroup]:
        from flujo_lens.state.backends.sqlite.reads.resumable import group_resumable

        async with self._store.clone() as clone:
            return await clone.read(lambda session: group_resumable(session, wanted))

    # --- changes, on tables of any version

    async def delete_run(self, run_id: str) -> None:
        from flujo_lens.state.backends.sqlite.writes.run_changes import delete_run

        sought = findable(asked_id(run_id))
        await self._store.change(lambda db: delete_run(db, self.path, sought))

    async def cleanup_old_workflows(self, days_old: float = 30) -> int:
        """Delete whole runs last updated more than `days_old` days ago, 100 a transaction; return how many.

        A run that is saved in between stays. When the process dies on the way, some runs are gone, each whole.
        """
        from flujo_lens.state.backends.sqlite.writes.run_changes import delete_old, old_runs

        cutoff = moment_before(datetime.now(UTC), days=check_days(days_old))
        try:
            old = await self._store.read(lambda session: old_runs(session, cutoff))
        except StoreNotFoundError:
            return 0

        parts = (partial(delete_old, path=self.path, old=part) for part in old.parts(_RUNS_A_TRANSACTION))
        return sum([await self._store.change(part) or 0 for part in parts])

    async def cancel_runs(
        self, run_ids: Sequence[str], *, force: bool = False, keep: BackupCallback | None = None
    ) -> Sequence[str]:
        from flujo_lens.state.backends.sqlite.writes.run_changes import cancel

        wanted, now = findable_ids(run_ids), now_text()
        return await self._store.change(lambda db: cancel(db, self.path, wanted, now, force, keep)) or []

    async def cleanup_stale_background_tasks(self, stale_hours: float = 24) -> int:
        cutoff = moment_before(datetime.now(UTC), hours=check_hours(stale_hours))
        return len(await self._fail_stale(cutoff, stale_hours))

    async def fail_stale_tasks(self, run_ids: Sequence[str], cutoff: datetime, hours: float) -> Sequence[str]:
        """Mark those of these background tasks that are without a save since `cutoff`; all in one transaction."""
        return await self._fail_stale(cutoff, check_hours(hours, "hours"), run_ids)

    async def _fail_stale(self, cutoff: datetime, hours: float, among: Sequence[str] | None = None) -> list[str]:
        from flujo_lens.state.backends.sqlite.writes.run_changes import fail_stale

        now, zone = now_text(), self._store.zone
        return await self._store.change(lambda db: fail_stale(db, self.path, cutoff, hours, now, zone, among)) or []

    # --- deletion by a plan

    async def read_space(self) -> Space:
        from flujo_lens.state.backends.sqlite.upkeep.vacuum import read_space

        return await self._store.read(lambda session: read_space(session.connection))

    async def plan_deletion(self, asked: DeletionRequest) -> DeletionPlan:
        from flujo_lens.state.backends.sqlite.deletion.plan import make_plan

        return await self._store.read(lambda session: make_plan(session, self._store.reader.path, asked))

    async def planned_ids(self, plan: DeletionPlan) -> AsyncIterator[str]:
        """Yield the ids of a plan; of runs that are gone by now, none."""
        from flujo_lens.state.backends.sqlite.deletion import plan as deletion_plan

        for part in deletion_plan.parts(plan):
            for run_id in await self._store.read(partial(deletion_plan.planned_ids, part=part)):
                yield run_id

    async def delete_planned(
        self, plan: DeletionPlan, *, keep: BackupCallback | None = None, batch_size: int = 100
    ) -> AsyncIterator[Deleted]:
        """Delete what was planned, from tables of any version, a short transaction a batch.

        `keep` is called before the transaction, so that nothing waits for the disk, and inside it for what could not
        be seen before. A run that has changed since it was kept stays. A batch that took the lock for long is
        followed by a smaller one. Between two, the WAL is folded in before another connection has to. Where others
        write, batches are smaller still, and followed by a pause.
        """
        from flujo_lens.state.backends.sqlite.deletion.execute import carry_out

        async for done in carry_out(self._store, plan, keep, batch_size):
            yield done

    async def restore(self, records: Iterable[Record]) -> Restored:
        """Bring back runs, several a transaction; every row has the rowid that it had, unless another has it."""
        from flujo_lens.state.backends.sqlite.deletion.restore import restore

        return await restore(self._store, records)

    # --- upkeep: looking by reading, changing by connections of its own, while this process has none open

    async def plan_migration(self, now: datetime) -> MigrationPlan:
        from flujo_lens.state.backends.sqlite.upkeep.backup import plan_migration

        return await self._store.read(lambda session: plan_migration(session.connection, self._store.reader.path, now))

    async def migrate(self, now: datetime, *, backup: bool = True, force: bool = False) -> Migration:
        """Bring the file to the newest schema, in one transaction, after a copy of it.

        It takes the file for itself. What this process has open is closed; that of another is a BusyError, unless
        `force`: then it is a writer like others, and what they save during the copy is in the store alone.
        """
        from flujo_lens.state.backends.sqlite.upkeep.backup import migrate_safely

        return await self._store.alone(partial(migrate_safely, now=now, backup=backup, force=force))

    async def check(self, now: datetime, silent_after: timedelta, *, full: bool = False) -> Sequence[Finding]:
        """Look for what is wrong; unless `full`, the pages of a large file for a few seconds, and values by samples."""
        from flujo_lens.state.backends.sqlite.upkeep.check import check
        from flujo_lens.state.stale_runs import find_silent_runs

        silent = await find_silent_runs(self, now, silent_after)
        found = await self._store.read(lambda session: check(session, self._store.reader.path, now, full=full))
        return (*found, silent)

    async def repair(self, checks: Sequence[str]) -> Sequence[Repaired]:
        """Make missing indexes, alone with the file; fold in a large WAL, as far as others let it."""
        from flujo_lens.state.backends.sqlite.upkeep.repair import repair

        return await self._store.alone(partial(repair, checks=checks))

    async def plan_optimization(self, *, vacuum: bool = False) -> OptimizationPlan:
        from flujo_lens.state.backends.sqlite.upkeep.indexes import plan

        return await self._store.read(lambda session: plan(session.connection, self._store.reader.path, vacuum=vacuum))

    async def optimize(self, *, vacuum: bool = False, force: bool = False) -> Optimized:
        """Make the indexes and gather the figures in one transaction, then vacuum in another."""
        from flujo_lens.state.backends.sqlite.upkeep.indexes import optimize

        return await self._store.alone(partial(optimize, vacuum=vacuum, force=force))

    async def vacuum(self, *, force: bool = False) -> tuple[Space, Space]:
        """Write the file anew without what is free in it, alone with it unless `force`."""
        from flujo_lens.state.backends.sqlite.upkeep.vacuum import vacuum

        return await self._store.alone(partial(vacuum, force=force))
