"""Planning a deletion on a SQLite file: which rows, read in one transaction; nothing is written.

No index has the last update, and in a row of ``workflow_state`` it lies behind the blobs. So what the index on
``created_at`` shows to be young is passed over; only the rest is read as far as its last update. The plan holds
rowids, some twenty bytes a run.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from flujo_lens.state.backends.core.selection import Chooser, Member, last_sign
from flujo_lens.state.backends.sqlite.deletion import queries
from flujo_lens.state.backends.sqlite.deletion.strip import note_of
from flujo_lens.state.backends.sqlite.engine.session import Session, as_text
from flujo_lens.state.backends.sqlite.reads.deletion_marks import read_held, unfinished_ids
from flujo_lens.state.backends.sqlite.reads.lock_yield import LockYielder
from flujo_lens.state.backends.sqlite.reads.orphans import Orphans, find_orphans
from flujo_lens.state.backends.sqlite.reads.queries import start_columns
from flujo_lens.state.backends.sqlite.reads.run_selection import count
from flujo_lens.state.backends.sqlite.schema.migrations import check_tables
from flujo_lens.state.deletion import DeletionPlan, DeletionRequest
from flujo_lens.state.filtering import matches, needs_details
from flujo_lens.state.interpret import RawRun, named, status_of, summarise
from flujo_lens.state.views import RunFilter

_AT_A_TIME = 500
"""Rows that one query reads."""

_FURTHEST = 14 * 4
_READABLE_UTC = "[0-9][0-9][0-9][0-9]-[0-1][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9]*+00:00"
_WS, _RUNS = "workflow_state", "runs"


class Key(NamedTuple):
    """The rows of a run; 0 where it has none. Another run can have their numbers by now: so something of its id."""

    state: int
    run: int
    name: int


def _name(run_id: str) -> int:
    return hash(run_id) & 0xFFFFFFFF


class Choice:
    """The rows of the chosen runs, by family; and the ids whose rows belong to no run."""

    def __init__(self, zones: Sequence[tzinfo], zone_is_set: bool) -> None:
        self.zones, self.zone_is_set = zones, zone_is_set
        self.sizes, self.states, self.runs, self.names = array("I"), array("q"), array("q"), array("I")
        self.orphans: list[Any] = []
        self.unfinished = 0

    def add(self, members: Sequence[Member]) -> None:
        """Take a family."""
        self.sizes.append(len(members))
        for member in members:
            self.states.append(member.key.state)
            self.runs.append(member.key.run)
            self.names.append(member.key.name)

    def families(self) -> Iterator[list[Key]]:
        """The families, in the order in which they were taken."""
        at = 0
        for size in self.sizes:
            yield [Key(self.states[i], self.runs[i], self.names[i]) for i in range(at, at + size)]
            at += size


def make_plan(session: Session, path: Path, asked: DeletionRequest) -> DeletionPlan:
    """What `asked` takes now.

    Raises:
        SchemaError: the runs, or their rows, are in what cannot be deleted from.
    """
    check_tables(session.shape, path)
    choice = Choice(zones_of(session), session.zone_is_set)
    chooser = Chooser(asked, choice)
    lock_yielder = LockYielder(session.connection)
    reader = RunReader(session, asked, choice, lock_yielder=lock_yielder)
    missing: tuple[str, ...] = ()
    if asked.run_ids is not None:
        missing = _take_named(reader, chooser, asked.run_ids)
    else:
        begun = unfinished_ids(session)
        for member in reader.members(begun if not asked.strip else ()):
            chooser.take([member])
        choice.unfinished = len(choice.sizes)
        if _names_runs(asked):
            for family in reader.families(frozenset(as_text(run_id) for run_id in begun)):
                chooser.offer(family)
    plan = chooser.plan(choice, count(session, RunFilter()) or 0)
    orphans = find_orphans(session, asked.orphans_before, lock_yielder) if asked.orphans_before else Orphans({})
    choice.orphans = list({run_id: None for ids in orphans.old.values() for run_id in ids})
    held = {run_id: who for run_id, who in reader.held.items() if run_id in (asked.run_ids or ())}
    return _completed(session, plan, missing, held, orphans)


def _names_runs(asked: DeletionRequest) -> bool:
    """Whether runs are asked for, and not only rows without one."""
    return asked.cutoff is not None or asked.keep_last is not None


def _take_named(reader: RunReader, chooser: Chooser, run_ids: Sequence[str]) -> tuple[str, ...]:
    found = {member.run_id: member for member in reader.members(run_ids)}
    for run_id in dict.fromkeys(run_ids):
        if run_id in found:
            chooser.take([found[run_id]])
    return tuple(run_id for run_id in dict.fromkeys(run_ids) if run_id not in found)


def _completed(
    session: Session, plan: DeletionPlan, missing: tuple[str, ...], held: Any, orphans: Orphans
) -> DeletionPlan:
    from flujo_lens.state.backends.sqlite.deletion.estimate import measure

    counts = {table: sum(ids.values()) for table, ids in orphans.old.items()}
    completed = replace(
        plan, missing=missing, held=held, orphans=counts, young_orphans=orphans.young,
        unfinished=plan.choice.unfinished,
    )  # fmt: skip
    return completed.with_counts(*measure(session, plan))


def parts(plan: DeletionPlan, size: int = 500) -> Iterator[Sequence[Key]]:
    """The rows of a plan's runs, `size` runs at a time."""
    choice: Choice = plan.choice
    keys = (key for family in choice.families() for key in family)
    while part := list(islice(keys, size)):
        yield part


