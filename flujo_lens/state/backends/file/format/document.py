"""One JSON file of a store: its name, what is in it, how it is written and removed.

The functions take a descriptor of the folder and a name in it, never a path: no name leads out of the folder.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from flujo_lens.fs.atomic_write import LEFTOVER, lstat
from flujo_lens.state.backends.core.port import RunRow
from flujo_lens.state.interpret import BAD, decode
from flujo_lens.state.timestamps import EPOCH

if TYPE_CHECKING:
    from flujo_lens.serialization.codec import StateCodec

__all__ = [
    "ENDING",
    "HISTORY",
    "INODE",
    "LEFTOVER",
    "Document",
    "UnreadableFile",
    "encode_state",
    "history_folder",
    "instant_of",
    "is_blob",
    "is_state",
    "load_object",
    "lstat",
    "names_of",
    "parse_object",
    "printable",
    "problem_of",
    "read_bytes",
    "read_document",
    "read_row",
    "run_id_of",
    "size_of",
    "stamp_of",
    "stat_document",
]

ENDING = ".json"
HISTORY = ".lens-history"
"""The sub-folder of histories."""

INODE = 2**63 - 1
"""The part of an inode's number that a file is known by: what SQLite holds."""

_BLOB = "_granular_blobs:"
_LONGEST = 255
"""Bytes of a file's name."""

_READING = os.O_RDONLY | os.O_NONBLOCK
_SOME = 64 * 1024


class UnreadableFile(ValueError):  # noqa: N818 - it never leaves this driver
    """A file that is there and holds no JSON object that can be read; says why."""


class Document(NamedTuple):
    """A file that is a run. `state` is None if it does not parse; `problem` says why."""

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


def _stem_of(name: str) -> str:
    """The run id that a file's name stands for."""
    return printable(name.removesuffix(ENDING))


def _plain_name(run_id: str, ending: str = ENDING) -> str | None:
    """``<run_id>.json``, or None if that is not the name of a file or not that of a run."""
    if run_id in ("", ".", "..") or "/" in run_id or "\0" in run_id or is_blob(run_id):
        return None
    if not _is_text(run_id):
        return None
    name = (run_id + ending).encode()
    return os.fsdecode(name) if len(name) <= _LONGEST else None


def names_of(run_id: str, ending: str = ENDING) -> Iterator[str]:
    """The names that a run's file can have, the first one first: plain, or readable in part with a hash.

    The others are for a name that is taken by another run. On the disk all are UTF-8, whatever the locale's encoding,
    so that processes in different locales share a folder.
    """
    plain = _plain_name(run_id, ending)
    if plain is not None:
        yield plain
    for attempt in range(3):
        yield _encoded_name(run_id, attempt) + ending


@lru_cache(maxsize=1024)
def _encoded_name(run_id: str, attempt: int) -> str:
    from hashlib import blake2b
    from urllib.parse import quote

    raw = run_id.encode("utf-8", "surrogatepass")
    digest = blake2b(raw + bytes(attempt), digest_size=8).hexdigest()
    return f"{quote(raw, safe=' ')[:200]}~{digest}"


# --- what is in a file


def encode_state(codec: StateCodec, run_id: str, state: dict[str, Any], *, is_stored: bool = False) -> bytes:
    """A state as a file holds it: one object with its keys sorted (but for an id that is no text, which comes
    first), in ASCII, with the run's id as it is.

    `is_stored` is as of `StateCodec.document`.

    Raises:
        LensError: a layer cannot be applied.
    """
    if run_id.isascii() or _is_text(run_id):
        return codec.document(run_id, {**state, "run_id": run_id}, is_stored=is_stored)
    # A lone surrogate is not text, but an id in an old store can have one: JSON has an escape for it.
    rest = codec.document(run_id, {key: value for key, value in state.items() if key != "run_id"}, is_stored=is_stored)
    beginning = b'{"run_id":' + json.dumps(run_id).encode("ascii")
    return beginning + (b"}" if rest == b"{}" else b"," + rest[1:])


def _is_text(run_id: str) -> bool:
    try:
        run_id.encode()
    except UnicodeEncodeError:
        return False
    return True


# --- reading


