"""Writing states and history into a SQLite store.

One connection on one thread of its own; every call is one transaction and one hop. WAL mode with
``synchronous=NORMAL``: what was acknowledged survives the death of the process (not that of the machine).

When the process dies in the middle of a call, SQLite rolls the transaction back: the state before is intact.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import orjson

from flujo_lens.errors import SchemaError
from flujo_lens.state.backends.sqlite.ddl import CREATE, WRITTEN_COLUMNS
from flujo_lens.state.backends.sqlite.opening import check_is_sqlite, is_busy, translate
from flujo_lens.state.backends.sqlite.schema import KNOWN_VERSION
from flujo_lens.state.backends.sqlite.worker import Worker

__all__ = ["Writer"]

T = TypeVar("T")
Document = Mapping[str, Any]


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _json(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()


class Writer:
    """The writing half of `SQLiteBackend`.

    Args:
        path: The database file; made, with its tables, at the first write if there is none.
        timeout: Seconds to wait for a lock.
    """

    def __init__(self, path: Path, timeout: float) -> None:
        self.path, self.timeout = path, timeout
        self._connection: sqlite3.Connection | None = None
        self._worker = Worker(lambda: None)

    async def close(self) -> None:
        """Close the connection and end the thread."""
        await self._worker.close(self._close)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await self._worker.run(lambda: self._in_transaction(work))

    def _in_transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            if self._connection is None:
                self._connection = self._open()
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                result = work(self._connection)
            except BaseException:
                self._connection.rollback()
                raise
            self._connection.commit()
            return result
        except sqlite3.Error as error:
            raise translate(error, self.path) from error

    def _open(self) -> sqlite3.Connection:
        fresh = not os.path.exists(self.path) or os.path.getsize(self.path) == 0
        if not fresh:
            check_is_sqlite(self.path)
        connection = sqlite3.connect(self.path, timeout=self.timeout, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(connection, fresh)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection, fresh: bool) -> None:
        # Another process may have made the file and not yet its tables: whoever comes first makes them.
        if fresh or connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
            self._create(connection)
        connection.execute("PRAGMA synchronous = normal")
        connection.execute("PRAGMA foreign_keys = on")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > KNOWN_VERSION:
            raise SchemaError(
                f"{self.path} has schema version {version}; the newest that is known is {KNOWN_VERSION}",
                hint="update flujo-lens, or write with the application that made the store",
            )
        for table, wanted in WRITTEN_COLUMNS.items():
            self._check_columns(table, wanted, connection.execute(f"PRAGMA table_info({table})").fetchall())

    def _create(self, connection: sqlite3.Connection) -> None:
        """Make the tables. To change the journal mode is refused at once while another process makes them."""
        deadline = time.monotonic() + self.timeout
        while True:
            try:
                connection.execute("PRAGMA journal_mode = wal")
                connection.executescript(f"BEGIN IMMEDIATE; {CREATE} COMMIT;")
                return
            except sqlite3.OperationalError as error:
                connection.rollback()
                if not is_busy(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def _check_columns(self, table: str, wanted: list[str], there: list[tuple[Any, ...]]) -> None:
        names = {row[1] for row in there}
        if missing := [column for column in wanted if column not in names]:
            raise SchemaError(
                f"{self.path} is of an older schema: {table} lacks {', '.join(missing)}",
                hint="nothing was changed; `lens migrate` brings the schema up to date",
            )
        for _, name, _, not_null, default, key in there:
            if name not in wanted and not_null and default is None and not key:
                raise SchemaError(
                    f"{self.path} is of a schema that is not known: {table}.{name} must be given, and has no default",
                    hint="nothing was changed; write with the application that made the store",
                )

    def _insert(self, connection: sqlite3.Connection, verb: str, table: str, rows: Iterable[Document]) -> None:
        columns = WRITTEN_COLUMNS[table]
        sql = f"{verb} INTO {table} ({', '.join(columns)}) VALUES ({', '.join(':' + c for c in columns)})"
        connection.executemany(sql, [dict.fromkeys(columns) | dict(row) for row in rows])

    async def save_state(self, run_id: str, state: Document) -> None:
        """Save a state in place of the one before."""
        row = _state_row(run_id, state)
        await self._write(lambda db: self._insert(db, "INSERT OR REPLACE", "workflow_state", [row]))

    async def delete_state(self, run_id: str) -> None:
        """Delete a state, if there is one. A missing file is left missing."""
        if os.path.exists(self.path):
            await self._write(lambda db: db.execute("DELETE FROM workflow_state WHERE run_id = ?", (run_id,)))

    async def save_run(self, run: Document) -> None:
        """Save the metadata of a run in place of what was there (its steps and spans stay)."""
        row = _run_row(run)
        updates = ", ".join(f"{c} = excluded.{c}" for c in WRITTEN_COLUMNS["runs"] if c != "run_id")

        def upsert(db: sqlite3.Connection) -> None:
            columns = WRITTEN_COLUMNS["runs"]
            values = ", ".join(":" + c for c in columns)
            sql = f"INSERT INTO runs ({', '.join(columns)}) VALUES ({values}) ON CONFLICT(run_id) DO UPDATE SET "
            db.execute(sql + updates, dict.fromkeys(columns) | row)

        await self._write(upsert)

    async def end_run(self, run_id: str, end: Document) -> None:
        """Change the given columns of a run."""
        changes = {c: end[c] for c in WRITTEN_COLUMNS["runs"] if c in end and c not in ("run_id", "created_at")}
        changes["updated_at"] = end.get("updated_at") or end.get("end_time") or _now()
        sets = ", ".join(f"{c} = :{c}" for c in changes)
        await self._write(
            lambda db: db.execute(f"UPDATE runs SET {sets} WHERE run_id = :id", {**changes, "id": run_id})
        )

    async def add_step(self, step: Document) -> None:
        """Add a row of ``steps``."""
        blobs = {name: _json(step.get(name)) for name in ("output", "raw_response")}
        row = {"status": "completed", "created_at": _now(), **step, **blobs}
        await self._write(lambda db: self._insert(db, "INSERT", "steps", [row]))

    async def add_spans(self, run_id: str, spans: Iterable[Document]) -> None:
        """Add rows of ``spans``, in one transaction."""
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
        rows = [
            {"created_at": now, "status": "running", **s, "run_id": run_id, "attributes": _json(s.get("attributes"))}
            for s in spans
        ]
        await self._write(lambda db: self._insert(db, "INSERT", "spans", rows))

    async def add_evaluation(self, row: Document) -> None:
        """Add a row of ``evaluations``."""
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
        full = {"created_at": now, **row, "metadata": _json(row.get("metadata"))}
        await self._write(lambda db: self._insert(db, "INSERT", "evaluations", [full]))

    async def set_system_state(self, key: str, value: Any) -> None:
        """Set a global key."""
        row = {"key": key, "value": _json(value) or "null", "updated_at": _now()}
        await self._write(lambda db: self._insert(db, "INSERT OR REPLACE", "system_state", [row]))


def _state_row(run_id: str, state: Document) -> dict[str, Any]:
    now = _now()
    row: dict[str, Any] = {
        "pipeline_id": state.get("pipeline_name") or "unknown",
        "pipeline_name": "unknown",
        "pipeline_version": "latest",
        "current_step_index": 0,
        "status": "running",
        "created_at": now,
        "updated_at": now,
        "total_steps": 0,
    }
    row |= {key: value for key, value in state.items() if value is not None}
    for name in ("pipeline_context", "last_step_output", "step_history", "metadata"):
        row[name] = _json(state.get(name))
    for name in ("created_at", "updated_at"):
        row[name] = row[name].isoformat() if isinstance(row[name], datetime) else row[name]
    row["is_background_task"] = int(bool(state.get("is_background_task")))
    return {**{c: row.get(c) for c in WRITTEN_COLUMNS["workflow_state"]}, "run_id": run_id}


def _run_row(run: Document) -> dict[str, Any]:
    created = run.get("created_at") or run.get("start_time") or _now()
    defaults: dict[str, Any] = {
        "pipeline_id": "unknown",
        "pipeline_name": "unknown",
        "pipeline_version": "latest",
        "status": "running",
        "updated_at": created,
        "total_steps": 0,
    }
    given = {c: run[c] for c in WRITTEN_COLUMNS["runs"] if run.get(c) is not None}
    return {**defaults, **given, "created_at": created}
