"""Metadata and texts as conditions of SQL, so that the blobs of most runs need not be read into Python.

What such a condition lets pass is tested again (`flujo_lens.state.filtering.matches`), unless it is sure.
"""

from __future__ import annotations

from typing import Any

from flujo_lens.state.backends.sqlite.engine.session import Session, as_text
from flujo_lens.state.backends.sqlite.reads import queries
from flujo_lens.state.backends.sqlite.schema.shape import Shape
from flujo_lens.state.views import RunFilter

_WS, _RUNS = "workflow_state", "runs"
_Part = tuple[str, tuple[Any, ...]]
_SEAL = b"\x93lens"
_LONGEST_INTEGER = 18
"""Digits up to which SQLite reads a whole number as Python does."""

_ESCAPED = set('"\\/\b\f\n\r\t\x7f')
"""Characters that JSON may hold in another form than they are."""


def meta_candidates(session: Session, wanted: RunFilter) -> _Part | None:
    """A query for the ids of states that may have the metadata; None where SQL cannot tell."""
    if not wanted.meta or not session.shape.has(_WS, "metadata"):
        return None
    found = [_meta_test(key, value) for key, value in wanted.meta]
    where = " AND ".join(f"COALESCE({test}, 0) > 0" for test, _ in found)
    return f"SELECT run_id FROM {_WS} WHERE metadata IS NOT NULL AND {where}", tuple(
        value for _, values in found for value in values
    )


def _meta_test(key: str, value: str) -> tuple[str, tuple[Any, ...]]:
    """SQL for 2 where the metadata has the value for sure, 1 where it may have, 0 where it has not."""
    path = '$."' + key.replace('"', '\\"') + '"'
    if '"' in key or "\\" in key:
        return "CASE WHEN metadata IS NOT NULL THEN 1 ELSE 0 END", ()
    kind, stored = "json_type(metadata, ?)", "json_extract(metadata, ?)"
    readable = (
        f"CASE {kind} WHEN 'text' THEN CASE WHEN {stored} = ? THEN 2 ELSE 0 END "
        f"WHEN 'integer' THEN CASE WHEN CAST({stored} AS TEXT) = ? THEN 2 ELSE {len(value) > _LONGEST_INTEGER:d} END "
        "WHEN 'true' THEN 2 * (? = 'true') WHEN 'false' THEN 2 * (? = 'false') "
        "WHEN 'null' THEN 0 WHEN 'real' THEN 1 WHEN 'array' THEN 1 WHEN 'object' THEN 1 ELSE 0 END"
    )
    values = (path, path, value, path, value, value, value)
    unread = "CASE WHEN metadata IS NULL THEN 0 ELSE 1 END"  # sealed, or with a NaN
    sql = f"CASE WHEN typeof(metadata) = 'text' AND json_valid(metadata) THEN {readable} ELSE {unread} END"
    return sql, values


def count_by_meta(session: Session, wanted: RunFilter) -> tuple[int, list[str]] | None:
    """How many runs have the metadata for sure, and the ids of those that may; None if anything else is asked for."""
    if wanted._replace(meta=()) != RunFilter() or meta_candidates(session, wanted) is None:
        return None
    found = [_meta_test(key, value) for key, value in wanted.meta]
    least = f"min({', '.join(f'COALESCE({test}, 0)' for test, _ in found)}, 2)"
    values = tuple(value for _, own in found for value in own)
    # The LIMITs keep SQLite from merging the queries: it would read the metadata for each mention.
    read = f"SELECT run_id, metadata FROM {_WS} WHERE run_id IS NOT NULL AND metadata IS NOT NULL LIMIT -1"
    judged = f"SELECT run_id, {least} AS sure FROM ({read}) LIMIT -1"
    maybe = "CASE sure WHEN 1 THEN run_id END"
    count, ids = 0, []
    for sure, run_id, number in session.rows(
        f"SELECT sure, {maybe}, count(*) FROM ({judged}) WHERE sure > 0 GROUP BY 1, 2", values
    ):
        count += number if sure == 2 else 0
        ids += [as_text(run_id)] if sure == 1 else []
    return count, ids


def search_candidates(session: Session, wanted: RunFilter) -> _Part | None:
    """A query for the ids of runs in whose id, pipeline, error or message the text may be; None if SQL cannot tell."""
    if wanted.search is None or not wanted.search.isascii() or _ESCAPED & set(wanted.search):
        return None
    shape = session.shape
    if shape.odd or not (shape.has(_WS, "status") and shape.has(_RUNS, "status")):
        return None
    sought = wanted.search.casefold()
    has_names = shape.has(_WS, "pipeline_name") and shape.has(_RUNS, "pipeline_name")
    session.connection.create_function("lens_finds", -1, lambda *texts: _finds(sought, texts), deterministic=True)
    small = _bytes_of(shape, _WS, "run_id", "pipeline_name", "error_message")
    large = _bytes_of(shape, _WS, "background_error", "metadata", "step_history", "pipeline_context")
    named = f"SELECT 1 FROM {_RUNS} r WHERE r.run_id = t.run_id AND r.pipeline_name NOT IN {queries.NO_NAME}"
    nameless = f"(t.pipeline_name IN {queries.NO_NAME} AND NOT EXISTS ({named}))" if has_names else "1"
    state = (
        f"SELECT t.run_id FROM {_WS} t WHERE lens_finds({small}) OR {nameless} "
        f"OR (t.status <> 'completed' AND lens_finds({large}))"
    )
    columns = _bytes_of(shape, _RUNS, "run_id", "pipeline_name", "error_message")
    no_name = f"t.pipeline_name IN {queries.NO_NAME}" if has_names else "1"
    run = (
        f"SELECT t.run_id FROM {_RUNS} t WHERE lens_finds({columns}) OR {no_name} "
        f"OR (t.status = 'failed' AND NOT EXISTS (SELECT 1 FROM {_WS} s WHERE s.run_id = t.run_id))"
    )
    return f"{state} UNION {run}", ()


def _bytes_of(shape: Shape, table: str, *names: str) -> str:
    return ", ".join(f"CAST({shape.col(table, 't', name)} AS BLOB)" for name in names)


def _finds(sought: str, texts: tuple[Any, ...]) -> bool:
    """Whether a text may be in one of some stored values, ignoring case."""
    return any(_holds(sought, value) for value in texts if value is not None)


def _holds(sought: str, value: bytes) -> bool:
    if value.isascii():
        return sought.encode() in value.lower() or b"\\u" in value  # an escape stands for any character
    return value.startswith(_SEAL) or sought in value.decode(errors="replace").casefold() or b"\\u" in value
