"""Stored values as every JSON reader takes them: no NaN, no NUL, no half surrogate pairs, no integer over 64 bits."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import orjson

from flujo_lens.rendering.json_text import utc

_UNWRITABLE = re.compile("[\x00\ud800-\udfff]")
_LARGEST = 2**63


def plain_text(text: str) -> str:
    """`text` with NUL and half surrogate pairs as backslash escapes."""
    return _UNWRITABLE.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def plain_value(value: Any) -> Any:
    """`value` as dicts with text keys, lists, texts, numbers of 64 bits, booleans and None.

    Args:
        value: Any stored value of bounded depth, as `Redactor.value` returns it.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return plain_text(value)
    if isinstance(value, int):
        return int(value) if -_LARGEST <= value < _LARGEST else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else _infinite(value)
    if isinstance(value, Mapping):
        return {plain_text(str(key)): plain_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain_value(item) for item in value]
    return plain_text(utc(value) if isinstance(value, datetime) else str(value))


def _infinite(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def json_of(value: Any) -> bytes:
    """Compact JSON in UTF-8 of a plain value."""
    return orjson.dumps(value)
