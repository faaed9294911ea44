"""JSON of any depth without recursion, which orjson and json refuse."""

from __future__ import annotations

import re
from collections.abc import Iterator
from json import JSONDecodeError
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any

import orjson

_SCALAR = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][-+]?\d+)?|true|false|null|NaN|-?Infinity")
_SPACE = re.compile(r"[ \t\n\r]*")
_WORDS = {
    "true": True,
    "false": False,
    "null": None,
    "NaN": float("nan"),
    "Infinity": float("inf"),
    "-Infinity": -float("inf"),
}
_END: Any = object()


def dump_deep(plain: Any, sort_keys: bool = False) -> bytes:
    """Write plain data (dicts with text keys, lists, scalars) of any depth as JSON."""
    out = bytearray()
    stack: list[tuple[Iterator[Any], bytes, bool]] = []

    def begin(value: Any) -> None:
        if isinstance(value, dict):
            items = sorted(value.items()) if sort_keys else value.items()
            out.extend(b"{")
            stack.append((iter(items), b"}", True))
        elif isinstance(value, list):
            out.extend(b"[")
            stack.append((iter(value), b"]", True))
        else:
            out.extend(orjson.dumps(value))

    begin(plain)
    while stack:
        items, close, first = stack.pop()
        item = next(items, _END)
        if item is _END:
            out.extend(close)
            continue
        stack.append((items, close, False))
        if not first:
            out.extend(b",")
        if close == b"}":
            out.extend(orjson.dumps(item[0]) + b":")
            item = item[1]
        begin(item)
    return bytes(out)


def load_deep(text: str) -> Any:
    """Read JSON of any depth; NaN, infinities and lone surrogates are accepted, as by `json`.

    Raises:
        ValueError: it is not JSON; the message has the position.
    """
    return _Reader(text).run()


class _Reader:
    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.stack: list[tuple[Any, str | None]] = []

    def run(self) -> Any:
        value = self._value()
        while self.stack:
            value = self._step(value)
        self._skip()
        if self.at != len(self.text):
            raise self._wrong("extra data")
        return value

    def _value(self) -> Any:
        """A scalar, or `_END` after the opening of a container that has been put on the stack."""
        self._skip()
        start = self.text[self.at : self.at + 1]
        if start in ("{", "["):
            self.at += 1
            self.stack.append(({} if start == "{" else [], None))
            return _END
        if start == '"':
            return self._string()
        found = _SCALAR.match(self.text, self.at)
        if found is None:
            raise self._wrong("a value was expected")
        self.at = found.end()
        word = found.group()
        return _WORDS[word] if word in _WORDS else _number(word)

    def _step(self, value: Any) -> Any:
        """Continue in the innermost container; `value` is the last one read, `_END` if it was just opened."""
        container, key = self.stack.pop()
        if value is not _END:
            self._add(container, key, value)
        if self._closes(container, first=value is _END):
            return container
        name = self._name() if isinstance(container, dict) else None
        self.stack.append((container, name))
        return self._value()

    def _add(self, container: Any, key: str | None, value: Any) -> None:
        if isinstance(container, dict):
            container[key] = value
        else:
            container.append(value)

    def _closes(self, container: Any, *, first: bool) -> bool:
        self._skip()
        mark = self.text[self.at : self.at + 1]
        if mark == ("}" if isinstance(container, dict) else "]"):
            self.at += 1
            return True
        if not first:
            if mark != ",":
                raise self._wrong("a comma or the end was expected")
            self.at += 1
        return False

    def _name(self) -> str:
        self._skip()
        if self.text[self.at : self.at + 1] != '"':
            raise self._wrong("a name was expected")
        name = self._string()
        self._skip()
        if self.text[self.at : self.at + 1] != ":":
            raise self._wrong("a colon was expected")
        self.at += 1
        return name

    def _string(self) -> str:
        text, self.at = scanstring(self.text, self.at + 1, True)
        return str(text)

    def _skip(self) -> None:
        found = _SPACE.match(self.text, self.at)
        self.at = found.end() if found else self.at

    def _wrong(self, what: str) -> ValueError:
        return JSONDecodeError(what, self.text, min(self.at, len(self.text)))


def _number(word: str) -> int | float | str:
    return float(word) if any(mark in word for mark in ".eE") else integer(word)


def integer(word: str) -> int | str:
    """An integer of JSON; the digits as text if they are too many for Python."""
    try:
        return int(word)
    except ValueError:
        return word
