"""Deserialization of registered classes inside annotated data.

Registered deserializers are applied to the data, and pydantic handles the rest, with its unions, discriminators,
aliases and validators. Annotations without a registered class are skipped.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar, Union, get_args, get_origin

from flujo_lens.serialization.fields import (
    JSON_TYPES,
    TRANSPARENT,
    classes_in,
    fields_of,
    is_typed_dict,
    literal_of,
    meant,
    model_keys,
    validate_by_name,
)
from flujo_lens.serialization.lossy import words_of
from flujo_lens.serialization.registry import Registry, current_registry
from flujo_lens.serialization.safe import safe_serialize

_MISSING: Any = object()
_MOST_ADAPTERS = 512


class Failure(NamedTuple):
    """A value whose deserializer failed.

    Attributes:
        path: Its path in the data.
        kind: The class.
        reason: The reason as a sentence without a full stop.
    """

    path: tuple[Any, ...]
    kind: type
    reason: str


def names_registered(hint: Any) -> bool:
    """Whether an annotation contains, at any depth, a class with a registered deserializer."""
    registry = current_registry()
    return registry.has_deserializers and _names(hint, registry)


def _names(hint: Any, registry: Registry) -> bool:
    try:
        known = registry.annotations.get(hint)
    except TypeError:  # not hashable
        return any(map(registry.deserializers_for, classes_in(hint)))
    if known is None:
        known = any(map(registry.deserializers_for, classes_in(hint)))
        registry.annotations[hint] = known
    return known


def with_registered(data: Any, hint: Any, failures: list[Failure]) -> Any:
    """Plain data with values of registered classes created; `data` itself if `hint` has none.

    Values whose deserializers fail stay unchanged and are added to `failures`. For a base class, the deserializers of
    its subclasses are tried, too; the value that serializes to the data is used.
    """
    if not names_registered(hint):
        return data
    return _Preparation(current_registry(), failures, {}).value(data, hint)


class _Preparation:
    def __init__(self, registry: Registry, failures: list[Failure], known: dict[Any, Any]) -> None:
        self._registry, self._failures, self._known = registry, failures, known
        self._path: list[Any] = []

    def value(self, data: Any, hint: Any) -> Any:
        """`with_registered` for a part of the data."""
        if not _names(hint, self._registry):
            return data
        behind = meant(hint)
        if behind is not hint:
            return self.value(data, behind)
        origin = get_origin(hint)
        if origin in (Union, types.UnionType):
            return self._one_of(data, get_args(hint))
        if isinstance(hint, TypeVar):
            return self._one_of(data, hint.__constraints__ or (hint.__bound__,))
        if origin is not None:
            return self._generic(data, origin, get_args(hint))
        return self._instance(data, hint)

    def _part(self, data: Any, hint: Any, key: Any) -> Any:
        self._path.append(key)
        try:
            return self.value(data, hint)
        finally:
            self._path.pop()

    def _generic(self, data: Any, origin: Any, arguments: tuple[Any, ...]) -> Any:
        if origin in TRANSPARENT:
            return self.value(data, arguments[0])
        if not isinstance(origin, type):
            return data
        fields = fields_of(origin, arguments)
        if fields is not None:
            return self._fields(data, origin, dict(fields))
        if isinstance(data, list):
            kinds = arguments if origin is tuple and arguments[-1] is not Ellipsis else arguments[:1] * len(data)
            return [self._part(item, kind, at) for at, (item, kind) in enumerate(zip(data, kinds, strict=False))] + (
                data[len(kinds) :]
            )
        if isinstance(data, dict) and arguments and issubclass(origin, Mapping):
            key, value = (arguments[0], arguments[-1]) if len(arguments) == 2 else (arguments[0], Any)
            return {self._key(name, key): self._part(item, value, name) for name, item in data.items()}
        return data

    def _key(self, name: Any, hint: Any) -> Any:
        """A key; keys other than texts were written as Python literals."""
        if not _names(hint, self._registry):
            return name
        found = _MISSING
        for plain in (name, literal_of(name)):
            made, failed = self._attempt(plain, hint)
            if not failed and str(_plain(made)) == name:
                return made
            found = made if not failed and found is _MISSING else found
        return self._part(name, hint, name) if found is _MISSING else found

    def _attempt(self, data: Any, hint: Any) -> tuple[Any, list[Failure]]:
        failures: list[Failure] = []
        inner = _Preparation(self._registry, failures, self._known)
        inner._path = list(self._path)
        return inner.value(data, hint), failures

    def _one_of(self, data: Any, arms: tuple[Any, ...]) -> Any:
        """The member of a union that fits and whose value serializes to the data.

        Registered classes come first, since a text for ``str | Money`` would never become a Money otherwise.
        """
        if data is None and type(None) in arms:
            return None
        key = (id(data), arms)
        if key not in self._known:
            self._known[key] = (*self._chosen(data, arms), data)  # keeps the id of the data from being reused
        made, failures, _ = self._known[key]
        self._failures += failures
        return made

    def _chosen(self, data: Any, arms: tuple[Any, ...]) -> tuple[Any, list[Failure]]:
        taken, failures = [], list[Failure]()
        for arm in sorted(arms, key=lambda arm: not _names(arm, self._registry)):
            made, failed = self._attempt(data, arm)
            failures += failed
            value = _MISSING if failed else _validated(made, arm)
            if value is not _MISSING:
                if _plain(value) == data:
                    return made, []
                taken.append(made)
        return (taken[0], []) if taken else (data, failures)

    # --- classes

    def _instance(self, data: Any, kind: Any) -> Any:
        if type(data) not in JSON_TYPES:
            return data
        makers = self._registry.deserializers_for(kind)
        if makers:
            has_form = makers[0][0] not in kind.__mro__ and (
                hasattr(kind, "model_fields") or fields_of(kind) is not None
            )
            made = self._made(data, kind, makers, only_exact=has_form)
            if made is not data or not has_form:
                return made
        if getattr(kind, "__pydantic_root_model__", False):
            return self.value(data, kind.model_fields["root"].annotation)
        if hasattr(kind, "model_fields"):
            return self._model(data, kind)
        return self._fields(data, kind, dict(fields_of(kind) or []))

    def _made(self, data: Any, kind: Any, makers: list[tuple[type, Callable[[Any], Any]]], only_exact: bool) -> Any:
        """The result of the first function that fits (with `only_exact`, that serializes to the data), or `data`."""
        found, failures = [], list[Failure]()
        for owner, make in makers:
            made, reason = _called(make, data, owner, kind)
            if reason:
                failures.append(Failure(tuple(self._path), kind, reason))
            elif (len(makers) == 1 and not only_exact) or _plain(made) == data:
                return made
            else:
                found.append(made)
        if only_exact:
            return data
        self._failures += [] if found else failures
        return found[0] if found else data

    def _model(self, data: Any, kind: Any) -> Any:
        if not isinstance(data, dict):
            return data
        keys, made = model_keys(kind), dict[Any, Any]()
        for key, item in data.items():
            name, hint = keys.get(key, (key, Any))
            made[name] = self._part(item, hint, name)
        return made

    def _fields(self, data: Any, kind: Any, hints: dict[str, Any]) -> Any:
        """The fields of a dataclass, a typed dict, a named tuple or an attrs class."""
        if isinstance(data, list) and issubclass(kind, tuple):
            made = [self._part(item, hint, name) for item, (name, hint) in zip(data, hints.items(), strict=False)]
            return [*made, *data[len(made) :]]
        if not isinstance(data, dict):
            return data
        values = {name: self._part(item, hints.get(name, Any), name) for name, item in data.items()}
        if not hasattr(kind, "__attrs_attrs__"):
            return values
        from flujo_lens.serialization.building import build

        return build(data, kind, None, strict=False)


def _called(make: Callable[[Any], Any], data: Any, owner: type, kind: Any) -> tuple[Any, str]:
    """The result of a deserializer, and the reason if it is not valid."""
    deserializer = f"the deserializer for {owner.__name__}"
    try:
        made = make(data)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - code of the application, also if it calls sys.exit
        said = words_of(error)
        return None, f"{deserializer} raised {type(error).__name__}{f': {said}' if said else ''}"
    if _is_a(made, kind):
        return made, ""
    return (
        None,
        f"{deserializer} returned a {type(made).__name__}; use register_custom_deserializer({kind.__name__}, ...)",
    )


def _is_a(made: Any, kind: Any) -> bool:
    try:
        return is_typed_dict(kind) or isinstance(made, kind)
    except TypeError:  # a protocol that does not support isinstance
        return True


def _plain(value: Any) -> Any:
    return safe_serialize(value, on_lossy=lambda lost: None)


def _validated(data: Any, hint: Any) -> Any:
    """`data` validated by an annotation; `_MISSING` if it does not fit."""
    try:
        return validate_by_name(adapter_of(hint), data)
    except ValueError:  # includes pydantic's
        return _MISSING
    except Exception:  # noqa: BLE001 - an annotation that pydantic does not know
        pass
    from flujo_lens.serialization.building import build

    try:
        return build(data, hint, None, strict=True)
    except ValueError:
        return _MISSING


def adapter_of(hint: Any) -> Any:
    """A pydantic ``TypeAdapter`` for an annotation with any classes.

    Raises:
        PydanticUserError, NameError, TypeError: pydantic does not support it.
    """
    try:
        return _adapter(hint)
    except TypeError:  # not hashable
        return _made_adapter(hint)


def _made_adapter(hint: Any) -> Any:
    from pydantic import ConfigDict, TypeAdapter
    from pydantic.errors import PydanticUserError

    try:
        return TypeAdapter(hint)
    except PydanticUserError:
        return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))


_adapter = lru_cache(_MOST_ADAPTERS)(_made_adapter)
