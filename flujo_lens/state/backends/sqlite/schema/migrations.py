"""Bringing an older store to the schema of 0.6.11: what that takes, and doing it in one transaction.

Tables whose columns, constraints or keys are others are built anew next to the old ones, every row is copied with
its rowid, and the new ones take the names. What has a new name moves there (``start_time`` of a run is
``created_at``; where an old table has both, the one that reading believes); what has no place stays as a further
column that may be NULL (``error_blob`` of a step). Rows whose run is not there stay.

A process that dies at any line leaves the old schema, and the next writer does it again.
"""

from __future__ import annotations

import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

from flujo_lens.errors import SchemaError
from flujo_lens.state.backends.sqlite.engine.lock_retry import (
    SLICE,
    check_may_write,
    connect,
    retry_while_locked,
    transaction,
    translate_write,
)
from flujo_lens.state.backends.sqlite.engine.read_connection import check_is_sqlite, is_busy
from flujo_lens.state.backends.sqlite.schema.shape import KNOWN_VERSION, Shape, quoted, read_shape
from flujo_lens.state.backends.sqlite.schema.tables import INDEXES, TABLES, create_index, create_table

_SOURCES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "runs": {"created_at": ("start_time", "created_at"), "updated_at": ("updated_at", "end_time")},
    "steps": {
        "output": ("output", "output_blob"),
        "cost_usd": ("cost_usd", "cost"),
        "token_counts": ("token_counts", "tokens"),
        "execution_time_ms": ("execution_time_ms", "duration_ms"),
        "created_at": ("created_at", "end_time", "start_time"),
    },
}
"""The old columns that a column's values come from; of a row's, the first that is set. Else that of its name."""

_MOVED = {"runs": {"start_time"}, "steps": {"output_blob", "cost", "tokens", "duration_ms"}}
"""Old columns that need not stay."""

_OLD_COLUMNS = {
    table: frozenset(source for column, sources in by_column.items() for source in sources if source != column)
    for table, by_column in _SOURCES.items()
}
"""Those in which the value of another column may be."""

_OLD_MUSTS = {"runs": {"start_time"}, "steps": {"start_time", "step_run_id"}}
"""Columns without a place in the new schema that old tables must be given."""

_STANDS_FOR_NOTHING = {"pipeline_id": "unknown", "status": "running"}
_STATUS_CHECK = re.compile(r"\bCHECK\s*\(\s*\"?status\"?\s+IN\b", re.IGNORECASE)


V = TypeVar("V")


def moved(table: str, row: Mapping[str, V], is_set: Callable[[V], bool]) -> dict[str, V]:
    """The values of a row of an old table by the columns where `migrate` puts them; what has no place stays.

    Args:
        row: Its values by column.
        is_set: Whether a value is more than NULL or empty.
    """
    if table not in _OLD_COLUMNS or _OLD_COLUMNS[table].isdisjoint(row):
        return dict(row)
    found = {column: value for column, value in row.items() if column not in _MOVED.get(table, ())}
    for column, sources in _SOURCES.get(table, {}).items():
        value = next((row[source] for source in sources if source in row and is_set(row[source])), None)
        if value is not None:
            found[column] = value
    return found


def nothing(column: str, declared: str) -> str | int:
    """What stands for nothing in a column that must have a value."""
    return _STANDS_FOR_NOTHING.get(column, "" if declared.upper().startswith("TEXT") else 0)


class _Column(NamedTuple):
    """A row of ``PRAGMA table_info``."""

    cid: int
    name: str
    type: str
    not_null: int
    default: str | None
    key: int

    @property
    def must_be_given(self) -> bool:
        return bool(self.not_null) and self.default is None and not self.key


