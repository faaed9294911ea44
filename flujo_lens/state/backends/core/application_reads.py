"""The application's reading methods, made from what operators read.

A driver that defines `iter_runs`, `read_run`, `get_spans` and their like gets `list_runs`, `list_workflows`,
`get_failed_workflows` and the rest from here, all with the same rules: runs carry their effective status, and
documents have the names of all versions of the library (``start_time`` and ``created_at``, ``duration_ms`` and
``execution_time_ms``), so applications of each version find the names they use.

What a summary does not hold (a run's cost, a step's raw response) a driver adds by `read_extras` and
`read_step_extras`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

from flujo_lens.errors import NotAStoreError, StoreNotFoundError
from flujo_lens.state.backends.base import JSONObject, StateBackend
from flujo_lens.state.backends.core.documents import WorkflowTally, run_document, span_statistics, step_document
from flujo_lens.state.backends.core.rows import moment_before
from flujo_lens.state.backends.core.validation import asked_id, check_hours, check_object, check_page, check_text
from flujo_lens.state.views import Evaluation, RunFilter

if TYPE_CHECKING:
    from flujo_lens.state.maintenance import Migration, MigrationPlan, OptimizationPlan, Optimized, Repaired

F = TypeVar("F", bound=Callable[..., Awaitable[Any]])


def empty_if_missing(empty: Callable[[], Any]) -> Callable[[F], F]:
    """For a method of the application's half: before the first save there is no store, or an empty file."""

    def decorate(method: F) -> F:
        @wraps(method)
        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            try:
                return await method(*args, **kwargs)
            except StoreNotFoundError:
                return empty()
            except NotAStoreError as error:
                if not error.details.get("empty"):
                    raise
                return empty()

        return cast("F", wrapped)

    return decorate


