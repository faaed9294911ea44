"""Writing archives of runs: what is deleted goes into one first, and `lens import` brings it back.

An archive is written under its final name from its first line on. Once a batch is on the disk its runs may be gone
from the store, and the archive is the only copy: a name such as ``.part`` would invite somebody to remove it. It can be
imported at any moment, up to the last whole batch; that its writer was stopped shows by the missing manifest.

The lines are those of `flujo_lens.operations.archive_format`, the forms those of `archive_forms`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from itertools import count
from pathlib import Path

from flujo_lens.errors import LensError, OperationFailedError, ReadOnlyStoreError, UsageError
from flujo_lens.fs.atomic_write import sync_folder, write_all
from flujo_lens.fs.locks import try_lock
from flujo_lens.operations.archive_compression import Form, form_of, pack
from flujo_lens.operations.archive_format import (
    Batch,
    Chain,
    Header,
    Manifest,
    batch_line,
    header_line,
    manifest_line,
    record_lines,
)
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.deletion import Record
from flujo_lens.state.registry import BUILT_IN

__all__ = ["ArchiveWriter", "archive_path", "check_archive_path", "driver_kind"]

_READ_ONLY = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
EMPTY: Mapping[str, int] = {}


class ArchiveWriter:
    """Writes one archive. Blocks; for one thread at a time.

    While it is open the file is locked (`fcntl.flock`), so that nobody takes it for a finished one.

    Args:
        path: A file that does not exist, in a folder that does. It is made at once, with mode 0600, and holds the
            header; see `abandon` for an archive that nothing comes into.
        header: The first line.
        form: How it is written; None: as the name says.

    Raises:
        UsageError: the file exists, its folder does not, or the name is none of an archive.
        MissingExtraError: zstandard is not installed.
        ReadOnlyStoreError, OperationFailedError: it cannot be made. Nothing was left.
    """

    def __init__(self, path: Path, header: Header, *, form: Form | None = None) -> None:
        self.path = path
        self.runs = self.records = self.batches = 0
        self._form = form or form_of(path)
        line = header_line(header)
        self._chain, self._last = Chain(line), ""
        self._end, self._is_broken, self._has_name = 0, False, False
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _not_made(path, error) from error
        with suppress(OSError):  # a file system without locks has no bin that is cleared while it is written
            try_lock(self._file)
        try:
            self._write(line)
        except OSError as error:
            self.abandon()
            raise _not_made(path, error) from error

    def keep(self, records: Sequence[Record]) -> None:
        """Write a batch. When it returns, the batch survives the death of the machine: it is a `BackupCallback`.

        A failed write is taken back, and the archive is as before. If the process dies, the batch is there whole, or
        as a torn tail that a reader passes over. A batch that repeats the one before, as when a transaction was tried
        again, is not written twice.

        Raises:
            OperationFailedError: it could not be written; nothing of this batch may be deleted.
        """
        if not records:
            return
        lines = self._lines(records)
        digest = sha256(lines).hexdigest()
        if digest == self._last:
            return
        runs = sum(record.get("last") is True for record in records)
        try:
            self._append(lines + batch_line(Batch(self.batches + 1, runs, len(records), digest)))
        except OSError as error:
            raise self._not_kept(error) from error
        self._chain.add(digest)
        self._last = digest
        self.batches, self.runs, self.records = self.batches + 1, self.runs + runs, self.records + len(records)

    def finish(
        self, *, complete: bool, by_status: Mapping[str, int] = EMPTY, rows: Mapping[str, int] = EMPTY
    ) -> Manifest:
        """Write the manifest and close the file.

        Args:
            complete: Whether all is in it that was to go in.
            by_status: How many runs went, by status.
            rows: How many rows went, by table.

        Raises:
            OperationFailedError: the manifest could not be written. All batches are kept, and can be imported.
        """
        told = Manifest(self.runs, self.records, self.batches, rows, by_status, complete)
        manifest = self._chain.sealed(told)
        try:
            self._append(manifest_line(manifest))
        except OSError as error:
            raise OperationFailedError(
                f"the last line of the archive {self.path} could not be written: {error.strerror or error}",
                hint=f"the {self.runs:,} runs in it are whole, and lens import takes it as it is",
                path=str(self.path),
            ) from error
        finally:
            self.close()
        return manifest

    def abandon(self) -> None:
        """Close the file, and remove it if no batch is in it. Never raises."""
        if not self.batches:
            self.discard()
        self.close()

    def discard(self) -> None:
        """Close the file and remove it, whatever is in it. Never raises."""
        if self._file >= 0:
            with suppress(OSError):
                os.unlink(self.path)
        self.close()

    def close(self) -> None:
        """Close the file as it is: without a manifest, unless `finish` wrote one."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def _lines(self, records: Sequence[Record]) -> bytes:
        try:
            return record_lines(records)
        except TypeError as error:
            raise OperationFailedError(
                f"a run among {records[0].get('run_id')} and those after it cannot be kept: {error}; "
                "nothing of this batch was deleted",
                hint="please report it: what a store hands out should always be JSON",
                path=str(self.path),
            ) from error

    def _append(self, lines: bytes) -> None:
        """Write lines as a part of their own, and wait until they are on the disk.

        Raises:
            OSError: they are not, and the file is as before.
        """
        if self._is_broken:
            raise OSError(errno.EIO, "an earlier write could not be taken back")
        end = self._end
        try:
            self._write(lines)
            os.fsync(self._file)
            self._sync_name()
        except BaseException:
            self._end = end
            self._take_back()
            raise

    def _write(self, lines: bytes) -> None:
        packed = pack(self._form, lines)
        write_all(self._file, packed)
        self._end += len(packed)

    def _take_back(self) -> None:
        try:
            os.ftruncate(self._file, self._end)
            os.lseek(self._file, self._end, os.SEEK_SET)
        except OSError:
            self._is_broken = True

    def _sync_name(self) -> None:
        if not self._has_name:
            sync_folder(self.path.parent)
            self._has_name = True

    def _not_kept(self, error: OSError) -> OperationFailedError:
        help_ = "make room there, or put it on another disk: --archive FILE" if error.errno in _FULL else "df -h"
        return OperationFailedError(
            f"cannot write {self.path}: {error.strerror or error}; nothing of this batch was deleted",
            hint=f"{help_}\nwhat was written before it is whole; the same command goes on where this one stopped, "
            "with another FILE if --archive names one",
            path=str(self.path),
        )


