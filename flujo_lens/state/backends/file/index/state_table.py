"""What `list` needs of every file of a folder, as columns, and how it is gathered.

A row counts as long as the file's modification time, change time, size and inode are what the system says
now. Two writes within one tick of the file system's clock could leave all four equal, so a row is kept only
if the file had been at rest for two seconds when its folder was scanned: a later write then has another change
time, which (other than the modification time) no program can set. What has changed within the last two
seconds is read each time.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, Self, cast

from flujo_lens.state import interpret
from flujo_lens.state.backends.file.format import document as documents
from flujo_lens.state.backends.file.format.document import HISTORY, UnreadableFile
from flujo_lens.state.timestamps import EPOCH, parse_instant

if TYPE_CHECKING:
    from flujo_lens.state.backends.file.index.history_table import HistoryScan

REST_NS = 2_000_000_000
"""How long a file must have been at rest before its row is kept; no file system's clock is coarser."""

MICROSECOND = timedelta(microseconds=1)

Moment = int | str | None
"""Microseconds since 1970; the text of a time without a zone; None for what is no time."""

Stamp = tuple[int, int, int, int]
"""A file's modification time, change time, size and inode."""

Facts = tuple[Any, ...]
"""What a file tells for the columns from `Table.run_id` on, as it stands there."""

_NO_STAMP: Stamp = (0, 0, 0, 0)
_NO_RUN: Facts = (None,) * 10
_NOTHING: dict[str, Any] = {}


FAILED_UNSEEN = 1
"""Failed, with no step that did: cancelled, if the history says that the run completed."""

PAUSED_UNASKED = 2
"""Paused without a question: failed, unless the history says something else."""

PAUSED_UNLESS_FAILED = 3
"""Paused: failed, if the history says that the run did."""


class Stopped(Exception):  # noqa: N818 - it is no error
    """The caller does not want the result any more."""


class Rows:
    """What tables have in common: named tuples of columns that begin with `name` and the four parts of a `Stamp`.

    Columns, because so many small objects would cost more than all that is done with them.
    """

    __slots__ = ()

    @classmethod
    def empty(cls) -> Self:
        """A table without rows."""
        return cls.of([] for _ in range(cls.width()))

    @classmethod
    def width(cls) -> int:
        """How many columns there are."""
        return len(cast("Any", cls)._fields)

    @classmethod
    def of(cls, columns: Iterable[list[Any]]) -> Self:
        """A table of these columns."""
        return cast("Self", cast("Any", cls)._make(columns))

    @property
    def columns(self) -> tuple[list[Any], ...]:
        """All columns."""
        return cast("tuple[list[Any], ...]", self)

    def extend(self, other: Self) -> None:
        """Add the rows of another table."""
        for column, more in zip(self.columns, other.columns, strict=True):
            column += more

    def take(self, rows: Iterable[int]) -> Self:
        """A new table of some rows."""
        chosen = list(rows)
        return self.of([column[at] for at in chosen] for column in self.columns)


class _TableColumns(NamedTuple):
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
    doubt: list[int | None]


class Table(Rows, _TableColumns):
    """Files of states, one a row. One that is no run has None as `run_id` and as `readable`.

    `modified` and `changed` are in nanoseconds. `doubt` is how the status of a state depends on what a history says of
    the run: one of `FAILED_UNSEEN`, `PAUSED_UNASKED`, `PAUSED_UNLESS_FAILED`, or 0.
    """

    __slots__ = ()


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
    has_history: bool = False
    """Whether there is a sub-folder of histories."""
    histories: HistoryScan | None = None

    def settled(self) -> Table:
        """The rows that may be kept."""
        if not self.moving:
            return self.table
        return self.table.take(at for at, name in enumerate(self.table.name) if name not in self.moving)


# --- scanning


def at_rest() -> int:
    """Nanoseconds since 1970: what changed last before this may be kept."""
    return time.time_ns() - REST_NS


def scan(folder: int, known: Table, stop: threading.Event) -> Scan:
    """Look at every file of a folder; read those of which `known` has no row that holds.

    Raises:
        Stopped: `stop` was set on the way.
        OSError: the folder cannot be read.
    """
    found = Scan()
    rested = at_rest()
    holding, others = unchanged(folder, _names(folder, found), known, stop)
    if not others and len(holding) == len(known.name):
        found.table = known
        return found
    read = _table_of(_read(folder, others, found, stop))
    found.moving.update(name for name, changed in zip(read.name, read.changed, strict=True) if changed > rested)
    found.reread = sum(name not in found.moving for name in read.name)
    found.table = known.take(holding)
    found.table.extend(read)
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
            elif name == HISTORY and file.is_dir(follow_symlinks=False):
                found.has_history = True
            elif _is_file(file):
                found.foreign += 1
    found.blobs = [name for name in names if documents.is_blob(name)]
    return [name for name in names if not documents.is_blob(name)] if found.blobs else names


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link that leads in a circle, or where access is denied
        return False


def unchanged(
    folder: int, names: list[str], known: Rows, stop: threading.Event
) -> tuple[list[int], list[tuple[str, Stamp | None]]]:
    """The rows of `known` that hold, and the other files. A second look at a big folder spends its time here."""
    known_names, modified, changed, size, inode = known.columns[:5]
    row_of = dict(zip(known_names, range(len(known_names)), strict=True)).get
    holding: list[int] = []
    others: list[tuple[str, Stamp | None]] = []
    for name in names:
        if stop.is_set():
            raise Stopped
        try:
            now = os.stat(name, dir_fd=folder)
        except OSError:
            others.append((name, None))
            continue
        stamp = now.st_mtime_ns, now.st_ctime_ns, now.st_size, now.st_ino
        at = row_of(name)
        if at is not None and stamp == (modified[at], changed[at], size[at], inode[at]):
            holding.append(at)
        else:
            others.append((name, stamp if stat.S_ISREG(now.st_mode) else None))
    return holding, others


