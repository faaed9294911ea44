"""Writing archives of runs: deleted runs are archived first, and `lens import` restores them.

An archive is written under its final name from the first line on. Once a batch is on disk, its runs may be deleted
from the store, and the archive is the only copy: a name such as ``.part`` could get it removed as a leftover. It can
be imported at any moment, up to the last complete batch; an archive of a stopped writer has no manifest.

The format of the lines is in `archive_format`, the compression in `archive_compression`.
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

_READ_ONLY = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
EMPTY: Mapping[str, int] = {}


class ArchiveWriter:
    """Writes an archive. Blocking, and not thread-safe.

    While it is open, the file is locked (`fcntl.flock`), which marks it as unfinished.

    Args:
        path: A file that does not exist, in an existing folder. It is created at once, with mode 0600 and the header;
            see `abandon` for an archive that stays empty.
        form: The compression; None for the one of the file name.

    Raises:
        UsageError: the file exists, its folder does not, or the suffix is not that of an archive.
        MissingExtraError: zstandard is not installed.
        ReadOnlyStoreError, OperationFailedError: it cannot be created. No file is left.
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
        """Write a batch and sync it to disk. This is a `BackupCallback`.

        A failed write is rolled back. If the process dies, the batch is complete, or an incomplete tail that readers
        skip. A batch equal to the one before, as after a retried transaction, is not written again.

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
            complete: Whether the archive has everything that was planned.
            by_status: Number of deleted runs by status.
            rows: Number of deleted rows by table.

        Raises:
            OperationFailedError: the manifest could not be written. All batches are kept and can be imported.
        """
        manifest = Manifest(self.runs, self.records, self.batches, rows, by_status, complete)
        manifest = self._chain.sealed(manifest)
        try:
            self._append(manifest_line(manifest))
        except OSError as error:
            raise OperationFailedError(
                f"the last line of the archive {self.path} could not be written: {error.strerror or error}",
                hint=f"its {self.runs:,} runs are complete, and lens import accepts it",
                path=str(self.path),
            ) from error
        finally:
            self.close()
        return manifest

    def abandon(self) -> None:
        """Close the file, and remove it if it has no batch. Never raises."""
        if not self.batches:
            self.discard()
        self.close()

    def discard(self) -> None:
        """Close and remove the file. Never raises."""
        if self._file >= 0:
            with suppress(OSError):
                os.unlink(self.path)
        self.close()

    def close(self) -> None:
        """Close the file, without a manifest unless `finish` wrote one."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def _lines(self, records: Sequence[Record]) -> bytes:
        try:
            return record_lines(records)
        except TypeError as error:
            raise OperationFailedError(
                f"cannot archive a batch of runs that begins with {records[0].get('run_id')}: {error}; "
                "nothing of this batch was deleted",
                hint="please report this: records of a store should always be valid JSON",
                path=str(self.path),
            ) from error

    def _append(self, lines: bytes) -> None:
        """Write lines as one compressed part, and sync it to disk.

        Raises:
            OSError: the write failed and was rolled back.
        """
        if self._is_broken:
            raise OSError(errno.EIO, "an earlier write could not be rolled back")
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
        help_ = "free some space, or use another disk: --archive FILE" if error.errno in _FULL else "df -h"
        return OperationFailedError(
            f"cannot write {self.path}: {error.strerror or error}; nothing of this batch was deleted",
            hint=f"{help_}\nthe batches before it are complete; run the same command to continue, "
            "with another FILE if --archive names one",
            path=str(self.path),
        )


def driver_kind(backend: StateBackend) -> str:
    """The name of a driver in a header: ``sqlite``, ``file``, ``memory``; else ``module:Class``."""
    kinds = {name.rpartition(":")[2]: scheme for scheme, name in BUILT_IN.items()} | {"InMemoryBackend": "memory"}
    for cls in type(backend).__mro__:
        if cls.__module__.startswith("flujo_lens.state.backends.") and cls.__qualname__ in kinds:
            return kinds[cls.__qualname__]
    return f"{type(backend).__module__}:{type(backend).__qualname__}"


# --- the path of an archive


def archive_path(place: str | Path, now: datetime, *, stem: str = "runs", make: bool = False) -> Path:
    """The path of a new archive: `place` itself, or in a folder, a dated name that does not exist.

    Args:
        place: A file; or a folder, which exists or ends in ``/``.
        stem: The beginning of a dated name.
        make: Whether to create the folder (with mode 0700; its parent must exist).

    Raises:
        UsageError, ReadOnlyStoreError, OperationFailedError: the folder cannot be created.
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
    """Check that an archive could be created. Creates nothing.

    Raises:
        LensError: as for `ArchiveWriter`.
    """
    form_of(path)
    try:
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "it exists")
        if not path.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, "no such folder")
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise _not_made(path, error) from error


def _not_made(path: Path, error: OSError) -> LensError:
    details = {"path": str(path)}
    if isinstance(error, FileExistsError):
        hint = "archives are never overwritten: give another file, or a folder for a dated name"
        return UsageError(f"{path} already exists; nothing was changed", hint=hint, **details)
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        hint = f"mkdir -p {path.parent}"
        return UsageError(f"no such folder: {path.parent}; nothing was changed", hint=hint, **details)
    kind = ReadOnlyStoreError if error.errno in _READ_ONLY else OperationFailedError
    message = f"cannot create {path}: {error.strerror or error}; nothing was changed"
    return kind(message, hint="--archive FILE sets another path", **details)
