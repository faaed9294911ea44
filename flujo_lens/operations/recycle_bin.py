"""The bin of a store: recently deleted runs, which ``lens undo`` can restore.

It is a folder next to the store with one archive (`flujo_lens.operations.archive`) per deleting command, named by its
audit entry. Archives expire, and only their owner can read them.
"""

from __future__ import annotations

import errno
import fcntl
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from flujo_lens.errors import (
    AmbiguousRunError,
    ArchiveError,
    BusyError,
    LensError,
    OperationFailedError,
    RunNotFoundError,
    UsageError,
)
from flujo_lens.fs.atomic_write import sync_folder
from flujo_lens.fs.locks import try_lock
from flujo_lens.operations.archive import ArchiveWriter
from flujo_lens.operations.archive_format import Header, Manifest, parsed_manifest
from flujo_lens.operations.archive_reader import read_archive, survey
from flujo_lens.operations.sidecar_files import check_folder, sidecar_path

FOLDER, FILE = ".lens-bin", ".ndjson.gz"
LEAST_PREFIX = 4
_RESERVE = 8 << 20
"""Bytes kept free on the disk in addition to the bin, since the journal of the store needs space for a deletion."""

_PACKED, _LEAST = 4, 1 << 20
"""Compressed, runs need about a fourth of their size in the store, plus at most this."""

_TAIL = 1 << 16
_MEMBER = b"\x1f\x8b\x08"


class BinItem(NamedTuple):
    """The runs deleted by a command.

    Attributes:
        audit_id: Its entry in the audit log.
        header: The header of the archive, with time and command line.
        runs: Number of runs.
        until: The time of expiry: from then on, the next writing command may remove it.
        size_bytes: Size of the archive in bytes.
    """

    audit_id: str
    path: Path
    header: Header
    runs: int
    until: datetime
    size_bytes: int

    @property
    def made_at(self) -> datetime:
        """The time of the command."""
        return self.header.made_at

    @property
    def command(self) -> tuple[str, ...]:
        """The command line."""
        return self.header.command


