"""From plain data to the type that an annotation names: the other direction of `flujo_lens.serialization.encoders`."""

from __future__ import annotations

import types
from collections import abc, deque
from collections.abc import Callable
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from enum import Enum
from fractions import Fraction
from pathlib import PurePath
from re import Pattern
from re import compile as compile_pattern
from typing import Annotated, Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints, is_typeddict
from uuid import UUID

from flujo_lens.serialization.lossy import path_text
from flujo_lens.serialization.registry import current_registry

__all__ = ["build"]

Make = Callable[[Any], Any]
_LISTS: dict[Any, Make] = {
    list: list,
    set: set,
    frozenset: frozenset,
    deque: deque,
    abc.Sequence: list,
    abc.MutableSequence: list,
    abc.Iterable: list,
    abc.Collection: list,
    abc.Set: frozenset,
    abc.MutableSet: set,
}
_DICTS = (dict, abc.Mapping, abc.MutableMapping)
_WORDS = {"None": None, "True": True, "False": False}


class _Misfit(ValueError):  # noqa: N818 - it never leaves this module
    """The data is of another shape than the type needs."""


def build(data: Any, target: Any, default: Make | None, strict: bool) -> Any:
    """Make a value of `target` from plain data; see `flujo_lens.serialization.safe_deserialize`.

    Raises:
        ValueError: `strict`, and something does not fit; names its path.
    """
    return _Builder(default, strict).build(data, target)


class _Builder:
    def __init__(self, default: Make | None, strict: bool) -> None:
        self._default, self._strict = default, strict
        self._registry = current_registry()
        self._path: list[Any] = []

    def build(self, data: Any, target: Any) -> Any:
        """The value; where the data does not fit, the data itself, or an error that names the place."""
        try:
            return self._make(data, target)
        except _Misfit as misfit:
            if self._strict:
                self._refuse(data, target, misfit)
            return data

    def _refuse(self, data: Any, target: Any, reason: Exception) -> NoReturn:
        name = getattr(target, "__qualname__", None) or str(target)
        words = f": {reason}" if str(reason) else ""
        message = f"{path_text(self._path)} is no {name}, but {type(data).__name__}{words}"
        raise ValueError(message) from (reason.__cause__ or reason)

    @contextmanager
    def _below(self, key: Any) -> Any:
        self._path.append(key)
        try:
            yield
        finally:
            self._path.pop()

    def _part(self, data: Any, target: Any, key: Any) -> Any:
        with self._below(key):
            return self.build(data, target)

    def _make(self, data: Any, target: Any) -> Any:
        origin = get_origin(target)
        if origin is Annotated:
            return self._make(data, get_args(target)[0])
        if origin in (Union, types.UnionType):
            return self._one_of(data, get_args(target))
        if origin is Literal:
            return data if data in get_args(target) else _misfit()
        if isinstance(target, TypeVar):
            return self._make(data, target.__bound__) if target.__bound__ else data
        if origin is not None and not hasattr(target, "model_fields"):
            return self._generic(data, origin, get_args(target))
        if target is Any or target is object:
            return data
        if target is None or target is type(None):
            return None if data is None else _misfit()
        if not isinstance(target, type):
            return data
        return self._instance(data, target)

    def _one_of(self, data: Any, arms: tuple[Any, ...]) -> Any:
        """Of a union the arm that is just the data's type, else the first that takes it."""
        if data is None and type(None) in arms:
            return None
        if type(data) in arms and type(data) in (str, int, float, bool):
            return data
        for arm in arms:
            attempt = _Builder(self._default, strict=True)
            try:
                return attempt.build(data, arm)
            except ValueError:
                continue
        return _misfit()

    def _generic(self, data: Any, origin: Any, arguments: tuple[Any, ...]) -> Any:
        if origin is tuple:
            return self._tuple(data, arguments)
        if origin in _LISTS:
            return _call(_LISTS[origin], [self._part(item, arguments[0], at) for at, item in enumerate(_list(data))])
        if origin in _DICTS:
            key, value = arguments
            found = _dict(data)
            return {self._key(name, key): self._part(item, value, name) for name, item in found.items()}
        return self._make(data, origin)

    def _key(self, name: str, target: Any) -> Any:
        kinds = get_args(target) if get_origin(target) in (Union, types.UnionType) else (target,)
        if name in _WORDS and (type(_WORDS[name]) in kinds):
            return _WORDS[name]
        return self._part(_number(name, target), target, name)

    def _tuple(self, data: Any, arguments: tuple[Any, ...]) -> Any:
        items = _list(data)
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            arguments = (arguments[0],) * len(items)
        if len(arguments) != len(items):
            _misfit(f"{len(arguments)} items are needed, there are {len(items)}")
        return tuple(self._part(item, kind, at) for at, (item, kind) in enumerate(zip(items, arguments, strict=True)))

    # --- classes

    def _instance(self, data: Any, target: Any) -> Any:
        custom = self._registry.deserializer_of(target)
        if custom is not None:
            return _call(custom, data)
        for base in target.__mro__:
            if base in _MAKERS:
                return _call(_MAKERS[base], target, data) if base in _NEEDS_TYPE else _call(_MAKERS[base], data)
        if hasattr(target, "model_validate"):
            return self._model(data, target)
        fields = _fields_of(target)
        if fields is not None:
            return self._object(data, target, fields)
        if target.__module__.partition(".")[0] in ("ipaddress", "zoneinfo"):
            return _call(target, data if isinstance(data, str) else _misfit())
        if target.__module__ == "numpy" and target.__qualname__ == "ndarray":
            import numpy

            return _call(numpy.asarray, data)
        if self._default is not None:
            return _call(self._default, data)
        return data if isinstance(data, target) else _misfit("nobody knows how to make one")

    def _model(self, data: Any, target: Any) -> Any:
        """A pydantic model; if it does not take the data as it is, what its fields are made of comes first."""
        from pydantic import ValidationError

        if isinstance(data, target):
            return data
        try:
            return target.model_validate(data, by_alias=True, by_name=True)
        except ValidationError as error:
            if not isinstance(data, dict):
                raise _Misfit(_first_words(error)) from error
        loose = _Builder(self._default, strict=False)
        kinds = {name: field.annotation for name, field in target.model_fields.items()}
        prepared = {name: loose.build(item, kinds.get(name, Any)) for name, item in data.items()}
        try:
            return target.model_validate(prepared, by_alias=True, by_name=True)
        except ValidationError as error:
            raise _Misfit(_first_words(error)) from error

    def _object(self, data: Any, target: Any, fields: list[tuple[str, Any]]) -> Any:
        if isinstance(data, list) and issubclass(target, tuple):
            names = [name for name, _ in fields]
            if len(data) > len(names):
                _misfit(f"{len(names)} items at most are needed, there are {len(data)}")
            data = dict(zip(names, data, strict=False))
        found = _dict(data)
        values = {name: self._part(found[name], kind, name) for name, kind in fields if name in found}
        if is_typeddict(target):
            return {**found, **values}
        return _call(lambda given: _construct(target, given), values)


