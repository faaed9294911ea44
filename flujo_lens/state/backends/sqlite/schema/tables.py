"""The tables and indexes of a store: those of the library's version 0.6.11."""

from __future__ import annotations

_OF_A_RUN = "FOREIGN KEY (run_id) REFERENCES runs(run_id) ON DELETE CASCADE"
_ROW_ID = "INTEGER PRIMARY KEY AUTOINCREMENT"

TABLES: dict[str, dict[str, str]] = {
    "workflow_state": {
        "run_id": "TEXT PRIMARY KEY",
        "pipeline_id": "TEXT NOT NULL",
        "pipeline_name": "TEXT NOT NULL",
        "pipeline_version": "TEXT NOT NULL",
        "current_step_index": "INTEGER NOT NULL",
        "pipeline_context": "TEXT",
        "last_step_output": "TEXT",
        "step_history": "TEXT",
        "status": "TEXT NOT NULL",
        "created_at": "TEXT NOT NULL",
        "updated_at": "TEXT NOT NULL",
        "total_steps": "INTEGER DEFAULT 0",
        "error_message": "TEXT",
        "execution_time_ms": "INTEGER",
        "memory_usage_mb": "REAL",
        "metadata": "TEXT",
        "is_background_task": "INTEGER DEFAULT 0",
        "parent_run_id": "TEXT",
        "task_id": "TEXT",
        "background_error": "TEXT",
    },
    "runs": {
        "run_id": "TEXT PRIMARY KEY",
        "pipeline_id": "TEXT NOT NULL",
        "pipeline_name": "TEXT NOT NULL",
        "pipeline_version": "TEXT NOT NULL",
        "status": "TEXT NOT NULL",
        "created_at": "TEXT NOT NULL",
        "updated_at": "TEXT NOT NULL",
        "execution_time_ms": "INTEGER",
        "memory_usage_mb": "REAL",
        "total_steps": "INTEGER DEFAULT 0",
        "error_message": "TEXT",
        "end_time": "TEXT",
        "total_cost": "REAL",
        "final_context_blob": "TEXT",
    },
    "system_state": {"key": "TEXT PRIMARY KEY", "value": "TEXT NOT NULL", "updated_at": "TEXT NOT NULL"},
    "steps": {
        "id": _ROW_ID,
        "run_id": "TEXT NOT NULL",
        "step_name": "TEXT NOT NULL",
        "step_index": "INTEGER NOT NULL",
        "status": "TEXT NOT NULL",
        "output": "TEXT",
        "raw_response": "TEXT",
        "cost_usd": "REAL",
        "token_counts": "INTEGER",
        "execution_time_ms": "INTEGER",
        "created_at": "TEXT NOT NULL",
    },
    "traces": {"run_id": "TEXT PRIMARY KEY", "trace_data": "TEXT NOT NULL", "created_at": "TEXT NOT NULL"},
    "spans": {
        "id": _ROW_ID,
        "run_id": "TEXT NOT NULL",
        "span_id": "TEXT NOT NULL",
        "parent_span_id": "TEXT",
        "name": "TEXT NOT NULL",
        "start_time": "REAL NOT NULL",
        "end_time": "REAL",
        "status": "TEXT NOT NULL",
        "attributes": "TEXT",
        "created_at": "TEXT NOT NULL",
    },
    "evaluations": {
        "id": _ROW_ID,
        "run_id": "TEXT NOT NULL",
        "step_name": "TEXT",
        "score": "REAL NOT NULL",
        "feedback": "TEXT",
        "metadata": "TEXT",
        "created_at": "TEXT NOT NULL DEFAULT (DATETIME('now'))",
    },
}
"""Columns and their declarations, by table."""

INDEXES: dict[str, tuple[str, str]] = {
    "idx_steps_run_id": ("steps", "run_id"),
    "idx_steps_step_index": ("steps", "step_index"),
    "idx_spans_run_id": ("spans", "run_id"),
    "idx_spans_parent_span": ("spans", "parent_span_id"),
    "idx_evaluations_run_id": ("evaluations", "run_id"),
    "idx_evaluations_created_at": ("evaluations", "created_at"),
    "idx_workflow_state_status": ("workflow_state", "status"),
    "idx_workflow_state_pipeline_id": ("workflow_state", "pipeline_id"),
    "idx_workflow_state_parent_run_id": ("workflow_state", "parent_run_id"),
    "idx_workflow_state_created_at": ("workflow_state", "created_at"),
    "idx_runs_status": ("runs", "status"),
    "idx_runs_pipeline_id": ("runs", "pipeline_id"),
    "idx_runs_created_at": ("runs", "created_at"),
    "idx_runs_pipeline_name": ("runs", "pipeline_name"),
}
"""Table and column, by the name of the index."""

WRITTEN_COLUMNS = {
    table: [column for column in columns if column != "id"] for table, columns in TABLES.items() if table != "traces"
}
"""The columns that are written, by table."""

_CHILDREN = ("steps", "traces", "spans", "evaluations")


def create_table(table: str, name: str, more: tuple[str, ...] = ()) -> str:
    """SQL that makes `table` under another `name`, with `more` columns (declarations) behind its own."""
    parts = [f"{column} {declared}" for column, declared in TABLES[table].items()]
    keys = [_OF_A_RUN] if table in _CHILDREN else []
    return f"CREATE TABLE {name} ({', '.join([*parts, *more, *keys])})"


def create_index(name: str) -> str:
    """SQL that makes an index if it is not there."""
    table, column = INDEXES[name]
    return f"CREATE INDEX IF NOT EXISTS {name} ON {table}({column})"


CREATE = "".join(
    f"{statement};\n"
    for statement in (
        *(create_table(table, f"IF NOT EXISTS {table}") for table in TABLES),
        *(create_index(name) for name in INDEXES),
        "PRAGMA user_version = 1",
    )
)
"""Makes everything that a new store has."""
