"""The SQL of deletions and of bringing back, by name. Ids and rowids of many runs are parameters, one a mark."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import timedelta
from functools import lru_cache

from flujo_lens.state.backends.sqlite.reads.orphans import knows
from flujo_lens.state.backends.sqlite.reads.queries import by_ids, marks, run_columns
from flujo_lens.state.backends.sqlite.schema.shape import Shape, quoted
from flujo_lens.state.stripped import OPEN_SPAN

HEADS = ("workflow_state", "runs")
ROWID = "rowid"
"""Also the name of the first column in a record, for what most tables have without saying so."""

QUARTER_HOUR = timedelta(minutes=15)
_WS, _RUNS = HEADS
_ROW = 10
"""Bytes that a row takes besides its values, with its entries in indexes: about."""


# --- planning


def zones_apart(shape: Shape) -> str:
    """By how many quarters of an hour naive times of states and UTC times of their runs differ, each number once."""
    apart = "(julianday(substr(s.updated_at, 1, 19)) - julianday(substr(r.end_time, 1, 19)))"
    at_rest = " AND s.status <> 'running'" if shape.has(_WS, "status") else ""
    return (
        f"SELECT DISTINCT CAST(round({apart} * {timedelta(days=1) // QUARTER_HOUR}) AS INTEGER) FROM {_WS} s "
        f"JOIN {_RUNS} r ON r.run_id = s.run_id WHERE r.end_time <> '' AND s.updated_at NOT GLOB '*[Z+]*' "
        f"AND substr(s.updated_at, 11) NOT LIKE '%-%'{at_rest}"
    )


def states_in_rows(shape: Shape, *, details: bool) -> str:
    """Both rowids, whether it has tasks, whether it is a task, and the columns of a `RawRun`: by rowids as JSON."""
    columns = run_columns(shape, "s.run_id", state=True, run=True, details=details)
    run, rowid = (f"LEFT JOIN {_RUNS} r ON r.run_id = s.run_id", "r.rowid") if shape.has(_RUNS) else ("", "NULL")
    return (
        f"SELECT s.rowid, {rowid}, {_has_tasks(shape, 's.run_id')}, {_follows(shape)}, {columns} "
        f"FROM json_each(?) b CROSS JOIN {_WS} s ON s.rowid = b.value {run} WHERE s.run_id IS NOT NULL"
    )


def runs_alone_in_rows(shape: Shape, *, details: bool) -> str:
    """The same of runs without a state."""
    columns = run_columns(shape, "r.run_id", state=False, run=True, details=details)
    alone = f"NOT EXISTS (SELECT 1 FROM {_WS} x WHERE x.run_id = r.run_id)" if shape.has(_WS) else "1"
    return (
        f"SELECT NULL, r.rowid, {_has_tasks(shape, 'r.run_id')}, 0, {columns} "
        f"FROM json_each(?) b CROSS JOIN {_RUNS} r ON r.rowid = b.value WHERE r.run_id IS NOT NULL AND {alone}"
    )


def _has_tasks(shape: Shape, run_id: str) -> str:
    if not shape.has(_WS, "parent_run_id"):
        return "0"
    return f"EXISTS (SELECT 1 FROM {_WS} c WHERE c.parent_run_id = {run_id} AND c.run_id <> {run_id})"


def _follows(shape: Shape) -> str:
    """Whether a state is that of the task of a run that there is."""
    if not shape.has(_WS, "parent_run_id"):
        return "0"
    return f"s.parent_run_id IS NOT NULL AND s.parent_run_id <> s.run_id AND ({knows(shape, 's.parent_run_id')})"


def runs_with_rowids(shape: Shape, ids: str, *, details: bool) -> str:
    """Both rowids and the columns of a `RawRun`, of the runs with the ids that another query yields."""
    rowids = [f"{alias}.rowid" if shape.has(table) else "NULL" for table, alias in ((_WS, "s"), (_RUNS, "r"))]
    before, _, after = by_ids(shape, ids, details=details).rpartition(" SELECT j.id,")
    return f"{before} SELECT {', '.join(rowids)}, j.id,{after}"


def ids_of_tasks(count: int) -> str:
    """The ids of the tasks of some runs."""
    return f"SELECT run_id FROM {_WS} WHERE parent_run_id IN {_marks(count)}"


def tasks_of_runs(count: int) -> str:
    """The tasks of some runs, each with its parent."""
    return f"SELECT parent_run_id, run_id FROM {_WS} WHERE parent_run_id IN {_marks(count)}"


def ids_in_rows(table: str, count: int) -> str:
    """The run ids in some rows, as they are stored."""
    return f"SELECT run_id FROM {table} WHERE rowid IN {_marks(count)} AND run_id IS NOT NULL"


def ids_without_run(shape: Shape, count: int) -> str:
    """Those of some ids that no run has."""
    values = ", ".join(["(?)"] * count)
    return f"WITH j(id) AS (VALUES {values}) SELECT j.id FROM j WHERE NOT ({knows(shape, 'j.id')})"


# --- counting and measuring


def size_of(table: str, columns: Collection[str], count: int, but: str = "") -> str:
    """How many rows some runs have in a table, and about how many bytes they take; without some (`but`)."""
    lengths = " + ".join(f"COALESCE(length(CAST({quoted(name)} AS BLOB)), 0)" for name in columns)
    some = f" AND NOT ({but})" if but else ""
    return f"SELECT count(*), sum({lengths} + {_ROW}) FROM {table} WHERE run_id IN {_marks(count)}{some}"


def size_of_some(table: str, columns: Sequence[str], count: int) -> str:
    """How many rows of some runs have something in these columns, and about how many bytes that is."""
    lengths = " + ".join(f"COALESCE(length(CAST({quoted(name)} AS BLOB)), 0)" for name in columns)
    any_of = " OR ".join(f"{quoted(name)} IS NOT NULL" for name in columns)
    return f"SELECT count(*), sum({lengths}) FROM {table} WHERE run_id IN {_marks(count)} AND ({any_of})"


def count_of_rows(table: str, heads: Iterable[str]) -> str:
    """How many rows the runs have in a table that are in some rows of these tables: rowids as JSON, one for each."""
    ids = " UNION ".join(f"SELECT run_id FROM {head} WHERE rowid IN (SELECT value FROM json_each(?))" for head in heads)
    return f"SELECT count(*) FROM {table} WHERE run_id IN ({ids})"


def count_up_to(table: str, count: int, most: int) -> str:
    """How many rows some runs have in a table, counted up to `most`."""
    return f"SELECT count(*) FROM (SELECT 1 FROM {table} WHERE run_id IN {_marks(count)} LIMIT {most})"


def newest_of(table: str, count: int) -> str:
    """How many rows some runs have in a table, and the newest: tells whether any came or went."""
    return f"SELECT count(*), max(rowid) FROM {table} WHERE run_id IN {_marks(count)}"


# --- deleting


def delete(table: str, count: int) -> str:
    """Deletes all rows of some runs in a table."""
    return f"DELETE FROM {table} WHERE run_id IN {_marks(count)}"


def delete_some(table: str, count: int, most: int) -> str:
    """Deletes `most` of them."""
    some = f"SELECT rowid FROM {table} WHERE run_id IN {_marks(count)} LIMIT {most}"
    return f"DELETE FROM {table} WHERE rowid IN ({some})"


def delete_closed(table: str) -> str:
    """Deletes the spans of a run, but for those that tell at which step it is."""
    return f"DELETE FROM {table} WHERE run_id = ? AND NOT ({OPEN_SPAN})"


def emptied(table: str, columns: Sequence[str]) -> str:
    """Empties columns of a run's rows, of those that have something in them."""
    sets = ", ".join(f"{quoted(name)} = NULL" for name in columns)
    any_of = " OR ".join(f"{quoted(name)} IS NOT NULL" for name in columns)
    return f"UPDATE {table} SET {sets} WHERE run_id = ? AND ({any_of})"


