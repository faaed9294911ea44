"""Views: immutable values made by drivers and rendered without further queries.

Units: durations in milliseconds, costs in US dollars, times as aware `datetime` in UTC. None means unknown. They are
named tuples, since they are made by the thousand and are cheaper to define than dataclasses. Statistics over many runs
are in `flujo_lens.state.statistics`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, TypeVar

__all__ = [
    "EMPTY",
    "GONE",
    "INACTIVE",
    "RUN_STATUSES",
    "SPAN_STATUSES",
    "UNREADABLE",
    "Evaluation",
    "Page",
    "Pause",
    "RunDetail",
    "RunFilter",
    "RunSummary",
    "Span",
    "StepRecord",
    "SystemEntry",
]

RUN_STATUSES = ("running", "paused", "completed", "failed", "cancelled")
SPAN_STATUSES = ("running", "paused", "completed", "failed")
UNREADABLE = "unreadable"
"""The status of a run with unreadable data."""
GONE = "process gone"
"""Reason of a stale run: its holder is known to be dead."""
INACTIVE = "no sign"
"""Reason of a stale run: it was not saved recently, and is not held by a live process."""

EMPTY: Mapping[str, Any] = MappingProxyType({})
T = TypeVar("T")


class RunSummary(NamedTuple):
    """The summary of a run.

    `status` is the effective status (see `flujo_lens.state.interpret.status_of`). `step_name` is the current step,
    which waits, failed or runs. `duration_ms` is wall time from start to the last save. `problems` describes unreadable
    data.
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
    """Numbers of background tasks of this run by status (only filled when a page of runs is read)."""
    problems: tuple[str, ...] = ()
    holder: str | None = None
    """The holder of the claim, as ``pid 4711 on web-1`` (filled by `flujo_lens.state.stale_runs`, like `stale`)."""
    stale: str | None = None
    """Why a running run is stale: `GONE` or `INACTIVE`; else None."""
    cost_usd: float | None = None
    """The cost of its steps in US dollars, None if none was recorded (only filled when details are read)."""
    tokens: int | None = None
    """The tokens of its steps, likewise."""
    counts_waiting: bool = False
    """Whether `duration_ms` includes the time in which the run waited for a person."""
    size_bytes: int | None = None
    """What the run takes in the store (only filled where it is asked for)."""


class RunFilter(NamedTuple):
    """A filter of runs; every field that is set must match.

    `statuses` are effective statuses. `error` is a glob (``*``, ``?``, ignoring case) for the stored error text or its
    normalised form. `search` is a part of the id, pipeline, error or pause message, ignoring case. `meta` has pairs of
    key and value.
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
    """A page of a list. `next` is the position of the next page, None at the end."""

    items: tuple[T, ...]
    next: tuple[datetime | None, str] | None = None
    problems: tuple[str, ...] = ()


class StepRecord(NamedTuple):
    """An execution of a step, merged from the table of steps and the step history of the state."""

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
    model: str | None = None


class Pause(NamedTuple):
    """The question of a paused run."""

    step: str | None
    message: str | None


class RunDetail(NamedTuple):
    """A run in full, as for ``lens show``. `state` is the saved document, or None."""

    run: RunSummary
    steps: tuple[StepRecord, ...] = ()
    state: Mapping[str, Any] | None = None
    pause: Pause | None = None
    children: tuple[RunSummary, ...] = ()
    final_output: Any = None
    has_spans: bool = False


class Span(NamedTuple):
    """A span; offsets are relative to the start of its root. `started_at` is wall time if known."""

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
    """A stored score of a run or step."""

    run_id: str
    step_name: str | None
    score: float | None
    feedback: str | None
    metadata: Any
    created_at: datetime | None


class SystemEntry(NamedTuple):
    """A key of the system state and its value."""

    key: str
    value: Any
    updated_at: datetime | None
