"""Bringing back runs from the records of `run_records`, one record at a time."""

from __future__ import annotations

import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import tzinfo
from functools import cached_property, partial
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from flujo_lens.errors import OperationFailedError, SchemaError
from flujo_lens.state.backends.sqlite.deletion import queries
from flujo_lens.state.backends.sqlite.deletion.pacing import HOLD
from flujo_lens.state.backends.sqlite.deletion.queries import HEADS, ROWID
from flujo_lens.state.backends.sqlite.deletion.run_records import KEPT_OF_OURS, decoded
from flujo_lens.state.backends.sqlite.deletion.strip import put_parts_back
from flujo_lens.state.backends.sqlite.engine.session import Session, open_session
from flujo_lens.state.backends.sqlite.reads.orphans import children
from flujo_lens.state.backends.sqlite.schema import lens_tables
from flujo_lens.state.backends.sqlite.schema.migrations import moved, nothing
from flujo_lens.state.backends.sqlite.schema.shape import Shape, read_shape
from flujo_lens.state.backends.sqlite.writes.run_changes import restore_cancelled
from flujo_lens.state.deletion import Record, Restored

if TYPE_CHECKING:
    from flujo_lens.state.backends.sqlite.engine.store import SqliteStore

_Value = tuple[Any, bool]
"""What `decoded` returns."""

HELD_AT_MOST = 0.05
"""Seconds after which a transaction takes no further run."""


async def restore(store: SqliteStore, records: Iterable[Record]) -> Restored:
    """Bring back runs, several a transaction.

    Raises:
        StoreNotFoundError: there is no file.
        SchemaError, OperationFailedError: as `RunsInParts.some`.
    """
    return await restore_all(store, Restorer(store.path, records, store.zone))


async def restore_all(store: SqliteStore, restorer: RunsInParts) -> Restored:
    """Bring back all runs of a restorer."""
    while restorer.has_more:
        restorer.settle(*await store.write(restorer.some, creates=False, hold=HOLD))
    back = restorer.back
    return Restored(tuple(i for i in back if back[i]), tuple(i for i in back if not back[i]))


class RunsInParts(ABC):
    """Saves runs, several in a transaction.

    Attributes:
        back: For each run that is committed whether it was saved: not if it was there already.
        has_more: Whether there are more runs.
    """

    def __init__(self) -> None:
        self.back: dict[str, bool] = {}
        self.has_more = True

    @abstractmethod
    def some(self, db: sqlite3.Connection) -> tuple[dict[str, bool], bool]:
        """Save the next runs, inside a transaction.

        Returns:
            For each whether it was saved, and whether there are more runs.

        Raises:
            SchemaError: a row has a value in a table or a column that the file does not have, or its key is another
            row's by now.
            OperationFailedError: a row is of another driver.
        """

    def settle(self, done: Mapping[str, bool], has_more: bool) -> None:
        """These runs are committed."""
        self.back |= done
        self.has_more = has_more


class Restorer(RunsInParts):
    """Brings back runs.

    Args:
        path: The file, for messages.
        records: All records of some runs.
        zone: How naive times are read; None to find out.
    """

    def __init__(self, path: Path, records: Iterable[Record], zone: tzinfo | None = None) -> None:
        super().__init__()
        self._path, self._records, self._zone = path, records, zone

    def some(self, db: sqlite3.Connection, seconds: float = HELD_AT_MOST) -> tuple[dict[str, bool], bool]:
        """As `RunsInParts.some`; after so many seconds no further run is begun."""
        began, done = time.monotonic(), dict[str, bool]()
        into = _Into(db, read_shape(db, self._path), lambda: open_session(db, self._path, self._zone))
        for run_id, records in groupby(self._records, lambda record: str(record["run_id"])):
            if run_id in self.back or run_id in done:
                continue
            if done and time.monotonic() - began > seconds:
                return done, True
            try:
                done[run_id] = _restore_run(into, run_id, records)
            except _MALFORMED as error:
                raise _malformed(run_id) from error
        return done, False


class _Columns(NamedTuple):
    """The columns of a table.

    Attributes:
        known: All that take a value.
        number: The one that is the rowid.
        musts: What stands for nothing in those that must have a value.
    """

    known: frozenset[str]
    number: str
    musts: Mapping[str, str | int]


