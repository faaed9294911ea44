"""What could not be kept: the marks that stand in its place, and the report of where they stand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

__all__ = [
    "CIRCULAR",
    "TOO_DEEP",
    "LossyValue",
    "class_name",
    "lost_in",
    "path_text",
    "printable",
    "unserializable",
    "words_of",
]

CIRCULAR = "<circular-ref>"
"""Stands for a value that contains itself (as in the library's own stores)."""

TOO_DEEP = "<too-deep>"
"""Stands for what lies deeper than any document that ends."""

_LOST = "<unserializable: "

_name_of: Any = type.__dict__["__name__"].__get__
_qualified_name_of: Any = type.__dict__["__qualname__"].__get__
"""A metaclass may have put something else in their place."""


class LossyValue(NamedTuple):
    """A value that cannot be had back from what was written.

    Attributes:
        path: Where it is, from the root: ``$.pipeline_context.client`` or ``$.steps[3]["a key"]``.
        type_name: The name of its class.
        reason: What became of it.
    """

    path: str
    type_name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path} ({self.type_name}): {self.reason}"


def unserializable(kind: type) -> str:
    """The mark for a value of a class that nobody knows how to write."""
    return f"{_LOST}{printable(_name_of(kind))}>"


def lost_in(saved: object) -> tuple[str, str] | None:
    """The first mark in plain data for a value that was not kept: its path from the root, and the mark; or None."""
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
    """The name of a class, as its ``class`` statement gave it."""
    return printable(_qualified_name_of(kind))


def printable(text: str) -> str:
    """A text that any UTF-8 stream takes: halves of surrogate pairs are escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def words_of(error: BaseException) -> str:
    """What an error says of itself, nothing if it cannot even do that."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - its own __str__ fails
        return ""


def path_text(parts: Iterable[object]) -> str:
    """A path in words: ``$.name`` for plain names, ``[...]`` for the rest."""
    return "$" + "".join(_part(part) for part in parts)


def _part(part: object) -> str:
    kind = type(part)
    if kind is int and -(2**63) <= part < 2**64:  # type: ignore[operator]
        return f"[{part}]"
    if issubclass(kind, str):
        name = str.__str__(part)
        return f".{name}" if name.isidentifier() else f"[{name!r}]"
    return f"[{class_name(kind)}]"
