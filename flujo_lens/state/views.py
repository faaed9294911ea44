"""What operators read: frozen values, made at a driver's border and rendered without further look-ups.

Units: durations in milliseconds, costs in US dollars, times as aware `datetime` in UTC. None means that the
store does not tell. Stdlib only: nothing here may cost start-up time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

__all__ = [
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

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RunSummary:
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
    metadata: Mapping[str, Any] = field(default_factory=dict)
    background_error: str | None = None
    tasks: Mapping[str, int] = field(default_factory=dict)
    """Background tasks of this run by status (filled where a page of runs is read, else empty)."""
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RunFilter:
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


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A page of a longer list. `next` is where the following page begins, None at the end."""

    items: tuple[T, ...]
    next: tuple[datetime | None, str] | None = None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StepRecord:
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


@dataclass(frozen=True, slots=True)
class Pause:
    """What a paused run waits for."""

    step: str | None
    message: str | None


@dataclass(frozen=True, slots=True)
class RunDetail:
    """One run with all that `show` tells. `state` is the whole saved document, None if there is none."""

    run: RunSummary
    steps: tuple[StepRecord, ...] = ()
    state: Mapping[str, Any] | None = None
    pause: Pause | None = None
    children: tuple[RunSummary, ...] = ()
    final_output: Any = None
    has_spans: bool = False


@dataclass(frozen=True, slots=True)
class Span:
    """One span; offsets count from the start of its own root. `started_at` is wall time where known."""

    span_id: str
    parent_span_id: str | None
    name: str
    status: str
    start_offset_ms: float | None
    duration_ms: float | None
    started_at: datetime | None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    children: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Failed runs that have one normalised error."""

    error: str
    count: int
    first_at: datetime | None
    last_at: datetime | None
    step_name: str | None
    sample_run_id: str


@dataclass(frozen=True, slots=True)
class Durations:
    """Milliseconds. Percentiles are exact to 2 % (logarithmic buckets); None without a measured run."""

    avg: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


@dataclass(frozen=True, slots=True)
class PipelineStats:
    """The runs of one pipeline, all its versions."""

    pipeline_name: str
    total: int
    by_status: Mapping[str, int]
    duration_ms: Durations


@dataclass(frozen=True, slots=True)
class SpanStats:
    """The spans of one name."""

    name: str
    count: int
    failed: int
    duration_ms: Durations


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts and durations over the runs that a filter admits."""

    total: int
    by_status: Mapping[str, int]
    by_pipeline: tuple[PipelineStats, ...]
    failures: tuple[FailureGroup, ...]
    spans: tuple[SpanStats, ...]
    since: datetime | None = None
    until: datetime | None = None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """How a store is doing now. `usual` is the failures of a usual window of the same length."""

    store: str
    last_write_at: datetime | None
    failing: tuple[FailureGroup, ...]
    silent: tuple[RunSummary, ...]
    waiting_count: int
    oldest_waiting: RunSummary | None
    size_bytes: int | None
    runs: int
    usual: float | None = None
    silent_count: int = 0
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A stored score of a run or of one of its steps."""

    run_id: str
    step_name: str | None
    score: float | None
    feedback: str | None
    metadata: Any
    created_at: datetime | None


@dataclass(frozen=True, slots=True)
class SystemEntry:
    """A global key and its value."""

    key: str
    value: Any
    updated_at: datetime | None
