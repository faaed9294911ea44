"""The words of history, one set for all drivers: what applications write, under one name each.

The library's versions call the same thing differently (``duration_ms`` in 0.4.x, ``execution_time_ms`` in
0.6.x). What the writing methods of the contract are given goes through here, and a driver keeps rows of one
vocabulary, the newer. The functions are pure: nothing that is passed in is changed, values (outputs, contexts,
attributes) are passed on as they are, and serializing them is the driver's part. Keys that are not known stay
in the row, for a driver that can keep them.

Times that are `datetime` become ISO 8601 texts in UTC (naive ones are read as UTC, as the library means them);
texts stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

from flujo_lens.state.backends.base import JSONObject
from flujo_lens.state.backends.core.validation import (
    check_object,
    check_rows,
    check_run_id,
    check_score,
    check_state,
    check_text,
)
from flujo_lens.state.timestamps import parse_instant

_ENDS = ("completed", "cancelled")
_RUN_NAMES = {"start_time": "created_at", "final_context_blob": "final_context"}
_STEP_NAMES = {
    "duration_ms": "execution_time_ms",
    "cost": "cost_usd",
    "tokens": "token_counts",
    "input_blob": "input",
    "output_blob": "output",
    "error_blob": "error",
    "error_message": "error",
}
_MOST_SECONDS = 2**63
_PLAIN = (Mapping, list, str, int, float, type(None))
"""What no application's object of fields is."""
_FILLED = "lens_filled"
_NAMELESS = (None, "", "unknown")
_TIMES = ("created_at", "updated_at", "start_time", "end_time")
_RUN_DEFAULTS: JSONObject = {
    "pipeline_id": "unknown",
    "pipeline_name": "unknown",
    "pipeline_version": "latest",
    "status": "running",
    "total_steps": 0,
}


# --- times


def moment_before(now: datetime, *, days: float = 0, hours: float = 0) -> datetime:
    """The instant so long before `now`; the beginning of time where the calendar does not go back so far."""
    try:
        return now - timedelta(days=days, hours=hours)
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC)


def now_text() -> str:
    """The present, as it is stored."""
    return datetime.now(UTC).isoformat()


def _time_text(value: Any) -> Any:
    """A time as it is stored: ISO 8601 in UTC for a `datetime`; anything else as it is."""
    if not isinstance(value, datetime):
        return value
    return (value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)).isoformat()


def last_update(state: Iterable[object], run: Iterable[object] = (), naive: tzinfo = UTC) -> datetime | None:
    """The newest of a run's stored times; None, which is never old, if there is none or one cannot be read.

    Args:
        state: The times of its state (texts, `datetime`, or None where there is no time).
        run: Those of its row of ``runs``, where naive ones are UTC.
        naive: The zone of naive times in the state.
    """
    read = [parse_instant(_aware_text(value), naive) for value in state if value not in (None, "")]
    read += [parse_instant(_aware_text(value)) for value in run if value not in (None, "")]
    known = [when for when in read if when is not None]
    return max(known) if known and len(known) == len(read) else None