def instant_of(nanoseconds: int) -> datetime:
    """The instant of a file's time."""
    return EPOCH + timedelta(microseconds=_bounded(nanoseconds) // 1000)


def is_state(found: dict[str, Any]) -> bool:
    """Whether a JSON object is a saved state."""
    if "run_id" in found:
        return True
    return "status" in found and ("pipeline_context" in found or "current_step_index" in found)


def run_id_of(inside: Any, name: str) -> str:
    """The run id that counts: that inside the state, else the one that the file's name stands for."""
    if isinstance(inside, str) and (inside or name in names_of("")):
        return inside
    return str(inside) if isinstance(inside, int) and not isinstance(inside, bool) else _stem_of(name)


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


def load_object(folder: int, name: str, size: int, *, exact: bool = False) -> dict[str, Any]:
    """The JSON object in a file of about `size` bytes.

    Args:
        name: The file.
        size: About how large it is.
        exact: Whether integers of more than 64 bits keep all their digits: for what may be written back.

    Raises:
        FileNotFoundError: it is gone.
        UnreadableFile: it may not be read, or holds something else.
    """
    return parse_object(read_bytes(folder, name, size), exact=exact)


def read_bytes(folder: int, name: str, size: int) -> bytes:
    """What is in a file of about `size` bytes.

    Raises:
        FileNotFoundError: it is gone.
        UnreadableFile: it may not be read.
    """
    try:
        return _read(folder, name, size).removeprefix(BOM_UTF8)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnreadableFile(error.strerror) from error


def parse_object(data: bytes, *, exact: bool = False) -> dict[str, Any]:
    """The JSON object in some bytes; `exact` is as of `load_object`.

    Raises:
        UnreadableFile: they hold something else.
    """
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        found = _parse_leniently(data, error)
    if exact:
        found = _with_all_digits(data, found)
    if not isinstance(found, dict):
        raise UnreadableFile("it is not a JSON object")
    return found


def _with_all_digits(data: bytes, found: Any) -> Any:
    from flujo_lens.serialization.loading import may_have_long_numbers, safe_loads

    return safe_loads(data) if may_have_long_numbers(data) else found


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
    """What old stores hold and orjson refuses: NaN, infinities, lone surrogates, any depth."""
    try:
        found = decode(data.decode("utf-8"), printable=False)
    except UnicodeDecodeError:
        raise UnreadableFile("it is not UTF-8 text") from error
    return _parse_deeply(data, error) if found is BAD else found


def _parse_deeply(data: bytes, error: orjson.JSONDecodeError) -> Any:
    from flujo_lens.serialization.loading import safe_loads

    try:
        return safe_loads(data)
    except ValueError:
        raise UnreadableFile(error) from error


def read_document(folder: int, name: str, *, exact: bool = False) -> Document | None:
    """The run in a file; None if the file is gone or no run. `exact` is as of `load_object`.

    Raises:
        OSError: the folder itself may not be looked into.
    """
    changed_at = None
    try:
        found = stat_document(folder, name)
        if found is None:
            return None
        changed_at = instant_of(found.st_mtime_ns)
        state = load_object(folder, name, found.st_size, exact=exact)
    except FileNotFoundError:
        return None
    except UnreadableFile as error:
        return Document(_stem_of(name), None, problem_of(name, error), changed_at)
    return Document(run_id_of(state.get("run_id"), name), state) if is_state(state) else None


def read_row(folder: int, name: str, wanted: str, is_known: Callable[[os.stat_result], bool]) -> RunRow | None:
    """The state of the run `wanted` in a file, as it stands there; None if the file is gone, or not the run's.

    Args:
        name: The file.
        wanted: The run.
        is_known: Whether a file of which the system says this is known to be a state of the run.

    Raises:
        OSError: the folder itself may not be looked into.
    """
    changed_at, data = None, b""
    try:
        found = stat_document(folder, name)
        if found is None:
            return None
        changed_at = instant_of(found.st_mtime_ns)
        data = read_bytes(folder, name, found.st_size)
        if is_known(found):
            return RunRow(wanted, data)
        state = parse_object(data)
    except FileNotFoundError:
        return None
    except UnreadableFile as error:
        problem = problem_of(name, error)
        return RunRow(wanted, data, None, (problem,), True, changed_at) if _stem_of(name) == wanted else None
    return RunRow(wanted, data) if is_state(state) and run_id_of(state.get("run_id"), name) == wanted else None


def size_of(folder: int, name: str) -> int:
    """The bytes of a file, 0 if it is gone."""
    found = lstat(folder, name)
    return found.st_size if found else 0


@contextmanager
def history_folder(folder: int) -> Iterator[int | None]:
    """A descriptor of the sub-folder of histories; None if there is none. A link is not followed.

    Raises:
        OSError: it may not be read.
    """
    found = _open_history(folder)
    try:
        yield found
    finally:
        if found is not None:
            os.close(found)


def _open_history(folder: int) -> int | None:
    try:
        return os.open(HISTORY, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
    except (FileNotFoundError, NotADirectoryError):
        return None


def stamp_of(found: os.stat_result) -> tuple[int, int, int, int]:
    """What a file is known by: its modification time, change time, size and inode, each of at most 64 bits."""
    return _bounded(found.st_mtime_ns), _bounded(found.st_ctime_ns), found.st_size, found.st_ino & INODE


def _bounded(nanoseconds: int) -> int:
    return max(-INODE, min(nanoseconds, INODE))  # from 1677 to 2262
