"""`safe_dumps`, `safe_serialize`: JSON of any value; a value that cannot be represented does not affect the rest.

There are two paths with the same results. The fast path passes the value to orjson, with a hook for other types. If
it finds a value without a JSON form (NaN, a lone surrogate, an integer of more than 64 bits, a key other than text, a
cycle, great depth, an unknown type), the slow path starts over (`flujo_lens.serialization.walker`), which tracks the
path of every value. For values with a serializer of the application, the fast path leaves a gap that is filled after
orjson is done, since orjson crashes if a list changes while it is written.

orjson writes NaN and infinities as ``null``. So if the result has a ``null``, `_nulls_are_none` checks whether it
comes from None, except in a `PlainList`.
"""

from __future__ import annotations

import json
import logging
import marshal
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from operator import is_
from typing import Any, NamedTuple

import orjson

from flujo_lens.serialization.encoders import Custom, quick_encoder_for
from flujo_lens.serialization.lossy import PLAIN_MODEL, LossyValue
from flujo_lens.serialization.registry import Registry, current_registry
from flujo_lens.serialization.walker import walk

Default = Callable[[Any], Any]
Report = Callable[[LossyValue], None]

_OPTIONS = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
"""orjson would round UTC offsets to minutes; historic ones have seconds."""

_GAP, _PLACE = b"\0", orjson.Fragment(b"\0")
_SEPARATOR, _COMMA = b",\1,", orjson.Fragment(b"\1")
"""Bytes that orjson never writes, since it escapes them in texts."""

_DEEPEST = 50
_MANY = 20
_LARGE = 2**24
_SUSPICIOUS = re.compile(rb"g[\s\S]{6}[\xf0-\xff][\x7f\xff]").search
"""Finds a float of the `marshal` format whose exponent is all ones: NaN or an infinity (or bytes that look so)."""

_has_null = re.compile(b"null").search
"""Twice as quick as ``in``."""

_log = logging.getLogger("flujo_lens.serialization")


class PlainList(list[Any]):
    """A list that contains only results of `safe_serialize`, and so no NaN.

    For a growing list that is written repeatedly. Its items must not be modified.
    """


def safe_dumps(
    obj: Any,
    default_serializer: Default | None = None,
    *,
    strict: bool = False,
    on_lossy: Report | None = None,
    sort_keys: bool = False,
) -> bytes:
    """Write a value as JSON.

    Args:
        obj: Any value.
        default_serializer: A fallback for types that are neither registered nor built in; it returns data, or raises
            TypeError for an unknown type.
        strict: Whether to fail instead of losing data.
        on_lossy: Called with each value that cannot be represented; by default, these are logged as warnings of the
            logger ``flujo_lens.serialization``.
        sort_keys: Whether to sort the keys of objects.

    Returns:
        UTF-8 JSON without NaN, infinities or lone surrogates.

    Raises:
        TypeError: `strict`, and a value cannot be represented; the message has its path and type.
    """
    registry = current_registry()
    data = None if registry.overrides_natives else _quick(obj, registry, sort_keys)
    return data if data is not None else _dump(_careful(obj, registry, default_serializer, strict, on_lossy), sort_keys)


def safe_serialize(
    obj: Any, default_serializer: Default | None = None, *, strict: bool = False, on_lossy: Report | None = None
) -> Any:
    """Convert a value to JSON-serializable data: dicts with text keys, lists, texts, numbers, booleans, None.

    It shares no objects with `obj`. For the arguments see `safe_dumps`.

    Raises:
        TypeError: `strict`, and a value cannot be represented; the message has its path and type.
    """
    registry = current_registry()
    data = None if registry.overrides_natives else _quick(obj, registry, False)
    if data is not None:
        return orjson.loads(data)
    return _careful(obj, registry, default_serializer, strict, on_lossy)


def serializer_default(obj: Any) -> Any:
    """A ``default`` function for ``json.dumps`` and ``orjson.dumps``, with all registered and built-in serializers.

    Returns:
        Plain data for a value without a JSON form.

    Raises:
        TypeError: its type has no serializer.
    """
    return _careful(obj, current_registry(), None, True, None)


# --- the fast path


class _Later(NamedTuple):
    """A value to be written by code of the application, after orjson is done.

    Attributes:
        outer: The enclosing values written by such code, innermost last.
    """

    value: Any
    encoder: Custom
    outer: tuple[_Later, ...] = ()

    def begins_again(self, is_root: bool) -> bool:
        """Whether a serializer returned a value that it was given before."""
        if any(self.value is each.value for each in self.outer):
            return True
        asked = self.encoder.serializer
        return (is_root or self.encoder.is_leaf) and any(asked is each.encoder.serializer for each in self.outer)


