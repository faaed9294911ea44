"""In which zone a store's naive times were written, as far as the store gives it away.

A run has both a naive local time and one in UTC, taken within seconds: their difference is the offset at that time.
Zones differ by quarters of an hour. A store that lived through a change of the clock, or was moved, has several.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from itertools import pairwise
from typing import NamedTuple

from flujo_lens.state.timestamps import parse_instant

__all__ = ["Observed", "ObservedZone", "guess_zone", "infer_zone", "observed"]

_QUARTER = timedelta(minutes=15)
_FURTHEST = timedelta(hours=14)
_SEASONS = (timedelta(0), timedelta(minutes=30), timedelta(hours=1))
_SEVERAL = 3


class Observed(NamedTuple):
    """An offset that a run gives away: the naive local time, and what it was ahead of UTC."""

    local: datetime
    offset: timedelta


def observed(pairs: Iterable[tuple[object, object]]) -> list[Observed]:
    """What pairs of a run's naive local and UTC times give away, in their order.

    Pairs that do not fit (a missing time, more than a minute off a quarter of an hour) are passed over.
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
    """The fixed offset of the first (newest) of the pairs that tells one; None if none does."""
    found = (_observed(local, utc) for local, utc in pairs)
    return next((timezone(one.offset) for one in found if one is not None), None)


def infer_zone(found: Sequence[Observed], machine: tzinfo) -> tzinfo | None:
    """The zone of a store's writer.

    Args:
        found: What the store gives away, from its whole life.
        machine: The zone of this machine; if its rules explain all that was found, they count, also for times of
            another season.

    Returns:
        The machine's zone, the one offset that was found, the offsets that were found at the times at which they
        were, or None if nothing was found.
    """
    sure = _without_chance(found)
    if not sure:
        return None
    if all(_explains(machine, one) for one in sure):
        return machine
    offsets = {one.offset for one in sure}
    return timezone(offsets.pop()) if len(offsets) == 1 else ObservedZone(sure)


def _without_chance(found: Sequence[Observed]) -> list[Observed]:
    """What was found without offsets that are there by chance: of a run that was saved again long after its end.

    Kept are the one that most give away, those of another season beside it, and those that several give away.
    """
    counts = Counter(one.offset for one in found)
    most = counts.most_common(1)[0][0] if counts else timedelta(0)
    return [one for one in found if abs(one.offset - most) in _SEASONS or counts[one.offset] >= _SEVERAL]


def _explains(zone: tzinfo, one: Observed) -> bool:
    return any(one.local.replace(tzinfo=zone, fold=fold).utcoffset() == one.offset for fold in (0, 1))


class ObservedZone(tzinfo):
    """Offsets that were observed, each from the middle between its first time and the last one of that before it.

    Args:
        found: At least one.

    Attributes:
        slack: By how much two local times can be the wrong way round.
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
