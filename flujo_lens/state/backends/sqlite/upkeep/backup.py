"""Migrating a store for an operator: others kept out, a copy first.

The copy is made by SQLite's online backup, so it is a whole store whatever the WAL holds, under a name that ends in
``.part`` until it is on the disk. A process that dies on any line leaves the old schema or the new one, and no file
that is called a backup and is none.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
import time
from contextlib import closing, suppress
from datetime import datetime
from itertools import count
from pathlib import Path

from flujo_lens.errors import BusyError, LensError, OperationFailedError, ReadOnlyStoreError, SchemaError
from flujo_lens.fs.atomic_write import sync_folder
from flujo_lens.state.backends.sqlite.engine.lock_retry import (
    SLICE,
    check_may_write,
    connect,
    retry_while_locked,
    translate_write,
)
from flujo_lens.state.backends.sqlite.engine.other_processes import openers
from flujo_lens.state.backends.sqlite.engine.read_connection import check_is_sqlite, is_busy
from flujo_lens.state.backends.sqlite.schema.migrations import migrate, read_layout
from flujo_lens.state.maintenance import Migration, MigrationPlan

_PAGES_AT_ONCE = 2_000
"""Between two such parts a backup that is no longer wanted ends."""


class _OpenElsewhereError(sqlite3.OperationalError):
    """Another process has the file open, and holds no lock on it."""

    sqlite_errorname = "SQLITE_BUSY"


class _Stopped(Exception):  # noqa: N818 - it is no error
    """The caller does not want the backup any more."""


def plan_migration(connection: sqlite3.Connection, path: Path, now: datetime) -> MigrationPlan:
    """What `migrate_safely` would do at `now`; nothing is written.

    Raises:
        NotAStoreError, SchemaError: as `migrations.read_layout`.
    """
    steps = read_layout(connection, path).words
    backup = backup_path(path, now) if steps else None
    return MigrationPlan(path, steps, _size(path), backup, shutil.disk_usage(path.parent).free)


def backup_path(path: Path, now: datetime) -> Path:
    """Where a backup that is made at `now` (in UTC) goes: next to the store, under a name that is free."""
    stem = f"{path.name}.lens-backup-{now:%Y%m%dT%H%M%SZ}"
    names = (f"{stem}{f'-{number}' if number > 1 else ''}.db" for number in count(1))
    return next(path.with_name(name) for name in names if not os.path.lexists(path.with_name(name)))


def check_room(plan: MigrationPlan, folder: Path, backup: bool) -> None:
    """See that there is room in a folder for what a plan can take.

    Raises:
        OperationFailedError: there is less.
    """
    needed = plan.room_needed(backup)
    if plan.free_bytes < needed:
        less = "; --no-backup needs a third less" if backup else ""
        raise OperationFailedError(
            f"not enough room in {folder}: this can take {needed:,} bytes; {plan.free_bytes:,} are free; "
            "nothing was changed",
            hint=f"free space there{less}",
            path=str(folder),
        )


def migrate_safely(
    path: Path,
    timeout: float,
    now: datetime,
    *,
    backup: bool = True,
    force: bool = False,
    stopped: threading.Event | None = None,
) -> Migration:
    """Bring a store to the newest schema, after a copy of it was made and is on the disk.

    Args:
        path: The database file, absolute. No connection of this process may have it open.
        timeout: Seconds to wait for others to close it.
        now: The current time, in UTC; names the backup.
        backup: Whether to make a copy.
        force: Do it also while another process has the file open.
        stopped: Ends the waiting and the copying when it is set.

    Raises:
        BusyError: another process has the file open, or with `force`, holds a lock. Nothing was changed.
        OperationFailedError: there is no room, or a write failed. Nothing was changed.
        StoreError: as `migrations.migrate`. Nothing was changed.
    """
    deadline, stopped = time.monotonic() + timeout, stopped or threading.Event()
    made: Path | None = None
    check_is_sqlite(path)
    check_may_write(path)
    try:
        with closing(connect(path, timeout)) if force else alone(path, deadline, stopped) as db:
            plan = plan_migration(db, path, now)
            if plan.backup is None:
                return Migration()
            check_room(plan, path.parent, backup)
            if backup:
                made = back_up(db, path, plan.backup, stopped)
        left = max(0.0, deadline - time.monotonic())
        return Migration(tuple(migrate(path, left, stopped, force=force)), made)
    except SchemaError as error:
        cause = error.__cause__
        if not (isinstance(cause, sqlite3.Error) and is_busy(cause)):
            raise
        raise (translate_write(cause, path) if force else _busy(path)) from cause
    except sqlite3.Error as error:
        raise (_busy(path) if is_busy(error) and not force else translate_write(error, path)) from error


def back_up(db: sqlite3.Connection, path: Path, target: Path, stopped: threading.Event | None = None) -> Path:
    """Copy the store behind a connection (which is in no transaction) to `target`, readable by its owner alone.

    When it returns, the copy survives the death of the machine. One that fails leaves no file.

    Raises:
        OperationFailedError, ReadOnlyStoreError: it cannot be written. Nothing was changed.
        BusyError: `stopped` was set.
    """
    part = target.with_name(f"{target.name}.part")
    try:
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise _not_written(target, error) from error
    try:
        _copy(db, part, stopped or threading.Event())
        os.fsync(descriptor)
        os.rename(part, target)
        sync_folder(target.parent)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(part)
        if isinstance(error, OSError | sqlite3.Error):
            raise _not_written(target, error) from error
        if isinstance(error, _Stopped):
            raise BusyError(f"the backup of {path} was stopped; nothing was changed") from error
        raise
    finally:
        os.close(descriptor)
    return target


def _copy(db: sqlite3.Connection, target: Path, stopped: threading.Event) -> None:
    def check(status: int, remaining: int, total: int) -> None:
        if stopped.is_set():
            raise _Stopped

    with closing(sqlite3.connect(target, isolation_level=None)) as copy:
        copy.execute("PRAGMA journal_mode = off")
        copy.execute("PRAGMA synchronous = off")
        db.backup(copy, pages=_PAGES_AT_ONCE, progress=check)


def alone(path: Path, deadline: float, stopped: threading.Event) -> closing[sqlite3.Connection]:
    """The only connection to the file, closed at the end; raises SQLite's error where there is another.

    Args:
        path: The database file. No connection of this process may have it open.
        deadline: Until when others are waited for, in seconds of the monotonic clock.
        stopped: Ends the waiting when it is set.
    """
    return closing(retry_while_locked(lambda: _open_alone(path), deadline, stopped))


def _open_alone(path: Path) -> sqlite3.Connection:
    db = connect(path, SLICE)
    try:
        # As in a migration: in WAL mode only this sees whether anybody else is there. The lock outlasts the COMMIT.
        db.execute("PRAGMA locking_mode = exclusive")
        db.execute("BEGIN EXCLUSIVE")
        db.execute("COMMIT")
        _check_alone(db, path)
    except BaseException:
        db.close()
        raise
    return db


def _check_alone(db: sqlite3.Connection, path: Path) -> None:
    """In the other modes a connection that does nothing at the moment holds no lock: those that have it open count."""
    if db.execute("PRAGMA journal_mode").fetchone()[0] != "wal" and openers(path):
        raise _OpenElsewhereError("another process has the file open")


def _size(path: Path) -> int:
    """Bytes of the file and its WAL."""
    return sum(os.stat(f"{path}{end}").st_size for end in ("", "-wal") if os.path.exists(f"{path}{end}"))


def _busy(path: Path) -> BusyError:
    return BusyError(
        f"{path} cannot be migrated while another process has it open; nothing was changed",
        hint="stop the processes that use the store, then `lens migrate` again, or wait longer: --timeout SECONDS\n"
        "lens doctor names the processes; --force migrates nevertheless",
        path=str(path),
    )


def _not_written(target: Path, error: OSError | sqlite3.Error) -> LensError:
    why = error.strerror if isinstance(error, OSError) else str(error)
    kind = ReadOnlyStoreError if isinstance(error, PermissionError) else OperationFailedError
    return kind(
        f"cannot write the backup {target}: {why}; nothing was changed",
        hint="make room, or the folder writable; --no-backup goes without",
        path=str(target),
    )
