"""One JSON file of a store: its name, what is in it, how it is written and removed.

The functions take a descriptor of the folder and a name in it, never a path: no name leads out of the folder.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson

from flujo_lens.state.interpret import BAD, decode
from flujo_lens.state.timestamps import EPOCH

__all__ = [
    "LEFTOVER",
    "Document",
    "UnreadableFile",
    "encode_state",
    "instant_of",
    "is_blob",
    "is_free",
    "is_state",
    "load_object",
    "names_of",
    "plain_name",
    "printable",
    "problem_of",
    "read_document",
    "remove_document",
    "run_id_of",
    "size_of",
    "stat_document",
    "stem_of",
    "write_document",
]

ENDING = ".json"
LEFTOVER = ".json.tmp"
"""What a save that was interrupted leaves behind."""

_BLOB = "_granular_blobs:"
_LONGEST = 255
"""Bytes of a file's name."""

_READING = os.O_RDONLY | os.O_NONBLOCK
_SOME = 64 * 1024


class UnreadableFile(ValueError):  # noqa: N818 - it never leaves this driver
    """A file that is there and holds no JSON object that can be read; says why."""


@dataclass(frozen=True, slots=True)
class Document:
    """A file that is a run. `state` is None if it does not parse, and `problem` says why."""

    run_id: str
    state: dict[str, Any] | None
    problem: str | None = None
    changed_at: datetime | None = None


# --- names


def is_blob(name: str) -> bool:
    """Whether a file of this name is a part that the library keeps apart from a state."""
    return name.startswith(_BLOB)


def printable(name: str) -> str:
    """A file's name with bytes that are no UTF-8 as ``\\xNN``."""
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "backslashreplace")


def stem_of(name: str) -> str:
    """The run id that a file's name stands for."""
    return printable(name.removesuffix(ENDING))


def plain_name(run_id: str) -> str | None:
    """``<run_id>.json``, or None if that is not the name of a file or not that of a run."""
    if run_id in ("", ".", "..") or "/" in run_id or "\0" in run_id or is_blob(run_id):
        return None
    try:
        length = len(run_id.encode())
    except UnicodeEncodeError:
        return None
    return run_id + ENDING if length + len(ENDING) <= _LONGEST else None


def names_of(run_id: str) -> Iterator[str]:
    """The names that a run's file can have, the first one first: plain, or readable in part with a hash.

    The others are for a name that is taken by another run.
    """
    plain = plain_name(run_id)
    if plain is not None:
        yield plain
    for attempt in range(3):
        yield _encoded_name(run_id, attempt)


def _encoded_name(run_id: str, attempt: int) -> str:
    from hashlib import blake2b
    from urllib.parse import quote

    raw = run_id.encode("utf-8", "surrogatepass")
    digest = blake2b(raw + bytes(attempt), digest_size=8).hexdigest()
    return f"{quote(raw, safe=' ')[:200]}~{digest}{ENDING}"


# --- reading