def _quick(obj: Any, registry: Registry, sort_keys: bool) -> bytes | None:
    """JSON of a value; None if it needs the slow path."""
    later: list[Any] = []
    data = _dump_quickly(obj, registry, sort_keys, later)
    if data is None or not later:
        return data
    return _filled(data, later, registry, sort_keys)


def _filled(
    data: bytes, later: list[Any], registry: Registry, sort_keys: bool, outer: list[tuple[_Later, ...]] | None = None
) -> bytes | None:
    """The JSON with its gaps filled by code of the application; None as for `_quick`.

    Args:
        data: The JSON, with gaps.
        later: The values for the gaps.
        sort_keys: As for `safe_dumps`.
        outer: The enclosing values of each, written by such code; None without any.
    """
    parts = _around_gaps(data, len(later))
    if parts is None:
        return None
    encoders = _encoders(registry, later)
    try:
        made = [encoder.serializer(value) for encoder, value in zip(encoders, later, strict=True)]
        if any(map(is_, made, later)):
            made = [e.built_in(v) if m is v else m for m, e, v in zip(made, encoders, later, strict=True)]
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - code of the application; the careful way says what is wrong
        return None
    if len(made) == 1 and type(made[0]) is str:
        pieces = _one_text(made[0])
    else:
        inner: list[Any] = []
        pieces = _written(made, registry, sort_keys, inner)
        if pieces is not None and inner:
            around = map(_Later, later, encoders, outer or [()] * len(later))
            pieces = _filled_pieces(pieces, around, inner, registry, sort_keys)
    return None if pieces is None else b"".join(_alternating(parts, pieces))


def _one_text(text: str) -> list[bytes] | None:
    try:
        return [orjson.dumps(text)]
    except TypeError:  # it has a lone surrogate
        return None


def _written(made: list[Any], registry: Registry, sort_keys: bool, inner: list[Any]) -> list[bytes] | None:
    """The JSON of each value that a serializer returned, with a gap for each that is put into `inner`; None as
    `_quick`."""
    data = _dump_quickly(_alternating(made, [_COMMA] * len(made)), registry, sort_keys, inner)
    pieces = None if data is None else data[1:-3].split(_SEPARATOR)  # without [ and ,\1]
    return pieces if pieces is not None and len(pieces) == len(made) else None


def _encoders(registry: Registry, values: list[Any]) -> list[Custom]:
    """How each of these values is written, all of them by code of the application."""
    found: list[Any] = list(map(registry.quick_encoders.get, map(type, values)))
    if None in found:  # many types were added since
        found = [quick_encoder_for(registry, type(value)) for value in values]
    return found


def _around_gaps(data: bytes, count: int) -> list[bytes] | None:
    """What is around so many gaps; None if there are more or fewer.

    `bytes.find` looks for one byte twenty times as fast as `bytes.split`, but is called once a gap.
    """
    if count > len(data) >> 8:
        parts = data.split(_GAP)
    else:
        parts, begin = [], 0
        while (end := data.find(_GAP, begin)) >= 0:
            parts.append(data[begin:end])
            begin = end + 1
        parts.append(data[begin:])
    return parts if len(parts) == count + 1 else None


def _alternating(first: list[Any], second: list[Any]) -> list[Any]:
    """The items of two lists in turn; `first` may have one more."""
    both = [None] * (len(first) + len(second))
    both[::2], both[1::2] = first, second
    return both


def _filled_pieces(
    pieces: list[bytes], later: Iterable[_Later], inner: list[Any], registry: Registry, sort_keys: bool
) -> list[bytes] | None:
    """Results of serializers that contain further values with serializers."""
    outer: list[tuple[_Later, ...]] = []
    for piece, each in zip(pieces, later, strict=True):
        around = (*each.outer, each)
        for value in inner[len(outer) : len(outer) + piece.count(_GAP)]:
            one = _Later(value, _encoders(registry, [value])[0], around)
            if len(around) > _DEEPEST or one.begins_again(piece == _GAP):
                return None
            outer.append(around)
    if len(outer) != len(inner):
        return None
    whole = _filled(_SEPARATOR.join(pieces), inner, registry, sort_keys, outer)
    return None if whole is None else whole.split(_SEPARATOR)


