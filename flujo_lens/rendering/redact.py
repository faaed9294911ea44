"""Secrets are masked wherever they would be printed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

__all__ = ["MASK", "Redactor"]

MASK = "***"
TOO_DEEP = "<nested too deep>"
_DEEPEST = 200
_BUILT_IN_KEYS = (
    "*password*",
    "*passwd*",
    "*secret*",
    "*api?key*",
    "*apikey*",
    "*_token",
    "token",
    "authorization",
    "cookie",
    "*dsn*",
)
_CREDENTIALS = re.compile(r"(//[^\s/:@\"']*):([^\s/@\"']+)@")


class Redactor:
    """Masks values under secret keys, and passwords in URLs inside any text.

    Args:
        keys: Globs (``*``, ``?``) added to the built-in ones; compared case-folded with the whole key.
        show: True to mask nothing.
    """

    def __init__(self, keys: Iterable[str] = (), *, show: bool = False) -> None:
        self.show = show
        globs = [re.escape(k.casefold()).replace(r"\*", ".*").replace(r"\?", ".") for k in (*_BUILT_IN_KEYS, *keys)]
        pattern = re.compile("|".join(globs), re.DOTALL)
        self._secret = lru_cache(maxsize=2048)(lambda key: pattern.fullmatch(key.casefold()) is not None)

    def is_secret(self, key: str) -> bool:
        """Whether what is stored under `key` is masked."""
        return not self.show and self._secret(key)

    def text(self, text: str) -> str:
        """`text` with the passwords of URLs masked."""
        if self.show or "//" not in text or "@" not in text:
            return text
        return _CREDENTIALS.sub(rf"\1:{MASK}@", text)

    def value(self, value: Any, depth: int = 0) -> Any:
        """A copy of `value` (any JSON-ready data) with its secrets masked. Numbers are never secrets.

        What is nested deeper than any format can print is left out.
        """
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return (
                TOO_DEEP
                if depth > _DEEPEST
                else {
                    key: self._masked(item, depth + 1) if self.is_secret(str(key)) else self.value(item, depth + 1)
                    for key, item in value.items()
                }
            )
        if isinstance(value, list | tuple):
            return TOO_DEEP if depth > _DEEPEST else [self.value(item, depth + 1) for item in value]
        return value

    def under(self, key: str, value: Any) -> Any:
        """`value` as it is printed under `key`."""
        return self._masked(value) if self.is_secret(key) else self.value(value)

    def _masked(self, value: Any, depth: int = 0) -> Any:
        if isinstance(value, Mapping | list | tuple) and depth > _DEEPEST:
            return TOO_DEEP
        if isinstance(value, Mapping):
            return {key: self._masked(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._masked(item, depth + 1) for item in value]
        return MASK if isinstance(value, str | bytes) and value else value