def instant_of(nanoseconds: int) -> datetime:
    """The instant of a file's time."""
    return EPOCH + timedelta(microseconds=nanoseconds // 1000)


def is_state(found: dict[str, Any]) -> bool:
    """Whether a JSON object is a saved state."""
    if "run_id" in found:
        return True
    return "status" in found and ("pipeline_context" in found or "current_step_index" in found)


def run_id_of(inside: Any, name: str) -> str:
    """The run id that counts: that inside the state, else the one that the file's name stands for."""
    if isinstance(inside, str) and (inside or name in names_of("")):
        return inside
    return str(inside) if isinstance(inside, int) and not isinstance(inside, bool) else stem_of(name)


def problem_of(name: str, reason: object = None) -> str:
    """The words for a file that cannot be read."""
    words = f"{printable(name)}: does not parse"
    return words if reason is None else f"{words}: {reason}"


def stat_document(folder: int, name: str) -> os.stat_result | None:
    """What the system knows of a file; None if it is gone or no regular file.

    Raises:
        UnreadableFile: a link that leads to where one may not look.
        OSError: the folder itself may not be looked into.
    """
    try:
        found = os.stat(name, dir_fd=folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.EINVAL):
            return None
        os.stat(name, dir_fd=folder, follow_symlinks=False)
        raise UnreadableFile(error.strerror) from error
    return found if stat.S_ISREG(found.st_mode) else None


def load_object(folder: int, name: str, size: int) -> dict[str, Any]:
    """The JSON object in a file of about `size` bytes.

    Raises:
        FileNotFoundError: it is gone.
        UnreadableFile: it may not be read, or holds something else.
    """
    try:
        data = _read(folder, name, size)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnreadableFile(error.strerror) from error
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        found = _parse_leniently(data, error)
    if not isinstance(found, dict):
        raise UnreadableFile("it holds no object")
    return found


def _read(folder: int, name: str, size: int) -> bytes:
    file = os.open(name, _READING, dir_fd=folder)
    try:
        data = os.read(file, size + 1)
        if len(data) > size:
            parts = [data]
            while more := os.read(file, _SOME):
                parts.append(more)
            data = b"".join(parts)
    finally:
        os.close(file)
    return data


def _parse_leniently(data: bytes, error: orjson.JSONDecodeError) -> Any:
    try:
        found = decode(data.decode("utf-8"), printable=False)
    except UnicodeDecodeError:
        raise UnreadableFile("it is no UTF-8 text") from error
    if found is BAD:
        raise UnreadableFile(error) from error
    return found


def read_document(folder: int, name: str) -> Document | None:
    """The run in a file; None if the file is gone or no run.

    Raises:
        OSError: the folder itself may not be looked into.
    """
    changed_at = None
    try:
        found = stat_document(folder, name)
        if found is None:
            return None
        changed_at = instant_of(found.st_mtime_ns)
        state = load_object(folder, name, found.st_size)
    except FileNotFoundError:
        return None
    except UnreadableFile as error:
        return Document(stem_of(name), None, problem_of(name, error), changed_at)
    return Document(run_id_of(state.get("run_id"), name), state) if is_state(state) else None


def size_of(folder: int, name: str) -> int:
    """The bytes of a file, 0 if it is gone."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False).st_size
    except FileNotFoundError:
        return 0


def is_free(folder: int, name: str) -> bool:
    """Whether nothing has this name."""
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return True
    return False


# --- writing


def encode_state(run_id: str, state: dict[str, Any]) -> bytes:
    """A state as the library writes it: keys sorted, ASCII.

    Raises:
        TypeError: it holds a value that JSON has no form for.
    """
    import json

    whole = {**state, "run_id": run_id}
    # What orjson refuses of JSON-ready data (lone surrogates, integers of more than 64 bits) json writes.
    with suppress(orjson.JSONEncodeError):
        whole = orjson.loads(orjson.dumps(whole, option=orjson.OPT_NON_STR_KEYS))
    return json.dumps(whole, sort_keys=True).encode("ascii")


def write_document(folder: int, name: str, data: bytes) -> None:
    """Put `data` in place of the file `name`, whole or not at all, with the permissions of the one before.

    When it returns, the file survives the death of the machine.

    Raises:
        OSError: it cannot be written; nothing has changed.
    """
    part = f".lens-{os.urandom(8).hex()}{LEFTOVER}"
    file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder)
    try:
        with os.fdopen(file, "wb") as writing:
            with suppress(OSError):  # nothing to go by, or a file system without permissions
                os.fchmod(file, stat.S_IMODE(os.stat(name, dir_fd=folder).st_mode))
            writing.write(data)
            writing.flush()
            os.fsync(file)
        os.replace(part, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(part, dir_fd=folder)
        raise
    _settle(folder)


def _settle(folder: int) -> None:
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems without it
            raise


def remove_document(folder: int, name: str) -> None:
    """Remove a file; one that is gone already is no error.

    Raises:
        OSError: it cannot be removed.
    """
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)
        _settle(folder)
