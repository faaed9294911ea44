"""The lock of an open file or folder, `fcntl.flock`: the system lets go of it when the process that holds it dies."""

from __future__ import annotations

import errno
import fcntl
import time
from typing import Literal

Lock = Literal["taken", "busy", "unsupported"]
"""What became of a lock: it is held, another process has it, or the file system knows none."""

_LONGEST_PAUSE = 0.05
_NO_LOCKS = frozenset({errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF, errno.ENOLCK, errno.EINVAL, errno.ENOSYS})
"""What file systems say that have no locks, or none on a folder."""


def try_lock(file: int, kind: int = fcntl.LOCK_EX) -> Lock:
    """Take the lock now (``LOCK_SH`` or ``LOCK_EX``), or say why not. It lasts until the descriptor is closed."""
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


def unlock(file: int) -> None:
    """Let go of the lock."""
    fcntl.flock(file, fcntl.LOCK_UN)
