"""What a list shows of runs, by columns: the SQL, and its rows as `RawRun`.

Documents are not handed out whole: of a context, the keys that `interpret` reads; of a step history, the fields. Where
a column keeps less than was saved, its row comes with the stored document, which counts instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import lru_cache
from typing import Any

import orjson

from flujo_lens.serialization import safe_loads
from flujo_lens.serialization.envelope import ARMOUR
from flujo_lens.state.backends.core.port import ListedRun, RunRow
from flujo_lens.state.backends.postgres import queries
from flujo_lens.state.backends.postgres.queries import FIRST, LAST
from flujo_lens.state.backends.postgres.tables import Shape
from flujo_lens.state.completed_runs import summarise_completed
from flujo_lens.state.interpret import RawRun, decode, put_run
from flujo_lens.state.views import RunSummary

_TIME = f"CASE WHEN {{0}} BETWEEN '{FIRST}' AND '{LAST}' THEN {{0}} END"
_NO_TIME = f"{{0}} NOT BETWEEN '{FIRST}' AND '{LAST}'"
_SMALL = 2_000
"""Bytes in a row up to which a document is handed out as it is: choosing from it would take longer."""

_CONTEXT_KEYS = (
    "current_step",
    "hitl_data",
    "loop_paused_step_name",
    "loop_resume_requires_hitl_output",
    "pause_message",
    "scratchpad",
)
_ENTRY_KEYS = ("name", "success", "feedback", "cost_usd", "token_counts", "latency_s")
_TELLS = """CASE WHEN {t}.status = 'failed' AND jsonb_typeof({0}) = 'array' THEN
  jsonb_path_exists({0}, '$[*] ? (@.success == false && @.feedback != "" && @.name != "")')
  AND jsonb_path_exists({0}, '$[*].cost_usd ? (@ != null)')
  AND jsonb_path_exists({0}, '$[*].token_counts ? (@ != null)') END"""
"""Whether a step history probably tells all of a failure (see `interpret.tells_failure`, which decides)."""
_IS_SEALED = f"jsonb_typeof({{0}}) = 'string' AND starts_with({{0}} #>> '{{{{}}}}', '{ARMOUR}')"
_CONTEXT = f"""CASE WHEN jsonb_typeof({{0}}) <> 'object' THEN {{0}}::text WHEN {{t}}.status = 'completed' THEN NULL
  WHEN pg_column_size({{0}}) < {_SMALL} THEN {{0}}::text ELSE (SELECT jsonb_object_agg(key, value)::text
    FROM jsonb_each({{0}}) WHERE key IN ({", ".join(f"'{key}'" for key in _CONTEXT_KEYS)})) END"""
_HISTORY = f"""CASE WHEN jsonb_typeof({{0}}) <> 'array' OR pg_column_size({{0}}) < {_SMALL} THEN {{0}}::text
  ELSE (SELECT jsonb_agg(jsonb_build_object({", ".join(f"'{key}', entry -> '{key}'" for key in _ENTRY_KEYS)})
    ORDER BY place)::text FROM jsonb_array_elements({{0}}) WITH ORDINALITY AS e (entry, place)) END"""

_STATE: dict[str, tuple[str, str]] = {
    "state_status": ("status", "{0}"),
    "state_name": ("pipeline_name", "{0}"),
    "state_version": ("pipeline_version", "{0}"),
    "state_created": ("created_at", _TIME),
    "state_updated": ("updated_at", _TIME),
    "step_index": ("current_step_index", "{0}"),
    "state_total": ("total_steps", "{0}"),
    "state_error": ("error_message", "{0}"),
    "state_ms": ("execution_time_ms", "{0}"),
    "is_background": ("is_background_task", "{0}"),
    "parent_run_id": ("parent_run_id", "{0}"),
    "task_id": ("task_id", "{0}"),
    "background_error": ("background_error", "{0}"),
    "metadata": ("metadata", "{0}::text"),
    "context": ("pipeline_context", _CONTEXT),
    "history": ("step_history", _HISTORY),
    "tells": ("step_history", _TELLS),
    "last_output": ("last_step_output", f"CASE WHEN {_IS_SEALED} THEN {{0}}::text END"),
}
_RUN: dict[str, tuple[str, str]] = {
    "run_status": ("status", "{0}"),
    "run_name": ("pipeline_name", "{0}"),
    "run_version": ("pipeline_version", "{0}"),
    "run_start": ("created_at", _TIME),
    "run_updated": ("updated_at", _TIME),
    "run_total": ("total_steps", "{0}"),
    "run_error": ("error_message", "{0}"),
    "run_ms": ("execution_time_ms", "{0}"),
}
"""By field of `RawRun`: the column, and what is selected of it."""

_FIELDS = [field.name for field in fields(RawRun)]
_FIELDS = _FIELDS[_FIELDS.index("has_run") + 1 : _FIELDS.index("last_output") + 1]
"""In this order columns are selected, and given to `RawRun`."""

_PLAIN_FROM, _METADATA, _HISTORY_AT = 11, _FIELDS.index("metadata"), _FIELDS.index("history")
"""Where they begin in a row of `listed`, and where two of them are behind that."""

_RUN_NAMES = {name: column for name, (column, _) in _RUN.items()}
_STEP = dict.fromkeys(("step_index", "step_name", "status", "token_counts"), "{0}") | {"cost_usd": "{0}::text::float8"}


def _side(kind: str, table: str, asked: Mapping[str, tuple[str, str]], shape: Shape) -> str:
    """A join with a row of a run: what is asked for, the document stored for it, and whether a time is unreadable."""
    alias, row, there = kind[0], f"{kind[0]}_row", shape.columns.get(table, frozenset())
    shown = [
        f"{form.format(f'{row}.{column}', t=row) if column in there else 'NULL'} AS {name}"
        for name, (column, form) in asked.items()
    ]
    times = [_NO_TIME.format(f"{row}.{name}") for name in ("created_at", "updated_at") if name in there]
    documents = queries.source("lens_documents", shape)
    return f"""LEFT JOIN {documents} d_{row} ON (d_{row}.run_id, d_{row}.kind, d_{row}.key) = (wanted.id, '{kind}', '')
  LEFT JOIN LATERAL (SELECT true AS there, {queries.kept(row)} AS document,
  {" OR ".join(times) or "false"} AS odd, {", ".join(shown)}
  FROM {queries.source(table, shape)} {row} WHERE {row}.run_id = wanted.id OFFSET 0) {alias} ON true"""


_NAMELESS = "coalesce(nullif(nullif({0}, ''), 'unknown'), nullif(nullif({1}, ''), 'unknown')) IS NULL"
_IS_NAMELESS = _NAMELESS.format("r.run_name", "s.state_name")
_IS_PLAIN = """s.state_status = 'completed' AND r.run_status = 'completed' AND NOT (s.odd OR r.odd)
  AND num_nonnulls(s.document, r.document, s.context, s.last_output) = 0 AND r.run_name NOT IN ('', 'unknown')
  AND coalesce(s.metadata NOT LIKE '%parent_run_id%' AND s.metadata NOT LIKE '%task_id%', true)
  AND coalesce(s.metadata LIKE '{%', true) AND coalesce(s.history NOT LIKE '"%', true)"""
_NEEDS_HISTORY = f"""(coalesce(s.state_status NOT IN ('completed', 'cancelled'), true) OR {_IS_NAMELESS}
  OR coalesce(r.run_status = 'failed', false))
  AND ({_IS_NAMELESS} OR NOT (r.run_status = 'failed' AND s.tells::boolean) IS TRUE)"""


def _rows(table: str, kind: str, shape: Shape, shown: Mapping[str, str], some: str = "true") -> str:
    """What is asked for of the rows of one kind, or the documents stored for them, as a JSON array; oldest first."""
    documents, there = queries.source("lens_documents", shape), shape.columns.get(table, frozenset())
    pairs = ", ".join(
        f"'{name}', {form.format(f't.{name}') if name in there else 'NULL'}" for name, form in shown.items()
    )
    return f"""CASE WHEN {_NEEDS_HISTORY} THEN (
  SELECT coalesce(json_agg(row ORDER BY place NULLS LAST, key), '[]')::text FROM (
    SELECT t.id AS place, '' AS key, coalesce(to_json({queries.kept("t")}), json_build_object({pairs})) AS row
    FROM {queries.source(table, shape)} t LEFT JOIN {documents} d_t ON (d_t.run_id, d_t.kind, d_t.key)
      = (wanted.id, '{kind}', t.id::text) WHERE t.run_id = wanted.id AND ({some} OR d_t.run_id IS NOT NULL)
    UNION ALL SELECT NULL, d.key, to_json(d.document) FROM {documents} d
    WHERE d.run_id = wanted.id AND d.kind = '{kind}' AND d.stamp IS NULL) AS u) END"""


def _spans(shape: Shape) -> str:
    there = shape.columns.get("spans", frozenset())
    finite = "CASE WHEN abs({0}) < 1e300 THEN {0} END"
    roots = f"CASE WHEN t.parent_span_id IS NULL AND {_IS_NAMELESS} THEN {{0}} END"
    is_asked = "t.parent_span_id IS NULL OR t.end_time IS NULL" if {"parent_span_id", "end_time"} <= there else "true"
    shown = {"name": "{0}", "parent_span_id": "{0}", "start_time": finite, "end_time": finite, "attributes": roots}
    return _rows("spans", "span", shape, shown, is_asked)


@lru_cache
def listed(shape: Shape, wanted: str, order: str = "", *, parents: bool = False) -> str:
    """What a list shows of runs: see `runs_of`. The arguments are those of `queries.runs`."""
    steps = _rows("steps", "step", shape, _STEP)
    sides = {**dict.fromkeys(_STATE, "s."), **dict.fromkeys(_RUN, "r.")}
    shown = ", ".join(f"{sides.get(name, 'NULL::text AS ')}{name}" for name in _FIELDS)
    has_tasks = queries.PARENTS if parents and shape.has_parents else "NULL::boolean"
    return f"""WITH wanted AS MATERIALIZED ({wanted})
