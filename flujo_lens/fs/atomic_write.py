"""Putting a file into a folder whole or not at all, and clearing away what a crash left of that.

The functions take a descriptor of the folder and a name in it, never a path: no name leads out of the folder.

A file is written next to its place under the name ``.lens-<hex>.json.tmp``, synced, and renamed. From before its
first byte until it is renamed its writer holds a lock on it. So a process that gets that lock knows that the writer
is dead, and may remove the file at once.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from flujo_lens.fs.locks import try_lock

LEFTOVER = ".json.tmp"
"""How the names of files end that interrupted writes leave behind."""


_OURS = ".lens-"
_OLD = 3600.0
"""Seconds after which a file that cannot be locked, or that the library left, is abandoned."""

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL
_ATTEMPTS = 5


class TempFile:
    """A file that is written, and waits for its name; synced, unless it was asked for otherwise."""

    def __init__(self, folder: int, name: str, file: int, mode: int) -> None:
        self._folder, self._name, self._file = folder, name, file
        self.mode = mode

    def place(self, name: str, before: os.stat_result | None = None) -> os.stat_result:
        """Put it in place of whatever has this name (a link is replaced, not followed), with the permissions
        of the file `before`, which is looked at if it is not given; return what the system knows of it now.

        The name leads to the old file or to the new one at any moment. `settle` makes that last.

        Raises:
            OSError: it could not be renamed; nothing has changed.
        """
        _keep_mode(self, before or lstat(self._folder, name))
        os.replace(self._name, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        return os.fstat(self._file)

    def stat(self) -> os.stat_result:
        """What the system knows of it."""
        return os.fstat(self._file)

    def write(self, data: bytes) -> None:
        """Add to it.

        Raises:
            OSError: it cannot be written.
        """
        write_all(self._file, data)

    def set_time(self, modified: int) -> None:
        """Give it a modification time, in nanoseconds since 1970."""
        os.utime(self._file, ns=(modified, modified))

    def begin_sync(self) -> None:
        """Have the system begin to write it to the disk, where it supports that."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)

    def sync(self) -> None:
        """Make its content survive the death of the machine.

        Raises:
            OSError: the write fails.
        """
        os.fsync(self._file)

    def set_mode(self, mode: int) -> None:
        """Give it other permissions, where the file system has such."""
        if mode != self.mode:
            with suppress(OSError):
                os.fchmod(self._file, mode)
                self.mode = mode


_SYNCS = 8
"""Files that are synced at once."""


@contextmanager
def drafted(folder: int, data: bytes, like: str, *, sync: bool = True) -> Iterator[TempFile]:
    """A draft of a file with this content; removed at the end if it has not been placed.

    Args:
        like: The name that it will probably get: it is never more readable than that file is now.
        sync: Whether it is synced; else that is left to `sync_all`.

    Raises:
        OSError: it cannot be written; nothing is left of it.
    """
    name, file, mode = _make(folder)
    try:
        draft = TempFile(folder, name, file, mode)
        _keep_mode(draft, lstat(folder, like))
        write_all(file, data)
        if sync:
            draft.sync()
        yield draft
    except BaseException:
        with suppress(OSError):
            os.unlink(name, dir_fd=folder)
        raise
    finally:
        os.close(file)


def sync_all(drafts: Sequence[TempFile]) -> None:
    """Sync drafts that were made without: on several threads at once, they take a tenth of the time that they take one
    after the other, for a journal commits them together.

    Raises:
        OSError: the disk does not take one.
    """
    for draft in drafts:
        draft.begin_sync()
    if len(drafts) <= _SYNCS:
        for draft in drafts:
            draft.sync()
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(_SYNCS) as threads:
        for _ in threads.map(TempFile.sync, drafts):
            pass


def _make(folder: int) -> tuple[str, int, int]:
    """A new file with a lock on it, and its permissions.

    One that `sweep` took for a leftover before it was locked is given up.
    """
    for _ in range(_ATTEMPTS):
        name = f"{_OURS}{os.urandom(8).hex()}{LEFTOVER}"
        file = os.open(name, _NEW, 0o666, dir_fd=folder)
        if try_lock(file) != "busy" and (found := os.fstat(file)).st_nlink:
            return name, file, stat.S_IMODE(found.st_mode)
        os.close(file)
    raise OSError(errno.EAGAIN, "a new file is removed again and again")


def _keep_mode(draft: TempFile, before: os.stat_result | None) -> None:
    if before is not None and stat.S_ISREG(before.st_mode):
        draft.set_mode(stat.S_IMODE(before.st_mode))


def write_all(file: int, data: bytes) -> None:
    """Write `data` to an open file, all of it.

    Raises:
        OSError: no space, or a limit; a part may be written.
    """
    done = os.write(file, data)
    while done < len(data):
        done += os.write(file, memoryview(data)[done:])


def read_file(file: int) -> bytes:
    """All that is in an open file, from its beginning."""
    size = os.fstat(file).st_size
    parts, at = [], 0
    while part := os.pread(file, max(size - at, 0) + 1, at):
        parts.append(part)
        at += len(part)
    return b"".join(parts)


def settle(folder: int) -> None:
    """Make the names in a folder survive the death of the machine.

    Raises:
        OSError: the write fails.
    """
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems without it
            raise


def sync_folder(folder: Path) -> None:
    """Make the name of a new file survive the death of the machine, where the file system can be asked for it."""
    file = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            os.fsync(file)
    finally:
        os.close(file)


@contextmanager
def whole_file(
    path: Path, draft: Path, *, mode: int = 0o600, place: Callable[[Path, Path], None] = os.replace
) -> Iterator[int]:
    """A descriptor of a new file, which is synced and gets its name at the end of the block.

    Args:
        path: Its name.
        draft: The name, in the same folder, under which it is written; what has it is removed.
        mode: Its permissions, less the umask.
        place: Gives the draft its name.

    Raises:
        OSError: it cannot be written; nothing has changed, and nothing is left of it.
    """
    with suppress(FileNotFoundError):
        os.unlink(draft)
    file = os.open(draft, _NEW | os.O_CLOEXEC, mode)
    try:
        yield file
        os.fsync(file)
        place(draft, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(draft)
        raise
    finally:
        os.close(file)


def replace_file(path: Path, data: bytes, draft: Path) -> None:
    """Put a file of mode 0600 in place of the one at `path`, whole or not at all: see `whole_file`."""
    with whole_file(path, draft) as file:
        write_all(file, data)


def lstat(folder: int, name: str) -> os.stat_result | None:
    """What has this name in an open folder, without following it; None if it is free."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def sweep(folder: int) -> None:
    """Remove what interrupted saves left: ours if its writer is dead, anybody's if it is older than an hour.

    What cannot be removed stays; that is no error.
    """
    with suppress(OSError), os.scandir(folder) as listing:
        for entry in listing:
            if entry.name.endswith(LEFTOVER):
                with suppress(OSError):
                    _remove_if_dead(folder, entry.name)


def _remove_if_dead(folder: int, name: str) -> None:
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            return
        outcome = try_lock(file)
        if (outcome == "taken" and name.startswith(_OURS)) or (
            outcome != "busy" and time.time() - found.st_mtime > _OLD
        ):
            os.unlink(name, dir_fd=folder)
    finally:
        os.close(file)