class _Table:
    """A table as it is, and as it should be."""

    def __init__(self, db: sqlite3.Connection, name: str) -> None:
        self.name, self.wanted = name, TABLES[name]
        rows = db.execute(f"PRAGMA table_info({name})").fetchall()
        self.columns = {row[1].lower(): _Column(*row)._replace(name=row[1].lower()) for row in rows}
        found = db.execute("SELECT sql FROM sqlite_master WHERE type = 'table' AND lower(name) = ?", (name,)).fetchone()
        self.sql = str(found[0]) if found else ""
        self.missing = [column for column in self.wanted if column not in self.columns]

    @property
    def foreign_musts(self) -> list[str]:
        """Unknown columns that must be given."""
        known = self.wanted.keys() | _OLD_MUSTS.get(self.name, set())
        return [c.name for c in self.columns.values() if c.must_be_given and c.name not in known]

    def differences(self) -> list[str]:
        """Why the table cannot stay as it is, in words; nothing if it can."""
        if not self.columns:
            return ["is not there"]
        strict = [column for column in self.columns if self._is_too_strict(column)]
        words = [f"lacks {', '.join(self.missing)}"] if self.missing else []
        words += [f"requires {', '.join(strict)}"] if strict else []
        words += ["takes only some statuses"] if _STATUS_CHECK.search(self.sql) else []
        return words

    def _is_too_strict(self, column: str) -> bool:
        """Whether a value must be given, or be the only one, where the new schema does not ask for it."""
        found, wanted = self.columns[column], self.wanted.get(column, "")
        is_key, may_be_key = bool(found.key), "PRIMARY KEY" in wanted
        return (found.must_be_given and "NOT NULL" not in wanted) or (is_key and not may_be_key)

    def can_be_extended(self) -> bool:
        """Whether adding columns is all that it takes."""
        sources = _SOURCES.get(self.name, {})
        easy = all(
            "NOT NULL" not in self.wanted[c] and "PRIMARY KEY" not in self.wanted[c] and c not in sources
            for c in self.missing
        )
        return easy and bool(self.missing) and len(self.differences()) == 1

    def staying(self) -> list[_Column]:
        """The old columns without a place that stay."""
        gone = self.wanted.keys() | _MOVED.get(self.name, set())
        return [column for column in self.columns.values() if column.name not in gone]

    def value(self, column: str) -> str | None:
        """SQL for the value of a new column in an old row; None if there is none and none is needed."""
        sources = [s for s in _SOURCES.get(self.name, {}).get(column, (column,)) if s in self.columns]
        if column == "id" and "id" not in self.columns:
            return "rowid"
        parts = [quoted(sources[0])] if len(sources) == 1 else [f"NULLIF(\"{source}\", '')" for source in sources]
        declared = self.wanted[column]
        if "NOT NULL" in declared and "DEFAULT" not in declared:
            stands = nothing(column, declared)
            parts.append(f"'{stands}'" if isinstance(stands, str) else str(stands))
        return None if not parts else parts[0] if len(parts) == 1 else f"COALESCE({', '.join(parts)})"


@dataclass(frozen=True)
class Layout:
    """What of a store is older than what is written: in words, and by table."""

    words: tuple[str, ...] = ()
    older: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_older(self) -> bool:
        """Whether there is something to migrate."""
        return bool(self.words)

    def check(self, tables: Iterable[str], path: Path) -> None:
        """See that these tables can be written as they are.

        Raises:
            SchemaError: one of them cannot.
        """
        for table in tables:
            if table in self.older:
                raise SchemaError(
                    f"{path} has an older schema: the table {table} {self.older[table]}",
                    hint="nothing was changed; `lens migrate` brings the schema up to date",
                    path=str(path),
                )


def read_layout(connection: sqlite3.Connection, path: Path) -> Layout:
    """Look at what a store's tables are like.

    Raises:
        NotAStoreError: it is not a state store.
        SchemaError: it is of a newer schema, or an unknown one: nothing may be written.
    """
    shape = read_shape(connection, path)
    version = shape.version
    if version > KNOWN_VERSION:
        raise SchemaError(
            f"{path} has schema version {version}; the newest known one is {KNOWN_VERSION}",
            hint="nothing was changed; update flujo-lens, or write with the application that made the store",
            path=str(path),
        )
    check_tables(shape, path)
    tables = [_Table(connection, name) for name in TABLES]
    for table in tables:
        if table.foreign_musts:
            raise _unknown(path, f"{table.name}.{table.foreign_musts[0]} is required, and has no default")
    older = {table.name: " and ".join(words) for table in tables if (words := table.differences())}
    return Layout(tuple(_words(table) for table in tables if table.name in older), older)


def check_tables(shape: Shape, path: Path) -> None:
    """See that all that hold runs can be written.

    Raises:
        SchemaError: one of them is a view, or has no numbers of its rows.
    """
    for table, why in shape.odd.items():
        raise _unknown(path, f"{table} {why}")


def _unknown(path: Path, why: str) -> SchemaError:
    return SchemaError(
        f"{path} is of a schema that is not known: {why}",
        hint="nothing was changed; write with the application that made the store",
        path=str(path),
    )


def _words(table: _Table) -> str:
    if not table.columns:
        return f"{table.name} is made"
    what = "gets columns" if table.can_be_extended() else "is built anew"
    return f"{table.name} {what}: it {' and '.join(table.differences())}"


