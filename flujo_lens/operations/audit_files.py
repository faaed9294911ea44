"""The file below the audit log: its lock, its end, and writing to it. Only `OSError` comes out."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

__all__ = ["last_line", "lock", "settled_size", "sync_folder", "write_all"]

_BLOCK = 1 << 16
_LONGEST_PAUSE = 0.05
_NO_LOCKS = frozenset({errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL, errno.ENOSYS})
"""What file systems say that have no locks."""


def last_line(file: int, size: int) -> tuple[bytes, bool]:
    """The last line without its newline, and whether it has one (a file without lines ends well)."""
    if not size:
        return b"", True
    ended = os.pread(file, 1, size - 1) == b"\n"
    start = size - 1 if ended else size
    blocks: list[bytes] = []
    while start:
        begin = max(0, start - _BLOCK)
        block = os.pread(file, start - begin, begin)
        at = block.rfind(b"\n")
        blocks.append(block[at + 1 :])
        if at >= 0:
            break
        start = begin
    return b"".join(reversed(blocks)), ended


def write_all(file: int, data: bytes) -> None:
    """Write all of `data`, however many calls that takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def lock(file: int, kind: int, deadline: float) -> bool:
    """Whether the lock was taken before the deadline; also where the file system knows none."""
    pause = 0.001
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return True
            raise
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def settled_size(file: int, deadline: float) -> int:
    """The size at a moment at which nobody writes (or at the deadline)."""
    if lock(file, fcntl.LOCK_SH, deadline):
        size = os.fstat(file).st_size
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)
        return size
    return os.fstat(file).st_size


def sync_folder(folder: Path) -> None:
    """A new file's name is on the disk when its folder is; some file systems cannot be asked."""
    file = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            os.fsync(file)
    finally:
        os.close(file)
