"""Files next to a store: locking, reading and writing. Raises only `OSError`."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import suppress
from pathlib import Path

from flujo_lens.fs.locks import lock, unlock

_BLOCK = 1 << 16


def last_line(file: int, size: int) -> tuple[bytes, bool]:
    """The last line without its newline, and whether it had one (true for an empty file)."""
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
    """Open a file; a symbolic link is followed only if this user, or root, owns it.

    Otherwise, a user with write access to the folder of a store could make lens write to any file of its user.

    Raises:
        OSError: as for `os.open`; ELOOP for a link of another user.
    """
    try:
        return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EMLINK):
            raise
    check_link(path)
    return os.open(path, flags | os.O_CLOEXEC, mode)


def check_link(path: Path) -> None:
    """Check that a path is not a symbolic link of another user.

    Raises:
        OSError: it is (ELOOP).
    """
    with suppress(FileNotFoundError):
        found = os.lstat(path)
        if stat.S_ISLNK(found.st_mode) and found.st_uid not in (os.geteuid(), 0):
            raise OSError(errno.ELOOP, f"it is a symbolic link owned by {user_name(found.st_uid)}")


def check_folder(path: Path) -> None:
    """Check that no other user can write to a folder of lens.

    Raises:
        OSError: it is writable by all users (EPERM), a symbolic link of another user (ELOOP), or not a folder.
    """
    check_link(path)
    found = os.stat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise OSError(errno.ENOTDIR, "it is not a folder")
    if found.st_mode & stat.S_IWOTH:
        raise OSError(errno.EPERM, "it is writable by all users")


def user_name(uid: int) -> str:
    """The name of a user, or ``user 1001`` without a name."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def sidecar_path(store_path: Path, suffix: str) -> Path:
    """The path of a file next to a store: next to its file or folder, after resolving links."""
    return Path(f"{os.path.realpath(store_path)}{suffix}")


def settled_size(file: int, deadline: float) -> int:
    """The size of a file while no one is writing to it, or at the deadline."""
    if lock(file, fcntl.LOCK_SH, deadline):
        size = os.fstat(file).st_size
        with suppress(OSError):
            unlock(file)
        return size
    return os.fstat(file).st_size
