"""Saving runs from portable records: some dozens of runs with one statement a table, several such slices a transaction.

A run that is not as nearly all are (very many rows, none of a run, a value that a table has another place for) goes by
the records of `flujo_lens.state.backends.sqlite.deletion.restore`, which says what is wrong with it.
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from flujo_lens.state.backends.core.rows import now_text
from flujo_lens.state.backends.sqlite.deletion import queries
from flujo_lens.state.backends.sqlite.deletion.queries import HEADS
from flujo_lens.state.backends.sqlite.deletion.restore import HELD_AT_MOST, Restorer, RunsInParts
from flujo_lens.state.backends.sqlite.portable_records import add_step_columns, rows_of, stored_records
from flujo_lens.state.backends.sqlite.schema import lens_tables
from flujo_lens.state.backends.sqlite.writes.run_changes import delete_runs
from flujo_lens.state.deletion import Record

_RUNS, _SIZE = 50, 1 << 20
"""Runs of a slice, and characters of their values."""

_UNBINDABLE = (sqlite3.InterfaceError, sqlite3.ProgrammingError, sqlite3.DataError, OverflowError)
Rows = dict[tuple[str, tuple[str, ...]], list[list[Any]]]


class _Slice:
    """Some runs, as rows; those of which `rows` is None are written by their records."""

    def __init__(self) -> None:
        self.ids: dict[str, None] = {}
        self.rows: Rows | None = {}
        self.size = 0

    def add(self, record: Record, now: str) -> None:
        """Add a whole run."""
        assert self.rows is not None
        self.ids[record["run_id"]] = None
        for table, columns, rows in rows_of(record, now):
            self.rows.setdefault((table, columns), []).extend(rows)
            self.size += sum(len(value) for row in rows for value in row if type(value) is str)

    @property
    def is_full(self) -> bool:
        return len(self.ids) >= _RUNS or self.size >= _SIZE


class PortableWriter(RunsInParts):
    """Saves runs, slice by slice.

    Args:
        path: The file, for messages.
        records: All records of some runs; can be gone through several times.
        replace: Whether runs that are there are replaced.
    """

    def __init__(self, path: Path, records: Iterable[Record], *, replace: bool = False) -> None:
        super().__init__()
        self._path, self._records, self._replaces = path, records, replace
        self._now = now_text()
        self._slices = self._sliced()
        self._in_hand: list[_Slice] = []
        self._used = 0

    def _sliced(self) -> Iterator[_Slice]:
        made = _Slice()
        seen: set[str] = set()
        for record in self._records:
            is_new, is_whole = record["run_id"] not in seen, record.get("last") is True
            seen.add(record["run_id"])
            if is_new and is_whole and (record.get("state") is not None or record.get("run") is not None):
                made.add(record, self._now)
            elif is_new:
                alone = _Slice()
                alone.ids, alone.rows = {record["run_id"]: None}, None
                yield alone
            if made.is_full:
                yield made
                made = _Slice()
        if made.ids:
            yield made

    def some(self, db: sqlite3.Connection) -> tuple[dict[str, bool], bool]:
        began, done, self._used = time.monotonic(), dict[str, bool](), 0
        while (some := self._next()) is not None:
            if done and time.monotonic() - began > HELD_AT_MOST:
                return done, True
            done |= self._put(db, some)
            self._used += 1
        return done, False

    def settle(self, done: Mapping[str, bool], has_more: bool) -> None:
        super().settle(done, has_more)
        del self._in_hand[: self._used]

    def _next(self) -> _Slice | None:
        """The slice that comes next in this transaction; what is not committed is done again."""
        if self._used == len(self._in_hand):
            made = next(self._slices, None)
            if made is None:
                return None
            self._in_hand.append(made)
        return self._in_hand[self._used]

    def _put(self, db: sqlite3.Connection, some: _Slice) -> dict[str, bool]:
        if self._replaces:
            delete_runs(db, self._path, some.ids)
        if some.rows is not None:
            there = set() if self._replaces else _there(db, some.ids)
            new = [run_id for run_id in some.ids if run_id not in there]
            if there <= some.ids.keys() and _inserted(db, some.rows, None if not there else new):
                return {run_id: run_id not in there for run_id in some.ids}
        return self._put_records(db, some.ids)

    def _put_records(self, db: sqlite3.Connection, run_ids: Collection[str]) -> dict[str, bool]:
        def own(records: Iterable[Record]) -> Iterator[Record]:
            return (record for record in records if record["run_id"] in run_ids)

        add_step_columns(db, own(self._records))
        restorer = Restorer(self._path, stored_records(own(self._records), self._now))
        return restorer.some(db, math.inf)[0]


def _there(db: sqlite3.Connection, run_ids: Collection[str]) -> set[str]:
    """Those of these runs that are there, spelled as they are."""
    found = db.execute(queries.heads_of(HEADS, len(run_ids)), [*run_ids, *run_ids])
    return {run_id for (run_id,) in found}


def _inserted(db: sqlite3.Connection, rows: Rows, run_ids: Collection[str] | None) -> bool:
    """Whether the rows (of these runs; None for all) could be inserted; else nothing was."""
    db.execute("SAVEPOINT lens_slice")
    try:
        for (table, columns), of_table in rows.items():
            if table in lens_tables.OF_SPACE.values():
                lens_tables.make(db, table)
            at = columns.index("run_id")
            new = of_table if run_ids is None else [row for row in of_table if row[at] in run_ids]
            db.executemany(queries.insert(table, columns), new)
    except (sqlite3.IntegrityError, *_UNBINDABLE):
        db.execute("ROLLBACK TO lens_slice")
        return False
    finally:
        db.execute("RELEASE lens_slice")
    return True
