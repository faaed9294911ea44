"""What operators read: immutable values, made at a driver's border and rendered without further look-ups.

Units: durations in milliseconds, costs in US dollars, times as aware `datetime` in UTC. None means that the
store does not tell. Named tuples, for they are made by the thousand and a class of them costs a fifth of a
dataclass at start. Counts over many runs are in `flujo_lens.state.statistics`; their names are found here too.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from flujo_lens.state.statistics import (
        Durations,
        FailureGroup,
        PipelineStats,
        SpanStats,
        Stats,
        StoreStatus,
    )

__all__ = [
    "EMPTY",
    "GONE",
    "NO_SIGN",
    "RUN_STATUSES",
    "SPAN_STATUSES",
    "UNREADABLE",
    "Durations",
    "Evaluation",
    "FailureGroup",
    "Page",
    "Pause",
    "PipelineStats",
    "RunDetail",
    "RunFilter",
    "RunSummary",
    "Span",
    "SpanStats",
    "Stats",
    "StepRecord",
    "StoreStatus",
    "SystemEntry",
]

RUN_STATUSES = ("running", "paused", "completed", "failed", "cancelled")
SPAN_STATUSES = ("running", "paused", "completed", "failed")
UNREADABLE = "unreadable"
"""The status of a run of which there is something that cannot be read."""
GONE = "process gone"
"""Why a run is stale: the process that claims it is known to be dead."""
NO_SIGN = "no sign"
"""Why a run is stale: it was not saved for long, and no process that is known to live claims it."""

EMPTY: Mapping[str, Any] = MappingProxyType({})
_FIGURES = frozenset({"Durations", "FailureGroup", "PipelineStats", "SpanStats", "Stats", "StoreStatus"})

T = TypeVar("T")


def __getattr__(name: str) -> Any:
    if name in _FIGURES:
        from flujo_lens.state import statistics

        return getattr(statistics, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class RunSummary(NamedTuple):
    """One run as any table knows it.

    `status` is the one to act on: the state's where there is one, the run's otherwise, and ``cancelled``
    where the state says failed, the run says completed and no step failed. `step_name` is where the run
    stands: the step that waits, failed or runs. `duration_ms` is wall time from start to the last save.
    `problems` names what could not be read.
    """

    run_id: str
    pipeline_name: str = "unknown"
    pipeline_version: str = "latest"
    status: str = "running"
    created_at: datetime | None = None
    updated_at: datetime | None = None
    duration_ms: float | None = None
    current_step_index: int | None = None
    step_name: str | None = None
    total_steps: int | None = None
    error_message: str | None = None
    pause_message: str | None = None
    parent_run_id: str | None = None
    task_id: str | None = None
    is_background_task: bool = False
    metadata: Mapping[str, Any] = EMPTY
    background_error: str | None = None
    tasks: Mapping[str, int] = EMPTY
    """Background tasks of this run by status (filled where a page of runs is read, else empty)."""
    problems: tuple[str, ...] = ()
    holder: str | None = None
    """Who claims this run, as ``pid 4711 on web-1`` (filled by `flujo_lens.state.stale_runs`, as is `stale`)."""
    stale: str | None = None
    """Why a run that is said to run does not: `GONE` or `NO_SIGN`."""


class RunFilter(NamedTuple):
    """Which runs are meant; every field that is set must hold.

    `statuses` are effective ones. `error` is a glob (``*``, ``?``, case-folded), tried on the stored error
    text and on its normalised form. `search` is a case-folded part of the id, pipeline, error or pause
    message. `meta` holds (key, value) texts.
    """

    statuses: frozenset[str] = frozenset()
    pipeline: str | None = None
    version: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    active_since: datetime | None = None
    active_until: datetime | None = None
    meta: tuple[tuple[str, str], ...] = ()
    search: str | None = None
    error: str | None = None
    top_level: bool = False
    tasks_only: bool = False
    parent: str | None = None


class Page(NamedTuple, Generic[T]):
    """A page of a longer list. `next` is where the following page begins, None at the end."""

    items: tuple[T, ...]
    next: tuple[datetime | None, str] | None = None
    problems: tuple[str, ...] = ()


class StepRecord(NamedTuple):
    """One execution of a step, joined from the steps' table and the state's step history."""

    step_index: int | None
    step_name: str
    status: str
    output: Any = None
    error: str | None = None
    cost_usd: float | None = None
    token_counts: int | None = None
    duration_ms: float | None = None
    attempts: int | None = None
    created_at: datetime | None = None
    input: Any = None


class Pause(NamedTuple):
    """What a paused run waits for."""

    step: str | None
    message: str | None


class RunDetail(NamedTuple):
    """One run with all that `show` tells. `state` is the whole saved document, None if there is none."""

    run: RunSummary
    steps: tuple[StepRecord, ...] = ()
    state: Mapping[str, Any] | None = None
    pause: Pause | None = None
    children: tuple[RunSummary, ...] = ()
    final_output: Any = None
    has_spans: bool = False


class Span(NamedTuple):
    """One span; offsets count from the start of its own root. `started_at` is wall time where known."""

    span_id: str
    parent_span_id: str | None
    name: str
    status: str
    start_offset_ms: float | None
    duration_ms: float | None
    started_at: datetime | None
    attributes: Mapping[str, Any] = EMPTY
    children: tuple[Span, ...] = ()


class Evaluation(NamedTuple):
    """A stored score of a run or of one of its steps."""

    run_id: str
    step_name: str | None
    score: float | None
    feedback: str | None
    metadata: Any
    created_at: datetime | None


class SystemEntry(NamedTuple):
    """A global key and its value."""

    key: str
    value: Any
    updated_at: datetime | None