def _aware_text(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else value


def is_stale(state: Mapping[str, Any], cutoff: datetime, naive: tzinfo = UTC) -> bool:
    """Whether a saved state is that of a background task that runs and gave no sign since `cutoff`.

    Its last save is its last sign. A time that is missing or cannot be read is never too old.
    """
    metadata = state.get("metadata")
    inside = metadata.get("is_background_task") if isinstance(metadata, dict) else None
    if state.get("status") != "running" or not (state.get("is_background_task") or inside):
        return False
    saved = last_update((state.get("updated_at"),), naive=naive)
    return saved is not None and saved < cutoff


def filled(state: Mapping[str, Any], run_id: str) -> JSONObject:
    """A state as it is kept, with its id; one without ``created_at`` or ``updated_at`` was made or changed just now.

    What is put in, and what stood there before, is noted in it: `as_saved` takes it out again.
    """
    added = {name: now_text() for name in ("created_at", "updated_at") if not state.get(name)}
    missing = [name for name in ("created_at", "run_id", "updated_at") if name in added or name not in state]
    marks = {_FILLED: [[name, state[name]] if name in state else [name] for name in missing]} if missing else {}
    return {**state, **added, **marks, "run_id": run_id}


def as_saved(kept: JSONObject) -> JSONObject:
    """A state as it was before `filled` put anything in."""
    notes = kept.get(_FILLED)
    if not isinstance(notes, list) or not all(isinstance(note, list) and note for note in notes):
        return kept
    names = [note[0] for note in notes]
    state = {name: value for name, value in kept.items() if name != _FILLED and name not in names}
    return state | {note[0]: note[1] for note in notes if len(note) > 1}


def as_object(state: Any, default: Callable[[Any], Any] | None) -> JSONObject:
    """A state by field name: a dict as it is, of any other object what is written of it.

    Raises:
        TypeError: that has no fields.
    """
    if type(state) is not dict and not isinstance(state, _PLAIN):
        from flujo_lens.serialization import safe_serialize

        plain = safe_serialize(state, default, on_lossy=lambda lost: None)
        if isinstance(plain, dict):
            return plain
    check_state(state)
    return dict(state)


def is_open(state: Mapping[str, Any] | None, run: Mapping[str, Any] | None) -> bool:
    """Whether a run could go on, by the status of its state, or of its row where it has no state."""
    found = state if state is not None else run
    return found is not None and found.get("status") not in _ENDS


def cancelled(now: str) -> JSONObject:
    """The fields of a state, and of a run, that change when it is cancelled at `now`."""
    return {"status": "cancelled", "updated_at": now}


def timed_out(stale_hours: float, now: str) -> JSONObject:
    """The fields of the state of a background task that is given up at `now`."""
    why = f"timed out: no activity for {stale_hours:g} hours"
    return {"status": "failed", "error_message": why, "background_error": why, "updated_at": now}


# --- rows


def run_row(data: Mapping[str, Any]) -> JSONObject:
    """The row of a run that starts, from what `save_run_start` is given.

    Returns:
        ``run_id``, ``pipeline_id``, ``pipeline_name``, ``pipeline_version``, ``status`` (``running``),
        ``created_at`` (also given as ``start_time``; now), ``updated_at`` (the start), ``total_steps``, and what
        else is given: ``end_time``, ``execution_time_ms``, ``memory_usage_mb``, ``error_message``,
        ``total_cost``, ``final_context``.

    Raises:
        ValueError, TypeError: as `check_run_id`.
    """
    check_object(data, "run_data")
    check_run_id(data.get("run_id"))
    row = {**_RUN_DEFAULTS, **_renamed(data, _RUN_NAMES)}
    created = row.get("created_at") or now_text()
    return {**row, "created_at": created, "updated_at": row.get("updated_at") or created}


def end_row(data: Mapping[str, Any]) -> JSONObject:
    """The fields of a run that change when it ends, from what `save_run_end` is given.

    The status is ``completed`` unless another is given, ``end_time`` and ``updated_at`` are each other's or now.
    The names are those of `run_row`; the run's id, start, and what is None are no changes.

    Raises:
        TypeError: it is no dict.
    """
    check_object(data, "end_data")
    given = _renamed(data, _RUN_NAMES)
    row = {key: value for key, value in given.items() if key not in ("run_id", "created_at")}
    ended = row.get("end_time") or row.get("updated_at") or now_text()
    return {"status": "completed", "end_time": ended, "updated_at": ended, **row}


def step_row(data: Mapping[str, Any]) -> JSONObject:
    """The row of one execution of a step, from what `save_step_result` is given.

    Returns:
        ``run_id``, ``step_name``, ``step_index``, ``status`` (``completed``), ``created_at`` (else the end or
        the start that is given, else now), and what else is given: ``input``, ``output``, ``raw_response``,
        ``error``, ``cost_usd`` (or ``cost``), ``token_counts`` (or ``tokens``), ``execution_time_ms`` (or
        ``duration_ms``), ``start_time``, ``end_time``.

    Raises:
        ValueError, TypeError: as `check_run_id`.
    """
    check_object(data, "step_data")
    check_run_id(data.get("run_id"))
    row = {"step_name": "unknown", "step_index": None, "status": "completed", **_renamed(data, _STEP_NAMES)}
    created = row.get("created_at") or row.get("end_time") or row.get("start_time") or now_text()
    return {**row, "created_at": created}


def evaluation_row(
    run_id: str, score: float, feedback: str | None, step_name: str | None, metadata: JSONObject | None
) -> JSONObject:
    """The row of an evaluation, but for its time, from what `persist_evaluation` is given.

    Raises:
        ValueError, TypeError: as `check_run_id`, `check_score` and `check_text`.
    """
    for name, value in (("feedback", feedback), ("step_name", step_name)):
        check_text(value, name)
    texts = {"feedback": feedback, "step_name": step_name}
    return {"run_id": check_run_id(run_id), "score": check_score(score), **texts, "metadata": metadata}


def extras_of(state: Mapping[str, Any] | None, run: Mapping[str, Any] | None) -> JSONObject:
    """What `ReadingBackend.read_extras` tells of a run, out of its state and its row of `run_row` and `end_row`."""
    state, run = state or {}, run or {}
    ids = (state.get("pipeline_id"), run.get("pipeline_id"))
    memory = state.get("memory_usage_mb")
    return {
        "pipeline_id": next((name for name in ids if name not in _NAMELESS), None),
        "memory_usage_mb": run.get("memory_usage_mb") if memory is None else memory,
        **{name: run.get(name) for name in ("total_cost", "end_time", "final_context")},
    }


def _renamed(data: Mapping[str, Any], names: Mapping[str, str]) -> JSONObject:
    """`data` in the newer names and with times as texts, without what is None; given twice, the newer name counts."""
    given = {key: value for key, value in data.items() if value is not None}
    old = {names[key]: value for key, value in given.items() if key in names}
    row = old | {key: value for key, value in given.items() if key not in names}
    return row | {key: _time_text(row[key]) for key in _TIMES if key in row}


def span_row(data: Mapping[str, Any]) -> JSONObject | None:
    """A span with all its keys (see `StateBackend.save_spans`), or None if it has no id to be known by.

    The status is ``running`` unless one is given. Times that are no numbers and attributes that are no object
    are left out; so is what is not known.
    """
    if data.get("span_id") is None:
        return None
    parent, attributes = data.get("parent_span_id"), data.get("attributes")
    return {
        "span_id": str(data["span_id"]),
        "parent_span_id": None if parent is None else str(parent),
        "name": str(data.get("name") or "unknown"),
        "start_time": _seconds(data.get("start_time")),
        "end_time": _seconds(data.get("end_time")),
        "status": str(data.get("status") or "running"),
        "attributes": attributes if isinstance(attributes, dict) else {},
    }


def span_rows(spans: Sequence[Mapping[str, Any]]) -> list[JSONObject]:
    """The spans that have an id, each id once: of two, the later counts and takes the place of the earlier.

    Raises:
        TypeError: they are no list of dicts.
    """
    check_rows(spans, "spans")
    rows = (span_row(span) for span in spans)
    return list({row["span_id"]: row for row in rows if row is not None}.values())


def trace_rows(tree: Mapping[str, Any] | None) -> list[JSONObject]:
    """The spans of a trace tree (children under ``children``), parents first; nothing for an empty tree.

    Parents come from the tree alone. A node without an id is left out, and its children take its place.

    Raises:
        TypeError: it is no dict.
    """
    if tree is not None:
        check_object(tree, "a trace")
    rows: list[JSONObject] = []
    waiting: list[tuple[Any, str | None]] = [(tree, None)]
    while waiting:
        node, above = waiting.pop()
        if not isinstance(node, Mapping):
            continue
        row = span_row({**node, "parent_span_id": above})
        if row is not None:
            rows.append(row)
            above = row["span_id"]
        children = node.get("children")
        waiting += [(child, above) for child in reversed(children)] if isinstance(children, list | tuple) else []
    return span_rows(rows)


def _seconds(value: Any) -> float | None:
    """A time of a span: a finite number of 64 bits."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and -_MOST_SECONDS < value < _MOST_SECONDS else None
