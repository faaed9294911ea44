"""Handing out what a deletion is about to take, and seeing to it that only that goes."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flujo_lens.state.backends.core.deletion_records import RecordKind
from flujo_lens.state.backends.sqlite.deletion.delete_rows import count_rows, signature
from flujo_lens.state.backends.sqlite.deletion.queries import HEADS
from flujo_lens.state.backends.sqlite.deletion.run_records import large_records, parts_of, read_records, tables_of
from flujo_lens.state.backends.sqlite.engine.lock_retry import translate_write
from flujo_lens.state.backends.sqlite.engine.session import Session, as_text
from flujo_lens.state.deletion import BackupCallback, DeletionRequest, Record

LARGE = 20_000
"""Rows of a batch from which on its records are handed out in parts, and not held to be compared."""


class _Moment(NamedTuple):
    """What every commit changes; the connection is part of it, since another one counts anew."""

    connection: sqlite3.Connection
    by_others: int
    by_us: int

    @staticmethod
    def of(db: sqlite3.Connection) -> _Moment:
        return _Moment(db, db.execute("PRAGMA data_version").fetchone()[0], db.total_changes)


class Copying:
    """The copies of one batch after the other; true if there are to be any.

    The records of a batch are held, to be compared with what is there when it goes. Those of a run with very many rows
    are read and handed out a part at a time, each part by a read of its own, so that nothing is locked while a disk
    takes it: whether rows came or went in between shows by their number, and by the newest.

    Args:
        keep: Is handed the records.
        asked: What is asked for: whether only states go, or parts.
        path: The file, for messages.
    """

    def __init__(self, keep: BackupCallback | None, asked: DeletionRequest, path: Path) -> None:
        self._keep, self._state_only, self._path = keep, asked.state_only, path
        self._notes = RecordKind.of(asked).notes
        self.forget()

    def __bool__(self) -> bool:
        return self._keep is not None

    def forget(self) -> None:
        """The batch is over."""
        self._kept: dict[str, list[Record]] = {}
        self._moment: _Moment | None = None
        self._large: list[Any] | None = None

    def read_ahead(self, session: Session, ids: Sequence[Any]) -> list[Record] | None:
        """The records of these runs, read before the transaction that deletes them; None if they are too many."""
        self._moment = _Moment.of(session.connection)
        if self._is_large(session, ids):
            self._large = self._sign(session, ids)
            return None
        return self._records(session, ids)

    def _is_large(self, session: Session, ids: Sequence[Any]) -> bool:
        return not self._state_only and count_rows(session, ids, LARGE) > LARGE

    def hand_out(self, records: Sequence[Record]) -> None:
        """Have records kept; best while nothing is locked."""
        if records and self._keep is not None:
            self._keep(records)
        for record in records:
            self._kept.setdefault(record["run_id"], []).append(record)

    def hand_out_parts(self, session: Session, ids: Sequence[Any]) -> None:
        """Have the records of these runs kept, some thousands of rows at a time.

        Raises:
            LensError: they cannot be read; a part of them may have been kept.
        """
        assert self._keep is not None
        try:
            for records in parts_of(large_records(session, ids)):
                self._keep([{**record, **self._notes} for record in records])
        except sqlite3.Error as error:
            raise translate_write(error, self._path) from error
        self._kept |= {as_text(run_id): [] for run_id in ids}

    def inside(self, session: Session, ids: Sequence[Any]) -> set[str]:
        """Inside that transaction: the runs that have changed since they were handed out, and may not go.

        Those that were not are handed out now.
        """
        names = {as_text(run_id) for run_id in ids}
        if self._keep is None or not ids:
            return set()
        if self._moment == _Moment.of(session.connection) and names <= self._kept.keys():
            return set()
        if self._large is None and not self._kept and self._is_large(session, ids):
            self._large = self._sign(session, ids)
            self.hand_out_parts(session, ids)
        if self._large is not None and names <= self._kept.keys():
            return set() if self._sign(session, ids) == self._large else names
        records = self._records(session, ids)
        self.hand_out([record for record in records if record["run_id"] not in self._kept])
        return {record["run_id"] for record in records if record not in self._kept[record["run_id"]]}

    def _records(self, session: Session, ids: Sequence[Any]) -> list[Record]:
        if not ids:
            return []
        tables = tables_of(session)
        if self._state_only:
            tables = [table for table in HEADS[::-1] if session.shape.has(table)]
        return [{**record, **self._notes} for record in read_records(session, ids, tables)]

    def _sign(self, session: Session, ids: Sequence[Any]) -> list[Any]:
        heads = [table for table in HEADS if session.shape.has(table)]
        return [signature(session, ids), read_records(session, ids, heads)]
