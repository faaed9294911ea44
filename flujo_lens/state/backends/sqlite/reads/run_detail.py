"""One run with all that belongs to it; evaluations and system state."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from flujo_lens.errors import SealedStateError
from flujo_lens.state.backends.core.unreadable_states import readable
from flujo_lens.state.backends.sqlite.engine.session import Session, as_text, page_ids
from flujo_lens.state.backends.sqlite.reads import queries
from flujo_lens.state.backends.sqlite.reads.load_state import Opener, open_blobs
from flujo_lens.state.interpret import BAD, RawRun, decode, pause_of, steps_of
from flujo_lens.state.numbers import as_int, as_number
from flujo_lens.state.timestamps import parse_instant
from flujo_lens.state.traces import SpanRow, build_trees, spans_of_tree, step_inputs
from flujo_lens.state.views import Evaluation, RunDetail, Span, StepRecord, SystemEntry

_STATE_BLOBS = ("pipeline_context", "last_step_output", "step_history", "metadata")
_SEALED = "<sealed>"
"""Stands for what only another key opens."""


def states(session: Session, status: str | None, value: Opener) -> list[dict[str, Any]]:
    """All saved documents (of one status) that can be read, the last saved first; times stay texts."""
    newest = f"ORDER BY {session.shape.row('workflow_state')} DESC"
    where = f"WHERE status = ? {newest}" if status is not None else newest
    found = []
    for row in _state_rows(session, where, (status,) if status is not None else ()):
        run_id = as_text(row.get("run_id"))
        state = readable(run_id, partial(_opened, row, value, run_id))
        if state is not None:
            found.append(state)
    return found


def _opened(row: dict[str, Any], value: Opener, run_id: str) -> dict[str, Any]:
    open_blobs(row, value, run_id)
    return row


def _state_rows(session: Session, where: str, values: tuple[Any, ...]) -> Iterator[dict[str, Any]]:
    if not session.shape.has("workflow_state"):
        return
    cursor = session.rows(f"SELECT * FROM workflow_state {where}", values)
    names = [column[0].lower() for column in cursor.description]
    for row in cursor:
        state = dict(zip(names, row, strict=True))
        if "is_background_task" in state:
            state["is_background_task"] = bool(state["is_background_task"])
        yield state


def _lenient(value: Opener) -> Opener:
    """An operator sees what there is to see, also without the key."""

    def opened(run_id: str, field: str, blob: Any) -> Any:
        try:
            return value(run_id, field, blob)
        except SealedStateError:
            return _SEALED

    return opened


def _decoded(state: dict[str, Any], value: Opener) -> dict[str, Any]:
    run_id = as_text(state.get("run_id"))
    for name in _STATE_BLOBS:
        if name in state:
            state[name] = value(run_id, name, state[name])
    return state


def read_run(session: Session, run_id: str, value: Opener) -> RunDetail | None:
    """All about one run; None if no table knows it."""
    value = _lenient(value)
    sql = queries.by_ids(session.shape, "SELECT ?", details=True)
    row = session.rows(sql, (run_id,)).fetchone()
    raw = RawRun(*row) if row else None
    if raw is None or not (raw.has_state or raw.has_run):
        return None
    found = next(_state_rows(session, "WHERE run_id = ?", (run_id,)), None)
    state = None if found is None else _decoded(found, value)
    if state is not None:
        context = state.get("pipeline_context")
        raw.put("context", context)
        if isinstance(context, str):
            raw.problems.append("context is sealed" if context == _SEALED else "context does not parse")
        raw.put("last_output", state.get("last_step_output"))
    rows = span_rows(session, run_id, value)
    steps = steps_of(raw, _steps(session, run_id, value), step_inputs(rows))
    run = session.summary(raw)
    return RunDetail(
        run=run,
        steps=tuple(steps),
        state=state,
        pause=pause_of(raw, run.status),
        children=tuple(page_ids(session, _children(session, run_id), details=True)),
        final_output=_final_output(session, run_id, state, value),
        has_spans=bool(rows),
    )


def _children(session: Session, run_id: str) -> list[str]:
    if not session.shape.has("workflow_state", "parent_run_id"):
        return []
    rows = session.rows(queries.tasks(session.shape), (run_id,))
    return [as_text(row[0]) for row in rows if row[0] is not None]


def _final_output(session: Session, run_id: str, state: dict[str, Any] | None, value: Opener) -> Any:
    if state is not None and state.get("last_step_output") is not None:
        return state["last_step_output"]
    if not session.shape.has("runs", "final_context_blob"):
        return None
    blob = session.value("SELECT final_context_blob FROM runs WHERE run_id = ?", (run_id,))
    found = value(run_id, "final_context", blob)
    return None if found is blob else found


def _steps(session: Session, run_id: str, value: Opener) -> list[StepRecord]:
    """The rows of ``steps``, in the order of index and writing."""
    shape = session.shape
    if not shape.has("steps", "run_id", "step_name", "step_index", "status"):
        return []
    sql = queries.steps(shape)
    return [_step(run_id, row, value) for row in session.rows(sql, (run_id,))]


def _step(run_id: str, row: tuple[Any, ...], value: Opener) -> StepRecord:
    index, name, status, output, error, cost, tokens, spent, created, given = row
    message = value(run_id, "error", error)
    return StepRecord(
        step_index=as_int(index),
        step_name=as_text(name),
        status=as_text(status),
        output=value(run_id, "output", output),
        error=message if isinstance(message, str) or message is None else str(message),
        cost_usd=as_number(cost),
        token_counts=as_int(tokens),
        duration_ms=as_number(spent),
        created_at=parse_instant(created),
        input=value(run_id, "input", given),
    )


def _text(value: Any) -> str | None:
    return None if value is None else as_text(value)


def _readable(blob: Any) -> Any:
    """A decoded blob; one that does not parse as its text."""
    value = decode(blob)
    return blob if value is BAD else value


# --- spans


def span_rows(session: Session, run_id: str, value: Opener) -> list[SpanRow]:
    """The spans of a run; those of a stored trace tree if the run has no span rows."""
    shape = session.shape
    if not shape.has("spans", "run_id", "span_id", "parent_span_id", "name", "start_time", "end_time", "status"):
        return _trace_rows(session, run_id)
    rows = session.rows(queries.spans(shape), (run_id,))
    return [_span(run_id, row, value) for row in rows] or _trace_rows(session, run_id)


def _trace_rows(session: Session, run_id: str) -> list[SpanRow]:
    tree = trace(session, run_id)
    return spans_of_tree(tree) if isinstance(tree, dict) else []


def trace(session: Session, run_id: str) -> Any:
    """The stored trace tree of a run (no version of the library is known to write one), or None."""
    if not session.shape.has("traces", "run_id", "trace_data"):
        return None
    value = decode(session.value("SELECT trace_data FROM traces WHERE run_id = ?", (run_id,)))
    return None if value is BAD else value


def _span(run_id: str, row: tuple[Any, ...], value: Opener) -> SpanRow:
    span_id, parent, name, status, start, end, blob = row
    attributes = value(run_id, "attributes", blob)
    strange = attributes if isinstance(attributes, str) else blob
    return SpanRow(
        span_id=as_text(span_id),
        parent_span_id=None if parent is None else as_text(parent),
        name=as_text(name),
        status=as_text(status or "running"),
        start=as_number(start),
        end=as_number(end),
        attributes=attributes if isinstance(attributes, dict) else {"unreadable": strange} if blob else {},
    )


def spans(session: Session, run_id: str, value: Opener) -> list[Span]:
    """The spans of a run as trees."""
    start = None
    if queries.start_columns(session.shape):
        start = parse_instant(session.value(queries.start_of_run(session.shape), (run_id,)))
    return build_trees(span_rows(session, run_id, _lenient(value)), start)


# --- the rest


def evaluations(session: Session, run_id: str | None, limit: int, value: Opener) -> list[Evaluation]:
    """Evaluations, newest first."""
    if not session.shape.has("evaluations", "run_id", "score"):
        return []
    where, values = ("WHERE run_id = ?", [run_id]) if run_id is not None else ("", [])
    return [
        Evaluation(
            run_id=as_text(r[0]),
            step_name=_text(r[1]),
            score=as_number(r[2]),
            feedback=_text(r[3]),
            metadata=value(as_text(r[0]), "metadata", r[4]),
            created_at=parse_instant(r[5]),
        )
        for r in session.rows(queries.evaluations(session.shape, where), (*values, limit))
    ]


def system_entries(session: Session, key: str | None = None) -> list[SystemEntry]:
    """Global keys with their values, by key."""
    if not session.shape.has("system_state", "key", "value"):
        return []
    where, values = ("WHERE key = ?", (key,)) if key is not None else ("", ())
    sql = queries.system_entries(session.shape, where)
    return [SystemEntry(as_text(r[0]), _readable(r[1]), parse_instant(r[2])) for r in session.rows(sql, values)]
