"""Marks of a time axis."""

from __future__ import annotations

import math

_STEPS = (1, 2, 5, 10)
_UNITS = (("d", 86_400_000_000_000), ("h", 3_600_000_000_000), ("m", 60_000_000_000))
_CLOCK_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 43200, 86400)
_SECOND = 1_000_000_000


def ticks(length: int, most: int) -> list[tuple[int, str]]:
    """At most `most` + 1 round times from 0 to `length`, in nanoseconds, with their labels."""
    step = _step(max(length, 1), most)
    return [(at, _label(at, step)) for at in range(0, length + 1, step)]


def _step(length: int, most: int) -> int:
    least = length / most
    if least > _SECOND:
        for seconds in _CLOCK_STEPS:
            if seconds * _SECOND >= least:
                return seconds * _SECOND
        return math.ceil(least / 86_400 / _SECOND) * 86_400 * _SECOND
    power = 10 ** math.floor(math.log10(max(least, 1)))
    return next(int(power * step) for step in _STEPS if power * step >= least)


def _label(at: int, step: int) -> str:
    if at == 0:
        return "0"
    if step >= _SECOND:
        return _clock(at)
    unit, name = (1_000_000_000, "s") if at >= _SECOND else (1_000_000, "ms") if at >= 1_000_000 else (1000, "µs")
    return f"{at / unit:.9g} {name}"


def _clock(at: int) -> str:
    parts, rest = [], at
    for name, unit in _UNITS:
        if rest >= unit:
            parts.append(f"{rest // unit}{name}")
            rest %= unit
    return " ".join([*parts, f"{rest // _SECOND}s"] if rest >= _SECOND or not parts else parts)
