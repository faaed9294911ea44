"""Named keys for AES-256-GCM: sources and rotation.

A key ring has one key per line, or separated by commas: 32 bytes in Base64 or hexadecimal, optionally after a name
and a colon. The first key is used for writing::

    2026-11:Zm9v...=
    2025-02:YmFy...=

To rotate keys, put the new one first and keep the old ones as long as states need them.
"""

from __future__ import annotations

import os
import stat
import sys
from base64 import b64decode, b64encode
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from flujo_lens.errors import ConfigError, MissingExtraError

__all__ = ["FINGERPRINTS", "KeyRing", "find_cipher", "new_key"]

FINGERPRINTS = "python -m flujo_lens.serialization.keys"
"""The command that prints the fingerprints of the environment's keys."""

_SIZE = 32
_LONGEST_NAME = 100


def new_key() -> str:
    """A new random key as text, for ``LENS_KEY`` or a line of a key file."""
    return b64encode(os.urandom(_SIZE)).decode("ascii")


class KeyRing:
    """Keys by name; the first one writes, any of them reads.

    Args:
        keys: 32 bytes by name (ASCII, up to 100 characters).

    Raises:
        ConfigError: there is no key, or one has the wrong length or an invalid name.
    """

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        if not keys:
            raise ConfigError("a key ring needs at least one key")
        for name, key in keys.items():
            if not (0 < len(name) <= _LONGEST_NAME and name.isascii() and name.isprintable()):
                raise ConfigError(
                    f"invalid name of a key: {name!r}; use 1 to {_LONGEST_NAME} printable ASCII characters"
                )
            if len(key) != _SIZE:
                raise ConfigError(f"the key {name} has {len(key)} bytes; AES-256 needs {_SIZE}")
        self._keys = dict(keys)
        self._ciphers: dict[str, Any] = {}

    @classmethod
    def parse(cls, text: str, source: str = "the ring") -> KeyRing:
        """Parse a ring; errors have the `source`, never the text.

        Raises:
            ConfigError: a key is invalid, or two have the same name.
        """
        entries = [e.strip() for line in text.splitlines() for e in line.split(",")]
        entries = [entry for entry in entries if entry and not entry.startswith("#")]
        if not entries:
            raise ConfigError(f"{source} has no key", hint=_HINT)
        keys: dict[str, bytes] = {}
        for at, entry in enumerate(entries, 1):
            name, colon, coded = entry.rpartition(":")
            key = _decoded(coded.strip())
            if key is None:
                raise ConfigError(f"key {at} of {source} is not 32 bytes in Base64 or hexadecimal", hint=_HINT)
            name = name.strip() if colon else sha256(key).hexdigest()[:8]
            if name in keys:
                hint = "give each key a different name, which identifies the key of a state"
                raise ConfigError(f"two keys of {source} have the name {name}", hint=hint)
            keys[name] = key
        return cls(keys)

    @classmethod
    def from_file(cls, path: Path | str) -> KeyRing:
        """Read a ring from a file.

        Raises:
            ConfigError: it cannot be read, other users can read it, or it has no keys.
        """
        try:
            if os.stat(path).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                hint = f"chmod 600 {path}"
                raise ConfigError(f"refusing to read keys from {path}: other users can read it", hint=hint)
            text = Path(path).read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"cannot read the keys in {path}: {reason}") from error
        return cls.parse(text, str(path))

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> KeyRing | None:
        """The ring of ``LENS_KEY``, else of the file ``LENS_KEY_FILE``; None if neither is set.

        Raises:
            ConfigError: the ring is invalid.
        """
        found = os.environ if environment is None else environment
        if found.get("LENS_KEY"):
            return cls.parse(found["LENS_KEY"], "LENS_KEY")
        return cls.from_file(found["LENS_KEY_FILE"]) if found.get("LENS_KEY_FILE") else None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the keys, the writing one first."""
        return tuple(self._keys)

    @property
    def fingerprints(self) -> dict[str, str]:
        """The first 16 hexadecimal digits of each key's SHA-256 by name, which do not reveal the key."""
        return {name: sha256(key).hexdigest()[:16] for name, key in self._keys.items()}

    def check(self) -> None:
        """Check that encryption is available.

        Raises:
            MissingExtraError: the extra ``crypto`` is not installed.
        """
        self.writing()

    def writing(self) -> tuple[str, Any]:
        """The name and cipher of the writing key."""
        name = next(iter(self._keys))
        return name, self._cipher(name)

    def reading(self, name: str) -> Any:
        """The cipher of a key, or None."""
        return self._cipher(name) if name in self._keys else None

    def _cipher(self, name: str) -> Any:
        if name not in self._ciphers:
            try:
                from cryptography.hazmat.primitives.ciphers.aead import AESGCM
            except ImportError as error:
                raise MissingExtraError.of("cryptography", "crypto") from error
            self._ciphers[name] = AESGCM(self._keys[name])
        return self._ciphers[name]

    def __repr__(self) -> str:
        return f"KeyRing({', '.join(self._keys)})"


_HINT = "to make a key: python -c 'from flujo_lens.serialization.keys import new_key; print(new_key())'"
_remembered: dict[tuple[str | None, str | None], KeyRing | None] = {}


def find_cipher(name: str, keys: KeyRing | None) -> Any:
    """The cipher of a key in the given ring or the environment's; or None."""
    found = keys.reading(name) if keys is not None else None
    if found is not None:
        return found
    source = (os.environ.get("LENS_KEY"), os.environ.get("LENS_KEY_FILE"))
    if source in _remembered:
        ring = _remembered[source]
    else:
        ring = _remembered[source] = KeyRing.from_environment()
    return ring.reading(name) if ring is not None else None


def _decoded(text: str) -> bytes | None:
    try:
        key = bytes.fromhex(text) if len(text) == 2 * _SIZE else b64decode(text.encode("ascii"), validate=True)
    except ValueError:
        return None
    return key if len(key) == _SIZE else None


def _tell() -> None:
    """Print the fingerprints of the environment's keys, one per line."""
    try:
        ring = KeyRing.from_environment()
    except ConfigError as error:
        sys.stderr.write(f"{error.message}\n")
        raise SystemExit(2) from error
    if ring is None:
        sys.stderr.write("neither LENS_KEY nor LENS_KEY_FILE is set\n")
    fingerprints = ring.fingerprints if ring is not None else {}
    sys.stdout.write("".join(f"{name}  {print_}\n" for name, print_ in fingerprints.items()))


if __name__ == "__main__":
    _tell()