def _read(
    folder: int, files: list[tuple[str, Stamp | None]], found: Scan, stop: threading.Event
) -> list[tuple[str, Stamp, Facts | None]]:
    """What the files tell; those that are gone, or no files, are left out.

    No more is done here with each than must be: what runs between two parses runs on cold caches.
    """
    rows: list[tuple[str, Stamp, Facts | None]] = []
    for name, stamp in files:
        if stop.is_set():
            raise Stopped
        try:
            if stamp is None:
                stamp = _second_look(folder, name)
            rows.append((name, stamp, _facts_of(documents.load_object(folder, name, stamp[2]))))
        except FileNotFoundError:
            continue
        except UnreadableFile as error:
            if isinstance(error.__cause__, OSError):
                # Whether this user may read the file can change without a change of the file.
                found.moving.add(name)
            rows.append((name, stamp or _NO_STAMP, _unreadable(stamp or _NO_STAMP)))
    return rows


def _second_look(folder: int, name: str) -> Stamp:
    """Why a file could not be looked at, or is none."""
    now = documents.stat_document(folder, name)
    if now is None:
        raise FileNotFoundError
    return now.st_mtime_ns, now.st_ctime_ns, now.st_size, now.st_ino


def _facts_of(state: dict[str, Any]) -> Facts | None:
    """What a list needs of a state, as it stands there; None for an object that is no state."""
    if not documents.is_state(state):
        return None
    get = state.get
    metadata = get("metadata")
    meta = metadata.get if isinstance(metadata, dict) else _NOTHING.get
    return (
        get("run_id"),
        get("created_at"),
        get("updated_at"),
        get("status"),
        get("pipeline_name"),
        get("pipeline_version"),
        get("parent_run_id") or meta("parent_run_id"),
        get("is_background_task", meta("is_background_task")),
        True,
        _doubt(state) if get("status") in ("failed", "paused") else 0,
    )


def _doubt(state: dict[str, Any]) -> int:
    """How the status of a failed or paused state depends on a history."""

    def read(run_status: str | None) -> str:
        history, context = state.get("step_history"), state.get("pipeline_context")
        raw = interpret.RawRun("", has_state=True, state_status=state["status"], history=history, context=context)
        raw.run_status = run_status
        return interpret.status_of(raw)

    if state["status"] == "failed":
        return FAILED_UNSEEN if read("completed") != "failed" else 0
    if read(None) == "failed":
        return PAUSED_UNASKED
    return PAUSED_UNLESS_FAILED if read("failed") == "failed" else 0


def _unreadable(stamp: Stamp) -> Facts:
    when = documents.instant_of(stamp[0]).isoformat() if stamp[0] else None
    return (None, when, when, None, None, None, None, False, False, 0)


def _table_of(rows: list[tuple[str, Stamp, Facts | None]]) -> Table:
    """The rows with what they tell by the rules of everything that is shown."""
    if not rows:
        return Table.empty()
    names, stamps, facts = zip(*rows, strict=True)
    modified, changed, size, inode = map(list, zip(*stamps, strict=True))
    ids, created, updated, statuses, pipelines, versions, parents, background, readable, doubts = zip(
        *(one or _NO_RUN for one in facts), strict=True
    )
    moments = [moment_of(text) for text in created]
    kinds = [_kind(*kind) for kind in zip(_texts(statuses), _texts(pipelines), _texts(versions), strict=True)]
    return Table(
        name=list(names),
        modified=modified,
        changed=changed,
        size=size,
        inode=inode,
        run_id=[one and documents.run_id_of(run_id, name) for one, run_id, name in zip(facts, ids, names, strict=True)],
        created=moments,
        updated=[m if u == c else moment_of(u) for m, c, u in zip(moments, created, updated, strict=True)],
        status=["failed" if doubt == PAUSED_UNASKED else kind[0] for kind, doubt in zip(kinds, doubts, strict=True)],
        pipeline=[kind[1] for kind in kinds],
        version=[kind[2] for kind in kinds],
        parent=_texts(parents),
        background=[bool(one) for one in background],
        readable=list(readable),
        doubt=list(doubts),
    )


def moment_of(text: Any) -> Moment:
    """A stored time as a table keeps it."""
    try:
        when = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    if text[4:8:3] != "--":  # `parse_instant` reads no such form
        return None
    if when.tzinfo is UTC:
        return (when - EPOCH) // MICROSECOND
    if when.tzinfo is None:
        return str(text)
    aware = parse_instant(text)
    return None if aware is None else (aware - EPOCH) // MICROSECOND


@lru_cache(maxsize=4096)
def _kind(status: str | None, pipeline: str | None, version: str | None) -> tuple[str, str, str]:
    """Status, pipeline and version by the rules of everything that is shown; a store has few of them."""
    raw = interpret.RawRun("", has_state=True, state_status=status, state_name=pipeline, state_version=version)
    return interpret.status_of(raw), *interpret.named(raw)


def _texts(values: Iterable[Any]) -> list[str | None]:
    return [value if isinstance(value, str) or value is None else str(value) for value in values]
