"""`exact_dumps` and `exact_loads`: between JSON and data without a change of any value, for moving stored documents."""

from __future__ import annotations

import json
import math
from typing import Any

import orjson

from flujo_lens.serialization.deep import integer
from flujo_lens.serialization.loading import may_have_long_numbers, safe_loads
from flujo_lens.serialization.safe import safe_dumps

_NO_NUMBERS = {"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf"}
"""Numbers that JSON does not have, as the texts that serializers leave for them."""


def exact_dumps(value: Any, *, sort_keys: bool = False) -> bytes:
    """JSON of data that came from `exact_loads`: integers keep all digits, halves of surrogate pairs their escape."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS if sort_keys else None)
    except (TypeError, ValueError):
        pass
    try:
        return json.dumps(value, sort_keys=sort_keys, separators=(",", ":")).encode()
    except RecursionError:
        return safe_dumps(value, sort_keys=sort_keys)


def exact_loads(data: bytes | str, *, any_depth: bool = True) -> Any:
    """The data of a JSON document, as exactly as Python can hold it.

    NaN, infinities, and floats too large for 64 bits, which old stores contain, become text.

    Args:
        data: The document.
        any_depth: Whether it may be nested more deeply than the interpreter's stack.

    Raises:
        ValueError: it is not JSON, or nested too deeply.
    """
    try:
        found = orjson.loads(data)
        if not may_have_long_numbers(data):
            return found
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(data, parse_int=integer, parse_float=_number, parse_constant=_NO_NUMBERS.get)
    except RecursionError:
        if not any_depth:
            raise ValueError("nested too deeply") from None
        return safe_loads(data)


def _number(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) else text
