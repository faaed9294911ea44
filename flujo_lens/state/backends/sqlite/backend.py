"""`SQLiteBackend`: the contract on one database file."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, tzinfo
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flujo_lens.errors import StoreNotFoundError
from flujo_lens.state.backends.base import JSONObject
from flujo_lens.state.backends.core.rows import evaluation_row, moment_before, now_text, trace_rows
from flujo_lens.state.backends.core.validation import (
    asked_id,
    check_codec,
    check_days,
    check_hours,
    check_key,
    check_run_id,
    check_timeout,
    check_zone,
    findable,
    place_of,
)
from flujo_lens.state.backends.sqlite.deletion_methods import PruningRuns
from flujo_lens.state.backends.sqlite.engine.open_backends import make_way
from flujo_lens.state.backends.sqlite.runner_methods import DurableRuns
from flujo_lens.state.backends.sqlite.upkeep_methods import TendedStore

if TYPE_CHECKING:
    from flujo_lens.serialization.codec import StateCodec
    from flujo_lens.state.backends.sqlite.writes.run_changes import Old
    from flujo_lens.state.backends.sqlite.writes.write_connection import Writer
    from flujo_lens.state.deletion import BackupCallback

__all__ = ["SQLiteBackend", "path_of_uri"]

_SYNCHRONOUS = ("NORMAL", "FULL")
_RUNS_A_TRANSACTION = 100
"""An application that waits for the lock must not wait long."""


def path_of_uri(uri: str) -> Path:
    """The file of ``sqlite:///relative.db``, ``sqlite:////absolute.db`` or a bare path."""
    rest = uri.removeprefix("sqlite:///") if uri.startswith("sqlite:///") else uri.removeprefix("sqlite://")
    if rest == uri:
        return Path(uri)
    return Path(rest.partition("?")[0])


def _level(synchronous: object) -> str:
    if not isinstance(synchronous, str):
        raise TypeError(f"synchronous must be NORMAL or FULL, not {type(synchronous).__name__}: {synchronous!r}")
    if synchronous.upper() not in _SYNCHRONOUS:
        raise ValueError(f"synchronous must be NORMAL or FULL, not {synchronous!r}")
    return synchronous.upper()


