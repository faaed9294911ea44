"""The audit log: who changed what in a store, one JSON object a line, chained by hash.

Each entry holds the SHA-256 of the line before it (`previous`) and one of itself (`digest`: of the line as it stands
without that member). So a line that was changed, and a line that was taken out, show. What was taken from the end shows
by the log's length and last hash, which are kept in a file beside it (see `audit_head`).

An entry is on the disk when `append` returns. A process that dies while it writes leaves a torn last line at most;
the next entry begins on a line of its own, chains over the torn one, and says so (`after_torn`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from flujo_lens.errors import BusyError, LensError, OperationFailedError, ReadOnlyStoreError, UnreachableStoreError
from flujo_lens.fs.atomic_write import sync_folder, write_all
from flujo_lens.fs.locks import lock
from flujo_lens.operations.audit_format import (
    FIRST,
    AuditEntry,
    AuditReport,
    Chain,
    Flaw,
    Line,
    State,
    new_audit_id,
    parsed,
    plain_text,
    sealed,
    told_runs,
    written_time,
)
from flujo_lens.operations.audit_head import Head, read_head, write_head
from flujo_lens.operations.sidecar_files import beside, last_line, open_own, settled_size
from flujo_lens.redaction import masked_text

__all__ = ["AuditEntry", "AuditLog", "AuditReport", "Flaw", "new_audit_id"]

SUFFIX = ".lens-audit.ndjson"
LEAST_FREE = 64 << 10
"""Bytes that the disk must have left before anything is changed; an entry takes less, unless it has very many ids."""

_READ_ONLY = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_ELSEWHERE = "--audit-file FILE, or path under [audit] in lens.toml, puts the log elsewhere"


class AuditLog:
    """The log at a path. It is opened for each call alone, and made by the first `append`, with mode 0600.

    Any number of processes and threads may append at once. All methods block: for a few milliseconds as a rule,
    an `append` for `timeout` at most while another one writes.

    Args:
        path: Where it is, or is to be.
        actor: Who makes the changes.
        host: On which machine.
        now: The clock; its times are aware.
        store: Which store is changed, without passwords.
        timeout: Seconds to wait for another process that appends.
        mask: Masks the secrets in a text.
    """

    skipped: int
    """How many lines the last `entries` could not read."""
    unsure: int
    """How many entries the last `entries` left out that may concern the run: they do not hold their ids."""

    def __init__(
        self,
        path: Path,
        *,
        actor: str,
        host: str,
        now: Callable[[], datetime],
        store: str | None = None,
        timeout: float = 10.0,
        mask: Callable[[str], str] = masked_text,
    ) -> None:
        self.path = path
        self.skipped = self.unsure = 0
        self._actor, self._host, self._store = actor, host, store
        self._now, self._timeout, self._mask = now, timeout, mask

    @property
    def store(self) -> str | None:
        """Which store's changes are written, without passwords."""
        return self._store

    @staticmethod
    def path_beside(store_path: Path) -> Path:
        """The log's place for a store that is a file or a folder: beside it, also where a link leads to it."""
        return beside(store_path, SUFFIX)

    # --- writing

    def check(self) -> None:
        """Find out whether an entry could be written now. Creates and changes nothing.

        Raises:
            ReadOnlyStoreError: the file or its folder may not be written.
            OperationFailedError: there is no such folder, the path is no file, or the disk is full.
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

    def append(
        self,
        *,
        command: Sequence[str],
        reason: str | None,
        counts: Mapping[str, int],
        run_ids: Sequence[str],
        audit_id: str | None = None,
        closes: str | None = None,
        error: str | None = None,
        state: State | None = None,
    ) -> str:
        """Write one entry, and wait until it is on the disk.

        A failed write is taken back: the log is as before. If the process dies, the entry is there whole, not at
        all, or as a torn last line.

        Args:
            command: The words that were typed, without secrets.
            reason: Why, if somebody said; secrets in it are masked.
            counts: How many of what.
            run_ids: The runs concerned.
            audit_id: The id of the entry, made by `new_audit_id`, where it was needed before; None to make one.
            closes: The id of the entry that this one tells the end of: what really came of it.
            error: The code of the error that ended it.
            state: ``started`` where another entry will tell the end; None for ``finished``, with an error ``failed``.

        Returns:
            The entry's id.

        Raises:
            BusyError: another process held the log all the time.
            ReadOnlyStoreError: the file or its folder may not be written.
            OperationFailedError: it could not be written for another reason.
        """
        told = {
            "command": [plain_text(word) for word in command],
            "reason": None if reason is None else plain_text(self._mask(reason)),
            "state": state or ("finished" if error is None else "failed"),
            "counts": dict(counts),
            **told_runs(run_ids),
            **({} if closes is None else {"closes": closes}),
            **({} if error is None else {"error": error}),
        }
        try:
            with self._locked() as file:
                now = self._now()
                audit_id = audit_id or new_audit_id(now)
                self._add(file, {"audit_id": audit_id, "at": written_time(now), **self._who(), **told})
        except OSError as failure:
            raise self._not_written(failure) from failure
        return audit_id

    def _who(self) -> dict[str, str]:
        store = {} if self._store is None else {"store": plain_text(self._store)}
        return {"actor": plain_text(self._actor), "host": plain_text(self._host), **store}

    def _add(self, file: int, told: Mapping[str, Any]) -> None:
        """Write an entry behind what the locked `file` holds; if that fails, the file is as before."""
        size = os.fstat(file).st_size
        last, ended = last_line(file, size)
        torn: dict[str, Any] = {} if ended or parsed(last) else {"after_torn": True}
        previous = sha256(last).hexdigest() if size else FIRST
        kept = read_head(self.path)
        line = sealed({**told, **torn, **_since(kept, file), "previous": previous})
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
            OSError: it cannot be opened, or is no plain file.
        """
        # Without O_NONBLOCK, a FIFO of that name would be waited for.
        file = open_own(self.path, flags | os.O_APPEND | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise OSError(errno.EINVAL, "it is no plain file")
        return file

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """The log, opened for appending (and made, if there is none) and held."""
        deadline = time.monotonic() + self._timeout
        while True:
            new = not self.path.exists()
            file = self._open(os.O_RDWR | os.O_CREAT)
            try:
                if not lock(file, fcntl.LOCK_EX, deadline):
                    raise self._busy()
                if not self._is_current(file):
                    continue  # it was moved away while we waited, as by a rotation of logs
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
            f"another process has held the audit log {self.path} for {self._timeout:g} s",
            hint="try again later, or wait longer with --timeout",
            path=str(self.path),
        )

    def _not_written(self, error: OSError) -> LensError:
        kind = ReadOnlyStoreError if error.errno in _READ_ONLY else OperationFailedError
        message = f"cannot write the audit log {self.path}: {error.strerror or error}; nothing was changed"
        return kind(message, hint=_ELSEWHERE, path=str(self.path))

    # --- reading

    def entries(self, *, run_id: str | None = None, since: datetime | None = None) -> Iterator[AuditEntry]:
        """The entries, oldest first; none if there is no log. One is held at a time; nothing is created.

        What was appended after the first one was asked for is not seen. `skipped` and `unsure` count what is left
        out.

        Args:
            run_id: Only those that concern this run (its whole id), and those that tell the end of one of them.
            since: Only those written at this instant (aware) or later.

        Raises:
            UnreachableStoreError: there is a log, and it cannot be read.
        """
        self.skipped = self.unsure = 0
        begun: set[str] = set()
        for line in self._lines():
            entry = parsed(line.data)
            if entry is None:
                self.skipped += 1
            elif since is None or entry.at >= since:
                if run_id is None or run_id in entry.run_ids or entry.closes in begun:
                    begun.add(entry.audit_id)
                    yield entry
                elif entry.run_ids_digest is not None:
                    self.unsure += 1

    def verify(self) -> AuditReport:
        """Follow the chain from the first line to the first one that does not fit. Nothing is created.

        Raises:
            UnreachableStoreError: there is a log, and it cannot be read.
        """
        kept = read_head(self.path)  # before the log, which others lengthen
        chain = Chain(*(kept.length, kept.digest) if kept else ())
        for line in self._lines():
            if not chain.take(line):
                break
        return chain.report()

    def _lines(self) -> Iterator[Line]:
        """All lines that are there now; a line that is just being written is not there yet."""
        try:
            file = self._open(os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise self._not_read(error) from error
        with open(file, "rb") as stream:
            try:
                left = settled_size(file, time.monotonic() + self._timeout)
                for number, line in enumerate(stream, 1):
                    data = line[:left]
                    if not data:
                        return
                    left -= len(data)
                    yield Line(number, data.removesuffix(b"\n"), data.endswith(b"\n"))
            except OSError as error:
                raise self._not_read(error) from error

    def _not_read(self, error: OSError) -> UnreachableStoreError:
        message = f"cannot read the audit log {self.path}: {error.strerror or error}"
        return UnreachableStoreError(message, hint="it belongs to whoever made it (mode 0600)", path=str(self.path))


def _since(kept: Head | None, file: int) -> dict[str, Any]:
    """What an entry says about the log that it is written to, where that is not as it was left."""
    if kept is None or kept.is_kept_by(file):
        return {}
    return {"continues": kept.digest} if kept.is_moved(file) else {"after_cut": True}


def _no_folder() -> OSError:
    return FileNotFoundError(errno.ENOENT, "there is no such folder")