def driver_kind(backend: StateBackend) -> str:
    """What a header calls a driver: ``sqlite``, ``file``, ``memory``; of another one ``module:Class``."""
    kinds = {name.rpartition(":")[2]: scheme for scheme, name in BUILT_IN.items()} | {"InMemoryBackend": "memory"}
    for cls in type(backend).__mro__:
        if cls.__module__.startswith("flujo_lens.state.backends.") and cls.__qualname__ in kinds:
            return kinds[cls.__qualname__]
    return f"{type(backend).__module__}:{type(backend).__qualname__}"


# --- where an archive goes


def archive_path(place: str | Path, now: datetime, *, stem: str = "runs", make: bool = False) -> Path:
    """The file that a place means: itself; for a folder, a dated name in it that is free.

    Args:
        place: A file; or a folder, which is there or ends in ``/``.
        now: The present.
        stem: What a dated name begins with.
        make: Whether the folder may be made (with mode 0700; the one above it has to be there).

    Raises:
        UsageError, ReadOnlyStoreError, OperationFailedError: the folder was to be made, and cannot be.
    """
    path = Path(place)
    if not (str(place).endswith(os.sep) or path.is_dir()):
        return path
    if make:
        try:
            path.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise _not_made(path, error) from error
    dated = f"{stem}-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}"
    names = (path / f"{dated}{f'-{number}' if number > 1 else ''}.ndjson" for number in count(1))
    return next(name for name in names if not os.path.lexists(name))


def check_archive_path(path: Path) -> None:
    """Find out whether an archive could be made now. Creates nothing.

    Raises:
        LensError: as `ArchiveWriter`.
    """
    form_of(path)
    try:
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "it exists")
        if not path.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, "there is no such folder")
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise _not_made(path, error) from error


def _not_made(path: Path, error: OSError) -> LensError:
    told = {"path": str(path)}
    if isinstance(error, FileExistsError):
        hint = "an archive is never overwritten: name another file, or a folder, which gets a dated name"
        return UsageError(f"{path} exists already; nothing was changed", hint=hint, **told)
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        hint = f"mkdir -p {path.parent}"
        return UsageError(f"there is no folder {path.parent}; nothing was changed", hint=hint, **told)
    kind = ReadOnlyStoreError if error.errno in _READ_ONLY else OperationFailedError
    message = f"cannot make {path}: {error.strerror or error}; nothing was changed"
    return kind(message, hint="--archive FILE puts it elsewhere", **told)
