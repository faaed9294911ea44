"""Text from a store is data: shown, never obeyed.

Control characters, terminal escapes and characters that turn the direction of text are shown as backslash
escapes. `unescape` reads them back, so that an id can be copied from any output into any command.
"""

from __future__ import annotations

import re

__all__ = ["escape_controls", "escape_tsv", "one_line", "unescape"]

_CONTROLS = (
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
_ESCAPE = r"\\(?:([abfnrtv\\0])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U(000[0-9a-fA-F]{5}|0010[0-9a-fA-F]{4}))"
_SHORT = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
_LONG = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "a": "\a", "b": "\b", "f": "\f", "v": "\v", "0": "\0"}


def _shown(match: re.Match[str]) -> str:
    char = match.group()
    if char in _SHORT:
        return _SHORT[char]
    return f"\\x{ord(char):02x}" if ord(char) < 0x100 else f"\\u{ord(char):04x}"


def escape_controls(text: str) -> str:
    """`text` with everything escaped that a terminal might obey; one line."""
    return text if text.isprintable() else re.sub(_CONTROLS, _shown, text)


def escape_tsv(text: str) -> str:
    """`text` as one field of a line: as `escape_controls`, and a backslash is doubled."""
    escaped = text.replace("\\", "\\\\") if "\\" in text else text
    return escape_controls(escaped)


def one_line(text: str, most: int = 0) -> str:
    """`text` for a table's cell: lines joined by spaces, the rest escaped; cut after `most` characters."""
    joined = escape_controls(" ".join(text.split()))
    return joined if not most or len(joined) <= most else joined[: most - 1] + "…"


def unescape(text: str) -> str:
    """The inverse of the escapes above; anything else stays."""
    return re.sub(_ESCAPE, _meant, text) if "\\" in text else text


def _meant(match: re.Match[str]) -> str:
    short, *numbers = match.groups()
    return _LONG[short] if short else chr(int(next(filter(None, numbers)), 16))