def _construct(target: Any, values: dict[str, Any]) -> Any:
    """An object by its constructor; what that does not take is set afterwards."""
    taken = {f.name: f.init for f in getattr(target, "__dataclass_fields__", {}).values()}
    aliases = {a.name: a.alias for a in getattr(target, "__attrs_attrs__", ()) if a.init}
    init = {aliases.get(n, n): v for n, v in values.items() if taken.get(n, not aliases or n in aliases)}
    made = target(**init)
    for name, value in values.items():
        if name in taken and not taken[name]:
            object.__setattr__(made, name, value)
    return made


def _fields_of(target: Any) -> list[tuple[str, Any]] | None:
    """Names and types of the fields of a dataclass, an attrs-like class, a named tuple or a typed dict."""
    if hasattr(target, "__dataclass_fields__"):
        names = list(target.__dataclass_fields__)
    elif hasattr(target, "__attrs_attrs__"):
        names = [attribute.name for attribute in target.__attrs_attrs__]
    elif issubclass(target, tuple) and hasattr(target, "_fields"):
        names = list(target._fields)
    elif is_typeddict(target):
        names = list(target.__annotations__)
    else:
        return None
    try:
        hints = get_type_hints(target)
    except Exception:  # noqa: BLE001 - names that only the application's type checker can resolve
        hints = {}
    return [(name, hints.get(name, Any)) for name in names]


def _call(make: Callable[..., Any], *arguments: Any) -> Any:
    """Make a value by code that may be the application's: whatever it raises is a misfit."""
    try:
        return make(*arguments)
    except _Misfit:
        raise
    except Exception as error:
        raise _Misfit(f"{type(error).__name__}: {error}") from error


def _misfit(words: str = "") -> NoReturn:
    raise _Misfit(words)


def _first_words(error: Any) -> str:
    first = error.errors(include_url=False)[0]
    return f"{path_text(first['loc'])}: {first['msg']}"


def _list(data: Any) -> list[Any]:
    return list(data) if isinstance(data, list | tuple) else _misfit()


def _dict(data: Any) -> dict[Any, Any]:
    return data if isinstance(data, dict) else _misfit()


def _number(name: str, target: Any) -> Any:
    return int(name) if target is int and name.removeprefix("-").isdecimal() else name


def _int(data: Any) -> int:
    if isinstance(data, bool) or not isinstance(data, int | str):
        _misfit()
    return data if isinstance(data, int) else int(data, 16 if "0x" in data else 10)


def _float(data: Any) -> float:
    if isinstance(data, bool) or not isinstance(data, int | float | str):
        _misfit()
    return float(data)


def _text(data: Any) -> str:
    return data if isinstance(data, str) else _misfit()


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
        return _misfit()


def _instant(data: Any) -> datetime:
    return datetime.fromisoformat(_text(data))


def _enum(target: Any, data: Any) -> Any:
    """The member whose value is written as the data is."""
    from flujo_lens.serialization.safe import safe_serialize

    for member in target:
        if member.value == data or safe_serialize(member.value) == data:
            return member
    return target(data)


_MAKERS: dict[Any, Callable[..., Any]] = {
    Enum: _enum,
    bool: lambda data: data if isinstance(data, bool) else _misfit(),
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
    dict: _dict,
    list: _list,
    set: lambda data: set(_list(data)),
    frozenset: lambda data: frozenset(_list(data)),
    deque: lambda data: deque(_list(data)),
}
_NEEDS_TYPE = (Enum, PurePath)
