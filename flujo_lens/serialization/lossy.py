"""What could not be kept: the marks that stand in its place, and the report of where they stand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["CIRCULAR", "TOO_DEEP", "LossyValue", "path_text", "unserializable"]

CIRCULAR = "<circular-ref>"
"""Stands for a value that contains itself (as in the library's own stores)."""

TOO_DEEP = "<too-deep>"
"""Stands for what lies deeper than any document that ends."""


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
    return f"<unserializable: {kind.__name__}>"


def path_text(parts: Iterable[object]) -> str:
    """A path in words: ``$.name`` for plain names, ``[...]`` for the rest."""
    return "$" + "".join(_part(part) for part in parts)


def _part(part: object) -> str:
    if isinstance(part, int) and not isinstance(part, bool):
        return f"[{part}]"
    if isinstance(part, str):
        return f".{part}" if part.isidentifier() else f"[{part!r}]"
    return f"[{type(part).__name__}]"
