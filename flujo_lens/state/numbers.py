"""Numbers out of stored values of any type."""

from __future__ import annotations

from typing import Any

BEYOND_SENSE = 1e18
"""An upper bound of counts and times, which excludes infinities and NaN stored by 0.4.x."""


def as_int(value: Any) -> int | None:
    """`value` as an int if it is a whole number, else None."""
    if value is None:
        return None
    if value.__class__ is int:
        return value if abs(value) < BEYOND_SENSE else None
    number = as_number(value)
    return int(number) if number is not None and number == int(number) else None


def as_number(value: Any) -> float | None:
    """`value` if it is a finite number, else None."""
    if value.__class__ is not float and (isinstance(value, bool) or not isinstance(value, (int, float))):
        return None
    return value if abs(value) < BEYOND_SENSE else None
