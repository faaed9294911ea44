"""Layers for the bytes of a state: optional compression and encryption.

Sealed bytes start with a tag that is not valid JSON, so that they can be mixed with plain rows, which are returned
unchanged::

    93 6C 65 6E 73 01   tag and format version
    00 | 7A | 73        not compressed, zlib ("z"), zstandard ("s")
    00 | 61             not encrypted, or AES-256-GCM ("a"): then
        length, key id  one byte and ASCII text
        nonce           12 bytes, random
    payload

The header, the run id and the field name are authenticated with the payload: a sealed field that is moved to another
row or name cannot be opened. In JSON files, sealed bytes are the text ``lens1:`` and Base64.

Keys have names, so that they can be rotated: `KeyRing` writes with its first key and reads with any.
"""

from __future__ import annotations

import os
import re
import zlib
from base64 import b64decode, b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from flujo_lens.errors import RESTORE, ConfigError, CorruptStoreError, MissingExtraError, SealedStateError

if TYPE_CHECKING:
    from flujo_lens.serialization.keys import KeyRing

__all__ = ["ARMOUR", "TAG", "Envelope", "KeptSealed", "armour", "is_sealed", "open_sealed", "wrap"]

TAG = b"\x93lens\x01"
ARMOUR = "lens1:"
_MARK = TAG[:-1]
"""The prefix of sealed bytes of any format version."""

_ARMOURED = ARMOUR + b64encode(TAG).decode("ascii")[:-1]
"""The prefix of texts made by `armour` of format versions below 64."""

_PLAIN, _ZLIB, _ZSTD, _AES = b"\x00", b"z", b"s", b"a"
_NONCE = 12
_LARGEST = 2**31
"""Maximum size of a decompressed payload: twice the limit of SQLite."""

Compression = Literal["zlib", "zstd"]


@dataclass(frozen=True, slots=True)
class Envelope:
    """Compression and encryption of the large fields of a state.

    Attributes:
        compression: ``"zstd"`` (needs the extra ``zstd``), ``"zlib"``, or None for no compression.
        min_bytes: Minimum size of fields to compress. Fields that do not get smaller are not compressed either.
        keys: Keys, of which the first encrypts (needs the extra ``crypto``); None for no encryption. Reading uses all
            of them and those of the environment (`KeyRing.from_environment`).

    Raises:
        ConfigError: the compression is unknown.
        MissingExtraError: a required package is not installed.
    """

    compression: Compression | None = None
    min_bytes: int = 1024
    keys: KeyRing | None = None

    def __post_init__(self) -> None:
        if self.compression not in (None, "zlib", "zstd"):
            raise ConfigError(f'unknown compression "{self.compression}"; use zstd or zlib')
        if self.compression == "zstd":
            zstandard()
        if self.keys is not None:
            self.keys.check()

    def seal(self, data: bytes, run_id: str, field: str) -> bytes:
        """Seal `data` for a field of a run; return it unchanged if no layer applies."""
        how, payload = self._compress(data)
        if self.keys is None:
            return data if how == _PLAIN else TAG + how + _PLAIN + payload
        name, cipher = self.keys.writing()
        header = TAG + how + _AES + bytes([len(name)]) + name.encode("ascii")
        nonce = os.urandom(_NONCE)
        return header + nonce + bytes(cipher.encrypt(nonce, payload, _bound(header, run_id, field)))

    def _compress(self, data: bytes) -> tuple[bytes, bytes]:
        if self.compression is None or len(data) < self.min_bytes:
            return _PLAIN, data
        if self.compression == "zlib":
            how, packed = _ZLIB, zlib.compress(data)
        else:
            how, packed = _ZSTD, zstandard().ZstdCompressor().compress(data)
        return (how, packed) if len(packed) < len(data) else (_PLAIN, data)


class KeptSealed:
    """An envelope that encrypts what is saved of runs that were encrypted when they were read, and of no others.

    A fork or a background task of such a run is encrypted, too. Used by ``lens resume``, which has the keys of the
    environment, and does not know the envelope of the application.

    Attributes:
        keys: As of `Envelope`.
    """

    def __init__(self, keys: KeyRing) -> None:
        self.keys, self._envelope, self._runs = keys, Envelope("zlib", keys=keys), set[str]()

    def opened(self, run_id: str, stored: bytes | str) -> None:
        """Note that a sealed field of a run was read."""
        sealed = b64decode(stored[len(ARMOUR) :]) if isinstance(stored, str) else stored
        if sealed[len(TAG) + 1 :].startswith(_AES):
            self._runs.add(run_id)

    def seal(self, data: bytes, run_id: str, field: str) -> bytes:
        """As `Envelope.seal`."""
        origin = re.split("-fork-|_bg_", run_id)[0]
        return self._envelope.seal(data, run_id, field) if {run_id, origin} & self._runs else data


