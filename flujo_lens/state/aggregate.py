"""Statistics in bounded memory: many durations in logarithmic buckets, failures by normalised error."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import accumulate
from typing import NamedTuple

from flujo_lens.state.costs import DIGITS
from flujo_lens.state.fingerprint import normalise_error
from flujo_lens.state.statistics import DURATION_BOUNDS_MS, Durations, FailureGroup, PipelineStats, SpanStats, Stats
from flujo_lens.state.views import RunFilter, RunSummary, Span

BUCKET_RATIO = 1.02
"""Ratio of the bounds of a bucket: percentiles of many durations are exact to 2 %."""

FEW = 10_000
"""Up to this many durations are kept as they are: their percentiles are exact."""

ENDED = frozenset({"completed", "failed", "cancelled"})
"""Statuses of ended runs, whose duration is final."""

MOST_GROUPS = 5_000
OTHER = "(other errors)"

_STEP = math.log(BUCKET_RATIO)


class RunGroup(NamedTuple):
    """Runs that an engine has counted: they agree in all texts, in `started` and in the bucket of their length.

    Attributes:
        pipeline_name, pipeline_version, status: As of `RunSummary`; what is not asked for is "".
        error: The error as it is stored, of failed runs.
        started: The beginning of the minutes in which they started, if that is asked for.
        waits: Whether their lengths include the time of waiting for a person.
        runs: How many they are.
        measured: How many of them have a length.
        total_ms: The sum of the lengths.
        ends: The least and the greatest of them.
        cost_usd, tokens: Sums, None if nothing was recorded.
    """

    pipeline_name: str
    pipeline_version: str
    status: str
    error: str | None
    started: datetime | None
    waits: bool
    runs: int
    measured: int
    total_ms: float
    ends: tuple[float, float]
    cost_usd: float | None
    tokens: int | None


class FailedGroup(NamedTuple):
    """Failed runs that an engine has counted by error and step; `sample` is the last updated of them."""

    error: str
    step: str
    runs: int
    first_at: datetime
    last_at: datetime
    sample: str


class Histogram:
    """Durations in milliseconds: up to `FEW` as they are, more as counts by bucket.

    Bucket b has values from 1.02**b to 1.02**(b+1).
    """

    __slots__ = ("_few", "buckets", "count", "ranges", "total", "waited", "zeros")

    def __init__(self) -> None:
        self._few: array[float] | None = array("d")
        self.buckets: Counter[int] = Counter()
        self.ranges: dict[int, tuple[float, float]] = {}
        self.count = 0
        self.zeros = 0
        self.total = 0.0
        self.waited = 0
        """How many of the durations include the time of waiting for a person."""

    def add(self, value_ms: float, *, waits: bool = False) -> None:
        """Add a duration. `waits`: it includes the time of waiting for a person."""
        value = value_ms if value_ms > 0 else 0.0
        self.waited += waits
        if self._few is None:
            self._add_to_bucket(value)
            return
        self._few.append(value)
        self.count += 1
        self.total += value
        if self.count > FEW:
            self._fold()

    def _add_to_bucket(self, value: float) -> None:
        bucket = math.floor(math.log(value) / _STEP) if value > 0 else None
        self.add_bucket(bucket, 1, value)

    def _fold(self) -> None:
        """Go over to buckets."""
        few, self._few = self._few or array("d"), None
        self.count, self.total = self.count - len(few), self.total - sum(few)
        for value in few:
            self._add_to_bucket(value)

    def add_bucket(
        self, bucket: int | None, count: int, total_ms: float, ends: tuple[float, float] | None = None
    ) -> None:
        """Add `count` durations of a bucket (None: zero) with the sum `total_ms`; `ends` are the least and greatest."""
        if self._few is not None:
            self._fold()
        self.count += count
        self.total += total_ms
        if bucket is None:
            self.zeros += count
            return
        self.buckets[bucket] += count
        if ends is not None:
            low, high = self.ranges.get(bucket, ends)
            self.ranges[bucket] = min(low, ends[0]), max(high, ends[1])

    def add_all(self, values_ms: Sequence[float]) -> None:
        """Add many durations: they are counted by bucket first, with the least and the greatest of each."""
        if self._few is not None and self.count + len(values_ms) <= FEW:
            for value in values_ms:
                self.add(value)
            return
        found: defaultdict[int | None, list[float]] = defaultdict(list)
        for value in values_ms:
            found[math.floor(math.log(value) / _STEP) if value > 0 else None].append(value)
        for bucket, values in found.items():
            total = 0.0 if bucket is None else sum(values)
            self.add_bucket(bucket, len(values), total, (min(values), max(values)))

    def add_group(self, group: RunGroup) -> None:
        """Add the durations of runs that an engine has counted: of one length each, or of one bucket."""
        low, high = group.ends
        if low == high and self._few is not None and self.count + group.measured <= FEW:
            for _ in range(group.measured):
                self.add(low, waits=group.waits)
            return
        self.waited += group.measured * group.waits
        bucket = math.floor(math.log(low) / _STEP) if low > 0 else None
        self.add_bucket(bucket, group.measured, group.total_ms, group.ends)

    def percentile(self, share: float) -> tuple[float, bool]:
        """The percentile at `share` (0 to 1), and whether it is exact; else it is the middle of its bucket."""
        rank = max(1, math.ceil(share * self.count))
        if self._few is not None:
            return _significant(sorted(self._few)[rank - 1]), True
        passed = self.zeros
        if rank <= passed:
            return 0.0, True
        for bucket in sorted(self.buckets):
            passed += self.buckets[bucket]
            if passed >= rank:
                return self._within(bucket, rank - passed + self.buckets[bucket])
        raise AssertionError("the rank lies within the count")

    def _within(self, bucket: int, rank: int) -> tuple[float, bool]:
        """The duration of a rank (from 1) in a bucket, and whether it is exact, as the least and the greatest are."""
        low, high = self.ranges.get(bucket, (None, None))
        if low is not None and (rank == 1 or low == high):
            return _significant(low), True
        if high is not None and rank == self.buckets[bucket]:
            return _significant(high), True
        return _significant(BUCKET_RATIO ** (bucket + 0.5)), False

    def within(self, bounds: Sequence[float]) -> tuple[int, ...]:
        """How many of the durations are at most each of `bounds`; of many durations, right to 2 %."""
        if self._few is not None:
            ordered = sorted(self._few)
            return tuple(bisect_right(ordered, bound) for bound in bounds)
        known = sorted(self.buckets)
        passed = list(accumulate((self.buckets[bucket] for bucket in known), initial=self.zeros))
        return tuple(passed[bisect_right(known, math.log(bound) / _STEP - 0.5)] for bound in bounds)

    def durations(self) -> Durations:
        """Average and percentiles; empty if nothing was counted."""
        if not self.count:
            return Durations()
        found = [self.percentile(share) for share in (0.5, 0.95, 0.99)]
        p50, p95, p99 = (value for value, _ in found)
        waiting = True if self.waited == self.count else None if self.waited else False
        average = _significant(self.total / self.count)
        return Durations(average, p50, p95, p99, exact=all(exact for _, exact in found), counts_waiting=waiting)


def _significant(value: float) -> float:
    """`value` rounded to its significant digits."""
    return float(f"{value:.6g}")


class Failures:
    """Counts of failed runs by normalised error. After 5,000 different errors, the rest are counted as one."""

    def __init__(self) -> None:
        self._groups: dict[str, _Group] = {}

    def add(self, run_id: str, error: str | None, step: str | None, at: datetime | None) -> None:
        """Count one failed run."""
        self._group(error).add(run_id, step, at)

    def _group(self, error: str | None) -> _Group:
        key = normalise_error(error or "")
        if key not in self._groups and len(self._groups) >= MOST_GROUPS:
            key = OTHER
        return self._groups.setdefault(key, _Group())

    def add_run(self, run: RunSummary) -> None:
        """Count one failed run."""
        self.add(run.run_id, run.error_message, run.step_name, run.updated_at)

    def add_group(self, group: FailedGroup) -> None:
        """Count failed runs that an engine has counted."""
        at = self._group(group.error)
        at.add(group.sample, group.step, group.last_at, group.runs)
        at.first = group.first_at if at.first is None else min(at.first, group.first_at)

    def groups(self) -> tuple[FailureGroup, ...]:
        """The groups, largest first, then latest first."""
        made = [group.view(error) for error, group in self._groups.items()]
        made.sort(key=lambda g: (-g.count, -(g.last_at.timestamp() if g.last_at else 0.0), g.error))
        return tuple(made)

    @property
    def count(self) -> int:
        """Number of runs counted."""
        return sum(group.count for group in self._groups.values())


class _Group:
    __slots__ = ("count", "first", "last", "sample", "steps")

    def __init__(self) -> None:
        self.count = 0
        self.first: datetime | None = None
        self.last: datetime | None = None
        self.sample = ""
        self.steps: Counter[str] = Counter()

    def add(self, run_id: str, step: str | None, at: datetime | None, count: int = 1) -> None:
        self.count += count
        if step and (step in self.steps or len(self.steps) < 100):
            self.steps[step] += count
        if at is not None and (self.first is None or at < self.first):
            self.first = at
        newest = at is not None and (self.last is None or at >= self.last)
        if newest:
            self.last = at
        if newest or not self.sample:
            self.sample = run_id

    def view(self, error: str) -> FailureGroup:
        step = self.steps.most_common(1)[0][0] if self.steps else None
        return FailureGroup(error, self.count, self.first, self.last, step, self.sample)


class Costs:
    """Sums of cost and tokens; None as long as nothing was recorded."""

    __slots__ = ("tokens", "usd")

    def __init__(self) -> None:
        self.usd: float | None = None
        self.tokens: int | None = None

    def add(self, usd: float | None, tokens: int | None) -> None:
        """Add what a run or a step recorded."""
        if usd is not None:
            self.usd = usd if self.usd is None else self.usd + usd
        if tokens is not None:
            self.tokens = tokens if self.tokens is None else self.tokens + tokens

    @property
    def rounded(self) -> float | None:
        """The cost without the noise of adding."""
        return None if self.usd is None else round(self.usd, DIGITS)


def pipeline_stats(
    counts: Mapping[tuple[str, str], int], durations: Mapping[str, Histogram], costs: Mapping[str, Costs] | None = None
) -> tuple[PipelineStats, ...]:
    """Pipelines with their counts by status, the largest first."""
    by_name: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for (name, status), count in counts.items():
        by_name[name][status] = count
    made = [
        _pipeline(name, by, durations.get(name, Histogram()), (costs or {}).get(name, Costs()))
        for name, by in by_name.items()
    ]
    return tuple(sorted(made, key=lambda stats: (-stats.total, stats.pipeline_name)))


def _pipeline(name: str, by: Mapping[str, int], lengths: Histogram, costs: Costs) -> PipelineStats:
    return PipelineStats(
        pipeline_name=name,
        total=sum(by.values()),
        by_status=by_size(by),
        duration_ms=lengths.durations(),
        measured=lengths.count,
        total_ms=lengths.total,
        cost_usd=costs.rounded,
        tokens=costs.tokens,
        within=lengths.within(DURATION_BOUNDS_MS),
    )


def by_size(counts: Mapping[str, int]) -> dict[str, int]:
    """The counts sorted, largest first."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def total_by_status(counts: Iterable[tuple[tuple[str, str], int]]) -> dict[str, int]:
    """Counts by status over all pipelines, the largest first."""
    total: Counter[str] = Counter()
    for (_, status), count in counts:
        total[status] += count
    return by_size(total)


