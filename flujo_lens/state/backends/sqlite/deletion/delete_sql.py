"""The SQL that takes rows away, and that counts them. Each function is called inside a transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flujo_lens.errors import OperationFailedError
from flujo_lens.state.backends.sqlite.engine.session import Session
from flujo_lens.state.backends.sqlite.reads import queries
from flujo_lens.state.backends.sqlite.reads.deletion_marks import unmark
from flujo_lens.state.backends.sqlite.reads.orphans import children
from flujo_lens.state.backends.sqlite.schema import lens_tables

__all__ = ["HEADS", "cancel", "count_rows", "delete_all", "delete_some", "signature"]

HEADS = ("workflow_state", "runs")


def count_rows(session: Session, ids: Sequence[Any], most: int) -> int:
    """How many rows hang on these runs, counted up to a little more than `most`."""
    count = 0
    for table in children(session.shape) if ids else ():
        some = f"SELECT 1 FROM {table} WHERE run_id IN {queries.marks(ids)} LIMIT {most + 1 - count}"
        count += int(session.value(f"SELECT count(*) FROM ({some})", ids))
        if count > most:
            break
    return count


def signature(session: Session, ids: Sequence[Any]) -> list[tuple[Any, ...]]:
    """How many rows hang on these runs, and the newest: tells whether any came or went."""
    sql = f"SELECT count(*), max(rowid) FROM {{}} WHERE run_id IN {queries.marks(ids)}"
    return [session.rows(sql.format(table), ids).fetchone() for table in children(session.shape)] if ids else []


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
    tables = [*children(session.shape), *lens_tables.hanging(session.connection)]
    there = [table for table in HEADS if session.shape.has(table)]
    deleted = {table: _delete_from(session, table, ids) for table in (*tables, *there)}
    if sum(deleted[table] for table in there) < heads:
        raise OperationFailedError(
            "the store keeps rows that were to go: it has a trigger against it; nothing of this batch was deleted",
            hint="drop the trigger, or leave its runs out",
        )
    for run_id in ids if lens_tables.is_there(session.connection, lens_tables.DELETIONS) else ():
        unmark(session.connection, run_id)
    return {table: count for table, count in deleted.items() if count}


def delete_some(session: Session, ids: Sequence[Any], most: int) -> dict[str, int]:
    """Delete so many rows of what hangs on these ids, of the first table that has any."""
    for table in children(session.shape):
        some = f"SELECT rowid FROM {table} WHERE run_id IN {queries.marks(ids)} LIMIT {most}"
        count = session.rows(f"DELETE FROM {table} WHERE rowid IN ({some})", ids).rowcount
        if count:
            return {table: count}
    return {}


def cancel(session: Session, ids: Sequence[Any]) -> dict[str, int]:
    """Delete the states of these runs; their history says that they were cancelled, and what had failed."""
    if not ids:
        return {}
    if session.shape.has("runs", "status"):
        session.rows(f"UPDATE runs SET {_cancelled(session)} WHERE run_id IN {queries.marks(ids)}", ids)
    return {"workflow_state": _delete_from(session, "workflow_state", ids)}


def _cancelled(session: Session) -> str:
    if not all(session.shape.has(table, "error_message") for table in ("runs", "workflow_state")):
        return "status = 'cancelled'"
    error = "SELECT s.error_message FROM workflow_state s WHERE s.run_id = runs.run_id"
    return f"status = 'cancelled', error_message = coalesce(nullif(error_message, ''), ({error}), error_message)"


def _delete_from(session: Session, table: str, ids: Sequence[Any]) -> int:
    return session.rows(f"DELETE FROM {table} WHERE run_id IN {queries.marks(ids)}", ids).rowcount
