"""Parsing of times, ages and durations in options and settings.

`datetime.fromisoformat` accepts too much: any character between date and time, so that it reads ``20261101100000Z``
wrongly, and ``1796011500000`` as a day of the year 1796.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo

from flujo_lens.errors import TimeFormatError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_HINT = "times look like 90s, 10m, 2h, 30d, 4w, today, yesterday, 2026-11-20 or 2026-11-20T19:11:08-05:00"
_MOST_DIGITS = 18
"""Maximum digits of an age; longer ones are out of range."""

_DATE = (
    r"(?:(?P<year>\d{4})-(?P<month>\d\d)-(?P<day>\d\d)"
    r"|(?P<iso_year>\d{4})-?W(?P<week>\d\d)(?:-?(?P<weekday>\d))?)"
)
_COMPACT = r"(?P<year>\d{4})(?P<month>\d\d)(?P<day>\d\d)"
_FRACTION = r"(?:[.,](?P<fraction>\d{1,9}))?"
_TIME = rf"(?P<hour>\d\d)(?::(?P<minute>\d\d)(?::(?P<second>\d\d){_FRACTION})?)?"
_COMPACT_TIME = rf"(?P<hour>\d\d)(?:(?P<minute>\d\d)(?:(?P<second>\d\d){_FRACTION})?)?"
_OFFSET = r"(?: ?(?P<offset>[Zz]|[+-]\d\d(?::?\d\d(?::?\d\d)?)?))?"
_FORMS = (
    rf"{_DATE}(?:[Tt ]{_TIME})?{_OFFSET}",
    rf"{_COMPACT}(?:[Tt ](?:{_COMPACT_TIME}))?{_OFFSET}",
    rf"{_COMPACT}(?P<hour>\d\d)(?P<minute>\d\d)(?P<second>\d\d){_OFFSET}",
)
_YEARS_OF_DIGITS = range(1970, 2100)
"""The years accepted in a compact date, to refuse other orders such as 20112026."""

_FURTHEST = timedelta(hours=18)
_SINCE_1970 = {10: ("seconds", 1), 13: ("milliseconds", 10**3), 16: ("microseconds", 10**6), 19: ("nanoseconds", 10**9)}


def parse_age(text: str) -> timedelta | None:
    """Parse ``90s 10m 2h 30d 4w``; None if `text` has another form.

    Units may be upper case, except M, which often means months.

    Raises:
        TimeFormatError: it has this form, but is out of range.
    """
    number, unit = text[:-1], text[-1:]
    if not number.isascii() or not number.isdigit() or unit == "M" or unit.lower() not in _UNITS:
        return None
    try:
        digits = number.lstrip("0") or "0"
        return timedelta(seconds=int(digits[: _MOST_DIGITS + 1]) * _UNITS[unit.lower()])
    except OverflowError:
        raise _too_long(text) from None


def parse_duration(text: str) -> timedelta:
    """Parse ``90s 10m 2h 30d 4w``, as `parse_age`, but refuse any other form.

    Raises:
        TimeFormatError: it has another form, or is out of range.
    """
    try:
        found = parse_age(text.strip())
    except TimeFormatError:
        found = None
    if found is None:
        raise TimeFormatError(
            f'cannot read "{text}" as a duration',
            hint="write a whole number and a unit: 90s, 10m (minutes), 2h, 30d or 4w; for months, days: 90d",
            value=text,
        )
    return found


def _too_long(text: str) -> TimeFormatError:
    shown = text if len(text) <= 40 else f"{text[:20]}..."
    return TimeFormatError(f'"{shown}" is out of range', hint=_HINT)


def parse_when(text: str, now: datetime, zone: tzinfo) -> datetime:
    """Parse a time in an option.

    Args:
        text: An age (before `now`), ``now``, ``today``, ``yesterday``, or an ISO 8601 date or datetime: extended,
            compact (``20261120T191108Z``, also without the T) or by week (``2026-W47-5``). A date means the first
            instant of that day; 24:00 is its end.
        now: The current time, aware.
        zone: The zone of a time without an offset, and of ``today``.

    Returns:
        The instant in UTC.

    Raises:
        TimeFormatError: another form, out of range, or a local time that is ambiguous or does not exist in `zone`
            because of a clock change.
    """
    asked = text.strip()
    age = parse_age(asked)
    try:
        if age is not None:
            return (now - age).astimezone(UTC)
        if asked.lower() in ("now", "today", "yesterday"):
            return _named(asked.lower(), now, zone).astimezone(UTC)
        return _read(asked, zone).astimezone(UTC)
    except OverflowError:
        raise _too_long(asked) if age is not None else _no_time(text) from None
    except ValueError:
        raise _no_time(text) from None


def _no_time(text: str) -> TimeFormatError:
    shown = text if len(text) <= 80 else f"{text[:60]}..."
    return TimeFormatError(f'cannot read "{shown}" as a time', hint=f"{_guess(text.strip())}{_HINT}")


def _guess(text: str) -> str:
    """A hint for a number without a unit, or of seconds since 1970, which could also be a compact date; else ""."""
    if text.isascii() and text.isdigit() and len(text) < 4:
        return f"{int(text)} of what? {text}h is {text} hours, {text}d is {text} days\n"
    if not (text.isascii() and text.isdigit() and len(text) in _SINCE_1970):
        return ""
    unit, size = _SINCE_1970[len(text)]
    when = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=int(text) // size)
    return f"as {unit} since 1970, it is {when:%Y-%m-%dT%H:%M:%SZ}\n"


def _named(word: str, now: datetime, zone: tzinfo) -> datetime:
    if word == "now":
        return now
    return _start_of(now.astimezone(zone).date() - timedelta(days=1 if word == "yesterday" else 0), zone)


def _start_of(day: date, zone: tzinfo) -> datetime:
    """The first instant of a day, even if its midnight is ambiguous or skipped."""
    return datetime.combine(day, time(), zone)


def _read(text: str, zone: tzinfo) -> datetime:
    """Parse an ISO date or datetime.

    Raises:
        ValueError: it has another form, or a part is out of range.
        OverflowError: it is out of the range of `datetime`.
        TimeFormatError: it is ambiguous or does not exist in `zone`.
    """
    found = next((match for form in _FORMS if (match := re.fullmatch(form, text, re.ASCII))), None)
    if found is None:
        raise ValueError
    parts = found.groupdict()
    day = _day(parts)
    if "-" not in text[:8] and "W" not in text and day.year not in _YEARS_OF_DIGITS:
        raise ValueError
    given = _offset(parts["offset"])
    naive = _moment(day, parts)
    if given is not None:
        return naive.replace(tzinfo=given)
    return _start_of(naive.date(), zone) if naive.time() == time() else _local(naive, zone, text)


def _day(parts: dict[str, str | None]) -> date:
    if parts["year"] is not None:
        return date(int(parts["year"]), int(parts["month"] or 0), int(parts["day"] or 0))
    return date.fromisocalendar(int(parts["iso_year"] or 0), int(parts["week"] or 0), int(parts["weekday"] or 1))


def _moment(day: date, parts: dict[str, str | None]) -> datetime:
    hour, minute, second = (int(parts.get(name) or 0) for name in ("hour", "minute", "second"))
    micro = int((parts.get("fraction") or "")[:6].ljust(6, "0"))
    if (hour, minute, second, micro) == (24, 0, 0, 0):
        return datetime.combine(day + timedelta(days=1), time())
    return datetime.combine(day, time(hour, minute, second, micro))


def _offset(text: str | None) -> tzinfo | None:
    if text is None or text in "Zz":
        return None if text is None else UTC
    digits = text[1:].replace(":", "").ljust(6, "0")
    hours, minutes, seconds = (int(digits[at : at + 2]) for at in (0, 2, 4))
    size = timedelta(hours=hours, minutes=minutes, seconds=seconds)
    if minutes > 59 or seconds > 59 or size > _FURTHEST:
        raise ValueError
    return timezone(-size if text[0] == "-" else size)


def _local(naive: datetime, zone: tzinfo, text: str) -> datetime:
    """The instant of the local time `naive` in `zone`."""
    first, second = (naive.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    if first.utcoffset() == second.utcoffset():
        return first
    exists = first.astimezone(UTC).astimezone(zone).replace(tzinfo=None, fold=0) == naive
    what = "is ambiguous" if exists else "does not exist"
    offsets = [when.strftime("%z") for when in (first, second)]
    ways = " or ".join(f"{naive.isoformat()}{offset[:3]}:{offset[3:5]}" for offset in offsets)
    raise TimeFormatError(
        f'"{text}" {what} in this time zone, because of a clock change', hint=f"add the offset: {ways}"
    )
