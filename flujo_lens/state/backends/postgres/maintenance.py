"""The care of a store on PostgreSQL: what is wrong with it, what it lacks, and what makes it faster.

Looking is done in a `READ ONLY` transaction with a `statement_timeout` for each check; one that takes longer says so.
Indexes of ours are made `CONCURRENTLY`; nothing here locks a table of the library so that saves have to wait.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import asyncpg

from flujo_lens.errors import BusyError
from flujo_lens.state.backends.postgres.queries import without_run
from flujo_lens.state.backends.postgres.tables import COLUMNS, LENS_TABLES, LIBRARY_TABLES, Shape
from flujo_lens.state.backends.postgres.uri import Address, quoted
from flujo_lens.state.maintenance import Finding, tables_that_refer

INDEXES = {
    "lens_runs_id": ("runs", 'run_id COLLATE "C"'),
    "lens_runs_start": ("runs", 'created_at, run_id COLLATE "C"'),
    "lens_runs_updated": ("runs", "updated_at"),
    "lens_state_id": ("workflow_state", 'run_id COLLATE "C"'),
    "lens_state_start": ("workflow_state", 'created_at, run_id COLLATE "C"'),
    "lens_state_updated": ("workflow_state", "updated_at"),
}
"""Ours on the library's tables: for prefixes of ids and for pages in every collation, and for the last update."""

LONG_TRANSACTION = timedelta(minutes=5)
LIMIT_MS = 5_000
"""Milliseconds for one check, unless everything is to be looked at."""

_BLOATED, _LEAST_DEAD = 0.2, 10_000
_OF_BOTH = {
    "history without a state": (
        "runs r WHERE NOT EXISTS (SELECT FROM workflow_state s WHERE s.run_id = r.run_id)",
        "every run has its state",
        "runs whose state was deleted, by delete_state or by the library's clean-up, which leave their history: "
        "it can be read, and they cannot be resumed",
        "they go with the other old runs: lens prune --older-than 90d",
    ),
    "states without a run": (
        "workflow_state s WHERE NOT EXISTS (SELECT FROM runs r WHERE r.run_id = s.run_id)",
        "but for background tasks, every state has its run",
        "states that have no row in runs: harmless, they are listed by their state",
        "",
    ),
    "statuses that disagree": (
        "workflow_state s JOIN runs r USING (run_id) WHERE s.status <> r.status",
        "runs and workflow_state say the same",
        "runs and workflow_state differ, as the library leaves them (paused, cancelled): the state counts",
        "",
    ),
}
"""By the name of a check: what it counts, what is said if there is none, or how many there are, and what to do."""


def missing_steps(shape: Shape) -> list[str]:
    """What a migration would make, in words."""
    return [f"make the table {name}" for name in (*LIBRARY_TABLES, *LENS_TABLES) if not shape.has(name)]


def missing_columns(shape: Shape) -> list[str]:
    """Columns of the library's tables that are not there, as ``table.column``."""
    return [
        f"{table}.{column}"
        for table, columns in COLUMNS.items()
        if shape.has(table)
        for column in columns
        if column not in shape.columns[table]
    ]


async def missing_indexes(connection: Any, shape: Shape) -> list[str]:
    """Names of our indexes that are not there, or were left half made."""
    rows = await connection.fetch(
        "SELECT c.relname::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
        " WHERE c.relname = ANY($1::text[]) AND pg_table_is_visible(i.indrelid) AND i.indisvalid",
        list(INDEXES),
    )
    there = {row[0] for row in rows}
    return [name for name, (table, _) in INDEXES.items() if name not in there and shape.has(table)]


def described(name: str) -> str:
    """An index of ours as ``NAME on TABLE(COLUMN, ...)``."""
    return "{} on {}({})".format(name, *INDEXES[name])


async def make_indexes(address: Address, timeout: float, names: Sequence[str], vacuum: bool) -> list[str]:
    """Make these indexes `CONCURRENTLY`, on a connection of its own; then gather figures. Returns what was made.

    Writers are not blocked. One that could not be finished (it waits for every transaction that is open) is removed.
    """
    connection = await asyncpg.connect(address.dsn, timeout=timeout, statement_cache_size=0)
    try:
        await connection.execute(f"SET lock_timeout = {max(1, int(timeout * 1000))}")
        if address.schema is not None:
            await connection.execute(f"SET search_path = {quoted(address.schema)}")
        for name in names:
            await _make_index(connection, name, timeout)
        for table in LIBRARY_TABLES:
            place = await connection.fetchval(_PLACE, table)
            if place is not None:
                await connection.execute(f"{'VACUUM (ANALYZE)' if vacuum else 'ANALYZE'} {place}")
    finally:
        await connection.close(timeout=timeout)
    return [described(name) for name in names]


