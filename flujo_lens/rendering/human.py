"""Formatting of numbers and times for people."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import pairwise
from typing import NamedTuple

_UNITS = ((7 * 86400 * 52, "y"), (86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def age(length: timedelta) -> str:
    """A duration in its largest unit: ``3h``, ``12d``."""
    seconds = int(length.total_seconds())
    for unit, name in _UNITS:
        if abs(seconds) >= unit:
            return f"{seconds // unit if seconds > 0 else -(-seconds // unit)}{name}"
    return "0s"


def time_left(length: timedelta) -> str:
    """A time to go in its largest unit, rounded to the nearest: ``7d`` for 6 days and 23 hours."""
    seconds = round(length.total_seconds())
    for (unit, name), (smaller, _) in pairwise(_UNITS):
        if (seconds + smaller // 2) // smaller * smaller >= unit:
            return f"{(seconds + unit // 2) // unit}{name}"
    return f"{seconds}s"


def duration(ms: float | None) -> str:
    """Milliseconds: ``6.8 ms``, ``0.12 s``, ``2.4 s``, ``3m 20s``, ``2h 5m``, ``6d 2h``."""
    if ms is None:
        return "-"
    if ms < 100:
        return f"{ms:.2g} ms" if ms < 1 else f"{ms:.1f} ms"
    seconds = ms / 1000
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return long_duration(seconds)


def long_duration(seconds: float) -> str:
    """A duration of a minute or more, in its two largest units."""
    whole = int(seconds)
    for unit, name, smaller, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= unit:
            rest = whole % unit // smaller
            return f"{whole // unit}{name} {rest}{small}" if rest else f"{whole // unit}{name}"
    return f"{whole}s"


def money(usd: float | None) -> str:
    """US dollars: cents, or four decimals below one; stores hold 0 where no cost is known, which is shown as none."""
    if not usd:
        return "-"
    if 0 < usd < 0.0001:
        return "<$0.0001"
    return f"${usd:,.2f}" if usd >= 1 else f"${usd:.4f}"


def count(number: float | None) -> str:
    """A whole number with thousands separators."""
    return "-" if number is None else f"{number:,.0f}"


def size(number: float | None) -> str:
    """Bytes in binary units."""
    if number is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(number) < 1024:
            return f"{number:.0f} {unit}" if unit == "B" or number >= 100 else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def plural(number: int, word: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"


class Human(NamedTuple):
    """Formatting of times.

    Attributes:
        zone: The time zone of the user.
        style: ``relative``, ``local`` or ``iso``.
        is_asked: Whether the style was requested, so that screens show no other.
        mask: A text with its secrets masked.
        under: The value of a key with its secrets masked.
    """

    now: datetime
    zone: tzinfo
    style: str = "relative"
    mask: Callable[[str], str] = str
    under: Callable[[str, str], str] = lambda _, text: text
    is_asked: bool = False

    def time(self, when: datetime | None) -> str:
        """An instant in the chosen style."""
        if when is None:
            return "-"
        if self.style == "iso":
            return when.astimezone(UTC).isoformat().replace("+00:00", "Z")
        return self.ago(when) if self.style == "relative" else self.clock(when)

    def moment(self, when: datetime | None) -> str:
        """An instant in the requested style; without one, as ``2026-11-20 19:11:08Z (3h ago)``."""
        return self.time(when) if self.is_asked else f"{self.clock(when)} ({self.ago(when)})"

    def ago(self, when: datetime | None) -> str:
        """``3h ago``, or ``in 3h`` for the future."""
        if when is None:
            return "-"
        past = self.now - when
        return f"{age(past)} ago" if past >= timedelta(0) else f"in {time_left(-past)}"

    def since(self, when: datetime | None) -> str:
        """How long ago, in two units: ``6d 2h``."""
        return "-" if when is None else long_duration(max(0.0, (self.now - when).total_seconds()))

    def clock(self, when: datetime | None) -> str:
        """``2026-11-20 19:11:08 -05:00``, with the offset."""
        if when is None:
            return "-"
        there = self._there(when)
        if there.utcoffset() == timedelta(0):
            return there.strftime("%Y-%m-%d %H:%M:%SZ")
        offset = there.strftime("%z")
        return there.strftime("%Y-%m-%d %H:%M:%S ") + f"{offset[:3]}:{offset[3:5]}"

    def _there(self, when: datetime) -> datetime:
        """The instant in the user's zone, or in UTC if that is out of range."""
        try:
            return when.astimezone(self.zone)
        except (OverflowError, ValueError, OSError):
            return when.astimezone(UTC)
