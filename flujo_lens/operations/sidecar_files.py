"""Files beside a store: whose they are, and how they end. Only `OSError` comes out."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import suppress
from pathlib import Path

from flujo_lens.fs.locks import lock, unlock

__all__ = [
    "beside",
    "check_folder",
    "check_link",
    "last_line",
    "open_own",
    "settled_size",
    "user_name",
]

_BLOCK = 1 << 16


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


def settled_size(file: int, deadline: float) -> int:
    """The size at a moment at which nobody writes (or at the deadline)."""
    if lock(file, fcntl.LOCK_SH, deadline):
        size = os.fstat(file).st_size
        with suppress(OSError):
            unlock(file)
        return size
    return os.fstat(file).st_size