def is_sealed(stored: object) -> bool:
    """Whether a stored value is sealed bytes or their text."""
    if isinstance(stored, bytes):
        return stored.startswith(_MARK)
    return isinstance(stored, str) and stored.startswith(_ARMOURED)


def wrap(data: bytes) -> bytes:
    """Sealed bytes without any layer, for data that looks like sealed data."""
    return TAG + _PLAIN + _PLAIN + data


def armour(sealed: bytes) -> str:
    """Sealed bytes as text."""
    return ARMOUR + b64encode(sealed).decode("ascii")


def open_sealed(stored: bytes | str, run_id: str, field: str, keys: KeyRing | None = None) -> bytes:
    """The plain bytes of a sealed field; other data is returned unchanged.

    Args:
        stored: The stored value.
        run_id: The run.
        field: The field's name.
        keys: Keys to try before those of the environment.

    Raises:
        SealedStateError: the key is missing or wrong, or the data was not written for this run.
        CorruptStoreError: it is truncated, or cannot be decompressed.
        MissingExtraError: a required package is not installed.
    """
    if isinstance(stored, str):
        if not is_sealed(stored):
            return stored.encode()
        stored = _unarmoured(stored, run_id, field)
    if not stored.startswith(_MARK):
        return stored
    if not stored.startswith(TAG):
        raise _newer(
            run_id, field, f"it has the format version {_version(stored)}, but this lens reads version {TAG[-1]}"
        )
    at = len(TAG)
    how, locked, rest = stored[at : at + 1], stored[at + 1 : at + 2], stored[at + 2 :]
    if locked == _AES:
        rest = _decrypt(stored, at + 2, run_id, field, keys)
    elif locked != _PLAIN:
        raise _newer(run_id, field, "its encryption is unknown")
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
        raise _damaged(run_id, field, "it is truncated")
    cipher = find_cipher(name, keys)
    if cipher is None:
        raise SealedStateError(
            f"{field} of run {run_id} is encrypted with the key {name}, which is not available",
            hint=f"set LENS_KEY or LENS_KEY_FILE to a ring with {name}, and try again; nothing was changed",
            run_id=run_id,
            key=name,
        )
    from cryptography.exceptions import InvalidTag

    try:
        return bytes(cipher.decrypt(nonce, locked, _bound(header, run_id, field)))
    except InvalidTag as error:
        raise SealedStateError(
            f"{field} of run {run_id} cannot be decrypted with the key {name}: either the key is a different one of "
            "that name, or the data was changed or moved from another run",
            hint=f"nothing was changed; compare the fingerprint of the key with that of the writer: {FINGERPRINTS}"
            "; if they are equal, the data was changed: restore it from a backup",
            run_id=run_id,
            key=name,
        ) from error


def _bound(header: bytes, run_id: str, field: str) -> bytes:
    """The authenticated data in addition to the payload."""
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
                raise _damaged(run_id, field, "it is truncated or too large")
            return plain
        if how == _ZSTD:
            return _unpack_zstd(zstandard(), data, run_id, field)
    except zlib.error as error:
        raise _damaged(run_id, field, str(error)) from error
    raise _newer(run_id, field, "its compression is unknown")


def _unpack_zstd(library: Any, data: bytes, run_id: str, field: str) -> bytes:
    """Decompress a frame. Its size is checked first, since that much memory is allocated at once."""
    try:
        if not 0 <= library.frame_content_size(data) <= _LARGEST:
            raise _damaged(run_id, field, "it is truncated or too large")
        return bytes(library.ZstdDecompressor().decompress(data, allow_extra_data=False))
    except (library.ZstdError, MemoryError) as error:
        raise _damaged(run_id, field, str(error)) from error


def _damaged(run_id: str, field: str, reason: str) -> CorruptStoreError:
    return CorruptStoreError(f"{field} of run {run_id} cannot be decoded: {reason}", hint=RESTORE, run_id=run_id)


def _newer(run_id: str, field: str, reason: str) -> CorruptStoreError:
    hint = "if it was written by a newer version: `pip install -U flujo-lens`; otherwise restore it from a backup"
    return CorruptStoreError(f"{field} of run {run_id} cannot be decoded: {reason}", hint=hint, run_id=run_id)


def _version(stored: bytes) -> str:
    return str(stored[len(_MARK)]) if len(stored) > len(_MARK) else "(truncated)"


def zstandard() -> Any:
    """The module of that name, from the extra ``zstd``.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import zstandard as module
    except ImportError as error:
        raise MissingExtraError.of("zstandard", "zstd") from error
    return module
