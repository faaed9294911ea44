"""Following a store or a run: looks at it, and what happened between two of them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Generic, NamedTuple, TypeVar

from flujo_lens.errors import BusyError, LensError, RunNotFoundError, StoreError
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.claims import Claim
from flujo_lens.state.filtering import matches
from flujo_lens.state.stale_runs import RUNNING, Signs, claims_of
from flujo_lens.state.traces import flatten
from flujo_lens.state.views import GONE, RunDetail, RunFilter, RunSummary, Span, StepRecord

T = TypeVar("T")
_PAUSED, _FAILED = frozenset({"paused"}), frozenset({"failed"})
_UNCHANGED_SHARE, _READ_SHARE = 120.0, 4.0
"""A pause is at least this many times as long as looking at an unchanged store (CPU) or reading it (time) took."""

_LONGEST_PAUSE = 30.0


# --- looks at a store


class Look(NamedTuple, Generic[T]):
    """One look at a store.

    Attributes:
        value: What was read, by this look or an earlier one.
        is_new: Whether it was read by this look.
        problem: Why the store cannot be read at the moment; None if it can.
    """

    value: T
    is_new: bool
    problem: LensError | None


async def looks(
    backend: StateBackend,
    read: Callable[[], Awaitable[T]],
    value: T,
    interval: float,
    sleep: Callable[[float], Awaitable[None]],
) -> AsyncIterator[Look[T]]:
    """Look again and again, for ever, and read when the store may have changed.

    A store that goes away is looked for until it is back. Pauses become longer where a look is expensive.

    Args:
        read: Reads what is followed.
        value: What was read before.
        interval: Seconds between looks.
        sleep: Waits for a number of seconds.
    """
    token: Hashable | None = None
    pause, is_new = interval, False
    problem: LensError | None = None
    while True:
        await sleep(pause)
        try:
            token, value, is_new, pause = await _look(backend, read, token, value)
            problem = None
        except (StoreError, BusyError) as error:
            token, is_new, problem, pause = None, False, error, 0.0
        pause = min(max(pause, interval), max(_LONGEST_PAUSE, interval))
        yield Look(value, is_new, problem)


async def _look(
    backend: StateBackend, read: Callable[[], Awaitable[T]], before: Hashable | None, value: T
) -> tuple[Hashable | None, T, bool, float]:
    """The change token, what there is to see, whether that was read anew, and the least pause after it."""
    began, worked = time.monotonic(), time.process_time()
    token = await backend.read_change_token()
    if token is not None and token == before:
        return token, value, False, _UNCHANGED_SHARE * (time.process_time() - worked)
    value = await read()
    return token, value, True, _READ_SHARE * (time.monotonic() - began)


# --- all runs


class Activity(NamedTuple):
    """The runs that are active, or were lately.

    Attributes:
        runs: Running runs, and those that began, or were seen to be updated, since `since`, by id.
        paused: The number of paused runs.
        shown: Paused and other runs to show, with details: running, paused and finished ones, each the newest first.
        claims: The claims on running runs.
        since: The beginning of the time looked at.
    """

    runs: Mapping[str, RunSummary]
    paused: int
    shown: tuple[RunSummary, ...]
    claims: Mapping[str, Claim]
    since: datetime

    def at(self, now: datetime, silent_after: timedelta) -> Activity:
        """The same with holders, and which runs are stale at this time: a process may die without a save."""
        signs = Signs(self.claims, now, silent_after)
        runs = {run_id: signs.of(run) for run_id, run in self.runs.items()}
        return self._replace(runs=runs, shown=tuple(map(signs.of, self.shown)))

    @property
    def waiting(self) -> list[str]:
        """The ids of the paused runs that are shown."""
        return [run.run_id for run in self.shown if run.status in _PAUSED]

    @property
    def running(self) -> dict[str, RunSummary]:
        """The running runs by id."""
        return {run_id: run for run_id, run in self.runs.items() if run.status in RUNNING}


async def read_activity(
    backend: StateBackend,
    wanted: RunFilter,
    now: datetime,
    recent: timedelta,
    limit: int,
    before: Activity | None = None,
) -> Activity:
    """Read what goes on in a store.

    No store finds runs by their last update without reading all of them. So runs are found by their status and start,
    and those that an earlier reading had by their ids.

    Args:
        recent: How long a finished run is shown.
        limit: Maximum number of runs with details, of each kind; with 0, paused runs are not counted.
        before: The reading before this one.
    """
    since = now - recent
    runs: dict[str, RunSummary] = {}
    for asked in _active(wanted, since, is_first=before is None):
        async for run in backend.iter_runs(asked, ordered=False, details=False):
            runs[run.run_id] = run
    if before is not None:
        left = [run_id for run_id in (*before.runs, *before.waiting) if run_id not in runs]
        for run in await backend.read_summaries(left):
            if run.updated_at is not None and run.updated_at >= since and matches(wanted, run):
                runs[run.run_id] = run
    running = [run for run in runs.values() if run.status in RUNNING]
    finished = [run for run in runs.values() if run.status not in RUNNING | _PAUSED]
    paused, waiting = await _read_paused(backend, wanted, limit)
    top = [*_newest(running, _started, limit), *waiting, *_newest(finished, _updated, limit)]
    found = {run.run_id: run for run in await backend.read_summaries([run.run_id for run in top])}
    shown = tuple(found[run.run_id] for run in top if run.run_id in found)
    claims = await claims_of(backend, [run.run_id for run in running]) if running else {}
    return Activity(runs, paused, shown, claims, since)


def _active(wanted: RunFilter, since: datetime, *, is_first: bool) -> Iterator[RunFilter]:
    """The filters of running runs, of those that began lately, and at first of those that failed lately."""
    if not wanted.statuses or wanted.statuses & RUNNING:
        yield wanted._replace(statuses=RUNNING)
    yield wanted._replace(since=since if wanted.since is None else max(since, wanted.since))
    if is_first and (not wanted.statuses or wanted.statuses & _FAILED):
        lately = since if wanted.active_since is None else max(since, wanted.active_since)
        yield wanted._replace(statuses=_FAILED, active_since=lately)


async def _read_paused(backend: StateBackend, wanted: RunFilter, limit: int) -> tuple[int, Sequence[RunSummary]]:
    """The number of paused runs, and the newest of them."""
    if not limit or (wanted.statuses and not wanted.statuses & _PAUSED):
        return 0, ()
    asked = wanted._replace(statuses=_PAUSED)
    page = await backend.query_runs(asked, limit=limit)
    return len(page.items) if page.next is None else await backend.count_runs(asked), page.items


def _newest(runs: Sequence[RunSummary], when: Callable[[RunSummary], datetime | None], limit: int) -> list[RunSummary]:
    from heapq import nlargest

    def key(run: RunSummary) -> tuple[float, str]:
        moment = when(run)
        return (moment.timestamp() if moment is not None else float("-inf")), run.run_id

    return nlargest(limit, runs, key)


def _started(run: RunSummary) -> datetime | None:
    return run.created_at


def _updated(run: RunSummary) -> datetime | None:
    return run.updated_at


def finished_since(activity: Activity, since: datetime) -> dict[str, int]:
    """The number of runs that finished since an instant, by status."""
    counts: dict[str, int] = {}
    for run in activity.runs.values():
        if run.status not in RUNNING | _PAUSED and run.updated_at is not None and run.updated_at >= since:
            counts[run.status] = counts.get(run.status, 0) + 1
    return counts


# --- one run


class Followed(NamedTuple):
    """A run, its steps and its spans.

    Attributes:
        spans: The roots of its spans.
        claims: The claim on it, if there is one.
    """

    detail: RunDetail
    spans: tuple[Span, ...] = ()
    claims: Mapping[str, Claim] = {}

    def at(self, now: datetime, silent_after: timedelta) -> Followed:
        """The run with its holder and whether it is stale at this time."""
        return self._replace(detail=self.detail._replace(run=Signs(self.claims, now, silent_after).of(self.run)))

    @property
    def run(self) -> RunSummary:
        """Its summary."""
        return self.detail.run

    @property
    def has_ended(self) -> bool:
        """Whether it does not run any more: it is finished, or waits for a person."""
        return self.run.status not in RUNNING

    @property
    def is_gone(self) -> bool:
        """Whether it is said to run, and its process is known to be dead."""
        return self.run.stale == GONE


async def read_followed(backend: StateBackend, run_id: str) -> Followed:
    """Read a run.

    Raises:
        RunNotFoundError: it was deleted.
    """
    detail = await backend.read_run(run_id)
    if detail is None:
        raise RunNotFoundError(f'run "{run_id}" was deleted while it was watched', run_id=run_id)
    spans = tuple(await backend.read_spans(run_id)) if detail.has_spans else ()
    claims = await claims_of(backend, [run_id]) if detail.run.status in RUNNING else {}
    return Followed(detail, spans, claims)


# --- events


class Event(NamedTuple):
    """Something that happened to a run.

    Attributes:
        at: When, as far as the store tells; else when it was seen.
        event: ``running`` (when the watch began), ``started``, ``resumed``, ``paused``, ``completed``, ``failed``,
            ``cancelled``, ``stale``, ``deleted``, ``step``, ``span``, ``store_lost`` or ``store_back``.
        run: The run; None for an event of the store.
        step, span: Of a ``step`` or ``span``.
        message: The error, question or reason.
    """

    at: datetime | None
    event: str
    run: RunSummary | None = None
    step: StepRecord | None = None
    span: Span | None = None
    message: str | None = None


def _event(run: RunSummary, kind: str) -> Event:
    """An event of the status of a run; it has begun with another one than it has now."""
    if kind == "started":
        return Event(run.created_at, kind, run._replace(status="running", step_name=None, duration_ms=None))
    message = run.pause_message if run.status == "paused" else run.error_message
    return Event(run.updated_at, kind, run, message=message if kind == run.status else None)


def first_events(activity: Activity) -> Iterator[Event]:
    """The runs that are active when a watch begins, the oldest first."""
    known = {run.run_id: run for run in activity.shown}
    paused = [run for run in activity.shown if run.status in _PAUSED]
    active = [*activity.running.values(), *paused]
    for run in reversed(_newest(active, _started, len(active))):
        yield _stale_event(run) if run.stale is not None else _event(known.get(run.run_id, run), run.status)


async def activity_events(backend: StateBackend, before: Activity, after: Activity) -> tuple[list[Event], Activity]:
    """What happened between two looks at all runs, in order of time, and the second with what was read for that.

    A run may have gone on between its listing and the reading of its details: its event must not come twice.

    Args:
        backend: The store, for the details of the runs that changed, and to see whether those that vanished exist.
        before, after: The looks.
    """
    changed = [run for run in after.runs.values() if _has_changed(before, run)]
    vanished = [run for run_id, run in before.runs.items() if run_id not in after.runs]
    sought = [run for run in vanished if run.status in RUNNING or (run.updated_at or after.since) >= after.since]
    found = {run.run_id: run for run in await backend.read_summaries([run.run_id for run in (*changed, *sought)])}
    events = [event for run in changed for event in _between(before, found.get(run.run_id, run))]
    events += [Event(None, "deleted", run) for run in sought if run.run_id not in found]
    events += [_event(found[run.run_id], found[run.run_id].status) for run in sought if _is_other(run, found)]
    known = {run.run_id: found.get(run.run_id, run) for run in changed}
    return _in_order(events), after._replace(runs={**after.runs, **known})


def _in_order(events: list[Event]) -> list[Event]:
    return sorted(events, key=lambda event: event.at.timestamp() if event.at is not None else float("inf"))


def stale_events(before: Activity, after: Activity) -> Iterator[Event]:
    """The runs that have become stale, as of `Activity.at`."""
    for run_id, run in after.runs.items():
        old = before.runs.get(run_id)
        if run.stale is not None and (old is None or old.stale is None):
            yield _stale_event(run)


def _stale_event(run: RunSummary) -> Event:
    holder = f" ({run.holder})" if run.holder else ""
    return Event(
        run.updated_at, "stale", run, message=f"process is gone{holder}" if run.stale == GONE else "no activity"
    )


def _is_other(run: RunSummary, found: Mapping[str, RunSummary]) -> bool:
    """Whether a run that a filter admits no longer has another status now."""
    return run.run_id in found and found[run.run_id].status != run.status


def _has_changed(before: Activity, run: RunSummary) -> bool:
    old = before.runs.get(run.run_id)
    return old is None or old.status != run.status


def _between(before: Activity, run: RunSummary) -> Iterator[Event]:
    """The events that led to the present status of a run."""
    old = before.runs.get(run.run_id)
    if run.status in RUNNING:
        is_fresh = old is None and run.created_at is not None and run.created_at >= before.since
        yield _event(run, "started" if is_fresh else "resumed")
        return
    if old is None and run.created_at is not None and run.created_at >= before.since:
        yield _event(run, "started")
    yield _event(run, run.status)


def follow_events(before: Followed | None, after: Followed) -> Iterator[Event]:
    """What happened to a run between two looks; without the first, all that has happened so far."""
    run = after.run
    if before is None:
        yield _event(run, "started")
    elif before.has_ended and not after.has_ended:
        yield _event(run, "resumed")
    steps = _step_events(before.detail.steps if before else (), after)
    yield from _in_order([*steps, *_span_events(before.spans if before else (), after)])
    if after.has_ended and (before is None or before.run.status != run.status):
        yield _event(run, run.status)
    elif run.stale is not None and (before is None or before.run.stale is None):
        yield _stale_event(run)


def _step_events(before: Sequence[StepRecord], after: Followed) -> Iterator[Event]:
    for number, step in enumerate(after.detail.steps):
        old = before[number] if number < len(before) else None
        if old is None or (old.step_name, old.status, old.attempts) != (step.step_name, step.status, step.attempts):
            yield Event(step.created_at or after.run.updated_at, "step", after.run, step=step, message=step.error)


def _span_events(before: Sequence[Span], after: Followed) -> Iterator[Event]:
    old = {span.span_id: span.status for span in flatten(before)}
    for span in flatten(after.spans):
        if old.get(span.span_id) != span.status:
            feedback = span.attributes.get("feedback") if span.status == "failed" else None
            at = span.started_at
            if at is not None and span.duration_ms is not None:
                at += timedelta(milliseconds=span.duration_ms)
            yield Event(
                at or after.run.updated_at, "span", after.run, span=span, message=str(feedback) if feedback else None
            )