def mark_cancelled(shape: Shape, count: int) -> str:
    """Notes in the history of some runs that they were cancelled, and with which error their state goes."""
    error = ""
    if all(shape.has(table, "error_message") for table in HEADS):
        last = f"SELECT s.error_message FROM {_WS} s WHERE s.run_id = {_RUNS}.run_id"
        error = f", error_message = coalesce(nullif(error_message, ''), ({last}), error_message)"
    return f"UPDATE {_RUNS} SET status = 'cancelled'{error} WHERE run_id IN {_marks(count)}"


# --- records


def rows_of(table: str, columns: Sequence[str], where: str, limit: str = "", *, has_rowid: bool = True) -> str:
    """All of some rows, in order."""
    first, order = (f"{ROWID} AS {ROWID}, ", f" ORDER BY {ROWID}") if has_rowid else ("", "")
    return f"SELECT {first}{', '.join(map(quoted, columns))} FROM {table} WHERE {where}{order}{limit}"


@lru_cache(maxsize=64)
def insert(table: str, columns: tuple[str, ...], are_texts: tuple[bool, ...] = ()) -> str:
    """Adds a row; what is marked are bytes that become a text."""
    values = ["CAST(? AS TEXT)" if is_text else "?" for is_text in are_texts] or ["?"] * len(columns)
    return f"INSERT INTO {table} ({', '.join(map(quoted, columns))}) VALUES ({', '.join(values)})"


def in_any(heads: Sequence[str], others: Sequence[str] = ()) -> str:
    """Whether any of these tables has a run, the others under exactly this id; the id once for each."""
    tests = [f"SELECT 1 FROM {table} WHERE run_id = ?" for table in heads]
    # A column may compare ids in a way of its own, and take the rows of another run for those of this one.
    tests += [f"SELECT 1 FROM {table} WHERE run_id = ? COLLATE BINARY" for table in others]
    return f"{' UNION ALL '.join(tests)} LIMIT 1"


def heads_of(heads: Sequence[str], count: int) -> str:
    """Which of some runs are there, by the ids that their rows have; the ids once for each table."""
    return " UNION ".join(f"SELECT run_id FROM {table} WHERE run_id IN {_marks(count)}" for table in heads)


def unmark_cancelled(columns: Sequence[str]) -> str:
    """Gives columns of a run's history their values, if it still says that it was cancelled."""
    sets = ", ".join(f"{name} = ?" for name in columns)
    return f"UPDATE {_RUNS} SET {sets} WHERE run_id = ? AND status = 'cancelled'"


def _marks(count: int) -> str:
    return marks(range(count))