_PLACE = """SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relname = $1 AND pg_table_is_visible(c.oid)"""
_WRITER = """SELECT min(a.pid) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
  WHERE l.relation = $1::text::regclass AND l.pid <> pg_backend_pid() AND a.xact_start < $2
    AND l.mode IN ('RowExclusiveLock', 'ShareUpdateExclusiveLock', 'ShareLock', 'ExclusiveLock')"""


async def _await_writers(connection: Any, table: str, timeout: float) -> None:
    """Wait for the transactions that have written to a table by now: an index that is begun waits for them, too.

    Raises:
        BusyError: one of them takes longer. Nothing was begun.
    """
    begun, end = await connection.fetchval("SELECT now()"), time.monotonic() + timeout
    while (pid := await connection.fetchval(_WRITER, table, begun)) is not None:
        if time.monotonic() >= end:
            raise BusyError(
                f"a transaction of process {pid} has changed {table} and is open; this index was not begun",
                hint=f"SELECT * FROM pg_stat_activity WHERE pid = {pid} tells whose it is; --timeout waits longer",
            )
        await asyncio.sleep(0.05)


async def _make_index(connection: Any, name: str, timeout: float) -> None:
    table, columns = INDEXES[name]
    place = await connection.fetchval(_PLACE, table)
    schema = place.rpartition(".")[0] if place.endswith(f".{table}") else None
    index = f"{schema}.{name}" if schema else name
    await _await_writers(connection, place, timeout)
    drop = f"DROP INDEX CONCURRENTLY IF EXISTS {index}"
    await connection.execute(drop)  # left half made
    try:
        await connection.execute(f"CREATE INDEX CONCURRENTLY {name} ON {place} ({columns})")
    except (asyncpg.PostgresError, asyncio.CancelledError):
        await connection.execute(drop)
        raise


