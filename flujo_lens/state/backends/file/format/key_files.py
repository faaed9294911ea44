"""Small files in the sub-folder of histories: claims, manifests, and the system state. All of it blocks.

``<hash>.claim`` is a claim, ``<hash>.stripped`` the note of what a run has lost, ``<hash>.manifest`` a manifest with
its digest; the hash is that of the run's id, or of the digest. ``system.json`` is the system state:
``{key: {"value": ..., "updated_at": ...}}``. Each is written whole or not at all.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import blake2b
from typing import Any

from flujo_lens.errors import CorruptStoreError
from flujo_lens.fs.atomic_write import drafted, read_file, settle
from flujo_lens.serialization import safe_dumps, safe_loads

SYSTEM = "system.json"
_ENDINGS = {"claim": ".claim", "manifest": ".manifest", "strip": ".stripped"}
_READING = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW


def read(histories: int, space: str, keys: Sequence[str] | None) -> dict[str, bytes]:
    """The values of these keys, or all; one that we did not write is none."""
    if keys is not None:
        names = [_name(key, _ENDINGS[space]) for key in keys]
    else:
        names = [name for name in os.listdir(histories) if name.endswith(_ENDINGS[space])]
    found = (_content(histories, name) for name in names)
    pairs = [_pair(space, content) for content in found if content is not None]
    return {key: value for key, value in pairs if key is not None}


def _pair(space: str, content: bytes) -> tuple[str | None, bytes]:
    try:
        stored = safe_loads(content)
        if space == "claim":
            return str(stored["run_id"]), content
        if space == "strip":
            return str(stored["run_id"]), safe_dumps(stored["stripped"])
        return str(stored["digest"]), safe_dumps(stored["manifest"])
    except (ValueError, KeyError, TypeError):
        return None, b""


def write(histories: int, space: str, key: str, value: bytes | None) -> None:
    """Put a value in its place; None removes it."""
    name = _name(key, _ENDINGS[space])
    if value is None:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=histories)
        return
    _put(histories, name, value if space == "claim" else _named(space, key, value))
    if space != "claim":
        settle(histories)


def _named(space: str, key: str, body: bytes) -> bytes:
    names = (b"digest", b"manifest") if space == "manifest" else (b"run_id", b"stripped")
    return b'{"%s":%s,"%s":%s}' % (names[0], safe_dumps(key), names[1], body)


def _name(key: str, ending: str) -> str:
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest() + ending


def _put(histories: int, name: str, data: bytes) -> None:
    with drafted(histories, data, name) as draft:
        draft.place(name)


def _content(histories: int, name: str) -> bytes | None:
    try:
        file = os.open(name, _READING, dir_fd=histories)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return None
        raise
    try:
        return read_file(file)
    finally:
        os.close(file)


# --- system state


def read_system(histories: int) -> dict[str, Any]:
    """The system state as it is stored.

    Raises:
        CorruptStoreError: it does not parse.
    """
    content = _content(histories, SYSTEM)
    try:
        found = {} if content is None else safe_loads(content)
    except ValueError as error:
        raise CorruptStoreError(f"{SYSTEM} does not parse: {error}", hint="restore it, or move it away") from error
    if not isinstance(found, dict):
        raise CorruptStoreError(f"{SYSTEM} is not a JSON object", hint="restore it, or move it away")
    return found


def write_system(histories: int, row: Mapping[str, Any]) -> None:
    """Set the row of a global key, which names it; the others stay."""
    rest = {name: value for name, value in row.items() if name != "key"}
    _put(histories, SYSTEM, safe_dumps({**read_system(histories), row["key"]: rest}, sort_keys=True))
    settle(histories)
