"""Which other processes have a database file open, as far as this system tells."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from flujo_lens.state.backends.sqlite.engine.read_connection import identity


def openers(path: Path) -> set[int] | None:
    """The other processes that have the file open; None where the system does not say (all but Linux).

    Those of other users are seen by root alone.
    """
    file = identity(path)
    try:
        pids = {int(name) for name in os.listdir("/proc") if name.isdigit()} - {os.getpid()}
    except OSError:
        return None
    return {pid for pid in pids if file in _open_files(pid)} if pids else None


def _open_files(pid: int) -> Iterator[tuple[int, int] | None]:
    folder = f"/proc/{pid}/fd"
    with suppress(OSError):  # the process is another user's, or has just ended
        for name in os.listdir(folder):
            yield identity(f"{folder}/{name}")


def lock_holders(path: Path) -> set[int] | None:
    """The other processes that hold a POSIX lock on the file or its ``-shm``; None where the system does not say."""
    try:
        with open("/proc/locks", encoding="ascii") as file:
            lines = [line.replace("-> ", "").split() for line in file]
    except OSError:
        return None
    # By inode alone: a layered file system tells of another device than the locks do.
    inodes = {os.stat(name).st_ino for name in (path, f"{path}-shm") if os.path.exists(name)}
    found = {int(line[4]) for line in lines if line[1] == "POSIX" and int(line[5].rpartition(":")[2]) in inodes}
    return found - {os.getpid()}
