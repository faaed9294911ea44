"""Summaries of runs that have ended, as `interpret.summarise` makes them, in a part of its time.

Most runs of a list have, and the rules of the others (questions, steps that run) do not ask for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, tzinfo
from typing import Any

from flujo_lens.serialization import safe_loads
from flujo_lens.state.costs import total_of, total_of_history
from flujo_lens.state.interpret import MILLISECOND, NAMELESS, busy_ms, decode
from flujo_lens.state.numbers import as_int, as_number
from flujo_lens.state.timestamps import parse_instant
from flujo_lens.state.views import EMPTY, RunSummary

_TASK_KEYS = frozenset({"parent_run_id", "task_id", "is_background_task"})
"""What metadata has of a background task."""


def summarise_ended(
    run_id: str,
    status: str,
    name: str,
    version: str | None,
    started: datetime,
    newest: datetime,
    ended: datetime,
    index: int | None,
    total: int | None,
    error: str | None,
    ms: int | None,
    is_task: bool | None,
    parent_run_id: str | None,
    task_id: str | None,
    task_error: str | None,
    metadata: str | None,
    history: str | None,
) -> RunSummary | None:
    """The summary of a run that has completed or failed, by columns that are what they should be; else None.

    The same as `summarise`, whose other rules such a run has no need of, in a tenth of the time.

    Args:
        status: That of both tables; a failed run is no background task.
        name: As of ``runs``; so are `version`, `started`, `ended` and `ms`.
        newest: When anything of it was last written.
        total: The number of its steps, if it is known.
        error: As it is stored; of a failed run, that of either table.
        metadata: JSON without a parent or a task; None is empty.
        history: The JSON of its step history.
    """
    entries = decode(history)
    cost, tokens, steps = total_of_history(entries) if isinstance(entries, list) else (None, None, 0)
    step = None
    if status == "failed":
        if (failure := _failure(entries)) is None or cost is None or tokens is None or task_error:
            return None
        (step, feedback), steps = failure, 0
        error = error or feedback
    is_wall_time = ms is None and ended >= started
    spent = (ended - started) / MILLISECOND if is_wall_time else ms
    run = (
        run_id,
        name,
        version or "latest",
        status,
        started,
        newest,
        spent,
        index,
        step,
        total or steps or None,
        error,
    )
    task = (None, parent_run_id, task_id, bool(is_task))
    of_task = (EMPTY if metadata is None else safe_loads(metadata), task_error)
    return RunSummary(*run, *task, *of_task, cost_usd=cost, tokens=tokens, counts_waiting=is_wall_time)


def _failure(entries: Any) -> tuple[str, str] | None:
    """The step that failed last, and its error; None if these are no texts."""
    for entry in reversed(entries) if isinstance(entries, list) else ():
        if isinstance(entry, dict) and entry.get("success") is False:
            step, error = entry.get("name"), entry.get("feedback")
            return (step, error) if step.__class__ is error.__class__ is str and step and error else None
    return None


def summarise_completed_documents(
    run_id: str, state: Mapping[str, Any], run: Mapping[str, Any] | None, naive: tzinfo = UTC
) -> RunSummary | None:
    """The summary of a run that has completed, by its documents, if they have what they should; else None.

    The same as `summarise` has, in a third of the time.

    Args:
        run: Run metadata; None if there is none.
        naive: As of `summarise`.
    """
    get, of_run = state.get, run or {}
    if get("status") != "completed" or (run is not None and of_run.get("status") != "completed"):
        return None
    metadata, history = ({} if (value := get(key)) is None else value for key in ("metadata", "step_history"))
    if not isinstance(metadata, dict) or not (isinstance(history, list) or history == {}):
        return None
    if isinstance(get("pipeline_context"), str) or isinstance(get("last_step_output"), str):  # may be sealed
        return None
    if get("is_background_task") or not _TASK_KEYS.isdisjoint(metadata):
        return None
    named = of_run if of_run.get("pipeline_name") not in NAMELESS else state
    name, version = named.get("pipeline_name"), named.get("pipeline_version")
    texts = (get("error_message"), get("parent_run_id"), get("task_id"), get("background_error"), name, version)
    if name in NAMELESS or not all(text is None or type(text) is str for text in texts):
        return None
    begun, over = of_run.get("start_time") or of_run.get("created_at"), of_run.get("end_time")
    given = (get("created_at"), get("updated_at"), begun, of_run.get("updated_at"), over)
    created, saved = parse_instant(given[0], naive), parse_instant(given[1], naive)
    started, updated, ended = (parse_instant(text) if text else None for text in given[2:])
    times = (created, saved, started, updated, ended)
    if any(when is None and text for when, text in zip(times, given, strict=True)):
        return None
    cost, tokens, steps = total_of_history(history)
    spent, end = as_number(of_run.get("execution_time_ms")), ended or updated or saved
    is_wall_time = run is not None and spent is None and started is not None and end is not None and end >= started
    if is_wall_time:
        spent = (end - started) / MILLISECOND  # type: ignore[operator]
    elif run is None and (spent := as_number(get("execution_time_ms"))) is None:
        spent = busy_ms(history)
    return RunSummary(
        run_id,
        name or "unknown",
        version or "latest",
        "completed",
        started or created,
        max((when for when in times if when is not None), default=None),
        spent,
        as_int(get("current_step_index")),
        total_steps=as_int(get("total_steps")) or as_int(of_run.get("total_steps")) or steps or None,
        error_message=texts[0],
        parent_run_id=texts[1] or None,
        task_id=texts[2] or None,
        metadata=metadata,
        background_error=texts[3],
        cost_usd=total_of([(of_run.get("total_cost"), None)])[0] if cost is None else cost,
        tokens=tokens,
        counts_waiting=is_wall_time,
    )
