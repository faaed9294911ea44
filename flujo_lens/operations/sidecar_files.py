"""Files beside a store: their locks, their ends, and writing to them. Only `OSError` comes out."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import Literal

__all__ = [
    "Lock",
    "beside",
    "check_folder",
    "check_link",
    "last_line",
    "lock",
    "open_own",
    "settled_size",
    "sync_folder",
    "try_lock",
    "user_name",
    "write_all",
]

Lock = Literal["taken", "busy", "unsupported"]
"""What became of a lock: it is held, somebody else has it, or the file system knows none."""

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


def open_own(path: Path, flags: int, mode: int = 0o600) -> int:
    """Open a file that may be a symbolic link only if this user, or root, made the link.

    Whoever may write in the folder of a store could else have lens write to any file that its user may change.

    Raises:
        OSError: as `os.open`; ELOOP where another user made the link.
    """
    try:
        return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EMLINK):
            raise
    check_link(path)
    return os.open(path, flags | os.O_CLOEXEC, mode)


def check_link(path: Path) -> None:
    """See that a path is no symbolic link of another user.

    Raises:
        OSError: it is (ELOOP).
    """
    with suppress(FileNotFoundError):
        found = os.lstat(path)
        if stat.S_ISLNK(found.st_mode) and found.st_uid not in (os.geteuid(), 0):
            raise OSError(errno.ELOOP, f"it is a symbolic link, made by {user_name(found.st_uid)}")


def check_folder(path: Path) -> None:
    """See that nobody else could have put something into a folder that only lens is to write in.

    Raises:
        OSError: every user may write in it (EPERM), it is a symbolic link of another user (ELOOP), or no folder.
    """
    check_link(path)
    found = os.stat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise OSError(errno.ENOTDIR, "it is no folder")
    if found.st_mode & stat.S_IWOTH:
        raise OSError(errno.EPERM, "every user may write in it")


def user_name(uid: int) -> str:
    """The name of a user; ``user 1001`` where there is none."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def beside(store_path: Path, suffix: str) -> Path:
    """The place of a file for a store that is a file or a folder: beside it, also where a link leads to it."""
    return Path(f"{os.path.realpath(store_path)}{suffix}")


def try_lock(file: int, kind: int) -> Lock:
    """Take the `fcntl.flock` of a file now (``LOCK_SH`` or ``LOCK_EX``), or say why not."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return "busy"
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return "unsupported"
        raise
    return "taken"


def lock(file: int, kind: int, deadline: float) -> bool:
    """Whether the lock was taken before the deadline; also where the file system knows none."""
    pause = 0.001
    while try_lock(file, kind) == "busy":
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
    return True


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
