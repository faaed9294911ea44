"""Carrying out a deletion: batches of whole families, each one transaction, with a look at every run inside it.

A process that dies in a batch has deleted nothing of it. Only the rows of a run that has very many go in several
transactions: the first marks it (see `marks`), the last deletes what is left of it with its state, its metadata and
the mark. Of a family of very many runs, the tasks go first, in several batches, and the run itself last.

What is to be kept of a batch is kept before its transaction begins, since to write it to the disk takes long and
no other process can write at that time; the transaction leaves alone what has changed since.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flujo_lens.errors import NotSupportedError, StoreNotFoundError
from flujo_lens.state.backends.core.selection import Chooser, Families, Member, skipped_why
from flujo_lens.state.backends.sqlite.deletion import queries
from flujo_lens.state.backends.sqlite.deletion.batches import Batch, Family, Going, Seen, count_heads, sign, without
from flujo_lens.state.backends.sqlite.deletion.copies import Copying
from flujo_lens.state.backends.sqlite.deletion.delete_rows import cancel, count_rows, delete_all, delete_some
from flujo_lens.state.backends.sqlite.deletion.estimate import ids_of
from flujo_lens.state.backends.sqlite.deletion.pacing import HOLD, LONGEST, Pacing
from flujo_lens.state.backends.sqlite.deletion.plan import Choice, Key, RunReader
from flujo_lens.state.backends.sqlite.deletion.run_records import readable_texts
from flujo_lens.state.backends.sqlite.deletion.strip import SPAN_TABLES, begin, strip_runs
from flujo_lens.state.backends.sqlite.engine.session import Session, as_text
from flujo_lens.state.backends.sqlite.reads.deletion_marks import mark, sign_of, unmark
from flujo_lens.state.backends.sqlite.schema.shape import Shape, read_shape
from flujo_lens.state.deletion import BackupCallback, Deleted, DeletionPlan, Record, Skipped

if TYPE_CHECKING:
    from flujo_lens.state.backends.sqlite.engine.store import SqliteStore

_SHORT = 0.25
"""The part of the longest time of a transaction below which the next one may be larger."""

_MANY_ROWS, _FEW_ROWS = 5_000, 1_000
"""Rows that a batch of several families deletes at most, and at a time of a run with more than `_TOO_MANY`: the
smaller number where a transaction is to be short.
"""

_FIRST = 4
"""The first batch is so much smaller than the largest: it is not known yet whether others write, and how fast."""

_TOO_MANY = 20_000
_MANY_RUNS = 200
"""A family of more runs goes in parts of this size."""

_MANY_BYTES = 8 * 2**20
"""What the runs of a batch take, at most and about: it is all in the log of one transaction."""


async def carry_out(
    store: SqliteStore, plan: DeletionPlan, keep: BackupCallback | None, batch_size: int
) -> AsyncIterator[Deleted]:
    """Delete what was planned, batch by batch (see `Deletion`), with pauses for others between them."""
    deletion, pacing, writer = Deletion(store.reader.path, plan, keep, batch_size), Pacing(), store.writer
    # Opens the connection, for what is kept before the first transaction.
    await writer.write(lambda db: db.rollback(), creates=False, hold=HOLD)
    try:
        await writer.between(pacing.begin)
        while deletion.advance():
            await writer.between(deletion.keep_ahead)
            done = await writer.write(deletion.step, creates=False, hold=HOLD)
            if done is None:
                raise StoreNotFoundError(f"the store {store.path} is gone", hint="it existed when this was planned")
            deletion.settle(pacing.longest)
            yield done
            await asyncio.sleep(await writer.between(pacing.rest) or 0)
    finally:
        await writer.between(pacing.end)


class Deletion:
    """A plan on its way.

    Args:
        path: The file, for messages.
        plan: What is to go.
        keep: Is handed the records of each batch before it goes.
        batch_size: Runs a batch at most.
    """

    def __init__(self, path: Path, plan: DeletionPlan, keep: BackupCallback | None, batch_size: int) -> None:
        choice = plan.choice
        if not isinstance(choice, Choice):
            raise NotSupportedError(f"this plan was not made for the store {path}", hint="make it with plan_deletion")
        self._path, self._plan, self._choice = path, plan, choice
        self._size_of_run = plan.size_bytes // max(1, plan.count)
        self._most = max(1, min(batch_size, _MANY_BYTES // max(1, self._size_of_run)))
        self._size = max(1, self._most // _FIRST)
        self._families: Iterator[list[Key]] = choice.families()
        self._waiting: deque[Family] = deque()
        self._orphans = deque(choice.orphans)
        self._begun = choice.unfinished
        self._batch = Batch([])
        self._rest: list[Family] = []
        self._orphans_left: list[Any] = []
        self._at: list[Family] = []
        self._orphans_at: tuple[Any, ...] = ()
        self._goes_on = self._is_large = False
        self._split = 0
        self._stopped: set[int] = set()
        self._copying = Copying(keep, plan.request, path)
        self._rules = Chooser(plan.request, Families())
        self._named = None if plan.request.run_ids is None else frozenset(plan.request.run_ids)
        self._shapes: dict[int, Shape] = {}
        self._seconds = 0.0
        self._some_rows = _MANY_ROWS

    # --- from batch to batch

    def advance(self) -> bool:
        """Turn to the next batch; False if there is none."""
        if self._goes_on:
            return True
        self._batch = self._next()
        return bool(self._batch.families or self._batch.orphans)

    def _next(self) -> Batch:
        if self._begun > 0:
            self._begun -= 1
            return Batch([Family(next(self._families))], begun=True)
        families: list[Family] = []
        runs = 0
        while (family := self._take()) is not None:
            if families and runs + len(family.keys) > self._size:
                self._waiting.appendleft(family)
                break
            families.append(family)
            runs += len(family.keys)
        if families:
            return Batch(families)
        return Batch([], orphans=tuple(self._orphans.popleft() for _ in range(min(self._size, len(self._orphans)))))

    def _take(self) -> Family | None:
        if not self._waiting:
            self._waiting += self._in_parts(next(self._families, None))
        return self._waiting.popleft() if self._waiting else None

    def _in_parts(self, keys: list[Key] | None) -> list[Family]:
        """A family, the tasks of tasks first if it is a large one."""
        if keys is None:
            return []
        if len(keys) <= _MANY_RUNS:
            return [Family(keys)]
        self._split += 1
        ends = range(len(keys), 0, -_MANY_RUNS)
        return [Family(keys[max(0, end - _MANY_RUNS) : end], self._split) for end in ends]

    def settle(self, longest: float = LONGEST) -> None:
        """The batch is committed: what it left for later waits its turn, and the next one has a fitting size.

        Args:
            longest: Seconds in a transaction beyond which the next one is smaller.
        """
        self._waiting.extendleft(reversed(self._rest))
        self._orphans.extendleft(reversed(self._orphans_left))
        self._rest, self._orphans_left, self._is_large = [], [], self._goes_on
        if self._goes_on:
            self._batch = self._batch._replace(families=self._at, orphans=self._orphans_at)
        else:
            self._copying.forget()
        self._some_rows = _MANY_ROWS if longest >= LONGEST else _FEW_ROWS
        if self._seconds > longest:
            self._size = max(1, self._size // 2)
        elif self._seconds < longest * _SHORT:
            self._size = min(self._most, self._size * 2)

    # --- one batch

    def keep_ahead(self, db: sqlite3.Connection) -> None:
        """Have kept what the batch is about to take, in no transaction, so that nothing has to wait.

        What cannot be read now is kept inside the transaction.
        """
        if not self._copying or self._is_large:
            return
        ids: list[Any] = []
        records: list[Record] | None = []
        with suppress(sqlite3.Error):
            ids, records = self._read_ahead(db)
        if records is not None:
            self._copying.hand_out(records)
        elif ids:
            self._copying.hand_out_parts(self._session(db), ids)

    def _read_ahead(self, db: sqlite3.Connection) -> tuple[list[Any], list[Record] | None]:
        db.execute("BEGIN")
        try:
            with readable_texts(db):
                session = self._session(db)
                ids = self._orphans_of(session) if self._batch.orphans else self._ids(session, self._going(session)[0])
                return ids, self._copying.read_ahead(session, ids)
        finally:
            db.rollback()

    def step(self, db: sqlite3.Connection) -> Deleted:
        """Delete the batch, in a transaction; called again from its start if that did not come to its end."""
        began = time.monotonic()
        self._goes_on = False
        with readable_texts(db):
            session = self._session(db)
            done = self._orphaned(session) if self._batch.orphans else self._delete(session)
        self._seconds = time.monotonic() - began
        return done

    def _session(self, db: sqlite3.Connection) -> Session:
        version = db.execute("PRAGMA schema_version").fetchone()[0]
        if version not in self._shapes:
            self._shapes = {version: read_shape(db, self._path)}
        return Session(db, self._shapes[version], self._choice.zones[0], self._choice.zone_is_set)

    def _delete(self, session: Session) -> Deleted:
        going, skipped = self._going(session)
        self._forget_marks(session, skipped)
        ids = self._ids(session, going)
        changed = set() if self._is_large else self._copying.inside(session, ids)
        if changed:
            going, more = without(going, changed)
            skipped, ids = [*skipped, *more], self._ids(session, going)
        members = [member for one in going for member in one.members]
        if len(going) == 1 and self._has_too_many(session, ids):
            self._goes_on, self._at = True, [going[0].family]
            return Deleted(rows=self._delete_some(session, members, ids), skipped=tuple(skipped))
        if self._plan.request.strip:
            return self._strip(session, members, ids, skipped)
        if self._plan.request.state_only:
            rows = cancel(session, ids)
        else:
            rows = delete_all(session, ids, count_heads(members))
        statuses = Counter(member.status for member in members)
        return Deleted(tuple(member.run_id for member in members), dict(statuses), rows, tuple(skipped))

    def _strip(
        self, session: Session, members: Sequence[Member], ids: Sequence[Any], skipped: Sequence[Skipped]
    ) -> Deleted:
        """Drop the parts that are asked for; what has to stay of a run and cannot be read keeps it as it is."""
        rows, refused = strip_runs(session, ids, {m.run_id: m.updated for m in members}, self._plan.request)
        done = [member for member in members if member.run_id not in refused]
        stay = [Skipped(run_id, why) for run_id, why in refused.items()]
        statuses = Counter(member.status for member in done)
        return Deleted(tuple(member.run_id for member in done), dict(statuses), rows, (*skipped, *stay))

    # --- the second look

    def _going(self, session: Session) -> tuple[list[Going], list[Skipped]]:
        """As many families that are as they were as fit into a batch, and what stays; the rest is left for later."""
        self._rest = []
        keys = [key for family in self._batch.families for key in family.keys]
        ids = ids_of(session, [key.state for key in keys], [key.run for key in keys])
        found = list(RunReader(session, self._plan.request, self._choice, ids).members(ids))
        seen = Seen(found)
        grown = self._grown(session, seen)
        going, skipped = [], []
        for family in self._batch.families:
            members, moved = seen.of(family)
            # A save gives a row another number: of a family that is not all there, one was saved, or is gone.
            has_changed = bool(moved) or len(members) < len(family.keys) or family.whole in self._stopped
            if has_changed or any(member.run_id in grown for member in members):
                why = "changed"
            else:
                why = self._why_not(session, family, [twin for m in members for twin in seen.twins[m.run_id]])
            if why and family.whole:
                self._stopped.add(family.whole)
            if why:
                skipped += [Skipped(run_id, why) for run_id in (*(m.run_id for m in members), *moved)]
            elif members:
                going.append(Going(family, members))
        return self._fitting(session, going), skipped

    def _why_not(self, session: Session, family: Family, members: Sequence[Member]) -> str:
        asked = self._plan.request
        if self._named is not None or self._batch.begun:
            if not asked.force and any(member.held for member in members):
                return "held"
            if asked.state_only and not any(key.state for key in family.keys):
                return "stateless"
            if not (self._batch.begun and members):
                return ""
            signs = [sign_of(session.connection, member.run_id) for member in members]
            return "" if signs == [sign(member) for member in members] else "changed"
        if not members:
            return ""
        if asked.strip and any(member.is_stripped for member in members):
            return "changed"
        if not (members[0].admitted or family.whole or asked.strip):
            return "changed"
        reason = self._rules.reason_to_stay(members)[0]
        return skipped_why(reason)

    def _forget_marks(self, session: Session, skipped: Sequence[Skipped]) -> None:
        """A run that stays is no longer one whose deletion began."""
        if self._is_large or self._batch.begun:
            for run_id, _ in skipped:
                unmark(session.connection, run_id)

    def _grown(self, session: Session, seen: Seen) -> set[str]:
        """Runs that have a background task that was not there when the plan was made."""
        is_alone = self._named is not None or self._batch.begun or bool(self._plan.request.strip)
        if is_alone or not session.shape.has("workflow_state", "parent_run_id"):
            return set()
        family_of = {
            seen.by_key[key].run_id: at
            for at, family in enumerate(self._batch.families)
            for key in family.keys
            if key in seen.by_key
        }
        ids = list(family_of)
        found = session.rows(queries.tasks_of_runs(len(ids)), ids)
        pairs = [(as_text(parent), as_text(task)) for parent, task in found]
        return {parent for parent, task in pairs if family_of.get(task) != family_of.get(parent)}

    # --- what fits into a batch

    def _ids(self, session: Session, going: Sequence[Going]) -> list[Any]:
        """The ids of these families, as they are stored."""
        keys = [member.key for one in going for member in one.members]
        return ids_of(session, [key.state for key in keys], [key.run for key in keys])

    def _fitting(self, session: Session, going: list[Going]) -> list[Going]:
        """As many families as have no more rows than a batch should; the rest is left for later."""
        while len(going) > 1 and count_rows(session, self._ids(session, going), _MANY_ROWS) > _MANY_ROWS:
            half = len(going) // 2
            self._rest = [one.family for one in going[half:]] + self._rest
            going = going[:half]
        return going

    def _has_too_many(self, session: Session, ids: Sequence[Any]) -> bool:
        most = _MANY_ROWS if self._batch.begun or self._is_large else _TOO_MANY
        if strip := self._plan.request.strip:
            return "spans" in strip and count_rows(session, ids, most, SPAN_TABLES) > most
        return not self._plan.request.state_only and count_rows(session, ids, most) > most

    def _delete_some(self, session: Session, members: Sequence[Member], ids: Sequence[Any]) -> dict[str, int]:
        """Delete a part of the rows of a family, and mark it."""
        if self._plan.request.strip:
            begin(session, {member.run_id: member.updated for member in members}, self._plan.request)
            return delete_some(session, ids, self._some_rows, SPAN_TABLES)
        for member in members:
            mark(session.connection, member.run_id, self._plan.request.now, sign(member))
        return delete_some(session, ids, self._some_rows)

    # --- rows without a run

    def _orphaned(self, session: Session) -> Deleted:
        """Delete rows that still belong to no run, some at a time."""
        ids = self._orphans_of(session)
        changed = set() if self._is_large else self._copying.inside(session, ids)
        ids = [run_id for run_id in ids if as_text(run_id) not in changed]
        if count_rows(session, ids, _MANY_ROWS) > _MANY_ROWS:
            self._goes_on, self._orphans_at = True, tuple(ids)
            deleted = delete_some(session, ids, self._some_rows)
        else:
            deleted = delete_all(session, ids, 0)
        return Deleted(rows=deleted, orphans=sum(deleted.values()))

    def _orphans_of(self, session: Session) -> list[Any]:
        """Ids of the batch that no run has still; as many as have no more rows than a batch should."""
        ids, self._orphans_left = list(self._batch.orphans), []
        alone = [row[0] for row in session.rows(queries.ids_without_run(session.shape, len(ids)), ids)]
        while len(alone) > 1 and count_rows(session, alone, _MANY_ROWS) > _MANY_ROWS:
            half = len(alone) // 2
            self._orphans_left = alone[half:] + self._orphans_left
            alone = alone[:half]
        return alone
