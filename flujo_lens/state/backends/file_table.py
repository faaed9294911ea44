"""What `list` needs of every file of a folder, as columns, and how it is gathered.

A row counts as long as the file's modification time, change time, size and inode are what the system says
now. Two writes within one tick of the file system's clock could leave all four equal, so a row is kept only
if the file had been at rest for two seconds when its folder was scanned: a later write then has another change
time, which (other than the modification time) no program can set. What has changed within the last two
seconds is read each time.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple, cast

from flujo_lens.state import interpret
from flujo_lens.state.backends import file_documents as documents
from flujo_lens.state.backends.file_documents import UnreadableFile
from flujo_lens.state.timestamps import EPOCH, parse_instant
from flujo_lens.state.views import UNREADABLE

__all__ = ["MICROSECOND", "Moment", "Row", "Scan", "Stopped", "Table", "scan"]

REST_NS = 2_000_000_000
"""How long a file must have been at rest before its row is kept; no file system's clock is coarser."""

MICROSECOND = timedelta(microseconds=1)

Moment = int | str | None
"""Microseconds since 1970; the text of a time without a zone; None for what is no time."""

Row = tuple[Any, ...]
Stamp = tuple[int, int, int, int]


class Stopped(Exception):  # noqa: N818 - it is no error
    """The caller does not want the result any more."""


class Table(NamedTuple):
    """Files, one a row. Columns, because so many small objects would cost more than all that is done with them.

    A file that is no run has None from `run_id` on. `modified` and `changed` are in nanoseconds.
    """

    name: list[str]
    modified: list[int]
    changed: list[int]
    size: list[int]
    inode: list[int]
    run_id: list[str | None]
    created: list[Moment]
    updated: list[Moment]
    status: list[str | None]
    pipeline: list[str | None]
    version: list[str | None]
    parent: list[str | None]
    background: list[bool | None]
    readable: list[bool | None]

    @classmethod
    def empty(cls) -> Table:
        """A table without rows."""
        return cls._make([] for _ in cls._fields)

    def add(self, row: Row) -> None:
        """Add one row."""
        for column, value in zip(cast("tuple[list[Any], ...]", self), row, strict=True):
            column.append(value)

    def take(self, rows: Iterable[int]) -> Table:
        """A new table of some rows."""
        chosen = list(rows)
        return Table._make([column[at] for at in chosen] for column in self)


_CHANGED = Table._fields.index("changed")
_NO_RUN = (None,) * (len(Table._fields) - Table._fields.index("run_id"))


@dataclass(slots=True)
class Scan:
    """A folder at one moment."""

    table: Table = field(default_factory=Table.empty)
    moving: set[str] = field(default_factory=set)
    """Names of files whose rows must not be kept."""
    reread: int = 0
    """Rows that are new and may be kept."""
    foreign: int = 0
    """Files of other names than a store's."""
    leftovers: list[str] = field(default_factory=list)
    blobs: list[str] = field(default_factory=list)

    def settled(self) -> Table:
        """The rows that may be kept."""
        if not self.moving:
            return self.table
        return self.table.take(at for at, name in enumerate(self.table.name) if name not in self.moving)


# --- scanning


def scan(folder: int, known: Table, stop: threading.Event) -> Scan:
    """Look at every file of a folder; read those of which `known` has no row that holds.

    Raises:
        Stopped: `stop` was set on the way.
        OSError: the folder cannot be read.
    """
    found = Scan()
    at_rest = time.time_ns() - REST_NS
    holding, others = _unchanged(folder, _names(folder, found), known, stop)
    found.table = known if not others and len(holding) == len(known.name) else known.take(holding)
    for name in others:
        if stop.is_set():
            raise Stopped
        row = _row(folder, name, found)
        if row is not None:
            found.table.add(row)
            if row[_CHANGED] > at_rest:
                found.moving.add(name)
            found.reread += name not in found.moving
    return found


def _names(folder: int, found: Scan) -> list[str]:
    """The names of the files that can be runs; the others are counted."""
    names = []
    with os.scandir(folder) as listing:
        for file in listing:
            name = file.name
            if name.endswith(documents.ENDING):
                names.append(name)
            elif name.endswith(documents.LEFTOVER):
                found.leftovers.append(name)
            elif file.is_file():
                found.foreign += 1
    found.blobs = [name for name in names if documents.is_blob(name)]
    return [name for name in names if not documents.is_blob(name)] if found.blobs else names


def _unchanged(folder: int, names: list[str], known: Table, stop: threading.Event) -> tuple[list[int], list[str]]:
    """The rows of `known` that hold, and the other names. A second look at a big folder spends its time here."""
    row_of = dict(zip(known.name, range(len(known.name)), strict=True)).get
    holding: list[int] = []
    others: list[str] = []
    for name in names:
        at = row_of(name)
        if at is None or stop.is_set():
            others.append(name)
            continue
        try:
            now = os.stat(name, dir_fd=folder)
        except OSError:
            others.append(name)
            continue
        if (
            known.modified[at] == now.st_mtime_ns
            and known.changed[at] == now.st_ctime_ns
            and known.size[at] == now.st_size
            and known.inode[at] == now.st_ino
        ):
            holding.append(at)
        else:
            others.append(name)
    return holding, others


def _row(folder: int, name: str, found: Scan) -> Row | None:
    """What is read of a file; None if the file is gone or no file."""
    stamp: Stamp = (0, 0, 0, 0)
    try:
        now = documents.stat_document(folder, name)
        if now is None:
            return None
        stamp = now.st_mtime_ns, now.st_ctime_ns, now.st_size, now.st_ino
        state = documents.load_object(folder, name, now.st_size)
    except FileNotFoundError:
        return None
    except UnreadableFile as error:
        if isinstance(error.__cause__, OSError):
            # Whether this user may read the file can change without a change of the file.
            found.moving.add(name)
        return _unreadable(name, stamp)
    return (name, *stamp, *(_run(name, state) if documents.is_state(state) else _NO_RUN))


def _unreadable(name: str, stamp: Stamp) -> Row:
    when = stamp[0] // 1000 if stamp[0] else None
    run_id = documents.stem_of(name)
    return (name, *stamp, run_id, when, when, UNREADABLE, "unknown", "latest", None, False, False)


def _run(name: str, state: dict[str, Any]) -> Row:
    metadata = state.get("metadata")
    meta = metadata if isinstance(metadata, dict) else {}
    created, updated = state.get("created_at"), state.get("updated_at")
    moment = _moment(created)
    parent = state.get("parent_run_id") or meta.get("parent_run_id")
    return (
        documents.run_id_of(state, name),
        moment,
        moment if updated == created else _moment(updated),
        *_kind(_text(state.get("status")), _text(state.get("pipeline_name")), _text(state.get("pipeline_version"))),
        _text(parent),
        bool(state.get("is_background_task", meta.get("is_background_task"))),
        True,
    )


def _moment(text: Any) -> Moment:
    when = parse_instant(text)
    if when is None:
        return None
    return text if datetime.fromisoformat(text).tzinfo is None else (when - EPOCH) // MICROSECOND


@lru_cache(maxsize=4096)
def _kind(status: str | None, pipeline: str | None, version: str | None) -> tuple[str, str, str]:
    """Status, pipeline and version by the rules of everything that is shown; a store has few of them."""
    raw = interpret.RawRun("", has_state=True, state_status=status, state_name=pipeline, state_version=version)
    return interpret.status_of(raw), *interpret.named(raw)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) or value is None else str(value)
