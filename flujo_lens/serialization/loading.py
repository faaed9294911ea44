"""`safe_loads`, `safe_deserialize`: from JSON to data and typed values.

The data has no type names, and no name in it is imported: the annotation of the caller decides. Data that does not fit
is returned unchanged, or with ``strict=True``, is an error with its path.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import orjson

from flujo_lens.serialization.deep import integer

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
    """Parse JSON, and convert it to `target_type`, if given.

    NaN, infinities and lone surrogates, which old stores contain, are accepted; the depth is not limited. Integers keep
    all digits; those with thousands of digits, which Python refuses, become text.

    Raises:
        ValueError: it is not JSON; or `strict`, and it does not fit `target_type`.
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
    """Whether there are nineteen digits in a row: orjson may read such an integer as a float.

    Checking every sixth character is nearly always sufficient, since nineteen digits contain three of them.
    """
    return len(data) >= 19 and b"000" in _shape(data[::6]) and b"0" * 19 in _shape(data)


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
    """Convert the result of `safe_serialize` to a type.

    Args:
        serialized_data: JSON-ready data.
        target_type: A class or an annotation (``list[Money]``, ``dict[str, datetime] | None``): registered classes,
            pydantic models, dataclasses, attrs-like classes, named tuples, enums and the built-in types of
            `safe_serialize`. None to return the data unchanged.
        default_deserializer: A fallback for unknown classes; without a `target_type`, called for each value that is not
            JSON data (never for text, numbers, booleans, None, lists and dicts).
        strict: Whether to fail if data does not fit, instead of returning it unchanged.

    Raises:
        ValueError: `strict`, and a value does not fit; the message has its path.
    """
    if target_type is None or target_type is Any:
        return serialized_data if default_deserializer is None else _ask(serialized_data, default_deserializer)
    from flujo_lens.serialization.building import build

    return build(serialized_data, target_type, default_deserializer, strict)


def _ask(data: Any, deserializer: Deserializer) -> Any:
    """A copy of the data with values that are not JSON data converted by `deserializer`; of any depth."""
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
