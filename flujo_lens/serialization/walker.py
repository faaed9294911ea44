"""The slow path of serialization: converts one value at a time, and tracks its path.

`flujo_lens.serialization.safe` uses it for values that the fast path cannot write. It is not recursive, so the depth
is not limited, and it never fails: values that cannot be represented are replaced by placeholders and reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import isfinite
from typing import Any, NamedTuple

from flujo_lens.serialization.encoders import Custom, Encoder, encoder_for, is_unknown
from flujo_lens.serialization.lossy import (
    CIRCULAR,
    TOO_DEEP,
    LossError,
    LossyValue,
    Lost,
    class_name,
    path_text,
    printable,
    unserializable,
    words_of,
)
from flujo_lens.serialization.registry import Registry

_MAX_DEPTH = 100_000
_MAX_CONVERSIONS = 200
_SMALLEST, _LARGEST = -(2**63), 2**64 - 1
"""The integers that all JSON readers of the stores keep exactly."""

_SMALL = 2**63
_SCALARS = frozenset({str, int, float, bool, type(None)})
_CONTAINERS = frozenset({dict, list, tuple})
Report = Callable[[LossyValue], None]


class _Origins:
    """The intermediate values of a conversion to plain data.

    Attributes:
        values: The value and its successive conversions.
        opened: Values written in their built-in form; one that appears again inside contains itself.
        served: Values passed to a serializer of the application; a repeated one is written in its built-in form.
        serializers: The serializers called.
    """

    __slots__ = ("opened", "serializers", "served", "values")

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.opened: list[int] = []
        self.served: list[int] = []
        self.serializers: list[Encoder] = []


class _Frame(NamedTuple):
    """A container being copied: the remaining items, the copy, and the original objects."""

    items: Iterator[tuple[Any, Any]]
    copy: Any
    origins: _Origins
    is_object: bool


class _Walk:
    def __init__(self, registry: Registry, default: Encoder | None, report: Report) -> None:
        self._registry, self._default, self._report = registry, default, report
        self._custom = registry.overrides_natives
        self._frames: list[_Frame] = []
        self._at: list[Any] = []
        self._opened, self._served = set[int](), set[int]()
        self._serving: list[Encoder] = []

    def run(self, root: Any) -> Any:
        copy, frame = self._begin(root)
        while frame is not None or self._frames:
            if frame is not None:
                self._enter(frame)
            frame = self._advance(self._frames[-1])
        return copy

    def _enter(self, frame: _Frame) -> None:
        self._frames.append(frame)
        self._at.append(None)
        self._opened.update(frame.origins.opened)
        self._served.update(frame.origins.served)
        self._serving += frame.origins.serializers

    def _advance(self, frame: _Frame) -> _Frame | None:
        """Copy the remaining items of a container up to the next nested container, which is returned."""
        copy, path, custom = frame.copy, self._at, self._custom
        for key, item in frame.items:
            path[-1] = key
            below = None
            if custom or not _is_easy(item):
                item, below = self._begin(item)
            if frame.is_object:
                self._put(copy, key, item)
            else:
                copy.append(item)
            if below is not None:
                return below
        self._frames.pop()
        path.pop()
        origins = frame.origins
        self._opened.difference_update(origins.opened)
        self._served.difference_update(origins.served)
        del self._serving[len(self._serving) - len(origins.serializers) :]
        return None

    def _put(self, copy: dict[str, Any], key: Any, plain: Any) -> None:
        if type(key) is not str or not key.isascii():
            key = self._key(key)
        if key in copy:
            self._lose(key, f"two keys are written as {key!r}; the earlier value is lost")
        copy[key] = plain

    def _key(self, key: Any) -> str:
        """A key as text: itself, or the text of its value."""
        if issubclass(type(key), str):
            return self._text(str.__str__(key))
        try:
            return str(walk(key, self._registry, self._default, self._report_key))
        except RecursionError:
            return str(self._lose(key, "a key is nested too deeply", unserializable(type(key))))

    def _report_key(self, lost: LossyValue) -> None:
        self._report(LossyValue(path_text(self._at), lost.type_name, f"a key: {lost.reason}"))

    def _begin(self, value: Any) -> tuple[Any, _Frame | None]:
        """The plain form of a value; for a container, an empty copy and the frame that fills it.

        Texts, numbers, lists and dicts returned by a serializer are final.
        """
        origins = _Origins()
        try:
            return self._reduce(value, origins)
        except LossError as lost:
            return self._lose(origins.values[-1], lost.reason, lost.mark), None
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - code of the application, also if it calls sys.exit
            at_fault = origins.values[-1] if origins.values else value
            reason = f"its serializer failed: {class_name(type(error))}: {words_of(error)}"
            return self._lose(at_fault, reason, unserializable(type(at_fault))), None

    def _reduce(self, value: Any, origins: _Origins) -> tuple[Any, _Frame | None]:
        """Convert a value until it is plain; `origins` records the intermediate values."""
        for _ in range(_MAX_CONVERSIONS):
            kind = type(value)
            encoder = self._encoder(kind, value, origins)
            is_custom = isinstance(encoder, Custom)
            if not is_custom and kind in _SCALARS:
                return self._scalar(kind, value), None
            at = id(value)
            origins.values.append(value)
            if is_custom:
                origins.served.append(at)
                origins.serializers.append(encoder.serializer)
            elif at in self._opened or at in origins.opened:
                raise LossError(CIRCULAR, "it contains itself")
            else:
                origins.opened.append(at)
                if kind in _CONTAINERS:
                    return self._open(kind, value, origins)
            value = self._convert(kind, value, encoder)
        raise LossError(unserializable(type(origins.values[0])), "its serializer does not terminate")

    def _encoder(self, kind: type, value: Any, origins: _Origins) -> Any:
        """The encoder of a value; None for a plain one.

        A serializer is not called for its own result or for a value that it was given before; these are written in
        their built-in form.
        """
        is_plain = kind in _SCALARS or kind in _CONTAINERS
        if is_plain and (origins.values or not self._custom):
            return None
        encoder = encoder_for(self._registry, kind)
        if not isinstance(encoder, Custom):
            return None if is_plain else encoder
        if self._is_served(id(value), encoder, origins):
            return None if is_plain else encoder.built_in
        return encoder

    def _is_served(self, at: int, encoder: Custom, origins: _Origins) -> bool:
        if at in self._served or at in origins.served:
            return True
        if encoder.serializer in origins.serializers:
            return not is_unknown(encoder.built_in)
        return encoder.is_leaf and encoder.serializer in self._serving

    def _convert(self, kind: type, value: Any, encoder: Encoder) -> Any:
        if kind is Lost:
            self._report(LossyValue(path_text(self._at), class_name(value.kind), printable(value.reason)))
            return value.mark
        if self._default is None or not is_unknown(encoder):
            return encoder(value)
        try:
            return self._default(value)
        except TypeError:
            return self._without_default(kind, value, encoder)

    @staticmethod
    def _without_default(kind: type, value: Any, encoder: Encoder) -> Any:
        try:
            return encoder(value)
        except LossError as lost:
            if lost.mark != unserializable(kind):
                raise
        raise LossError(unserializable(kind), "it has no serializer, and serializer_default does not accept it")

    def _open(self, kind: type, value: Any, origins: _Origins) -> tuple[Any, _Frame | None]:
        if len(self._frames) >= _MAX_DEPTH:
            raise LossError(TOO_DEEP, f"it is nested more than {_MAX_DEPTH} levels deep")
        if kind is dict:
            made: dict[str, Any] = {}
            return made, _Frame(iter(list(value.items())), made, origins, True)
        copy: list[Any] = []
        return copy, _Frame(iter(enumerate(list(value))), copy, origins, False)

    def _scalar(self, kind: type, value: Any) -> Any:
        if kind is str:
            return value if value.isascii() else self._text(value)
        if kind is float:
            return value if isfinite(value) else str(value)
        if kind is int:
            return value if _SMALLEST <= value <= _LARGEST else _digits(value)
        return value

    def _text(self, value: str) -> str:
        try:
            value.encode()
        except UnicodeEncodeError:
            self._lose(value, "a lone surrogate became U+FFFD")
            return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return value

    def _lose(self, value: Any, reason: str, mark: Any = None) -> Any:
        """Report a value, and return its placeholder: a text, or a dict of texts."""
        self._report(LossyValue(path_text(self._at), class_name(type(value)), printable(reason)))
        if isinstance(mark, dict):
            return {name: printable(text) for name, text in mark.items()}
        return printable(mark) if isinstance(mark, str) else mark


def _is_easy(item: Any) -> bool:
    """Whether a value is already plain data."""
    kind = type(item)
    if kind is str:
        return bool(item.isascii())
    if kind is float:
        return isfinite(item)
    return item is None or kind is bool or (kind is int and -_SMALL < item < _SMALL)


def _digits(value: int) -> str:
    """All digits of an integer, even if `str` refuses them."""
    try:
        return str(value)
    except ValueError:
        return hex(value)


def walk(value: Any, registry: Registry, default: Encoder | None, report: Report) -> Any:
    """Convert `value` to dicts, lists, texts, integers, finite floats, booleans and None.

    Args:
        value: Any value.
        default: A fallback for unknown types.
        report: Called with each lost value.
    """
    return _Walk(registry, default, report).run(value)
