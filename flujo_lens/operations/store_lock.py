"""The lock of a store, which allows one clean-up at a time: a lock file that names its holder.

The lock is the file's `fcntl.flock`, so it ends with its process; a leftover file does not block. The content of the
file (process, host, start, command) is for messages.

On file systems without such locks (some network ones), the file itself is the lock: it is valid while the process it
names may be alive. Two processes that start at the same instant may both succeed there, and a file of another machine
stays valid until it is removed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import orjson

from flujo_lens.errors import BusyError, LensError, OperationFailedError, ReadOnlyStoreError
from flujo_lens.fs.atomic_write import write_all
from flujo_lens.fs.locks import try_lock
from flujo_lens.operations.audit_chain import plain_text, written_time
from flujo_lens.operations.sidecar_files import sidecar_path
from flujo_lens.state.claims import Holder
from flujo_lens.state.timestamps import parse_instant

SUFFIX = ".lens-lock"
_LEAST_WAIT = 0.2
"""Seconds to retry, since `holder_of` takes the lock for a moment."""

_PAUSE = 0.01
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_READ_ONLY = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


class LockHolder(NamedTuple):
    """The holder of the lock of a store, as far as recorded in its file."""

    process: Holder
    since: datetime | None
    command: tuple[str, ...]
    actor: str

    def __str__(self) -> str:
        """``lens prune (pid 4711 on ops1, ana, since 2026-11-21T03:11:08Z)``."""
        since = f", since {self.since:%Y-%m-%dT%H:%M:%SZ}" if self.since else ""
        return f"{' '.join(self.command[:2]) or 'a command'} ({self.process}, {self.actor}{since})"


class StoreLock:
    """Holds the lock of a store; a context manager. Blocks for up to `timeout`.

    Args:
        path: The lock file; it is created, and removed at the end.
        timeout: Seconds to wait for another holder.

    Raises (from ``with``):
        BusyError: another command, named in the message, holds it. Nothing was changed.
        ReadOnlyStoreError, OperationFailedError: the file cannot be created.
    """

    def __init__(self, path: Path, *, command: Sequence[str], actor: str, now: datetime, timeout: float = 0.0) -> None:
        self.path = path
        self._document = {
            "pid": os.getpid(),
            **{key: value for key, value in Holder.current()._asdict().items() if key != "pid"},
            "since": written_time(now),
            "command": [plain_text(word) for word in command],
            "actor": plain_text(actor),
        }
        self._timeout = max(timeout, _LEAST_WAIT)
        self._file = -1

    @staticmethod
    def sidecar_path(store_path: Path) -> Path:
        """The path of the lock of a store: next to its file or folder, after resolving links."""
        return sidecar_path(store_path, SUFFIX)

    def check(self) -> None:
        """Check that no other command holds the lock. Creates nothing.

        Raises:
            BusyError: another command holds it.
        """
        if holder_of(self.path) is not None:
            raise self._busy()

    def __enter__(self) -> Self:
        deadline = time.monotonic() + self._timeout
        try:
            while not self._take():
                if time.monotonic() >= deadline:
                    raise self._busy()
                time.sleep(_PAUSE)
        except OSError as error:
            raise self._not_made(error) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        file, self._file = self._file, -1
        # removed while held: a waiting process sees that its file is no longer the one at the path
        if _is_current(file, self.path):
            with suppress(OSError):
                os.unlink(self.path)
        os.close(file)

    def _take(self) -> bool:
        """Take the lock; return whether it was taken. `_file` is then open and names this process."""
        file = self._opened()
        if file is None:
            return False
        try:
            outcome = try_lock(file, fcntl.LOCK_EX)
            if outcome == "busy" or not _is_current(file, self.path):
                return False
            if outcome == "unsupported" and _names_another(file):
                return False
            if not _may_write(file):
                os.unlink(self.path)  # a leftover of another process
                return False
            self._write_holder(file, needed=outcome == "unsupported")
            self._file, file = file, -1
        finally:
            if file >= 0:
                os.close(file)
        return True

    def _write_holder(self, file: int, *, needed: bool) -> None:
        """Write the holder; on a full disk it is left out, unless the file itself is the lock."""
        os.ftruncate(file, 0)
        os.lseek(file, 0, os.SEEK_SET)
        try:
            write_all(file, orjson.dumps(self._document) + b"\n")
        except OSError as error:
            if needed or error.errno not in _FULL:
                raise
            os.ftruncate(file, 0)

    def _opened(self) -> int | None:
        """Open the lock file; None if it was just removed."""
        flags = os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            file = os.open(self.path, os.O_RDWR | flags, 0o644)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EMLINK):
                raise OSError(error.errno, "it is a symbolic link") from None
            if not isinstance(error, PermissionError):
                raise
            # a leftover file of another user can be locked nevertheless, and names its holder
            try:
                file = os.open(self.path, os.O_RDONLY | flags & ~os.O_CREAT)
            except FileNotFoundError:
                if not os.access(self.path.parent, os.W_OK | os.X_OK):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from None
                return None
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise OSError(errno.EINVAL, "it is not a regular file")
        return file

    def _busy(self) -> BusyError:
        holder = _said(self.path)
        who = str(holder) if holder else "another command"
        return BusyError(
            f"{who} is changing this store; nothing was changed",
            hint=f"try again later, or wait with --timeout SECONDS; the lock is {self.path}",
            path=str(self.path),
            pid=holder.process.pid if holder else None,
            host=holder.process.host if holder else None,
            since=written_time(holder.since) if holder and holder.since else None,
        )

    def _not_made(self, error: OSError) -> LensError:
        kind = ReadOnlyStoreError if error.errno in _READ_ONLY else OperationFailedError
        message = f"cannot create the lock {self.path}: {error.strerror or error}; nothing was changed"
        hint = "changing a store needs a writable folder; lens prune --lock-file FILE uses another path for the lock"
        return kind(message, hint=hint, path=str(self.path))


def holder_of(path: Path) -> LockHolder | None:
    """The current holder of the lock at `path`; None if it is free. Creates and changes nothing.

    A holder whose file cannot be read is unknown.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        outcome = try_lock(file, fcntl.LOCK_SH)
        free = outcome == "taken" or (outcome == "unsupported" and not _names_another(file))
        return None if free else _parsed(file) or LockHolder(Holder("an unknown host", "", 0, ""), None, (), "unknown")
    finally:
        os.close(file)


def _names_another(file: int) -> bool:
    """Whether the file names another process that may be alive."""
    said = _parsed(file)
    return said is not None and said.process != Holder.current() and not said.process.is_gone()


def _may_write(file: int) -> bool:
    return fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR


def _is_current(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.lstat(path))
    except FileNotFoundError:
        return False


def _said(path: Path) -> LockHolder | None:
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        return _parsed(file)
    finally:
        os.close(file)


def _parsed(file: int) -> LockHolder | None:
    """The holder in a lock file; None if it is empty or malformed."""
    try:
        document = orjson.loads(os.pread(file, 1 << 20, 0))
        process = Holder(
            str(document["host"]), str(document["boot_id"]), int(document["pid"]), str(document["started"])
        )
        return LockHolder(
            process, parse_instant(document["since"]), tuple(map(str, document["command"])), str(document["actor"])
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None
