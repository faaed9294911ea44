"""Parsing the stored times of all versions of the library.

The library's versions wrote four forms: aware UTC (``2026-11-21T00:11:08.689190+00:00``), naive UTC with a T
(``runs`` of 0.4.x), naive UTC with a space (SQLite's own ``datetime('now')``) and the writer's naive local
time (``workflow_state`` of 0.4.x). The form of naive times depends on the table, so the caller passes their zone.

All results are aware `datetime` in UTC, or None for a text that is not a time.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_instant(text: object, naive: tzinfo = UTC) -> datetime | None:
    """Parse a stored time.

    Args:
        text: The stored value: a text, or a time in UTC, which is returned as it is; anything else gives None.
        naive: The zone of a text without an offset.

    Returns:
        The instant in UTC, or None if the text is not an ISO 8601 time in extended form (2026-11-21...), or out of
        range.
    """
    if not isinstance(text, str) or text[4:8:3] != "--":
        return text if isinstance(text, datetime) and text.tzinfo is UTC else None
    try:
        when = datetime.fromisoformat(text)
        if when.tzinfo is None:
            if naive is UTC:
                return when.replace(tzinfo=UTC)
            when = when.replace(tzinfo=naive)
        return when if when.tzinfo is UTC else when.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def read_instant(seconds: object) -> datetime | None:
    """The instant of a number of seconds since 1970, or None if it is not one."""
    if not isinstance(seconds, int | float):
        return None
    try:
        return EPOCH + timedelta(seconds=seconds)
    except (ValueError, OverflowError):
        return None


def local_zone() -> tzinfo:
    """This machine's zone, with its daylight saving rules if known."""
    return _MachineZone()


class _MachineZone(tzinfo):
    """The machine's zone, by the C library (`datetime.astimezone` of a naive time)."""

    def utcoffset(self, dt: datetime | None) -> timedelta | None:
        return None if dt is None else dt.replace(tzinfo=None).astimezone().utcoffset()

    def dst(self, dt: datetime | None) -> timedelta | None:
        return None

    def tzname(self, dt: datetime | None) -> str | None:
        return None if dt is None else dt.replace(tzinfo=None).astimezone().tzname()

    def fromutc(self, dt: datetime) -> datetime:
        there = dt.replace(tzinfo=UTC).astimezone()
        naive = there.replace(tzinfo=None)
        fold = 0 if naive.astimezone().utcoffset() == there.utcoffset() else 1
        return naive.replace(tzinfo=self, fold=fold)


_QUARTER = 15 * 60 * 1_000_000
_ZONES = 26 * 4 * _QUARTER


def is_same_but_for_zone(one: int, other: int) -> bool:
    """Whether two times, in microseconds, are the same, or differ as a naive time does in two zones."""
    apart = abs(one - other)
    return apart <= _ZONES and apart % _QUARTER == 0
