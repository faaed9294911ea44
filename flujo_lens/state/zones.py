"""Inference of the time zone of a store's naive times.

A run has both a naive local time and a UTC time, taken within seconds: their difference is the offset at that time.
Offsets are multiples of a quarter of an hour. A store can have several, after a clock change or a move.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from itertools import pairwise
from typing import NamedTuple

from flujo_lens.state.timestamps import parse_instant

_QUARTER = timedelta(minutes=15)
_FURTHEST = timedelta(hours=14)
_SEASONS = (timedelta(0), timedelta(minutes=30), timedelta(hours=1))
_SEVERAL = 3


class Observed(NamedTuple):
    """An observed offset: a naive local time, and its offset from UTC."""

    local: datetime
    offset: timedelta


def observed(pairs: Iterable[tuple[object, object]]) -> list[Observed]:
    """The offsets observed from pairs of naive local and UTC times of runs, in order.

    Invalid pairs (a missing time, or more than a minute off a quarter of an hour) are skipped.
    """
    found = (_observed(local, utc) for local, utc in pairs)
    return [one for one in found if one is not None]


def _observed(local_text: object, utc_text: object) -> Observed | None:
    local, utc = _naive(local_text), parse_instant(utc_text)
    if local is None or utc is None:
        return None
    apart = local - utc.replace(tzinfo=None)
    rounded = round(apart / _QUARTER) * _QUARTER
    fits = abs(apart - rounded) <= timedelta(minutes=1) and abs(rounded) <= _FURTHEST
    return Observed(local, rounded) if fits else None


def _naive(text: object) -> datetime | None:
    try:
        when = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return when if when is not None and when.tzinfo is None else None


def guess_zone(pairs: Iterable[tuple[object, object]]) -> tzinfo | None:
    """The fixed offset of the first (newest) valid pair; None without one."""
    found = (_observed(local, utc) for local, utc in pairs)
    return next((timezone(one.offset) for one in found if one is not None), None)


def infer_zone(found: Sequence[Observed], machine: tzinfo) -> tzinfo | None:
    """The zone of the writer of a store.

    Args:
        found: All observed offsets of the store.
        machine: The zone of this machine; used if it explains all observed offsets.

    Returns:
        The machine's zone, the only observed offset, the observed offsets by time, or None without any.
    """
    sure = _without_chance(found)
    if not sure:
        return None
    if all(_explains(machine, one) for one in sure):
        return machine
    offsets = {one.offset for one in sure}
    return timezone(offsets.pop()) if len(offsets) == 1 else ObservedZone(sure)


def _without_chance(found: Sequence[Observed]) -> list[Observed]:
    """The observed offsets without accidental ones, of runs saved again long after their end.

    Kept are the most frequent one, those of another season next to it, and those observed several times.
    """
    counts = Counter(one.offset for one in found)
    most = counts.most_common(1)[0][0] if counts else timedelta(0)
    return [one for one in found if abs(one.offset - most) in _SEASONS or counts[one.offset] >= _SEVERAL]


def _explains(zone: tzinfo, one: Observed) -> bool:
    return any(one.local.replace(tzinfo=zone, fold=fold).utcoffset() == one.offset for fold in (0, 1))


class ObservedZone(tzinfo):
    """Observed offsets by time. Each starts midway between its first time and the last time of the one before.

    Args:
        found: At least one.

    Attributes:
        slack: Maximum error in the order of two local times.
    """

    def __init__(self, found: Iterable[Observed]) -> None:
        ordered = sorted(found, key=lambda one: one.local - one.offset)
        self._locals: list[datetime] = []
        self._instants: list[datetime] = []
        self._offsets = [ordered[0].offset]
        for before, after in pairwise(ordered):
            if before.offset != after.offset:
                begins, ends = before.local - before.offset, after.local - after.offset
                middle = begins + (ends - begins) / 2
                self._instants.append(middle)
                self._locals.append(middle + max(before.offset, after.offset))
                self._offsets.append(after.offset)
        self.slack = max(self._offsets) - min(self._offsets)

    def utcoffset(self, dt: datetime | None) -> timedelta | None:
        return None if dt is None else self._offsets[bisect_right(self._locals, dt.replace(tzinfo=None))]

    def dst(self, dt: datetime | None) -> timedelta | None:
        return None

    def tzname(self, dt: datetime | None) -> str | None:
        offset = self.utcoffset(dt)
        return None if offset is None else str(timezone(offset))

    def fromutc(self, dt: datetime) -> datetime:
        offset = self._offsets[bisect_right(self._instants, dt.replace(tzinfo=None))]
        return (dt.replace(tzinfo=UTC) + offset).replace(tzinfo=self)