def planned_ids(session: Session, part: Sequence[Key]) -> list[str]:
    """The ids in these rows, unless other runs have them by now."""
    from flujo_lens.state.backends.sqlite.deletion.estimate import ids_of

    names = {key.name for key in part}
    found = ids_of(session, [key.state for key in part], [key.run for key in part])
    return [run_id for run_id in map(as_text, found) if _name(run_id) in names]


def zones_of(session: Session) -> list[tzinfo]:
    """The zones that a naive time of a state can be of: what is configured, else all that the store gives away.

    A run that was resumed, and saved since its row of ``runs`` was ended, gives none away.
    """
    times = session.shape.has(_RUNS, "end_time") and session.shape.has(_WS, "updated_at")
    if session.zone_is_set or session.zone is UTC or not times:
        return [session.zone]
    found = session.rows(queries.zones_apart(session.shape))
    quarters = {row[0] for row in found if row[0] is not None and abs(row[0]) <= _FURTHEST}
    return [session.zone, *(timezone(queries.QUARTER_HOUR * quarter) for quarter in sorted(quarters))]


class RunReader:
    """Reads runs as members of a choice.

    Args:
        session: The store.
        asked: The request.
        choice: How its naive times are read.
        run_ids: The only runs that will be asked for; None if that is not known.
        lock_yielder: Lets others write between two queries; None inside a transaction that has to be one.
    """

    def __init__(
        self,
        session: Session,
        asked: DeletionRequest,
        choice: Choice,
        run_ids: Sequence[Any] | None = None,
        lock_yielder: LockYielder | None = None,
    ) -> None:
        self._session, self._asked, self._zones = session, asked, choice.zones
        self._wanted = asked.wanted._replace(statuses=frozenset(), top_level=False)
        self._filters = self._wanted != type(self._wanted)()
        self._details = self._filters and needs_details(self._wanted)
        self._yield_lock = lock_yielder.take if lock_yielder is not None else lambda: None
        self.held = read_held(session, asked.now, run_ids)

    def members(self, run_ids: Sequence[Any]) -> Iterator[Member]:
        """Those of the runs with these ids (texts, or bytes where a store has such) that are there."""
        for at in range(0, len(run_ids), _AT_A_TIME):
            part = list(run_ids[at : at + _AT_A_TIME])
            yield from self._read(" UNION ".join("SELECT ?" for _ in part), part)
            self._yield_lock()

    def families(self, apart: frozenset[str]) -> Iterator[list[Member]]:
        """All families but those of the runs `apart`, and those that are young for certain, where they do not count."""
        for head, has_tasks in self._heads():
            if head.run_id not in apart and not (head.parent and self._asked.wanted.top_level):
                yield [head, *self._tasks(head)] if has_tasks else [head]

    def _heads(self) -> Iterator[tuple[Member, bool]]:
        shape = self._session.shape
        starts = start_columns(shape)
        for table, column, sql in (
            (_WS, "created_at", queries.states_in_rows),
            (_RUNS, starts[-1] if starts else None, queries.runs_alone_in_rows),
        ):
            rowids = self._rowids(table, column) if shape.has(table) else array("q")
            for at in range(0, len(rowids), _AT_A_TIME):
                these = f"[{','.join(map(str, rowids[at : at + _AT_A_TIME]))}]"
                for row in self._session.rows(sql(shape, details=self._details), (these,)):
                    if not row[3] and self._can_be_named(table, row[4]):
                        yield self._member(row[0] or 0, row[1] or 0, RawRun(*row[4:])), bool(row[2])
                self._yield_lock()

    def _rowids(self, table: str, column: str | None) -> array[int]:
        """The rows that are not young for certain."""
        narrow, values = self._not_young(table, column)
        return array(
            "q", sorted(row[0] for row in self._session.rows(f"SELECT rowid FROM {table} WHERE {narrow}", values))
        )

    def _can_be_named(self, table: str, run_id: Any) -> bool:
        """Whether the run is found by its id: not by one that is a text, but no UTF-8."""
        if not isinstance(run_id, str) or "\ufffd" not in run_id:
            return True
        return self._session.value(f"SELECT 1 FROM {table} WHERE run_id = ?", (run_id,)) is not None

    def _not_young(self, table: str, column: str | None) -> tuple[str, list[str]]:
        """SQL that passes over rows whose time, in a form that can be compared as text, is young."""
        asked = self._asked
        if asked.cutoff is None or asked.keep_last is not None or not self._session.shape.has(table, column or ""):
            return "1", []
        young = (asked.cutoff + timedelta(seconds=1)).astimezone(UTC).isoformat()[:19]
        present = asked.now.astimezone(UTC).isoformat()[:19]
        text = f"COALESCE({column}, '')"
        return f"NOT ({text} >= ? AND {text} < ? AND {text} GLOB '{_READABLE_UTC}')", [young, present]

    def _tasks(self, head: Member) -> list[Member]:
        """All tasks of a run, and theirs, whatever their depth."""
        seen, found, above = {head.run_id}, [], [head.run_id]
        while above:
            part, above = above[:_AT_A_TIME], above[_AT_A_TIME:]
            below = [m for m in self._read(queries.ids_of_tasks(len(part)), part) if m.run_id not in seen]
            seen.update(member.run_id for member in below)
            above += [member.run_id for member in below]
            found += below
        return found

    def _read(self, ids: str, values: Sequence[Any]) -> Iterator[Member]:
        sql = queries.runs_with_rowids(self._session.shape, ids, details=self._details)
        for row in self._session.rows(sql, values):
            if row[0] is not None or row[1] is not None:
                yield self._member(row[0] or 0, row[1] or 0, RawRun(*row[2:]))

    def _member(self, state: int, run: int, raw: RawRun) -> Member:
        updated = last_sign(
            (raw.state_created, raw.state_updated), (raw.run_start, raw.run_updated, raw.run_end),
            self._zones_of(raw), self._asked.now,
        )  # fmt: skip
        run_id = as_text(raw.run_id)
        return Member(
            run_id, status_of(raw), named(raw)[0], updated,
            started=self._start(raw) if self._asked.keep_last is not None else None,
            admitted=not self._filters or self._admits(raw),
            parent=raw.parent_run_id, held=run_id in self.held, key=Key(state, run, _name(run_id)),
            is_stripped=bool(self._asked.strip) and self._is_stripped(run_id, updated),
        )  # fmt: skip

    def _is_stripped(self, run_id: str, age: datetime | None) -> bool:
        note = note_of(self._session, run_id)
        return note is not None and note.covers(self._asked.strip, age)

    def _zones_of(self, raw: RawRun) -> Sequence[tzinfo]:
        if len(self._zones) == 1 or raw.state_status == "running":
            return self._zones
        own = self._session.zone_of(raw)
        return self._zones if own is self._session.zone else (own,)

    def _start(self, raw: RawRun) -> datetime | None:
        return summarise(raw, self._session.zone_of(raw)).created_at

    def _admits(self, raw: RawRun) -> bool:
        raw.run_id = as_text(raw.run_id)
        return matches(self._wanted, summarise(raw, self._session.zone_of(raw)))