class SpanTally:
    """Counts of spans by name and (if ended) status, and their durations by name."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._ended: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._durations: defaultdict[str, Histogram] = defaultdict(Histogram)

    def add(self, name: str, status: str, duration_ms: float | None) -> None:
        """Add a span; without an end, it has no duration."""
        self._count(name, status, 1, int(duration_ms is not None))
        if duration_ms is not None:
            self._durations[name].add(duration_ms)

    def add_all(self, name: str, status: str, durations_ms: Sequence[float | None]) -> None:
        """Add spans of one name and status with their durations."""
        known = [ms for ms in durations_ms if ms is not None]
        self._count(name, status, len(durations_ms), len(known))
        if known:
            self._durations[name].add_all(known)

    def add_group(
        self,
        name: str,
        status: str,
        spans: int,
        bucket: int | None,
        measured: int,
        total_ms: float,
        ends: tuple[float, float] | None = None,
    ) -> None:
        """Add spans of one name, status and bucket, of which `measured` have a duration, between the two `ends`."""
        self._count(name, status, spans, measured)
        if measured:
            self._durations[name].add_bucket(bucket, measured, total_ms, ends)

    def _count(self, name: str, status: str, spans: int, measured: int) -> None:
        self._counts[name] += spans
        self._failed[name] += spans * (status == "failed")
        if measured:
            self._ended[name][status] += measured

    def stats(self) -> tuple[SpanStats, ...]:
        """The spans by name, the most frequent first."""
        made = [self._of(name, count, self._durations[name]) for name, count in self._counts.items()]
        return tuple(sorted(made, key=lambda stats: (-stats.count, stats.name)))

    def _of(self, name: str, count: int, lengths: Histogram) -> SpanStats:
        return SpanStats(
            name=name,
            count=count,
            failed=self._failed[name],
            duration_ms=lengths.durations(),
            by_status=by_size(self._ended[name]),
            measured=lengths.count,
            total_ms=lengths.total,
        )


def aggregate_spans(traces: Iterable[Iterable[Span]]) -> tuple[SpanStats, ...]:
    """Spans by name, the most frequent first."""
    tally = SpanTally()
    for span in (span for spans in traces for span in spans):
        tally.add(span.name, span.status, span.duration_ms)
    return tally.stats()


class RunTally:
    """Counts of runs by pipeline and status, durations and costs by pipeline, failures by error."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._durations: defaultdict[str, Histogram] = defaultdict(Histogram)
        self._costs: defaultdict[str, Costs] = defaultdict(Costs)
        self.failures = Failures()
        self.bad = 0

    def add(self, run: RunSummary, *, failures: bool = True) -> None:
        """Count one run; without `failures`, its error and its problems are counted apart."""
        self.count(run.pipeline_name, run.status, run.duration_ms, run.counts_waiting, costs=(run.cost_usd, run.tokens))
        if failures and run.status == "failed":
            self.failures.add_run(run)
        if failures:
            self.bad += bool(run.problems)

    def add_failure(self, run: RunSummary) -> None:
        """Count the error and the problems of a failed run, which was counted without them."""
        self.failures.add_run(run)
        self.bad += bool(run.problems)

    def count(
        self, name: str, status: str, ms: float | None, waits: bool, costs: tuple[float | None, int | None]
    ) -> None:
        """Count one run, whose failure and problems are counted apart."""
        self._counts[name, status] += 1
        if status in ENDED and ms is not None:
            self._durations[name].add(ms, waits=waits)
        self._costs[name].add(*costs)

    def add_group(self, group: RunGroup) -> None:
        """Count runs that an engine has counted, whose failures are counted apart."""
        self._counts[group.pipeline_name, group.status] += group.runs
        if group.status in ENDED and group.measured:
            self._durations[group.pipeline_name].add_group(group)
        self._costs[group.pipeline_name].add(group.cost_usd, group.tokens)

    def stats(self, wanted: RunFilter, bad: str = "runs") -> Stats:
        """The statistics of the counted runs, which match `wanted`. `bad` says what is counted as unreadable."""
        pipelines = pipeline_stats(self._counts, self._durations, self._costs)
        total = Costs()
        for pipeline in pipelines:
            total.add(pipeline.cost_usd, pipeline.tokens)
        return Stats(
            total=self._counts.total(),
            by_status=total_by_status(self._counts.items()),
            by_pipeline=pipelines,
            failures=self.failures.groups(),
            spans=(),
            since=wanted.since,
            until=wanted.until,
            problems=(f"{self.bad} {bad} have unreadable parts",) if self.bad else (),
            cost_usd=total.rounded,
            tokens=total.tokens,
        )


async def aggregate(runs: AsyncIterator[RunSummary], wanted: RunFilter) -> Stats:
    """Statistics of `runs`, read one at a time."""
    tally = RunTally()
    async for run in runs:
        tally.add(run)
    return tally.stats(wanted)
