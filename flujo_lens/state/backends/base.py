"""`StateBackend`: the contract between lens, applications and whatever keeps their states.

Three methods are abstract: `save_state`, `load_state`, `delete_state`. Every other has a default that either
works on those three (and on whichever of the listing methods a driver does define), or raises
`NotSupportedError` with its name. So a driver of three methods can be looked into run by run (``lens show``),
and each further method opens further commands.

The first half are the methods that applications call; they take and return plain dicts. The second half are
what operators read through: typed views, in keyset order, with the rules of `flujo_lens.state.interpret`
applied. A driver of ours defines the second half and inherits the first from
`flujo_lens.state.backends.core.application_reads.ReadingBackend`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime, timedelta, tzinfo
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from flujo_lens.errors import NotSupportedError
from flujo_lens.state.backends.core.validation import check_page, check_prefix
from flujo_lens.state.filtering import needs_details
from flujo_lens.state.views import Evaluation, Page, RunDetail, RunFilter, RunSummary, Span, StepRecord, SystemEntry

if TYPE_CHECKING:
    from flujo_lens.state.claims import Claim, Holder, Progress, ResumableGroup
    from flujo_lens.state.deletion import BackupCallback, Deleted, DeletionPlan, DeletionRequest, Record, Restored
    from flujo_lens.state.groups import Grouping
    from flujo_lens.state.known_costs import KnownCosts
    from flujo_lens.state.maintenance import (
        Finding,
        Migration,
        MigrationPlan,
        OptimizationPlan,
        Optimized,
        Repaired,
        Space,
    )
    from flujo_lens.state.statistics import PipelineStats, SpanStats, Stats
    from flujo_lens.state.stripped import Stripped

__all__ = ["JSONObject", "StateBackend", "capabilities_of", "overrides"]

JSONObject = dict[str, Any]
Position = tuple[datetime | None, str]
"""Where a page begins: start and id of the last run of the page before."""

_PAGE = 2_000

_CAPABILITIES = {
    "list": ("iter_runs", "list_runs", "list_workflows", "list_states"),
    "show": ("load_state",),
    "steps": ("read_run", "list_run_steps"),
    "trace": ("read_spans", "get_spans"),
    "evals": ("read_evaluations", "list_evaluations"),
    "system": ("read_system_state", "get_system_state"),
    "delete": ("delete_state",),
    "undo": ("restore",),
    "copy": ("read_portable",),
    "claims": ("claim_run",),
}


def overrides(cls: type, method: str) -> bool:
    """Whether the driver class `cls` defines `method` itself rather than inheriting the base's default."""
    return getattr(cls, method, None) is not getattr(StateBackend, method, None)


def capabilities_of(cls: type) -> tuple[str, ...]:
    """Names of what can be done with a store of the driver class `cls` (``list``, ``show``, ``trace``, ...)."""
    return tuple(name for name, needs in _CAPABILITIES.items() if any(overrides(cls, m) for m in needs))


