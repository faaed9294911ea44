"""Deserialization of single values of built-in types."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from enum import Enum
from fractions import Fraction
from pathlib import PurePath
from re import Pattern
from re import compile as compile_pattern
from typing import Any, NoReturn
from uuid import UUID

from flujo_lens.serialization.lossy import path_text, words_of

Make = Callable[[Any], Any]


class Misfit(ValueError):  # noqa: N818 - internal to this package
    """The data does not have the form of the type."""


def call(make: Callable[..., Any], *arguments: Any) -> Any:
    """Create a value by code that may be the application's; any exception becomes a `Misfit`."""
    try:
        return make(*arguments)
    except (Misfit, RecursionError, KeyboardInterrupt):
        raise
    except BaseException as error:  # code of the application, also if it calls sys.exit
        raise Misfit(_words(error)) from error


def _words(error: BaseException) -> str:
    if type(error).__name__ == "ValidationError" and hasattr(error, "errors"):
        first = error.errors(include_url=False)[0]
        return f"{path_text(first['loc'])}: {first['msg']}"
    return f"{type(error).__name__}: {words_of(error)}"


def misfit(words: str = "") -> NoReturn:
    """Raise `Misfit`."""
    raise Misfit(words)


def list_of(data: Any) -> list[Any]:
    """The items of a list."""
    return list(data) if isinstance(data, list | tuple) else misfit()


def dict_of(data: Any) -> dict[Any, Any]:
    """The data, if it is a dict."""
    return data if isinstance(data, dict) else misfit()


def _int(data: Any) -> int:
    if isinstance(data, bool) or not isinstance(data, int | str):
        misfit()
    return data if isinstance(data, int) else int(data, 16 if "0x" in data else 10)


def _float(data: Any) -> float:
    if isinstance(data, bool) or not isinstance(data, int | float | str):
        misfit()
    return float(data)


def _text(data: Any) -> str:
    return data if isinstance(data, str) else misfit()


def _bytes(data: Any) -> bytes:
    return _text(data).encode()


def _complex(data: Any) -> complex:
    return complex(_float(data["real"]), _float(data["imag"])) if isinstance(data, dict) else complex(_float(data))


def _duration(data: Any) -> timedelta:
    from pydantic import TypeAdapter

    made: timedelta = TypeAdapter(timedelta).validate_python(data)
    return made


def _decimal(data: Any) -> Decimal:
    try:
        return Decimal(data if isinstance(data, int) and not isinstance(data, bool) else _text(data))
    except InvalidOperation:
        return misfit()


def _instant(data: Any) -> datetime:
    return datetime.fromisoformat(_text(data))


def _enum(target: Any, data: Any) -> Any:
    """The member whose value serializes to the data."""
    from flujo_lens.serialization.safe import safe_serialize

    for member in target:
        if member.value == data or safe_serialize(member.value) == data:
            return member
    return target(data)


MAKERS: dict[Any, Callable[..., Any]] = {
    Enum: _enum,
    bool: lambda data: data if isinstance(data, bool) else misfit(),
    int: _int,
    float: _float,
    str: _text,
    complex: _complex,
    bytes: _bytes,
    bytearray: lambda data: bytearray(_bytes(data)),
    memoryview: lambda data: memoryview(_bytes(data)),
    datetime: _instant,
    date: lambda data: date.fromisoformat(_text(data)),
    time: lambda data: time.fromisoformat(_text(data)),
    timedelta: _duration,
    Decimal: _decimal,
    UUID: lambda data: UUID(_text(data)),
    Fraction: lambda data: Fraction(_text(data)),
    Pattern: lambda data: compile_pattern(_text(data)),
    PurePath: lambda target, data: target(_text(data)),
    dict: dict_of,
    list: list_of,
    tuple: lambda data: tuple(list_of(data)),
    set: lambda data: set(list_of(data)),
    frozenset: lambda data: frozenset(list_of(data)),
    deque: lambda data: deque(list_of(data)),
}
NEEDS_TYPE = (Enum, PurePath)
"""Functions that also take the class, for its subclasses."""
