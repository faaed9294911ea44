"""The lock of a folder, for threads and processes alike; it leaves no file anywhere.

It is ``flock`` on a descriptor of the folder itself, so the system lets go of it when a process dies. Threads of
one process exclude each other besides by a mutex that belongs to the folder, whichever backend they use.

Where the file system knows no such lock on a folder (some network file systems), the mutex alone is left: a
state is still written whole or not at all, and the last save of a run counts. What is lost there is the
exclusion of other processes: two runs whose names collide, saved at the same instant, can then take one name,
and two processes that add to the history of one run at once can lose a line.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakValueDictionary

from flujo_lens.errors import BusyError
from flujo_lens.fs.locks import try_lock, unlock
from flujo_lens.state.backends.core.fork_hooks import begin_anew_in_children
from flujo_lens.state.backends.core.worker_pool import Stopped

_SHORTEST, _LONGEST = 0.001, 0.05
"""Seconds between two tries; held is the lock for less than the shortest."""

_MUTEX_SLICE = 0.05


class _Mutexes:
    """One mutex a folder, by its device and inode."""

    def __init__(self) -> None:
        self.begin()
        begin_anew_in_children(self)

    def begin(self) -> None:
        """Be as new: none is held."""
        self._all: WeakValueDictionary[tuple[int, int], threading.Lock] = WeakValueDictionary()
        self._making = threading.Lock()

    def of(self, folder: int) -> threading.Lock:
        """That of an open folder."""
        found = os.fstat(folder)
        with self._making:
            return self._all.setdefault((found.st_dev, found.st_ino), threading.Lock())


_mutexes = _Mutexes()


@contextmanager
def folder_lock(folder: int, path: Path, timeout: float, stop: threading.Event) -> Iterator[None]:
    """Hold the lock of an open folder.

    Args:
        folder: A descriptor of the folder that is used for nothing else: the lock belongs to it.
        path: The folder's name, for the error.
        timeout: Seconds to wait.
        stop: Set by a caller who does not want it any more.

    Raises:
        BusyError: another process held it all the time.
        Stopped: `stop` was set while waiting.
        OSError: the system has none left.
    """
    deadline = time.monotonic() + timeout
    mutex = _mutexes.of(folder)
    while not mutex.acquire(timeout=max(0.0, min(_MUTEX_SLICE, deadline - time.monotonic()))):
        _go_on(path, timeout, deadline, stop)
    try:
        locked = _take(folder, path, timeout, deadline, stop)
        try:
            yield
        finally:
            if locked:
                unlock(folder)
    finally:
        mutex.release()


def _take(folder: int, path: Path, timeout: float, deadline: float, stop: threading.Event) -> bool:
    """Whether there is a lock to let go of at the end."""
    pause = _SHORTEST
    while (outcome := try_lock(folder)) == "busy":
        _go_on(path, timeout, deadline, stop)
        stop.wait(min(random.uniform(0, pause), max(0.0, deadline - time.monotonic())))
        pause = min(2 * pause, _LONGEST)
    return outcome == "taken"


def _go_on(path: Path, timeout: float, deadline: float, stop: threading.Event) -> None:
    if stop.is_set():
        raise Stopped
    if time.monotonic() >= deadline:
        raise BusyError(
            f"another process has held the lock on {path} for {timeout:g} s",
            hint="try again later, or wait longer with --timeout",
            path=str(path),
        )
