"""The documents that the application's listing methods return, made from what operators read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from flujo_lens.state.backends.base import JSONObject
from flujo_lens.state.views import RunFilter, RunSummary, StepRecord

if TYPE_CHECKING:
    from flujo_lens.state.statistics import SpanStats, Stats

RECENT_HOURS = 24
_EXTRAS: JSONObject = {"memory_usage_mb": None, "total_cost": None}


def run_document(run: RunSummary, extras: Mapping[str, Any] | None = None) -> JSONObject:
    """A run as the contract's listing methods return it; `extras` are columns that a summary does not hold."""
    created = run.created_at.isoformat() if run.created_at else None
    ended = run.updated_at.isoformat() if run.updated_at and run.status not in ("running", "paused") else None
    document = {
        "run_id": run.run_id,
        "pipeline_id": run.pipeline_name,
        "pipeline_name": run.pipeline_name,
        "pipeline_version": run.pipeline_version,
        "status": run.status,
        "created_at": created,
        "updated_at": run.updated_at.isoformat() if run.updated_at else None,
        "start_time": created,
        "end_time": ended,
        "current_step_index": run.current_step_index,
        "total_steps": run.total_steps,
        "error_message": run.error_message,
        "execution_time_ms": run.duration_ms,
        "metadata": dict(run.metadata),
        "is_background_task": run.is_background_task,
        "parent_run_id": run.parent_run_id,
        "task_id": run.task_id,
        "background_error": run.background_error,
    }
    known = {name: value for name, value in (extras or {}).items() if value is not None}
    return document | _EXTRAS | known


def step_document(run_id: str, step: StepRecord, extras: Mapping[str, Any] | None = None) -> JSONObject:
    """A step as `list_run_steps` returns it, in the words of all versions.

    Where the store keeps no start, that is the time of saving without the duration, as far as one is known. An end
    that the store does not keep is None.
    """
    saved, length = step.created_at, timedelta(milliseconds=step.duration_ms or 0)
    document = {
        "run_id": run_id,
        "step_index": step.step_index,
        "step_name": step.step_name,
        "status": step.status,
        "input": step.input,
        "output": step.output,
        "error": step.error,
        "raw_response": None,
        "cost_usd": step.cost_usd,
        "cost": step.cost_usd,
        "token_counts": step.token_counts,
        "tokens": step.token_counts,
        "execution_time_ms": step.duration_ms,
        "duration_ms": step.duration_ms,
        "created_at": saved.isoformat() if saved else None,
        "start_time": (saved - length).isoformat() if saved else None,
        "end_time": None,
    }
    known = ("raw_response", "start_time", "end_time")
    return document | {name: extras[name] for name in known if extras and extras.get(name) is not None}


def stats_document(stats: Stats, recent: int, tasks: Mapping[str, int]) -> JSONObject:
    """What `get_workflow_stats` returns.

    Args:
        stats: Statistics over all runs.
        recent: How many were updated within the last 24 hours.
        tasks: How many background tasks are in which status.
    """
    measured = sum(pipeline.measured for pipeline in stats.by_pipeline)
    spent = sum(pipeline.total_ms for pipeline in stats.by_pipeline)
    return {
        "total_workflows": stats.total,
        "status_counts": dict(stats.by_status),
        "recent_workflows_24h": recent,
        "average_execution_time_ms": spent / measured if measured else 0,
        "background_status_counts": dict(tasks),
    }


class WorkflowTally:
    """Counts all runs, one after the other, for `get_workflow_stats`."""

    def __init__(self) -> None:
        from flujo_lens.state.aggregate import RunTally

        self._since = datetime.now(UTC) - timedelta(hours=RECENT_HOURS)
        self._runs, self._recent = RunTally(), 0
        self._tasks: Counter[str] = Counter()

    def add(self, run: RunSummary) -> None:
        """Count one run."""
        self._runs.add(run)
        self._recent += run.updated_at is not None and run.updated_at >= self._since
        if run.is_background_task:
            self._tasks[run.status] += 1

    def document(self) -> JSONObject:
        """What `get_workflow_stats` returns."""
        return stats_document(self._runs.stats(RunFilter()), self._recent, self._tasks)


def span_statistics(spans: Sequence[SpanStats]) -> JSONObject:
    """What `get_span_statistics` returns: durations in seconds, but for those whose name says milliseconds."""
    by_status: dict[str, int] = {}
    for span in spans:
        for status, count in span.by_status.items():
            by_status[status] = by_status.get(status, 0) + count
    return {
        "total_spans": sum(span.measured for span in spans),
        "by_name": {span.name: span.measured for span in spans if span.measured},
        "by_status": by_status,
        "avg_duration_by_name": {span.name: _seconds_of(span) for span in spans if span.measured},
        "duration_ms_by_name": {span.name: _percentiles_of(span) for span in spans if span.measured},
        "open_spans": sum(span.count - span.measured for span in spans),
        "failed_by_name": {span.name: span.failed for span in spans if span.failed},
    }


def _seconds_of(span: SpanStats) -> JSONObject:
    total = span.total_ms / 1000
    return {"total": total, "count": span.measured, "average": total / span.measured}


def _percentiles_of(span: SpanStats) -> JSONObject:
    lengths = span.duration_ms
    return {"avg": lengths.avg, "p50": lengths.p50, "p95": lengths.p95, "p99": lengths.p99}