class StateBackend(ABC):
    """Keeps the state of workflow runs.

    All methods are coroutines, safe to call from several tasks at once. A state is a JSON-ready dict with the
    fields of `flujo_lens.state.models.WorkflowState`. Times are ISO 8601 texts in UTC, durations are
    milliseconds, costs US dollars.

    Errors: a driver raises subclasses of `flujo_lens.errors.LensError` and lets none of its engine's own out;
    `BusyError` means that the same call may succeed later. What cannot be asked is refused before anything is
    changed: a wrong type with a TypeError, a wrong value with a ValueError, in the words of
    `flujo_lens.state.backends.core.validation`. A run id that is missing is a ValueError. Any text is a run id, but for
    one with a NUL or a lone surrogate, which some engines do not keep: to save under it is a ValueError, to
    ask for it finds nothing, to delete it is no error. Of a page, a `limit` of None (where there may be one) is no
    limit, one of 0 gives nothing, and a negative limit or offset is a ValueError. A write to a store that may not
    be written is a `ReadOnlyStoreError`, also where there would be nothing to change.

    Before the first save there is no store: the methods of the application's half find nothing, those of the
    operators' half raise `StoreNotFoundError`.

    Every writing method is atomic: when the process dies on any line of it, either all of it was done or nothing,
    and what was done before is whole. What goes in is copied before the first await.

    The writing methods of history take the names of all the library's versions (see
    `flujo_lens.state.backends.core.rows`). A step, span or trace of a run that never was announced by
    `save_run_start` is kept all the same.

    Attributes:
        any_loop: Whether the methods may be called from any event loop in any thread, also from several at once.
            Then a runner gives its signs from a thread of its own; else in the loop of the run, where a step that
            blocks keeps them back.
        needs_loop: Whether reading needs an event loop. A driver whose reading methods never suspend outside of one
            sets it to False in its own class; a subclass has to repeat it.
        place: Of a store on a server, its address without user and password, in one spelling; None for others. What
            lens keeps for such a store (audit log, lock, recycle bin) is named by it.
    """

    any_loop: ClassVar[bool] = False
    needs_loop: ClassVar[bool] = True
    place: str | None = None

    # --- state

    @abstractmethod
    async def save_state(self, run_id: str, state: JSONObject) -> None:
        """Save the state of a run, in place of the one before; whole or not at all.

        When it returns, another process that calls `load_state` gets the new state. Values that JSON does not
        have come back in the form that `flujo_lens.serialization.safe_serialize` gives them. The fields of
        `WorkflowState` are kept; a driver may drop others.
        """

    @abstractmethod
    async def load_state(self, run_id: str) -> JSONObject | None:
        """Return the saved state of a run, or None if there is none.

        ``created_at`` and ``updated_at`` are texts or `datetime`, as the driver has them (SQLite: `datetime`, as the
        library returns them). A context, history or metadata of None may come back as an empty one.

        Raises:
            CorruptStoreError: it is there and cannot be read; never is a part of it returned as if it were whole.
        """

    @abstractmethod
    async def delete_state(self, run_id: str) -> None:
        """Delete the state of a run. A run without one is no error. History (runs, steps, spans) stays."""

    async def list_states(self, status: str | None = None) -> list[JSONObject]:
        """Return all saved states (of one status), the last saved first.

        Each is as `load_state` returns it, but with times as texts and always with the ``run_id``.

        One that cannot be read (encrypted, and the key is not here; damaged) hides no other: it is left out, with a
        warning of the logger ``flujo_lens.state``. `load_state` raises the error, and `iter_runs` has the run.
        """
        raise self._lacks("list_states")

    async def list_workflows(
        self,
        status: str | None = None,
        pipeline_id: str | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[JSONObject]:
        """Return runs, newest first, as dicts without their context. An empty text is no filter."""
        raise self._lacks("list_workflows")

    async def get_workflow_stats(self) -> JSONObject:
        """Return figures over all runs.

        Those are ``total_workflows``, ``status_counts`` and ``background_status_counts`` (by status),
        ``recent_workflows_24h`` (their last update is so young) and ``average_execution_time_ms`` (0 if none is
        known).
        """
        raise self._lacks("get_workflow_stats")

    def get_workflow_stats_sync(self) -> JSONObject:
        """`get_workflow_stats` for callers without an event loop, or inside a running one; works in their thread."""
        raise self._lacks("get_workflow_stats_sync")

    async def cleanup_old_workflows(self, days_old: float = 30) -> int:
        """Delete runs last updated more than `days_old` days ago, with all that hangs on them; return how many.

        The last update is the newest of the state's and the run's own times, as an instant. A run of which one of
        them cannot be read, or lies in the future, or that has none, is never old. The status does not matter.
        When the process dies on the way, some of the runs are gone, each of them whole.

        Raises:
            ValueError: `days_old` is negative or NaN.
        """
        raise self._lacks("cleanup_old_workflows")

    async def get_failed_workflows(self, hours_back: float = 24) -> list[JSONObject]:
        """Return runs that failed within the last `hours_back` hours, with their errors."""
        raise self._lacks("get_failed_workflows")

    # --- background tasks

    async def list_background_tasks(
        self,
        parent_run_id: str | None = None,
        status: str | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[JSONObject]:
        """Return background tasks, newest first."""
        raise self._lacks("list_background_tasks")

    async def get_failed_background_tasks(
        self, parent_run_id: str | None = None, hours_back: float = 24
    ) -> list[JSONObject]:
        """Return background tasks that failed within the last `hours_back` hours."""
        raise self._lacks("get_failed_background_tasks")

    async def cleanup_stale_background_tasks(self, stale_hours: float = 24) -> int:
        """Mark running background tasks without a save for `stale_hours` as failed; return how many.

        Their states get a new ``status``, ``error_message``, ``background_error`` and ``updated_at``.

        Raises:
            ValueError: `stale_hours` is negative or NaN.
        """
        raise self._lacks("cleanup_stale_background_tasks")

    async def fail_stale_tasks(self, run_ids: Sequence[str], cutoff: datetime, hours: float) -> Sequence[str]:
        """Mark those of these runs that are background tasks, run, and were not saved since `cutoff`, as failed.

        They are marked as by `cleanup_stale_background_tasks`. On a store of several files, a process that dies on
        the way leaves the rest as they were.

        Args:
            run_ids: The runs; one that is not there any more is no error.
            cutoff: An instant.
            hours: How long that is ago, for their error messages.

        Returns:
            The ids of those that were marked, in the order of `run_ids`.
        """
        raise self._lacks("fail_stale_tasks")

    # --- traces

    async def get_trace(self, run_id: str) -> Any:
        """Return the trace of a run as a tree of dicts, or None if there is none.

        The root has ``span_id``, ``parent_span_id``, ``name``, ``start_time``, ``end_time``, ``status``,
        ``attributes`` and ``children``, which have the same. Of several roots it is the first.
        """
        raise self._lacks("get_trace")

    async def save_trace(self, run_id: str, trace: JSONObject) -> None:
        """Save the trace tree of a run, in place of all its spans; an empty one leaves none.

        Nodes are as `get_trace` returns them; the tree alone says who is whose parent.
        """
        raise self._lacks("save_trace")

    async def save_spans(self, run_id: str, spans: list[JSONObject]) -> None:
        """Save spans of a run (span_id, parent_span_id, name, start_time, end_time, status, attributes).

        One whose id the run has already takes the place of the span before; one without an id is left out.
        Times are numbers, in seconds of any clock.
        """
        raise self._lacks("save_spans")

    async def get_spans(self, run_id: str, status: str | None = None, name: str | None = None) -> list[JSONObject]:
        """Return the spans of a run in the order of their start."""
        raise self._lacks("get_spans")

    async def get_span_statistics(
        self, pipeline_name: str | None = None, time_range: tuple[float, float] | None = None
    ) -> JSONObject:
        """Return figures over the spans that have ended.

        Those are ``total_spans``, ``by_name`` and ``by_status`` (counts), ``avg_duration_by_name`` (``total`` and
        ``average`` in seconds, ``count``), and ours: ``duration_ms_by_name`` (``avg``, ``p50``, ``p95``, ``p99``),
        ``failed_by_name`` and ``open_spans`` (how many have no end). `time_range` bounds the start of their runs,
        in seconds since 1970.
        """
        raise self._lacks("get_span_statistics")

    # --- evaluations, system state

    async def persist_evaluation(
        self,
        run_id: str,
        score: float,
        feedback: str | None = None,
        step_name: str | None = None,
        metadata: JSONObject | None = None,
    ) -> None:
        """Save an evaluation score. The default does nothing: an application must not fail for it."""
        return

    async def list_evaluations(self, limit: int = 20, run_id: str | None = None) -> list[JSONObject]:
        """Return evaluation scores, newest first."""
        raise self._lacks("list_evaluations")

    async def set_system_state(self, key: str, value: JSONObject) -> None:
        """Set a global key, in place of the value before."""
        raise self._lacks("set_system_state")

    async def get_system_state(self, key: str) -> JSONObject | None:
        """Return ``{"key", "value", "updated_at"}`` of a global key, or None if it is not set."""
        raise self._lacks("get_system_state")

    # --- history

    async def save_run_start(self, run_data: JSONObject) -> None:
        """Save the metadata of a run that starts (run_id, pipeline_name, pipeline_version, status, created_at).

        They take the place of those before; steps and spans stay.
        """
        raise self._lacks("save_run_start")

    async def save_step_result(self, step_data: JSONObject) -> None:
        """Save one execution of a step (run_id, step_name, step_index, status, output, ...); earlier ones stay."""
        raise self._lacks("save_step_result")

    async def save_run_end(self, run_id: str, end_data: JSONObject) -> None:
        """Update the metadata of a run that ended (status, end_time, total_cost, final_context, ...).

        What is not given stays, but for the status: that is ``completed`` then. A run that was never started is
        no error; a driver may make it or not.
        """
        raise self._lacks("save_run_end")

    async def get_run_details(self, run_id: str) -> JSONObject | None:
        """Return the metadata of a run as `list_runs` does, with its ``final_context``, or None if there is none."""
        raise self._lacks("get_run_details")

    async def list_runs(
        self,
        status: str | None = None,
        pipeline_name: str | None = None,
        limit: int | None = None,
        offset: int = 0,
        metadata_filter: JSONObject | None = None,
    ) -> list[JSONObject]:
        """Return the metadata of runs, newest first; a run's metadata must hold all of `metadata_filter`."""
        raise self._lacks("list_runs")

    async def list_run_steps(self, run_id: str) -> list[JSONObject]:
        """Return the steps of a run by index; of an index and name that were saved twice, the last."""
        raise self._lacks("list_run_steps")

    async def delete_run(self, run_id: str) -> None:
        """Delete a run with all that hangs on it: state, steps, spans, traces, evaluations, claim, manifest.

        The manifest itself stays, for others may have it. No run is no error.
        """
        raise self._lacks("delete_run")

    async def shutdown(self) -> None:
        """Release connections, threads and handles; may be called twice."""
        return

    async def close(self) -> None:
        """`shutdown`, under the name that older applications call."""
        await self.shutdown()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.shutdown()

    # --- what operators read

    def iter_runs(
        self,
        wanted: RunFilter,
        *,
        after: Position | None = None,
        reverse: bool = False,
        ordered: bool = True,
        details: bool = True,
    ) -> AsyncIterator[RunSummary]:
        """Yield the runs that `wanted` admits, each once, the newest start first.

        Args:
            wanted: The filter; `flujo_lens.state.filtering.matches` is its meaning.
            after: Begin behind this position.
            reverse: The oldest start first. Runs without a readable start are last, with `reverse` first.
            ordered: False where the caller does not care, and a driver may save the sorting.
            details: False to leave out what has to be dug out of blobs (error, pause message, totals).

        The default gathers `list_runs`, `list_workflows` and `list_states`, whichever the driver has.
        """
        from flujo_lens.state.backends.core.fallbacks import iter_gathered

        return iter_gathered(self, wanted, after=after, reverse=reverse)

    async def query_runs(
        self,
        wanted: RunFilter,
        *,
        after: Position | None = None,
        limit: int = 50,
        reverse: bool = False,
    ) -> Page[RunSummary]:
        """Return one page of `iter_runs`: at most `limit` runs, and where the next page begins."""
        check_page(limit)
        runs: list[RunSummary] = []
        async for run in self.iter_runs(wanted, after=after, reverse=reverse):
            if len(runs) == limit:
                return Page(tuple(runs), (runs[-1].created_at, runs[-1].run_id) if runs else after)
            runs.append(run)
        return Page(tuple(runs))

    async def count_runs(self, wanted: RunFilter) -> int:
        """Return how many runs `wanted` admits."""
        count = 0
        async for _ in self.iter_runs(wanted, ordered=False, details=False):
            count += 1
        return count

    async def count_started(self, wanted: RunFilter, since: datetime) -> tuple[int, int]:
        """Return how many runs `wanted` admits, and how many of them started since `since`.

        The default counts twice.
        """
        least = since if wanted.since is None else max(since, wanted.since)
        return await self.count_runs(wanted), await self.count_runs(wanted._replace(since=least))

    async def read_activity(self, wanted: RunFilter) -> Sequence[tuple[str, datetime | None]]:
        """Return the runs that `wanted` admits, in no order: each id with its last update.

        The default goes through `iter_runs`.
        """
        runs = self.iter_runs(wanted, ordered=False, details=False)
        return [(run.run_id, run.updated_at) async for run in runs]

    async def read_statuses(self) -> frozenset[str]:
        """Return every status that a run of the store has, as `iter_runs` tells it; there may be a few more.

        The default goes through `iter_runs`.
        """
        return frozenset({run.status async for run in self.iter_runs(RunFilter(), ordered=False, details=False)})

    async def find_run_ids(self, prefix: str, limit: int = 10) -> list[str]:
        """Return up to `limit` run ids that begin with `prefix`, in order of the id.

        The default knows only whole ids.
        """
        check_prefix(prefix, limit)
        return [prefix][:limit] if await self.load_state(prefix) is not None else []

    async def read_run(self, run_id: str) -> RunDetail | None:
        """Return all about one run, or None if no table knows the id.

        The input of a step is that of its row, else `step_input` of the span of its name.
        """
        from flujo_lens.state.backends.core.fallbacks import gather_run

        return await gather_run(self, run_id)

    async def read_summaries(self, run_ids: Sequence[str]) -> Sequence[RunSummary]:
        """Return the runs with these ids, with details, in their order; ids that no table knows are left out."""
        found = [await self.read_run(run_id) for run_id in run_ids]
        return [detail.run for detail in found if detail is not None]

    async def read_spans(self, run_id: str) -> Sequence[Span]:
        """Return the spans of a run as roots with children; an empty sequence if there are none."""
        from flujo_lens.state.backends.core.fallbacks import gather_spans

        return await gather_spans(self, run_id)

    async def read_stats(self, wanted: RunFilter) -> Stats:
        """Return counts, durations and failures over the runs that `wanted` admits."""
        from flujo_lens.state.aggregate import aggregate

        return await aggregate(self.iter_runs(wanted, ordered=False), wanted)

    async def read_pipelines(self, wanted: RunFilter, known: KnownCosts | None = None) -> Sequence[PipelineStats]:
        """Return `Stats.by_pipeline` of `read_stats` alone, for which a driver may leave the failures unread.

        Args:
            wanted: The filter.
            known: The costs that earlier calls of this process read. A driver that reads costs out of the states of
                runs may take those of ended runs from it, and add those that it reads; others ignore it.
        """
        return (await self.read_stats(wanted)).by_pipeline

    async def read_grouped_stats(self, wanted: RunFilter, grouping: Grouping, *, whole: bool = True) -> Stats:
        """Return `read_stats` with ``groups``: the runs that agree in what `grouping` names.

        Grouped by step or model, it is the executions of steps that the groups count. Groups of days or hours are in
        their order, others the largest first.

        The default goes through `iter_runs` or `iter_steps`.

        Args:
            wanted: The filter.
            grouping: What is grouped by.
            whole: Whether pipelines and failures are asked for, too.
        """
        from flujo_lens.state.groups import GroupedTally

        tally = GroupedTally(grouping)
        if grouping.of_steps:
            async for run, steps in self.iter_steps(wanted, models="model" in grouping.by):
                tally.add_steps(run, steps)
        else:
            async for run in self.iter_runs(wanted, ordered=False):
                tally.add(run)
        return tally.stats(wanted)

    async def iter_steps(
        self, wanted: RunFilter, *, models: bool = False
    ) -> AsyncIterator[tuple[RunSummary, Sequence[StepRecord]]]:
        """Yield the runs that `wanted` admits with their executed steps, in no order; outputs may be left out.

        The default reads run by run.

        Args:
            wanted: The filter.
            models: Whether the models of steps are looked up in the spans, where the steps do not tell.
        """
        from flujo_lens.state.costs import with_models
        from flujo_lens.state.traces import flatten

        async for run in self.iter_runs(wanted, ordered=False):
            detail = await self.read_run(run.run_id)
            steps = () if detail is None else detail.steps
            if models and detail is not None and detail.has_spans and not all(step.model for step in steps):
                steps = tuple(with_models(steps, flatten(await self.read_spans(run.run_id))))
            yield run, steps

    async def iter_sort_values(self, wanted: RunFilter, field: str) -> AsyncIterator[tuple[str, float | None]]:
        """Yield the runs that `wanted` admits, in no order: each id with the value of a field of `sorting.SORT_FIELDS`.

        The default goes through `iter_runs`, and cannot tell sizes.
        """
        from flujo_lens.state.sorting import sort_value

        if field == "size":
            raise NotSupportedError.of(type(self), "iter_sort_values", "sorting by size")
        light = field in ("started", "updated")
        async for run in self.iter_runs(wanted, ordered=False, details=not light):
            yield run.run_id, sort_value(run, field)

    async def read_span_stats(self, wanted: RunFilter) -> tuple[SpanStats, ...]:
        """Return counts and durations of spans by name, over the runs that `wanted` admits.

        The default asks run by run.
        """
        from flujo_lens.state.backends.core.fallbacks import gather_span_stats

        return await gather_span_stats(self, wanted)

    async def read_evaluations(self, run_id: str | None = None, limit: int = 50) -> Sequence[Evaluation]:
        """Return evaluations, newest first."""
        from flujo_lens.state.backends.core.fallbacks import evaluation_of

        return [evaluation_of(row) for row in await self.list_evaluations(limit=limit, run_id=run_id)]

    async def read_system_state(self) -> Sequence[SystemEntry]:
        """Return all global keys with their values, by key."""
        raise self._lacks("read_system_state")

    async def read_facts(self) -> Mapping[str, Any]:
        """Return what the store knows of itself: ``size_bytes``, ``last_write_at``, ``notes`` (texts)."""
        return {}

    async def read_change_token(self) -> Hashable | None:
        """Return a value by which ``lens watch`` sees whether the store may have changed, without reading it.

        As long as it stays equal, nothing that operators read has changed: no state, run, step, span, evaluation, key
        or claim, by whatever program. Another value means that something may have changed. It is compared with earlier
        values of this backend object alone, and is asked for every second, so it should cost one small query.
        Nothing is written.

        The default is None: the driver cannot tell, and the caller has to read.
        """
        return None

    # --- who works on a run, and how far it is

    async def claim_run(self, run_id: str, holder: Holder, lease: float) -> Claim:
        """Claim a run for `holder`, if it is free: of concurrent callers, exactly one succeeds.

        A claim is free if there is none, or if it has ended (`Claim.has_ended`): its holder gave no sign for its
        own lease, or is known to be gone. The same holder asking twice does not get it twice. The run need not be
        known. Times are those of this machine's clock (see `flujo_lens.state.claims`). When the process dies
        after it, the claim stays until its process is found to have ended.

        Args:
            run_id: The run.
            holder: Who asks, `Holder.current()` as a rule.
            lease: Seconds that the claim is good for after each sign.

        Returns:
            The claim, which is the only key to `heartbeat`, `release_run` and `save_progress`.

        Raises:
            RunHeldError: another claim has not ended. Nothing was changed.
            ValueError: `lease` is not above 0.
        """
        raise self._lacks("claim_run")

    async def heartbeat(self, claim: Claim) -> Claim:
        """Give a sign: store the present as the claim's `beat_at`, and return the claim with it.

        An expired claim is valid again unless another holder has claimed the run.

        Raises:
            LostClaimError: it is not the run's claim any more. Nothing was changed.
        """
        raise self._lacks("heartbeat")

    async def release_run(self, claim: Claim) -> None:
        """Give the run free. A claim that is lost or released already is no error, and another's stays."""
        raise self._lacks("release_run")

    async def read_claims(self, run_ids: Sequence[str] | None = None) -> Mapping[str, Claim]:
        """Return the stored claims by run (of these runs alone), those that have ended too, of one moment.

        Nothing is written, and a store that has no claims yet has none. A claim that cannot be read is left out.
        """
        raise self._lacks("read_claims")

    async def read_stripped(self, run_ids: Sequence[str]) -> Mapping[str, Stripped]:
        """Return what ``prune --strip`` has dropped of runs, by run: of those that were not saved since.

        Of runs that lost ``outputs`` or ``state`` the rest must not be resumed (`Stripped.can_resume`). The default is
        of a driver that strips nothing.
        """
        return {}

    async def cancel_runs(
        self, run_ids: Sequence[str], *, force: bool = False, keep: BackupCallback | None = None
    ) -> Sequence[str]:
        """Mark runs as cancelled, so that nothing resumes them; history stays. Return the ids of those marked.

        Each run is looked at in the transaction that marks it, which takes the claim on it away: one that is
        completed or cancelled, is unknown, or is claimed by another process stays as it is. On a store of
        several files a process that dies on the way leaves the rest as they were.

        Args:
            run_ids: The runs; marked ones are returned in this order.
            force: Also those that are held. Their holders save nothing more (`LostClaimError`).
            keep: Is handed the records by which `restore` makes the runs what they were, before they are marked. A run
                that changed since it was marked stays as it is then.

        Raises:
            NotSupportedError: `keep` is given, and the driver cannot do that; nothing was marked.

        The default loads and saves the state of one run after the other, and ends it by `save_run_end`; what is
        saved in between is lost, and claims stay.
        """
        from flujo_lens.state.backends.core.fallbacks import cancel_gathered

        if keep is not None:
            raise self._lacks("cancel_runs")
        return await cancel_gathered(self, run_ids, force)

    async def put_manifest(self, digest: str, manifest: JSONObject) -> None:
        """Store the shape of a pipeline under its digest, which names its content: what is there already stays."""
        raise self._lacks("put_manifest")

    async def get_manifest(self, digest: str) -> JSONObject | None:
        """Return the manifest with this digest, or None if there is none. Nothing is written."""
        raise self._lacks("get_manifest")

    async def manifest_of(self, run_id: str) -> str | None:
        """Return the digest of the manifest that a run belongs to, or None. Nothing is written."""
        raise self._lacks("manifest_of")

    async def save_progress(self, progress: Progress) -> None:
        """Save what a runner did since its last save: state, history and manifest, all of it or nothing.

        The parts are saved as by `save_state`, `save_run_start`, `save_step_result`, `save_spans` and
        `save_run_end`, in this order, after the claim was checked. When the process dies on the way, nothing of it
        is there; when this returns, all of it.

        The default is not atomic: it calls these methods in turn, those that the driver has; a death on the way
        leaves the first of them done, beginning with the state. A driver without manifests keeps no binding.

        Raises:
            LostClaimError: `progress.claim` is not held any more. Nothing was saved.
        """
        if progress.claim is not None:
            await self.heartbeat(progress.claim)
        if progress.state is not None:
            await self.save_state(progress.run_id, progress.state)
        if progress.run_start is not None and overrides(type(self), "save_run_start"):
            await self.save_run_start({**progress.run_start, "run_id": progress.run_id})
        if progress.step is not None and overrides(type(self), "save_step_result"):
            await self.save_step_result({**progress.step, "run_id": progress.run_id})
        if progress.spans and overrides(type(self), "save_spans"):
            await self.save_spans(progress.run_id, list(progress.spans))
        if progress.run_end is not None and overrides(type(self), "save_run_end"):
            await self.save_run_end(progress.run_id, progress.run_end)

    async def group_resumable(self, wanted: RunFilter) -> Sequence[ResumableGroup]:
        """Return the runs that `wanted` admits and that could still resume, by their shape and place.

        Those are the paused, failed and running ones by their effective status (a cancelled one is not), without
        background tasks. Groups are ordered by their fields; the memory taken grows with their number, not with
        that of the runs. Nothing is written.

        The default goes through `iter_runs`, and reads those without a manifest one by one.
        """
        from flujo_lens.state.resumable import group_runs

        return await group_runs(self, wanted)

    # --- upkeep

    async def plan_migration(self, now: datetime) -> MigrationPlan:
        """Return what `migrate` would do at `now`. Nothing is written, and no file is left next to the store.

        Raises:
            SchemaError: the schema of the store is newer, or unknown.
        """
        raise self._lacks("plan_migration")

    async def migrate(self, now: datetime, *, backup: bool = True, force: bool = False) -> Migration:
        """Bring the store to the newest schema, all of it or nothing; up to date already, do nothing.

        Args:
            now: The current time, in UTC; a backup is named by it.
            backup: Whether to make a copy first, which is whole and on the disk before anything is changed.
            force: Do it also while another process has the store open, where that matters.

        Raises:
            BusyError: another process has the store open, or with `force`, holds a lock.
            OperationFailedError: there is no room for it, or a write failed.
            StoreError: as `plan_migration`, or the store cannot be written.
        """
        raise self._lacks("migrate")

    async def check(self, now: datetime, silent_after: timedelta, *, full: bool = False) -> Sequence[Finding]:
        """Look for what is wrong with the store, and return one finding a check. Nothing is written.

        Args:
            now: The current time.
            silent_after: How long a run that is said to run may be without a save.
            full: Look at everything, however long that takes, where else a part has to do.
        """
        raise self._lacks("check")

    async def repair(self, checks: Sequence[str]) -> Sequence[Repaired]:
        """Do what the findings of these checks name as their `repair`: nothing of it can lose anything.

        Each is done by itself, all of it or nothing, and one that cannot be done (a lock, a missing right) does not
        keep the others from being done. What needs no mending any more is left out.
        """
        raise self._lacks("repair")

    async def plan_optimization(self, *, vacuum: bool = False) -> OptimizationPlan:
        """Return what `optimize` would do. Nothing is written.

        Raises:
            SchemaError: the schema of the store is newer, or unknown.
        """
        raise self._lacks("plan_optimization")

    async def optimize(self, *, vacuum: bool = False, force: bool = False) -> Optimized:
        """Make what lists and statistics are read by: indexes and figures about them, all of it or nothing.

        Args:
            vacuum: Then also give back what is free, see `plan_optimization` for the room that this needs.
            force: Run even if other processes have the store open; they cannot write until it ends.

        Raises:
            BusyError: another process has the store open, or with `force`, holds a lock.
            OperationFailedError: there is no room for it, or a write failed. What was done before stays.
            StoreError: as `plan_optimization`, or the store cannot be written.
        """
        raise self._lacks("optimize")

    async def vacuum(self, *, force: bool = False) -> tuple[Space, Space]:
        """Give back to the disk what is free in the store; return what it took before and after.

        The default has nothing to give back.

        Args:
            force: Run even if other processes have the store open; they cannot write until it ends.

        Raises:
            BusyError: another process has the store open, or with `force`, holds a lock. Nothing was changed.
            OperationFailedError: there is no room for it, or a write failed. Nothing was changed.
        """
        space = await self.read_space()
        return space, space

    # --- deletion

    async def plan_deletion(self, asked: DeletionRequest) -> DeletionPlan:
        """Return what would be deleted now, and what stays and why. Nothing is written.

        The age of a run is its last update: the newest of its state's and its own times, as an instant. A naive time
        that can be read in several ways is read as the youngest of them.

        The default goes through `iter_runs`, or `read_run` for runs that are named.
        """
        from flujo_lens.state.backends.core.fallback_deletion import plan_gathered

        return await plan_gathered(self, asked)

    async def planned_ids(self, plan: DeletionPlan) -> AsyncIterator[str]:
        """Yield the ids of the runs that a plan of this store would delete, as they were when it was made."""
        for family in plan.choice.all:
            for run_id in family:
                yield run_id

    def delete_planned(
        self, plan: DeletionPlan, *, keep: BackupCallback | None = None, batch_size: int = 100
    ) -> AsyncIterator[Deleted]:
        """Delete what was planned, and yield what each batch did, after it is done.

        Each batch is one short transaction, of whole families; what lies between two of them is the caller's to
        decide, who may stop there. Every run is looked at again inside its batch: one that was saved, paused or
        claimed since the plan stays, as does its family. When the process dies on any line, each run is there whole or
        gone whole, and what is gone was kept before. A run with very many rows goes in several marked transactions;
        interrupted, the next plan has it as `unfinished`.

        Args:
            plan: A plan of this store.
            keep: Is handed all that the runs of a batch have, before they go.
            batch_size: So many runs a transaction at most (a larger family goes in one all the same; one of hundreds
                of runs may go in several, the tasks before the run itself).

        Raises:
            BusyError: another process holds the store; what was yielded is done.
            LensError: what `keep` raised, or the store cannot be written.

        The default deletes run by run, by `delete_run` or else `delete_state`, each as atomically as the driver does
        that, and cannot keep anything: with a `keep` it raises NotSupportedError before it deletes.
        """
        from flujo_lens.state.backends.core.fallback_deletion import delete_gathered

        return delete_gathered(self, plan, keep=keep, batch_size=batch_size)

    async def restore(self, records: Iterable[Record]) -> Restored:
        """Bring back runs from the records that `delete_planned` handed out, as they were.

        `records` may be read from an archive while they are asked for: one run can have more of them than fit into
        memory. They can be gone through several times, on any thread.

        A run is restored whole, in one transaction (one of very many rows in several); a run whose id exists is left
        alone. The records of a run must not be divided between two calls.

        Raises:
            SchemaError: they have something that this store has no place for; nothing was restored of that run.
        """
        raise self._lacks("restore")

    # --- moving runs between stores (see `flujo_lens.state.portable`)

    async def create_store(self) -> None:
        """Make an empty store if there is none. Of one that is there nothing changes.

        Raises:
            NotAStoreError: there is something else.
        """
        raise self._lacks("create_store")

    async def portable_ids(self, wanted: RunFilter) -> AsyncIterator[str]:
        """Yield the ids of the runs that `wanted` admits, the oldest start first.

        The default reads pages, so that nothing is held open while the caller does other things, of runs that are
        read no further than the filter asks for.
        """
        after: Position | None = None
        while True:
            page: list[RunSummary] = []
            pages = self.iter_runs(wanted, after=after, reverse=True, details=needs_details(wanted))
            async with aclosing(pages) as runs:  # type: ignore[type-var]
                async for run in runs:
                    page.append(run)
                    if len(page) >= _PAGE:
                        break
            for run in page:
                yield run.run_id
            if len(page) < _PAGE:
                return
            after = (page[-1].created_at, page[-1].run_id)

    def read_portable(self, run_ids: Sequence[str]) -> AsyncIterator[Record]:
        """Yield the portable records of these runs, those that there are, in their order. Nothing is written.

        A run that cannot be moved has one record with the ``problem``. The manifest that several runs belong to is in
        the record of the first.
        """
        raise self._lacks("read_portable")

    @classmethod
    def portable_records(cls, records: Iterable[Record], zone: tzinfo | None = None) -> Iterator[Record]:
        """Yield the portable form of records that `delete_planned` of this driver handed out, of whole runs.

        Args:
            records: The records.
            zone: The zone of naive times; None for what they tell themselves, else this machine's.

        Raises:
            ValueError, TypeError, KeyError: they do not have the form of such records.
        """
        raise NotSupportedError.of(cls, "portable_records")

    @classmethod
    def portable_fields(cls) -> Mapping[str, frozenset[str]] | None:
        """Return the fields of portable documents that the store can hold, by ``state``, ``run``, ``steps``, ...

        None: any. Others must be left out before `write_portable`.
        """
        return None

    async def write_portable(self, records: Iterable[Record], *, replace: bool = False) -> Restored:
        """Save runs from portable records; makes the store if there is none.

        Each run is saved whole or not at all, also if the process dies on any line. The records can be gone through
        several times, on any thread; those of a run must not be divided between two calls.

        Args:
            records: The records.
            replace: Whether runs that exist are replaced; else they are left alone.

        Raises:
            SchemaError: they have something that this store has no place for; nothing was saved of that run.
        """
        raise self._lacks("write_portable")

    async def read_space(self) -> Space:
        """Return what the store takes of the disk, and what of that it can use again without growing.

        The default knows no more than `read_facts`.
        """
        from flujo_lens.state.maintenance import Space

        return Space(int((await self.read_facts()).get("size_bytes") or 0), 0)

    def _lacks(self, method: str) -> NotSupportedError:
        return NotSupportedError.of(type(self), method)
