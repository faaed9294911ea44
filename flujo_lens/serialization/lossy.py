"""Values that cannot be represented: their placeholders and reports."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

CIRCULAR = "<circular-ref>"
"""The placeholder for a value that contains itself, as used by the library."""

TOO_DEEP = "<too-deep>"
"""The placeholder for values nested too deeply."""

_ENDS = 20
"""Shown parts of a path at each end."""

_LOST = "<unserializable: "

_name_of: Any = type.__dict__["__name__"].__get__
_qualified_name_of: Any = type.__dict__["__qualname__"].__get__
"""Accessed directly, since a metaclass can override them."""


class LossyValue(NamedTuple):
    """A value that cannot be restored from its JSON.

    Attributes:
        path: Its path from the root: ``$.pipeline_context.client`` or ``$.steps[3]["a key"]``.
        type_name: The name of its class.
        reason: The reason.
    """

    path: str
    type_name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path} ({self.type_name}): {self.reason}"


def unserializable(kind: type) -> str:
    """The placeholder for a value of a class without a serializer."""
    return f"{_LOST}{printable(_name_of(kind))}>"


def lost_in(saved: object) -> tuple[str, str] | None:
    """The path and text of the first placeholder in plain data, or None."""
    left: list[tuple[tuple[object, ...], object]] = [((), saved)]
    while left:
        at, value = left.pop()
        if isinstance(value, str):
            if value in (CIRCULAR, TOO_DEEP) or (value.startswith(_LOST) and value.endswith(">")):
                return path_text(at), value
        elif isinstance(value, dict):
            left += [((*at, key), each) for key, each in reversed(value.items())]
        elif isinstance(value, list):
            left += [((*at, index), value[index]) for index in reversed(range(len(value)))]
    return None


def class_name(kind: type) -> str:
    """The name of a class in its ``class`` statement."""
    return printable(_qualified_name_of(kind))


def printable(text: str) -> str:
    """A text with lone surrogates escaped, for UTF-8 streams."""
    return text.encode("utf-8", "backslashreplace").decode()


def words_of(error: BaseException) -> str:
    """The text of an error; "" if it raises."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - its own __str__ fails
        return ""


def path_text(parts: Iterable[object]) -> str:
    """The text of a path: ``$.name`` for plain names, ``[...]`` for the rest. The middle of a long one is left out."""
    texts = [_part(part) for part in parts]
    if len(texts) > 2 * _ENDS:
        texts[_ENDS:-_ENDS] = [f" ({len(texts) - 2 * _ENDS:,} more) "]
    return "$" + "".join(texts)


def _part(part: object) -> str:
    kind = type(part)
    if kind is int and -(2**63) <= part < 2**64:  # type: ignore[operator]
        return f"[{part}]"
    if issubclass(kind, str):
        name = str.__str__(part)
        return f".{name}" if name.isidentifier() else f"[{name!r}]"
    return f"[{class_name(kind)}]"


class LossError(Exception):
    """A value cannot be represented; with its placeholder and the reason. Internal to this package."""

    def __init__(self, mark: Any, reason: str) -> None:
        super().__init__(reason)
        self.mark, self.reason = mark, reason


class Lost:
    """Returned by an encoder, or put into an object, for a value that cannot be represented.

    Attributes:
        mark: The placeholder: any data.
        reason: The reason for the report.
        kind: The class for the report.
    """

    __slots__ = ("kind", "mark", "reason")

    def __init__(self, mark: Any, reason: str, kind: type) -> None:
        self.mark, self.reason, self.kind = mark, reason, kind


def PLAIN_MODEL(value: Any) -> Any:  # noqa: N802 - a callable constant
    """The encoder of a pydantic model without special fields: its ``__dict__``."""
    return value.__dict__
