"""Instants out of the texts that real stores hold.

The library's versions wrote four forms: aware UTC (``2026-11-21T00:11:08.689190+00:00``), naive UTC with a T
(``runs`` of 0.4.x), naive UTC with a space (SQLite's own ``datetime('now')``) and the writer's naive local
time (``workflow_state`` of 0.4.x). Which of the naive ones a column holds is known by the table, so the
caller says how a naive text is read.

Everything that comes out is an aware `datetime` in UTC, or None for a text that is no time.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, timezone, tzinfo

__all__ = ["EPOCH", "guess_zone", "local_zone", "parse_instant", "read_instant"]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_QUARTER = timedelta(minutes=15)


def parse_instant(text: object, naive: tzinfo = UTC) -> datetime | None:
    """Read a stored time.

    Args:
        text: What the store holds; anything but a text gives None.
        naive: The zone of a text without one.

    Returns:
        The instant in UTC, or None if the text is no ISO 8601 time (in the form that begins with a date as
        2026-11-21, whose texts sort by time) or out of range.
    """
    if not isinstance(text, str) or text[4:8:3] != "--":
        return None
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
    """The instant of a number of seconds since 1970, or None if it is no such number."""
    if not isinstance(seconds, int | float):
        return None
    try:
        return EPOCH + timedelta(seconds=seconds)
    except (ValueError, OverflowError):
        return None


def local_zone() -> tzinfo:
    """This machine's zone, with its daylight saving rules where the system tells them."""
    return _MachineZone()


class _MachineZone(tzinfo):
    """The machine's own rules by way of the C library (`datetime.astimezone` of a naive time)."""

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


def guess_zone(pairs: Iterable[tuple[object, object]]) -> tzinfo | None:
    """The zone of the writer, from pairs of the same run's naive local and UTC times.

    The two were taken within seconds, zones differ by quarters of an hour: the rounded difference is the
    offset. Pairs that do not fit (a missing time, more than a minute off a quarter) are passed over.

    Returns:
        The fixed offset that the pairs agree on, that of the first (newest) pair if they give several,
        None if no pair tells.
    """
    for local_text, utc_text in pairs:
        local, utc = _naive(local_text), parse_instant(utc_text)
        if local is None or utc is None:
            continue
        offset = local - utc.replace(tzinfo=None)
        rounded = round(offset / _QUARTER) * _QUARTER
        if abs(offset - rounded) <= timedelta(minutes=1) and abs(rounded) <= timedelta(hours=14):
            return timezone(rounded)
    return None


def _naive(text: object) -> datetime | None:
    try:
        when = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return when if when is not None and when.tzinfo is None else None
