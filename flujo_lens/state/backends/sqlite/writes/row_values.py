"""What goes into the columns: states and history as rows, in the order of `ddl.WRITTEN_COLUMNS`.

Rows are made by the caller, before anything waits: what is changed after the call has no part in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from math import isfinite
from typing import TYPE_CHECKING, Any

from flujo_lens.state.backends.core.rows import end_row, now_text, run_row, span_rows, step_row
from flujo_lens.state.backends.core.validation import check_run_id
from flujo_lens.state.backends.sqlite.schema.tables import WRITTEN_COLUMNS

if TYPE_CHECKING:
    from flujo_lens.serialization.codec import StateCodec

Document = Mapping[str, Any]
_SIMPLE = frozenset((bytes, type(None)))
_MOST = 2**63


def state_values(codec: StateCodec, run_id: str, state: Document) -> tuple[Any, ...]:
    """The row of a state. What is missing or None gets a default where the column needs one.

    Raises:
        ValueError, TypeError: `run_id` is no text, or a value cannot be serialized.
    """
    get, column, plain = state.get, codec.column, column_value
    name = get("pipeline_name")
    return (
        check_run_id(run_id),
        plain(get("pipeline_id") or name or "unknown"),
        plain(name or "unknown"),
        plain(get("pipeline_version") or "latest"),
        plain(get("current_step_index") or 0),
        column(run_id, "pipeline_context", get("pipeline_context")),
        column(run_id, "last_step_output", get("last_step_output")),
        column(run_id, "step_history", get("step_history")),
        plain(get("status") or "running"),
        plain(get("created_at") or now_text()),
        plain(get("updated_at") or now_text()),
        plain(get("total_steps") or 0),
        plain(get("error_message")),
        plain(get("execution_time_ms")),
        plain(get("memory_usage_mb")),
        column(run_id, "metadata", get("metadata")),
        1 if get("is_background_task") else 0,
        plain(get("parent_run_id")),
        plain(get("task_id")),
        plain(get("background_error")),
    )


def column_value(value: Any) -> Any:
    """A value as a column takes it, where it takes none in the form that `safe_serialize` gives it.

    That is U+FFFD for a lone surrogate, and a text for NaN, infinities and integers of more than 64 bits.
    """
    kind = type(value)
    if kind is str:
        return value if value.isascii() else _storable(value)
    if kind in _SIMPLE:
        return value
    if isinstance(value, Enum):
        return column_value(value.value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, int):
        return int(value) if -_MOST <= value < _MOST else _digits(int(value))
    if isinstance(value, float):
        return float(value) if isfinite(value) else str(float(value))
    return _storable(str(value))


def _storable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _digits(number: int) -> Any:
    from flujo_lens.serialization import safe_serialize

    return safe_serialize(number)


def _ordered(table: str, row: Document) -> tuple[Any, ...]:
    return tuple(column_value(row.get(column)) for column in WRITTEN_COLUMNS[table])


def run_values(codec: StateCodec, data: Document) -> tuple[Any, ...]:
    """The row of a run that starts."""
    row = run_row(data)
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
    return {name: column_value(row[name]) for name in WRITTEN_COLUMNS["runs"] if name in row}


def _context(codec: StateCodec, run_id: str, row: Document) -> Any:
    return codec.column(run_id, "final_context", row.get("final_context"))


def step_values(codec: StateCodec, data: Document) -> dict[str, Any]:
    """The columns of one execution of a step, also those that 0.6.11 has no place for."""
    row = step_row(data)
    blobs = {name: codec.column(row["run_id"], name, row.get(name)) for name in ("output", "raw_response")}
    kept = {f"{name}_blob": codec.column(row["run_id"], name, row.get(name)) for name in ("input", "error")}
    row |= {**blobs, **kept, "step_index": row.get("step_index") or 0}
    names = (*WRITTEN_COLUMNS["steps"], *kept, "start_time", "end_time")
    return {name: column_value(row.get(name)) for name in names}


def span_values(codec: StateCodec, run_id: str, spans: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """The rows of spans, each id once. One without a start began at 0: the column needs a number."""
    check_run_id(run_id)
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
    run_id = row["run_id"]
    metadata = codec.column(run_id, "metadata", row.get("metadata"))
    return _ordered("evaluations", {**row, "metadata": metadata, "created_at": _sql_now()})


def _sql_now() -> str:
    """The present in the form of SQLite's own ``DATETIME('now')``, which sorts with what the library wrote."""
    return now_text()[:19].replace("T", " ")
