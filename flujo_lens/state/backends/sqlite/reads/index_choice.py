"""Which indexed column narrows a filter down, and to how many runs.

No single plan serves: to walk by time takes 11 s on a million runs for a status that no run has, to read and
sort all of a status 3 s for one that every tenth run has. So each index is probed with a LIMIT first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, NamedTuple

from orjson import dumps

from flujo_lens.state.backends.sqlite.engine.session import Session
from flujo_lens.state.backends.sqlite.reads import queries
from flujo_lens.state.backends.sqlite.schema.text_order import text_order
from flujo_lens.state.views import RunFilter

FEW = 5_000
"""Up to this many runs are read and sorted sooner than they are found by a walk."""

SMALL_STORE = 1_000
"""A store of up to this many runs is always read whole: its order is exact whatever forms its times have."""

MOST_PIPELINE_IDS = 200
_WS, _RUNS = "workflow_state", "runs"
_RUN_TIMES = ("start_time", "created_at", "updated_at", "end_time")
_STATE_TIMES = ("created_at", "updated_at")
_UTC_TIME = "[0-9][0-9][0-9][0-9]-[0-1][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9]*+00:00"
_ZONES = timedelta(days=2)
"""By less than this the date of a text of any form differs from that of its instant in UTC."""

_EARLIEST = datetime.min.replace(tzinfo=UTC) + 2 * _ZONES


_Part = tuple[str, tuple[Any, ...]]
"""A query, and its parameters."""


class Candidates(NamedTuple):
    """A query for run ids that include all runs wanted.

    Attributes:
        sql: Yields ids, each at least once.
        values: Its parameters.
        number: How many, counted up to `FEW` + 1.
    """

    sql: str
    values: tuple[Any, ...] = ()
    number: int = FEW + 1

    @property
    def few(self) -> bool:
        return self.number <= FEW


def find_candidates(session: Session, wanted: RunFilter) -> Candidates | None:
    """The narrowest index for `wanted`, or None if it asks for nothing that has one."""
    everything = _everything(session)
    probe = _limited(everything, SMALL_STORE + 1)
    if session.value(f"SELECT count(*) FROM ({probe})") <= SMALL_STORE or _starts_elsewhere(session):
        return Candidates(everything, (), SMALL_STORE)
    best: Candidates | None = None
    for offer in _offers(session, wanted):
        if best is None or offer.number < best.number:
            best = offer
    if best is not None and best.few:
        return best
    if (texts := _by_texts(session, wanted)) is not None and (best is None or texts.few):
        return texts
    if wanted.active_since is None:
        return best
    active = _active(session, wanted.active_since)
    return active if best is None or active.few else best


def _by_texts(session: Session, wanted: RunFilter) -> Candidates | None:
    """The runs that may have the metadata, or else the text, that is asked for; None where SQL cannot tell."""
    from flujo_lens.state.backends.sqlite.reads.text_filters import meta_candidates, search_candidates

    part = meta_candidates(session, wanted) or search_candidates(session, wanted)
    return None if part is None else _all_or_few(session, [part])


def _starts_elsewhere(session: Session) -> bool:
    """Whether the start of some run is that of its state although it is in ``runs``: no index has their order."""
    if not (session.shape.has(_RUNS) and session.shape.has(_WS, "created_at")):
        return False
    return session.value(queries.run_without_start(session.shape)) is not None


def _everything(session: Session) -> str:
    return " UNION ".join(f"SELECT run_id FROM {table}" for table in _tables(session))


def _tables(session: Session) -> list[str]:
    return [table for table in (_RUNS, _WS) if session.shape.has(table)]


def _limited(sql: str, limit: int) -> str:
    """Count at most `limit` rows of each part, without the work of a union, and by an index alone where one tells."""
    parts = (re.sub(r"^SELECT (?:[rs]\.)?run_id FROM", "SELECT 1 FROM", part) for part in sql.split(" UNION "))
    return " UNION ALL ".join(f"SELECT * FROM ({part} LIMIT {limit})" for part in parts)


def _probed(session: Session, sql: str, values: tuple[Any, ...] = ()) -> Candidates:
    count = session.value(f"SELECT count(*) FROM ({_limited(sql, FEW + 1)})", values)
    return Candidates(sql, values, count)


def _offers(session: Session, wanted: RunFilter) -> Iterator[Candidates]:
    if wanted.parent is not None and session.shape.indexed(_WS, "parent_run_id"):
        yield _probed(session, f"SELECT run_id FROM {_WS} WHERE parent_run_id = ?", (wanted.parent,))
    if wanted.statuses == frozenset({"failed"}) and wanted.active_since is not None:
        yield _recent_failures(session, wanted)
    elif wanted.statuses:
        yield _of_status(session, wanted.statuses)
    if wanted.pipeline not in (None, "", "unknown"):
        yield _of_pipeline(session, str(wanted.pipeline))


def _of_status(session: Session, statuses: frozenset[str]) -> Candidates:
    stored = sorted(statuses)
    tables = [table for table in _tables(session) if session.shape.has(table, "status")]
    parts = [f"SELECT run_id FROM {t} WHERE status IN {queries.marks(stored)}" for t in tables]
    offer = _probed(session, " UNION ".join(parts), tuple(stored) * len(parts))
    for status, other in (("cancelled", "failed"), ("failed", "paused")):
        if status in statuses and not statuses >= {other} and session.shape.has(_WS, "status"):
            offer = _with_disguised(session, offer, other)
    return offer


def _with_disguised(session: Session, offer: Candidates, stored: str) -> Candidates:
    """`offer`, and the runs whose state has a status that may not be meant (see `interpret.status_of`)."""
    states = f"SELECT s.run_id FROM {_WS} s WHERE s.status = '{stored}'"
    number = max(offer.number, _probed(session, states).number) if offer.few else offer.number
    if session.shape.has(_RUNS, "status"):
        unclear = queries.doubtful(f"'{stored}'", "r.status")
        states = (
            f"SELECT s.run_id FROM {_WS} s LEFT JOIN {_RUNS} r ON r.run_id = s.run_id "
            f"WHERE s.status = '{stored}' AND {unclear}"
        )
    elif stored == "failed":
        return offer
    return Candidates(f"{offer.sql} UNION {states}", offer.values, number)


def _of_pipeline(session: Session, name: str) -> Candidates:
    parts: list[str] = []
    values: list[Any] = []
    if session.shape.has(_RUNS, "pipeline_name"):
        parts.append(f"SELECT run_id FROM {_RUNS} WHERE pipeline_name = ?")
        parts.append(_nameless_runs(session))
        values += [name] + [name] * parts[-1].count("?")
    if session.shape.has(_WS, "pipeline_name") and not session.shape.has(_RUNS):
        parts.append(_nameless_states(session))
        values += [name] * parts[-1].count("?")
    if session.shape.has(_WS, "pipeline_name"):
        ids = _pipeline_ids(session, name)
        if ids is None:
            parts.append(f"SELECT run_id FROM {_WS} WHERE pipeline_name = ?")
            return Candidates(" UNION ".join(parts), (*values, name))
        parts.append(f"SELECT run_id FROM {_WS} WHERE pipeline_id IN {queries.marks(ids)}")
        values += ids
    return _probed(session, " UNION ".join(parts), tuple(values))


def _nameless_runs(session: Session) -> str:
    """Runs without a name of their own whose state or root span has this one."""
    tests = [_root_span_says(session, "r.run_id")]
    if session.shape.has(_WS, "pipeline_name"):
        tests.append("(SELECT s.pipeline_name FROM workflow_state s WHERE s.run_id = r.run_id) = ?")
    return f"SELECT r.run_id FROM {_RUNS} r WHERE r.pipeline_name IN {queries.NO_NAME} AND ({' OR '.join(tests)})"


def _nameless_states(session: Session) -> str:
    """States without a name whose root span has this one."""
    test = _root_span_says(session, "s.run_id")
    return f"SELECT s.run_id FROM {_WS} s WHERE s.pipeline_name IN {queries.NO_NAME} AND {test}"


def _root_span_says(session: Session, run_id: str) -> str:
    if not session.shape.has("spans", "attributes", "parent_span_id"):
        return "0"
    return (
        "(SELECT CASE WHEN json_valid(p.attributes) THEN json_extract(p.attributes, "
        f"'$.\"flujo.pipeline.name\"') END FROM spans p WHERE p.run_id = {run_id} "
        "AND p.parent_span_id IS NULL LIMIT 1) = ?"
    )


def _pipeline_ids(session: Session, name: str) -> list[str] | None:
    """The ``pipeline_id`` values whose states have this name; None if the ids do not tell.

    A pipeline's id and name go together: the first and the last state of each id are asked (if they disagree,
    or if there are too many ids, the ids do not tell). ``workflow_state`` has no index on the name.
    """
    row = session.shape.row(_WS)
    distinct = (
        f"WITH RECURSIVE d(id) AS (SELECT min(pipeline_id) FROM {_WS} UNION ALL "
        f"SELECT (SELECT min(pipeline_id) FROM {_WS} WHERE pipeline_id > d.id) FROM d WHERE d.id IS NOT NULL) "
        f"SELECT id, {_name_of_id(row, 'ASC')}, {_name_of_id(row, 'DESC')} "
        f"FROM d WHERE d.id IS NOT NULL LIMIT {MOST_PIPELINE_IDS + 1}"
    )
    if not session.shape.indexed(_WS, "pipeline_id"):
        return None
    rows = session.rows(distinct).fetchall()
    if len(rows) > MOST_PIPELINE_IDS or any(first != last for _, first, last in rows):
        return None
    return [row[0] for row in rows if row[1] == name]


def _name_of_id(row: str, direction: str) -> str:
    return f"(SELECT pipeline_name FROM {_WS} WHERE pipeline_id = d.id ORDER BY {row} {direction} LIMIT 1)"


def _recent_failures(session: Session, wanted: RunFilter) -> Candidates:
    """Failed runs of the last hours or days.

    No index has the last update, so every failed state is read for it, as far as that column: 0.4 s for a
    hundred thousand. Only those that are recent are joined and looked into.
    """
    since = wanted.active_since
    assert since is not None
    parts, values = [], []
    for table, columns, naive in ((_WS, ("updated_at",), session.zone), (_RUNS, _RUN_TIMES, UTC)):
        there = [column for column in columns if session.shape.has(table, column)]
        tests = [_not_older(session, table, column, since, naive) for column in there]
        if session.shape.has(table):
            recent = " OR ".join(sql for sql, _ in tests) or "1"
            stored = "('failed', 'paused')" if table == _WS else "('failed')"  # paused: see `interpret.status_of`
            parts.append(f"SELECT run_id FROM {table} WHERE status IN {stored} AND ({recent})")
            values += [value for _, value in tests]
    return Candidates(" UNION ".join(parts), tuple(values), 0)


def _active(session: Session, since: datetime) -> Candidates:
    """Runs of which some time may be `since` or later.

    No index has the last update, and the order of the rows does not tell it either: they are all read as far as
    their times (0.3 s for 200,000), those that were saved last first, until there are more than a few. Texts in UTC
    are compared to the second, others by their date.
    """
    when = max(since, _EARLIEST).astimezone(UTC)
    texts = when.isoformat()[:19], (when - _ZONES).isoformat()[:10]
    return _all_or_few(session, _active_parts(session, texts))


def _active_parts(session: Session, texts: tuple[str, str]) -> list[_Part]:
    parts = []
    for table, columns in ((_WS, _STATE_TIMES), (_RUNS, _RUN_TIMES)):
        there = [column for column in columns if session.shape.has(table, column)]
        tests = [f"{column} >= ? OR ({column} >= ? AND {column} NOT GLOB '{_UTC_TIME}')" for column in there]
        if there:
            parts.append((f"SELECT run_id FROM {table} WHERE {' OR '.join(tests)}", texts * len(there)))
    return parts


def _all_or_few(session: Session, parts: list[_Part]) -> Candidates:
    """The ids themselves if they are few: what found them is not to be done twice."""
    # Those that were saved last first; a table without row numbers is in no such order.
    newest = "" if session.shape.odd else "ORDER BY rowid DESC"
    found = (
        session.rows(f"{one} {newest} LIMIT {FEW + 1}", values)
        for sql, values in parts
        for one in (sql.split(" UNION ") if not values else (sql,))
    )
    ids = {row[0] for rows in found for row in rows}
    if len(ids) <= FEW and all(isinstance(run_id, str) for run_id in ids):
        return Candidates("SELECT value FROM json_each(?)", (dumps(list(ids)).decode(),), len(ids))
    return Candidates(" UNION ".join(sql for sql, _ in parts), tuple(value for _, own in parts for value in own))


def _not_older(session: Session, table: str, column: str, since: datetime, naive: tzinfo) -> tuple[str, str]:
    """SQL for a time that may be `since` or later, as far as its text tells; the instant is tested again."""
    row = session.shape.row(table)
    sample = [session.value(f"SELECT {column} FROM {table} ORDER BY {row} {way} LIMIT 1") for way in ("ASC", "DESC")]
    return f"{column} >= ?", text_order(sample[0], sample[1], naive).at_least(since)
