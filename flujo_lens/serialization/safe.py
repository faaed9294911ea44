"""`safe_dumps`, `safe_serialize`: JSON of anything, without losing the rest for one bad value.

There are two ways, and both give the same data. The quick one hands the value to orjson, with a hook for the
types that orjson does not know. Where it meets what JSON has no form for (NaN, half a surrogate pair, an
integer of more than 64 bits, a key that is no text, a cycle, great depth, an unknown type), the careful one
takes over from the start (`flujo_lens.serialization.walker`): it knows the path of every value. Where a serializer
of the application is needed, the quick way leaves a gap, and fills it when orjson is done: orjson crashes if a list
changes that it is in.

orjson writes NaN and infinities as ``null`` and says nothing. So whoever finds a ``null`` in what was
written looks whether a None accounts for it (`_nulls_are_none`); not so of a `PlainList`.
"""

from __future__ import annotations

import json
import logging
import marshal
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson

from flujo_lens.serialization.encoders import PLAIN_MODEL, Custom, quick_encoder_for
from flujo_lens.serialization.lossy import LossyValue
from flujo_lens.serialization.registry import Registry, current_registry
from flujo_lens.serialization.walker import walk

__all__ = ["PlainList", "safe_dumps", "safe_serialize", "serializer_default"]

Default = Callable[[Any], Any]
Report = Callable[[LossyValue], None]

_OPTIONS = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
"""orjson would round offsets from UTC to minutes; those of old times have seconds."""

_GAP, _PLACE = b"\0", orjson.Fragment(b"\0")
_SEPARATOR, _COMMA = b",\1,", orjson.Fragment(b"\1")
"""orjson writes neither byte itself: in a text both are escaped."""

_DEEPEST = 50
_MANY = 20
_LARGE = 2**24
_SUSPICIOUS = re.compile(rb"g[\s\S]{6}[\xf0-\xff][\x7f\xff]").search
"""Finds a float of the `marshal` format whose exponent is all ones: NaN or an infinity (or bytes that look so)."""

_log = logging.getLogger("flujo_lens.serialization")


class PlainList(list[Any]):
    """A list of what `safe_serialize` returned, and of nothing else: no NaN has to be looked for in it.

    For one that grows and is written again each time. What is put into it must not be changed afterwards.
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
        obj: Anything.
        default_serializer: Asked for values of types that are neither registered nor built in; it returns data,
            or raises TypeError for what it does not know.
        strict: Fail rather than lose anything.
        on_lossy: Called with each value that cannot be kept; by default they are logged, as warnings of the
            logger ``flujo_lens.serialization``.
        sort_keys: Order the keys of objects.

    Returns:
        UTF-8 JSON without NaN, infinities or lone surrogates: what every reader takes.

    Raises:
        TypeError: `strict`, and a value cannot be kept; names its path and type.
    """
    registry = current_registry()
    data = None if registry.overrides_natives else _quick(obj, registry, sort_keys)
    return data if data is not None else _dump(_careful(obj, registry, default_serializer, strict, on_lossy), sort_keys)


def safe_serialize(
    obj: Any, default_serializer: Default | None = None, *, strict: bool = False, on_lossy: Report | None = None
) -> Any:
    """Make JSON-ready Python data of a value: dicts with text keys, lists, texts, numbers, booleans, None.

    It shares nothing with `obj`. The arguments are those of `safe_dumps`.

    Raises:
        TypeError: `strict`, and a value cannot be kept; names its path and type.
    """
    registry = current_registry()
    data = None if registry.overrides_natives else _quick(obj, registry, False)
    if data is not None:
        return orjson.loads(data)
    return _careful(obj, registry, default_serializer, strict, on_lossy)


def serializer_default(obj: Any) -> Any:
    """The ``default`` function for ``json.dumps`` and ``orjson.dumps``, with all that is registered and built in.

    Returns:
        Plain data for one value that JSON has no form for.

    Raises:
        TypeError: nobody knows how to write it.
    """
    return _careful(obj, current_registry(), None, True, None)


# --- the quick way


class _Later(NamedTuple):
    """A value that code of the application writes, when orjson is done with what is around it.

    Attributes:
        value: The value.
        encoder: How it is written.
        outer: The values around it that such code wrote, the nearest last.
    """

    value: Any
    encoder: Custom
    outer: tuple[_Later, ...] = ()

    def begins_again(self, is_root: bool) -> bool:
        """Whether a serializer comes to a value that it was given before, or to another that is not for it."""
        if any(self.value is each.value for each in self.outer):
            return True
        asked = self.encoder.serializer
        return (is_root or self.encoder.is_leaf) and any(asked is each.encoder.serializer for each in self.outer)


def _quick(obj: Any, registry: Registry, sort_keys: bool) -> bytes | None:
    """JSON of a value, None if it has anything in it that only the careful way can write."""
    later: list[_Later] = []
    data = _dump_quickly(obj, registry, sort_keys, later)
    if data is None or not later:
        return data
    return _filled(data, later, registry, sort_keys)


