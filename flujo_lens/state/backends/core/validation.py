"""What the methods of the contract may be asked: all drivers refuse the same, in the same words.

A wrong type is a TypeError, a value that cannot be a ValueError, both before anything is read or changed.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from datetime import tzinfo
from pathlib import Path
from typing import Any

from flujo_lens.state.views import RunFilter

_URI = r"[A-Za-z][A-Za-z0-9+.-]+:/"
"""The beginning of a URI, also of one that `Path` has taken a slash from."""

_NO_FILTER = RunFilter()


# --- texts


def _is_storable(text: str) -> bool:
    """Whether every store can keep a text as an id: it has no NUL and no lone surrogate."""
    if text.isascii():
        return "\0" not in text
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def asked_id(run_id: object) -> str:
    """`run_id` if it is one that can be asked for: any text.

    Raises:
        ValueError: there is none.
        TypeError: it is of another type.
    """
    if run_id is None:
        raise ValueError("run_id is missing: every run, step and span belongs to a run")
    if not isinstance(run_id, str):
        raise TypeError(f"run_id must be a string, not {type(run_id).__name__}: {run_id!r}")
    return run_id


def check_run_id(run_id: object) -> str:
    """`run_id` if it is one that can be saved: any text, also an empty one, that every engine keeps as it is.

    Raises:
        ValueError: there is none, or it has a NUL or a lone surrogate.
        TypeError: it is of another type.
    """
    found = asked_id(run_id)
    if not _is_storable(found):
        raise ValueError(f"run_id must not contain NUL or lone surrogates: {found!r}")
    return found


def check_text(value: object, name: str) -> None:
    """See that an argument is a text or None.

    Raises:
        TypeError: it is something else.
    """
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {type(value).__name__}: {value!r}")


def check_key(key: object) -> None:
    """See that a key of the system state is a text.

    Raises:
        ValueError: there is none, or it has a NUL or a lone surrogate.
        TypeError: it is of another type.
    """
    if key is None:
        raise ValueError("the key is missing")
    check_text(key, "key")
    if not _is_storable(str(key)):
        raise ValueError(f"key must not contain NUL or lone surrogates: {key!r}")


def check_prefix(prefix: object, limit: int) -> None:
    """See that run ids can be looked for by their beginning.

    Raises:
        ValueError, TypeError: as `asked_id` and `check_page`.
    """
    asked_id(prefix)
    check_page(limit)


def findable(text: str) -> str:
    """`text` as an engine can be asked for it.

    No store holds a lone surrogate, and engines do not take one. In its place comes a text that no store of
    ours holds either, so that nothing is found.
    """
    try:
        text.isascii() or text.encode()
    except UnicodeEncodeError:
        return "\0" + text.encode("utf-8", "backslashreplace").decode()
    return text


def findable_ids(run_ids: Sequence[str]) -> list[str]:
    """Run ids as `findable` has them.

    Raises:
        ValueError, TypeError: as `asked_id`.
    """
    return [findable(asked_id(run_id)) for run_id in run_ids]


def findable_filter(wanted: RunFilter) -> RunFilter:
    """The filter with its texts as `findable` has them."""
    if wanted == _NO_FILTER:
        return wanted
    names = ("pipeline", "version", "search", "error", "parent")
    texts: dict[str, Any] = {name: findable(value) for name in names if isinstance(value := getattr(wanted, name), str)}
    statuses = frozenset(findable(status) for status in wanted.statuses)
    meta = tuple((findable(key), findable(value)) for key, value in wanted.meta)
    changed = wanted._replace(statuses=statuses, meta=meta, **texts)
    return wanted if changed == wanted else changed


# --- documents


def check_object(value: object, name: str) -> None:
    """See that an argument is an object by field name.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(value, Mapping):
        hint = "; pass its model_dump()" if hasattr(value, "model_dump") else ""
        raise TypeError(f"{name} must be a dict, not {type(value).__name__}{hint}")


def check_state(state: object) -> None:
    """See that a state is one to be saved.

    Raises:
        TypeError: it is no dict.
    """
    check_object(state, "a state")


