"""The audit log: a record of the changes of a store, one JSON object per line, chained by hash.

Each entry holds the SHA-256 of the line before it (`previous`) and of itself (`digest`, of the line without that
member), so that changed and removed lines are detected. Lines removed from the end are detected by the length and
last hash of the log, which are kept in a separate file (see `audit_head`).

An entry is on disk when `append` returns. A process that dies while writing leaves at most an incomplete last line;
the next entry starts on a new line, continues the chain over the incomplete one, and notes it (`after_torn`).
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
    Line,
    State,
    new_audit_id,
    parsed,
    plain_text,
    run_fields,
    sealed,
    written_time,
)
from flujo_lens.operations.audit_head import Head, read_head, write_head
from flujo_lens.operations.sidecar_files import last_line, open_own, settled_size, sidecar_path
from flujo_lens.redaction import masked_text

SUFFIX = ".lens-audit.ndjson"
LEAST_FREE = 64 << 10
"""Free bytes required on the disk before a change; an entry needs less, unless it has very many ids."""

_READ_ONLY = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_ELSEWHERE = "--audit-file FILE, or path under [audit] in lens.toml, sets another path"


class AuditLog:
    """The log at a path. It is opened for each call, and created by the first `append`, with mode 0600.

    Several processes and threads may append at the same time. All methods block, usually for a few milliseconds;
    `append` waits up to `timeout` for another writer.

    Args:
        actor: The name of the person or program that makes the changes.
        host: The name of the machine.
        now: The clock; returns aware times.
        store: The changed store, without passwords.
        timeout: Seconds to wait for another writer.
        lost: Called with a line of text if the result of a change cannot be recorded.
    """

    skipped: int
    """Number of lines that the last call of `entries` could not read."""
    unsure: int
    """Number of entries that the last call of `entries` skipped although they may concern the run: they have no ids."""

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
        lost: Callable[[str], None] | None = None,
    ) -> None:
        self.path = path
        self.skipped = self.unsure = 0
        self._actor, self._host, self._store = actor, host, store
        self._now, self._timeout, self._mask, self._lost = now, timeout, mask, lost

    @property
    def store(self) -> str | None:
        """The changed store, without passwords."""
        return self._store

    @staticmethod
    def sidecar_path(store_path: Path) -> Path:
        """The path of the log of a store: next to its file or folder, after resolving links."""
        return sidecar_path(store_path, SUFFIX)

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
        """Write an entry, and sync it to disk.

        A failed write is rolled back. If the process dies, the entry is complete, missing, or an incomplete last
        line.

        Args:
            reason: The reason, if given; its secrets are masked.
            counts: Numbers by name, such as ``{"deleted": 3}``.
            run_ids: The affected runs.
            audit_id: The id of the entry, from `new_audit_id`, if it was needed earlier; None for a new one.
            closes: The id of the entry whose result this one records.
            error: The code of the error that ended the change.
            state: ``started`` if another entry will record the result; None for ``finished``, or ``failed`` with an
                error.

        Returns:
            The id of the entry.

        Raises:
            BusyError: another process held the log until the timeout.
            ReadOnlyStoreError: the file or its folder is not writable.
            OperationFailedError: it could not be written for another reason.
        """
        entry = {
            "command": [plain_text(word) for word in command],
            "reason": None if reason is None else plain_text(self._mask(reason)),
            "state": state or ("finished" if error is None else "failed"),
            "counts": dict(counts),
            **run_fields(run_ids),
            **({} if closes is None else {"closes": closes}),
            **({} if error is None else {"error": error}),
        }
        try:
            with self._locked() as file:
                now = self._now()
                audit_id = audit_id or new_audit_id(now)
                self._add(file, {"audit_id": audit_id, "at": written_time(now), **self._who(), **entry})
        except OSError as failure:
            raise self._not_written(failure) from failure
        return audit_id

    def append_result(
        self,
        closes: str,
        *,
        command: Sequence[str],
        reason: str | None,
        counts: Mapping[str, int],
        run_ids: Sequence[str],
        error: str | None = None,
    ) -> None:
        """Write the result of the change whose entry is `closes`; the other arguments are those of `append`.

        The change is made, so a failure to write raises nothing: the entry stays ``started``, and `lost` is called.
        """
        try:
            self.append(
                command=command, reason=reason, counts=counts, run_ids=run_ids, closes=closes, error=error,
            )  # fmt: skip
        except LensError as failure:
            if self._lost is not None:
                why = f'{failure.without_claim}; its entry {closes} stays "started"'
                self._lost(f"the result of this change is not in the audit log: {why}")

    def _who(self) -> dict[str, str]:
        store = {} if self._store is None else {"store": plain_text(self._store)}
        return {"actor": plain_text(self._actor), "host": plain_text(self._host), **store}

    def _add(self, file: int, entry: Mapping[str, Any]) -> None:
        """Append an entry to the locked `file`; if that fails, roll back."""
        size = os.fstat(file).st_size
        last, ended = last_line(file, size)
        torn: dict[str, Any] = {} if ended or parsed(last) else {"after_torn": True}
        previous = sha256(last).hexdigest() if size else FIRST
        kept = read_head(self.path)
        line = sealed({**entry, **torn, **_since(kept, file), "previous": previous})
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

    def entries(self, *, run_id: str | None = None, since: datetime | None = None) -> Iterator[AuditEntry]:
        """The entries, oldest first; none if there is no log. Holds one at a time; creates nothing.

        Entries appended after the first was read are not returned. `skipped` and `unsure` count what is left out.

        Args:
            run_id: Only entries about this run (its whole id), and their results.
            since: Only entries written at this instant (aware) or later.

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
        """Check the chain from the first line to the first one that does not match. Creates nothing.

        Raises:
            UnreachableStoreError: there is a log, and it cannot be read.
        """
        kept = read_head(self.path)  # before the log, to which others may append
        chain = Chain(*(kept.length, kept.digest) if kept else ())
        for line in self._lines():
            if not chain.take(line):
                break
        return chain.report()

    def _lines(self) -> Iterator[Line]:
        """All current lines, except one that is being written."""
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
