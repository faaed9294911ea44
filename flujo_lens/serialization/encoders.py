"""Encoders of types, cached by type.

The forms are those of the library (see `docs/guides/serialization.md`): sets, tuples and named tuples are lists,
bytes are UTF-8 text, complex numbers ``{"real", "imag"}``, enums their value, models and dataclasses objects by field
name. The data has no type names.
"""

from __future__ import annotations

from collections import abc
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from re import compile as compile_pattern
from types import (
    BuiltinFunctionType,
    FunctionType,
    MappingProxyType,
    MethodDescriptorType,
    MethodType,
    MethodWrapperType,
    SimpleNamespace,
    WrapperDescriptorType,
)
from typing import Any
from uuid import UUID

from flujo_lens.serialization.lossy import LossError, Lost, class_name, unserializable, words_of
from flujo_lens.serialization.registry import Registry

Encoder = Callable[[Any], Any]
_MOST_TYPES = 4096
"""Maximum size of the cache, since an application may create classes dynamically."""

_MOST_WRAPPERS = 20


def encoder_for(registry: Registry, kind: type) -> Encoder:
    """The encoder of a type, cached in the registry."""
    table = registry.encoders
    found: Encoder | None = table.get(kind)
    if found is None:
        found = _find(registry, kind)
        if len(table) >= _MOST_TYPES:
            table.clear()
        table[kind] = found
    return found


def quick_encoder_for(registry: Registry, kind: type) -> Encoder:
    """The encoder of a type for use inside orjson, cached in the registry.

    It must not run code of the application: changing a list while orjson writes it crashes the process. For types
    that need such code, returns a `Custom`.
    """
    table = registry.quick_encoders
    found: Encoder | None = table.get(kind)
    if found is not None:
        return found
    encoder = encoder_for(registry, kind)
    if getattr(encoder, "runs_code", False):
        encoder = Custom(encoder, kind)
    if len(table) >= _MOST_TYPES:
        table.clear()
    table[kind] = encoder
    return encoder


def _find(registry: Registry, kind: type) -> Encoder:
    custom = registry.serializer_of(kind)
    return _built_in(kind) if custom is None else Custom(custom, kind)


def _built_in(kind: type) -> Encoder:
    for base in kind.__mro__:
        if base in _BY_TYPE:
            return _BY_TYPE[base]
        named = _BY_NAME.get(f"{base.__module__}.{base.__qualname__}")
        if named is not None:
            return named
    is_callable = any("__call__" in base.__dict__ for base in kind.__mro__)
    return _by_shape(kind) or (_named if is_callable else _unknown)


class Custom:
    """A registered serializer, which may return anything.

    Attributes:
        serializer: The function.
        built_in: The built-in encoder of the type.
        is_leaf: Whether its result has no parts.
    """

    __slots__ = ("built_in", "is_leaf", "serializer")

    def __init__(self, serializer: Encoder, kind: type) -> None:
        built_in = _built_in(kind)
        self.serializer, self.built_in = serializer, _given_back if built_in is _unknown else built_in
        self.is_leaf = self.built_in in _LEAVES

    def __call__(self, value: Any) -> Any:
        return self.serializer(value)


def is_unknown(encoder: Encoder) -> bool:
    """Whether the type has no encoder, so that at most a name can be written."""
    return encoder in _NAMES


def _given_back(value: Any) -> Any:
    raise LossError(unserializable(type(value)), "its serializer returns it unchanged, and there is no built-in form")


def _unknown(value: Any) -> Any:
    raise LossError(
        unserializable(type(value)),
        "no serializer is registered for it (register_custom_serializer, serializer_default)",
    )


def _by_shape(kind: type) -> Encoder | None:
    """The encoder of a type recognized by its attributes, not by its base class."""
    if hasattr(kind, "__pydantic_core_schema__") and hasattr(kind, "model_fields"):
        from flujo_lens.serialization.pydantic_models import model_encoder

        return model_encoder(kind)
    if hasattr(kind, "__dataclass_fields__"):
        if "__pydantic_decorators__" in kind.__dict__:
            from flujo_lens.serialization.pydantic_models import dataclass_encoder

            found = dataclass_encoder(kind)
            if found is not None:
                return found
        return _attributes([name for name, field in kind.__dataclass_fields__.items() if _is_field(field)])
    if hasattr(kind, "__attrs_attrs__"):
        return _attributes([attribute.name for attribute in kind.__attrs_attrs__])
    if issubclass(kind, abc.Mapping):
        return _mapping
    if issubclass(kind, abc.Set):
        return _set
    if issubclass(kind, abc.Sequence):
        return list
    return None


def _is_field(field: Any) -> bool:
    return str(getattr(field, "_field_type", "")) == "_FIELD"


def _attributes(names: Iterable[str]) -> Encoder:
    wanted = tuple(names)

    def encode(value: Any) -> dict[str, Any]:
        return {name: getattr(value, name) for name in wanted if hasattr(value, name)}

    return encode


