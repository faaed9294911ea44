"""Values and texts with their secrets masked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, time, timedelta
from functools import cache, cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from flujo_lens.redaction.keys import MASK, SecretKeys

if TYPE_CHECKING:
    from flujo_lens.redaction.texts import SecretTexts

TOO_DEEP = "<nested too deep>"
_DEEPEST = 200
_HOLDS_NAMES = frozenset({
    "audit_id", "parent_run_id", "parent_span_id", "pipeline_name", "pipeline_version", "run_id", "run_ids",
    "sample_run_id", "span_id", "status", "step_name", "task_id",
})  # fmt: skip
"""Keys whose values are ids and names, which are never masked, so that they can be copied."""

_MARKS = (
    "//", ":/", "sk-", "eyJ", "gh", "glpat-", "xox", "AIza", "hf_", "npm_", "pypi-AgE", "k_live_", "SG.",
    "sig=", "ignature=", "PRIVATE KEY", "\\/",
)  # fmt: skip
_SHELL_QUOTE = "'\"'\"'"
_SHELL_WORD = rf"'[^']*(?:{_SHELL_QUOTE}[^']*)+'"
_SHORTEST = 4
"""Characters of the shortest text in which there is a key and a secret."""

_NAME = ("name", "key", "Name", "Key")
_VALUE = frozenset({"value", "Value"})
_PLAIN = frozenset({type(None), bool, int, float})


class Redactor:
    """Masks secrets in values and texts.

    Masked are the values of secret keys, also inside texts (JSON, Python literals, URLs, headers, command lines),
    passwords in URLs, ``Bearer`` and ``Basic`` credentials, and well-known forms of tokens.

    Args:
        keys: Globs (``*``, ``?``) added to the built-in ones; compared case-folded with the whole key.
        show: True to mask nothing.
    """

    def __init__(self, keys: Iterable[str] = (), *, show: bool = False) -> None:
        self.show = show
        self.keys = SecretKeys(keys)

    def is_secret(self, key: str) -> bool:
        """Whether the value of `key` is masked."""
        return not self.show and self.keys.is_secret(key)

    @cached_property
    def _texts(self) -> SecretTexts:
        from flujo_lens.redaction.texts import SecretTexts

        return SecretTexts(self.keys)

    def text(self, text: str) -> str:
        """`text` with its secrets masked. Masking again changes nothing."""
        if not self._may_hold_secrets(text):
            return text
        return self._shell_words(text) if _SHELL_QUOTE in text else self._texts.masked(text)

    def _shell_words(self, text: str) -> str:
        """`text` in which words are quoted as for a shell: each is masked as what the shell makes of it."""
        import shlex

        def masked(found: re.Match[str]) -> str:
            word = found[0][1:-1].replace(_SHELL_QUOTE, "'")
            hidden = self._texts.masked(word)
            return found[0] if hidden == word else shlex.quote(hidden)

        text = re.sub(_SHELL_WORD, masked, text)
        plain = text.replace(_SHELL_QUOTE, "'")
        once = self._texts.masked(plain)
        return text if once == plain else once

    def _may_hold_secrets(self, text: str) -> bool:
        """A fast check, which most texts do not pass."""
        if self.show or len(text) < _SHORTEST:
            return False
        if any(map(text.__contains__, _MARKS)):
            return True
        if "=" not in text and ":" not in text and " " not in text and "," not in text and ">" not in text:
            return "%3" in text
        words, lowered = self.keys.words, text.lower()
        if words is None or "bearer" in lowered or "basic " in lowered or "curl " in lowered:
            return True
        return any(map(lowered.__contains__, words))

    def value(self, value: Any, depth: int = 0) -> Any:
        """A copy of `value` (any data that can be printed) with its secrets masked. Numbers are never secrets.

        Values nested too deeply to be printed are left out.
        """
        if type(value) in _PLAIN:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return TOO_DEEP if depth > _DEEPEST else self._mapping(value, depth + 1)
        if isinstance(value, list | tuple | set | frozenset):
            return TOO_DEEP if depth > _DEEPEST else self._items(list(value), depth + 1)
        return self._object(value, depth)

    def _items(self, items: list[Any], depth: int) -> list[Any]:
        """The items of a list: also pairs of names and values, and the words of a command line."""
        if items and all(map(_is_pair, items)):
            return [[name, self._under(name, value, depth)] for name, value in items]
        shown = [self.value(item, depth) for item in items]
        for at, (word, after) in enumerate(pairwise(items), 1):
            if isinstance(word, str) and _is_flag(word) and isinstance(after, str) and after[:1] != "-":
                shown[at] = self._under(word[2:], after, depth)
        return shown

    def _under(self, key: str, value: Any, depth: int) -> Any:
        return self.masked(value, depth) if self.is_secret(key) else self.value(value, depth)

    def _object(self, value: Any, depth: int) -> Any:
        if is_dataclass(value) and not isinstance(value, type):
            return self.value({field.name: getattr(value, field.name) for field in fields(value)}, depth)
        text = str(value)
        masked = self.text(text)
        return value if masked == text else masked

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> dict[Any, Any]:
        named = self._named_secret(value)
        made: dict[Any, Any] = {}
        for key, item in value.items():
            name = key if isinstance(key, str) else str(key)
            if self.is_secret(name) or (named and name in _VALUE):
                shown = self.masked(item, depth)
            else:
                shown = item if name in _HOLDS_NAMES and isinstance(item, str) else self.value(item, depth)
            made[self._key(key, value) if isinstance(key, str) else key] = shown
        return made

    def _key(self, key: str, among: Mapping[Any, Any]) -> str:
        masked = self.text(key)
        return key if masked == key or masked in among else masked

    def _named_secret(self, value: Mapping[Any, Any]) -> bool:
        """Whether it is a pair of a secret name and a value, as in the environment of a container."""
        if _VALUE.isdisjoint(value):
            return False
        name = next((value[key] for key in _NAME if key in value), None)
        return isinstance(name, str) and self.is_secret(name)

    def under(self, key: str, value: Any) -> Any:
        """`value` as printed for `key`."""
        return self.masked(value) if self.is_secret(key) else self.value(value)

    def masked(self, value: Any, depth: int = 0) -> Any:
        """`value` with every text in it masked, for a secret key."""
        if self.show or type(value) in _PLAIN:
            return value
        if isinstance(value, str | bytes):
            return MASK if value and (isinstance(value, bytes) or value.strip("*")) else value
        if isinstance(value, Mapping | list | tuple | set | frozenset) and depth > _DEEPEST:
            return TOO_DEEP
        if isinstance(value, Mapping):
            return {key: self.masked(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.masked(item, depth + 1) for item in value]
        return value if isinstance(value, date | time | timedelta) or not str(value).strip("*") else MASK


def _is_flag(word: str) -> bool:
    return word.startswith("--") and " " not in word


def _is_pair(item: Any) -> bool:
    return isinstance(item, list | tuple) and len(item) == 2 and isinstance(item[0], str)


@cache
def _usual() -> Redactor:
    return Redactor()


def masked_text(text: str) -> str:
    """`text` with its secrets masked by the built-in keys, for messages before settings are read."""
    return _usual().text(text)
