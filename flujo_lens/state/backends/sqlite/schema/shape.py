"""What a database has: its tables, columns and indexes, whatever version wrote them.

Reading adapts to the columns that are there, never to ``user_version``: files that two versions of the
library opened in turn have a mixture of both.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from flujo_lens.errors import NAME_ANOTHER, NotAStoreError

KNOWN_VERSION = 1
"""The newest ``user_version`` known: that of 0.6.11."""

TABLES = ("workflow_state", "runs", "steps", "spans", "traces", "evaluations", "system_state")


def quoted(name: str) -> str:
    """SQL for the name of a column, whatever is in it."""
    return '"{}"'.format(name.replace('"', '""'))


class Shape(NamedTuple):
    """What a database has; names are in lower case.

    Attributes:
        columns: The columns, by table.
        leading: The indexes by the column that they begin with, by table.
        version: Its ``user_version``.
        odd: Why a table can be read alone, in words, by table: a view, or one whose rows have no numbers.
    """

    columns: dict[str, frozenset[str]]
    leading: dict[str, dict[str, str]]
    version: int
    odd: Mapping[str, str] = {}

    def has(self, table: str, *columns: str) -> bool:
        """Whether the table is there, with these columns."""
        return table in self.columns and self.columns[table].issuperset(columns)

    def row(self, table: str) -> str:
        """The column that tells the rows apart: their number, unless they have none."""
        return ("key" if table == "system_state" else "run_id") if table in self.odd else "rowid"

    def indexed(self, table: str, column: str) -> bool:
        """Whether an index begins with this column."""
        return column in self.leading.get(table, {})

    def index_on(self, table: str, column: str) -> str | None:
        """The name of an index that begins with this column, quoted; None if there is none."""
        return self.leading.get(table, {}).get(column)

    @property
    def series(self) -> str:
        """The series of the library's versions that works on it: ``0.6``, or ``0.4``, which has other columns.

        One that both have opened is for 0.6 alone.
        """
        if "runs" in self.columns:
            return "0.6" if self.has("runs", "created_at") else "0.4"
        return "0.6" if self.has("workflow_state", "is_background_task") else "0.4"

    def pick(self, table: str, alias: str, *columns: str) -> str:
        """SQL for the first of `columns` that is set in a row, out of those that the table has."""
        there = [f"NULLIF({alias}.\"{c}\", '')" for c in columns if self.has(table, c)]
        if not there:
            return "NULL"
        return there[0] if len(there) == 1 else f"COALESCE({', '.join(there)})"

    def col(self, table: str, alias: str, column: str) -> str:
        """SQL for a column, NULL where the table has none."""
        return f'{alias}."{column}"' if self.has(table, column) else "NULL"


def read_shape(connection: sqlite3.Connection, path: Path) -> Shape:
    """Look at the tables of a database.

    Raises:
        NotAStoreError: it has neither a ``workflow_state`` nor a ``runs`` table.
    """
    columns = {table: frozenset(_names(connection, f"PRAGMA table_info({table})", 1)) for table in TABLES}
    columns = {table: names for table, names in columns.items() if "run_id" in names or table == "system_state"}
    shape = Shape(
        columns=columns,
        leading={table: dict(_leading(connection, table)) for table in columns},
        version=int(connection.execute("PRAGMA user_version").fetchone()[0]),
        odd=odd_tables(connection, columns),
    )
    if not (shape.has("workflow_state", "run_id", "status") or shape.has("runs", "run_id", "status")):
        raise NotAStoreError(
            f"{path} is a SQLite database, but not a state store: it has neither a workflow_state nor a runs table",
            hint=NAME_ANOTHER,
            path=str(path),
            # So a process leaves it that dies while it makes the file.
            empty=connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None or None,
        )
    return shape


def _names(connection: sqlite3.Connection, pragma: str, at: int) -> list[str]:
    return [row[at].lower() for row in connection.execute(pragma) if row[at] is not None]


def odd_tables(connection: sqlite3.Connection, columns: Mapping[str, Collection[str]]) -> dict[str, str]:
    """Those of the tables that can only be read, with why, in words."""
    views = {name for (name,) in connection.execute("SELECT lower(name) FROM sqlite_master WHERE type = 'view'")}
    found = {table: _odd(connection, table, names, table in views) for table, names in columns.items() if names}
    return {table: why for table, why in found.items() if why}


def _odd(connection: sqlite3.Connection, table: str, columns: Collection[str], is_view: bool) -> str:
    if is_view:
        return "is a view"
    if "rowid" in columns:
        return "has a column of the name rowid"
    try:
        connection.execute(f"SELECT rowid FROM {table} LIMIT 0")
    except sqlite3.OperationalError as error:
        if "rowid" in str(error):
            return "is WITHOUT ROWID"
        raise
    return ""


def _leading(connection: sqlite3.Connection, table: str) -> Iterable[tuple[str, str]]:
    """Columns with the indexes that begin with them, the narrowest last: it alone also finds rows by their rowid."""
    found = []
    for row in connection.execute(f"PRAGMA index_list({table})").fetchall():
        name, partial_index = row[1], row[4]
        if not partial_index:
            columns = _names(connection, f"PRAGMA index_info({quoted(name)})", 2)
            found.append((len(columns), columns[:1], quoted(name)))
    for _, first, index in sorted(found, key=lambda index: -index[0]):
        for column in first:
            yield column, index