class _Into:
    """A file that rows are put into, with what is known of its tables."""

    def __init__(self, db: sqlite3.Connection, shape: Shape, session: Callable[[], Session]) -> None:
        self.db, self.shape, self._open = db, shape, session
        self._columns: dict[str, _Columns] = {}

    @cached_property
    def session(self) -> Session:
        """The store, with the zone of its times."""
        return self._open()

    def columns(self, table: str) -> _Columns:
        """The columns of a table."""
        if table not in self._columns:
            found = self.db.execute(f"PRAGMA table_info({table})")
            rows = [(row[0], row[1].lower(), *row[2:]) for row in found]
            number = next((row[1] for row in rows if row[5] and row[2].upper() == "INTEGER"), ROWID)
            musts = [row for row in rows if row[3] and row[4] is None and not row[5]]
            stand_ins = {row[1]: nothing(row[1], row[2]) for row in musts}
            self._columns[table] = _Columns(frozenset(row[1] for row in rows), number, stand_ins)
        return self._columns[table]


_MALFORMED = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError)
"""What comes of a record that does not have the form of one: anything may have written it."""
_UNBINDABLE = (sqlite3.InterfaceError, sqlite3.ProgrammingError, sqlite3.DataError)
"""What SQLite says to a value that it has no place for."""


def _malformed(run_id: str) -> SchemaError:
    return SchemaError(
        f"the copy of run {run_id} does not have the form in which lens keeps runs; nothing was changed",
        hint="if a newer version wrote it, update flujo-lens; otherwise do not trust its source",
        run_id=run_id,
    )


def _restore_run(into: _Into, run_id: str, records: Iterator[Record]) -> bool:
    """Put the rows of a run back, record by record; False, and nothing done, if the run is there.

    A row gets the rowid that it had, unless another has it by now.

    Raises:
        ValueError, and its like: a record does not have the form of one, or has rows of another run.
    """
    first = next(records)
    if "cancelled" in first:
        return restore_cancelled(into.db, into.shape, first)
    ids = _StoredIds(run_id)
    tables = ids.checked(first)
    if first.get("state_only"):
        return _restore_state(into, ids.one, tables)
    if "strip" in first and _exists(into.db, into.shape, ids.one, {}.fromkeys(HEADS)):
        parts = chain([tables], map(ids.checked, records))
        return put_parts_back(into.session, ids.one, first["strip"], parts, partial(_insert, into))
    if _exists(into.db, into.shape, ids.one, tables):
        return False
    for part in chain([tables], map(ids.checked, records)):
        for table, kept in part.items():
            _insert(into, table, kept)
    return True


