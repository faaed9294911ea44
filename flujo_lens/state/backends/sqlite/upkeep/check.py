"""What is wrong with a database file: its checks, in the order of the report. Nothing is written.

SQLite counts, so that memory does not grow with the store. What would take minutes on a large file (every page, every
blob) is bounded unless all of it is asked for: the page check by time, values by a sample of the newest rows.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from datetime import datetime
from functools import cache, partial
from pathlib import Path

from flujo_lens.errors import SchemaError
from flujo_lens.state.backends.sqlite.engine.other_processes import lock_holders, openers
from flujo_lens.state.backends.sqlite.engine.read_connection import is_busy
from flujo_lens.state.backends.sqlite.engine.session import Session
from flujo_lens.state.backends.sqlite.reads.deletion_marks import unfinished_ids
from flujo_lens.state.backends.sqlite.reads.lock_yield import LockYielder
from flujo_lens.state.backends.sqlite.reads.orphans import Orphans, find_orphans
from flujo_lens.state.backends.sqlite.schema.migrations import read_layout
from flujo_lens.state.backends.sqlite.schema.shape import KNOWN_VERSION, Shape
from flujo_lens.state.backends.sqlite.upkeep.indexes import missing_of_ours
from flujo_lens.state.backends.sqlite.upkeep.repair import missing_indexes
from flujo_lens.state.deletion import ORPHANS_AGE
from flujo_lens.state.interpret import BAD, decode
from flujo_lens.state.maintenance import Finding

PAGE_SECONDS = 5.0
"""How long the pages of a file are looked at, unless `full`."""

SAMPLE = 2_000
"""Rows of each table whose values are looked at, the newest first, unless `full`."""

LARGE_WAL = 64 << 20
"""Bytes of a WAL that says that it cannot be folded into the file."""

_MOST_MESSAGES = 20
_AGAIN = 0.05
_BLOBS = {
    "workflow_state": ("pipeline_context", "step_history", "metadata"),
    "runs": ("final_context_blob",),
    "spans": ("attributes",),
    "evaluations": ("metadata",),
    "system_state": ("value",),
}
_TIMES = {
    "workflow_state": ("created_at", "updated_at"),
    "runs": ("created_at", "start_time", "updated_at", "end_time"),
}
_SMALL_FIRST = ("system_state", "evaluations", "traces", "runs", "steps", "spans", "workflow_state")
_LOOKS_LIKE_A_TIME = "GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]*'"
_OF_ITS_OWNER = "change it with the application that made it"
_SAVE_WHAT_CAN_BE = "copy the file first; then, to save what can be read: sqlite3 FILE .recover"


def check(session: Session, path: Path, now: datetime, *, full: bool = False) -> list[Finding]:
    """Look for what is wrong with a store.

    Args:
        session: An open session; its connection is interrupted when the time for the pages is over.
        path: The file.
        now: The current time.
        full: Look at everything, however long it takes.
    """
    orphans = cache(lambda: find_orphans(session, now - ORPHANS_AGE, LockYielder(session.connection)))
    checks: tuple[tuple[str, Callable[[], Finding]], ...] = (
        ("integrity", lambda: _integrity(session, full)),
        ("schema", lambda: _schema(session, path)),
        ("unfinished deletions", lambda: _unfinished(session)),
        *((f"orphans in {table}", partial(_orphans, session, table, orphans)) for table in _children(session.shape)),
        ("statuses that disagree", lambda: _disagreements(session)),
        ("unreadable values", lambda: _unreadable(session, full)),
        ("unreadable times", lambda: _bad_times(session, full)),
        ("free pages", lambda: _free_pages(session)),
        ("WAL", lambda: _wal(path)),
        ("files of the WAL", lambda: _files_of_wal(path)),
        ("indexes", lambda: _indexes(session, path)),
        ("locks", lambda: _locks(path)),
    )
    return [_tried(name, check) for name, check in checks]


def _tried(name: str, check: Callable[[], Finding]) -> Finding:
    """What a check finds; where the damage keeps it from looking, that."""
    try:
        return check()
    except sqlite3.DatabaseError as error:
        # Of the two that pass by themselves, the reader tries the one again, and the other is the caller's wish.
        if is_busy(error) or getattr(error, "sqlite_errorname", "") == "SQLITE_INTERRUPT":
            raise
        return Finding(name, False, None, f"could not be checked: {error}", _SAVE_WHAT_CAN_BE)


# --- the file


def _integrity(session: Session, full: bool) -> Finding:
    if full:
        found, seen = _messages(session, f"PRAGMA integrity_check({_MOST_MESSAGES})"), "every page, row and index"
    else:
        found, seen = _look_for_a_while(session)
    if not found:
        return Finding("integrity", True, 0, f"no damage in {seen}")
    more = f", and {len(found) - 1} more" if len(found) > 1 else ""
    return Finding("integrity", False, len(found), f"the file is damaged: {found[0]}{more}", _SAVE_WHAT_CAN_BE)


def _look_for_a_while(session: Session) -> tuple[list[str], str]:
    """Messages about the tables, looked at one by one until the time is over; and what was looked at."""
    end, seen = time.monotonic() + PAGE_SECONDS, list[str]()
    found: list[str] = []
    for table in (table for table in _SMALL_FIRST if session.shape.columns.get(table)):
        messages = _within(session, f"PRAGMA quick_check({table})", end - time.monotonic())
        if messages is None:
            part = ", ".join(seen) or "a part of the file"
            return found, f"{part}, after {PAGE_SECONDS:g} seconds; --full looks at everything"
        found += messages
        seen.append(table)
    return found, "the pages of its tables; --full compares the indexes, too"


def _within(session: Session, pragma: str, seconds: float) -> list[str] | None:
    """What a check says; None if it takes longer than `seconds`."""
    over, done = threading.Event(), threading.Event()

    def interrupt() -> None:
        # Again and again: an interrupt that comes before the statement has begun is none.
        while not done.wait(_AGAIN if over.is_set() else max(0.0, seconds)):
            over.set()
            session.connection.interrupt()

    watch = threading.Thread(target=interrupt, daemon=True)
    watch.start()
    try:
        return _messages(session, pragma)
    except sqlite3.OperationalError as error:
        if over.is_set() and getattr(error, "sqlite_errorname", "") == "SQLITE_INTERRUPT":
            return None
        raise
    finally:
        done.set()
        watch.join()


def _messages(session: Session, pragma: str) -> list[str]:
    return [str(row[0]) for row in session.rows(pragma) if row[0] != "ok"]


def _schema(session: Session, path: Path) -> Finding:
    version = session.shape.version
    if version > KNOWN_VERSION:
        detail = f"version {version} is newer than {KNOWN_VERSION}, the newest known one: it can be read as it is"
        return Finding("schema", False, 1, detail, "update flujo-lens before anything is changed")
    try:
        older = read_layout(session.connection, path).older
    except SchemaError as error:
        return Finding("schema", False, 1, f"{error.message}: it can be read as it is", _OF_ITS_OWNER)
    if not older:
        return Finding("schema", True, 0, "up to date")
    detail = f"older, which is harmless; a migration would change {', '.join(older)}"
    return Finding("schema", True, len(older), detail, "once the application is of 0.6 or newer: lens migrate")


def _free_pages(session: Session) -> Finding:
    free, pages, size = (int(session.value(f"PRAGMA {name}")) for name in ("freelist_count", "page_count", "page_size"))
    if not free:
        return Finding("free pages", True, 0, "none")
    share = 100 * free / pages
    detail = f"{share:.0f} % of the file ({free * size:,} bytes) are free for new runs; the file keeps its size"
    fix = "to give them back, while nothing else uses the file: lens optimize --vacuum" if share >= 25 else None
    return Finding("free pages", True, free, detail, fix)


def _wal(path: Path) -> Finding:
    try:
        size = os.stat(f"{path}-wal").st_size
    except OSError:
        return Finding("WAL", True, 0, "there is none")
    if size < LARGE_WAL:
        return Finding("WAL", True, size, f"{size:,} bytes are not in the file yet, which is harmless")
    detail = f"{size:,} bytes: a reader that never ends, or a dead writer, keeps them from going into the file"
    fix = "close what has the store open; to fold in what is not being read: lens doctor --fix"
    return Finding("WAL", False, size, detail, fix, "fold the WAL into the file")


def _files_of_wal(path: Path) -> Finding:
    """A program that opens a store which it may not write leaves such files; SQLite then calls it read-only."""
    name, may = "files of the WAL", _who_may_write(path)
    closed = [f"{path}{end}" for end in ("-wal", "-shm") if may & ~_who_may_write(f"{path}{end}", may)]
    if not closed:
        return Finding(name, True, 0, "all who may write the store may write them")
    detail = f"who may write the store may not write {' and '.join(closed)}: nothing can be saved"
    return Finding(name, False, len(closed), detail, f"chmod --reference={path} {' '.join(closed)}")


def _who_may_write(path: Path | str, otherwise: int = 0) -> int:
    try:
        return os.stat(path).st_mode & 0o222
    except OSError:
        return otherwise


def _indexes(session: Session, path: Path) -> Finding:
    try:
        older = read_layout(session.connection, path).is_older
    except SchemaError:
        return Finding("indexes", True, None, "nothing can be changed in a store of this schema")
    missing = missing_indexes(session.shape)
    if not missing:
        return _optional_indexes(session, path)
    names = ", ".join(missing)
    detail = f"{names} missing: lists and clean-ups take longer"
    if older:
        return Finding("indexes", True, len(missing), detail, "to make them: lens migrate")
    return Finding("indexes", False, len(missing), detail, "to make them: lens doctor --fix", f"make {names}")


def _optional_indexes(session: Session, path: Path) -> Finding:
    absent = missing_of_ours(session.connection, path)
    if not absent:
        return Finding("indexes", True, 0, "all are there")
    detail = f"failures and statistics of large stores are slow without {', '.join(index.name for index in absent)}"
    return Finding("indexes", True, len(absent), detail, "to make them: lens optimize")


def _locks(path: Path) -> Finding:
    holders, having = lock_holders(path), openers(path)
    if holders is None and having is None:
        return Finding("locks", True, None, "this system does not tell who holds them")
    if found := (holders or set()) | (having or set()):
        names = ", ".join(f"{pid} ({_command(pid)})" for pid in sorted(found))
        return Finding("locks", True, len(found), f"the processes {names} have the store open")
    return Finding("locks", True, 0, "no other process has the store open")


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "unknown"


# --- what is in it


def _children(shape: Shape) -> list[str]:
    tables = ("steps", "spans", "traces", "evaluations")
    return [table for table in tables if shape.has(table, "run_id")]


def _unfinished(session: Session) -> Finding:
    count = len(unfinished_ids(session))
    if not count:
        return Finding("unfinished deletions", True, 0, "none was interrupted")
    detail = "runs of which a part is deleted: the process died that deleted them, and the next clean-up goes on"
    return Finding(
        "unfinished deletions", False, count, detail, "the next clean-up finishes them: lens prune --orphans"
    )


def _orphans(session: Session, table: str, find: Callable[[], Orphans]) -> Finding:
    known = [name for name in ("runs", "workflow_state") if session.shape.has(name, "run_id")]
    nowhere = " AND ".join(f"NOT EXISTS (SELECT 1 FROM {name} k WHERE k.run_id = c.run_id)" for name in known)
    rows = int(session.value(f"SELECT count(*) FROM {table} c WHERE {nowhere}"))
    name = f"orphans in {table}"
    if not rows:
        return Finding(name, True, 0, "every row has its run")
    some = session.value(f"SELECT run_id FROM {table} c WHERE {nowhere} LIMIT 1")
    detail = f"rows of runs that neither runs nor workflow_state know, such as {some!s}: left by a deletion in part"
    old = sum(find().old.get(table, {}).values())
    which = "them" if old == rows else f"those older than 1d, {old:,} by now, since a run may be saved later"
    return Finding(name, False, rows, detail, f"to delete {which}: lens prune --orphans")


def _disagreements(session: Session) -> Finding:
    """The statuses that are not completed are few, and found by an index: only their runs are compared."""
    name, shape = "statuses that disagree", session.shape
    if not (shape.has("runs", "status") and shape.has("workflow_state", "status")):
        return Finding(name, True, 0, "a run's status is in one table alone")
    odd_states = "(s.status < 'completed' OR s.status > 'completed') AND r.status <> s.status"
    odd_runs = "(r.status < 'completed' OR r.status > 'completed') AND s.status = 'completed'"
    count = int(
        session.value(
            "SELECT (SELECT count(*) FROM workflow_state s CROSS JOIN runs r ON r.run_id = s.run_id "
            f"WHERE {odd_states}) + (SELECT count(*) FROM runs r CROSS JOIN workflow_state s ON s.run_id = r.run_id "
            f"WHERE {odd_runs})"
        )
    )
    if not count:
        return Finding(name, True, 0, "runs and workflow_state say the same")
    detail = (
        "runs and workflow_state differ, as the library leaves them (paused, cancelled): harmless, the state counts"
    )
    return Finding(name, True, count, detail)


def _unreadable(session: Session, full: bool) -> Finding:
    counts = {
        f"{table}.{column}": count
        for table, columns in _BLOBS.items()
        for column in columns
        if session.shape.has(table, column) and (count := _bad_values(session, table, column, full))
    }
    seen = "all" if full else f"the newest {SAMPLE:,} rows of each table"
    if not counts:
        return Finding("unreadable values", True, 0, f"every value parses in {seen}")
    places = ", ".join(f"{count} in {where}" for where, count in counts.items())
    detail = f"{places} are no JSON, in {seen}: such a run cannot go on"
    fix = "restore them from a backup; lens show has what is left of a run; to name the runs: lens list --all"
    return Finding("unreadable values", False, sum(counts.values()), detail, fix)


def _bad_values(session: Session, table: str, column: str, full: bool) -> int:
    """How many texts do not parse; SQLite leaves those over that it takes for no JSON (NaN is none to it)."""
    sample = "" if full else f"ORDER BY {session.shape.row(table)} DESC LIMIT {SAMPLE}"
    rows = session.rows(
        f"SELECT value FROM (SELECT {column} AS value FROM {table} {sample}) "
        "WHERE typeof(value) = 'text' AND NOT json_valid(value)"
    )
    return sum(decode(value) is BAD for (value,) in rows)


def _bad_times(session: Session, full: bool) -> Finding:
    counts = {
        f"{table}.{column}": count
        for table, columns in _TIMES.items()
        for column in columns
        if session.shape.has(table, column) and (count := _bad_times_in(session, table, column, full))
    }
    if not counts:
        return Finding("unreadable times", True, 0, "every time that was looked at can be read")
    places = ", ".join(f"{count} in {where}" for where, count in counts.items())
    detail = f"{places} are no times: such a run is of unknown age, and no clean-up takes it"
    fix = "harmless else; to list runs without a readable start first: lens list --reverse"
    return Finding("unreadable times", False, sum(counts.values()), detail, fix)


def _bad_times_in(session: Session, table: str, column: str, full: bool) -> int:
    """What SQLite cannot read either is asked about in Python: it reads fewer forms."""
    everything = full or session.shape.indexed(table, column)
    sample = "" if everything else f"ORDER BY {session.shape.row(table)} DESC LIMIT {SAMPLE}"
    return int(
        session.value(
            f"SELECT count(*) FROM (SELECT {column} AS at FROM {table} {sample}) "
            f"WHERE at <> '' AND (at NOT {_LOOKS_LIKE_A_TIME} OR julianday(at) IS NULL) AND NOT lens_is_time(at)"
        )
    )