class SQLiteBackend(PruningRuns, DurableRuns, TendedStore):
    """Keeps states in one SQLite file, in the format of the library's version 0.6.11; reads older ones too.

    Reading never writes. Writing opens the file at the first write; if there is none, or an empty one, it makes
    one, in WAL mode, with the folders above it. What is acknowledged is in the file that is at the path then: where
    it was renamed, removed or replaced meanwhile, what is there now is opened (or made).
    Every writing call is one transaction (but `cleanup_old_workflows`: one for 100 runs). What is saved when the
    process dies is whole, and all of it that was acknowledged is there: see `synchronous`. A call that is
    cancelled did it all or nothing, and is over when it raises; the backend can be used on.

    Calls may come from any event loop in any thread, and from many processes. After `os.fork` a child opens the
    file anew. A backend that is not shut down does not keep its process alive.

    A store of an older schema is brought to the newest at the first write that needs it, if `migrate`, and if no
    other process has it open (see `migrations`). Deletions and `cleanup_stale_background_tasks` never need it.

    Args:
        db_path: The database file; ``~`` is the home folder.
        timeout: Seconds to wait for a lock.
        zone: How naive local times of old stores are read; None to find out from the store.
        serializer_default, envelope, validate: As of `flujo_lens.serialization.codec.StateCodec`.
        synchronous: ``NORMAL`` (what was acknowledged survives the death of the process) or ``FULL`` (and that of
            the machine; a save waits for the disk).
        migrate: Whether to migrate.

    Raises (from any method):
        BusyError: locked for longer than `timeout`; nothing was changed.
        OperationFailedError: the disk is full, or the like; nothing was changed.
        StoreError: the file is missing (when operators read), no store, damaged, or of a schema not written to.
        ValueError, TypeError: a run id that is none.
    """

    any_loop = True

    def __init__(
        self,
        db_path: Path | str,
        *,
        timeout: float = 10.0,
        zone: tzinfo | None = None,
        serializer_default: Callable[[Any], Any] | None = None,
        envelope: Any = None,
        validate: Any = None,
        synchronous: str = "NORMAL",
        migrate: bool = True,
    ) -> None:
        check_codec(serializer_default, envelope, validate)
        self._default = serializer_default
        check_zone(zone)
        self._synchronous, self._migrate = _level(synchronous), migrate

        def make_codec() -> StateCodec:
            from flujo_lens.serialization.codec import StateCodec

            return StateCodec(serializer_default, envelope=envelope, validate=validate)

        super().__init__(place_of(db_path, type(self)), check_timeout(timeout), zone, make_codec, bool(validate))

    @classmethod
    def from_uri(
        cls, uri: str, *, timeout: float = 10.0, zone: tzinfo | None = None, migrate: bool = False
    ) -> SQLiteBackend:
        """The backend for a ``sqlite:`` URI or a path, as the command line uses it: it migrates only when told."""
        return cls(path_of_uri(uri), timeout=timeout, zone=zone, migrate=migrate)

    @property
    def db_path(self) -> Path:
        """The database file, as it was given."""
        return self.path

    def _beside(self) -> SQLiteBackend:
        return SQLiteBackend(self.path, timeout=self._timeout, zone=self._zone)

    @cached_property
    def _writer(self) -> Writer:
        from flujo_lens.state.backends.sqlite.writes.write_connection import Writer

        path, alone = self._reader.given, self._without_reading
        return Writer(path, self._timeout, self._synchronous, self._migrate, alone, make_way)

    def _begin(self) -> None:
        super()._begin()
        vars(self).pop("_writer", None)

    async def shutdown(self) -> None:
        """Close the connections and end the threads. What is called afterwards opens them again."""
        await super().shutdown()
        if "_writer" in vars(self):
            await self._writer.close()

    # --- states

    async def save_state(self, run_id: str, state: JSONObject) -> None:
        """Save the state in place of the one before; columns that are not ours keep their values.

        Raises:
            InvalidStateError: it does not fit the model that it is checked against.
        """
        from flujo_lens.state.backends.core.rows import as_object
        from flujo_lens.state.backends.sqlite.writes.row_values import state_values

        given = as_object(state, self._default)
        self._codec.check(given)
        await self._writer.save_state(state_values(self._codec, run_id, given))

    async def delete_state(self, run_id: str) -> None:
        """Delete the state of a run; history stays. A file that is not there is not made."""
        from flujo_lens.state.backends.sqlite.writes.run_changes import delete_state

        sought = findable(asked_id(run_id))
        await self._writer.write(lambda db: delete_state(db, self.path, sought), creates=False)

    # --- history

    async def save_run_start(self, run_data: JSONObject) -> None:
        """Save the metadata of a run, in place of what was there; its steps and spans stay."""
        from flujo_lens.state.backends.sqlite.writes import row_values, save_sql

        values = row_values.run_values(self._codec, run_data)
        await self._writer.write(lambda db: save_sql.save_run(db, values), "runs")

    async def save_run_end(self, run_id: str, end_data: JSONObject) -> None:
        """Change the metadata of a run; a run that is not there is not made, and no error."""
        from flujo_lens.state.backends.sqlite.writes import row_values, save_sql

        changes = row_values.end_changes(self._codec, check_run_id(run_id), end_data)
        await self._writer.write(lambda db: save_sql.end_run(db, run_id, changes), "runs")

    async def save_step_result(self, step_data: JSONObject) -> None:
        """Add one execution of a step.

        A run of which neither state nor metadata are known is announced with it. 0.6.11 has no columns for the
        input and the error of a step: they are added when the first step has one, if the backend migrates.
        """
        from flujo_lens.state.backends.sqlite.writes import row_values, save_sql

        step, run = row_values.step_values(self._codec, step_data), row_values.announced(self._codec, step_data)
        made = await self._writer.write(lambda db: save_sql.add_step(db, step, run, self._migrate), "steps", "runs")
        if made:
            await self._thread.run(self._reader.close)

    async def save_spans(self, run_id: str, spans: list[JSONObject]) -> None:
        """Add spans, all or none; one whose id the run has already takes its place."""
        from flujo_lens.state.backends.sqlite.writes import row_values, save_sql

        rows = row_values.span_values(self._codec, run_id, spans)
        run = row_values.announced(self._codec, {"run_id": run_id})
        await self._writer.write(lambda db: save_sql.replace_spans(db, run_id, rows, run), "spans", "runs")

    async def save_trace(self, run_id: str, trace: JSONObject) -> None:
        """Save a trace tree as the spans of a run, in place of all that it has."""
        from flujo_lens.state.backends.sqlite.writes import row_values, save_sql

        rows = row_values.span_values(self._codec, run_id, trace_rows(trace))
        run = row_values.announced(self._codec, {"run_id": run_id})
        await self._writer.write(lambda db: save_sql.save_trace(db, run_id, rows, run), "spans", "traces", "runs")

    async def persist_evaluation(
        self,
        run_id: str,
        score: float,
        feedback: str | None = None,
        step_name: str | None = None,
        metadata: JSONObject | None = None,
    ) -> None:
        """Add an evaluation."""
        from flujo_lens.state.backends.sqlite.writes import row_values, save_sql

        row = evaluation_row(run_id, score, feedback, step_name, metadata)
        values = row_values.evaluation_values(self._codec, row)
        await self._writer.write(lambda db: save_sql.add_evaluation(db, values), "evaluations")

    async def set_system_state(self, key: str, value: JSONObject) -> None:
        """Set a global key."""
        from flujo_lens.state.backends.sqlite.writes import save_sql

        check_key(key)
        text = self._codec.column("", "metadata", value)
        values = (key, "null" if text is None else text, now_text())
        await self._writer.write(lambda db: save_sql.set_system_state(db, values), "system_state")

    # --- maintenance, on tables of any version

    async def delete_run(self, run_id: str) -> None:
        """Delete a run from every table. A file that is not there is not made."""
        from flujo_lens.state.backends.sqlite.writes.run_changes import delete_run

        sought = findable(asked_id(run_id))
        await self._writer.write(lambda db: delete_run(db, self.path, sought), creates=False)

    async def cleanup_old_workflows(self, days_old: float = 30) -> int:
        """Delete whole runs last updated more than `days_old` days ago, 100 a transaction; return how many.

        A run that is saved meanwhile stays. When the process dies on the way, some runs are gone, each whole.
        """
        from flujo_lens.state.backends.sqlite.writes.run_changes import delete_old, old_runs

        cutoff = moment_before(datetime.now(UTC), days=check_days(days_old))
        try:
            old = await self._read(lambda session: old_runs(session, cutoff))
        except StoreNotFoundError:
            return 0

        async def delete(part: Old) -> int:
            return await self._writer.write(lambda db: delete_old(db, self.path, part), creates=False) or 0

        return sum([await delete(part) for part in old.parts(_RUNS_A_TRANSACTION)])

    async def cancel_runs(
        self, run_ids: Sequence[str], *, force: bool = False, keep: BackupCallback | None = None
    ) -> Sequence[str]:
        """Mark runs as cancelled, all in one transaction; on tables of any version."""
        from flujo_lens.state.backends.sqlite.writes.run_changes import cancel

        wanted, now = [findable(asked_id(run_id)) for run_id in run_ids], now_text()

        def work(db: sqlite3.Connection) -> list[str]:
            return cancel(db, self.path, wanted, now, force, keep)

        return await self._writer.write(work, creates=False) or []

    async def cleanup_stale_background_tasks(self, stale_hours: float = 24) -> int:
        """Mark background tasks that run, without a save for `stale_hours`, as failed; return how many."""
        now = datetime.now(UTC)
        cutoff = moment_before(now, hours=check_hours(stale_hours))
        return len(await self._fail_stale(cutoff, stale_hours, now))

    async def fail_stale_tasks(self, run_ids: Sequence[str], cutoff: datetime, hours: float) -> Sequence[str]:
        """Mark those of these background tasks that are without a save since `cutoff`; all in one transaction."""
        return await self._fail_stale(cutoff, check_hours(hours, "hours"), datetime.now(UTC), run_ids)

    async def _fail_stale(
        self, cutoff: datetime, hours: float, now: datetime, among: Sequence[str] | None = None
    ) -> list[str]:
        from flujo_lens.state.backends.sqlite.writes.run_changes import fail_stale

        def work(db: sqlite3.Connection) -> list[str]:
            return fail_stale(db, self.path, cutoff, hours, now.isoformat(), self._zone, among)

        return await self._writer.write(work, creates=False) or []
