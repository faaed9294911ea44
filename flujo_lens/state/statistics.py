"""Counts and durations over many runs. Units as in `flujo_lens.state.views`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from flujo_lens.state.views import RunSummary

DURATION_BOUNDS_MS = (
    *(100.0, 250.0, 500.0, 1_000.0, 2_500.0, 5_000.0, 10_000.0, 30_000.0, 60_000.0, 120_000.0, 300_000.0, 600_000.0),
    *(1_800_000.0, 3_600_000.0, 7_200_000.0, 21_600_000.0, 86_400_000.0, 604_800_000.0),
)
"""The bounds of `PipelineStats.within`: 0.1 seconds to a week. Monitoring keeps them, so they never change."""


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Failed runs with the same normalised error."""

    error: str
    count: int
    first_at: datetime | None
    last_at: datetime | None
    step_name: str | None
    sample_run_id: str


@dataclass(frozen=True, slots=True)
class Durations:
    """Durations in milliseconds; None without ended runs.

    Attributes:
        exact: Whether the percentiles are exact; else they are right to 2 % (logarithmic buckets).
        counts_waiting: Whether the time of waiting for a person is included; None if it is in some of them.
    """

    avg: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    exact: bool = True
    counts_waiting: bool | None = False


@dataclass(frozen=True, slots=True)
class PipelineStats:
    """The runs of a pipeline in all versions. `measured` of them have ended, with `total_ms` in sum.

    `within` has for each of `DURATION_BOUNDS_MS` how many took that long at most; empty if unknown.
    """

    pipeline_name: str
    total: int
    by_status: Mapping[str, int]
    duration_ms: Durations
    measured: int = 0
    total_ms: float = 0.0
    cost_usd: float | None = None
    tokens: int | None = None
    within: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class SpanStats:
    """The spans of a name. `measured` of them have ended, `by_status`, with `total_ms` in sum."""

    name: str
    count: int
    failed: int
    duration_ms: Durations
    by_status: Mapping[str, int] = field(default_factory=dict)
    measured: int = 0
    total_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Stats:
    """Statistics of the runs that match a filter. `stale`: number of those that are stale."""

    total: int
    by_status: Mapping[str, int]
    by_pipeline: tuple[PipelineStats, ...]
    failures: tuple[FailureGroup, ...]
    spans: tuple[SpanStats, ...]
    since: datetime | None = None
    until: datetime | None = None
    problems: tuple[str, ...] = ()
    stale: int = 0
    cost_usd: float | None = None
    tokens: int | None = None
    by: tuple[str, ...] = ()
    groups: tuple[GroupStats, ...] = ()


@dataclass(frozen=True, slots=True)
class GroupStats:
    """The runs (or executions of steps) that agree in what they are grouped by.

    Attributes:
        key: What they agree in, in the order of `Stats.by`; None where it is not recorded.
        total: How many there are.
        by_status: How many by status, the most first.
        duration_ms: Their durations.
        cost_usd, tokens: Their sums, None if none was recorded.
        trend: Grouped by day, the runs that started in each of its hours; by hour, in each of 12 times five minutes.
    """

    key: tuple[str | None, ...]
    total: int
    by_status: Mapping[str, int]
    duration_ms: Durations
    cost_usd: float | None = None
    tokens: int | None = None
    trend: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """The current status of a store. `usual`: average number of failures in earlier windows of the same length."""

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
    since: datetime | None = None
    failed_since: int = 0
    started_since: int = 0

    @property
    def failing_share(self) -> float:
        """Runs that failed since `since`, as a share of those that started."""
        return self.failed_since / max(self.started_since, self.failed_since, 1)


@dataclass(frozen=True, slots=True)
class StoreMetrics:
    """The figures of a store at `read_at`, for monitoring.

    Ages are in seconds, 0 if there is no such run: `waiting_age` since the last update of the run that has waited
    longest for a person, `running_age` since the start of the oldest running run, `stale_age` since the last update of
    the stale run that was updated first. `failures` are those of the last hour by pipeline, `usual_failures` the
    average of the 24 hours before, of all pipelines.
    """

    read_at: datetime
    pipelines: tuple[PipelineStats, ...] = ()
    failures: Mapping[str, int] = field(default_factory=dict)
    usual_failures: float = 0.0
    waiting_age: float = 0.0
    running_age: float = 0.0
    stale_age: float = 0.0
    stale: int = 0
    size_bytes: int | None = None
    last_write_at: datetime | None = None
