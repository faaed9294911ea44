"""What applications get back beyond what operators read: further columns, and figures of the whole store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from flujo_lens.state.backends.core.documents import RECENT_HOURS, stats_document
from flujo_lens.state.backends.core.rows import moment_before
from flujo_lens.state.backends.sqlite.engine.session import Session, as_text
from flujo_lens.state.backends.sqlite.reads import queries, run_selection
from flujo_lens.state.backends.sqlite.reads.load_state import Opener
from flujo_lens.state.numbers import as_int, as_number
from flujo_lens.state.views import RunFilter

Documents = dict[str, dict[str, Any]]


def workflow_stats(session: Session) -> dict[str, Any]:
    """What `get_workflow_stats` returns."""
    from flujo_lens.state.backends.sqlite.reads import statistics

    lately = RunFilter(active_since=moment_before(datetime.now(UTC), hours=RECENT_HOURS))
    recent = sum(1 for _ in run_selection.select(session, lately, None, reverse=False, ordered=False, details=False))
    tasks = statistics.run_stats(session, RunFilter(tasks_only=True))
    return stats_document(statistics.run_stats(session, RunFilter()), recent, tasks.by_status)


def known(session: Session, run_ids: Sequence[str]) -> list[str]:
    """Those of the ids that ``runs`` or ``workflow_state`` has, in their order."""
    tables = [table for table in ("runs", "workflow_state") if session.shape.has(table)]
    there = {as_text(row[0]) for table in tables for row in _columns(session, table, (), run_ids)}
    return [run_id for run_id in run_ids if run_id in there]


def run_extras(session: Session, run_ids: Sequence[str], contexts: bool, value: Opener) -> Documents:
    """Columns of runs that a summary does not hold, by run id (see `ReadingBackend.read_extras`)."""
    found: Documents = {}
    for table, names in (("workflow_state", ("pipeline_id", "memory_usage_mb")), ("runs", _run_names(contexts))):
        if session.shape.has(table):
            for run_id, *values in _columns(session, table, names, run_ids):
                there = {n: v for n, v in zip(names, values, strict=True) if v not in (None, "", "unknown")}
                found.setdefault(as_text(run_id), {}).update(there)
    for run_id, row in found.items():
        if "final_context_blob" in row:
            row["final_context"] = value(run_id, "final_context", row.pop("final_context_blob"))
        row |= {name: as_number(row[name]) for name in ("total_cost", "memory_usage_mb") if name in row}
    return found


def _run_names(contexts: bool) -> tuple[str, ...]:
    names = ("pipeline_id", "memory_usage_mb", "total_cost", "end_time")
    return (*names, "final_context_blob") if contexts else names


def _columns(session: Session, table: str, names: Sequence[str], run_ids: Sequence[str]) -> list[tuple[Any, ...]]:
    return session.rows(queries.columns_of_runs(session.shape, table, names), (json.dumps(run_ids),)).fetchall()


_SEALED_VALUES = ("input", "output", "error")
_SEAL = b"\x93lens".hex().upper()
"""What sealed bytes begin with (`flujo_lens.serialization.envelope.TAG`)."""


def step_extras(session: Session, run_id: str, value: Opener) -> dict[tuple[int | None, str], dict[str, Any]]:
    """Columns of steps that a `StepRecord` does not hold, by index and name (see `ReadingBackend.read_step_extras`).

    Raises:
        SealedStateError: a value of a step is encrypted, and the key is not here; also one that a `StepRecord` holds.
    """
    shape = session.shape
    if not shape.has("steps", "run_id", "step_name", "step_index"):
        return {}
    sql = queries.step_columns(shape, ("raw_response", "start_time", "end_time"), _SEALED_VALUES, _SEAL)
    found = {}
    for index, name, raw, start, end, *values in session.rows(sql, (run_id,)):
        for field, sealed_value in zip(_SEALED_VALUES, values, strict=True):
            value(run_id, field, sealed_value)
        raw_response = value(run_id, "raw_response", raw)
        key = as_int(index), as_text(name)
        found[key] = {"raw_response": raw_response, "start_time": start, "end_time": end}
    return found