def _filled(data: bytes, later: list[_Later], registry: Registry, sort_keys: bool) -> bytes | None:
    """The JSON with what code of the application writes in the places that were left for it; None as `_quick`."""
    parts = data.split(_GAP)
    if len(parts) != len(later) + 1:
        return None
    made: list[Any] = []
    try:
        for value, encoder, _ in later:
            found = encoder(value)
            made += (encoder.built_in(value) if found is value else found, _COMMA)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - code of the application; the careful way says what is wrong
        return None
    inner: list[_Later] = []
    below = _dump_quickly(made, registry, sort_keys, inner)
    pieces = None if below is None else below[1:-3].split(_SEPARATOR)  # without [ and ,\1]
    if pieces is None or len(pieces) != len(later):
        return None
    if inner:
        pieces = _filled_pieces(pieces, later, inner, registry, sort_keys)
    if pieces is None:
        return None
    whole = [parts[0]]
    for piece, part in zip(pieces, parts[1:], strict=True):
        whole += (piece, part)
    return b"".join(whole)


def _filled_pieces(
    pieces: list[bytes], later: list[_Later], inner: list[_Later], registry: Registry, sort_keys: bool
) -> list[bytes] | None:
    """What serializers returned that holds further values for serializers."""
    placed: list[_Later] = []
    for piece, outer in zip(pieces, later, strict=True):
        around = (*outer.outer, outer)
        for value, encoder, _ in inner[len(placed) : len(placed) + piece.count(_GAP)]:
            one = _Later(value, encoder, around)
            if len(around) > _DEEPEST or one.begins_again(piece == _GAP):
                return None
            placed.append(one)
    if len(placed) != len(inner):
        return None
    whole = _filled(_SEPARATOR.join(pieces), placed, registry, sort_keys)
    return None if whole is None else whole.split(_SEPARATOR)


def _dump_quickly(obj: Any, registry: Registry, sort_keys: bool, later: list[_Later]) -> bytes | None:
    """JSON with a gap for each value of which `later` is told, None as `_quick`."""
    known, plain_model = registry.quick_encoders.get, PLAIN_MODEL
    instant = datetime if registry.serializer_of(datetime) is None else None
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
        add_other(kind)
        if encoder is None:
            encoder = quick_encoder_for(registry, kind)
        if type(encoder) is Custom:
            add_later(_Later(value, encoder))
            return _PLACE
        return encoder(value)

    def below(value: Any) -> Any:
        kind = type(value)
        if kind is datetime or type(known(kind)) is Custom or kind is orjson.Fragment:
            return ""
        return hook(value)

    try:
        data = orjson.dumps(obj, hook, _OPTIONS | orjson.OPT_SORT_KEYS if sort_keys else _OPTIONS)
    except (TypeError, ValueError, RecursionError):  # orjson's own error is a TypeError
        return None
    if type(obj) is PlainList or b"null" not in data or _nulls_are_none(obj, data, models, others, below):
        return data
    return None


def _instant(value: datetime) -> Any:
    """A time as text. orjson is ten times quicker at it than `datetime.isoformat`, and right to the minute of the
    offset from UTC."""
    zone = value.tzinfo
    if zone is None or zone is UTC:
        return orjson.Fragment(orjson.dumps(value))
    offset = value.utcoffset()
    exact = offset is not None and not offset.seconds % 60 and not offset.microseconds
    return orjson.Fragment(orjson.dumps(value)) if exact else value.isoformat()


def _nulls_are_none(
    obj: Any, data: bytes, models: list[dict[str, Any]], others: list[type], below: Default
) -> bool:  # fmt: skip
    """Whether no NaN and no infinity became a ``null``; False also where it cannot be told quickly."""
    if not models and not others:
        try:
            return all(map(_is_finite, _pieces(obj, len(data))))
        except ValueError:  # there is a time among it
            pass
    elif data.count(b"null") == len([item for fields in models for item in fields.values() if item is None]):
        return True
    told = json.JSONEncoder(allow_nan=False, check_circular=False, ensure_ascii=False, default=below)
    try:
        for piece in _pieces(obj, len(data)):
            told.encode(piece)
    except Exception:  # noqa: BLE001 - a ValueError for a NaN, or whatever code of the application raises
        return False
    return True


def _pieces(obj: Any, size: int) -> Iterator[Any]:
    """The value, but if it is large in pieces: a second copy of it all would be too much memory."""
    if size < _LARGE:
        yield obj
        return
    for item in obj.values() if type(obj) is dict else obj if type(obj) is list else (obj,):
        yield from item.values() if type(item) is dict else item if type(item) is list else (item,)


def _is_finite(obj: Any) -> bool:
    """Whether plain data has no NaN and no infinity; False also where it cannot be told quickly.

    Raises:
        ValueError: it is not plain.
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
        _log.warning("%d value(s) could not be kept: %s", len(found), "; ".join(map(str, found[:_MANY])))
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