class ReadingBackend(StateBackend):
    """A backend whose operators' half is its own, and whose listing methods follow from it."""

    async def plan_migration(self, now: datetime) -> MigrationPlan:
        """Return that there is nothing to do: unless a driver says so, its format has one version.

        Raises:
            StoreError: there is no store, or it cannot be read.
        """
        from flujo_lens.state.maintenance import MigrationPlan

        await self.read_facts()
        return MigrationPlan()

    async def migrate(self, now: datetime, *, backup: bool = True, force: bool = False) -> Migration:
        """Do nothing: see `plan_migration`."""
        from flujo_lens.state.maintenance import Migration

        await self.read_facts()
        return Migration()

    async def repair(self, checks: Sequence[str]) -> Sequence[Repaired]:
        """Do nothing: unless a driver says so, no finding of its checks has a `repair`."""
        return ()

    async def plan_optimization(self, *, vacuum: bool = False) -> OptimizationPlan:
        """Return that there is nothing to do: unless a driver says so, its format has no indexes and no free room.

        Raises:
            StoreError: there is no store, or it cannot be read.
        """
        from flujo_lens.state.maintenance import OptimizationPlan

        await self.read_facts()
        return OptimizationPlan()

    async def optimize(self, *, vacuum: bool = False, force: bool = False) -> Optimized:
        """Do nothing: see `plan_optimization`."""
        from flujo_lens.state.maintenance import Optimized, Space

        await self.read_facts()
        return Optimized((), Space(0, 0), Space(0, 0))

    async def read_extras(self, run_ids: Sequence[str], *, contexts: bool = False) -> Mapping[str, JSONObject]:
        """Return what the store keeps of these runs beyond a summary, by run id.

        That is ``pipeline_id``, ``memory_usage_mb``, ``total_cost``, ``end_time``; with `contexts`
        ``final_context``. A run may be left out, and so may a name. The default knows nothing.
        """
        return {}

    async def read_step_extras(self, run_id: str) -> Mapping[tuple[int | None, str], JSONObject]:
        """Return what the store keeps of a run's steps beyond a `StepRecord`, by index and name.

        That is ``raw_response``, ``start_time``, ``end_time``; of repeated steps the last. The default knows
        nothing.
        """
        return {}

    @empty_if_missing(list[JSONObject])
    async def _documents(self, wanted: RunFilter, limit: int | None = None, offset: int = 0) -> list[JSONObject]:
        check_page(limit, offset)
        if limit == 0:
            return []
        if limit is None:
            runs = [run async for run in self.iter_runs(wanted)]
        else:
            runs = list((await self.query_runs(wanted, limit=offset + limit)).items)
        extras = await self.read_extras([run.run_id for run in runs[offset:]])
        return [run_document(run, extras.get(run.run_id)) for run in runs[offset:]]

    async def list_runs(
        self,
        status: str | None = None,
        pipeline_name: str | None = None,
        limit: int | None = None,
        offset: int = 0,
        metadata_filter: JSONObject | None = None,
    ) -> list[JSONObject]:
        """Return runs, newest first; a run's metadata must hold all of `metadata_filter` (objects: recursively)."""
        check_text(pipeline_name, "pipeline_name")
        wanted = RunFilter(statuses=_one(status), pipeline=pipeline_name or None)
        if metadata_filter is not None:
            check_object(metadata_filter, "metadata_filter")
        if not metadata_filter:
            return await self._documents(wanted, limit, offset)
        check_page(limit, offset)
        found = [row for row in await self._documents(wanted) if _holds(row["metadata"], metadata_filter)]
        return _page(found, limit, offset)

    async def list_workflows(
        self,
        status: str | None = None,
        pipeline_id: str | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[JSONObject]:
        """Return runs, newest first. `pipeline_id` is compared with the pipeline's name as well."""
        check_text(pipeline_id, "pipeline_id")
        wanted = RunFilter(statuses=_one(status))
        if not pipeline_id:
            return await self._documents(wanted, limit, offset)
        check_page(limit, offset)
        found = await self._documents(wanted)
        named = [row for row in found if pipeline_id in (row["pipeline_id"], row["pipeline_name"])]
        return _page(named, limit, offset)

    @empty_if_missing(lambda: None)
    async def get_run_details(self, run_id: str) -> JSONObject | None:
        found = await self.read_summaries([asked_id(run_id)])
        if not found:
            return None
        extras = await self.read_extras([run_id], contexts=True)
        return {"final_context": None} | run_document(found[0], extras.get(run_id))

    @empty_if_missing(list[JSONObject])
    async def list_run_steps(self, run_id: str) -> list[JSONObject]:
        detail = await self.read_run(asked_id(run_id))
        if detail is None or not detail.steps:
            return []
        extras = await self.read_step_extras(run_id)
        return [step_document(run_id, step, extras.get((step.step_index, step.step_name))) for step in detail.steps]

    @empty_if_missing(lambda: None)
    async def get_trace(self, run_id: str) -> Any:
        from flujo_lens.state.traces import span_rows, trace_document

        return trace_document(span_rows(await self.get_spans(run_id)))

    async def list_background_tasks(
        self,
        parent_run_id: str | None = None,
        status: str | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[JSONObject]:
        check_text(parent_run_id, "parent_run_id")
        wanted = RunFilter(statuses=_one(status), tasks_only=True, parent=parent_run_id)
        return await self._documents(wanted, limit, offset)

    async def get_failed_background_tasks(
        self, parent_run_id: str | None = None, hours_back: float = 24
    ) -> list[JSONObject]:
        check_text(parent_run_id, "parent_run_id")
        since = _ago(hours_back)
        wanted = RunFilter(statuses=_one("failed"), tasks_only=True, parent=parent_run_id, active_since=since)
        return await self._documents(wanted)

    async def get_failed_workflows(self, hours_back: float = 24) -> list[JSONObject]:
        return await self._documents(RunFilter(statuses=_one("failed"), active_since=_ago(hours_back)))

    @empty_if_missing(lambda: WorkflowTally().document())
    async def get_workflow_stats(self) -> JSONObject:
        """Return counts of all runs, and their average duration in milliseconds (0 if none is known)."""
        tally = WorkflowTally()
        async for run in self.iter_runs(RunFilter(), ordered=False):
            tally.add(run)
        return tally.document()

    @empty_if_missing(lambda: span_statistics(()))
    async def get_span_statistics(
        self, pipeline_name: str | None = None, time_range: tuple[float, float] | None = None
    ) -> JSONObject:
        check_text(pipeline_name, "pipeline_name")
        since, until = map(moment_of, _range(time_range)) if time_range else (None, None)
        wanted = RunFilter(pipeline=pipeline_name or None, since=since, until=until)
        return span_statistics(await self.read_span_stats(wanted))

    @empty_if_missing(list[JSONObject])
    async def list_evaluations(self, limit: int = 20, run_id: str | None = None) -> list[JSONObject]:
        check_page(limit)
        check_text(run_id, "run_id")
        return [_evaluation_document(row) for row in await self.read_evaluations(run_id, limit)]


def moment_of(seconds: float) -> datetime:
    """The instant of seconds since 1970; the ends of time where the calendar does not go so far."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        end = datetime.max if seconds > 0 else datetime.min
        return end.replace(tzinfo=UTC)


def _range(times: tuple[float, float]) -> tuple[float, float]:
    numbers = isinstance(times, tuple | list) and len(times) == 2 and all(isinstance(t, int | float) for t in times)
    if not numbers:
        raise TypeError(f"time_range must be two numbers, in seconds since 1970, not {times!r}")
    return times


def _one(status: str | None) -> frozenset[str]:
    check_text(status, "status")
    return frozenset({status}) if status else frozenset()


def _ago(hours: float) -> datetime:
    return moment_before(datetime.now(UTC), hours=check_hours(hours, "hours_back"))


def _page(rows: list[JSONObject], limit: int | None, offset: int) -> list[JSONObject]:
    return rows[offset:] if limit is None else rows[offset : offset + limit]


def _holds(value: Any, wanted: Any) -> bool:
    """Whether `value` is `wanted`, or an object with all that `wanted` has."""
    if isinstance(wanted, Mapping):
        inside = isinstance(value, Mapping)
        return inside and all(key in value and _holds(value[key], part) for key, part in wanted.items())
    return bool(value == wanted)


def _evaluation_document(found: Evaluation) -> JSONObject:
    return found._asdict() | {"created_at": found.created_at.isoformat() if found.created_at else None}
