"""The bin of a store: what lens deleted from it lately, so that ``lens undo`` can bring it back.

A folder beside the store, with one archive (`flujo_lens.operations.archive`) for each command that deleted something,
named by its entry in the audit log. Nothing is in it but for a time, and nobody but its owner can read it.
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
from flujo_lens.operations.sidecar_files import beside, check_folder

__all__ = ["Bin", "BinItem"]

FOLDER, FILE = ".lens-bin", ".ndjson.gz"
LEAST_PREFIX = 4
_RESERVE = 8 << 20
"""Bytes that a disk keeps free beside what goes into the bin: the store's own log needs room to delete."""

_PACKED, _LEAST = 4, 1 << 20
"""Packed, runs take about a fourth part of what they took of the store, and this much at most beside."""

_TAIL = 1 << 16
_MEMBER = b"\x1f\x8b\x08"


class BinItem(NamedTuple):
    """What one command deleted.

    Attributes:
        audit_id: Its entry in the audit log.
        path: The archive.
        header: When it was, and the words that were typed.
        runs: How many runs it took.
        until: From then on the next command that writes may remove it.
        size_bytes: What it takes of the disk.
    """

    audit_id: str
    path: Path
    header: Header
    runs: int
    until: datetime
    size_bytes: int

    @property
    def made_at(self) -> datetime:
        """When it was."""
        return self.header.made_at

    @property
    def command(self) -> tuple[str, ...]:
        """The words that were typed."""
        return self.header.command


class Bin:
    """The bin in a folder, which is made by the first `open`. All methods block.

    Args:
        folder: Where it is, or is to be.
        keep: For how long things are kept.
        max_runs: How many runs one command may put into it.
        now: The present, in UTC: what was kept for long enough is not in it any more, also where nobody has removed it
            yet. None to see that too.
    """

    def __init__(self, folder: Path, keep: timedelta, max_runs: int, now: datetime | None = None) -> None:
        self.folder, self.keep, self.max_runs, self.now = folder, keep, max_runs, now

    @staticmethod
    def path_beside(store_path: Path) -> Path:
        """The bin's place for a store that is a file or a folder: beside it, also where a link leads to it."""
        return beside(store_path, FOLDER)

    # --- putting things in

    def why_not(self, runs: int, size_estimate: int) -> str | None:
        """Why something does not fit, in words; None if it does. It goes in whole, or not at all.

        Args:
            runs: How many runs.
            size_estimate: What they take of the store, in bytes; packed they take less.
        """
        if not self.keep:
            return "the bin keeps nothing (keep = 0)"
        if runs > self.max_runs:
            return f"{runs:,} runs are too many for the bin (max_runs = {self.max_runs:,})"
        free, needed = _free(self.folder), size_estimate // _PACKED + _LEAST
        if free is None or free >= needed + _RESERVE:
            return None
        return (
            f"there is too little room for the bin ({_mib(free)} are free; it may take {_mib(needed)}, "
            f"and {_mib(_RESERVE)} are to stay free for the store)"
        )

    def why_unwritable(self) -> str | None:
        """Why nothing can be put into it, in words; None if it can, as far as permissions tell."""
        there = self.folder
        while not os.path.lexists(there) and there != there.parent:
            there = there.parent
        if os.path.isdir(there) and os.access(there, os.W_OK | os.X_OK):
            return None
        return f"the bin {self.folder} cannot be written"

    def open(self, audit_id: str, header: Header) -> ArchiveWriter:
        """A writer of what the command with this entry deletes.

        Raises:
            LensError: as `ArchiveWriter`, and if the folder cannot be made. Nothing may be deleted then, unless the
                user does without the bin (``--no-bin``).
        """
        try:
            return self._opened(audit_id, header)
        except (LensError, OSError) as error:
            why = error.message if isinstance(error, LensError) else f"{self.folder}: {error.strerror or error}"
            raise OperationFailedError(
                f"the bin cannot be written, so nothing was deleted: {why}",
                hint="--no-bin does without it (lens undo cannot bring back what was deleted then), "
                "--archive FILE keeps a copy elsewhere",
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
            return self._opened(audit_id, header)  # another process removed it, since it was empty

    def _path(self, audit_id: str) -> Path:
        return self.folder / f"{audit_id}{FILE}"

    # --- looking

    def items(self) -> list[BinItem]:
        """What is in it, the newest first. Files that are no archives, or are being written, are left out.

        Raises:
            ArchiveError: others could have put something into its folder.
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
        """See that nobody else could have put something into it.

        Raises:
            ArchiveError: somebody could.
        """
        try:
            check_folder(self.folder)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ELOOP, errno.ENOTDIR):
                return
            raise ArchiveError(
                f"the bin {self.folder} is not used: {error.strerror}; nothing was changed",
                hint="who put what into it? then chmod 700 it, if it is yours; lens import FILE takes one item of it",
                path=str(self.folder),
            ) from error

    def find(self, text: str, *, prefix: bool = True) -> BinItem:
        """The item with an audit id.

        Args:
            text: The id, or its beginning (of 4 or more characters) if no other item's id begins so.
            prefix: False to take a whole id alone.

        Raises:
            RunNotFoundError: there is none, or only a part of an id was given, and `prefix` is False.
            AmbiguousRunError: several ids begin so.
            BusyError: it is being written.
            ArchiveError: it cannot be read, or others could have put it there.
        """
        self._check()
        ids = sorted(self._ids())
        begin = [one for one in ids if one.startswith(text)] if prefix and len(text) >= LEAST_PREFIX else []
        meant = [text] if text in ids else begin
        if len(meant) == 1:
            return self._found(meant[0])
        if meant:
            hint = "\n".join(["type more of the one you mean:", *(f"  {one}" for one in meant[:10])])
            raise AmbiguousRunError(f'"{text}" is the beginning of several ids', hint=hint, audit_id=text)
        raise RunNotFoundError(
            f'nothing in the bin has the id "{text}"',
            hint="lens undo lists what can be brought back; an archive that --archive made is for lens import",
            audit_id=text,
        )

    def _found(self, audit_id: str) -> BinItem:
        try:
            item = self._item(audit_id)
            if not self._is_over(item.until):
                return item
        except BlockingIOError as error:
            raise BusyError(f"{audit_id} is still being deleted", hint="try again when that is done") from error
        except OSError as error:
            raise ArchiveError.unreadable(self._path(audit_id), error.strerror or str(error)) from error
        raise RunNotFoundError(
            f"{audit_id} was kept until {item.until:%Y-%m-%d %H:%M:%SZ}, and has expired; nothing was changed",
            hint="keep under [bin] in lens.toml says for how long; an archive that --archive made is for lens import",
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

    # --- taking things out

    def expire(self, now: datetime) -> int:
        """Remove what was kept for long enough, and an empty folder; return how many items that were. Never raises.

        What somebody writes or reads at the moment stays, and so do files whose names are no audit ids.
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
        """Whether an item was removed: not if somebody uses it, or it cannot be. An empty folder goes too."""
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
        """Hold an item, so that nobody removes it (``LOCK_SH``), or that nobody uses it (``LOCK_EX``).

        Raises:
            OSError: it is not there, or somebody has it.
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
    """The last line of an item, found without unpacking what is before it; None if that does not go."""
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
    """What a disk has free where a folder is, or is to be; None if it does not tell."""
    for place in (folder, *folder.parents):
        with suppress(OSError):
            room = os.statvfs(place)
            return room.f_bavail * room.f_frsize if room.f_blocks else None
    return None
