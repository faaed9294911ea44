"""Deleting by a plan, once for all drivers: select; copy; lock, look again, compare, drop.

Copies are written outside of write transactions, so a slow disk blocks no writer. Inside the transaction
each run is looked at again: one that was saved, paused or claimed since, or of which the copy is not what is there
now, stays. When the process dies on any line, each run is there whole or gone whole, and what is gone was copied.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, tzinfo
from functools import partial
from typing import TYPE_CHECKING, Any

from flujo_lens.errors import NotSupportedError
from flujo_lens.serialization import safe_loads
from flujo_lens.state.backends.core.backend import stored_times
from flujo_lens.state.backends.core.deletion_records import Digests, RecordKind, records_of
from flujo_lens.state.backends.core.port import (
    CHILD_KINDS,
    ChildKind,
    CopiesRuns,
    CountsDropped,
    ListsMembers,
    MarksRuns,
    MeasuresRuns,
    RunRow,
    SelectsMembers,
    SkipsLocked,
    Store,
    Transaction,
)
from flujo_lens.state.backends.core.rows import last_update
from flujo_lens.state.backends.core.selection import (
    Chooser,
    Families,
    Member,
    Outline,
    families,
    goes_for_certain,
    in_batches,
    last_sign,
    why_not,
)
from flujo_lens.state.backends.core.stored_claims import holders_in
from flujo_lens.state.backends.core.strip import Stripper
from flujo_lens.state.backends.core.strip_notes import notes_in
from flujo_lens.state.deletion import BackupCallback, Deleted, DeletionPlan, DeletionRequest, Record, Skipped
from flujo_lens.state.filtering import matches, needs_details
from flujo_lens.state.timestamps import parse_instant
from flujo_lens.state.views import RunFilter

if TYPE_CHECKING:
    from flujo_lens.state.backends.core.backend import CoreBackend

_COUNTED = {"state": "states", "run": "runs", "step": "steps", "span": "spans", "evaluation": "evaluations"}
_COUNTED_RUNS, _SAMPLE = 10_000, 500
"""Runs up to which it is counted what a strip drops, and how many are looked at for an estimate."""

_RECORDS_AT_ONCE = 5_000
_BATCH = 100


class _Choice(Families):
    """The chosen runs by family, and ids of children without a run, of a store of this kind."""

    def __init__(self, kind: type[CoreBackend]) -> None:
        super().__init__()
        self.kind = kind
        self.orphans: list[str] = []


# --- planning


async def plan(core: CoreBackend, tx: Transaction, asked: DeletionRequest) -> DeletionPlan:
    """What would be deleted now. Nothing is written."""
    choice = _Choice(type(core))
    chooser = Chooser(asked, choice)
    found = await _source(core, tx, asked)
    total, unfinished = found.totals()
    asked_ids = tuple(dict.fromkeys(asked.run_ids or ()))
    named = await found.members(asked, asked_ids)
    for member in named:
        chooser.take([member])
    if asked.run_ids is None and (asked.cutoff is not None or asked.keep_last is not None):
        wanted = asked.wanted._replace(statuses=frozenset())
        details = needs_details(wanted) and isinstance(tx, ListsMembers | SelectsMembers)
        some = {run.run_id async for run in core.reader.selected(tx, wanted, None, True)} if details else None
        if isinstance(found, _Selected):
            async for family in found.candidates(asked, some):
                chooser.offer(family)
        else:
            for family in found.families(asked, some):
                chooser.offer(family if isinstance(found, _Scanned) else await _with_notes(tx, asked, family))
    if asked.orphans_before is not None:
        choice.orphans = await found.orphans(asked.orphans_before)
    counts, size, is_estimate = await _estimated(core, tx, [i for family in choice.all for i in family], asked)
    orphans, _ = await _measured(tx, choice.orphans, asked) if choice.orphans else ({}, 0)
    return replace(
        chooser.plan(choice, total),
        missing=tuple(i for i in asked_ids if i not in {member.run_id for member in named}),
        held={member.run_id: str(member.key) for member in named if member.held},
        rows=counts,
        size_bytes=size,
        is_estimate=is_estimate,
        is_size_estimate=is_estimate,
        orphans=orphans,
        unfinished=unfinished,
    )


async def _source(core: CoreBackend, tx: Transaction, asked: DeletionRequest) -> _Selected | ListsMembers:
    if isinstance(tx, SelectsMembers):
        is_by_name = asked.run_ids is not None or (asked.cutoff is None and asked.keep_last is None)
        outline = Outline(await tx.count(RunFilter()) or 0) if is_by_name else await tx.outline(asked)
        return _Selected(core, tx, outline)
    return tx if isinstance(tx, ListsMembers) else await _Scanned.of(core, tx, asked)


class _Selected:
    """The runs of a store that selects them by itself, but for the odd ones."""

    def __init__(self, core: CoreBackend, tx: Any, outline: Outline) -> None:
        self._core, self._tx, self._outline = core, tx, outline

    def totals(self) -> tuple[int, int]:
        """How many there are, and how many are deleted and still take room: none."""
        return self._outline.total, 0

    async def members(self, asked: DeletionRequest, run_ids: Sequence[str]) -> list[Member]:
        """Those of these runs that are there."""
        found, odd = await self._tx.selected_members(asked, run_ids) if run_ids else ([], [])
        known = {member.run_id: member for member in (*found, *await self._read(asked, odd))}
        return [known[run_id] for run_id in run_ids if run_id in known]

    async def candidates(self, asked: DeletionRequest, admitted: Collection[str] | None) -> AsyncIterator[list[Member]]:
        """The families that may be wanted; the members of those of several are held until all are known."""
        related: list[Member] = []
        alone: list[Member] = []
        odd: list[str] = []
        async for member, is_related in self._tx.candidates(asked, admitted, self._outline):
            if isinstance(member, str):
                odd.append(member)
            elif is_related:
                related.append(member)
            else:
                alone.append(member)
                if len(alone) == _BATCH:
                    for noted in await _with_notes(self._tx, asked, alone):
                        yield [noted]
                    alone = []
        for noted in await _with_notes(self._tx, asked, alone):
            yield [noted]
        related = await _with_notes(self._tx, asked, related)
        for family in families([*related, *await self._read(asked, odd)]):
            yield family

    async def _read(self, asked: DeletionRequest, run_ids: Sequence[str]) -> list[Member]:
        found: list[Member] = []
        for at in range(0, len(run_ids), _BATCH):
            rows = list((await self._tx.runs(run_ids[at : at + _BATCH])).values())
            found += await _members(self._core, self._tx, asked, rows)
        return found

    async def orphans(self, before: datetime) -> list[str]:
        """Ids without a run whose evaluations are all older."""
        ids = await self._tx.orphan_ids()
        return await _old_orphans(self._tx, before, ids) if ids else []


class _Scanned:
    """All runs as a deletion goes by them, of a store that has to hand them out for that."""

    def __init__(self, tx: Transaction, members: Sequence[Member]) -> None:
        self._tx = tx
        self._all = {member.run_id: member for member in members}

    @classmethod
    async def of(cls, core: CoreBackend, tx: Transaction, asked: DeletionRequest) -> _Scanned:
        """Those of a store now."""
        # Every run is looked at: the filter is asked of the head of a family, and its tasks go with it.
        rows = [row async for row in tx.scan(RunFilter(), None, True, None)]
        return cls(tx, await _members(core, tx, asked, rows))

    def totals(self) -> tuple[int, int]:
        """How many there are, and how many are deleted and still take room: none."""
        return len(self._all), 0

    async def members(self, asked: DeletionRequest, run_ids: Sequence[str]) -> list[Member]:
        """Those of these runs that are there."""
        return [self._all[run_id] for run_id in run_ids if run_id in self._all]

    def families(self, asked: DeletionRequest, admitted: Collection[str] | None) -> Iterator[list[Member]]:
        """All with their background tasks."""
        return iter(families(self._all.values()))

    async def orphans(self, before: datetime) -> list[str]:
        """Ids without a run whose evaluations are all older."""
        return await _old_orphans(self._tx, before, None)


async def _old_orphans(tx: Transaction, before: datetime, run_ids: Sequence[str] | None) -> list[str]:
    """Those of these ids (None: of all) without a run whose evaluations are all older."""
    is_old: dict[str, bool] = {}
    async for row in tx.children("evaluation", run_ids):
        when = parse_instant(safe_loads(row.data).get("created_at"))
        is_old[row.run_id] = is_old.get(row.run_id, True) and when is not None and when < before
    known = await tx.runs(list(is_old))
    return [run_id for run_id, old in is_old.items() if old and run_id not in known]


async def _members(core: CoreBackend, tx: Transaction, asked: DeletionRequest, rows: Sequence[RunRow]) -> list[Member]:
    """The runs as a choice goes by them; `Member.key` is the holder of one that is held."""
    holders = holders_in(await tx.get("claim", [row.run_id for row in rows]), asked.now)
    wanted = asked.wanted._replace(statuses=frozenset())
    found = [
        Member(
            row.run_id,
            run.status,
            run.pipeline_name,
            last_sign(*stored_times(row), (core.codec.zone,), asked.now),
            started=run.created_at,
            admitted=matches(wanted, run),
            parent=run.parent_run_id,
            held=row.run_id in holders,
            key=holders.get(row.run_id),
        )
        for row, run in zip(rows, await core.reader.summaries(tx, rows), strict=True)
    ]
    return await _with_notes(tx, asked, found)


async def _with_notes(tx: Transaction, asked: DeletionRequest, members: list[Member]) -> list[Member]:
    """The runs, those marked that have nothing left of what is to be stripped."""
    if not asked.strip:
        return members
    notes = notes_in(await tx.get("strip", [member.run_id for member in members]))
    return [
        member._replace(is_stripped=notes[member.run_id].covers(asked.strip, member.updated))
        if member.run_id in notes
        else member
        for member in members
    ]


async def _estimated(
    core: CoreBackend, tx: Transaction, ids: Sequence[str], asked: DeletionRequest
) -> tuple[dict[str, int], int, bool]:
    """How many rows would go by kind, and their size in bytes; of very many runs by a sample of them.

    Returns:
        That, and whether it is an estimate.
    """
    if not asked.strip and not isinstance(tx, SelectsMembers):
        return (*await _measured(tx, ids, asked), False)
    sample = ids if len(ids) <= _COUNTED_RUNS else ids[:: max(1, len(ids) // _SAMPLE)]
    if asked.strip:
        counts, size = await Stripper(core, asked.strip, asked.now).measured(tx, sample)
    else:
        counts, size = await _measured(tx, sample, asked)
    factor = len(ids) / max(1, len(sample))
    return {name: round(count * factor) for name, count in counts.items()}, round(size * factor), len(sample) < len(ids)


async def _measured(tx: Transaction, ids: Sequence[str], asked: DeletionRequest) -> tuple[dict[str, int], int]:
    """How many rows these runs have by kind, and their size in bytes; by the engine, where it can."""
    kinds: Sequence[ChildKind] = () if asked.state_only else CHILD_KINDS
    if isinstance(tx, MeasuresRuns) and not asked.state_only:
        counts, size = await tx.measure(ids, kinds)
        return _named(counts), size
    found, size = Counter[str](), 0
    for row in (await tx.runs(ids)).values():
        found["states"] += row.state is not None
        found["runs"] += row.run is not None and not asked.state_only
        size += len(row.state or b"") + len(row.run or b"")
    for kind in kinds:
        async for child in tx.children(kind, ids):
            found[_COUNTED[kind]] += 1
            size += len(child.data)
    return {name: count for name, count in found.items() if count}, size


def _named(counts: Mapping[str, int]) -> dict[str, int]:
    return {_COUNTED.get(kind, kind): count for kind, count in counts.items() if count}


# --- deleting


async def carry_out(
    core: CoreBackend, store: Store, made: DeletionPlan, keep: BackupCallback | None, batch_size: int
) -> AsyncIterator[Deleted]:
    """Delete batch by batch: each one transaction, of whole families.

    Raises:
        NotSupportedError: the plan is of another store.
    """
    choice = made.choice
    if not (isinstance(choice, _Choice) and isinstance(core, choice.kind)):
        raise NotSupportedError("this plan was made for another store", hint="make it with plan_deletion")
    for batch in in_batches(choice.all, max(1, batch_size)):
        yield await _Batch(core, store, made.request, batch).delete(keep)
    if choice.orphans:
        yield await _delete_orphans(store, choice.orphans, keep)


class _Batch:
    """Some families of a plan."""

    def __init__(
        self, core: CoreBackend, store: Store, asked: DeletionRequest, families_: Sequence[Sequence[str]]
    ) -> None:
        self._core, self._store, self._asked, self._families = core, store, asked, families_
        self._ids = [run_id for family in families_ for run_id in family]

    async def delete(self, keep: BackupCallback | None) -> Deleted:
        before = None if keep is None else await self._copied(keep)

        async def work(tx: Transaction) -> Deleted:
            free = await self._locked(tx)
            gone, rows = await self._gone_at_once(tx, free, before)
            going, skipped = await self._decided(tx, free, gone)
            if before is not None and going:
                changed = await before.changed(tx, [member.run_id for member in going])
                skipped += [Skipped(run_id, "changed") for run_id in changed]
                going = [member for member in going if member.run_id not in changed]
            if self._asked.strip:
                return await self._strip(tx, going, skipped)
            if going:
                rows += Counter(await self._removed(tx, [member.run_id for member in going]))
            gone |= {member.run_id: member.status for member in going}
            ids = tuple(run_id for run_id in self._ids if run_id in gone)
            return Deleted(ids, dict(Counter(gone.values())), dict(rows), tuple(skipped))

        return await self._store.write(work)

    async def _locked(self, tx: Transaction) -> Mapping[str, tuple[str, datetime] | None]:
        """Lock the runs, and return them; without those that others are writing, if the store tells."""
        if isinstance(tx, SkipsLocked):
            return await tx.lock_free(self._ids)
        await tx.lock(self._ids)
        return dict.fromkeys(self._ids)

    async def _gone_at_once(
        self, tx: Transaction, free: Mapping[str, tuple[str, datetime] | None], before: _Before | None
    ) -> tuple[dict[str, str], Counter[str]]:
        """Remove what goes without a look at documents, as most does: statuses by id, and the number of rows."""
        asked, marks = self._asked, None if before is None else before.marks
        is_by_age = asked.run_ids is None and asked.cutoff is not None and not (asked.strip or asked.state_only)
        if not (is_by_age and isinstance(tx, SkipsLocked)) or (before is not None and marks is None):
            return {}, Counter()
        known = [(family[0], free.get(family[0])) for family in self._families if len(family) == 1]
        members = [Member(run_id, found[0], "", found[1]) for run_id, found in known if found is not None]
        going = {member.run_id: member.status for member in members if goes_for_certain(asked, member)}
        gone, rows = await tx.drop_alone(list(going), marks)
        return {run_id: going[run_id] for run_id in gone}, Counter(_named(rows))

    async def _strip(self, tx: Transaction, going: Sequence[Member], skipped: Sequence[Skipped]) -> Deleted:
        stripper = Stripper(self._core, self._asked.strip, self._asked.now)
        rows, refused = await stripper.strip(tx, {member.run_id: member.updated for member in going})
        done = [member for member in going if member.run_id not in refused]
        statuses = Counter(member.status for member in done)
        stay = [Skipped(run_id, why) for run_id, why in refused.items()]
        return Deleted(tuple(member.run_id for member in done), dict(statuses), rows, (*skipped, *stay))

    async def _copied(self, keep: BackupCallback) -> _Before:
        """Hand `keep` all that the runs of this batch have now, and note what that was."""
        before = _Before(self._asked)
        async with self._store.snapshot() as tx:
            going, _ = await self._decided(tx)
            await before.keep(tx, [member.run_id for member in going], keep)
        return before

    async def _decided(
        self, tx: Transaction, free: Collection[str] | None = None, gone: Collection[str] = ()
    ) -> tuple[list[Member], list[Skipped]]:
        """Who goes, as the runs are now, and who stays and why; of those that are not `free`, none goes."""
        asked, ids = self._asked, [run_id for run_id in self._ids if run_id not in gone]
        members = {member.run_id: member for member in await self._members(tx, ids)}
        everyone = dict(members)
        if asked.run_ids is None and not asked.strip:
            others = await self._members(tx, [i for i in await tx.tasks_of(list(members)) if i not in members])
            everyone |= {member.run_id: member for member in others}
        tasks = [member for member in everyone.values() if member.parent is not None]
        rows = await tx.runs(list(members)) if asked.state_only else {}
        going: list[Member] = []
        skipped: list[Skipped] = []
        for run_ids in self._families:
            family = [members[run_id] for run_id in run_ids if run_id in members]
            why = self._why_not(family, tasks, rows) if family else ""
            if free is not None and any(member.run_id not in free for member in family):
                why = why or "changed"
            if why:
                skipped += [Skipped(member.run_id, why) for member in family]
            else:
                going += family
        return going, skipped

    async def _members(self, tx: Transaction, run_ids: Sequence[str]) -> list[Member]:
        if isinstance(tx, ListsMembers):
            return await _with_notes(tx, self._asked, await tx.members(self._asked, run_ids))
        if isinstance(tx, SelectsMembers):
            found = await _Selected(self._core, tx, Outline(0)).members(self._asked, run_ids)
            return await _with_notes(tx, self._asked, found)
        return await _members(self._core, tx, self._asked, list((await tx.runs(run_ids)).values()))

    def _why_not(self, family: Sequence[Member], tasks: Sequence[Member], rows: Mapping[str, RunRow]) -> str:
        why = why_not(self._asked, family, tasks)
        if not why and self._asked.state_only and not any(rows[member.run_id].state for member in family):
            return "stateless"
        return why

    async def _removed(self, tx: Transaction, ids: Sequence[str]) -> dict[str, int]:
        """Remove these runs, or their states; return how many rows that were."""
        if isinstance(tx, CountsDropped) and not self._asked.state_only:
            return _named(await tx.drop_counted(ids))
        rows, _ = await _measured(tx, ids, self._asked)
        if not self._asked.state_only:
            await tx.drop(ids)
            return rows
        for row in (await tx.runs(ids)).values():
            changes = {"status": "cancelled"}
            run = None if row.run is None else self._core.codec.merged("run", row.run_id, row.run, changes)
            await self._core.put(tx, RunRow(row.run_id, None, run))
        return rows


async def _delete_orphans(store: Store, ids: Sequence[str], keep: BackupCallback | None) -> Deleted:
    """Delete children without a run, unless there is a run of their id by now."""
    before = None if keep is None else _Before()

    async def alone(tx: Transaction) -> list[str]:
        known = await tx.runs(ids)
        return [run_id for run_id in ids if run_id not in known]

    async def work(tx: Transaction) -> Deleted:
        await tx.lock(ids)
        going = await alone(tx)
        if before is not None:
            changed = await before.changed(tx, going)
            going = [run_id for run_id in going if run_id not in changed]
        rows, _ = await _measured(tx, going, DeletionRequest(now=datetime.max))
        await tx.drop(going)
        return Deleted(rows=rows, orphans=sum(rows.values()))

    if keep is not None and before is not None:
        async with store.snapshot() as tx:
            await before.keep(tx, await alone(tx), keep)
    return await store.write(work)


class _Before:
    """What the runs of a batch were when they were copied.

    Args:
        asked: What is asked for; None for all of them.
    """

    def __init__(self, asked: DeletionRequest | None = None) -> None:
        self._kind = RecordKind() if asked is None else RecordKind.of(asked)
        self._digests = Digests(self._kind)
        self.marks: Mapping[str, Hashable] | None = None

    async def keep(self, tx: Transaction, ids: Sequence[str], keep: BackupCallback) -> None:
        """Hand over records some thousands of rows at a time: a run of any size passes through little memory."""
        self.marks = await tx.marks(ids) if isinstance(tx, MarksRuns) else None
        source = partial(records_of, tx, ids, self._kind)
        if isinstance(tx, CopiesRuns) and not self._kind.strip:
            source = partial(tx.records, ids, state_only=self._kind.state_only)
        waiting: list[Record] = []
        size = 0
        async for record, rows in source():
            if self.marks is None:
                self._digests.add(record)
            waiting.append(record)
            size += rows
            if size >= _RECORDS_AT_ONCE:
                await asyncio.to_thread(keep, waiting)
                waiting, size = [], 0
        if waiting:
            await asyncio.to_thread(keep, waiting)

    async def changed(self, tx: Transaction, ids: Sequence[str]) -> set[str]:
        """Those of these runs that are not what they were."""
        if self.marks is None or not isinstance(tx, MarksRuns):
            return await self._digests.changed(tx, ids)
        now = await tx.marks(ids)
        return {run_id for run_id in ids if run_id not in self.marks or now[run_id] != self.marks[run_id]}


# --- by age alone


async def delete_old(store: Store, zone: tzinfo, cutoff: datetime) -> int:
    """Delete the runs whose last update is before `cutoff`, each batch a transaction; return how many.

    Raises:
        StoreNotFoundError: there is no store.
    """

    def is_old(row: RunRow) -> bool:
        last = last_update(*stored_times(row), zone)
        return last is not None and last < cutoff

    async def every(tx: Transaction) -> list[str]:
        hint = RunFilter(active_until=cutoff)
        return [row.run_id async for row in tx.scan(hint, None, True, None) if is_old(row)]

    async def drop(run_ids: Sequence[str]) -> int:
        async def work(tx: Transaction) -> int:
            await tx.lock(run_ids)
            old = [run_id for run_id, row in (await tx.runs(run_ids)).items() if is_old(row)]
            await tx.drop(old)
            return len(old)

        return await store.write(work, creates=False)

    ids = await store.read(every)
    return sum([await drop(ids[at : at + _BATCH]) for at in range(0, len(ids), _BATCH)])
