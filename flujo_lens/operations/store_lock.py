"""One clean-up of a store at a time: a lock file beside it, which says who holds it.

The lock is the file's `fcntl.flock`, so it goes with the process that holds it, however that ends; a file that is
left over locks nobody out. What the file says (process, host, start, command) is for people.

Where the file system has no such locks (some network ones), the file itself is the lock: it counts as long as the
process that it names may live. Of two that begin in the same instant both may win there; and a file that names
another machine counts until somebody removes it.
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
from flujo_lens.operations.audit_format import plain_text, written_time
from flujo_lens.operations.sidecar_files import beside
from flujo_lens.state.claims import Holder
from flujo_lens.state.timestamps import parse_instant

__all__ = ["LockHolder", "StoreLock", "holder_of"]

SUFFIX = ".lens-lock"
_LEAST_WAIT = 0.2
"""Seconds; `holder_of` takes the lock for a moment, and should not be mistaken for a clean-up."""

_PAUSE = 0.01
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_READ_ONLY = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


class LockHolder(NamedTuple):
    """Who holds the lock of a store: as far as its file says."""

    process: Holder
    since: datetime | None
    command: tuple[str, ...]
    actor: str

    def __str__(self) -> str:
        """``lens prune (pid 4711 on ops1, ana, since 2026-11-21T03:11:08Z)``."""
        since = f", since {self.since:%Y-%m-%dT%H:%M:%SZ}" if self.since else ""
        return f"{' '.join(self.command[:2]) or 'a command'} ({self.process}, {self.actor}{since})"


class StoreLock:
    """Holds the lock of a store from ``with`` to its end. Blocks for `timeout` at most.

    Args:
        path: The lock file; it is made, and removed at the end.
        command: The words that were typed, without secrets.
        actor: Who typed them.
        now: The present, in UTC.
        timeout: Seconds to wait for another one.

    Raises (from ``with``):
        BusyError: another command holds it; it is named. Nothing was changed.
        ReadOnlyStoreError, OperationFailedError: the file cannot be made.
    """

    def __init__(self, path: Path, *, command: Sequence[str], actor: str, now: datetime, timeout: float = 0.0) -> None:
        self.path = path
        self._told = {
            "pid": os.getpid(),
            **{key: value for key, value in Holder.current()._asdict().items() if key != "pid"},
            "since": written_time(now),
            "command": [plain_text(word) for word in command],
            "actor": plain_text(actor),
        }
        self._timeout = max(timeout, _LEAST_WAIT)
        self._file = -1

    @staticmethod
    def path_beside(store_path: Path) -> Path:
        """The lock's place for a store that is a file or a folder: beside it, also where a link leads to it."""
        return beside(store_path, SUFFIX)

    def check(self) -> None:
        """Find out whether another command holds it now. Nothing is made.

        Raises:
            BusyError: as ``with``.
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
        # Removed while it is held: whoever waits for it sees that its file is not the one at the path any more.
        if _is_current(file, self.path):
            with suppress(OSError):
                os.unlink(self.path)
        os.close(file)

    def _take(self) -> bool:
        """Whether the lock was taken; `_file` is open then, and says who has it."""
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
                os.unlink(self.path)  # somebody else's, and left over
                return False
            self._write_holder(file, needed=outcome == "unsupported")
            self._file, file = file, -1
        finally:
            if file >= 0:
                os.close(file)
        return True

    def _write_holder(self, file: int, *, needed: bool) -> None:
        """Write who has it; on a full disk nobody is named, unless what is written is the lock itself."""
        os.ftruncate(file, 0)
        os.lseek(file, 0, os.SEEK_SET)
        try:
            write_all(file, orjson.dumps(self._told) + b"\n")
        except OSError as error:
            if needed or error.errno not in _FULL:
                raise
            os.ftruncate(file, 0)

    def _opened(self) -> int | None:
        """The lock file; None if it went away just now."""
        flags = os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            file = os.open(self.path, os.O_RDWR | flags, 0o644)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EMLINK):
                raise OSError(error.errno, "it is a symbolic link") from None
            if not isinstance(error, PermissionError):
                raise
            # One that another user left can be locked all the same, and tells who holds it.
            try:
                file = os.open(self.path, os.O_RDONLY | flags & ~os.O_CREAT)
            except FileNotFoundError:
                if not os.access(self.path.parent, os.W_OK | os.X_OK):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from None
                return None
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise OSError(errno.EINVAL, "it is no plain file")
        return file

    def _busy(self) -> BusyError:
        holder = _said(self.path)
        who = str(holder) if holder else "another command"
        return BusyError(
            f"{who} works on this store; nothing was changed",
            hint=f"try again when it is done, or wait for it with --timeout SECONDS; its lock is {self.path}",
            path=str(self.path),
            pid=holder.process.pid if holder else None,
            host=holder.process.host if holder else None,
            since=written_time(holder.since) if holder and holder.since else None,
        )

    def _not_made(self, error: OSError) -> LensError:
        kind = ReadOnlyStoreError if error.errno in _READ_ONLY else OperationFailedError
        message = f"cannot make the lock {self.path}: {error.strerror or error}; nothing was changed"
        hint = (
            "the folder of a store has to be writable to change the store; lens prune --lock-file FILE locks elsewhere"
        )
        return kind(message, hint=hint, path=str(self.path))


def holder_of(path: Path) -> LockHolder | None:
    """Who holds the lock at `path` now; None if nobody does. Nothing is made or changed.

    A holder whose file cannot be read is one of no name.
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
    """Whether the file names a process that may live, other than this one."""
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
    """What a lock file says; None while it says nothing yet, or nothing that makes sense."""
    try:
        told = orjson.loads(os.pread(file, 1 << 20, 0))
        process = Holder(str(told["host"]), str(told["boot_id"]), int(told["pid"]), str(told["started"]))
        return LockHolder(process, parse_instant(told["since"]), tuple(map(str, told["command"])), str(told["actor"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None
