"""`CoreBackend`: every method of the contract, once, on any `Store`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, tzinfo
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from flujo_lens.errors import StoreNotFoundError
from flujo_lens.serialization import safe_loads
from flujo_lens.state import interpret
from flujo_lens.state.backends.base import JSONObject, Position
from flujo_lens.state.backends.core.application_reads import empty_if_missing
from flujo_lens.state.backends.core.audit_lines import AuditLines
from flujo_lens.state.backends.core.change_tokens import StoreChanges
from flujo_lens.state.backends.core.changes import (
    RunChanges,
    changes_of,
    end_changes,
    span_changes,
    step_changes,
    trace_changes,
)
from flujo_lens.state.backends.core.fallbacks import evaluation_of, step_of
from flujo_lens.state.backends.core.port import (
    ChecksWrites,
    CopiesRuns,
    PutsStates,
    ReadsStates,
    RunRow,
    Store,
    Transaction,
    ValueWork,
    Work,
    micros,
    provided,
)
from flujo_lens.state.backends.core.rows import (
    as_saved,
    evaluation_row,
    extras_of,
    is_stale,
    moment_before,
    now_text,
    run_row,
    timed_out,
)
from flujo_lens.state.backends.core.run_codec import RunCodec
from flujo_lens.state.backends.core.run_reader import RunReader
from flujo_lens.state.backends.core.statistics import CoreStatistics
from flujo_lens.state.backends.core.stored_claims import StoredClaims, renew
from flujo_lens.state.backends.core.unreadable_states import readable
from flujo_lens.state.backends.core.validation import (
    asked_id,
    check_days,
    check_hours,
    check_key,
    check_page,
    check_prefix,
    check_run_id,
    check_text,
    findable,
    findable_filter,
    findable_ids,
)
from flujo_lens.state.claims import Claim, Progress
from flujo_lens.state.timestamps import parse_instant
from flujo_lens.state.traces import build_trees, step_inputs
from flujo_lens.state.traces import span_rows as read_span_rows
from flujo_lens.state.views import Evaluation, Page, RunDetail, RunFilter, RunSummary, Span, SystemEntry

if TYPE_CHECKING:
    from flujo_lens.state.deletion import BackupCallback, Deleted, DeletionPlan, DeletionRequest, Record, Restored

T = TypeVar("T")
_SIZES_AT_ONCE = 200
_STATE_TIMES, _RUN_TIMES = ("created_at", "updated_at"), ("created_at", "updated_at", "end_time")


class CoreBackend(StoreChanges, StoredClaims, CoreStatistics):
    """The contract on a `Store`: the rules are here and in `flujo_lens.state`, the engine is the store's.

    Each method is one transaction of the store, so it is atomic as the store's transactions are. What goes in is
    serialized before the first await.

    Args:
        zone: How naive times in states are read; None for UTC.
        serializer_default: As of `flujo_lens.serialization.codec.StateCodec`; so are envelope and validate.
    """

    keeps_audit = False
    """Whether the store keeps the audit log of its changes: one on a server, which several machines use."""

    has_odd_ids = False
    """Whether ids in the store may have lone surrogates."""

    def __init__(
        self,
        store: Store,
        *,
        zone: tzinfo | None = None,
        serializer_default: Callable[[Any], Any] | None = None,
        envelope: Any = None,
        validate: Any = None,
    ) -> None:
        self.codec = RunCodec(serializer_default, envelope=envelope, validate=validate, zone=zone)
        self.reader = RunReader(self.codec)
        self._store = store

    async def shutdown(self) -> None:
        await self._store.close()

    @property
    def audit_lines(self) -> AuditLines | None:
        """The audit log in the store; None if it is kept next to the store."""
        return AuditLines(self._store) if self.keeps_audit else None

    async def check_write(self) -> None:
        """Check that this user may write, without writing, as far as the store can tell.

        Raises:
            ReadOnlyStoreError: the server, or the node, takes no writes from this user.
        """
        if isinstance(self._store, ChecksWrites):
            await self._store.check_write()

    async def _write(self, work: Work[T], run_id: str | None = None) -> T:
        return await self._store.write(work, run_id=run_id)

    async def _change(self, work: Work[T], nothing: T, run_id: str | None = None) -> T:
        """A write that does not make a store where there is none."""
        try:
            return await self._store.write(work, creates=False, run_id=run_id)
        except StoreNotFoundError:
            return nothing

    async def _read_values(self, work: ValueWork[T]) -> T:
        return await self._store.read(work)

    async def _write_values(self, work: ValueWork[T], *, creates: bool = True, run_id: str | None = None) -> T:
        return await self._store.write(work, creates=creates, run_id=run_id)

    # --- saving

    async def _save(self, changes: RunChanges, claim: Claim | None = None, manifest: str | None = None) -> None:
        """Write all parts of a save, after its claim was checked; all of it or nothing."""

        async def work(tx: Transaction) -> None:
            await tx.lock([changes.run_id])
            if claim is not None:
                await renew(tx, claim)
            before = await _one(tx, changes.run_id)
            after = changes.applied(before, self.codec)
            if after != before:
                await self.put(tx, after)
            await changes.put_children(tx, is_known=before != RunRow(changes.run_id))
            if changes.has_history and self.reader.index_needs_history(after):
                await self.put(tx, after)
            if manifest is not None:
                await tx.set("binding", changes.run_id, manifest.encode())

        await self._write(work, changes.run_id)

    async def put(self, tx: Transaction, row: RunRow) -> None:
        """Save a run with the index that it is found by; before its children, for engines may insist on that order."""
        raw = (await self.reader.raws(tx, [row], index_only=True))[0]
        await tx.put_run(row, self.codec.index(raw))

    async def save_state(self, run_id: str, state: JSONObject) -> None:
        document = self.codec.state(check_run_id(run_id), state)
        quick = provided(self._store, PutsStates)
        if quick is None or not await quick.put_state(run_id, document):
            await self._save(RunChanges(run_id, state=document))

    async def save_run_start(self, run_data: JSONObject) -> None:
        row = run_row(run_data)
        await self._save(RunChanges(row["run_id"], run=self.codec.row("run", row["run_id"], row)))

    async def save_run_end(self, run_id: str, end_data: JSONObject) -> None:
        await self._save(end_changes(self.codec, check_run_id(run_id), end_data))

    async def save_step_result(self, step_data: JSONObject) -> None:
        await self._save(step_changes(self.codec, step_data))

    async def save_spans(self, run_id: str, spans: list[JSONObject]) -> None:
        await self._save(span_changes(self.codec, check_run_id(run_id), spans))

    async def save_trace(self, run_id: str, trace: JSONObject) -> None:
        await self._save(trace_changes(self.codec, check_run_id(run_id), trace))

    async def save_progress(self, progress: Progress) -> None:
        check_run_id(progress.run_id)
        await self._save(changes_of(self.codec, progress), progress.claim, progress.manifest)

    async def persist_evaluation(
        self,
        run_id: str,
        score: float,
        feedback: str | None = None,
        step_name: str | None = None,
        metadata: JSONObject | None = None,
    ) -> None:
        row = {**evaluation_row(run_id, score, feedback, step_name, metadata), "created_at": now_text()}
        child = self.codec.child("evaluation", run_id, row)
        await self._write(lambda tx: _coroutine(tx.put_children("evaluation", [child])))

    async def set_system_state(self, key: str, value: JSONObject) -> None:
        check_key(key)
        data = self.codec.dumps({"key": key, "value": value, "updated_at": now_text()})
        await self._write(lambda tx: _coroutine(tx.set("system", key, data)), f"system {key}")

    # --- what applications read

    @empty_if_missing(lambda: None)
    async def load_state(self, run_id: str) -> JSONObject | None:
        """Return the saved state, times as texts, or None."""
        sought = findable(asked_id(run_id))
        found = self.codec.opened_state(await self._store.read(lambda tx: _state(tx, sought)))
        if found is None:
            return None
        self.codec.check(found)
        return as_saved(found)

    async def _rows(self, run_ids: Sequence[str]) -> Mapping[str, RunRow]:
        return await self._store.read(lambda tx: _coroutine(tx.runs(run_ids)))

    @empty_if_missing(list)
    async def list_states(self, status: str | None = None) -> list[JSONObject]:
        check_text(status, "status")

        async def work(tx: Transaction) -> list[tuple[str, JSONObject]]:
            found = []
            async for row in tx.scan(RunFilter(), None, False, None):
                if status is not None and (stored_documents(row)[0] or {}).get("status") != status:
                    continue
                state = readable(row.run_id, lambda row=row: self.codec.opened_state(row))  # type: ignore[misc]
                if state is not None:
                    found.append((row.run_id, state))
            return found

        states = await self._store.read(work)
        states.sort(key=lambda pair: str(pair[1].get("updated_at") or ""), reverse=True)
        return [{"run_id": run_id, **as_saved(state)} for run_id, state in states]

    @empty_if_missing(list)
    async def get_spans(self, run_id: str, status: str | None = None, name: str | None = None) -> list[JSONObject]:
        spans = await self._spans(asked_id(run_id), self.codec.opened)
        return [span for span in spans if status in (None, span["status"]) and name in (None, span["name"])]

    async def _spans(self, run_id: str, opened: Callable[..., JSONObject | None]) -> list[JSONObject]:
        async def work(tx: Transaction) -> list[JSONObject]:
            found = [opened("span", row.run_id, row.data) async for row in tx.children("span", [findable(run_id)])]
            return [span for span in found if span is not None]

        spans = await self._store.read(work)
        return sorted(spans, key=lambda span: (span["start_time"] is None, span["start_time"] or 0.0))

    @empty_if_missing(lambda: None)
    async def get_system_state(self, key: str) -> JSONObject | None:
        check_key(key)
        found = await self._values("system", [key])
        return safe_loads(found[key]) if key in found else None

    # --- what operators read

    def _border_of(self, after: Position | None) -> tuple[int, str] | None:
        """A position in a list, as `Transaction.scan` takes it."""
        return None if after is None else (micros(after[0]), after[1] if self.has_odd_ids else findable(after[1]))

    async def iter_runs(
        self,
        wanted: RunFilter,
        *,
        after: Position | None = None,
        reverse: bool = False,
        ordered: bool = True,
        details: bool = True,
    ) -> AsyncIterator[RunSummary]:
        light = None if details or ordered or after is not None else await self.light_runs(wanted)
        if light is not None:
            for run in light:
                yield run
            return
        async with self._store.snapshot() as tx:
            async for run in self.reader.selected(tx, findable_filter(wanted), self._border_of(after), reverse):
                yield run

    async def query_runs(
        self, wanted: RunFilter, *, after: Position | None = None, limit: int = 50, reverse: bool = False
    ) -> Page[RunSummary]:
        check_page(limit)

        async def work(tx: Transaction) -> Page[RunSummary]:
            found: list[RunSummary] = []
            pages = self.reader.pages(tx, findable_filter(wanted), self._border_of(after), reverse, limit + 1)
            async with aclosing(pages):
                async for page in pages:
                    found += page
                    if len(found) > limit:
                        break
            position = None
            if len(found) > limit:
                del found[limit:]
                position = (found[-1].created_at, found[-1].run_id) if found else after
            return Page(tuple(await self.reader.with_tasks(tx, found)), position)

        return await self._store.read(work)

    async def find_run_ids(self, prefix: str, limit: int = 10) -> list[str]:
        check_prefix(prefix, limit)
        return await self._store.read(lambda tx: _coroutine(tx.ids(findable(prefix), limit)))

    async def read_run(self, run_id: str) -> RunDetail | None:
        sought = findable(asked_id(run_id))

        async def work(tx: Transaction) -> RunDetail | None:
            row = (await tx.runs([sought])).get(sought)
            if row is None:
                return None
            spans, steps = await self.reader.history(tx, sought)
            if row.unreadable:
                return await self._unreadable_run(tx, row, bool(spans))
            raw = self.reader.raw_with(row, spans, steps)
            run, state = interpret.summarise(raw, self.codec.zone), self.codec.shown_state(row)
            run = (await self.reader.with_tasks(tx, [run]))[0]
            children = await self._tasks(tx, sought)
            return RunDetail(
                run=run,
                steps=tuple(interpret.steps_of(raw, map(step_of, steps), step_inputs(read_span_rows(spans)))),
                state=None if state is None else as_saved(state),
                pause=interpret.pause_of(raw, run.status),
                children=children,
                final_output=None if state is None else state.get("last_step_output"),
                has_spans=bool(spans),
            )

        return await self._store.read(work)

    async def _unreadable_run(self, tx: Transaction, row: RunRow, has_spans: bool) -> RunDetail:
        run = (await self.reader.with_tasks(tx, await self.reader.summaries(tx, [row])))[0]
        return RunDetail(run=run, children=await self._tasks(tx, row.run_id), has_spans=has_spans)

    async def _tasks(self, tx: Transaction, run_id: str) -> tuple[RunSummary, ...]:
        """The background tasks of a run, oldest first."""
        return tuple([task async for task in self.reader.selected(tx, RunFilter(parent=run_id), None, True)])

    async def read_summaries(self, run_ids: Sequence[str]) -> Sequence[RunSummary]:
        sought = findable_ids(run_ids)

        async def work(tx: Transaction) -> list[RunSummary]:
            found = await tx.runs(sought)
            return await self.reader.summaries(tx, [found[run_id] for run_id in sought if run_id in found])

        return await self._store.read(work)

    async def read_extras(self, run_ids: Sequence[str], *, contexts: bool = False) -> Mapping[str, JSONObject]:
        found = {}
        opened = self.codec.opened if contexts else self.codec.shown
        for run_id, row in (await self._rows(findable_ids(run_ids))).items():
            extras = extras_of(self.codec.shown_state(row), opened("run", run_id, row.run))
            found[run_id] = {name: value for name, value in extras.items() if contexts or name != "final_context"}
        return found

    async def read_step_extras(self, run_id: str) -> Mapping[tuple[int | None, str], JSONObject]:
        async def work(tx: Transaction) -> list[JSONObject]:
            rows = [row async for row in tx.children("step", [findable(asked_id(run_id))])]
            return [self.codec.opened("step", row.run_id, row.data) or {} for row in rows]

        steps = await self._store.read(work)
        return {(step.get("step_index"), step.get("step_name", "unknown")): step for step in steps}

    async def read_spans(self, run_id: str) -> Sequence[Span]:
        sought = findable(asked_id(run_id))
        row = (await self._rows([sought])).get(sought)
        run = self.codec.shown("run", sought, row.run) if row is not None else None
        spans = await self._spans(sought, self.codec.shown)
        return build_trees(read_span_rows(spans), parse_instant((run or {}).get("created_at")))

    async def read_evaluations(self, run_id: str | None = None, limit: int = 50) -> Sequence[Evaluation]:
        check_page(limit)
        sought = None if run_id is None else [findable(run_id)]

        async def work(tx: Transaction) -> list[JSONObject]:
            return [safe_loads(row.data) async for row in tx.children("evaluation", sought)]

        rows = await self._store.read(work)
        rows.sort(key=lambda row: str(row["created_at"]))
        return tuple(evaluation_of(row) for row in rows[::-1][:limit])

    async def read_system_state(self) -> Sequence[SystemEntry]:
        found = await self._values("system")
        rows = [safe_loads(found[key]) for key in sorted(found)]
        return tuple(SystemEntry(row["key"], row["value"], parse_instant(row["updated_at"])) for row in rows)

    async def read_facts(self) -> Mapping[str, Any]:
        return await self._store.facts()

    def get_workflow_stats_sync(self) -> JSONObject:
        """`get_workflow_stats` for callers without an event loop, or inside a running one: on a thread of its own."""
        import asyncio
        from concurrent.futures import ThreadPoolExecutor
        from copy import copy

        async def stats() -> JSONObject:
            other = copy(self)
            other._store = self._store.clone()
            async with other:
                return await other.get_workflow_stats()

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(lambda: asyncio.run(stats())).result()

    async def iter_sort_values(self, wanted: RunFilter, field: str) -> AsyncIterator[tuple[str, float | None]]:
        """Yield ids with what they are sorted by; a size is that of all documents of a run."""
        if field != "size":
            async for value in super().iter_sort_values(wanted, field):
                yield value
            return
        async with self._store.snapshot() as tx:
            batch: list[str] = []
            async for run in self.reader.selected(tx, findable_filter(wanted), None, False):
                batch.append(run.run_id)
                if len(batch) == _SIZES_AT_ONCE:
                    for run_id, size in (await self.reader.sizes(tx, batch)).items():
                        yield run_id, size
                    batch = []
            for run_id, size in (await self.reader.sizes(tx, batch)).items():
                yield run_id, size

    # --- changing and removing runs

    async def delete_state(self, run_id: str) -> None:
        sought = findable(asked_id(run_id))

        async def work(tx: Transaction) -> None:
            await tx.lock([sought])
            row = await _one(tx, sought)
            if row.state is not None:
                await self.put(tx, row._replace(state=None))

        await self._change(work, None, sought)

    async def delete_run(self, run_id: str) -> None:
        sought = findable(asked_id(run_id))

        async def work(tx: Transaction) -> None:
            await tx.lock([sought])
            await tx.drop([sought])

        await self._change(work, None, sought)

    async def cancel_runs(
        self, run_ids: Sequence[str], *, force: bool = False, keep: BackupCallback | None = None
    ) -> Sequence[str]:
        """Mark runs as cancelled; all or none. `keep` is called on another thread, outside of any transaction."""
        from flujo_lens.state.backends.core.cancelling import Cancellation

        cancellation = Cancellation(self, list(dict.fromkeys(findable_ids(run_ids))), force)
        if keep is not None:
            try:
                await cancellation.copied(self._store, keep)
            except StoreNotFoundError:
                return []
        return await self._change(cancellation.mark, list[str]())

    def changed(self, row: RunRow, changes: JSONObject) -> RunRow:
        """A run of which some plain fields change, in its state and in its metadata."""
        run = None if row.run is None else self.codec.merged("run", row.run_id, row.run, changes)
        return row._replace(state=self.codec.changed_state(row, changes), run=run)

    async def cleanup_stale_background_tasks(self, stale_hours: float = 24) -> int:
        cutoff = moment_before(datetime.now(UTC), hours=check_hours(stale_hours))
        try:
            ids = [run.run_id async for run in self.iter_runs(RunFilter(tasks_only=True), details=False)]
        except StoreNotFoundError:
            return 0
        return len(await self.fail_stale_tasks(ids, cutoff, stale_hours))

    async def fail_stale_tasks(self, run_ids: Sequence[str], cutoff: datetime, hours: float) -> Sequence[str]:
        wanted, hours = list(dict.fromkeys(findable_ids(run_ids))), check_hours(hours, "hours")

        async def work(tx: Transaction) -> list[str]:
            await tx.lock(wanted)
            rows = await tx.runs(wanted)
            states = {run_id: stored_documents(rows[run_id])[0] or {} for run_id in wanted if run_id in rows}
            stale = [run_id for run_id, state in states.items() if is_stale(state, cutoff, self.codec.zone)]
            for run_id in stale:
                state = self.codec.changed_state(rows[run_id], timed_out(hours, now_text()))
                await self.put(tx, rows[run_id]._replace(state=state))
            return stale

        return await self._change(work, list[str]())

    async def cleanup_old_workflows(self, days_old: float = 30) -> int:
        from flujo_lens.state.backends.core.deletion import delete_old

        cutoff = moment_before(datetime.now(UTC), days=check_days(days_old))
        try:
            return await delete_old(self._store, self.codec.zone, cutoff)
        except StoreNotFoundError:
            return 0

    # --- deletion by a plan

    async def plan_deletion(self, asked: DeletionRequest) -> DeletionPlan:
        from flujo_lens.state.backends.core.deletion import plan

        return await self._store.read(lambda tx: plan(self, tx, asked))

    async def delete_planned(
        self, plan: DeletionPlan, *, keep: BackupCallback | None = None, batch_size: int = 100
    ) -> AsyncIterator[Deleted]:
        """Delete what was planned; `keep` is called on another thread, outside of any transaction."""
        from flujo_lens.state.backends.core.deletion import carry_out

        async for done in carry_out(self, self._store, plan, keep, batch_size):
            yield done

    async def restore(self, records: Iterable[Record]) -> Restored:
        from flujo_lens.state.backends.core.deletion_records import restore, restore_run

        async def work(tx: Transaction) -> Restored:
            if isinstance(tx, CopiesRuns):
                return await tx.restore(records, partial(restore_run, self, tx))
            return await restore(self, tx, records)

        return await self._write(work)

    # --- moving runs between stores

    async def create_store(self) -> None:
        await self._write(_nothing)

    async def read_portable(self, run_ids: Sequence[str]) -> AsyncIterator[Record]:
        from flujo_lens.state.backends.core.portable_records import read_portable

        async with self._store.snapshot() as tx:
            async for record in read_portable(tx, findable_ids(run_ids), self.codec.zone):
                yield record

    @classmethod
    def portable_records(cls, records: Iterable[Record], zone: tzinfo | None = None) -> Iterator[Record]:
        from flujo_lens.state.backends.core.portable_records import portable_records

        return portable_records(records, zone or UTC)

    async def write_portable(self, records: Iterable[Record], *, replace: bool = False) -> Restored:
        from flujo_lens.state.backends.core.portable_records import write_portable

        return await self._write(lambda tx: write_portable(self, tx, records, replace=replace))


# --- small things


async def _nothing(tx: Transaction) -> None:
    return


async def _coroutine(made: Any) -> Any:
    return await made


async def _state(tx: Transaction, run_id: str) -> RunRow | None:
    quick = provided(tx, ReadsStates)
    return (await tx.runs([run_id])).get(run_id) if quick is None else await quick.state(run_id)


async def _one(tx: Transaction, run_id: str) -> RunRow:
    return (await tx.runs([run_id])).get(run_id) or RunRow(run_id)


def stored_documents(row: RunRow) -> tuple[JSONObject | None, JSONObject | None]:
    """The state and metadata of a run as they are stored, unopened; one that is unreadable is None."""
    state = None if row.state is None or row.unreadable else safe_loads(row.state)
    return state, None if row.run is None else safe_loads(row.run)


def stored_times(row: RunRow) -> tuple[list[Any], list[Any]]:
    """The times of a run's state and of its metadata, as they are stored."""
    state, run = stored_documents(row)
    return [(state or {}).get(name) for name in _STATE_TIMES], [(run or {}).get(name) for name in _RUN_TIMES]
