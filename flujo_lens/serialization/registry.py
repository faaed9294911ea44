"""The registry of an application's serializers and deserializers, with caches by type.

The process has one registry. `scoped_registry` replaces it by a copy in the current context (a test, a task), which is
discarded at the end and not visible to other threads.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from enum import Enum
from typing import Any, TypeVar
from uuid import UUID

T = TypeVar("T")
Serializer = Callable[[Any], Any]
Deserializer = Callable[[Any], Any]

_NATIVE = (str, int, float, bool, type(None), dict, list, tuple, UUID, Enum)
"""Types that orjson writes without calling ``default``, except dates and times with an option."""


class Registry:
    """Serializers and deserializers by type.

    A lookup follows the method resolution order, so that entries of a class apply to its subclasses. Registering
    replaces the tables instead of modifying them, so that lookups need no lock.

    Attributes:
        has_plain_instants: Whether no serializer is registered for `datetime`.
        encoders: A cache of `flujo_lens.serialization.encoders`.
        quick_encoders: A cache of encoders for use inside orjson.
        annotations: A cache of `flujo_lens.serialization.annotated_data`: whether an annotation has a registered class.
        overrides_natives: Whether a serializer is registered for a type that orjson writes natively.
    """

    def __init__(
        self,
        serializers: dict[type, Serializer] | None = None,
        deserializers: dict[type, Deserializer] | None = None,
    ) -> None:
        self._lock = threading.Lock()
        self._serializers = dict(serializers or {})
        self._deserializers = dict(deserializers or {})
        self.annotations: dict[Any, bool] = {}
        self._forget()

    def _forget(self) -> None:
        self.encoders: dict[type, Any] = {}
        self.quick_encoders: dict[type, Any] = {}
        self.has_plain_instants = self.serializer_of(datetime) is None
        self.overrides_natives = any(_is_native(kind) for kind in self._serializers)

    def copy(self) -> Registry:
        """A copy with the same entries."""
        with self._lock:
            return Registry(self._serializers, self._deserializers)

    def register_serializer(self, kind: type, serializer: Serializer) -> None:
        """Register the serializer of a class and its subclasses."""
        _check(kind, serializer, "serializer")
        with self._lock:
            self._serializers = {**self._serializers, kind: serializer}
            self._forget()

    def register_deserializer(self, kind: type, deserializer: Deserializer) -> None:
        """Register the deserializer of a class."""
        _check(kind, deserializer, "deserializer")
        with self._lock:
            self._deserializers = {**self._deserializers, kind: deserializer}
            self.annotations = {}

    def clear(self) -> None:
        """Remove all entries."""
        with self._lock:
            self._serializers, self._deserializers = {}, {}
            self.annotations = {}
            self._forget()

    def serializer_of(self, kind: type) -> Serializer | None:
        """The serializer of a class, or of its nearest base class."""
        return _nearest(self._serializers, kind)

    def deserializer_of(self, kind: type) -> Deserializer | None:
        """The deserializer of a class, or of its nearest base class.

        None for anything but a class, such as ``Optional[int]``, ``list[Money]`` or None.
        """
        return _nearest(self._deserializers, kind) if _is_class(kind) else None

    def deserializers_for(self, kind: type) -> list[tuple[type, Deserializer]]:
        """The deserializers that can create a value of a class, with their classes.

        First that of `deserializer_of`, then those of subclasses, unless `kind` is a built-in class: a text is
        not a value of a subclass of `str`.
        """
        table = self._deserializers
        if not table or not _is_class(kind):
            return []
        nearest = next((base for base in kind.__mro__ if base in table), None)
        is_pythons = kind.__module__.partition(".")[0] in sys.stdlib_module_names
        derived = [] if is_pythons else [each for each in table if each is not kind and kind in each.__mro__]
        return [(each, table[each]) for each in [*([nearest] if nearest else []), *derived]]

    @property
    def has_deserializers(self) -> bool:
        """Whether a deserializer is registered."""
        return bool(self._deserializers)


def _check(kind: Any, function: object, role: str) -> None:
    if not _is_class(kind):
        raise TypeError(f"a {role} can be registered only for a class, not for {kind!r}")
    if not callable(function):
        raise TypeError(f"the {role} for {kind.__qualname__} is not callable: {function!r}")


def _is_class(kind: object) -> bool:
    """Whether it is a real class: not an object that claims to be one, or `Any`."""
    return issubclass(type(kind), type) and kind is not Any


def _nearest(table: dict[type, T], kind: type) -> T | None:
    if not table:
        return None
    for base in kind.__mro__:
        found = table.get(base)
        if found is not None:
            return found
    return None


def _is_native(kind: type) -> bool:
    return issubclass(kind, _NATIVE) or any(issubclass(native, kind) for native in _NATIVE)


_process_wide = Registry()
_scoped: ContextVar[Registry | None] = ContextVar("flujo_lens_registry", default=None)


def current_registry() -> Registry:
    """The registry of the innermost `scoped_registry`, or of the process."""
    return _scoped.get() or _process_wide


@contextmanager
def scoped_registry(*, empty: bool = False) -> Iterator[Registry]:
    """Use a temporary registry in the current context.

    Args:
        empty: Whether to start without the entries of the process.
    """
    registry = Registry() if empty else current_registry().copy()
    token = _scoped.set(registry)
    try:
        yield registry
    finally:
        _scoped.reset(token)


def register_custom_serializer(obj_type: type, serializer_func: Serializer) -> None:
    """Register a serializer for a class and its subclasses.

    It has precedence over built-in encoders, even for types of JSON. If it fails, only its value is replaced by a
    placeholder and reported.

    Args:
        obj_type: The class.
        serializer_func: Takes a value and returns serializable data. If it returns the value itself, or another value
            for the same function, that is written in its built-in form.

    Raises:
        TypeError: `obj_type` is not a class, or `serializer_func` is not callable.

    Example:
        >>> register_custom_serializer(Money, lambda money: {"amount": str(money.amount), "unit": money.unit})
    """
    current_registry().register_serializer(obj_type, serializer_func)


def register_custom_deserializer(obj_type: type, deserializer_func: Deserializer) -> None:
    """Register a deserializer for a class.

    Args:
        obj_type: The class, used in `safe_deserialize(data, obj_type)` and annotations.
        deserializer_func: Takes the data and returns the value.

    Raises:
        TypeError: `obj_type` is not a class, or `deserializer_func` is not callable.
    """
    current_registry().register_deserializer(obj_type, deserializer_func)


def lookup_custom_serializer(value: Any) -> Serializer | None:
    """The registered serializer for a value, or None."""
    return current_registry().serializer_of(type(value))


def lookup_custom_deserializer(obj_type: Any) -> Deserializer | None:
    """The registered deserializer for a class; None without one, or if it is not a class."""
    return current_registry().deserializer_of(obj_type)


def reset_custom_serializer_registry() -> None:
    """Remove all entries (in tests, prefer `scoped_registry`)."""
    current_registry().clear()
