"""Handing out what a deletion is about to take, and seeing to it that only that goes."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, NamedTuple

from flujo_lens.state.backends.sqlite.deletion.delete_sql import HEADS, signature
from flujo_lens.state.backends.sqlite.deletion.run_records import read_records, tables_of
from flujo_lens.state.backends.sqlite.engine.session import Session, as_text
from flujo_lens.state.deletion import BackupCallback, Record

__all__ = ["Copying"]

_LARGE = 20_000
"""Rows of a batch that are not held in memory to be compared."""


class _Moment(NamedTuple):
    """What nobody commits without changing it; the connection is part of it, since another one counts anew."""

    connection: sqlite3.Connection
    by_others: int
    by_us: int

    @staticmethod
    def of(db: sqlite3.Connection) -> _Moment:
        return _Moment(db, db.execute("PRAGMA data_version").fetchone()[0], db.total_changes)


class Copying:
    """The copies of one batch after the other; true if there are to be any.

    Args:
        keep: Is handed the records.
        state_only: Whether only states go.
    """

    def __init__(self, keep: BackupCallback | None, state_only: bool) -> None:
        self._keep, self._state_only = keep, state_only
        self.forget()

    def __bool__(self) -> bool:
        return self._keep is not None

    def forget(self) -> None:
        """The batch is over."""
        self._kept: dict[str, list[Record]] = {}
        self._moment: _Moment | None = None
        self._large: list[Any] | None = None

    def read_ahead(self, session: Session, ids: Sequence[Any]) -> list[Record]:
        """The records of these runs, read before the transaction that deletes them."""
        records = self._records(session, ids)
        self._moment = _Moment.of(session.connection)
        self._large = self._sign(session, ids) if _rows(records) > _LARGE else None
        return records

    def hand_out(self, records: Sequence[Record]) -> None:
        """Have records kept; that nobody waits meanwhile is best."""
        if records and self._keep is not None:
            self._keep(records)
        for record in records:
            self._kept.setdefault(record["run_id"], []).extend([record] if self._large is None else [])

    def inside(self, session: Session, ids: Sequence[Any]) -> set[str]:
        """Inside that transaction: the runs that have changed since they were handed out, and may not go.

        Those that were not are handed out now.
        """
        names = {as_text(run_id) for run_id in ids}
        if self._keep is None or not ids:
            return set()
        if self._moment == _Moment.of(session.connection) and names <= self._kept.keys():
            return set()
        if self._large is not None and names <= self._kept.keys():
            return set() if self._sign(session, ids) == self._large else names
        records = self._records(session, ids)
        self.hand_out([record for record in records if record["run_id"] not in self._kept])
        return {record["run_id"] for record in records if record not in self._kept[record["run_id"]]}

    def _records(self, session: Session, ids: Sequence[Any]) -> list[Record]:
        if not ids:
            return []
        if not self._state_only:
            return read_records(session, ids, tables_of(session))
        records = read_records(session, ids, [table for table in HEADS[::-1] if session.shape.has(table)])
        return [{**record, "state_only": True} for record in records]

    def _sign(self, session: Session, ids: Sequence[Any]) -> list[Any]:
        heads = [table for table in HEADS if session.shape.has(table)]
        return [signature(session, ids), read_records(session, ids, heads)]


def _rows(records: Sequence[Record]) -> int:
    return sum(len(kept["rows"]) for record in records for kept in record["tables"].values())
