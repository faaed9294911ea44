"""Which failures are new: by the version of a pipeline, or by the hour, against the usual."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

from flujo_lens.operations.failures import failed_runs
from flujo_lens.state.aggregate import Failures
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.fingerprint import normalise_error
from flujo_lens.state.groups import Grouping
from flujo_lens.state.statistics import FailureGroup
from flujo_lens.state.views import RunFilter, RunSummary

BASELINE = 7
"""How many earlier windows of the same length say what is usual."""


@dataclass(frozen=True, slots=True)
class FailureChange:
    """Failures with one error, of a version or an hour.

    Attributes:
        key: Its version, or the hour (see `flujo_lens.state.groups.Moment`).
        group: The failures.
        runs: Runs of that version (or hour) that started in the window.
        usual: Failures with this error in a window before, on average; by version, those of other versions.
        new: Whether it is usual for there to be none.
        compared: Whether there were runs to compare with: of other versions of the pipeline, or before the window.
    """

    pipeline_name: str
    key: str
    group: FailureGroup
    runs: int
    usual: float
    new: bool
    compared: bool = True


async def failure_changes(
    backend: StateBackend, wanted: RunFilter, by: str, begin: datetime, until: datetime, zone: tzinfo
) -> list[FailureChange]:
    """The failures since `begin` by pipeline, by version or hour, and by error: new ones first, then the most frequent.

    Args:
        wanted: The filter; a version in it says whose failures are shown, not what is usual.
        by: ``version`` or ``hour``.
        begin: The begin of the window, which ends at `until`.
        until: Its end; `BASELINE` windows of this length before it say what is usual.
        zone: The zone of hours.
    """
    earlier = begin - BASELINE * max(until - begin, timedelta(minutes=1))
    grouping = Grouping(("pipeline", by), zone)
    found: dict[tuple[str, str, str], Failures] = {}
    before: Counter[tuple[str, str]] = Counter()
    others: Counter[tuple[str, str, str]] = Counter()
    everything = wanted._replace(active_since=earlier, since=None, version=None if by == "version" else wanted.version)
    async for run in failed_runs(backend, everything, ordered=False):
        key, error = _key(grouping, run, by), normalise_error(run.error_message or "")
        in_window = _is_in(wanted, run, begin)
        if by == "version":
            others[run.pipeline_name, error, key] += 1
        elif not in_window:
            before[run.pipeline_name, error] += 1
        if in_window and (by != "version" or wanted.version in (None, run.pipeline_version)):
            found.setdefault((run.pipeline_name, key, error), Failures()).add_run(run)
    runs = await _started(backend, wanted, grouping, begin)
    compared = await _compared(backend, wanted, by, earlier, begin)
    made = []
    for (pipeline, key, error), failures in found.items():
        if by == "version":
            usual = sum(n for (p, e, k), n in others.items() if (p, e) == (pipeline, error) and k != key)
        else:
            usual = before[pipeline, error]
        share = usual / (BASELINE + (by == "version"))
        is_compared = bool(usual or compared.get(pipeline, frozenset()) - {key})
        group, started = failures.groups()[0], runs.get((pipeline, key), 0)
        made.append(FailureChange(pipeline, key, group, started, share, is_compared and not usual, is_compared))
    return sorted(made, key=lambda one: (not one.new, -one.group.count, one.pipeline_name, one.key, one.group.error))


def _key(grouping: Grouping, run: RunSummary, by: str) -> str:
    if by == "version":
        return run.pipeline_version
    moment = grouping.moment(run.updated_at)
    return moment.hour if moment else "-"


def _is_in(wanted: RunFilter, run: RunSummary, begin: datetime) -> bool:
    if wanted.since is not None:
        return run.created_at is not None and run.created_at >= wanted.since
    return run.updated_at is not None and run.updated_at >= begin


async def _started(
    backend: StateBackend, wanted: RunFilter, grouping: Grouping, begin: datetime
) -> dict[tuple[str, str], int]:
    """How many runs started in the window, by pipeline and version or hour."""
    asked = wanted._replace(statuses=frozenset(), error=None, search=None, active_since=None, since=begin)
    stats = await backend.read_grouped_stats(asked, grouping, whole=False)
    return {(str(group.key[0]), str(group.key[1])): group.total for group in stats.groups}


async def _compared(
    backend: StateBackend, wanted: RunFilter, by: str, earlier: datetime, begin: datetime
) -> dict[str, frozenset[str]]:
    """The versions of each pipeline of which runs started since `earlier`; by hour, only before the window."""
    until = None if by == "version" else begin
    asked = wanted._replace(statuses=frozenset(), error=None, search=None, active_since=None, since=earlier)
    asked = asked._replace(until=until, active_until=None, version=None if by == "version" else wanted.version)
    stats = await backend.read_grouped_stats(asked, Grouping(("pipeline", "version"), UTC), whole=False)
    found: dict[str, frozenset[str]] = {}
    for group in stats.groups:
        pipeline = str(group.key[0])
        found[pipeline] = found.get(pipeline, frozenset()) | {str(group.key[1])}
    return found
