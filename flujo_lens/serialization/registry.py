"""What an application registers for its own types, and what is remembered of types that were met.

There is one registry for the process. `scoped_registry` puts a copy in its place for the current context
(a test, a task): what is registered inside is forgotten at the end, and seen by no other thread.
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

__all__ = [
    "Registry",
    "current_registry",
    "lookup_custom_deserializer",
    "lookup_custom_serializer",
    "register_custom_deserializer",
    "register_custom_serializer",
    "reset_custom_serializer_registry",
    "scoped_registry",
]

T = TypeVar("T")
Serializer = Callable[[Any], Any]
Deserializer = Callable[[Any], Any]

_NATIVE = (str, int, float, bool, type(None), dict, list, tuple, UUID, Enum)
"""Types that the JSON engine writes without asking. (It can be told to ask for dates and times.)"""


class Registry:
    """Serializers and deserializers by type.

    A lookup follows the method resolution order, so that what is registered for a class serves its
    subclasses, the nearest class first. Registering replaces the tables (it changes none), so that a lookup
    needs no lock.

    Attributes:
        has_plain_instants: Whether no serializer stands for `datetime`.
        encoders: What is known of how to write each type that was met; kept by `flujo_lens.serialization.encoders`.
        quick_encoders: The same for use while orjson is at work.
        annotations: Which annotations name a class with a deserializer; kept by `flujo_lens.serialization.registered`.
        overrides_natives: Whether a serializer stands for a type that the JSON engine would write without asking.
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
        """A registry of its own with the same entries."""
        with self._lock:
            return Registry(self._serializers, self._deserializers)

    def register_serializer(self, kind: type, serializer: Serializer) -> None:
        """Let `serializer` write the values of a class and of its subclasses."""
        _check(kind, serializer, "serializer")
        with self._lock:
            self._serializers = {**self._serializers, kind: serializer}
            self._forget()

    def register_deserializer(self, kind: type, deserializer: Deserializer) -> None:
        """Let `deserializer` make the values of a class."""
        _check(kind, deserializer, "deserializer")
        with self._lock:
            self._deserializers = {**self._deserializers, kind: deserializer}
            self.annotations = {}

    def clear(self) -> None:
        """Forget all that was registered."""
        with self._lock:
            self._serializers, self._deserializers = {}, {}
            self.annotations = {}
            self._forget()

    def serializer_of(self, kind: type) -> Serializer | None:
        """The serializer of a class: its own, else that of the nearest class that it derives from."""
        return _nearest(self._serializers, kind)

    def deserializer_of(self, kind: type) -> Deserializer | None:
        """The deserializer of a class: its own, else that of the nearest class that it derives from.

        None for whatever is no class: ``Optional[int]``, ``list[Money]``, None.
        """
        return _nearest(self._deserializers, kind) if _is_class(kind) else None

    def deserializers_for(self, kind: type) -> list[tuple[type, Deserializer]]:
        """What may make a value of a class: the class that each is registered for, and the function.

        First the one of `deserializer_of`, then those of the classes that derive from `kind`, unless it is Python's
        own: a text is no value of an application's subclass of `str`.
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
        """Whether there is any."""
        return bool(self._deserializers)


def _check(kind: Any, function: object, role: str) -> None:
    if not _is_class(kind):
        raise TypeError(f"a {role} is registered for a class, not for {kind!r}")
    if not callable(function):
        raise TypeError(f"the {role} for {kind.__qualname__} is no function: {function!r}")


def _is_class(kind: object) -> bool:
    """Whether it is a class indeed: some objects only say so, and `Any` is none that has objects."""
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
    """The registry that counts here: that of the innermost `scoped_registry`, else that of the process."""
    return _scoped.get() or _process_wide


@contextmanager
def scoped_registry(*, empty: bool = False) -> Iterator[Registry]:
    """Register for the current context only: what is registered inside is gone at the end.

    Args:
        empty: Begin without what the process has registered.
    """
    registry = Registry() if empty else current_registry().copy()
    token = _scoped.set(registry)
    try:
        yield registry
    finally:
        _scoped.reset(token)


def register_custom_serializer(obj_type: type, serializer_func: Serializer) -> None:
    """Say how values of a class (and of its subclasses) are written.

    It comes before every built-in way, also for types that JSON has. A serializer that fails costs its own
    value alone: that is replaced by a mark, and reported.

    Args:
        obj_type: The class.
        serializer_func: Takes a value and returns data: anything that can be serialized itself. Where that is the
            value itself, or another that the same function serves, it is written in the built-in form.

    Raises:
        TypeError: `obj_type` is no class, or `serializer_func` cannot be called.

    Example:
        >>> register_custom_serializer(Money, lambda money: {"amount": str(money.amount), "unit": money.unit})
    """
    current_registry().register_serializer(obj_type, serializer_func)


def register_custom_deserializer(obj_type: type, deserializer_func: Deserializer) -> None:
    """Say how values of a class are made again from what its serializer returned.

    Args:
        obj_type: The class; `safe_deserialize(data, obj_type)` and annotations that contain it come here.
        deserializer_func: Takes the data and returns the value.

    Raises:
        TypeError: `obj_type` is no class, or `deserializer_func` cannot be called.
    """
    current_registry().register_deserializer(obj_type, deserializer_func)


def lookup_custom_serializer(value: Any) -> Serializer | None:
    """The registered serializer for a value, or None."""
    return current_registry().serializer_of(type(value))


def lookup_custom_deserializer(obj_type: Any) -> Deserializer | None:
    """The registered deserializer for a class, or None; None also for an annotation that is no class."""
    return current_registry().deserializer_of(obj_type)


def reset_custom_serializer_registry() -> None:
    """Forget all that was registered (in tests, prefer `scoped_registry`)."""
    current_registry().clear()
