"""Layers round the bytes of a state: compression, then encryption. Off unless asked for.

Sealed bytes begin with a tag that no JSON begins with, so that they can lie beside plain rows, which pass
through unchanged::

    93 6C 65 6E 73 01   tag and format version
    00 | 7A | 73        not compressed, zlib ("z"), zstandard ("s")
    00 | 61             not encrypted, or AES-256-GCM ("a"): then
        length, key id  one byte and ASCII text
        nonce           12 bytes, random
    payload

What the header says, the run's id and the field's name are authenticated with the payload: a sealed field
that is put into another row, or under another name, is not opened. Where bytes do not fit (a JSON file), the
same is written as the text ``lens1:`` and Base64.

Keys are named, so that they can change: `KeyRing` writes with its first key and reads with any.
"""

from __future__ import annotations

import zlib
from base64 import b64decode, b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from flujo_lens.errors import RESTORE, ConfigError, CorruptStoreError, MissingExtraError, SealedStateError

if TYPE_CHECKING:
    from flujo_lens.serialization.keys import KeyRing

__all__ = ["ARMOUR", "TAG", "Envelope", "armour", "is_sealed", "open_sealed", "wrap"]

TAG = b"\x93lens\x01"
ARMOUR = "lens1:"
_MARK = TAG[:-1]
"""What sealed bytes of any format version begin with."""

_ARMOURED = ARMOUR + b64encode(TAG).decode("ascii")[:-1]
"""What every text begins with that `armour` made of bytes of the format versions below 64."""

_PLAIN, _ZLIB, _ZSTD, _AES = b"\x00", b"z", b"s", b"a"
_NONCE = 12
_LARGEST = 2**31
"""Bytes that a payload may have once it is decompressed: twice what SQLite takes."""

Compression = Literal["zlib", "zstd"]


@dataclass(frozen=True, slots=True)
class Envelope:
    """What is done to a state's large fields before they are stored.

    Attributes:
        compression: ``"zstd"`` (needs the extra ``zstd``), ``"zlib"``, or None for no compression.
        min_bytes: Fields of less than this many bytes are not compressed; nor are those that do not get smaller.
        keys: Encrypt with the first of these keys (needs the extra ``crypto``); None to encrypt nothing. What is
            read is opened with them too, and with those of the environment (`KeyRing.from_environment`).

    Raises:
        ConfigError: no such compression.
        MissingExtraError: a package that is needed is not installed.
    """

    compression: Compression | None = None
    min_bytes: int = 1024
    keys: KeyRing | None = None

    def __post_init__(self) -> None:
        if self.compression not in (None, "zlib", "zstd"):
            raise ConfigError(f'no compression "{self.compression}"; there are zstd and zlib')
        if self.compression == "zstd":
            _zstandard()
        if self.keys is not None:
            self.keys.check()

    def seal(self, data: bytes, run_id: str, field: str) -> bytes:
        """Return `data` sealed for one field of one run, or as it is if no layer applies to it."""
        how, payload = self._compress(data)
        if self.keys is None:
            return data if how == _PLAIN else TAG + how + _PLAIN + payload
        name, cipher = self.keys.writing()
        header = TAG + how + _AES + bytes([len(name)]) + name.encode("ascii")
        nonce = _random(_NONCE)
        return header + nonce + bytes(cipher.encrypt(nonce, payload, _bound(header, run_id, field)))

    def _compress(self, data: bytes) -> tuple[bytes, bytes]:
        if self.compression is None or len(data) < self.min_bytes:
            return _PLAIN, data
        if self.compression == "zlib":
            how, packed = _ZLIB, zlib.compress(data)
        else:
            how, packed = _ZSTD, _zstandard().ZstdCompressor().compress(data)
        return (how, packed) if len(packed) < len(data) else (_PLAIN, data)


def is_sealed(stored: object) -> bool:
    """Whether a stored value is sealed bytes or their text."""
    if isinstance(stored, bytes):
        return stored.startswith(_MARK)
    return isinstance(stored, str) and stored.startswith(_ARMOURED)


def wrap(data: bytes) -> bytes:
    """Sealed bytes of plain ones, with no layer at all: for data that looks as if it were sealed."""
    return TAG + _PLAIN + _PLAIN + data


def armour(sealed: bytes) -> str:
    """Sealed bytes as text."""
    return ARMOUR + b64encode(sealed).decode("ascii")


