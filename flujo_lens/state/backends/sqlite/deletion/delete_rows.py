"""Counting the rows of runs, and deleting them. Each function is called inside a transaction."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from flujo_lens.errors import OperationFailedError
from flujo_lens.state.backends.sqlite.deletion import queries
from flujo_lens.state.backends.sqlite.deletion.queries import HEADS
from flujo_lens.state.backends.sqlite.engine.session import Session
from flujo_lens.state.backends.sqlite.reads.deletion_marks import unmark
from flujo_lens.state.backends.sqlite.reads.orphans import children
from flujo_lens.state.backends.sqlite.schema import lens_tables


def count_rows(session: Session, ids: Sequence[Any], most: int, tables: Collection[str] | None = None) -> int:
    """How many rows (of these tables alone) belong to these runs, counted up to a little more than `most`."""
    count = 0
    for table in _tables(session, tables) if ids else ():
        count += int(session.value(queries.count_up_to(table, len(ids), most + 1 - count), ids))
        if count > most:
            break
    return count


def signature(session: Session, ids: Sequence[Any]) -> list[tuple[Any, ...]]:
    """How many rows belong to these runs, and the newest: tells whether any came or went."""
    tables = children(session.shape) if ids else ()
    return [session.rows(queries.newest_of(table, len(ids)), ids).fetchone() for table in tables]


def delete_all(session: Session, ids: Sequence[Any], heads: int) -> dict[str, int]:
    """Delete all rows of these runs; how many, by table.

    Args:
        session: The store.
        ids: The runs.
        heads: How many rows they have in the tables of states and runs.

    Raises:
        OperationFailedError: some of these are there still.
    """
    if not ids:
        return {}
    there = [table for table in HEADS if session.shape.has(table)]
    tables = (*children(session.shape), *lens_tables.of_runs(session.connection), *there)
    deleted = {table: session.rows(queries.delete(table, len(ids)), ids).rowcount for table in tables}
    if sum(deleted[table] for table in there) < heads:
        raise OperationFailedError(
            "a trigger of the store keeps rows that were to be deleted; nothing of this batch was deleted",
            hint="drop the trigger, or exclude its runs",
        )
    for run_id in ids if lens_tables.is_there(session.connection, lens_tables.DELETIONS) else ():
        unmark(session.connection, run_id)
    return {table: count for table, count in deleted.items() if count}


def _tables(session: Session, some: Collection[str] | None) -> list[str]:
    return [table for table in children(session.shape) if some is None or table in some]


def delete_some(
    session: Session, ids: Sequence[Any], most: int, tables: Collection[str] | None = None
) -> dict[str, int]:
    """Delete `most` of the rows that belong to these ids, of the first table (of these) that has any."""
    for table in _tables(session, tables):
        count = session.rows(queries.delete_some(table, len(ids), most), ids).rowcount
        if count:
            return {table: count}
    return {}


def cancel(session: Session, ids: Sequence[Any]) -> dict[str, int]:
    """Delete the states of these runs; their history says that they were cancelled, and what had failed."""
    if not ids:
        return {}
    if session.shape.has("runs", "status"):
        session.rows(queries.mark_cancelled(session.shape, len(ids)), ids)
    return {"workflow_state": session.rows(queries.delete("workflow_state", len(ids)), ids).rowcount}
