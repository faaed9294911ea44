"""The SQL that writes, by name: saves, changes of single runs, and our own tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flujo_lens.state.backends.core.port import Space
from flujo_lens.state.backends.sqlite.schema import lens_tables
from flujo_lens.state.backends.sqlite.schema.tables import WRITTEN_COLUMNS
from flujo_lens.state.claims import Holder

THIS_RUN = "run_id IN (:run, CAST(:run AS BLOB))"
"""An id is a text; odd stores hold its bytes."""

MANY = "SELECT value FROM json_each(?)"


def insert(table: str, columns: Sequence[str]) -> str:
    """Adds a row."""
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"


def _upsert(table: str, key: str, *first: str) -> str:
    """Changes the row that is there rather than replacing it: columns that we do not know keep their values."""
    written = WRITTEN_COLUMNS[table]
    columns = [f"{column} = excluded.{column}" for column in written if column != key]
    return f"{insert(table, written)} ON CONFLICT({key}) DO UPDATE SET {', '.join([*first, *columns])}"


def _sets(columns: Sequence[str], mark: str = "?") -> str:
    return ", ".join(f"{column} = {mark.format(column)}" for column in columns)


# --- saving

SAVE_STATE = _upsert("workflow_state", "run_id", "rowid = (SELECT max(rowid) + 1 FROM workflow_state)")
"""The row that was saved last has the highest rowid: lists and `last_write_at` go by that."""

SAVE_NEWEST = (
    f"UPDATE workflow_state SET {_sets(WRITTEN_COLUMNS['workflow_state'])} "
    "WHERE run_id = ? AND rowid = (SELECT max(rowid) FROM workflow_state)"
)
"""The same where the row has the highest rowid already: without a new one, most indexes need not change."""

SAVE_RUN = _upsert("runs", "run_id")
SET_SYSTEM_STATE = _upsert("system_state", "key")
ADD_SPAN = insert("spans", WRITTEN_COLUMNS["spans"])
ADD_EVALUATION = insert("evaluations", WRITTEN_COLUMNS["evaluations"])
IS_KNOWN = "SELECT 1 FROM runs WHERE run_id = ? UNION ALL SELECT 1 FROM workflow_state WHERE run_id = ?"
REMOVE_SPAN = "DELETE FROM spans WHERE run_id = ? AND span_id = ?"
"""What a runner does after each step: to compare with one text takes a third less than with many."""

REMOVE_SPANS = f"DELETE FROM spans WHERE run_id = ? AND span_id IN ({MANY})"


def with_functions(columns: Sequence[bool]) -> str:
    """`SAVE_STATE` with a function's result in place of the values of some columns."""
    marks = ", ".join("lens_take(?)" if is_large else "?" for is_large in columns)
    return SAVE_STATE.replace(", ".join("?" * len(columns)), marks, 1)


def add_column(table: str, column: str) -> str:
    """Makes a column of texts."""
    return f"ALTER TABLE {table} ADD COLUMN {column} TEXT"


# --- changes of single runs, on tables of any version


def fields_of_run(table: str, columns: Sequence[str]) -> str:
    """Some columns of a run, `:run`."""
    return f"SELECT {', '.join(columns)} FROM {table} WHERE {THIS_RUN}"


def set_of_run(table: str, columns: Sequence[str]) -> str:
    """Sets columns of a run, `:run`, to parameters of their names."""
    return f"UPDATE {table} SET {_sets(columns, ':{}')} WHERE {THIS_RUN}"


def set_by_row(table: str, key: str, columns: Sequence[str]) -> str:
    """Sets columns of the row with this key."""
    return f"UPDATE {table} SET {_sets(columns)} WHERE {key} = ?"


def delete_of_run(table: str) -> str:
    """Deletes the rows of a run, `:run`."""
    return f"DELETE FROM {table} WHERE {THIS_RUN}"


def delete_of_runs(table: str) -> str:
    """Deletes the rows of many runs, ids as JSON."""
    return f"DELETE FROM {table} WHERE run_id IN ({MANY})"


def running_states(columns: str) -> str:
    """The rowid, the id and some columns (of ``s``) of the states that say that they run."""
    return f"SELECT s.rowid, s.run_id, {columns} FROM workflow_state s WHERE s.status = 'running'"


# --- our own tables, as keys and values

CLAIM_COLUMNS = ("run_id", "token", *Holder._fields, "taken_at", "beat_at", "lease")
BEAT = f"UPDATE {lens_tables.CLAIMS} SET beat_at = ? WHERE run_id = ? AND token = ?"

_COLUMNS: Mapping[Space, tuple[str, ...]] = {
    "claim": CLAIM_COLUMNS,
    "manifest": ("digest", "body"),
    "binding": ("run_id", "digest"),
    "strip": ("run_id", "body"),
}
"""The key, and what its value is made of."""

GET_VALUES = {
    space: f"SELECT {', '.join(columns)} FROM {lens_tables.OF_SPACE[space]}" for space, columns in _COLUMNS.items()
}
WITH_KEYS = {space: f"WHERE {columns[0]} IN ({MANY})" for space, columns in _COLUMNS.items()}
REMOVE_VALUE = {
    space: f"DELETE FROM {lens_tables.OF_SPACE[space]} WHERE {columns[0]} = ?" for space, columns in _COLUMNS.items()
}
PUT_VALUE: Mapping[Space, str] = {
    "claim": insert(lens_tables.CLAIMS, CLAIM_COLUMNS).replace("INSERT", "REPLACE", 1),
    "manifest": f"REPLACE INTO {lens_tables.MANIFESTS} (digest, body, created_at) VALUES (?, ?, ?)",
    "strip": f"REPLACE INTO {lens_tables.STRIPS} (run_id, body) VALUES (?, ?)",
    "binding": f"INSERT INTO {lens_tables.RUN_MANIFESTS} (run_id, digest) VALUES (?, ?) "
    "ON CONFLICT(run_id) DO UPDATE SET digest = excluded.digest WHERE digest <> excluded.digest",
}