SELECT wanted.started, wanted.id, {has_tasks}, {_IS_PLAIN}, s.odd OR r.odd, s.document, r.document, {_spans(shape)},
  {steps}, s.there IS NOT NULL, r.there IS NOT NULL, {shown}
FROM wanted {_side("state", "workflow_state", _STATE, shape)} {_side("run", "runs", _RUN, shape)}
WHERE s.there OR r.there {order}"""


def run_of(row: Any) -> ListedRun | None:
    """The run of a row of `listed`; None where columns of a client's types do not tell its times."""
    if row[3]:
        return ListedRun(_completed(row[1], row[_PLAIN_FROM:]))
    _, run_id, _, _, is_odd, state, run, spans, steps, *columns = row
    if is_odd:
        return None
    raw = RawRun(run_id, *columns)
    history = None if spans is None else (_parsed(spans), _parsed(steps))
    if state is not None:
        return ListedRun(RunRow(run_id, state.encode(), _run_document(raw, run)), history)
    _put_blobs(raw)
    if run is not None:
        put_run(raw, safe_loads(run))
    return ListedRun(raw, history)


def _completed(run_id: str, columns: Sequence[Any]) -> RunSummary:
    return summarise_completed(run_id, columns, safe_loads(columns[_METADATA] or "{}"), decode(columns[_HISTORY_AT]))


def _put_blobs(raw: RawRun) -> None:
    """Parse what is JSON, and take from the metadata what a background task is known by."""
    raw.history = safe_loads(raw.history) if raw.history is not None else None
    raw.context = safe_loads(raw.context) if raw.context is not None else None
    raw.last_output = safe_loads(raw.last_output) if raw.last_output is not None else None
    if raw.metadata is None or raw.metadata == "{}":
        raw.metadata = {} if raw.metadata is not None else None
        return
    raw.metadata = meta = safe_loads(raw.metadata)
    if isinstance(meta, dict):
        raw.parent_run_id = raw.parent_run_id or meta.get("parent_run_id")
        raw.task_id = raw.task_id or meta.get("task_id")


def _run_document(raw: RawRun, document: str | None) -> bytes | None:
    if document is not None or not raw.has_run:
        return document.encode() if document is not None else None
    return orjson.dumps({column: getattr(raw, name) for name, column in _RUN_NAMES.items()})


def _parsed(rows: str) -> list[dict[str, Any]]:
    if rows == "[]":
        return []
    return [safe_loads(row) if isinstance(row, str) else row for row in safe_loads(rows)]
