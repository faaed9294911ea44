"""The tables and indexes of a new store: those of the library's version 0.6.11."""

from __future__ import annotations

__all__ = ["CREATE", "WRITTEN_COLUMNS"]

_HANGS_ON_RUN = "FOREIGN KEY (run_id) REFERENCES runs(run_id) ON DELETE CASCADE"

WRITTEN_COLUMNS = {
    "workflow_state": [
        "run_id",
        "pipeline_id",
        "pipeline_name",
        "pipeline_version",
        "current_step_index",
        "pipeline_context",
        "last_step_output",
        "step_history",
        "status",
        "created_at",
        "updated_at",
        "total_steps",
        "error_message",
        "execution_time_ms",
        "memory_usage_mb",
        "metadata",
        "is_background_task",
        "parent_run_id",
        "task_id",
        "background_error",
    ],
    "runs": [
        "run_id",
        "pipeline_id",
        "pipeline_name",
        "pipeline_version",
        "status",
        "created_at",
        "updated_at",
        "execution_time_ms",
        "memory_usage_mb",
        "total_steps",
        "error_message",
        "end_time",
        "total_cost",
        "final_context_blob",
    ],
    "steps": [
        "run_id",
        "step_name",
        "step_index",
        "status",
        "output",
        "raw_response",
        "cost_usd",
        "token_counts",
        "execution_time_ms",
        "created_at",
    ],
    "spans": [
        "run_id",
        "span_id",
        "parent_span_id",
        "name",
        "start_time",
        "end_time",
        "status",
        "attributes",
        "created_at",
    ],
    "evaluations": ["run_id", "step_name", "score", "feedback", "metadata", "created_at"],
    "system_state": ["key", "value", "updated_at"],
}
"""The columns that are written, by table; a store that lacks one needs ``lens migrate``."""

CREATE = f"""
CREATE TABLE IF NOT EXISTS workflow_state (
    run_id TEXT PRIMARY KEY, pipeline_id TEXT NOT NULL, pipeline_name TEXT NOT NULL,
    pipeline_version TEXT NOT NULL, current_step_index INTEGER NOT NULL, pipeline_context TEXT,
    last_step_output TEXT, step_history TEXT, status TEXT NOT NULL, created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL, total_steps INTEGER DEFAULT 0, error_message TEXT, execution_time_ms INTEGER,
    memory_usage_mb REAL, metadata TEXT, is_background_task INTEGER DEFAULT 0, parent_run_id TEXT,
    task_id TEXT, background_error TEXT);
CREATE TABLE IF NOT EXISTS runs (
    run_id TEXT PRIMARY KEY, pipeline_id TEXT NOT NULL, pipeline_name TEXT NOT NULL,
    pipeline_version TEXT NOT NULL, status TEXT NOT NULL, created_at TEXT NOT NULL, updated_at TEXT NOT NULL,
    execution_time_ms INTEGER, memory_usage_mb REAL, total_steps INTEGER DEFAULT 0, error_message TEXT,
    end_time TEXT, total_cost REAL, final_context_blob TEXT);
CREATE TABLE IF NOT EXISTS system_state (key TEXT PRIMARY KEY, value TEXT NOT NULL, updated_at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS steps (
    id INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL, step_name TEXT NOT NULL,
    step_index INTEGER NOT NULL, status TEXT NOT NULL, output TEXT, raw_response TEXT, cost_usd REAL,
    token_counts INTEGER, execution_time_ms INTEGER, created_at TEXT NOT NULL, {_HANGS_ON_RUN});
CREATE TABLE IF NOT EXISTS traces (
    run_id TEXT PRIMARY KEY, trace_data TEXT NOT NULL, created_at TEXT NOT NULL, {_HANGS_ON_RUN});
CREATE TABLE IF NOT EXISTS spans (
    id INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL, span_id TEXT NOT NULL, parent_span_id TEXT,
    name TEXT NOT NULL, start_time REAL NOT NULL, end_time REAL, status TEXT NOT NULL, attributes TEXT,
    created_at TEXT NOT NULL, {_HANGS_ON_RUN});
CREATE TABLE IF NOT EXISTS evaluations (
    id INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL, step_name TEXT, score REAL NOT NULL,
    feedback TEXT, metadata TEXT, created_at TEXT NOT NULL DEFAULT (DATETIME('now')), {_HANGS_ON_RUN});
CREATE INDEX IF NOT EXISTS idx_steps_run_id ON steps(run_id);
CREATE INDEX IF NOT EXISTS idx_steps_step_index ON steps(step_index);
CREATE INDEX IF NOT EXISTS idx_spans_run_id ON spans(run_id);
CREATE INDEX IF NOT EXISTS idx_spans_parent_span ON spans(parent_span_id);
CREATE INDEX IF NOT EXISTS idx_evaluations_run_id ON evaluations(run_id);
CREATE INDEX IF NOT EXISTS idx_evaluations_created_at ON evaluations(created_at);
CREATE INDEX IF NOT EXISTS idx_workflow_state_status ON workflow_state(status);
CREATE INDEX IF NOT EXISTS idx_workflow_state_pipeline_id ON workflow_state(pipeline_id);
CREATE INDEX IF NOT EXISTS idx_workflow_state_parent_run_id ON workflow_state(parent_run_id);
CREATE INDEX IF NOT EXISTS idx_workflow_state_created_at ON workflow_state(created_at);
CREATE INDEX IF NOT EXISTS idx_runs_status ON runs(status);
CREATE INDEX IF NOT EXISTS idx_runs_pipeline_id ON runs(pipeline_id);
CREATE INDEX IF NOT EXISTS idx_runs_created_at ON runs(created_at);
CREATE INDEX IF NOT EXISTS idx_runs_pipeline_name ON runs(pipeline_name);
PRAGMA user_version = 1;
"""
