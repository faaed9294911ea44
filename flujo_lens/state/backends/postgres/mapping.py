"""Rows of the library's tables as the documents of the core, and back.

A column keeps less than a document: ``jsonb`` has no NUL, no -0.0 and no float above 1e16 that stays one, integers have
32 bits, ``real`` six digits, and some fields have no column. So a row is compared with its document as it is written,
and where they differ the document itself is also stored (``lens_documents``).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from flujo_lens.serialization import safe_dumps, safe_loads
from flujo_lens.serialization.loading import may_have_long_numbers
from flujo_lens.state.backends.postgres.tables import COLUMNS
from flujo_lens.state.timestamps import parse_instant

_MOST = 2**31 - 1
_REPLACEMENT = "\ufffd"
_DEFAULTS: dict[str, dict[str, Any]] = {
    "workflow_state": {
        "pipeline_id": "unknown",
        "pipeline_name": "unknown",
        "pipeline_version": "latest",
        "status": "running",
        "current_step_index": 0,
        "is_background_task": False,
    },
    "runs": {"pipeline_id": "unknown", "pipeline_name": "unknown", "pipeline_version": "latest", "status": "running"},
    "steps": {"step_name": "unknown", "step_index": 0, "status": "completed"},
    "spans": {"span_id": "", "name": "unknown", "status": "running", "start_time": 0.0},
    "evaluations": {"score": math.nan},
    "system_state": {},
}
"""What stands in columns that must not be NULL."""


def document_of(table: str, row: Sequence[Any]) -> bytes:
    """The document of a row whose columns are those of `COLUMNS`, JSON as text: put together, not parsed."""
    found = zip(COLUMNS[table].items(), row, strict=True)
    return orjson.dumps({name: _shown(kind, value) if kind in _LOOSE else value for (name, kind), value in found})


_LOOSE = ("json", "real", "double")


def _shown(kind: str, value: Any) -> Any:
    """JSON as it is; numbers without a form in JSON as everywhere."""
    if kind == "json" and value is not None:
        return orjson.Fragment(value)
    return orjson.Fragment(safe_dumps(value)) if value is not None and not math.isfinite(value) else value


def values_of(table: str, document: Mapping[str, Any]) -> list[Any]:
    """What the columns of `COLUMNS` take of a document, as near to it as they can."""
    defaults = _DEFAULTS[table]
    return [_value(kind, document.get(name), defaults.get(name)) for name, kind in COLUMNS[table].items()]


def _value(kind: str, value: Any, default: Any) -> Any:
    made = _MAKERS[kind](value) if value is not None else None
    if made is None and kind == "time":
        return datetime.now(UTC)
    return default if made is None else made


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else str(value)
    return text.replace("\0", _REPLACEMENT) if "\0" in text else text


def _json(value: Any) -> str:
    data = safe_dumps(value)
    if b"\\u0000" in data:
        value = _without_nul(value)
        data = safe_dumps(value)
    return _with_long_numbers(value, data) if may_have_long_numbers(data) else data.decode()


def _with_long_numbers(value: Any, data: bytes) -> str:
    """JSON in which integers of more than 64 bits are numbers: a column keeps all their digits."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return data.decode()


def _without_nul(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", _REPLACEMENT)
    if isinstance(value, dict):
        return {_without_nul(key): _without_nul(item) for key, item in value.items()}
    return [_without_nul(item) for item in value] if isinstance(value, list) else value


def _integer(value: Any) -> int | None:
    if not isinstance(value, int | float) or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return max(-_MOST - 1, min(_MOST, round(value)))


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _real(value: Any) -> float | None:
    number = _number(value)
    return None if number is None or (math.isfinite(number) and abs(number) > 3.4e38) else number


def _time(value: Any) -> datetime | None:
    return value if isinstance(value, datetime) else parse_instant(value, UTC)


_MAKERS: dict[str, Callable[[Any], Any]] = {
    "text": _text,
    "json": _json,
    "int": _integer,
    "real": _real,
    "double": _number,
    "bool": bool,
    "time": _time,
}


_ODD_NUMBERS = re.compile(rb"\\u0000|-0(\.0+)?[,}\]]|[0-9]{20}|[0-9][eE][+-]?[0-9]+[,}\]]")
"""What JSON has if a column may keep less than it says; texts have it, too: then it is looked at more closely."""


def is_plain(table: str, data: bytes, document: Mapping[str, Any]) -> bool:
    """Whether a row certainly tells all that its document does, seen before it is written: of most documents, fast."""
    kinds = COLUMNS[table]
    return not _ODD_NUMBERS.search(data) and all(
        value is None or (name in kinds and _IS_PLAIN[kinds[name]](value)) for name, value in document.items()
    )


def _is_plain_real(value: Any) -> bool:
    return type(value) is float and float(f"{value:.6g}") == value and (value == 0.0 or 1e-30 < abs(value) < 1e30)


_IS_PLAIN: dict[str, Callable[[Any], bool]] = {
    "text": lambda value: type(value) is str,
    "json": lambda value: True,
    "int": lambda value: type(value) is int and abs(value) <= _MOST,
    "real": _is_plain_real,
    "double": lambda value: type(value) is float,
    "bool": lambda value: type(value) is bool,
    "time": lambda value: type(value) is str and parse_instant(value, UTC) is not None,
}


def is_faithful(table: str, document: bytes, row: Sequence[Any]) -> bool:
    """Whether a row tells all that its document does; what a document does not tell, a row may have by default."""
    wanted, found = safe_loads(document), safe_loads(document_of(table, row))
    kinds = COLUMNS[table]
    return all(_same(kinds.get(name), value, found.get(name)) for name, value in wanted.items() if value is not None)


def _same(kind: str | None, wanted: Any, found: Any) -> bool:
    if kind == "time":
        return parse_instant(wanted, UTC) == parse_instant(found, UTC) and isinstance(wanted, str)
    if kind == "json":
        return _canonical(wanted) == _canonical(found)
    return type(wanted) is type(found) and bool(wanted == found)


def _canonical(value: Any) -> bytes:
    """JSON by which two values that print alike are alike: 1 and 1.0 are not."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except (TypeError, ValueError):
        data = safe_dumps(value, sort_keys=True)
    try:
        return json.dumps(value, sort_keys=True).encode()
    except (TypeError, ValueError, RecursionError):
        return data
