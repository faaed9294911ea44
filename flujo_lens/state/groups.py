"""Grouping of runs, and of the executions of their steps, by what they have in common."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Any, NamedTuple

from flujo_lens.errors import UnknownValueError, UsageError
from flujo_lens.state.aggregate import ENDED, Costs, Histogram, RunGroup, RunTally, by_size
from flujo_lens.state.filtering import meta_text
from flujo_lens.state.fingerprint import normalise_error
from flujo_lens.state.statistics import GroupStats, Stats
from flujo_lens.state.timestamps import parse_instant
from flujo_lens.state.views import UNREADABLE, RunFilter, RunSummary, StepRecord

DIMENSIONS = ("pipeline", "version", "status", "day", "hour", "error", "step", "model")
META = "meta:"
_OF_STEPS = frozenset({"step", "model"})
_IN_DETAILS = frozenset({"error"})
MOST_GROUPS = 20_000
"""After this many groups, the rest are counted as one: an error or a metadata value can differ in every run."""

OTHERS = "(others)"
_HOUR, _MINUTE, _MINUTES = len("2026-11-30T13"), len("2026-11-30T13:05"), slice(14, 16)
_MOST_KNOWN = 20_000


class Moment(NamedTuple):
    """A start as groups show it: the day and hour in the user's zone, and which part of each it lies in.

    `hour` is the beginning of the hour as a UTC time.
    """

    day: str
    hour: str
    hour_of_day: int
    part_of_hour: int


class Grouping(NamedTuple):
    """What runs are grouped by: names of `DIMENSIONS`, or ``meta:KEY``. `zone` is that of days and hours."""

    by: tuple[str, ...]
    zone: tzinfo = UTC

    @property
    def of_steps(self) -> bool:
        """Whether executions of steps are grouped in place of runs."""
        return not _OF_STEPS.isdisjoint(self.by)

    @property
    def of_time(self) -> str | None:
        """The finest unit of time in it: ``hour``, ``day`` or None."""
        return next((unit for unit in ("hour", "day") if unit in self.by), None)

    @property
    def needs_details(self) -> bool:
        """Whether it asks for what is inside the blobs of a run, apart from its cost."""
        return any(name in _IN_DETAILS or name.startswith(META) for name in self.by)

    @property
    def has_whole_hours(self) -> bool:
        """Whether hours in its zone begin where they begin in UTC."""
        offset = datetime.now(self.zone).utcoffset() or timedelta(0)
        return offset % timedelta(hours=1) == timedelta(0)

    def moment(self, start: datetime | None) -> Moment | None:
        """A start in the zone of this grouping; None for a run without a readable one."""
        if start is None:
            return None
        return _moment(start.replace(second=0, microsecond=0), self.zone)


@lru_cache(maxsize=4096)
def _moment(start: datetime, zone: tzinfo) -> Moment:
    try:
        there = start.astimezone(zone)
    except (OverflowError, ValueError, OSError):
        there = start.astimezone(UTC)
    begin = (there - timedelta(minutes=there.minute)).astimezone(UTC)
    return Moment(f"{there:%Y-%m-%d}", f"{begin:%Y-%m-%dT%H:%M:%SZ}", there.hour, there.minute // 5)


def parse_grouping(names: Iterable[str], zone: tzinfo) -> Grouping:
    """The grouping of ``--by a --by b`` or ``--by a,b``.

    Raises:
        UnknownValueError: a name is unknown.
        UsageError: ``meta:`` without a key.
    """
    found: list[str] = []
    for name in (part.strip() for text in names for part in _parts(text)):
        if name == META or name == META[:-1]:
            raise UsageError("--by meta: needs a key", hint="for example --by meta:customer")
        if name not in DIMENSIONS and not name.startswith(META):
            raise UnknownValueError.of("--by", name, (*DIMENSIONS, "meta:KEY"))
        found.append(name)
    return Grouping(tuple(dict.fromkeys(found)), zone)


def _parts(text: str) -> list[str]:
    """The names of one ``--by``; the key of metadata may have commas."""
    return [text] if text.startswith(META) else text.split(",")


class PlainRun(NamedTuple):
    """The figures of a run as an engine reads them for statistics.

    Texts are as they are stored, which may be bytes; `start` is in UTC, if it has no offset.
    """

    run_id: Any
    pipeline_name: Any
    pipeline_version: Any
    status: Any
    start: Any
    duration_ms: float | None
    counts_waiting: bool
    cost_usd: float | None
    tokens: int | None

    def value(self, field: str) -> float | None:
        """What it is sorted by: ``duration`` (None while it runs), ``cost`` or ``tokens``."""
        if field == "duration":
            return None if self.status in ("running", UNREADABLE) else self.duration_ms
        return self.cost_usd if field == "cost" else self.tokens


class GroupTally:
    """Counts, durations, costs and tokens by group. Memory grows with the number of groups, up to `MOST_GROUPS`."""

    def __init__(self, grouping: Grouping) -> None:
        self._grouping = grouping
        self._groups: dict[tuple[str | None, ...], _Group] = {}
        self._getters = tuple(_getter(name) for name in grouping.by)

    def add(self, run: RunSummary) -> None:
        """Count one run."""
        moment = self._moment(run)
        ms = run.duration_ms if run.status in ENDED else None
        group = self.group(tuple(get(run, None, moment) for get in self._getters))
        group.add(run.status, ms, run.counts_waiting, run.cost_usd, run.tokens)
        group.note(self._part(moment))

    def add_plain(self, runs: Iterable[PlainRun]) -> None:
        """Count runs. The moment of an hour, and the group of what SQL tells, are looked up once."""
        timed, by_day = self._grouping.of_time is not None, self._grouping.of_time == "day"
        size = _HOUR if self._grouping.has_whole_hours else _MINUTE
        moments: dict[str, Moment | None] = {}
        known: dict[Any, _Group] = {}
        moment = None
        for _, name, version, status, start, ms, waits, usd, tokens in runs:
            if timed:
                hour = start[:size]
                moment = moments[hour] if hour in moments else moments.setdefault(hour, self._hour(start))
            at = (name, version, status, moment and (moment.day if by_day else moment.hour))
            group = known.get(at) or self._plain_group(known, at, moment)
            group.add(status, ms if status in ENDED else None, waits, usd, tokens)
            if moment is not None:
                part = moment.part_of_hour if size == _MINUTE else int(start[_MINUTES]) // 5
                group.trend[moment.hour_of_day if by_day else part] += 1

    def add_group(self, found: RunGroup) -> None:
        """Count runs that an engine has counted."""
        shown = RunSummary("", found.pipeline_name, found.pipeline_version, found.status, error_message=found.error)
        moment = self._grouping.moment(found.started) if self._grouping.of_time is not None else None
        group = self.group(tuple(get(shown, None, moment) for get in self._getters))
        group.add_group(found)
        group.note(self._part(moment), found.runs)

    def _hour(self, start: Any) -> Moment | None:
        """The moment of a stored start, good for all of its hour, or else its minute."""
        return self._grouping.moment(parse_instant(start))

    def _plain_group(self, known: dict[Any, _Group], at: tuple[Any, ...], moment: Moment | None) -> _Group:
        """The group of a name, a version, a status and a moment, which is remembered."""
        if len(known) > _MOST_KNOWN:
            known.clear()
        name, version, status = map(_text, at[:3])
        shown = RunSummary("", name, version, status)
        found = known[at] = self.group(tuple(get(shown, None, moment) for get in self._getters))
        return found

    def _moment(self, run: RunSummary) -> Moment | None:
        return self._grouping.moment(run.created_at) if self._grouping.of_time is not None else None

    def add_steps(self, run: RunSummary, steps: Sequence[StepRecord]) -> None:
        """Count the executed steps of a run."""
        moment = self._moment(run)
        for step in steps:
            group = self.group(tuple(get(run, step, moment) for get in self._getters))
            group.add(step.status, step.duration_ms, False, step.cost_usd, step.token_counts)
            group.note(self._part(moment))

    def _part(self, moment: Moment | None) -> int | None:
        if moment is None or self._grouping.of_time is None:
            return None
        return moment.part_of_hour if self._grouping.of_time == "hour" else moment.hour_of_day

    def group(self, key: tuple[str | None, ...]) -> _Group:
        """The group of a key."""
        found = self._groups.get(key)
        if found is None:
            if len(self._groups) >= MOST_GROUPS:
                key = (OTHERS,) * len(key)
            found = self._groups.setdefault(key, _Group(self._grouping.of_time))
        return found

    def groups(self) -> tuple[GroupStats, ...]:
        """The groups: by time, in the order of what they are grouped by; else the largest first.

        Those of runs without a value come last.
        """
        made = [group.stats(key) for key, group in self._groups.items()]
        if self._grouping.of_time is None:
            made.sort(key=lambda group: (None in group.key, -group.total, *map(_sortable, group.key)))
        else:
            made.sort(key=lambda group: tuple(map(_sortable, group.key)))
        return tuple(made)


class GroupedTally:
    """What `StateBackend.read_grouped_stats` returns, counted run by run.

    Args:
        grouping: What is grouped by; without names, only pipelines are counted.
        whole: Whether pipelines are counted, too.
    """

    def __init__(self, grouping: Grouping, *, whole: bool = True) -> None:
        self._grouping, self._groups, self.runs = grouping, GroupTally(grouping), RunTally()
        self._whole = whole

    def add(self, run: RunSummary, *, failures: bool = True) -> None:
        """Count one run; `failures` as of `RunTally.add`."""
        if self._whole:
            self.runs.add(run, failures=failures)
        if self._grouping.by:
            self._groups.add(run)

    def add_group(self, found: RunGroup) -> None:
        """Count runs that an engine has counted, whose failures are counted apart."""
        if self._whole:
            self.runs.add_group(found)
        if self._grouping.by:
            self._groups.add_group(found)

    def add_plain(self, runs: Iterable[PlainRun]) -> None:
        """Count runs, whose failures are counted apart."""
        if self._whole:
            runs = self._counted(runs)
        if self._grouping.by:
            self._groups.add_plain(runs)
        else:
            deque(runs, maxlen=0)

    def _counted(self, runs: Iterable[PlainRun]) -> Iterator[PlainRun]:
        for run in runs:
            costs = run.cost_usd, run.tokens
            name, status = _text(run.pipeline_name), _text(run.status)
            self.runs.count(name, status, run.duration_ms, run.counts_waiting, costs)
            yield run

    def add_steps(self, run: RunSummary, steps: Sequence[StepRecord]) -> None:
        """Count one run, and its steps."""
        self.runs.add(run)
        self._groups.add_steps(run, steps)

    def stats(self, wanted: RunFilter, bad: str = "runs") -> Stats:
        """The statistics of the counted runs, which match `wanted`; `bad` as of `RunTally.stats`."""
        found, groups = self.runs.stats(wanted, bad), self._groups.groups()
        if not self._whole:
            found = _totals(found, groups)
        return replace(found, by=self._grouping.by, groups=groups)


def _totals(stats: Stats, groups: Iterable[GroupStats]) -> Stats:
    """The statistics with the totals of groups of runs."""
    counts: Counter[str] = Counter()
    costs = Costs()
    for group in groups:
        counts.update(group.by_status)
        costs.add(group.cost_usd, group.tokens)
    by_status = by_size(counts)
    return replace(stats, total=counts.total(), by_status=by_status, cost_usd=costs.rounded, tokens=costs.tokens)


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _sortable(value: str | None) -> tuple[bool, str]:
    return value is None, value or ""


class _Group:
    """One group while it is counted."""

    __slots__ = ("costs", "lengths", "statuses", "trend")

    def __init__(self, unit: str | None) -> None:
        self.statuses: defaultdict[str, int] = defaultdict(int)
        self.lengths = Histogram()
        self.costs = Costs()
        self.trend = [0] * {"hour": 12, "day": 24}.get(unit or "", 0)

    def add(self, status: str, ms: float | None, waits: bool, usd: float | None, tokens: int | None) -> None:
        self.statuses[status] += 1
        if ms is not None:
            self.lengths.add(ms, waits=waits)
        self.costs.add(usd, tokens)

    def add_group(self, found: RunGroup) -> None:
        self.statuses[found.status] += found.runs
        if found.status in ENDED and found.measured:
            self.lengths.add_group(found)
        self.costs.add(found.cost_usd, found.tokens)

    def note(self, part: int | None, count: int = 1) -> None:
        """Count starts in their part of the day or hour."""
        if part is not None:
            self.trend[part] += count

    def stats(self, key: tuple[str | None, ...]) -> GroupStats:
        return GroupStats(
            key=key,
            total=sum(self.statuses.values()),
            by_status=by_size(self.statuses),
            duration_ms=self.lengths.durations(),
            cost_usd=self.costs.rounded,
            tokens=self.costs.tokens,
            trend=tuple(self.trend),
        )


_Getter = Callable[[Any, StepRecord | None, Moment | None], str | None]

_GETTERS: dict[str, _Getter] = {
    "pipeline": lambda run, step, moment: run.pipeline_name,
    "version": lambda run, step, moment: run.pipeline_version,
    "status": lambda run, step, moment: step.status if step is not None else run.status,
    "day": lambda run, step, moment: moment.day if moment else None,
    "hour": lambda run, step, moment: moment.hour if moment else None,
    "error": lambda run, step, moment: _error(run, step),
    "step": lambda run, step, moment: step.step_name if step is not None else run.step_name,
    "model": lambda run, step, moment: step.model if step is not None else None,
}


def _error(run: RunSummary, step: StepRecord | None) -> str | None:
    status, error = (run.status, run.error_message) if step is None else (step.status, step.error)
    return normalise_error(error or "") if status == "failed" else None


def _getter(name: str) -> _Getter:
    if not name.startswith(META):
        return _GETTERS[name]
    key = name.removeprefix(META)
    return lambda run, step, moment: meta_text(run.metadata.get(key))