def check_rows(rows: object, name: str) -> None:
    """See that an argument is a list of dicts.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Sequence):
        raise TypeError(f"{name} must be a list of dicts, not {type(rows).__name__}")
    for row in rows:
        check_object(row, f"each of {name}")


# --- numbers


LONGEST_PAGE = 2**31
"""Rows of a page that anything can hold; a longer one is asked for by those who want all."""


def check_page(limit: int | None, offset: int = 0) -> None:
    """See that a page can be: no `limit` is None, one of 0 gives nothing.

    Raises:
        ValueError: one of them is negative.
        TypeError: one of them is no whole number.
    """
    for name, value in (("limit", limit), ("offset", offset)):
        if value is None and name == "limit":
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be a whole number, not {type(value).__name__}: {value!r}")
        if value < 0:
            raise ValueError(f"{name} must not be negative: {value}")


def check_age(value: float, name: str) -> float:
    """`value` if an age can be of so many units; infinity can.

    Raises:
        ValueError: it is negative or no number (NaN).
        TypeError: it is of another type.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}: {value!r}")
    if math.isnan(value) or value < 0:
        raise ValueError(f"{name} must be 0 or more: {value}")
    return value


def check_days(days_old: float) -> float:
    """`check_age` of the argument of `cleanup_old_workflows`."""
    return check_age(days_old, "days_old")


def check_hours(hours: float, name: str = "stale_hours") -> float:
    """`check_age` of a number of hours."""
    return check_age(hours, name)


def check_score(score: object) -> float:
    """The score of an evaluation as a float; NaN and infinities are scores, if poor ones.

    Raises:
        TypeError: it is no number.
        ValueError: no float is so large.
    """
    is_number = callable(getattr(score, "__float__", None))
    if isinstance(score, bool) or not is_number:
        raise TypeError(f"score must be a number, not {type(score).__name__}: {score!r}")
    try:
        made: float = float(score)  # type: ignore[arg-type]
    except OverflowError:
        raise ValueError("score is too large to be a float") from None
    return made


# --- what a backend is made with


def check_timeout(timeout: float) -> float:
    """`timeout` if it is a number of seconds, 0 or more; infinity is for ever.

    Raises:
        ValueError, TypeError: it is none.
    """
    return check_age(timeout, "timeout")


def check_zone(zone: object) -> None:
    """See that a zone is one, or None.

    Raises:
        TypeError: it is something else.
    """
    if zone is not None and not isinstance(zone, tzinfo):
        raise TypeError(f"zone must be a tzinfo, as zoneinfo.ZoneInfo is, not {type(zone).__name__}: {zone!r}")


def check_codec(serializer_default: object, envelope: object, validate: object) -> None:
    """See that what a `StateCodec` is to be made of will do.

    Raises:
        TypeError: one of them will not; says what would.
    """
    if serializer_default is not None and not callable(serializer_default):
        raise TypeError(f"serializer_default must be a function, not {type(serializer_default).__name__}")
    if envelope is not None and not callable(getattr(envelope, "seal", None)):
        raise TypeError(f"envelope must be a flujo_lens.serialization.envelope.Envelope, not {_described(envelope)}")
    is_model = isinstance(validate, type) and callable(getattr(validate, "model_validate", None))
    if not (validate is None or isinstance(validate, bool) or is_model):
        raise TypeError(f"validate must be True, False or a pydantic model, not {_described(validate)}")


def _described(value: Any) -> str:
    return f"{type(value).__name__} {value!r}" if isinstance(value, str | int | float) else type(value).__name__


def place_of(path: object, driver: type) -> Path:
    """The place of a store from what a `driver` is made with. ``~`` and ``~user`` are home folders, as in a shell.

    Raises:
        TypeError: it is no path.
        ValueError: it is empty, has a NUL, or is a URI, which `from_uri` takes.
    """
    if not isinstance(path, str | os.PathLike) or isinstance(os.fspath(path), bytes):
        raise TypeError(f"a path must be a str or a Path, not {type(path).__name__}: {path!r}")
    text = os.fspath(path)
    if not text or "\0" in text:
        raise ValueError(f"no path: {text!r}")
    if re.match(_URI, text):
        known = f"{driver.__name__}.from_uri({text!r})"
        raise ValueError(f"{text!r} is a URI, not a path: use {known}, or ./ before it if it is a path")
    return Path(text).expanduser() if text.startswith("~") else Path(text)
