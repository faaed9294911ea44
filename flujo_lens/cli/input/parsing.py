"""Parsing of ages, shares, durations and rates; ambiguous values are refused."""

from __future__ import annotations

from datetime import timedelta

from flujo_lens.errors import TimeFormatError, UnknownValueError, UsageError
from flujo_lens.rendering.human import plural
from flujo_lens.state.stripped import PARTS
from flujo_lens.state.typed_times import parse_age

_AGES = "an age is 12h, 30d or 4w"
_MOST_MONTHS = 36
"""More of them probably means minutes."""


def age(text: str, option: str = "--older-than") -> timedelta:
    """Parse an age such as ``30d``.

    Raises:
        TimeFormatError: it is not an age, zero, or in an ambiguous unit.
    """
    asked = text.strip()
    unit = asked[-1:].lower()
    if asked.isascii() and asked.isdigit():
        raise TimeFormatError(f"{option} {asked} has no unit; nothing was deleted", hint=f"days: {asked}d. {_AGES}")
    if unit in ("m", "s") and asked.isascii() and asked[:-1].isdigit():
        number = int(asked[:-1][:9])
        spoken = plural(number, "minute" if unit == "m" else "second")
        months = f"; months: {number * 30}d" if unit == "m" and number <= _MOST_MONTHS else ""
        raise TimeFormatError(f"{option} {asked} is {spoken}{months}; nothing was deleted", hint=_AGES)
    found = parse_age(asked)
    if found is None or found <= timedelta(0):
        whole = f"whole days or hours: {float(asked[:-1]) * 24:g}h. " if _is_part_of_days(asked) else ""
        raise TimeFormatError(f'{option} takes an age, not "{text}"; nothing was deleted', hint=f"{whole}{_AGES}")
    return found


def _is_part_of_days(text: str) -> bool:
    whole, dot, part = text[:-1].partition(".")
    return bool(dot) and text.isascii() and text.endswith("d") and (whole + part).isdigit()


def days(number: float) -> timedelta:
    """Parse the age of ``--days-old 30``.

    Raises:
        TimeFormatError: it is zero, negative or too large.
    """
    try:
        found = timedelta(days=number)
    except (OverflowError, ValueError):
        found = timedelta(0)
    if found <= timedelta(0):
        raise TimeFormatError(
            f"--days-old takes a number of days above 0, not {number:g}; nothing was deleted", hint="--days-old 30"
        )
    return found


def length(text: str, option: str) -> timedelta:
    """Parse a duration: ``90s``, ``10m``, ``2h``.

    Raises:
        TimeFormatError: it is not a duration, or zero.
    """
    found = parse_age(text.strip())
    if not found:
        raise TimeFormatError(f'{option} takes a duration, not "{text}"', hint=f"{option} 10m; or 90s, 2h")
    return found


_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def interval(text: str) -> float:
    """Parse a rate: seconds between two starts, 6.0 for ``10/m``.

    Raises:
        UsageError: it is not a rate, or zero.
    """
    number, slash, unit = (part.strip() for part in text.partition("/"))
    if not (slash and number.isascii() and number.isdigit() and int(number[:9]) and unit in _UNITS):
        raise UsageError(
            f'--rate takes a number of runs per second, minute or hour, not "{text}"', hint="--rate 2/s, 10/m or 100/h"
        )
    return _UNITS[unit] / int(number[:9])


def share(text: str) -> float:
    """Parse a share: 0.5 for ``50%``.

    Raises:
        UsageError: it is not a share.
    """
    number, sign, rest = text.strip().partition("%")
    try:
        found = float(number) / 100
    except ValueError:
        found = -1
    if not sign or rest or not 0 <= found <= 1:
        raise UsageError(f'--max-share takes a percentage, not "{text}"; nothing was deleted', hint="--max-share 50%")
    return found


def parts(text: str) -> frozenset[str]:
    """Parse the parts of ``--strip spans,outputs``.

    Raises:
        UnknownValueError: one of them is none.
    """
    found = [one.strip().lower() for one in text.split(",")]
    for one in found:
        if one not in PARTS:
            raise UnknownValueError.of("part", one, PARTS)
    return frozenset(found)
