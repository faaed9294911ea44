"""Putting back what a strip dropped of a run, from the rows that were copied before."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from flujo_lens.state import stripped as rules
from flujo_lens.state.backends.sqlite.deletion.queries import ROWID
from flujo_lens.state.backends.sqlite.deletion.run_records import decoded
from flujo_lens.state.backends.sqlite.deletion.strip import (
    SPAN_TABLES,
    heavy_columns,
    note_of,
    opened,
    sealed_as,
    write_note,
)
from flujo_lens.state.backends.sqlite.engine.session import Session, page_ids
from flujo_lens.state.backends.sqlite.schema import lens_tables
from flujo_lens.state.timestamps import parse_instant

Tables = Mapping[str, Any]


def put_parts_back(
    session: Session,
    run_id: Any,
    strip: Mapping[str, Any],
    records: Iterable[Tables],
    insert: Callable[[str, Mapping[str, Any]], None],
) -> bool:
    """Put back what one strip dropped of a run; False, and nothing done, if the run has changed since.

    Args:
        session: The store, inside a transaction.
        strip: The parts, and when.
        records: The rows of the run by table, record by record.
        insert: Inserts rows of a table.
    """
    note, at = note_of(session, run_id), parse_instant(strip["at"])
    parts = {part for part in strip["parts"] if note is not None and note.parts.get(part) == at}
    updated = [run.updated_at for run in page_ids(session, [run_id], details=False)]
    if note is None or not parts or not updated or not note.is_of(updated[0]):
        return False
    if "outputs" in parts and _steps(session, run_id) != note.steps:
        return False
    is_all = parts == note.parts.keys()
    for tables in records:
        is_all = is_all and lens_tables.STRIPS not in tables  # else it lacked parts already
        for table, kept in tables.items():
            if table in SPAN_TABLES and "spans" in parts:
                _clear(session, table, kept)
                insert(table, kept)
            elif table in ("steps", "runs", "workflow_state"):
                _fill(session, table, kept, parts, is_all)
    left = {part: when for part, when in note.parts.items() if part not in parts}
    write_note(session, run_id, note._replace(parts=left, is_whole=True) if left else None)
    return True


def _clear(session: Session, table: str, kept: Mapping[str, Any]) -> None:
    """Remove those of these rows that stayed: an open span, and what an interrupted strip left."""
    at, run = kept["columns"].index(ROWID), kept["columns"].index("run_id")
    keys = [(row[at], decoded(row[run])[0]) for row in kept["rows"]]
    session.connection.executemany(f"DELETE FROM {table} WHERE rowid = ? AND run_id = ?", keys)


def _steps(session: Session, run_id: Any) -> int:
    if not session.shape.has("steps", "run_id"):
        return 0
    return int(session.value("SELECT count(*) FROM steps WHERE run_id = ?", (run_id,)))


def _fill(session: Session, table: str, kept: Mapping[str, Any], parts: Collection[str], is_all: bool) -> None:
    """Give the heavy columns of rows the values that they had."""
    names = kept["columns"]
    columns = [name for name in heavy_columns(session, table, parts) if name in names]
    for row in kept["rows"] if columns else ():
        values = dict(zip(names, map(decoded, row), strict=True))
        key, where = ("run_id", "run_id = ?") if table != "steps" else (ROWID, "rowid = ?")
        given = [values[name] for name in columns]
        if not is_all and "step_history" in columns:
            given[columns.index("step_history")] = _merged(session, values, parts)
        sets = ", ".join(f"{n} = {'CAST(? AS TEXT)' if v[1] else '?'}" for n, v in zip(columns, given, strict=True))
        session.rows(
            f"UPDATE {table} SET {sets} WHERE {where} AND run_id = ?",
            (*(value for value, _ in given), values[key][0], values["run_id"][0]),
        )


def _merged(session: Session, values: Mapping[str, Any], parts: Collection[str]) -> tuple[Any, bool]:
    """The step history with the parts that are back, and without those that stay dropped."""
    run_id = values["run_id"][0]
    now = session.value("SELECT step_history FROM workflow_state WHERE run_id = ?", (run_id,))
    before = values["step_history"][0]
    if now is None or before is None:
        return now, False
    whole = rules.whole_history(opened(run_id, "step_history", now), opened(run_id, "step_history", before), parts)
    return sealed_as(run_id, "step_history", whole, now), False
