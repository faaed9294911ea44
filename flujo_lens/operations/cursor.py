"""Cursors: a position in a list as a short word that needs no quoting in a shell.

The bytes below base64 are a head with the version and the length of the value, two checksums (of the position, and of
the filters and the order of the list), the value by which the list is sorted, and the id in UTF-8; 32 hexadecimal
digits at its end are 16 bytes. A value is a time in microseconds since 1970, or a double.
"""

from __future__ import annotations

import base64
import re
from binascii import crc_hqx
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from struct import error, pack, unpack

from flujo_lens.errors import UsageError
from flujo_lens.state.backends.base import Position

SortedPosition = tuple[float | None, str]
"""Where a page of a sorted list begins: value and id of the last run of the page before."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_VERSION, _VERSIONS, _RUN, _DIGITS, _LENGTH = 0x80, 0xC0, 0x10, 0x20, 0x0F
"""Of the head: this version, its bits, an id of ``run_`` and digits, one of anything and digits, the time's length."""

_DOUBLE = 9
"""The length that stands for a value of 8 bytes that is a double; a time has at most 8."""

_CHECKED = 5
"""Bytes before the value: the head and two checksums."""

_WITH_DIGITS = re.compile(r"(.*)([0-9a-f]{32})", re.DOTALL)
_OLD = "eyJ"
"""The beginning of the cursors of 0.1, which were JSON."""


def encode_cursor(position: Position | SortedPosition, asked: Sequence[str] = ()) -> str:
    """The cursor of a position.

    Args:
        position: The last run of a page.
        asked: The filters and the order of the list, as words; `decode_cursor` refuses others.
    """
    value, run_id = position
    length, packed = _packed_value(value)
    form, name = _packed_id(run_id)
    head = bytes([_VERSION | form | length])
    whole = head + _checksum(head + packed + name) + _checksum(_words(asked)) + packed + name
    return base64.urlsafe_b64encode(whole).decode().rstrip("=")


def decode_cursor(text: str, asked: Sequence[str] = ()) -> Position:
    """The position of a cursor in a list by start.

    Raises:
        UsageError: it is not a cursor, or one of other filters or another order.
    """
    value, run_id = _decoded(text, asked)
    if isinstance(value, float):
        raise _other_list()
    return value, run_id


def decode_sorted_cursor(text: str, asked: Sequence[str] = ()) -> SortedPosition:
    """The position of a cursor in a list that is sorted by a number; otherwise like `decode_cursor`."""
    value, run_id = _decoded(text, asked)
    if isinstance(value, datetime):
        raise _other_list()
    return value, run_id


def _decoded(text: str, asked: Sequence[str]) -> tuple[datetime | float | None, str]:
    if text.startswith(_OLD):
        raise UsageError("this cursor is of an earlier version of lens", hint="omit --cursor for the first page")
    try:
        whole = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
        head, position = whole[:1], whole[_CHECKED:]
        if head[0] & _VERSIONS != _VERSION or _checksum(head + position) != whole[1:3]:
            raise ValueError
        found = _position(head[0], position)
    except (ValueError, IndexError, OverflowError, error):
        raise UsageError(
            f'"{text}" is not a cursor', hint="use the cursor printed by lens list, or omit --cursor for the first page"
        ) from None
    if whole[3:_CHECKED] != _checksum(_words(asked)):
        raise _other_list()
    return found


def _other_list() -> UsageError:
    return UsageError(
        "this cursor is of a list with other filters or another order",
        hint="repeat the options of the command that printed it, or omit --cursor for the first page",
    )


def _position(head: int, position: bytes) -> tuple[datetime | float | None, str]:
    length = head & _LENGTH
    size = min(length, 8)
    packed, name = position[:size], position[size:]
    value: datetime | float | None = None
    if length == _DOUBLE:
        value = float(unpack(">d", packed)[0])
    elif length:
        value = _EPOCH + int.from_bytes(packed, "big", signed=True) * _MICROSECOND
    if head & _RUN:
        return value, f"run_{name.hex()}"
    text, digits = (name[:-16], name[-16:].hex()) if head & _DIGITS else (name, "")
    return value, text.decode("utf-8", "surrogatepass") + digits


def _packed_value(value: datetime | float | None) -> tuple[int, bytes]:
    """The length of a value in the head, and its bytes."""
    if value is None:
        return 0, b""
    if not isinstance(value, datetime):
        return _DOUBLE, pack(">d", value)
    micros = (value - _EPOCH) // _MICROSECOND
    packed = micros.to_bytes(micros.bit_length() // 8 + 1, "big", signed=True)
    return len(packed), packed


def _packed_id(run_id: str) -> tuple[int, bytes]:
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
