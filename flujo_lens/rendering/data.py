"""The machine formats: json, ndjson, csv, tsv and id. Bytes in UTF-8, through orjson, never through Rich."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from flujo_lens.errors import UnknownValueError, UsageError
from flujo_lens.redaction import Redactor
from flujo_lens.rendering.columns import Field, View
from flujo_lens.rendering.text import escape_csv, escape_tsv, harmless

__all__ = ["FORMATS", "RowWriter", "check_format", "compact", "document", "utc"]

FORMATS = ("table", "json", "ndjson", "csv", "tsv", "id")
_OPTIONS = orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS
_LATE_CONTROLS = re.compile(
    rb"\x7f|\xc2[\x80-\x9f\xad]|\xcd\x8f|\xd8\x9c|\xe1\xa0\x8e|\xe2\x80[\x8b-\x8f\xa8-\xae]|\xe2\x81[\xa0-\xaf]"
    rb"|\xe3\x85\xa4|\xef\xbb\xbf|\xef\xbe\xa0|\xef\xbf[\xb0-\xbb]|\xf0\x9b\xb2[\xa0-\xa3]|\xf0\x9d\x85[\xb3-\xba]"
    rb"|\xf3\xa0[\x80-\x81][\x80-\xbf]"
)
"""Characters that are valid in JSON but unsafe on a terminal (see `text.HIDDEN`), written as JSON escapes."""


def check_format(name: str, legal: Iterable[str] = FORMATS) -> str:
    """Check that a command supports a format; return it.

    Raises:
        UnknownValueError: the format is unknown.
        UsageError: the command does not support it.
    """
    if name in tuple(legal):
        return name
    if name not in FORMATS:
        raise UnknownValueError.of("output format", name, list(legal))
    raise UsageError(f"-o {name} is not supported by this command", hint=f"supported: {', '.join(legal)}")


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


class RowWriter:
    """Converts items to lines of a machine format, one at a time.

    Args:
        view: The view of the items.
        fields: The fields to write, in order.
        form: ``json``, ``ndjson``, ``csv``, ``tsv`` or ``id``.
        redactor: Masks secrets.
        header: Whether csv and tsv start with a header.
        raw: Whether csv cells that look like formulas are not escaped.
    """

    def __init__(
        self,
        view: View,
        fields: tuple[Field, ...],
        form: str,
        redactor: Redactor,
        *,
        header: bool = True,
        raw: bool = False,
    ) -> None:
        self._view, self._fields, self._form, self._redactor = view, fields, form, redactor
        self._header = header and form in ("csv", "tsv")
        self._empty, self._raw = True, raw

    def head(self) -> bytes:
        """The output before the first item."""
        return self._line([field.name for field in self._fields]) if self._header else b""

    def line(self, item: Any) -> bytes:
        """One item."""
        first, self._empty = self._empty, False
        if self._form == "id":
            return escape_tsv(_cell(self._view.row(item)[self._view.id])).encode() + b"\n"
        row = self._redactor.value(self._view.row(item, self._fields))
        if self._form == "json":
            return (b"[\n" if first else b",\n") + dump(row)
        if self._form == "ndjson":
            return dump(row) + b"\n"
        return self._line([self._text(value) for value in row.values()])

    def _text(self, value: Any) -> str:
        cell = _cell(value)
        return cell if self._raw or self._form != "csv" or not isinstance(value, str) else harmless(cell)

    def tail(self) -> bytes:
        """The output after the last item."""
        if self._form != "json":
            return b""
        return b"[]\n" if self._empty else b"\n]\n"

    def _line(self, cells: list[str]) -> bytes:
        return _csv_line(cells) if self._form == "csv" else _tsv_line(cells)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return utc(value)
    return repr(value) if isinstance(value, int | float) else compact(value)


def _tsv_line(cells: list[str]) -> bytes:
    return "\t".join(map(escape_tsv, cells)).encode() + b"\n"


_NEEDS_QUOTES = r'[",\r\n]|^\s|\s$'


def _csv_line(cells: list[str]) -> bytes:
    """A record of RFC 4180 with a newline; control characters and backslashes escaped by `escape_csv`."""
    safe = map(escape_csv, cells)
    quoted = ['"' + cell.replace('"', '""') + '"' if re.search(_NEEDS_QUOTES, cell) else cell for cell in safe]
    return ",".join(quoted).encode() + b"\n"