# --- built-in types


def _duration(value: timedelta) -> str:
    """ISO 8601, to the microsecond: ``P1DT2.5S``, ``-PT0.5S``."""
    sign = "-" if value.days < 0 else ""
    size = abs(value)
    seconds = f"{size.seconds}.{size.microseconds:06d}".rstrip("0").rstrip(".")
    days = f"{size.days}D" if size.days else ""
    return f"{sign}P{days}T{seconds}S" if seconds != "0" or not days else f"{sign}P{days}"


def _complex(value: complex) -> dict[str, float]:
    return {"real": value.real, "imag": value.imag}


def _bytes(value: bytes | bytearray | memoryview) -> str:
    data = bytes(value)
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise LossError(data.decode(errors="replace"), "bytes that are not UTF-8 became U+FFFD") from None


def _set(value: Iterable[Any]) -> list[Any]:
    """Sorted if possible, so that equal sets make equal bytes."""
    try:
        return sorted(value)
    except Exception:  # noqa: BLE001 - comparisons of arbitrary objects
        return list(value)


def _mapping(value: Any) -> dict[Any, Any]:
    return {key: value[key] for key in value}


def _namespace(value: Any) -> dict[str, Any]:
    return dict(vars(value))


def _value(member: Enum) -> Any:
    return member.value


def _exception(error: BaseException) -> Any:
    mark = {"type": class_name(type(error)), "message": words_of(error)}
    raise LossError(mark, "only the class name and the message of an exception are kept")


def _callable(value: Any) -> Any:
    raise LossError(_name_of(value) or unserializable(type(value)), "only the name of a function or class is kept")


def _name_of(value: Any) -> str | None:
    name = getattr(value, "__name__", None)
    return name if isinstance(name, str) else None


def _named(value: Any) -> Any:
    """The name of a callable object, of the function in it, or of its class."""
    inner = value
    for _ in range(_MOST_WRAPPERS):
        below = None if _name_of(inner) else getattr(inner, "func", None)
        if not callable(below):
            break
        inner = below
    name = _name_of(inner) or class_name(type(inner)).rpartition(".")[2]
    raise LossError(name, "only the name of a callable object is kept")


def _secret(value: Any) -> Any:
    raise LossError("**********", "a secret is not written; register a serializer for it to keep it")


def _lost(value: Lost) -> Any:
    raise LossError(value.mark, value.reason)


def _numpy(value: Any) -> Any:
    """Plain numbers and lists; texts for times and floats beyond Python's."""
    return value.astype(str).tolist() if value.dtype.char in "MmgG" else value.tolist()


def _pattern(value: Any) -> Any:
    if isinstance(value.pattern, str) and value.flags == compile_pattern("").flags:
        return value.pattern
    raise LossError(_as_text(value.pattern), "only the text of a regular expression is kept, not its flags")


def _as_text(data: str | bytes) -> str:
    return data if isinstance(data, str) else data.decode(errors="replace")


_BY_TYPE: dict[type, Encoder] = {
    Enum: _value,
    bool: bool,
    int: int.__int__,
    float: float.__float__,
    str: str.__str__,
    type(None): lambda value: None,
    datetime: datetime.isoformat,
    date: date.isoformat,
    time: time.isoformat,
    timedelta: _duration,
    Decimal: str,
    UUID: str,
    PurePath: str,
    complex: _complex,
    bytes: _bytes,
    bytearray: _bytes,
    memoryview: _bytes,
    dict: dict.copy,
    list: list.copy,
    tuple: list,
    set: _set,
    frozenset: _set,
    BaseException: _exception,
    type: _callable,
    FunctionType: _callable,
    BuiltinFunctionType: _callable,
    MethodWrapperType: _callable,
    MethodType: _callable,
    MethodDescriptorType: _callable,
    WrapperDescriptorType: _callable,
    SimpleNamespace: _namespace,
    MappingProxyType: _mapping,
    Lost: _lost,
}
_BY_NAME: dict[str, Encoder] = {
    "collections.deque": list,
    "functools.partial": _named,
    "fractions.Fraction": str,
    "ipaddress._IPAddressBase": str,
    "collections.UserString": str,
    "re.Pattern": _pattern,
    "zoneinfo.ZoneInfo": str,
    "numpy.ndarray": _numpy,
    "numpy.generic": _numpy,
    "pydantic.types._SecretBase": _secret,
    "pydantic_core._pydantic_core.Url": str,
    "pydantic.networks._BaseUrl": str,
    "pydantic.networks._BaseMultiHostUrl": str,
}
"""Types in modules that are not imported here, by name."""

_PARTS = (dict.copy, list.copy, list, _set, _namespace, _mapping)
_LEAVES = frozenset(each for each in (*_BY_TYPE.values(), *_BY_NAME.values()) if each not in _PARTS)
"""The encoders of types without parts."""

_NAMES = (_unknown, _given_back, _named)
