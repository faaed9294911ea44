"""States and histories side by side: one table of runs, with the status, name and times that both tell together."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from flujo_lens.state import interpret
from flujo_lens.state.backends.file.index.history_table import HistoryTable
from flujo_lens.state.backends.file.index.state_table import (
    FAILED_UNSEEN,
    PAUSED_UNASKED,
    PAUSED_UNLESS_FAILED,
    Moment,
    Table,
)
from flujo_lens.state.views import UNREADABLE

_ASKS = {"hitl_data": {"last_hitl_step": "a step"}}
_CONTEXTS: dict[int, dict[str, Any]] = {PAUSED_UNASKED: {"hitl_data": {}}, PAUSED_UNLESS_FAILED: {}}
"""Contexts that mean what a `Table` keeps of the real ones."""

Micros = Callable[[Moment], int | None]


def joined(states: Table, row_of: dict[str, int], histories: HistoryTable, micros: Micros) -> Table:
    """A table of the states as their histories correct them, and of the runs that have left history alone.

    Args:
        states: One row a file; it is not changed.
        row_of: The row that counts by run id; runs without a state are added.
        histories: One row a history.
        micros: Reads a time of a state.
    """
    table = states.take(range(len(states.name)))
    for at, run_id in enumerate(histories.run_id):
        row = None if run_id is None else row_of.get(run_id)
        if row is not None and table.readable[row]:
            _correct(table, row, histories, at, micros)
        elif row is None and run_id is not None and histories.has_run[at]:
            row_of[run_id] = len(table.name)
            table.extend(_alone(run_id, histories, at))
    return table


def _alone(run_id: str, histories: HistoryTable, at: int) -> Table:
    start = histories.start[at]
    status, pipeline, version = _kind(None, 0, None, None, *_of_history(histories, at))
    facts = [run_id, start if isinstance(start, int) else None, histories.updated[at], status, pipeline, version]
    return Table.of([value] for value in ("", 0, 0, 0, 0, *facts, None, False, True, 0))


def _correct(table: Table, row: int, histories: HistoryTable, at: int, micros: Micros) -> None:
    start = histories.start[at]
    saved = (micros(table.created[row]), micros(table.updated[row]))
    doubt = table.doubt[row] or 0
    kind = _kind(
        "paused" if doubt == PAUSED_UNASKED else table.status[row],
        doubt,
        table.pipeline[row],
        table.version[row],
        *_of_history(histories, at),
    )
    table.status[row], table.pipeline[row], table.version[row] = kind
    table.updated[row] = max((when for when in (*saved, histories.updated[at]) if when is not None), default=None)
    if start is not None:
        table.created[row] = start if isinstance(start, int) else None


def _of_history(histories: HistoryTable, at: int) -> tuple[Any, ...]:
    columns = (histories.status, histories.pipeline, histories.version)
    roots = (histories.root_pipeline, histories.root_version)
    return *(column[at] for column in (*columns, *roots)), histories.step_failed[at]


@lru_cache(maxsize=4096)
def _kind(
    status: str | None,
    doubt: int,
    name: str | None,
    version: str | None,
    run_status: str | None,
    run_name: str | None,
    run_version: str | None,
    root_name: str | None,
    root_version: str | None,
    step_failed: bool,
) -> tuple[str, str, str]:
    """Status, pipeline and version by the rules of everything that is shown; a store has few of them."""
    raw = interpret.RawRun(
        "",
        has_state=status is not None,
        has_run=True,
        state_status=None if status == UNREADABLE else status,
        run_status=run_status,
        state_name=name,
        state_version=version,
        run_name=run_name,
        run_version=run_version,
        root_attributes={"flujo.pipeline.name": root_name, "flujo.pipeline.version": root_version},
        history=[] if doubt == FAILED_UNSEEN else [{"success": False}],
        context=_CONTEXTS.get(doubt, _ASKS),
        failed_step="" if step_failed else None,
    )
    return interpret.status_of(raw), *interpret.named(raw)
