"""What a database file takes of the disk, and giving back what is free in it.

A vacuum writes the whole file anew: into a temporary file first, then into the log of the one transaction in which the
new content takes the place of the old. So it needs the room twice, and no one else can write until it is done. A
process that dies on any line of it leaves the file as it was, or vacuumed.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from flujo_lens.errors import BusyError, OperationFailedError
from flujo_lens.state.backends.sqlite.engine.lock_retry import check_may_write, connect, translate_write
from flujo_lens.state.backends.sqlite.engine.read_connection import check_is_sqlite, is_busy
from flujo_lens.state.backends.sqlite.upkeep.backup import alone
from flujo_lens.state.maintenance import Room, Space

_STEPS_BETWEEN_LOOKS = 20_000
"""Instructions of SQLite's machine between two looks at whether the work is still wanted: some milliseconds."""

_TEMPORARY = ("SQLITE_TMPDIR", "TMPDIR")
_ELSE_TEMPORARY = ("/var/tmp", "/usr/tmp", "/tmp", ".")
"""Where SQLite looks for a temporary folder, in its order."""


def read_space(connection: sqlite3.Connection) -> Space:
    """What the file behind a connection takes; nothing is written."""
    pages, free, size = (_number(connection, name) for name in ("page_count", "freelist_count", "page_size"))
    return Space(pages * size, free * size)


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])


def checkpoint(connection: sqlite3.Connection, *, truncate: bool = False) -> bool:
    """Fold the WAL into the file as far as its readers allow; return whether all of it is in. Never fails.

    Others can write in the meantime, but for an instant with `truncate`. Other connections may still read from
    the WAL: what they read stays there, and the next checkpoint takes it. Without a WAL there is nothing to do.

    Args:
        connection: A connection that may write, in no transaction.
        truncate: Also make the ``-wal`` empty, if all of it is in the file and no one reads it.
    """
    try:
        _, there, folded = connection.execute("PRAGMA wal_checkpoint(passive)").fetchone()
        if truncate and 0 < there == folded:
            busy, *_ = connection.execute("PRAGMA wal_checkpoint(truncate)").fetchone()
            return not busy
    except sqlite3.Error:
        return False
    return bool(there == folded)


# --- the room that a vacuum takes


def rooms_of_vacuum(connection: sqlite3.Connection, path: Path) -> tuple[Room, ...]:
    """What a vacuum of the file needs while it is made: one entry a disk.

    The temporary file takes what is used; so does the WAL. A rollback journal takes all that was there.
    """
    space = read_space(connection)
    used = space.file_bytes - space.reusable_bytes
    in_wal = str(connection.execute("PRAGMA journal_mode").fetchone()[0]) == "wal"
    return _by_disk(((path.parent, used if in_wal else space.file_bytes), (_temporary_folder(), used)))


def _by_disk(needs: Sequence[tuple[Path, int]]) -> tuple[Room, ...]:
    rooms: dict[int, Room] = {}
    for folder, needed in needs:
        disk = os.stat(folder).st_dev
        before = rooms.get(disk) or Room(folder, 0, shutil.disk_usage(folder).free)
        rooms[disk] = before._replace(needed=before.needed + needed)
    return tuple(rooms.values())


def _temporary_folder() -> Path:
    """Where SQLite puts temporary files."""
    named = [os.environ[name] for name in _TEMPORARY if os.environ.get(name)]
    fits = (Path(name) for name in (*named, *_ELSE_TEMPORARY) if os.path.isdir(name) and os.access(name, os.W_OK))
    return next(fits, Path())


def check_rooms(rooms: Sequence[Room]) -> None:
    """See that there is room enough.

    Raises:
        OperationFailedError: there is less on one of the disks.
    """
    for room in rooms:
        if not room.suffices:
            raise OperationFailedError(
                f"not enough room in {room.folder}: this can take {room.needed:,} bytes, "
                f"and {room.free:,} are free; nothing was changed",
                hint="free space there; for a temporary file on another disk: SQLITE_TMPDIR=/FOLDER lens ...",
                path=str(room.folder),
            )


# --- doing it


def vacuum(
    path: Path, timeout: float, *, force: bool = False, stopped: threading.Event | None = None
) -> tuple[Space, Space]:
    """Write a file anew without what is free in it; return what it took before and after.

    Rows keep their order. Hidden rowids may become others in the same order.

    Args:
        path: The database file, absolute. No connection of this process may have it open.
        timeout: Seconds to wait for others to close it.
        force: Do it also while others have it open. They cannot write until it is done, nor wait for it as a rule;
            the file shrinks when the last of those that read it now is through.
        stopped: Ends the waiting and the work when it is set.

    Raises:
        BusyError: another process has the file open, or with `force`, holds a lock.
        OperationFailedError: there is no room, or a write failed.
        StoreError: it is missing, damaged, no database, or cannot be written.
        In all cases nothing was changed.
    """
    with taken(path, timeout, force=force, stopped=stopped) as db:
        return vacuum_open(db, path)


def vacuum_open(db: sqlite3.Connection, path: Path) -> tuple[Space, Space]:
    """As `vacuum`, by a connection that `taken` made."""
    before = read_space(db)
    check_rooms(rooms_of_vacuum(db, path))
    db.execute("VACUUM")
    checkpoint(db, truncate=True)
    return before, read_space(db)


@contextmanager
def taken(
    path: Path, timeout: float, *, force: bool = False, stopped: threading.Event | None = None
) -> Iterator[sqlite3.Connection]:
    """A connection for work during which no one else should have the file open.

    Args, Raises: as of `vacuum`.
    """
    stopped = stopped or threading.Event()
    deadline = time.monotonic() + timeout
    check_is_sqlite(path)
    check_may_write(path)
    try:
        with closing(connect(path, timeout)) if force else alone(path, deadline, stopped) as db:
            db.set_progress_handler(stopped.is_set, _STEPS_BETWEEN_LOOKS)
            yield db
    except sqlite3.Error as error:
        raise (_in_use(path, force) if is_busy(error) else translate_write(error, path)) from error


def _in_use(path: Path, force: bool) -> BusyError:
    if force:
        why, hint = "is locked by another process", "try later, or wait longer: --timeout SECONDS"
    else:
        why = "is open in another process, and this needs it alone"
        hint = "stop what uses the store, or wait longer: --timeout SECONDS\nlens doctor names the processes"
    return BusyError(f"{path} {why}; nothing was changed", hint=hint, path=str(path))