class Bin:
    """The bin in a folder, which the first `open` creates. All methods block.

    Args:
        keep: How long items are kept.
        max_runs: Maximum number of runs of one command.
        now: The current time, in UTC: expired items are hidden even before they are removed. None to show them.
    """

    def __init__(self, folder: Path, keep: timedelta, max_runs: int, now: datetime | None = None) -> None:
        self.folder, self.keep, self.max_runs, self.now = folder, keep, max_runs, now

    @staticmethod
    def sidecar_path(store_path: Path) -> Path:
        """The path of the bin of a store: next to its file or folder, after resolving links."""
        return sidecar_path(store_path, FOLDER)

    # --- adding items

    def why_not(self, runs: int, size_estimate: int) -> str | None:
        """The reason why runs do not fit, or None. Either all of them are kept, or none.

        Args:
            runs: Number of runs.
            size_estimate: Their size in the store in bytes; compressed, they need less.
        """
        if not self.keep:
            return "the bin keeps nothing (keep = 0)"
        if runs > self.max_runs:
            return f"{runs:,} runs are too many for the bin (max_runs = {self.max_runs:,})"
        free, needed = _free(self.folder), size_estimate // _PACKED + _LEAST
        if free is None or free >= needed + _RESERVE:
            return None
        return (
            f"not enough space for the bin ({_mib(free)} free, {_mib(needed)} needed, "
            f"{_mib(_RESERVE)} reserved for the store)"
        )

    def why_unwritable(self) -> str | None:
        """The reason why the bin is not writable, or None, judged by its permissions."""
        there = self.folder
        while not os.path.lexists(there) and there != there.parent:
            there = there.parent
        if os.path.isdir(there) and os.access(there, os.W_OK | os.X_OK):
            return None
        return f"the bin {self.folder} is not writable"

    def open(self, audit_id: str, header: Header) -> ArchiveWriter:
        """A writer for the runs deleted by the command with this audit entry.

        Raises:
            LensError: as for `ArchiveWriter`, or the folder cannot be created. Nothing must be deleted then, except
                with ``--no-bin``.
        """
        try:
            return self._opened(audit_id, header)
        except (LensError, OSError) as error:
            why = error.message if isinstance(error, LensError) else f"{self.folder}: {error.strerror or error}"
            raise OperationFailedError(
                f"cannot write to the bin: {why}; nothing was deleted",
                hint="--no-bin deletes without it (lens undo cannot restore the runs then); "
                "--archive FILE keeps a copy at another path",
                path=str(self.folder),
            ) from error

    def _opened(self, audit_id: str, header: Header) -> ArchiveWriter:
        with suppress(FileExistsError):
            self.folder.mkdir(mode=0o700)
            sync_folder(self.folder.parent)
        check_folder(self.folder)
        try:
            return ArchiveWriter(self._path(audit_id), header)
        except UsageError:
            if self.folder.exists():
                raise
            return self._opened(audit_id, header)  # another process removed the empty folder

    def _path(self, audit_id: str) -> Path:
        return self.folder / f"{audit_id}{FILE}"

    # --- listing items

    def items(self) -> list[BinItem]:
        """The items, newest first, except files that are not archives or are being written.

        Raises:
            ArchiveError: other users can write to the folder.
        """
        self._check()
        found = []
        for audit_id in sorted(self._ids(), reverse=True):
            with suppress(OSError, ArchiveError):
                found.append(self._item(audit_id))
        return [item for item in found if not self._is_over(item.until)]

    def _is_over(self, until: datetime) -> bool:
        return self.now is not None and until <= self.now

    def _check(self) -> None:
        """Check that no other user can write to the folder.

        Raises:
            ArchiveError: another user can.
        """
        try:
            check_folder(self.folder)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ELOOP, errno.ENOTDIR):
                return
            raise ArchiveError(
                f"refusing to use the bin {self.folder}: {error.strerror}; nothing was changed",
                hint="check its files; if they are yours, chmod 700 the folder, or lens import one of them",
                path=str(self.folder),
            ) from error

    def find(self, text: str, *, prefix: bool = True) -> BinItem:
        """The item with an audit id.

        Args:
            text: The id, or a unique prefix of 4 or more characters.
            prefix: False to accept only a whole id.

        Raises:
            RunNotFoundError: there is no such item, or `prefix` is False and a prefix was given.
            AmbiguousRunError: several ids have this prefix.
            BusyError: it is being written.
            ArchiveError: it cannot be read, or other users can write to the folder.
        """
        self._check()
        ids = sorted(self._ids())
        begin = [one for one in ids if one.startswith(text)] if prefix and len(text) >= LEAST_PREFIX else []
        meant = [text] if text in ids else begin
        if len(meant) == 1:
            return self._found(meant[0])
        if meant:
            hint = "\n".join(["type more characters:", *(f"  {one}" for one in meant[:10])])
            raise AmbiguousRunError(f'"{text}" is a prefix of several ids', hint=hint, audit_id=text)
        raise RunNotFoundError(
            f'no id "{text}" in the bin',
            hint="lens undo lists the ids; to restore an archive of --archive: lens import FILE",
            audit_id=text,
        )

    def _found(self, audit_id: str) -> BinItem:
        try:
            item = self._item(audit_id)
            if not self._is_over(item.until):
                return item
        except BlockingIOError as error:
            raise BusyError(f"{audit_id} is still being deleted", hint="try again later") from error
        except OSError as error:
            raise ArchiveError.unreadable(self._path(audit_id), error.strerror or str(error)) from error
        raise RunNotFoundError(
            f"{audit_id} was kept until {item.until:%Y-%m-%d %H:%M:%SZ}, and has expired; nothing was changed",
            hint="keep under [bin] in lens.toml sets the time; to restore an archive of --archive: lens import FILE",
            audit_id=audit_id,
        )

    def _ids(self) -> list[str]:
        try:
            names = os.listdir(self.folder)
        except OSError:
            return []
        return [name.removesuffix(FILE) for name in names if name.endswith(FILE) and name != FILE]

    def _item(self, audit_id: str) -> BinItem:
        path = self._path(audit_id)
        with self.held(path):
            manifest = _manifest(path)
            with read_archive(path) as archive:
                header = archive.header
            runs = len(survey(path).run_ids) if manifest is None else manifest.runs
            return BinItem(audit_id, path, header, runs, header.made_at + self.keep, path.stat().st_size)

    # --- removing items

    def expire(self, now: datetime) -> int:
        """Remove expired items, and the folder if it is empty; return the number of items removed. Never raises.

        Items that are being written or read stay, and so do files whose names are not audit ids.
        """
        try:
            check_folder(self.folder)
        except OSError:
            return 0
        old = [audit_id for audit_id in self._ids() if (made := _made_at(audit_id)) and now - made >= self.keep]
        count = sum(self.remove(self._path(audit_id)) for audit_id in old)
        self._remove_if_empty()
        return count

    def remove(self, path: Path) -> bool:
        """Remove an item unless it is in use, and the folder if it is empty; return whether it was removed."""
        try:
            with self.held(path, fcntl.LOCK_EX):
                os.unlink(path)
        except OSError:
            return False
        self._remove_if_empty()
        return True

    def _remove_if_empty(self) -> None:
        with suppress(OSError):
            os.rmdir(self.folder)

    @staticmethod
    @contextmanager
    def held(path: Path, kind: int = fcntl.LOCK_SH) -> Iterator[None]:
        """Lock an item against removal (``LOCK_SH``) or any use (``LOCK_EX``).

        Raises:
            OSError: it does not exist, or is locked.
        """
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if try_lock(file, kind) == "busy":
                raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK))
            yield
        finally:
            os.close(file)


def _made_at(audit_id: str) -> datetime | None:
    """The instant in an audit id."""
    try:
        return datetime.strptime(audit_id.partition("-")[0], "%Y%m%dT%H%M%S%f").replace(tzinfo=UTC)
    except ValueError:
        return None


def _manifest(path: Path) -> Manifest | None:
    """The last line of an item, read without decompressing the rest; None if that is not possible."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL))
        tail = file.read()
    begin = tail.rfind(_MEMBER)
    while begin >= 0:
        try:
            return parsed_manifest(zlib.decompress(tail[begin:], wbits=31))
        except (zlib.error, ValueError):
            begin = tail.rfind(_MEMBER, 0, begin)
    return None


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.1f} MiB"


def _free(folder: Path) -> int | None:
    """Free bytes on the disk of a folder, which need not exist; None if unknown."""
    for place in (folder, *folder.parents):
        with suppress(OSError):
            room = os.statvfs(place)
            return room.f_bavail * room.f_frsize if room.f_blocks else None
    return None
