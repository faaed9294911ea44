"""Deserialization of plain data to an annotated type: the inverse of `flujo_lens.serialization.encoders`."""

from __future__ import annotations

import types
from collections import Counter, abc, deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin

from flujo_lens.serialization.fields import (
    JSON_TYPES,
    TRANSPARENT,
    construct,
    fields_of,
    is_read_as_written,
    is_typed_dict,
    literal_of,
    model_keys,
    validate_model,
)
from flujo_lens.serialization.lossy import path_text
from flujo_lens.serialization.making import MAKERS, NEEDS_TYPE, Make, Misfit, call, dict_of, list_of, misfit
from flujo_lens.serialization.registry import current_registry

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


def build(data: Any, target: Any, default: Make | None, strict: bool) -> Any:
    """Convert plain data to a value of `target`; see `flujo_lens.serialization.safe_deserialize`.

    Raises:
        ValueError: `strict`, and a value does not fit; the message has its path.
    """
    try:
        return _Builder(default, strict, {}).build(data, target)
    except RecursionError:
        if not strict:
            return data
    raise ValueError(f"$ is nested too deeply for {_name(target)}")


def _name(target: Any) -> str:
    return getattr(target, "__qualname__", None) or str(target)


class _Builder:
    """Builds a value.

    Args:
        default: A fallback for unknown classes.
        strict: Whether to fail if data does not fit.
        known: A cache of built objects, since the members of a union share data.
    """

    def __init__(self, default: Make | None, strict: bool, known: dict[Any, Any]) -> None:
        self._default, self._strict, self._known = default, strict, known
        self._registry = current_registry()
        self._path: list[Any] = []

    def build(self, data: Any, target: Any) -> Any:
        """The value; if the data does not fit, the data itself, or with `strict`, an error with the path."""
        try:
            return self._make(data, target)
        except Misfit as misfit:
            if self._strict:
                self._refuse(data, target, misfit)
            return data

    def _refuse(self, data: Any, target: Any, reason: Exception) -> NoReturn:
        words = f": {reason}" if str(reason) else ""
        message = f"{path_text(self._path)} is {type(data).__name__}, not {_name(target)}{words}"
        raise ValueError(message) from (reason.__cause__ or reason)

    def _part(self, data: Any, target: Any, key: Any) -> Any:
        self._path.append(key)
        try:
            return self.build(data, target)
        finally:
            self._path.pop()

    def _make(self, data: Any, target: Any) -> Any:
        origin = get_origin(target)
        if origin in (Union, types.UnionType):
            return self._one_of(data, get_args(target))
        if origin in TRANSPARENT:
            return self._make(data, get_args(target)[0])
        if origin is Literal:
            return self._literal(data, get_args(target))
        if isinstance(target, TypeVar):
            return self._type_variable(data, target)
        if hasattr(target, "__supertype__"):
            return self._make(data, target.__supertype__)
        if origin is not None and not hasattr(target, "model_fields"):
            return self._generic(data, origin, get_args(target))
        if target is None or target is type(None):
            return None if data is None else misfit()
        if target is Any or target is object or not isinstance(target, type):
            return data
        return self._instance(data, target)

    def _type_variable(self, data: Any, target: TypeVar) -> Any:
        if target.__constraints__:
            return self._one_of(data, target.__constraints__)
        return self._make(data, target.__bound__) if target.__bound__ else data

    def _literal(self, data: Any, values: tuple[Any, ...]) -> Any:
        """The value of a ``Literal`` that serializes to the data."""
        from flujo_lens.serialization.safe import safe_serialize

        for value in values:
            plain = safe_serialize(value)
            if type(plain) is type(data) and plain == data:
                return value
        return misfit()

    def _one_of(self, data: Any, arms: tuple[Any, ...]) -> Any:
        """The member of a union with exactly the data's type, else the first that fits."""
        if data is None and type(None) in arms:
            return None
        if type(data) in arms and type(data) in (str, int, float, bool):
            return data
        for arm in arms:
            attempt = _Builder(self._default, True, self._known)
            try:
                return attempt.build(data, arm)
            except ValueError:
                continue
        return misfit()

    def _generic(self, data: Any, origin: Any, arguments: tuple[Any, ...]) -> Any:
        if not arguments:
            return self._make(data, origin)
        if origin is tuple:
            return self._tuple(data, arguments)
        if origin in _LISTS:
            return call(_LISTS[origin], [self._part(item, arguments[0], at) for at, item in enumerate(list_of(data))])
        if origin is Counter:
            arguments = (arguments[0], int)
        if len(arguments) == 2 and (issubclass(dict, origin) or issubclass(origin, dict)):
            return self._mapping(data, *arguments)
        fields = fields_of(origin, arguments)
        return self._make(data, origin) if fields is None else self._object(data, origin, fields)

    def _mapping(self, data: Any, key: Any, value: Any) -> dict[Any, Any]:
        return {self._key(name, key): self._part(item, value, name) for name, item in dict_of(data).items()}

    def _key(self, name: Any, target: Any) -> Any:
        """A key; keys other than texts were written as Python literals."""
        kinds = get_args(target) if get_origin(target) in (Union, types.UnionType) else (target,)
        literal = literal_of(name)
        if literal is not name and type(literal) in (bool, type(None)) and type(literal) in kinds:
            return literal
        for found in (name, literal):
            with suppress(ValueError):
                return _Builder(self._default, True, self._known).build(found, target)
        return self._part(name, target, name)

    def _tuple(self, data: Any, arguments: tuple[Any, ...]) -> Any:
        items = list_of(data)
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            arguments = (arguments[0],) * len(items)
        if len(arguments) != len(items):
            misfit(f"{len(arguments)} items are required, but there are {len(items)}")
        return tuple(self._part(item, kind, at) for at, (item, kind) in enumerate(zip(items, arguments, strict=True)))

    # --- classes

    def _instance(self, data: Any, target: Any) -> Any:
        custom = self._registry.deserializer_of(target)
        if custom is not None:
            return data if type(data) not in JSON_TYPES and isinstance(data, target) else call(custom, data)
        if is_typed_dict(target) or (issubclass(target, tuple) and hasattr(target, "_fields")):
            return self._object(data, target, fields_of(target) or [])
        for base in target.__mro__:
            if base in MAKERS:
                return call(MAKERS[base], target, data) if base in NEEDS_TYPE else call(MAKERS[base], data)
        if hasattr(target, "model_validate"):
            return self._once(data, target, lambda: self._model(data, target))
        fields = fields_of(target)
        if fields is not None:
            return self._once(data, target, lambda: self._object(data, target, fields))
        if target.__module__.partition(".")[0] in ("ipaddress", "zoneinfo"):
            return call(target, data if isinstance(data, str) else misfit())
        if target.__module__ == "numpy" and target.__qualname__ == "ndarray":
            import numpy

            return call(numpy.asarray, data)
        if self._default is not None:
            return call(self._default, data)
        return data if isinstance(data, target) else misfit("no deserializer is known")

    def _once(self, data: Any, target: Any, make: Callable[[], Any]) -> Any:
        """The cached result or exception of `make` for an object and class; otherwise nested unions cost 2**depth."""
        if not isinstance(data, dict | list):
            return make()
        key = (id(data), target, self._strict)
        if key not in self._known:
            try:
                self._known[key] = (make(), None)
            except ValueError as error:
                self._known[key] = (None, error)
        made, misfit_before = self._known[key]
        if misfit_before is not None:
            raise misfit_before
        return made

    def _model(self, data: Any, target: Any) -> Any:
        """A pydantic model; if it does not accept the data, its fields are built first."""
        if isinstance(data, target):
            return data
        as_written = is_read_as_written(target) and not _has_registered(target)
        if as_written or not isinstance(data, dict):
            try:
                return call(validate_model, target, data)
            except Misfit:
                if not isinstance(data, dict):
                    raise
        loose, keys = _Builder(self._default, False, self._known), model_keys(target)
        prepared = {}
        for key, item in data.items():
            name, kind = keys.get(key, (key, Any))
            prepared[name] = loose.build(item, kind)
        return call(validate_model, target, prepared)

    def _object(self, data: Any, target: Any, fields: list[tuple[str, Any]]) -> Any:
        if isinstance(data, list) and issubclass(target, tuple):
            names = [name for name, _ in fields]
            if len(data) > len(names):
                misfit(f"at most {len(names)} items are allowed, but there are {len(data)}")
            data = dict(zip(names, data, strict=False))
        found = dict_of(data)
        values = {name: self._part(found[name], kind, name) for name, kind in fields if name in found}
        if is_typed_dict(target):
            return {**found, **values}
        return call(construct, target, values)


def _has_registered(target: Any) -> bool:
    from flujo_lens.serialization.annotated_data import names_registered

    return names_registered(target)
