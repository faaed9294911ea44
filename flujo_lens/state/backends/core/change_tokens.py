"""Change tokens: whether anything in a store may have changed, without reading it."""

from __future__ import annotations

import os
import time
from collections.abc import Hashable
from typing import TYPE_CHECKING

from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.backends.core.port import TellsChanges

if TYPE_CHECKING:
    from hashlib import blake2b

_TICK, _COARSE = 100_000_000, 2_000_000_000
"""Nanoseconds within which two changes of a file can have the same time; also of file systems with whole seconds."""

_MISSING = (0, 0, 0)


class StoreChanges(StateBackend):
    """Asks the store for its change token, if it has one."""

    async def read_change_token(self) -> Hashable | None:
        store = getattr(self, "_store", None)
        return await store.change_token() if isinstance(store, TellsChanges) else None


def settled(modified_ns: int) -> int:
    """0 for a time of modification that a later change cannot have, too; else a number that is never the same.

    Args:
        modified_ns: When the newest file was modified, in nanoseconds since 1970.
    """
    window = _TICK if modified_ns % 1_000_000_000 else _COARSE
    return 0 if abs(time.time_ns() - modified_ns) > window else time.monotonic_ns()


def file_token(*paths: str | os.PathLike[str]) -> Hashable:
    """A token of a few files; the first has to exist.

    Raises:
        OSError: the first file cannot be looked at.
    """
    stamps = [_stamp(os.stat(paths[0]))]
    for path in paths[1:]:
        try:
            stamps.append(_stamp(os.stat(path)))
        except OSError:
            stamps.append(_MISSING)
    return (*stamps, settled(max(stamp[1] for stamp in stamps)))


def folder_token(*folders: int | None) -> Hashable:
    """A token of all files in some folders, by their descriptors: a digest of names, times and sizes.

    The times of the folders alone would not tell that a line was added to a file.
    """
    from hashlib import blake2b

    digest, newest = blake2b(digest_size=16), 0
    for folder in folders:
        newest = max(newest, _digest_files(folder, digest) if folder is not None else 0)
    return digest.digest(), settled(newest)


def _digest_files(folder: int, digest: blake2b) -> int:
    """Add the stamps of the files of a folder to a digest; return when it or one of them was last modified."""
    newest = os.fstat(folder).st_mtime_ns
    with os.scandir(folder) as listing:
        for file in listing:
            try:
                inode, modified, size = _stamp(file.stat(follow_symlinks=False))
            except FileNotFoundError:
                continue
            newest = max(newest, modified)
            digest.update(b"%s\0%d %d %d\n" % (os.fsencode(file.name), modified, size, inode))
    return newest


def _stamp(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_ino, found.st_mtime_ns, found.st_size