class _StoredIds:
    """The run ids in rows: all of one run, and of this one where its id is a text as others are."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._found: set[_Value] = set()

    @property
    def one(self) -> Any:
        """The id as it is stored; None if there are no rows."""
        return next((value for value, _ in self._found), None)

    def checked(self, record: Record) -> Mapping[str, Any]:
        """The rows of a record by table.

        Raises:
            ValueError: they are of another run.
            OperationFailedError: the record is not from a SQLite store.
        """
        tables = _tables(record)
        for kept in tables.values():
            at = kept["columns"].index("run_id")
            self._found |= {decoded(row[at]) for row in kept["rows"]}
        if len(self._found) > 1 or any(isinstance(value, str) and value != self._run_id for value, _ in self._found):
            raise ValueError("rows of another run")
        return tables


def _tables(record: Record) -> Mapping[str, Any]:
    found = record.get("tables")
    if not isinstance(found, dict):
        raise OperationFailedError(
            f"the copy of run {record.get('run_id')} is not from a SQLite store",
            hint="restore it into the kind of store that it was taken from",
        )
    return found


def _exists(db: sqlite3.Connection, shape: Shape, run_id: Any, first: Mapping[str, Any]) -> bool:
    """Whether the run is there: for rows that belonged to none, whether any of their tables has the id."""
    heads = [table for table in HEADS if shape.has(table)]
    others = [] if any(table in first for table in heads) else children(shape)
    ids = (run_id,) * (len(heads) + len(others))
    return bool(ids) and db.execute(queries.in_any(heads, others), ids).fetchone() is not None


def _restore_state(into: _Into, run_id: Any, tables: Mapping[str, Any]) -> bool:
    """Put a state back next to its history, which gets the status that it had."""
    if "workflow_state" not in tables or into.db.execute(queries.in_any(["workflow_state"]), (run_id,)).fetchone():
        return False
    _insert(into, "workflow_state", tables["workflow_state"])
    if "runs" in tables and tables["runs"]["rows"]:
        had = dict(zip(tables["runs"]["columns"], tables["runs"]["rows"][0], strict=True))
        names = [name for name in ("status", "error_message") if name in had and into.shape.has("runs", name)]
        values = [*(decoded(had[name])[0] for name in names), run_id]
        into.db.execute(queries.unmark_cancelled(names), values)
    return True


def _insert(into: _Into, table: str, kept: Mapping[str, Any]) -> None:
    if table in KEPT_OF_OURS:
        lens_tables.make(into.db, table)
    elif not into.shape.has(table):
        raise _no_place(table, None)
    columns = into.columns(table)
    # The same number twice, where a column is the rowid.
    first = int(kept["columns"][:1] == [ROWID] and columns.number in kept["columns"][1:])
    names = tuple(kept["columns"][first:])
    fits = columns.known.issuperset({*names} - {columns.number})
    for row in kept["rows"]:
        if fits and _inserted_as_it_is(into.db, table, names, row[first:]):
            continue
        given = _placed(table, columns, dict(zip(kept["columns"], map(decoded, row), strict=True)))
        _insert_row(into.db, table, given, columns.number)


def _inserted_as_it_is(db: sqlite3.Connection, table: str, names: tuple[str, ...], row: Sequence[Any]) -> bool:
    """Whether a row without anything encoded in it, as nearly all are, could be inserted with its own number."""
    if dict in map(type, row) or len(row) != len(names):
        return False
    try:
        db.execute(queries.insert(table, names), row)
    except sqlite3.IntegrityError:
        return False
    except _UNBINDABLE as error:
        raise ValueError("a value that no column can hold") from error
    return True


def _placed(table: str, columns: _Columns, given: dict[str, _Value]) -> dict[str, _Value]:
    """The values of a row by the columns that there are: it may have been taken before the store was migrated."""
    if ROWID in given:
        given.setdefault(columns.number, given[ROWID])
    if not columns.known.issuperset(given.keys() - {ROWID}):
        stand_ins = {column: (value, False) for column, value in columns.musts.items()}
        given = stand_ins | {c: v for c, v in moved(table, given, _is_set).items() if v[0] is not None}
    strange = [c for c, (value, _) in given.items() if value is not None and c not in columns.known and c != ROWID]
    if strange:
        raise _no_place(table, strange[0])
    return {column: value for column, value in given.items() if column in columns.known or column == columns.number}


def _is_set(value: _Value) -> bool:
    return value[0] not in (None, "")


def _insert_row(db: sqlite3.Connection, table: str, given: Mapping[str, _Value], number: str) -> None:
    """Insert a row with its own number; with a new one, if another row has that by now."""
    try:
        _execute(db, table, given)
    except sqlite3.IntegrityError:
        without = {column: value for column, value in given.items() if column != number}
        try:
            _execute(db, table, without)
        except sqlite3.IntegrityError as error:
            raise SchemaError(
                f"a row of {table} cannot be restored: {error}; nothing was changed",
                hint="another row has taken its place",
            ) from error


def _execute(db: sqlite3.Connection, table: str, given: Mapping[str, _Value]) -> None:
    sql = queries.insert(table, tuple(given), tuple(is_text for _, is_text in given.values()))
    try:
        db.execute(sql, [value for value, _ in given.values()])
    except _UNBINDABLE as error:
        raise ValueError("a value that no column can hold") from error


def _no_place(table: str, column: str | None) -> SchemaError:
    what = f"column {column} in its table {table}" if column else f"table {table}"
    return SchemaError(
        f"the store has no {what}, which the copy has; nothing was changed",
        hint="it was taken from a store of another schema: bring it back into one of the same, "
        "or `lens migrate` this one first",
    )