def migrate(path: Path, timeout: float, stopped: threading.Event | None = None, *, force: bool = False) -> list[str]:
    """Bring a store to the newest schema, in one transaction; a second time it has nothing to do.

    It takes the file for itself: a program that knows the old schema must not have it open. When two processes
    come at once, the second waits and finds it done.

    Args:
        path: The database file.
        timeout: Seconds to wait for others to close it.
        stopped: Ends the waiting when it is set.
        force: Do it also while others have it open, as soon as none of them holds a lock.

    Returns:
        What was done, in words.

    Raises:
        SchemaError: another process has the file open all the time; or as `read_layout`. Nothing was changed.
        StoreError, OperationFailedError: it is no store, or cannot be written. Nothing was changed.
    """
    check_is_sqlite(path)
    check_may_write(path)
    try:
        return retry_while_locked(
            lambda: _migrate(path, force), time.monotonic() + timeout, stopped or threading.Event()
        )
    except sqlite3.Error as error:
        if not is_busy(error):
            raise translate_write(error, path) from error
        raise SchemaError(
            f"{path} has an older schema, and cannot be migrated while another process has it open",
            hint="nothing was changed; stop the processes that use the store, then `lens migrate`",
            path=str(path),
        ) from error


def _migrate(path: Path, force: bool) -> list[str]:
    with closing(connect(path, SLICE)) as db:
        if not read_layout(db, path).is_older:
            return []
    with closing(connect(path, SLICE)) as db:
        if not force:
            # In WAL mode only this sees whether anybody else is there; it must come before the first access.
            db.execute("PRAGMA locking_mode = exclusive")
        db.execute("PRAGMA foreign_keys = off")
        db.execute("PRAGMA legacy_alter_table = on")
        with transaction(db, "EXCLUSIVE"):
            words = [*read_layout(db, path).words]
            _change(db)
            return words + _strays(db)


def _change(db: sqlite3.Connection) -> None:
    for table in [_Table(db, name) for name in TABLES]:
        if not table.columns:
            db.execute(create_table(table.name, table.name))
        elif table.can_be_extended():
            for column in table.missing:
                db.execute(f"ALTER TABLE {table.name} ADD COLUMN {column} {table.wanted[column]}")
        elif table.differences():
            _rebuild(db, table)
    for index in INDEXES:
        db.execute(create_index(index))
    db.execute(f"PRAGMA user_version = {KNOWN_VERSION}")


def _rebuild(db: sqlite3.Connection, table: _Table) -> None:
    """Make the table anew, with the rows of the old one under their rowids."""
    name, new = table.name, f"lens_new_{table.name}"
    attached = db.execute(
        "SELECT type, name, sql FROM sqlite_master "
        "WHERE lower(tbl_name) = ? AND type IN ('index', 'trigger') AND sql <> ''",
        (name,),
    ).fetchall()
    kept = [sql for kind, what, sql in attached if kind == "trigger" or _fits(db, table, what)]
    values = {column: value for column in table.wanted if (value := table.value(column)) is not None}
    values |= {quoted(column.name): quoted(column.name) for column in table.staying()}
    if "id" not in values:
        values = {"rowid": "rowid", **values}
    db.execute(create_table(name, new, tuple(_declared(column) for column in table.staying())))
    db.execute(
        f"INSERT INTO {new} ({', '.join(values)}) SELECT {', '.join(values.values())} FROM {name} ORDER BY rowid"
    )
    db.execute(f"DROP TABLE {name}")
    db.execute(f"ALTER TABLE {new} RENAME TO {name}")
    for sql in kept:
        db.execute(sql)


def _declared(column: _Column) -> str:
    must = " NOT NULL" if column.not_null and column.default is not None else ""
    default = f" DEFAULT ({column.default})" if column.default is not None else ""
    return f"{quoted(column.name)} {column.type}{must}{default}"


def _fits(db: sqlite3.Connection, table: _Table, index: str) -> bool:
    """Whether an index can be made again: its columns are still there, and none of ours is the same."""
    columns = [row[2].lower() for row in db.execute(f"PRAGMA index_info({quoted(index)})") if row[2] is not None]
    there = table.wanted.keys() | {column.name for column in table.staying()}
    plain = {row[1] for row in db.execute(f"PRAGMA index_list({table.name})") if not row[2] and not row[4]}
    is_as_ours = index in plain and len(columns) == 1 and (table.name, columns[0]) in INDEXES.values()
    return index not in INDEXES and not is_as_ours and all(column in there for column in columns)


def _strays(db: sqlite3.Connection) -> list[str]:
    """In words, rows whose run is not there; a foreign table's own mistakes are not looked into."""
    counts: dict[str, int] = {}
    with suppress(sqlite3.OperationalError):
        for table, *_ in db.execute("PRAGMA foreign_key_check"):
            counts[table] = counts.get(table, 0) + 1
    return [f"{table} keeps {count} rows whose run is not there" for table, count in counts.items()]
