"""The public field names, written out: they are an API that only a major version may change."""

RUN = [
    "run_id",
    "pipeline_name",
    "pipeline_version",
    "status",
    "created_at",
    "updated_at",
    "duration_ms",
    "current_step_index",
    "step_name",
    "total_steps",
    "error_message",
    "pause_message",
    "parent_run_id",
    "task_id",
    "is_background_task",
    "metadata",
    "holder",
    "stale",
    "cost_usd",
    "tokens",
]
WAITING = [*RUN, "question"]
FAILURE = ["error", "count", "first_at", "last_at", "step_name", "sample_run_id"]
STEP = [
    "step_index",
    "step_name",
    "status",
    "output",
    "error",
    "cost_usd",
    "token_counts",
    "duration_ms",
    "attempts",
    "created_at",
]
SPAN = ["span_id", "parent_span_id", "name", "status", "start_offset_ms", "duration_ms", "started_at", "attributes"]
PIPELINE = ["pipeline_name", "total", "by_status", "duration_ms", "cost_usd", "tokens"]
DURATIONS = ["avg", "p50", "p95", "p99", "exact", "waiting_included"]
SPAN_NAME = ["name", "count", "failed", "duration_ms"]
STATS = ["total", "by_status", "by_pipeline", "failures", "spans", "window", "cost_usd", "tokens"]
STATUS = [
    "store",
    "last_write_at",
    "failing",
    "silent",
    "waiting",
    "size_bytes",
    "runs",
    "since",
    "failed_since",
    "started_since",
]
TASK = [*RUN[:-4], "background_error", *RUN[-4:]]
EVALUATION = ["run_id", "step_name", "score", "feedback", "metadata", "created_at"]
SYSTEM = ["key", "value", "updated_at"]
CONFIG = ["key", "value", "source"]
STORE = ["name", "uri", "driver", "capabilities", "default", "readonly"]
STATUSES = {"running", "paused", "completed", "failed", "cancelled"}
