"""A connection with what is known about the store behind it: its shape, and how its naive times are read."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Any

from flujo_lens.state.backends.sqlite.reads import queries
from flujo_lens.state.backends.sqlite.schema.shape import Shape, read_shape
from flujo_lens.state.interpret import RawRun, summarise
from flujo_lens.state.timestamps import local_zone, parse_instant
from flujo_lens.state.views import RunSummary
from flujo_lens.state.zones import guess_zone, infer_zone, observed

_SAMPLES = 20
_AT_A_PLACE = 3


@dataclass(slots=True, eq=False, repr=False)
class Session:
    """What one connection needs to read a store.

    `zone` is how a naive time in ``workflow_state`` is read; `zone_is_set` that a person said so, in which
    case a run's own times do not overrule it.
    """

    connection: sqlite3.Connection
    shape: Shape
    zone: tzinfo
    zone_is_set: bool

    def rows(self, sql: str, values: Any = ()) -> sqlite3.Cursor:
        """Execute a query."""
        return self.connection.execute(sql, values)

    def value(self, sql: str, values: Any = ()) -> Any:
        """The first column of the first row, None if there is no row."""
        row = self.connection.execute(sql, values).fetchone()
        return None if row is None else row[0]

    def runs(self, cursor: Iterator[tuple[Any, ...]]) -> Iterator[RunSummary]:
        """Summaries from rows with the columns of `queries.run_columns`."""
        for row in cursor:
            yield self.summary(RawRun(*row))

    def summary(self, raw: RawRun) -> RunSummary:
        """The summary of one run, its naive times read in its own zone."""
        raw.run_id = as_text(raw.run_id)
        return summarise(raw, self.zone_of(raw))

    def zone_of(self, raw: RawRun) -> tzinfo:
        """The zone of the naive times of one run's state.

        What a person set counts first, then the offset between the run's own naive and UTC times.
        """
        if self.zone_is_set or self.zone is UTC or not raw.run_end:
            return self.zone
        return guess_zone([(raw.state_updated, raw.run_end)]) or self.zone


def as_text(value: Any) -> str:
    """An id or a name as text: a column of SQLite holds whatever was put into it."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def open_session(connection: sqlite3.Connection, path: Path, zone: tzinfo | None) -> Session:
    """Look at what a fresh connection leads to.

    Args:
        connection: A connection to the store.
        path: The file, for messages.
        zone: How naive local times are to be read; None to find out.

    Raises:
        NotAStoreError: the database is not a state store.
    """
    shape = read_shape(connection, path)
    connection.create_function("lens_is_time", 1, lambda text: parse_instant(text) is not None)
    session = Session(connection, shape, zone or UTC, zone is not None)
    if zone is None and _has_naive_states(session):
        machine = local_zone()
        session.zone = infer_zone(observed(_both_times(session)), machine) or machine
    return session


def _has_naive_states(session: Session) -> bool:
    """Whether the oldest or the newest state has a time without a zone."""
    if not session.shape.has("workflow_state", "updated_at"):
        return False
    for end in ("ASC", "DESC"):
        text = session.value(queries.newest(session.shape, "workflow_state", "updated_at", end))
        if isinstance(text, str) and parse_instant(text) and not _has_zone(text):
            return True
    return False


def _has_zone(text: str) -> bool:
    return text.endswith("Z") or "+" in text[10:] or "-" in text[10:]


def _both_times(session: Session) -> list[tuple[Any, Any]]:
    """Local and UTC times of the same runs: some from all of the store's life, and the newest."""
    if not session.shape.has("runs", "end_time"):
        return []
    if "workflow_state" in session.shape.odd:
        return _newest_times(session)
    bounds = session.rows("SELECT min(rowid), max(rowid) FROM workflow_state").fetchone()
    if not all(isinstance(bound, int) for bound in bounds):
        return []
    first, last = bounds
    places = {last, *(first + (last - first) * part // _SAMPLES for part in range(_SAMPLES))}
    found = [pair for place in sorted(places, reverse=True) for pair in _ended(session, place)]
    return found or _newest_times(session)


def _newest_times(session: Session) -> list[tuple[Any, Any]]:
    return session.rows(
        "SELECT s.updated_at, r.end_time FROM workflow_state s JOIN runs r ON r.run_id = s.run_id "
        f"WHERE r.end_time <> '' ORDER BY s.{session.shape.row('workflow_state')} DESC LIMIT {_SAMPLES}"
    ).fetchall()


def _ended(session: Session, rowid: int) -> list[tuple[Any, Any]]:
    """Both times of the last runs up to a row that have both."""
    settled = "status <> 'running'" if session.shape.has("workflow_state", "status") else "1"
    return session.rows(
        "SELECT s.updated_at, r.end_time FROM (SELECT run_id, updated_at, rowid AS at FROM workflow_state "
        f"WHERE rowid <= ? AND {settled} ORDER BY rowid DESC LIMIT {_AT_A_PLACE}) s "
        "JOIN runs r ON r.run_id = s.run_id WHERE r.end_time <> '' ORDER BY s.at DESC",
        (rowid,),
    ).fetchall()


def page_ids(session: Session, ids: list[str], *, details: bool) -> list[RunSummary]:
    """The runs with these ids, in their order."""
    if not ids:
        return []
    from orjson import dumps

    sql = queries.by_ids(session.shape, "SELECT value FROM json_each(?)", details=details)
    found = {run.run_id: run for run in session.runs(session.rows(sql, (dumps(ids).decode(),)))}
    return [found[run_id] for run_id in ids if run_id in found]
