"""Statistics over runs and spans."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.groups import Grouping
from flujo_lens.state.sorting import Sort
from flujo_lens.state.stale_runs import silent_ids
from flujo_lens.state.statistics import GroupStats, PipelineStats, Stats
from flujo_lens.state.views import RunFilter

T = TypeVar("T", GroupStats, PipelineStats)

FIGURES = ("runs", "failed", "cost", "tokens", "duration", "avg", "p50", "p95", "p99")
"""What groups and pipelines can be sorted by, apart from what they are grouped by; ``duration`` is the average."""


async def statistics(backend: StateBackend, wanted: RunFilter) -> Stats:
    """Counts, durations, costs and failures of the runs that match, and their spans by name."""
    stats, spans = await asyncio.gather(backend.read_stats(wanted), backend.read_span_stats(wanted))
    return replace(stats, spans=spans)


async def with_stale(
    backend: StateBackend, wanted: RunFilter, stats: Stats, now: datetime, silent_after: timedelta
) -> Stats:
    """The statistics with the number of stale runs, those without activity for `silent_after`."""
    if not stats.by_status.get("running"):
        return stats
    return replace(stats, stale=len(await silent_ids(backend, wanted, now - silent_after, now)))


async def grouped_statistics(backend: StateBackend, wanted: RunFilter, grouping: Grouping, *, whole: bool) -> Stats:
    """`statistics` with groups; unless `whole`, only the groups and the totals."""
    if not whole:
        return await backend.read_grouped_stats(wanted, grouping, whole=False)
    stats, spans = await asyncio.gather(backend.read_grouped_stats(wanted, grouping), backend.read_span_stats(wanted))
    return replace(stats, spans=spans)


def sorted_stats(stats: Stats, sort: Sort) -> Stats:
    """The statistics with their groups in the order `sort`, or their pipelines if there are no groups.

    Groups of runs without a value of what they are grouped by come last.
    """
    if stats.by:
        at = stats.by.index(sort.field) if sort.field in stats.by else None
        ordered = _sorted(stats.groups, sort, lambda group: _key(group, sort.field, at))
        return replace(stats, groups=tuple(sorted(ordered, key=lambda group: None in group.key)))
    by_name: Callable[[PipelineStats], Any] = lambda item: item.pipeline_name  # noqa: E731
    key = by_name if sort.field == "pipeline" else lambda item: _figure(item, sort.field)
    return replace(stats, by_pipeline=_sorted(stats.by_pipeline, sort, key))


def newest_groups(stats: Stats, unit: str, count: int) -> tuple[GroupStats, ...]:
    """The groups of the last days or hours, in the order in which they are; `unit` as of `Grouping.of_time`."""
    at = stats.by.index(unit)
    by_age = sorted(range(len(stats.groups)), key=lambda i: (stats.groups[i].key[at] or "", -i), reverse=True)
    return tuple(stats.groups[i] for i in sorted(by_age[:count]))


def _sorted(items: tuple[T, ...], sort: Sort, key: Callable[[T], Any]) -> tuple[T, ...]:
    """The items by `key`; those without a value last, either way."""
    known: list[T] = sorted((item for item in items if key(item) is not None), key=key, reverse=sort.descending)
    unknown: list[T] = [item for item in items if key(item) is None]
    return tuple(known + unknown)


def _key(group: GroupStats, field: str, at: int | None) -> Any:
    return _figure(group, field) if at is None else group.key[at]


def _figure(item: GroupStats | PipelineStats, field: str) -> float | None:
    if field in ("runs", "failed"):
        return item.total if field == "runs" else item.by_status.get("failed", 0)
    if field in ("cost", "tokens"):
        return item.cost_usd if field == "cost" else item.tokens
    lengths = item.duration_ms
    found: dict[str, float | None] = {"p50": lengths.p50, "p95": lengths.p95, "p99": lengths.p99}
    return found.get(field, lengths.avg)
