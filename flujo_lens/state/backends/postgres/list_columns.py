"""What a list shows of runs, by columns: the SQL, and its rows as `RawRun`.

Of a run that has ended, as most have, a few columns tell all. Of others documents are read, but not whole: of a
context, the keys that `interpret` reads; of a step history, the fields. Where a column keeps less than was saved, its
row comes with the stored document, which counts instead.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import orjson

from flujo_lens.serialization import safe_loads
from flujo_lens.serialization.envelope import ARMOUR
from flujo_lens.state.backends.core.port import ListedRun, RunRow
from flujo_lens.state.backends.postgres import queries
from flujo_lens.state.backends.postgres.queries import FIRST, LAST
from flujo_lens.state.backends.postgres.tables import COLUMNS, TYPES, Shape
from flujo_lens.state.completed_runs import summarise_ended
from flujo_lens.state.interpret import RawRun, put_run

_NO_TIME = f"{{0}} NOT BETWEEN '{FIRST}' AND '{LAST}'"
_TIME = f"CASE WHEN NOT {_NO_TIME} THEN {{0}} END"
_SMALL = 2_000
"""Bytes in a row up to which a document is handed out as it is: choosing from it would take longer."""

_CONTEXT_KEYS = """'current_step', 'hitl_data', 'loop_paused_step_name', 'loop_resume_requires_hitl_output',
  'pause_message', 'scratchpad'"""
_ENTRY_KEYS = ("name", "success", "feedback", "cost_usd", "token_counts", "latency_s")
_TELLS = """r.status = 'failed' AND s.status = 'failed' AND jsonb_typeof(s.step_history) = 'array'
  AND jsonb_path_exists(s.step_history, '$[*] ? (@.success == false && @.feedback != "" && @.name != "")')
  AND jsonb_path_exists(s.step_history, '$[*].cost_usd ? (@ != null)')
  AND jsonb_path_exists(s.step_history, '$[*].token_counts ? (@ != null)')"""
"""Whether a step history probably tells all of a failure (see `interpret.tells_failure`)."""
_IS_SEALED = f"""jsonb_typeof(s.last_step_output) = 'string'
  AND starts_with(s.last_step_output #>> '{{}}', '{ARMOUR}')"""
_CONTEXT = f"""CASE WHEN jsonb_typeof(s.pipeline_context) <> 'object' THEN s.pipeline_context::text
  WHEN s.status = 'completed' THEN NULL WHEN pg_column_size(s.pipeline_context) < {_SMALL} THEN s.pipeline_context::text
  ELSE (SELECT jsonb_object_agg(key, value)::text FROM jsonb_each(s.pipeline_context)
    WHERE key IN ({_CONTEXT_KEYS})) END"""
_HISTORY = f"""CASE WHEN jsonb_typeof(s.step_history) <> 'array' OR pg_column_size(s.step_history) < {_SMALL}
  THEN s.step_history::text ELSE (SELECT jsonb_agg(jsonb_build_object(
    {", ".join(f"'{key}', entry -> '{key}'" for key in _ENTRY_KEYS)}) ORDER BY place)::text
    FROM jsonb_array_elements(s.step_history) WITH ORDINALITY AS e (entry, place)) END"""
_TIMES = ("s.created_at", "s.updated_at", "r.created_at", "r.updated_at")
_COLUMNS = f"""s.status, r.status, s.pipeline_name, s.pipeline_version, r.pipeline_name, r.pipeline_version, NULL::text,
  {", ".join(map(_TIME.format, _TIMES))}, NULL::text, s.current_step_index, s.total_steps, r.total_steps,
  s.error_message, r.error_message, s.execution_time_ms, r.execution_time_ms, s.is_background_task, s.parent_run_id,
  s.task_id, s.background_error, s.metadata::text, {_CONTEXT}, {_HISTORY},
  CASE WHEN {_IS_SEALED} THEN s.last_step_output::text END"""
"""What `RawRun` takes from ``state_status`` to ``last_output``, in its order."""
_STEP = dict.fromkeys(("step_index", "step_name", "status", "token_counts"), "{0}") | {"cost_usd": "{0}::text::float8"}
_IS_PLAIN = f"""s.status = r.status AND r.pipeline_name NOT IN ('', 'unknown')
  AND (s.status = 'completed' OR NOT coalesce(s.is_background_task, false) AND {_TELLS})
  AND (s.metadata IS NULL OR jsonb_typeof(s.metadata) = 'object'
    AND NOT s.metadata ?| '{{parent_run_id,task_id,background_error}}')
  AND coalesce(jsonb_typeof(s.step_history) <> 'string', true)
  AND coalesce(jsonb_typeof(s.pipeline_context) = 'object', true)
  AND NOT coalesce({_IS_SEALED}, false)"""
"""Whether `summarise_ended` can tell a run whose columns keep all that was saved."""
_IS_ODD = f"coalesce({' OR '.join(map(_NO_TIME.format, _TIMES))}, false)"
_NEWEST = "greatest(r.created_at, r.updated_at, s.created_at, s.updated_at)"
_ENDED = f"""s.status, r.pipeline_name, r.pipeline_version,
  CASE WHEN x.plain THEN nullif(r.created_at, wanted.started) END,
  CASE WHEN x.plain THEN {_NEWEST} END, CASE WHEN x.plain THEN nullif(r.updated_at, {_NEWEST}) END,
  s.current_step_index, coalesce(nullif(s.total_steps, 0), nullif(r.total_steps, 0)),
  CASE s.status WHEN 'failed' THEN coalesce(nullif(s.error_message, ''), r.error_message) ELSE s.error_message END,
  r.execution_time_ms, s.is_background_task, s.parent_run_id, s.task_id, s.background_error,
  CASE WHEN x.plain AND s.metadata <> '{{}}' THEN s.metadata::text END,
  CASE WHEN x.plain THEN {_HISTORY} END"""
"""What `summarise_ended` takes; of times that are the same (start and ``started``, last update and end) one."""
_IS_NAMELESS = """coalesce(nullif(nullif(r.pipeline_name, ''), 'unknown'),
  nullif(nullif(s.pipeline_name, ''), 'unknown')) IS NULL"""
_NEEDS_HISTORY = f"""coalesce(s.status NOT IN ('completed', 'cancelled'), true) OR {_IS_NAMELESS}
  OR coalesce(r.status = 'failed', false)"""
_COLUMN = re.compile(r"\b([sr])\.(?!run_id)(\w+)")


def _existing(sql: str, shape: Shape) -> str:
    """The SQL with NULL in place of the columns of a run's rows that are missing."""

    def told(found: re.Match[str]) -> str:
        table = "workflow_state" if found[1] == "s" else "runs"
        return found[0] if shape.has_column(table, found[2]) else f"NULL::{TYPES[COLUMNS[table][found[2]]]}"

    return _COLUMN.sub(told, sql)


def _rows(table: str, shape: Shape, shown: Mapping[str, str], some: str = "true") -> str:
    """What is asked for of the rows of one kind, as a JSON array; oldest first."""
    there = shape.columns.get(table, frozenset())
    pairs = ", ".join(
        f"'{name}', {form.format(f't.{name}') if name in there else 'NULL'}" for name, form in shown.items()
    )
    made = f"json_agg(json_build_object({pairs}) ORDER BY t.id)"
    return f"""CASE WHEN {_NEEDS_HISTORY} THEN (SELECT coalesce({made}, '[]')::text
  FROM {queries.source(table, shape)} t WHERE t.run_id = wanted.id AND ({some})) END"""


def _spans(shape: Shape) -> str:
    there = shape.columns.get("spans", frozenset())
    finite = "CASE WHEN abs({0}) < 1e300 THEN {0} END"
    roots = f"CASE WHEN t.parent_span_id IS NULL AND {_IS_NAMELESS} THEN {{0}} END"
    is_asked = "t.parent_span_id IS NULL OR t.end_time IS NULL" if {"parent_span_id", "end_time"} <= there else "true"
    shown = {"name": "{0}", "parent_span_id": "{0}", "start_time": finite, "end_time": finite, "attributes": roots}
    return _rows("spans", shape, shown, is_asked)


@lru_cache
def listed(shape: Shape, wanted: str, order: str = "", *, parents: bool = False, has_runs: bool = False) -> str:
    """What a list shows of runs: see `run_of`. The arguments are those of `queries.runs`."""
    is_whole = all(COLUMNS[table].keys() <= shape.columns.get(table, frozenset()) for _, table in queries.SIDES)
    is_plain = f"o.documents IS NULL AND NOT {_IS_ODD} AND {_IS_PLAIN}" if is_whole else "false"
    digest = "CASE WHEN x.documents IS NOT NULL THEN (SELECT md5(k::text) FROM {} k WHERE k.run_id = wanted.id) END"
    digests = ", ".join(digest.format(queries.source(table, shape)) for _, table in queries.SIDES)
    history = f"{_spans(shape)}, {_rows('steps', shape, _STEP)}"
    rest = f"{_IS_ODD}, x.documents, {digests}, {history}, s.run_id IS NOT NULL, r.run_id IS NOT NULL, {_COLUMNS}"
    sql = f"""SELECT wanted.started, wanted.id, {queries.has_tasks(shape, parents)},
  CASE WHEN NOT x.plain THEN ROW({rest}) END, {_ENDED}
FROM wanted {queries.rows_of_runs(shape, has_runs)}
CROSS JOIN LATERAL (SELECT (SELECT json_agg(json_build_array(d.kind, d.stamp, d.document))::text
  FROM {queries.source("lens_documents", shape)} d WHERE d.run_id = wanted.id) AS documents OFFSET 0) AS o
CROSS JOIN LATERAL (SELECT o.documents, coalesce({is_plain}, false) AS plain OFFSET 0) AS x
WHERE s.run_id IS NOT NULL OR r.run_id IS NOT NULL {order}"""
    return f"WITH wanted AS MATERIALIZED ({wanted})\n{queries.of_wanted(_existing(sql, shape), has_runs)}"


def run_of(row: Any) -> ListedRun | None:
    """The run of a row of `listed`; None where that does not tell all of it."""
    started, run_id, _, rest, status, name, version, begun, newest, end, *columns = row
    if rest is None:
        run = summarise_ended(run_id, status, name, version, begun or started, newest, end or newest, *columns)
        return None if run is None else ListedRun(run)
    is_odd, documents, *digests, spans, steps = rest[:6]
    stored = {kind: (stamp, document) for kind, stamp, document in json.loads(documents or "[]")}
    if is_odd or not stored.keys() <= {"state", "run"}:
        return None
    raw = RawRun(run_id, *rest[6:])
    history = None if spans is None else (safe_loads(spans), safe_loads(steps))
    kept = zip((stored.get("state"), stored.get("run")), digests, strict=True)
    state, document = (of[1] if of is not None and of[0] == digest else None for of, digest in kept)
    if state is not None:
        return ListedRun(RunRow(run_id, state.encode(), _run_document(raw, document)), history)
    _put_blobs(raw)
    if document is not None:
        put_run(raw, safe_loads(document))
    return ListedRun(raw, history)


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
    times = {"created_at": raw.run_start, "updated_at": raw.run_updated, "execution_time_ms": raw.run_ms}
    names = {"status": raw.run_status, "pipeline_name": raw.run_name, "pipeline_version": raw.run_version}
    return orjson.dumps({**names, **times, "total_steps": raw.run_total, "error_message": raw.run_error})
