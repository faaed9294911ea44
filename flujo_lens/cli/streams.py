"""The standard streams in any locale: data is UTF-8 in both directions; text outside the encoding is escaped."""

from __future__ import annotations

import locale
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TextIO

from flujo_lens.errors import UsageError

_BOM = b"\xef\xbb\xbf"


# --- at the start of the program


def fill_closed_numbers() -> None:
    """Open /dev/null for each of the file descriptors 0, 1 and 2 that is closed.

    Otherwise the next opened file would get that number, and output of a library or child process would be written
    into it.
    """
    for number, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):  # no /dev here
                os.set_inheritable(os.open(os.devnull, mode), True)


def in_utf8_mode() -> None:
    """Restart in Python's UTF-8 mode if the locale has another encoding, so that file names, arguments and variables
    are UTF-8, like all output of lens.

    Python does so by itself in the C locale. The streams keep the encoding of the locale.
    """
    encoding = sys.getfilesystemencoding()
    if encoding in ("utf-8", "utf8") or sys.flags.utf8_mode or getattr(sys, "frozen", False) or not sys.executable:
        return
    streams = [stream.encoding for stream in (sys.stdout, sys.stderr, sys.stdin) if stream is not None]
    os.environ.setdefault("PYTHONIOENCODING", streams[0] if streams else encoding)
    with suppress(OSError):  # continue without it
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def words_as_typed(words: Sequence[str]) -> list[str]:
    """Decode the arguments: those that are not UTF-8 by the locale's encoding, if possible."""
    return [_as_typed(word) for word in words]


def _as_typed(word: str) -> str:
    raw = os.fsencode(word)
    for encoding in ("utf-8", locale.getencoding()):
        with suppress(UnicodeDecodeError, LookupError):
            return raw.decode(encoding)
    return word


def escape_what_cannot_be_shown(*streams: TextIO) -> None:
    """Escape characters outside the encoding of a stream, instead of failing.

    Text is flushed at once, to keep its order with bytes written to the same stream.
    """
    for stream in streams:
        change: Any = getattr(stream, "reconfigure", None)
        if change is not None:
            change(errors="backslashreplace", write_through=True)


# --- reading


def read_text(stream: TextIO) -> str:
    """Read all of stdin, with ``\\n`` as line ends.

    Raises:
        UsageError: it is not UTF-8, or cannot be read.
    """
    buffer = getattr(stream, "buffer", None)
    try:
        return stream.read() if buffer is None else decoded(buffer.read(), "stdin")
    except OSError as error:
        raise UsageError(f"cannot read stdin: {error.strerror or error}; nothing was changed") from error


def decoded(raw: bytes, name: str) -> str:
    """Decode UTF-8, with or without a byte order mark, with ``\\n`` as line ends.

    Args:
        name: The name of the source, for the message.

    Raises:
        UsageError: it is not UTF-8.
    """
    try:
        text = raw.removeprefix(_BOM).decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UsageError(
            f"{name} is not UTF-8 text (line {line}); nothing was changed",
            hint="if it is Latin-1, convert it: iconv -f LATIN1 -t UTF-8",
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_line(stream: TextIO) -> str:
    """Read a line from the terminal, "" at the end; if it is not UTF-8, in the terminal's encoding."""
    buffer = getattr(stream, "buffer", None)
    if buffer is None:
        return stream.readline()
    raw: bytes = buffer.readline()
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode(stream.encoding or "utf-8", "replace")
