"""The application's reading methods, made from what operators read.

A driver that defines `iter_runs`, `read_run` and their like gets `list_runs`, `list_workflows`,
`get_failed_workflows` and the rest from here, all with the same rules and the same field names as the
library's own: runs carry their effective status.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from flujo_lens.state.backends.base import JSONObject, StateBackend
from flujo_lens.state.views import RunFilter, RunSummary

if TYPE_CHECKING:
    from flujo_lens.state.figures import SpanStats

__all__ = ["ReadingBackend", "run_document"]


def run_document(run: RunSummary) -> JSONObject:
    """A run as the contract's listing methods return it."""
    created = run.created_at.isoformat() if run.created_at else None
    ended = run.updated_at.isoformat() if run.updated_at and run.status not in ("running", "paused") else None
    return {
        "run_id": run.run_id,
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


class ReadingBackend(StateBackend):
    """A backend whose operators' half is its own, and whose listing methods follow from it."""

    async def _documents(self, wanted: RunFilter, limit: int | None, offset: int) -> list[JSONObject]:
        found: list[JSONObject] = []
        skipped = 0
        async for run in self.iter_runs(wanted):
            if skipped < offset:
                skipped += 1
                continue
            if limit is not None and len(found) >= limit:
                break
            found.append(run_document(run))
        return found

    async def list_runs(
        self,
        status: str | None = None,
        pipeline_name: str | None = None,
        limit: int | None = None,
        offset: int = 0,
        metadata_filter: JSONObject | None = None,
    ) -> list[JSONObject]:
        """Return runs, newest first; `metadata_filter` keys must have equal values in a run's metadata."""
        wanted = RunFilter(statuses=_one(status), pipeline=pipeline_name)
        if not metadata_filter:
            return await self._documents(wanted, limit, offset)
        found = [
            run
            for run in await self._documents(wanted, None, 0)
            if all(run["metadata"].get(key) == value for key, value in metadata_filter.items())
        ]
        return found[offset:] if limit is None else found[offset : offset + limit]

    async def list_workflows(
        self,
        status: str | None = None,
        pipeline_id: str | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[JSONObject]:
        """Return runs, newest first. `pipeline_id` is compared with the pipeline's name as well."""
        wanted = RunFilter(statuses=_one(status), pipeline=pipeline_id)
        return await self._documents(wanted, limit, offset)

    async def get_run_details(self, run_id: str) -> JSONObject | None:
        """Return the metadata of a run, or None if no table knows the id."""
        detail = await self.read_run(run_id)
        return run_document(detail.run) if detail else None

    async def list_run_steps(self, run_id: str) -> list[JSONObject]:
        """Return the executed steps of a run by index."""
        detail = await self.read_run(run_id)
        return [_step_document(run_id, step) for step in detail.steps] if detail else []

    async def get_trace(self, run_id: str) -> Any:
        """Return the first root of the run's spans as a tree of dicts, or None if there are no spans."""
        from flujo_lens.state.traces import tree_document

        roots = await self.read_spans(run_id)
        return tree_document(roots[0]) if roots else None

    async def list_background_tasks(
        self,
        parent_run_id: str | None = None,
        status: str | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[JSONObject]:
        """Return background tasks, newest first."""
        wanted = RunFilter(statuses=_one(status), tasks_only=True, parent=parent_run_id)
        return await self._documents(wanted, limit, offset)

    async def get_failed_background_tasks(
        self, parent_run_id: str | None = None, hours_back: int = 24
    ) -> list[JSONObject]:
        """Return background tasks that failed within the last `hours_back` hours."""
        wanted = RunFilter(
            statuses=_one("failed"), tasks_only=True, parent=parent_run_id, active_since=_ago(hours_back)
        )
        return await self._documents(wanted, None, 0)

    async def get_failed_workflows(self, hours_back: int = 24) -> list[JSONObject]:
        """Return runs whose last update is a failure within the last `hours_back` hours."""
        return await self._documents(RunFilter(statuses=_one("failed"), active_since=_ago(hours_back)), None, 0)

    async def get_workflow_stats(self) -> JSONObject:
        """Return ``total_workflows``, ``status_counts`` and ``average_execution_time_ms``."""
        stats = await self.read_stats(RunFilter())
        measured = [p for p in stats.by_pipeline if p.duration_ms.avg is not None]
        weight = sum(p.total for p in measured)
        average = sum((p.duration_ms.avg or 0.0) * p.total for p in measured) / weight if weight else None
        return {
            "total_workflows": stats.total,
            "status_counts": dict(stats.by_status),
            "average_execution_time_ms": average,
        }

    async def get_span_statistics(
        self, pipeline_name: str | None = None, time_range: tuple[float, float] | None = None
    ) -> JSONObject:
        """Return ``total_spans`` and ``by_name``: count, failed, average and percentiles in milliseconds."""
        since, until = (datetime.fromtimestamp(t, UTC) for t in time_range) if time_range else (None, None)
        spans = await self.read_span_stats(RunFilter(pipeline=pipeline_name, since=since, until=until))
        return {
            "total_spans": sum(span.count for span in spans),
            "by_name": {span.name: _span_document(span) for span in spans},
        }


def _one(status: str | None) -> frozenset[str]:
    return frozenset({status}) if status else frozenset()


def _ago(hours: float) -> datetime:
    return datetime.now(UTC) - timedelta(hours=hours)


def _span_document(span: SpanStats) -> JSONObject:
    lengths = span.duration_ms
    return {
        "count": span.count,
        "failed": span.failed,
        "avg_ms": lengths.avg,
        "p50_ms": lengths.p50,
        "p95_ms": lengths.p95,
        "p99_ms": lengths.p99,
    }


def _step_document(run_id: str, step: Any) -> JSONObject:
    return {
        "run_id": run_id,
        "step_index": step.step_index,
        "step_name": step.step_name,
        "status": step.status,
        "output": step.output,
        "error": step.error,
        "cost_usd": step.cost_usd,
        "token_counts": step.token_counts,
        "execution_time_ms": step.duration_ms,
        "created_at": step.created_at.isoformat() if step.created_at else None,
    }
