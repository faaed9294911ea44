"""`safe_loads`, `safe_deserialize`: from JSON back to data, and to the types that a caller names.

Nothing in the data says what type it was, and no name in it is ever imported: the caller's annotation
decides. What does not fit comes back as it is, or with ``strict=True`` as an error that names its place.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import orjson

from flujo_lens.serialization.deep import integer

__all__ = ["may_have_long_numbers", "safe_deserialize", "safe_loads"]

Deserializer = Callable[[Any], Any]
_DIGITS = bytes(ord("0") if chr(code).isdigit() and code < 128 else 0 for code in range(256))
_JSON = (str, int, float, bool, type(None))


def safe_loads(
    data: bytes | bytearray | memoryview | str,
    target_type: Any = None,
    default_deserializer: Deserializer | None = None,
    *,
    strict: bool = False,
) -> Any:
    """Read JSON that `safe_dumps` or anybody else wrote, and make `target_type` of it if one is given.

    NaN, infinities and lone surrogates, which old stores hold and JSON has not, are understood; depth is no limit.
    Integers keep all their digits; one of more than some thousands, which Python refuses, is their text.

    Raises:
        ValueError: it is no JSON; or `strict`, and it does not fit `target_type`.
    """
    plain = _parse(data)
    if target_type is None and default_deserializer is None:
        return plain
    return safe_deserialize(plain, target_type, default_deserializer, strict=strict)


def _parse(data: bytes | bytearray | memoryview | str) -> Any:
    plain = data if isinstance(data, bytes | str) else bytes(data)
    try:
        found = orjson.loads(plain)
        if not may_have_long_numbers(plain):
            return found
        text = plain if isinstance(plain, str) else plain.decode()
    except orjson.JSONDecodeError as error:
        text = plain if isinstance(plain, str) else _decode(plain, error)
    try:
        return json.loads(text, parse_int=integer)
    except RecursionError:
        from flujo_lens.serialization.deep import load_deep

        return load_deep(text)


def may_have_long_numbers(data: bytes | str) -> bool:
    """Whether nineteen digits stand in a row: an integer that long orjson may read as a float.

    A look at every sixth character tells nearly always that there are none: of nineteen it meets three.
    """
    return b"000" in _shape(data[::6]) and b"0" * 19 in _shape(data)


def _shape(data: bytes | str) -> bytes:
    """The data with ``0`` for each digit and NUL for the rest (a character beyond ASCII counts as several)."""
    return (data.encode("utf-8", "replace") if isinstance(data, str) else data).translate(_DIGITS)


def _decode(data: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise error from None


def safe_deserialize(
    serialized_data: Any,
    target_type: Any = None,
    default_deserializer: Deserializer | None = None,
    *,
    strict: bool = False,
) -> Any:
    """Make a value of a type from what `safe_serialize` returned.

    Args:
        serialized_data: JSON-ready data.
        target_type: A class or an annotation (``list[Money]``, ``dict[str, datetime] | None``): registered
            classes, pydantic models, dataclasses, attrs-like classes, named tuples, enums and the built-in types
            that `safe_serialize` knows. None to take the data as it is.
        default_deserializer: Asked for classes that nobody else knows; without a `target_type`, for each value
            that is no JSON data (never for text, numbers, booleans, None, lists and dicts).
        strict: Fail where the data does not fit, rather than give it back as it is.

    Raises:
        ValueError: `strict`, and something does not fit; names its path.
    """
    if target_type is None or target_type is Any:
        return serialized_data if default_deserializer is None else _ask(serialized_data, default_deserializer)
    from flujo_lens.serialization.building import build

    return build(serialized_data, target_type, default_deserializer, strict)


def _ask(data: Any, deserializer: Deserializer) -> Any:
    """A copy of the data in which what JSON has no form for is as `deserializer` makes it; depth is no limit."""
    root: list[Any] = [data]
    waiting: list[Any] = [root]
    while waiting:
        copy = waiting.pop()
        for key, item in list(copy.items()) if isinstance(copy, dict) else enumerate(copy):
            kind = type(item)
            if kind is dict or kind is list:
                copy[key] = item.copy()
                waiting.append(copy[key])
            elif kind not in _JSON:
                copy[key] = deserializer(item)
    return root[0]
