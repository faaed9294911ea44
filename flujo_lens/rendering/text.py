"""Escaping of text from a store, which is data and must not control the terminal.

Control characters, terminal escapes, zero-width characters and changes of text direction are shown as backslash
escapes. `unescape` decodes them, so that an id can be copied from any output to any command.
"""

from __future__ import annotations

import re
import shlex

from flujo_lens.errors import command_line

HIDDEN = (
    "\x7f-\x9f\u00ad\u034f\u061c\u180e\u200b\u200c\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0"
    "\ufff0-\ufffb\ud800-\udfff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e007f"
)
"""Unsafe characters above ASCII, as the inside of a character class: C1 controls, marks of direction, line separators,
zero-width characters, tags, lone surrogates. The joiner U+200D is handled separately."""

_EMOJI = (
    "\u203c\u2049\u2122\u2139\u2190-\u21ff\u2300-\u23ff\u24c2\u25a0-\u27bf\u2934\u2935\u2b00-\u2bff\u3030\u303d"
    "\u3297\u3299\U0001f000-\U0001faff"
)
_JOINER = f"(?<![\ufe0f{_EMOJI}])\u200d|\u200d(?![{_EMOJI}])"
"""A joiner that is not between two emoji."""

_CONTROLS = f"[\x00-\x1f{HIDDEN}]|{_JOINER}"
_CONTROLS_OF_CSV = f"[\x00-\x08\x0b\x0c\x0e-\x1f{HIDDEN}\\\\]|\r(?!\n)|{_JOINER}"
_ESCAPE = r"\\(?:([abfnrtv\\0])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U(000[0-9a-fA-F]{5}|0010[0-9a-fA-F]{4}))"
_FORMULA = r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]"
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_SHORT = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
_LONG = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "a": "\a", "b": "\b", "f": "\f", "v": "\v", "0": "\0"}


def _shown(match: re.Match[str]) -> str:
    char = match.group()
    if char in _SHORT:
        return _SHORT[char]
    return _coded(char)


def _coded(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable()


def escape_controls(text: str) -> str:
    """`text` on one line, with control characters escaped."""
    return text if _is_plain(text) else re.sub(_CONTROLS, _shown, text)


def escape_tsv(text: str) -> str:
    """`text` as a field of TSV: like `escape_controls`, with backslashes doubled."""
    escaped = text.replace("\\", "\\\\") if "\\" in text else text
    return escape_controls(escaped)


def escape_csv(text: str) -> str:
    """`text` as an unquoted field of CSV: newlines and tabs stay, other controls and backslashes are escaped."""
    if _is_plain(text) and "\\" not in text:
        return text
    return re.sub(_CONTROLS_OF_CSV, lambda found: "\\\\" if found.group() == "\\" else _coded(found.group()), text)


def harmless(cell: str) -> str:
    """A cell with an apostrophe if a spreadsheet would read it as a formula; numbers stay."""
    return f"'{cell}" if re.match(_FORMULA, cell) and not re.fullmatch(_NUMBER, cell) else cell


def one_line(text: str, most: int = 0) -> str:
    """`text` for a table cell: lines joined by spaces, controls escaped, cut after `most` characters."""
    joined = escape_controls(" ".join(text.split()))
    return joined if not most or len(joined) <= most else joined[: most - 1] + "…"


def unescape(text: str) -> str:
    """The inverse of the escapes above and of `harmless`."""
    return _unescaped(text[1:] if text.startswith("'") and text == harmless(text[1:]) else text)


def _unescaped(text: str) -> str:
    return re.sub(_ESCAPE, _meant, text) if "\\" in text else text


def _meant(match: re.Match[str]) -> str:
    short, *numbers = match.groups()
    return _LONG[short] if short else chr(int(next(filter(None, numbers)), 16))


def run_command(command: str, run_id: str, options: str = "") -> str:
    """A command line for a run, as `command_line`, with control characters of the id escaped."""
    return command_line(command, escape_controls(run_id), options)


def quoted(text: str) -> str:
    """`text` quoted for a shell, with control characters escaped."""
    return shlex.quote(escape_controls(text))
