"""`safe_loads`, `safe_deserialize`: from JSON back to data, and to the types that a caller names.

Nothing in the data says what type it was, and no name in it is ever imported: the caller's annotation
decides. What does not fit comes back as it is, or with ``strict=True`` as an error that names its place.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import orjson

__all__ = ["safe_deserialize", "safe_loads"]

Deserializer = Callable[[Any], Any]


def safe_loads(
    data: bytes | bytearray | memoryview | str,
    target_type: Any = None,
    default_deserializer: Deserializer | None = None,
    *,
    strict: bool = False,
) -> Any:
    """Read JSON that `safe_dumps` or anybody else wrote, and make `target_type` of it if one is given.

    NaN, infinities and lone surrogates, which old stores hold and JSON has not, are understood; depth is no limit.

    Raises:
        ValueError: it is no JSON; or `strict`, and it does not fit `target_type`.
    """
    plain = _parse(data)
    if target_type is None and default_deserializer is None:
        return plain
    return safe_deserialize(plain, target_type, default_deserializer, strict=strict)


def _parse(data: bytes | bytearray | memoryview | str) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        text = data if isinstance(data, str) else _decode(bytes(data), error)
    try:
        return json.loads(text)
    except RecursionError:
        from flujo_lens.serialization.deep import load_deep

        return load_deep(text)


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
        default_deserializer: Asked for classes that nobody else knows.
        strict: Fail where the data does not fit, rather than give it back as it is.

    Raises:
        ValueError: `strict`, and something does not fit; names its path.
    """
    if target_type is None or target_type is Any:
        return serialized_data if target_type is not None or default_deserializer is None else (
            default_deserializer(serialized_data)
        )  # fmt: skip
    from flujo_lens.serialization.building import build

    return build(serialized_data, target_type, default_deserializer, strict)
