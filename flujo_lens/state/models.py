"""The saved state of a run: written after every step."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["WorkflowState"]


def _now() -> datetime:
    return datetime.now(UTC)


class WorkflowState(BaseModel):
    """Serialized snapshot of a running workflow: the columns of ``workflow_state``.

    Times are aware and in UTC, `execution_time_ms` is in milliseconds. Fields that a newer version of the
    library adds are kept.
    """

    model_config = ConfigDict(extra="allow")

    run_id: str
    pipeline_id: str = "unknown"
    pipeline_name: str = "unknown"
    pipeline_version: str = "latest"
    current_step_index: int = 0
    pipeline_context: dict[str, Any] = Field(default_factory=dict)
    last_step_output: Any | None = None
    step_history: list[dict[str, Any]] = Field(default_factory=list)
    status: Literal["running", "paused", "completed", "failed", "cancelled"] = "running"
    created_at: datetime = Field(default_factory=_now)
    updated_at: datetime = Field(default_factory=_now)
    total_steps: int = 0
    error_message: str | None = None
    execution_time_ms: int | None = None
    memory_usage_mb: float | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    is_background_task: bool = False
    parent_run_id: str | None = None
    task_id: str | None = None
    background_error: str | None = None
