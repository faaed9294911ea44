"""What goes into the columns: states and history as rows, in the order of `ddl.WRITTEN_COLUMNS`.

Rows are made by the caller, before anything waits: what is changed after the call has no part in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

from flujo_lens.state.backends.sqlite.ddl import WRITTEN_COLUMNS
from flujo_lens.state.backends.vocabulary import check_run_id, end_row, now_text, run_row, span_rows, step_row

if TYPE_CHECKING:
    from flujo_lens.serialization.codec import StateCodec

__all__ = [
    "announced",
    "checked_id",
    "end_changes",
    "evaluation_values",
    "run_values",
    "span_values",
    "state_values",
    "step_values",
]

Document = Mapping[str, Any]
_COLUMN_TYPES = frozenset((str, int, float, bytes, type(None)))


def checked_id(run_id: object) -> str:
    """`run_id` if it is a text that SQL can tell from others.

    Raises:
        ValueError, TypeError: it is none, or has a NUL, where functions of SQLite cut a text short.
    """
    found = check_run_id(run_id)
    if "\0" in found:
        raise ValueError(f"run_id must not have a NUL: {found!r}")
    return found


def state_values(codec: StateCodec, run_id: str, state: Document) -> tuple[Any, ...]:
    """The row of a state. What is missing or None gets a default where the column needs one.

    Raises:
        ValueError, TypeError: `run_id` is no text, or a value cannot be serialized.
    """
    get, column = state.get, codec.column
    name = get("pipeline_name")
    row = (
        checked_id(run_id),
        get("pipeline_id") or name or "unknown",
        name or "unknown",
        get("pipeline_version") or "latest",
        get("current_step_index") or 0,
        column(run_id, "pipeline_context", get("pipeline_context")),
        column(run_id, "last_step_output", get("last_step_output")),
        column(run_id, "step_history", get("step_history")),
        get("status") or "running",
        get("created_at") or now_text(),
        get("updated_at") or now_text(),
        get("total_steps") or 0,
        get("error_message"),
        get("execution_time_ms"),
        get("memory_usage_mb"),
        column(run_id, "metadata", get("metadata")),
        1 if get("is_background_task") else 0,
        get("parent_run_id"),
        get("task_id"),
        get("background_error"),
    )
    return _plain(row)


def _plain(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return row if _COLUMN_TYPES.issuperset(map(type, row)) else tuple(map(_column, row))


def _column(value: Any) -> Any:
    """A value of a type that a column takes."""
    if type(value) in _COLUMN_TYPES:
        return value
    if isinstance(value, Enum):
        return _column(value.value)
    if isinstance(value, datetime):
        return value.isoformat()
    for kind in (bool, int, float):
        if isinstance(value, kind):
            return int(value) if kind is bool else kind(value)
    return str(value)


def _ordered(table: str, row: Document) -> tuple[Any, ...]:
    return _plain(tuple(row.get(column) for column in WRITTEN_COLUMNS[table]))


def run_values(codec: StateCodec, data: Document) -> tuple[Any, ...]:
    """The row of a run that starts."""
    row = run_row(data)
    checked_id(row["run_id"])
    return _ordered("runs", {**row, "final_context_blob": _context(codec, row["run_id"], row)})


def announced(codec: StateCodec, data: Document) -> tuple[Any, ...]:
    """The row of a run that is known only by a step or a span of it."""
    started = data.get("start_time") or data.get("created_at") or data.get("end_time")
    return run_values(codec, {"run_id": data.get("run_id"), "created_at": started})


def end_changes(codec: StateCodec, run_id: str, data: Document) -> dict[str, Any]:
    """The columns of a run that change when it ends."""
    row = end_row(data)
    if "final_context" in row:
        row["final_context_blob"] = _context(codec, run_id, row)
    return {name: _column(row[name]) for name in WRITTEN_COLUMNS["runs"] if name in row}


def _context(codec: StateCodec, run_id: str, row: Document) -> Any:
    return codec.column(run_id, "final_context", row.get("final_context"))


def step_values(codec: StateCodec, data: Document) -> dict[str, Any]:
    """The columns of one execution of a step, also those that 0.6.11 has no place for."""
    row = step_row(data)
    checked_id(row["run_id"])
    blobs = {name: codec.column(row["run_id"], name, row.get(name)) for name in ("output", "raw_response")}
    kept = {f"{name}_blob": codec.column(row["run_id"], name, row.get(name)) for name in ("input", "error")}
    row |= {**blobs, **kept, "step_index": row.get("step_index") or 0}
    names = (*WRITTEN_COLUMNS["steps"], *kept, "start_time", "end_time")
    return {name: _column(row.get(name)) for name in names}


def span_values(codec: StateCodec, run_id: str, spans: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """The rows of spans, each id once. One without a start began at 0: the column needs a number."""
    checked_id(run_id)
    now = _sql_now()
    return [
        _ordered(
            "spans",
            {
                **row,
                "run_id": run_id,
                "start_time": row["start_time"] or 0.0,
                "attributes": codec.column(run_id, "attributes", row["attributes"]),
                "created_at": now,
            },
        )
        for row in span_rows(spans)
    ]


def evaluation_values(codec: StateCodec, row: Document) -> tuple[Any, ...]:
    """The row of an evaluation."""
    run_id = checked_id(row["run_id"])
    metadata = codec.column(run_id, "metadata", row.get("metadata"))
    return _ordered("evaluations", {**row, "metadata": metadata, "created_at": _sql_now()})


def _sql_now() -> str:
    """The present in the form of SQLite's own ``DATETIME('now')``, which sorts with what the library wrote."""
    return now_text()[:19].replace("T", " ")