def _dump_quickly(obj: Any, registry: Registry, sort_keys: bool, later: list[Any]) -> bytes | None:
    """JSON with a gap for each value added to `later`; None as for `_quick`."""
    known, plain_model, custom = registry.quick_encoders.get, PLAIN_MODEL, Custom
    instant = datetime if registry.has_plain_instants else None
    models: list[dict[str, Any]] = []
    others: list[type] = []
    add_model, add_other, add_later = models.append, others.append, later.append

    def hook(value: Any) -> Any:
        kind = type(value)
        if kind is instant:
            return _instant(value)
        encoder = known(kind)
        if encoder is plain_model:
            fields = value.__dict__
            add_model(fields)
            return fields
        if type(encoder) is custom:
            add_later(value)
            return _PLACE
        add_other(kind)
        if encoder is None:
            encoder = quick_encoder_for(registry, kind)
            if type(encoder) is custom:
                add_later(value)
                return _PLACE
        return encoder(value)

    try:
        data = orjson.dumps(obj, hook, _OPTIONS | orjson.OPT_SORT_KEYS if sort_keys else _OPTIONS)
    except (TypeError, ValueError, RecursionError):  # orjson's own error is a TypeError
        return None
    if type(obj) is PlainList or not _has_null(data):
        return data

    def below(value: Any) -> Any:
        kind = type(value)
        if kind is datetime or type(known(kind)) is custom or kind is orjson.Fragment:
            return ""
        return hook(value)

    return data if _nulls_are_none(obj, data, models, bool(others or later), known, below) else None


def _instant(value: datetime) -> Any:
    """A time as text. orjson is ten times faster than `datetime.isoformat`, but rounds UTC offsets to minutes."""
    zone = value.tzinfo
    if zone is None or zone is UTC:
        return orjson.Fragment(orjson.dumps(value))
    offset = value.utcoffset()
    exact = offset is not None and not offset.seconds % 60 and not offset.microseconds
    return orjson.Fragment(orjson.dumps(value)) if exact else value.isoformat()


def _nulls_are_none(
    obj: Any, data: bytes, models: list[dict[str, Any]], has_others: bool, known: Callable[[type], Any], below: Default
) -> bool:  # fmt: skip
    """Whether no ``null`` comes from NaN or infinity; False if that cannot be checked fast."""
    if not models and not has_others:
        try:
            return all(map(_is_finite, _pieces(obj, len(data))))
        except ValueError:  # contains a time
            pass
    nulls = data.count(b"null")
    if models and nulls == len([item for fields in models for item in fields.values() if item is None]):
        return True
    if nulls == _count_of_none(obj, known):
        return True
    encoder = json.JSONEncoder(allow_nan=False, check_circular=False, ensure_ascii=False, default=below)
    try:
        for piece in _pieces(obj, len(data)):
            encoder.encode(piece)
    except Exception:  # noqa: BLE001 - a ValueError for a NaN, or whatever code of the application raises
        return False
    return True


_SCALARS = frozenset((str, int, float, bool))


def _count_of_none(obj: Any, known: Callable[[type], Any]) -> int:
    """How many None there are in dicts, lists, tuples and plain models of a value that has no cycle."""
    level, found, scalars, none = [obj], 0, _SCALARS, type(None)
    while level:
        below: list[Any] = []
        for each in level:
            kind = type(each)
            if kind in scalars:
                continue
            if kind is none:
                found += 1
            elif kind is dict:
                below += each.values()
            elif kind is list or kind is tuple:
                below += each
            elif known(kind) is PLAIN_MODEL:
                below += each.__dict__.values()
        level = below
    return found


def _pieces(obj: Any, size: int) -> Iterator[Any]:
    """The value, or if it is large, its parts, to limit the memory of a copy."""
    if size < _LARGE:
        yield obj
        return
    for item in obj.values() if type(obj) is dict else obj if type(obj) is list else (obj,):
        yield from item.values() if type(item) is dict else item if type(item) is list else (item,)


def _is_finite(obj: Any) -> bool:
    """Whether plain data has no NaN and no infinity; False if that cannot be checked fast.

    Raises:
        ValueError: it is not plain data.
    """
    data = marshal.dumps(obj, 2)
    return not ((b"\x7f" in data or b"\xff" in data) and _SUSPICIOUS(data))


def _careful(
    obj: Any, registry: Registry, default: Default | None, strict: bool, on_lossy: Report | None
) -> Any:  # fmt: skip
    found: list[LossyValue] = []
    plain = walk(obj, registry, default, found.append)
    if found and strict:
        raise TypeError(_refusal(found))
    for lost in found:
        if on_lossy is not None:
            on_lossy(lost)
    if found and on_lossy is None:
        _log.warning("%d value(s) could not be serialized: %s", len(found), "; ".join(map(str, found[:_MANY])))
    return plain


def _refusal(found: list[LossyValue]) -> str:
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return f"cannot be serialized without loss: {found[0]}{more}"


def _dump(plain: Any, sort_keys: bool) -> bytes:
    try:
        return orjson.dumps(plain, option=orjson.OPT_SORT_KEYS if sort_keys else 0)
    except TypeError:  # deeper than orjson goes
        from flujo_lens.serialization.deep import dump_deep

        return dump_deep(plain, sort_keys)
