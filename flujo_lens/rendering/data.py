"""The machine formats: json, ndjson, csv, tsv and id. Bytes in UTF-8, through orjson, never through Rich."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from flujo_lens.errors import UnknownValueError, UsageError
from flujo_lens.redaction import Redactor
from flujo_lens.rendering.json_text import compact, dump, utc
from flujo_lens.rendering.text import escape_csv, escape_tsv, harmless
from flujo_lens.rendering.views import Field, View

FORMATS = ("table", "json", "ndjson", "csv", "tsv", "id")


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


class RowWriter:
    """Converts items to lines of a machine format, one at a time.

    Args:
        fields: The fields to write, in order.
        form: ``json``, ``ndjson``, ``csv``, ``tsv`` or ``id``.
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
            row = self._redactor.value({self._view.id: self._view.row(item)[self._view.id]})
            return b"".join(escape_tsv(_cell(value)).encode() + b"\n" for value in row.values())
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
