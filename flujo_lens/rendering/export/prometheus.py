"""The figures of a store in the text format of Prometheus, written by prometheus-client."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from flujo_lens.errors import MissingExtraError
from flujo_lens.rendering.export.plain_values import plain_text
from flujo_lens.state.statistics import DURATION_BOUNDS_MS, Durations, PipelineStats, StoreMetrics
from flujo_lens.state.views import RUN_STATUSES, UNREADABLE

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

MOST_PIPELINES = 100
"""Pipelines with series of their own, those with the most runs; the others are one, `OTHER`."""

OTHER = "(other)"
_STATUSES = (*RUN_STATUSES, UNREADABLE)


def prometheus_text(
    store: str, figures: StoreMetrics | None, *, errors: int | None = None, seconds: float = 0.0
) -> bytes:
    """The figures in the text format 0.0.4.

    Args:
        store: The value of the label ``store``.
        figures: The figures; None if the store could not be read: ``lens_up`` is 0 then, and the rest is missing.
        errors: How often it could not be read so far; None where that is not known.
        seconds: How long the reading took.

    Raises:
        MissingExtraError: prometheus-client is not installed.
    """
    try:
        from prometheus_client.exposition import generate_latest
    except ImportError as error:
        raise MissingExtraError.of("prometheus-client", "metrics") from error
    families = _Families(plain_text(store))
    collected = list(families.of(figures, errors, seconds))

    class Collected:
        def collect(self) -> Iterable[Any]:
            return collected

    return generate_latest(Collected())


class _Families:
    """The families of one store; each has the label ``store``."""

    def __init__(self, store: str) -> None:
        self._store = store

    def of(self, figures: StoreMetrics | None, errors: int | None, seconds: float) -> Iterator[Any]:
        yield self._gauge("lens_up", "Whether the store could be read (1) or not (0).", int(figures is not None))
        if errors is not None:
            yield self._counter("lens_scrape_errors", "How often the store could not be read.", errors)
        if figures is None:
            return
        yield self._gauge("lens_read_duration_seconds", "How long reading the figures took.", seconds)
        at = figures.read_at.timestamp()
        yield self._gauge("lens_read_timestamp_seconds", "When the figures were read.", at)
        yield from self._pipelines(_grouped(figures.pipelines))
        yield self._by_pipeline(
            "lens_failures_recent",
            "Runs that failed in the last hour, by their last update.",
            _few(figures.failures, [item.pipeline_name for item in _grouped(figures.pipelines)]),
        )
        yield self._gauge(
            "lens_failures_usual", "Failed runs per hour in the 24 hours before the last.", figures.usual_failures
        )
        yield from self._ages(figures)
        yield from self._store_facts(figures)

    def _pipelines(self, pipelines: Sequence[PipelineStats]) -> Iterator[Any]:
        from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily

        runs = GaugeMetricFamily("lens_runs", "Runs in the store.", labels=["store", "pipeline", "status"])
        lengths = HistogramMetricFamily(
            "lens_run_duration_seconds",
            "Time from start to end of the ended runs in the store, exact to 2%.",
            labels=["store", "pipeline"],
        )
        for item in pipelines:
            name = plain_text(item.pipeline_name)
            for status, number in _statuses(item).items():
                runs.add_metric([self._store, name, status], number)
            lengths.add_metric([self._store, name], list(_buckets(item)), item.total_ms / 1000)
        yield runs
        yield lengths
        cost = {item.pipeline_name: item.cost_usd for item in pipelines if item.cost_usd is not None}
        tokens = {item.pipeline_name: item.tokens for item in pipelines if item.tokens is not None}
        yield self._by_pipeline("lens_cost_usd", "Recorded cost of the runs in the store, in US dollars.", cost)
        yield self._by_pipeline("lens_tokens", "Recorded tokens of the runs in the store.", tokens)

    def _ages(self, figures: StoreMetrics) -> Iterator[Any]:
        yield self._gauge(
            "lens_oldest_waiting_seconds",
            "How long the run waits that has waited longest for a person; 0 if none waits.",
            figures.waiting_age,
        )
        yield self._gauge(
            "lens_oldest_running_seconds", "Time since the start of the oldest running run.", figures.running_age
        )
        yield self._gauge("lens_stale_runs", "Stale runs: running, but without activity.", figures.stale)
        yield self._gauge(
            "lens_oldest_stale_seconds", "Time since the last update of the stale run updated first.", figures.stale_age
        )

    def _store_facts(self, figures: StoreMetrics) -> Iterator[Any]:
        if figures.size_bytes is not None:
            yield self._gauge("lens_store_size_bytes", "Size of the store.", figures.size_bytes)
        if figures.last_write_at is not None:
            at = figures.last_write_at.timestamp()
            yield self._gauge("lens_last_write_timestamp_seconds", "When the store was last written.", at)

    def _gauge(self, name: str, about: str, value: float) -> Any:
        from prometheus_client.core import GaugeMetricFamily

        return self._single(GaugeMetricFamily, name, about, value)

    def _counter(self, name: str, about: str, value: float) -> Any:
        from prometheus_client.core import CounterMetricFamily

        return self._single(CounterMetricFamily, name, about, value)

    def _single(self, family: Callable[..., Any], name: str, about: str, value: float) -> Any:
        made = family(name, about, labels=["store"])
        made.add_metric([self._store], value)
        return made

    def _by_pipeline(self, name: str, about: str, values: Mapping[str, float]) -> Any:
        from prometheus_client.core import GaugeMetricFamily

        made = GaugeMetricFamily(name, about, labels=["store", "pipeline"])
        for pipeline, value in values.items():
            made.add_metric([self._store, plain_text(pipeline)], value)
        return made


def _statuses(item: PipelineStats) -> dict[str, int]:
    """The counts of the statuses that are always there, so that no series comes and goes; others are one."""
    made = dict.fromkeys(RUN_STATUSES, 0)
    for status, number in item.by_status.items():
        known = status if status in _STATUSES else OTHER
        made[known] = made.get(known, 0) + number
    return made


def _buckets(item: PipelineStats) -> Iterator[tuple[str, float]]:
    within = item.within or (0,) * len(DURATION_BOUNDS_MS)
    for bound, number in zip(DURATION_BOUNDS_MS, within, strict=True):
        yield str(bound / 1000), number
    yield "+Inf", item.measured


def _grouped(pipelines: Sequence[PipelineStats]) -> Sequence[PipelineStats]:
    """The largest pipelines, and one for all others."""
    if len(pipelines) <= MOST_PIPELINES:
        return pipelines
    kept = sorted(pipelines, key=lambda item: (-item.total, item.pipeline_name))
    return [*kept[: MOST_PIPELINES - 1], _joined(kept[MOST_PIPELINES - 1 :])]


def _joined(pipelines: Sequence[PipelineStats]) -> PipelineStats:
    """Pipelines as one, without averages."""
    by_status: Counter[str] = Counter()
    for item in pipelines:
        by_status.update(item.by_status)
    costs = [item.cost_usd for item in pipelines if item.cost_usd is not None]
    tokens = [item.tokens for item in pipelines if item.tokens is not None]
    return PipelineStats(
        pipeline_name=OTHER,
        total=sum(item.total for item in pipelines),
        by_status=by_status,
        duration_ms=Durations(),
        measured=sum(item.measured for item in pipelines),
        total_ms=sum(item.total_ms for item in pipelines),
        cost_usd=sum(costs) if costs else None,
        tokens=sum(tokens) if tokens else None,
        within=tuple(map(sum, zip(*(item.within for item in pipelines if item.within), strict=True))),
    )


def _few(counts: Mapping[str, int], names: Sequence[str]) -> dict[str, int]:
    """Counts by these names, 0 where there is none; those of other names are one."""
    made = dict.fromkeys(names, 0)
    for name, number in counts.items():
        known = name if name in made else OTHER
        made[known] = made.get(known, 0) + number
    return made
