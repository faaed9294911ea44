"""Cursors: a position in a list as a short word that needs no quoting in a shell.

The bytes below base64 are a head with the version and the length of the time, two checksums (of the position, and of
the filters and the order of the list), the time in microseconds since 1970, and the id in UTF-8; 32 hexadecimal digits
at its end are 16 bytes.
"""

from __future__ import annotations

import base64
import re
from binascii import crc_hqx
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from flujo_lens.errors import UsageError
from flujo_lens.state.backends.base import Position

__all__ = ["decode_cursor", "encode_cursor"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_VERSION, _VERSIONS, _RUN, _DIGITS, _LENGTH = 0x80, 0xC0, 0x10, 0x20, 0x0F
"""Of the head: this version, its bits, an id of ``run_`` and digits, one of anything and digits, the time's length."""

_CHECKED = 5
"""Bytes before the time: the head and two checksums."""

_WITH_DIGITS = re.compile(r"(.*)([0-9a-f]{32})", re.DOTALL)
_OLD = "eyJ"
"""The beginning of the cursors of 0.1, which were JSON."""


def encode_cursor(position: Position, asked: Sequence[str] = ()) -> str:
    """The cursor of a position.

    Args:
        position: The last run of a page.
        asked: The filters and the order of the list, as words; `decode_cursor` refuses others.
    """
    start, run_id = position
    micros = None if start is None else (start - _EPOCH) // _MICROSECOND
    time = b"" if micros is None else micros.to_bytes(micros.bit_length() // 8 + 1, "big", signed=True)
    form, name = _packed(run_id)
    head = bytes([_VERSION | form | len(time)])
    whole = head + _checksum(head + time + name) + _checksum(_words(asked)) + time + name
    return base64.urlsafe_b64encode(whole).decode().rstrip("=")


def decode_cursor(text: str, asked: Sequence[str] = ()) -> Position:
    """The position of a cursor.

    Raises:
        UsageError: it is not a cursor, or one of other filters or another order.
    """
    if text.startswith(_OLD):
        raise UsageError("this cursor is of an earlier version of lens", hint="omit --cursor for the first page")
    try:
        whole = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
        head, position = whole[:1], whole[_CHECKED:]
        if head[0] & _VERSIONS != _VERSION or _checksum(head + position) != whole[1:3]:
            raise ValueError
        found = _position(head[0], position)
    except (ValueError, IndexError, OverflowError):
        raise UsageError(
            f'"{text}" is not a cursor', hint="use the cursor printed by lens list, or omit --cursor for the first page"
        ) from None
    if whole[3:_CHECKED] != _checksum(_words(asked)):
        raise UsageError(
            "this cursor is of a list with other filters or another order",
            hint="repeat the options of the command that printed it, or omit --cursor for the first page",
        )
    return found


def _position(head: int, position: bytes) -> Position:
    length = head & _LENGTH
    time, name = position[:length], position[length:]
    start = _EPOCH + int.from_bytes(time, "big", signed=True) * _MICROSECOND if length else None
    if head & _RUN:
        return start, f"run_{name.hex()}"
    text, digits = (name[:-16], name[-16:].hex()) if head & _DIGITS else (name, "")
    return start, text.decode("utf-8", "surrogatepass") + digits


def _packed(run_id: str) -> tuple[int, bytes]:
    """The form of an id, and its bytes."""
    found = _WITH_DIGITS.fullmatch(run_id)
    if found is None:
        return 0, run_id.encode("utf-8", "surrogatepass")
    digits = bytes.fromhex(found[2])
    return (_RUN, digits) if found[1] == "run_" else (_DIGITS, found[1].encode("utf-8", "surrogatepass") + digits)


def _words(asked: Sequence[str]) -> bytes:
    return "\0".join(sorted(asked)).encode("utf-8", "surrogatepass")


def _checksum(data: bytes) -> bytes:
    return crc_hqx(data, 0).to_bytes(2, "big")
