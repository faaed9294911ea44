"""An audit log in a file: next to the store, or where the settings say.

An entry is on disk when `append` returns. A process that dies while writing leaves at most an incomplete last line;
the next entry starts on a new line, continues the chain over the incomplete one, and notes it (`after_torn`).
The length and the last hash are kept in a separate file (see `audit_head`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from flujo_lens.errors import BusyError, LensError, OperationFailedError, ReadOnlyStoreError, UnreachableStoreError
from flujo_lens.fs.atomic_write import sync_folder, write_all
from flujo_lens.fs.locks import lock
from flujo_lens.operations.audit_chain import FIRST, Line, parsed
from flujo_lens.operations.audit_head import Head, head_path, read_head, write_head
from flujo_lens.operations.sidecar_files import last_line, open_own, settled_size, sidecar_path

SUFFIX = ".lens-audit.ndjson"
LEAST_FREE = 64 << 10
"""Free bytes required on the disk before a change; an entry needs less, unless it has very many ids."""

_READ_ONLY = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_ELSEWHERE = "--audit-file FILE, or path under [audit] in lens.toml, sets another path"


class AuditFile:
    """The file at a path. It is opened for each call, and created by the first `append`, with mode 0600.

    Args:
        timeout: Seconds that `append` waits for another writer.
    """

    def __init__(self, path: Path, timeout: float = 10.0) -> None:
        self.path, self._timeout = path, timeout

    @property
    def shown(self) -> str:
        """The path."""
        return str(self.path)

    @property
    def end_place(self) -> str:
        """The name of the head file."""
        return head_path(self.path).name

    @staticmethod
    def sidecar_path(store_path: Path) -> Path:
        """The path of the log of a store: next to its file or folder, after resolving links."""
        return sidecar_path(store_path, SUFFIX)

    def exists(self) -> bool:
        """Whether there is a log."""
        return self.path.exists()

    # --- writing

    def check(self) -> None:
        """Check that an entry could be written. Creates and changes nothing.

        Raises:
            ReadOnlyStoreError: the file or its folder is not writable.
            OperationFailedError: the folder does not exist, the path is not a file, or the disk is full.
        """
        folder = self.path.parent
        try:
            if os.path.lexists(self.path):
                os.close(self._open(os.O_WRONLY))
            elif not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) if folder.is_dir() else _no_folder()
            room = os.statvfs(folder)
        except OSError as error:
            raise self._not_written(error) from error
        if room.f_blocks and room.f_bavail * room.f_frsize < LEAST_FREE:
            raise self._not_written(OSError(errno.ENOSPC, "the disk is full"))

    def append(self, make: Callable[[str, Mapping[str, Any]], bytes]) -> None:
        """Append a line, as of `AuditJournal.append`, and sync it to disk.

        A failed write is rolled back. If the process dies, the line is complete, missing, or an incomplete last line.

        Raises:
            BusyError: another process held the log until the timeout.
            ReadOnlyStoreError: the file or its folder is not writable.
            OperationFailedError: it could not be written for another reason.
        """
        try:
            with self._locked() as file:
                self._add(file, make)
        except OSError as failure:
            raise self._not_written(failure) from failure

    def _add(self, file: int, make: Callable[[str, Mapping[str, Any]], bytes]) -> None:
        """Append a line to the locked `file`; if that fails, roll back."""
        size = os.fstat(file).st_size
        last, ended = last_line(file, size)
        torn: dict[str, Any] = {} if ended or parsed(last) else {"after_torn": True}
        previous = sha256(last).hexdigest() if size else FIRST
        kept = read_head(self.path)
        line = make(previous, torn | _since(kept, file))
        try:
            write_all(file, line if ended else b"\n" + line)
            os.fsync(file)
        except OSError:
            with suppress(OSError):
                os.ftruncate(file, size)
            raise
        write_head(self.path, Head.of(file))

    def _open(self, flags: int) -> int:
        """The log's descriptor.

        Raises:
            OSError: it cannot be opened, or is not a regular file.
        """
        # without O_NONBLOCK, opening a FIFO would block
        file = open_own(self.path, flags | os.O_APPEND | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise OSError(errno.EINVAL, "it is not a regular file")
        return file

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """Open the log for appending, create it if needed, and lock it."""
        deadline = time.monotonic() + self._timeout
        while True:
            new = not self.path.exists()
            file = self._open(os.O_RDWR | os.O_CREAT)
            try:
                if not lock(file, fcntl.LOCK_EX, deadline):
                    raise self._busy()
                if not self._is_current(file):
                    continue  # it was moved away while waiting, for example by log rotation
                if new:
                    sync_folder(self.path.parent)
                yield file
                return
            finally:
                os.close(file)

    def _is_current(self, file: int) -> bool:
        try:
            return os.path.samestat(os.fstat(file), os.stat(self.path))
        except FileNotFoundError:
            return False

    def _busy(self) -> BusyError:
        return BusyError(
            f"another process has locked the audit log {self.path} for {self._timeout:g} s",
            hint="try again later, or wait longer with --timeout",
            path=str(self.path),
        )

    def _not_written(self, error: OSError) -> LensError:
        kind = ReadOnlyStoreError if error.errno in _READ_ONLY else OperationFailedError
        message = f"cannot write the audit log {self.path}: {error.strerror or error}; nothing was changed"
        return kind(message, hint=_ELSEWHERE, path=str(self.path))

    # --- reading

    def end(self) -> tuple[int, str] | None:
        """The length in bytes and the last hash, from the head file."""
        kept = read_head(self.path)
        return (kept.length, kept.digest) if kept else None

    def lines(self) -> Iterator[Line]:
        """All current lines, except one that is being written.

        Raises:
            UnreachableStoreError: there is a log, and it cannot be read.
        """
        try:
            file = self._open(os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise self._not_read(error) from error
        with open(file, "rb") as stream:
            try:
                size = settled_size(file, time.monotonic() + self._timeout)
                end = 0
                for number, line in enumerate(stream, 1):
                    data = line[: size - end]
                    if not data:
                        return
                    end += len(data)
                    yield Line(number, data.removesuffix(b"\n"), data.endswith(b"\n"), end)
            except OSError as error:
                raise self._not_read(error) from error

    def _not_read(self, error: OSError) -> UnreachableStoreError:
        message = f"cannot read the audit log {self.path}: {error.strerror or error}"
        return UnreachableStoreError(
            message, hint="only the user that created it can read it (mode 0600)", path=str(self.path)
        )


def _since(kept: Head | None, file: int) -> dict[str, Any]:
    """The fields of an entry for a log that was truncated or moved away before it."""
    if kept is None or kept.is_kept_by(file):
        return {}
    return {"continues": kept.digest} if kept.is_moved(file) else {"after_cut": True}


def _no_folder() -> OSError:
    return FileNotFoundError(errno.ENOENT, "no such folder")
