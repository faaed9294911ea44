"""JSON of any stored value: UTF-8, by orjson, with unsafe characters escaped."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

_OPTIONS = orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS
_LATE_CONTROLS = re.compile(
    rb"\x7f|\xc2[\x80-\x9f\xad]|\xcd\x8f|\xd8\x9c|\xe1\xa0\x8e|\xe2\x80[\x8b-\x8f\xa8-\xae]|\xe2\x81[\xa0-\xaf]"
    rb"|\xe3\x85\xa4|\xef\xbb\xbf|\xef\xbe\xa0|\xef\xbf[\xb0-\xbb]|\xf0\x9b\xb2[\xa0-\xa3]|\xf0\x9d\x85[\xb3-\xba]"
    rb"|\xf3\xa0[\x80-\x81][\x80-\xbf]"
)
"""Characters that are valid in JSON but unsafe on a terminal (see `text.HIDDEN`), written as JSON escapes."""


def utc(when: datetime) -> str:
    """RFC 3339 in UTC with ``Z``."""
    return when.astimezone(UTC).isoformat().replace("+00:00", "Z")


def dump(value: Any) -> bytes:
    """Compact JSON of any stored value, with control characters escaped."""
    try:
        encoded = orjson.dumps(value, _plain, _OPTIONS)
    except TypeError:
        encoded = _dump_slowly(value)
    return _escaped(encoded)


def _escaped(encoded: bytes) -> bytes:
    return _LATE_CONTROLS.sub(lambda found: json_escape(found.group().decode()), encoded)


def json_escape(char: str) -> bytes:
    """A character as an ASCII escape of JSON: two surrogates above U+FFFF."""
    units = char.encode("utf-16-be")
    return b"".join(b"\\u%02x%02x" % (units[at], units[at + 1]) for at in range(0, len(units), 2))


def _dump_slowly(value: Any) -> bytes:
    """JSON of values that orjson refuses: integers over 64 bits, lone surrogates, deep nesting."""
    import json

    written = json.dumps(value, default=_plain, skipkeys=True)
    finite = json.loads(written, parse_constant=lambda _: None)  # JSON has no NaN
    return json.dumps(finite, separators=(",", ":")).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, datetime):
        return utc(value)
    if isinstance(value, set | frozenset | tuple):
        return list(value)
    return str(value)


def compact(value: Any) -> str:
    """JSON on one line."""
    return dump(value).decode()


def document(value: Any) -> Iterator[bytes]:
    """One JSON document, indented."""
    try:
        pretty = orjson.dumps(orjson.loads(dump(value)), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        yield _escaped(pretty)
    except orjson.JSONDecodeError:
        yield dump(value) + b"\n"
