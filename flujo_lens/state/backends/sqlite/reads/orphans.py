"""Rows of history without a run: neither ``workflow_state`` nor ``runs`` knows their id."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from flujo_lens.state.backends.sqlite.engine.session import Session
from flujo_lens.state.backends.sqlite.reads.lock_yield import LockYielder
from flujo_lens.state.backends.sqlite.schema.shape import Shape
from flujo_lens.state.timestamps import parse_instant

_CHILDREN = ("spans", "steps", "traces", "evaluations")
_AT_A_TIME = 5_000
_TIMES = ("created_at", "end_time", "start_time")


def children(shape: Shape) -> list[str]:
    """The tables whose rows belong to runs."""
    return [table for table in _CHILDREN if shape.has(table, "run_id")]


def knows(shape: Shape, run_id: str) -> str:
    """SQL for whether a run is known; `run_id` is SQL too."""
    tables = [table for table in ("workflow_state", "runs") if shape.has(table)]
    return " OR ".join(f"EXISTS (SELECT 1 FROM {table} k WHERE k.run_id = {run_id})" for table in tables)


class Orphans(NamedTuple):
    """Ids without a run, by table, with how many rows they have there; and how many rows are too young."""

    old: dict[str, dict[Any, int]]
    young: int = 0


def find_orphans(session: Session, before: datetime, lock_yielder: LockYielder) -> Orphans:
    """The ids without a run, of which those are old whose newest row, in any table, is older than `before`.

    A row without a readable time is never old.
    """
    shape = session.shape
    found = {table: _alone(session, table, lock_yielder) for table in children(shape)}
    young = set()
    for run_id in {run_id for counts in found.values() for run_id in counts}:
        if not _is_old(session, run_id, found, before):
            young.add(run_id)
        lock_yielder.take()
    old = {table: {i: n for i, n in counts.items() if i not in young} for table, counts in found.items()}
    rows = sum(n for counts in found.values() for i, n in counts.items() if i in young)
    return Orphans({table: counts for table, counts in old.items() if counts}, rows)


def _alone(session: Session, table: str, lock_yielder: LockYielder) -> dict[Any, int]:
    """Ids of a table without a run, and how many rows they have: off the index on the id, if there is one."""
    if not session.shape.indexed(table, "run_id"):
        return dict(session.rows(_counted(session, table, f"WITH d(id) AS (SELECT DISTINCT run_id FROM {table})")))
    found: dict[Any, int] = {}
    page = _stored(session, f"SELECT min(run_id) AS id FROM {table}")
    while page is not None:
        first, value = page
        walk = f"WITH RECURSIVE d(id, at) AS (SELECT {first}, 1 UNION ALL {_next(table)} LIMIT {_AT_A_TIME})"
        found.update(session.rows(_counted(session, table, walk), (value,)))
        last = f"{walk} SELECT id FROM d ORDER BY at DESC LIMIT 1"
        page = _stored(session, f"SELECT min(run_id) AS id FROM {table} WHERE run_id > ({last})", value)
        lock_yielder.take()
    return found


def _next(table: str) -> str:
    return f"SELECT (SELECT min(run_id) FROM {table} WHERE run_id > d.id), at + 1 FROM d WHERE d.id IS NOT NULL"


def _stored(session: Session, sql: str, *values: Any) -> tuple[str, Any] | None:
    """SQL for the id that a query finds, with its value, as exactly as it is stored; None if it finds none.

    A text that is no UTF-8 is read as another, and where a page ended by that one, the next would be the same page.
    """
    of_text = "CASE typeof(id) WHEN 'text' THEN CAST(id AS BLOB) ELSE id END"
    kind, value = session.rows(f"SELECT typeof(id), {of_text} FROM ({sql})", values).fetchone() or ("null", None)
    return None if kind == "null" else ("CAST(? AS TEXT)" if kind == "text" else "?", value)


def _counted(session: Session, table: str, ids: str) -> str:
    count = f"(SELECT count(*) FROM {table} c WHERE c.run_id = d.id)"
    return f"{ids} SELECT d.id, {count} FROM d WHERE d.id IS NOT NULL AND NOT ({knows(session.shape, 'd.id')})"


def _is_old(session: Session, run_id: Any, tables: Iterable[str], before: datetime) -> bool:
    times = [time for table in tables for time in _times(session, table, run_id)]
    return bool(times) and all(time is not None and time < before for time in times)


def _times(session: Session, table: str, run_id: Any) -> Sequence[datetime | None]:
    """The newest time of each row, those of spans by when they were written: their own clock may be any."""
    names = ("created_at",) if table == "spans" else _TIMES
    sql = f"SELECT DISTINCT {session.shape.pick(table, 'c', *names)} FROM {table} c WHERE c.run_id = ?"
    return [parse_instant(row[0]) for row in session.rows(sql, (run_id,))]