def open_sealed(stored: bytes | str, run_id: str, field: str, keys: KeyRing | None = None) -> bytes:
    """Return the plain bytes of a sealed field; what is not sealed passes through.

    Args:
        stored: What the store holds.
        run_id: The run whose field it is.
        field: The field's name.
        keys: Keys to try before those of the environment.

    Raises:
        SealedStateError: the key is missing or another, or the data is not what was written for this run.
        CorruptStoreError: it is cut off, or cannot be decompressed.
        MissingExtraError: a package that is needed is not installed.
    """
    if isinstance(stored, str):
        if not is_sealed(stored):
            return stored.encode()
        stored = _unarmoured(stored, run_id, field)
    if not stored.startswith(_MARK):
        return stored
    if not stored.startswith(TAG):
        raise _newer(run_id, field, f"it is sealed in the format version {_version(stored)}; known here is {TAG[-1]}")
    at = len(TAG)
    how, locked, rest = stored[at : at + 1], stored[at + 1 : at + 2], stored[at + 2 :]
    if locked == _AES:
        rest = _decrypt(stored, at + 2, run_id, field, keys)
    elif locked != _PLAIN:
        raise _newer(run_id, field, "it is locked in a way that is not known here")
    return _decompress(how, rest, run_id, field)


def _unarmoured(text: str, run_id: str, field: str) -> bytes:
    try:
        return b64decode(text[len(ARMOUR) :].encode("ascii"), validate=True)
    except ValueError as error:
        raise _damaged(run_id, field, str(error)) from error


def _decrypt(stored: bytes, at: int, run_id: str, field: str, keys: KeyRing | None) -> bytes:
    from flujo_lens.serialization.keys import FINGERPRINTS, find_cipher

    end = at + 1 + (stored[at] if len(stored) > at else 0)
    header, nonce, locked = stored[:end], stored[end : end + _NONCE], stored[end + _NONCE :]
    name = header[at + 1 :].decode("ascii", "replace")
    if len(nonce) < _NONCE:
        raise _damaged(run_id, field, "it is cut off")
    cipher = find_cipher(name, keys)
    if cipher is None:
        raise SealedStateError(
            f"{field} of run {run_id} is encrypted with the key {name}, which is not here",
            hint=f"set LENS_KEY or LENS_KEY_FILE to a ring that has {name}, and try again; nothing was changed",
            run_id=run_id,
            key=name,
        )
    from cryptography.exceptions import InvalidTag

    try:
        return bytes(cipher.decrypt(nonce, locked, _bound(header, run_id, field)))
    except InvalidTag as error:
        raise SealedStateError(
            f"{field} of run {run_id} cannot be opened with the key {name}: either the key is another of that "
            "name, or the data was changed or moved here from another run",
            hint=f"nothing was changed; is it the writer's key? compare its fingerprint there and here: {FINGERPRINTS}"
            "; if it is the same, the data was changed: restore it from a backup",
            run_id=run_id,
            key=name,
        ) from error


def _bound(header: bytes, run_id: str, field: str) -> bytes:
    """What is authenticated beside the payload."""
    names = (run_id.encode("utf-8", "surrogatepass"), field.encode())
    return header + b"".join(len(name).to_bytes(4, "big") + name for name in names)


def _decompress(how: bytes, data: bytes, run_id: str, field: str) -> bytes:
    if how == _PLAIN:
        return data
    try:
        if how == _ZLIB:
            inflater = zlib.decompressobj()
            plain = inflater.decompress(data, _LARGEST)
            if not inflater.eof or inflater.unused_data:
                raise _damaged(run_id, field, "it is cut off, too long or too large")
            return plain
        if how == _ZSTD:
            return _unpack_zstd(_zstandard(), data, run_id, field)
    except zlib.error as error:
        raise _damaged(run_id, field, str(error)) from error
    raise _newer(run_id, field, "it is compressed in a way that is not known here")


def _unpack_zstd(library: Any, data: bytes, run_id: str, field: str) -> bytes:
    """What the frame says of its size is believed only within limits: that much memory is taken at once."""
    try:
        if not 0 <= library.frame_content_size(data) <= _LARGEST:
            raise _damaged(run_id, field, "it is cut off or too large")
        return bytes(library.ZstdDecompressor().decompress(data, allow_extra_data=False))
    except (library.ZstdError, MemoryError) as error:
        raise _damaged(run_id, field, str(error)) from error


def _damaged(run_id: str, field: str, reason: str) -> CorruptStoreError:
    return CorruptStoreError(f"{field} of run {run_id} cannot be unpacked: {reason}", hint=RESTORE, run_id=run_id)


def _newer(run_id: str, field: str, reason: str) -> CorruptStoreError:
    hint = "was it written by a newer version? `pip install -U flujo-lens`; else the data was changed: restore it"
    return CorruptStoreError(f"{field} of run {run_id} cannot be unpacked: {reason}", hint=hint, run_id=run_id)


def _version(stored: bytes) -> str:
    return str(stored[len(_MARK)]) if len(stored) > len(_MARK) else "that was cut off"


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError as error:
        raise MissingExtraError.of("zstandard", "zstd") from error
    return zstandard


def _random(size: int) -> bytes:
    import os

    return os.urandom(size)
