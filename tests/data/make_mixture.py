"""Makes `mixture/flujo_ops.db`: a store of 0.4.35 that 0.6.11 has opened, and written to afterwards.

    python make_mixture.py

The columns and tables are added as 0.6.11 adds them; the old rows stay as they were. Not run by the tests.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

HERE = Path(__file__).parent
ADDED = {
    "workflow_state": (
        "metadata TEXT",
        "is_background_task INTEGER DEFAULT 0",
        "parent_run_id TEXT",
        "task_id TEXT",
        "background_error TEXT",
    ),
    "steps": ("raw_response TEXT",),
    "runs": (
        "pipeline_id TEXT NOT NULL DEFAULT 'unknown'",
        "created_at TEXT NOT NULL DEFAULT ''",
        "updated_at TEXT NOT NULL DEFAULT ''",
        "execution_time_ms INTEGER",
        "memory_usage_mb REAL",
        "total_steps INTEGER DEFAULT 0",
        "error_message TEXT",
    ),
}
TABLES = """
CREATE TABLE traces (run_id TEXT PRIMARY KEY, trace_data TEXT NOT NULL, created_at TEXT NOT NULL,
    FOREIGN KEY (run_id) REFERENCES runs(run_id) ON DELETE CASCADE);
CREATE TABLE evaluations (id INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL, step_name TEXT,
    score REAL NOT NULL, feedback TEXT, metadata TEXT, created_at TEXT NOT NULL DEFAULT (DATETIME('now')),
    FOREIGN KEY (run_id) REFERENCES runs(run_id) ON DELETE CASCADE);
CREATE TABLE system_state (key TEXT PRIMARY KEY, value TEXT NOT NULL, updated_at TEXT NOT NULL);
CREATE INDEX idx_workflow_state_parent_run_id ON workflow_state(parent_run_id);
CREATE INDEX idx_runs_pipeline_id ON runs(pipeline_id);
CREATE INDEX idx_runs_created_at ON runs(created_at);
CREATE INDEX idx_steps_step_index ON steps(step_index);
PRAGMA user_version = 1;
"""
BOOM = {"name": "boom", "success": False, "attempts": 2, "feedback": "RuntimeError: smtp: connection refused"}
LOAD = {"name": "load", "success": True, "attempts": 1, "latency_s": 0.25, "cost_usd": 0.5, "token_counts": 7}
LATER = (
    # id, index, context, history, status, time, parent, task, background error
    ("later-done", 1, {"current_step": "load"}, [LOAD], "completed", "2026-11-21T09:00:00.000001+00:00"),
    ("later-failed", 2, {"current_step": "boom"}, [LOAD, BOOM], "failed", "2026-11-21T09:05:00+00:00"),
    (
        "later-paused",
        1,
        {"pause_message": "Go on?", "hitl_data": {"last_hitl_step": "ask"}, "current_step": "ask"},
        [LOAD],
        "paused",
        "2026-11-21T09:10:00.5+00:00",
    ),
    ("later-failed_bg_bg_1", 0, {"current_step": "mail"}, [], "failed", "2026-11-21T09:04:00+00:00"),
)


def main() -> None:
    store = HERE / "mixture" / "flujo_ops.db"
    shutil.copyfile(HERE / "flujo-0.4.35" / "flujo_ops.db", store)
    with closing(sqlite3.connect(store)) as db:
        for table, columns in ADDED.items():
            for column in columns:
                db.execute(f"ALTER TABLE {table} ADD COLUMN {column}")
        db.executescript(TABLES)
        for run_id, index, context, history, status, when in LATER:
            task = "_bg_" in run_id
            db.execute(
                "INSERT INTO workflow_state (run_id, pipeline_id, pipeline_name, pipeline_version, "
                "current_step_index, pipeline_context, step_history, status, created_at, updated_at, "
                "is_background_task, parent_run_id, task_id, background_error) "
                "VALUES (?, 'unknown', 'unknown', 'latest', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (run_id, index, json.dumps(context), json.dumps(history), status, when, when, task)
                + (("later-failed", "bg_1", "smtp: connection refused") if task else (None, None, None)),
            )
        db.execute("INSERT INTO system_state VALUES ('seen', '{\"n\": 1}', '2026-11-21T09:00:00+00:00')")
        db.execute(
            "INSERT INTO evaluations (run_id, score, created_at) VALUES ('fail-001', 0.5, '2026-11-21 09:00:00')"
        )
        db.commit()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


if __name__ == "__main__":
    main()