class Checkup:
    """The checks of a store.

    Args:
        connection: In a read-only transaction.
        shape: What there is.
        now: The current time.
        full: Look at everything, however long it takes.
    """

    def __init__(self, connection: Any, shape: Shape, now: datetime, full: bool) -> None:
        self._db, self._shape, self._now, self._full = connection, shape, now, full

    async def findings(self) -> list[Finding]:
        """One finding a check."""
        checks: tuple[tuple[str, Callable[[], Awaitable[Finding]]], ...] = (
            ("schema", self._schema),
            *((name, partial(self._of_both, name)) for name in _OF_BOTH),
            ("rows without a run", self._children),
            ("foreign keys", self._foreign_keys),
            ("long transactions", self._transactions),
            ("waiting for locks", self._waiting),
            ("dead rows", self._dead_rows),
            ("indexes", self._indexes),
            ("connections", self._connections),
        )
        return [await self._tried(name, check) for name, check in checks]

    async def _tried(self, name: str, check: Callable[[], Awaitable[Finding]]) -> Finding:
        """What a check finds; that it could not be done does not keep the others from being done."""
        if name in _OF_BOTH and not self._shape.has("runs", "workflow_state"):
            return Finding(name, True, 0, "there is one table of runs alone")
        await self._db.execute(f"SAVEPOINT one; SET LOCAL statement_timeout = {0 if self._full else LIMIT_MS}")
        try:
            found = await check()
        except asyncpg.PostgresError as error:
            await self._db.execute("ROLLBACK TO SAVEPOINT one")
            if isinstance(error, asyncpg.QueryCanceledError):
                return Finding(name, True, None, f"not done within {LIMIT_MS // 1000} seconds; --full takes its time")
            return Finding(name, False, None, f"could not be checked: {error}", "use a role that may read the tables")
        await self._db.execute("RELEASE SAVEPOINT one")
        return found

    async def _schema(self) -> Finding:
        tables = [name for name in LIBRARY_TABLES if not self._shape.has(name)]
        columns = missing_columns(self._shape)
        if columns:
            detail = f"columns are missing, which read as empty: {', '.join(columns)}; nothing can be saved in them"
            fix = "flujo migrate, of the library's version that writes here, brings its tables up to date"
            return Finding("schema", False, len(columns), detail, fix)
        if tables:
            detail = f"tables are missing, which read as empty: {', '.join(tables)}"
            return Finding("schema", False, len(tables), detail, "to make them: lens migrate")
        ours = [name for name in LENS_TABLES if not self._shape.has(name)]
        if ours:
            detail = f"the library's tables are complete; lens makes its own ({', '.join(ours)}) when it first writes"
            return Finding("schema", True, len(ours), detail)
        return Finding("schema", True, 0, "up to date")

    async def _of_both(self, name: str) -> Finding:
        """What both tables of runs tell together, which is harmless."""
        sql, none, detail, fix = _OF_BOTH[name]
        has_tasks = self._shape.has_column("workflow_state", "is_background_task")
        task = " AND is_background_task IS NOT TRUE" if has_tasks and name == "states without a run" else ""
        ((count,),) = await self._db.fetch(f"SELECT count(*) FROM {sql}{task}")
        return Finding(name, True, count, detail, fix or None) if count else Finding(name, True, 0, none)

    async def _children(self) -> Finding:
        """Children without a run: where the foreign keys were dropped, and of ours that the library deleted."""
        name, counts = "rows without a run", dict[str, int]()
        for table in ("steps", "spans", "traces", "evaluations", "lens_documents"):
            if self._shape.has(table, "runs"):
                some = "kind <> 'system' AND stamp IS NOT NULL AND " if table == "lens_documents" else ""
                sql = f"SELECT count(*) FROM {table} t WHERE {some}{without_run(self._shape)}"
                ((counts[table],),) = await self._db.fetch(sql)
        found = {table: count for table, count in counts.items() if count}
        if not found:
            return Finding(name, True, 0, "every step, span, trace and evaluation has its run")
        listed = ", ".join(f"{count:,} in {table}" for table, count in found.items())
        detail = f"rows of runs that are gone: {listed}; no command shows them"
        fix = "DELETE removes the rest, after a backup (pg_dump); first, what lens can tell: lens prune --orphans"
        return Finding(name, False, sum(found.values()), detail, fix)

    async def _foreign_keys(self) -> Finding:
        rows = await self._db.fetch(
            "SELECT DISTINCT conrelid::regclass::text FROM pg_constraint WHERE contype = 'f' AND conparentid = 0"
            " AND confdeltype IN ('c', 'n', 'd') AND confrelid = ANY($1::text[]::regclass[])"
            " AND conrelid <> ALL($1::text[]::regclass[]) ORDER BY 1",
            [table for table in (*LIBRARY_TABLES, *LENS_TABLES) if self._shape.has(table)],
        )
        return tables_that_refer([row[0] for row in rows])

    async def _transactions(self) -> Finding:
        name = "long transactions"
        rows = await self._db.fetch(
            "SELECT pid, usename::text, application_name, state, extract(epoch FROM now() - xact_start)::float8"
            " FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND xact_start < now() - $1::interval ORDER BY xact_start",
            LONG_TRANSACTION,
        )
        if not rows:
            return Finding(name, True, 0, f"none is open for longer than {LONG_TRANSACTION.seconds // 60} minutes")
        pid, user, app, state, seconds = rows[0]
        who = f"{user or 'unknown'}{f' ({app})' if app else ''}"
        detail = (
            f"the oldest is that of process {pid}, {who}, {state or 'of unknown state'}, since {seconds / 60:.0f} "
            "minutes: until it ends, deleted rows keep their room, and what it has locked keeps others waiting"
        )
        fix = f"end it in its application, or in psql: SELECT pg_terminate_backend({pid})"
        return Finding(name, False, len(rows), detail, fix)

    async def _waiting(self) -> Finding:
        row = await self._db.fetchrow(
            "SELECT count(*), min(pid), min(pg_blocking_pids(pid)::text) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        if not row[0]:
            return Finding("waiting for locks", True, 0, "no session waits")
        detail = f"process {row[1]} waits for {row[2].strip('{}')}"
        fix = "pg_cancel_backend(PID) stops a statement; to see what they do: SELECT * FROM pg_stat_activity"
        return Finding("waiting for locks", False, row[0], detail, fix)

    async def _dead_rows(self) -> Finding:
        """Rows that were deleted or replaced and whose room autovacuum has not given free."""
        rows = await self._db.fetch(
            "SELECT relname::text, n_dead_tup, n_live_tup FROM pg_stat_user_tables"
            " WHERE relid = ANY(SELECT to_regclass(t) FROM unnest($1::text[]) t)",
            [table for table in (*LIBRARY_TABLES, *LENS_TABLES) if self._shape.has(table)],
        )
        dead = sum(row[1] for row in rows)
        bloated = [row for row in rows if row[1] > max(_LEAST_DEAD, _BLOATED * (row[1] + row[2]))]
        if not bloated:
            return Finding("dead rows", True, dead, "autovacuum keeps up")
        sizes = ", ".join(f"{name} ({gone:,} dead, {live:,} alive)" for name, gone, live in bloated)
        fix = f"a long transaction or replication slot may keep them; to remove them: VACUUM (ANALYZE) {bloated[0][0]}"
        return Finding("dead rows", False, dead, f"autovacuum does not keep up: {sizes}", fix)

    async def _indexes(self) -> Finding:
        missing = await missing_indexes(self._db, self._shape)
        if not missing:
            return Finding("indexes", True, 0, "all are there")
        detail = f"lists by last update and ids by prefix are slow on large stores without {', '.join(missing)}"
        return Finding("indexes", True, len(missing), detail, "to make them, without blocking writers: lens optimize")

    async def _connections(self) -> Finding:
        used, most = await self._db.fetchrow(
            "SELECT (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),"
            " current_setting('max_connections')::int"
        )
        detail = f"{used} of {most} are in use"
        if used < 0.9 * most:
            return Finding("connections", True, used, detail)
        fix = "a smaller pool in each application, or PgBouncer before the server"
        return Finding("connections", False, used, f"{detail}: the next clients are refused", fix)
