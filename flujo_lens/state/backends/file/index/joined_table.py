"""States and histories side by side: a run with the status, name and times that both tell together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from flujo_lens.state import interpret
from flujo_lens.state.backends.core.port import NO_START
from flujo_lens.state.backends.file.index.history_table import HistoryRow
from flujo_lens.state.backends.file.index.state_table import (
    FAILED_UNSEEN,
    PAUSED_UNASKED,
    PAUSED_UNLESS_FAILED,
    Moment,
    StateRow,
)
from flujo_lens.state.views import UNREADABLE

_ASKS = {"hitl_data": {"last_hitl_step": "a step"}}
_CONTEXTS: dict[int, dict[str, Any]] = {PAUSED_UNASKED: {"hitl_data": {}}, PAUSED_UNLESS_FAILED: {}}
"""Contexts that mean what a `StateRow` keeps of the real ones."""

Micros = Callable[[Moment], int | None]


class RunEntry(NamedTuple):
    """A run, by its start and what filters ask for.

    Attributes:
        started: In microseconds since 1970, or `NO_START`.
        updated: The last update that is shown; None if no time of the run can be read.
        readable: Whether its state parses; true if it has none.
        files: The number of files that hold its state.
        sign: The newest time that is known for certain, for a deletion.
        undated: Whether there may be a later one: times without a zone, or that are missing. They are in the files.
    """

    run_id: str
    started: int
    updated: int | None
    status: str
    pipeline: str
    version: str
    parent: str | None
    background: bool
    readable: bool
    files: int
    sign: int | None
    undated: bool


def in_force(rows: Iterable[StateRow], micros: Micros) -> list[StateRow]:
    """The files that hold a run, the one that counts first: it was saved last, and is readable if one of them is."""

    def last_saved(row: StateRow) -> tuple[bool, int, int, str]:
        saved = _newest(micros(row.created), micros(row.updated))
        return bool(row.readable), NO_START if saved is None else saved, row.modified, row.name

    found = list(rows)
    return found if len(found) < 2 else sorted(found, key=last_saved, reverse=True)


def joined(run_id: str, states: Sequence[StateRow], history: HistoryRow | None, micros: Micros) -> RunEntry | None:
    """A run by its state as its history corrects it, or by its history alone; None if there is no run.

    Args:
        states: The files of its state, the one that counts first.
        history: Its history.
        micros: Reads a time of a state.
    """
    if not states:
        return None if history is None or not history.has_run else _alone(run_id, history)
    row = states[0]
    created, updated = row.created, row.updated
    if isinstance(created, str) or isinstance(updated, str):
        created, updated = micros(created), micros(updated)
    updated = _newest(created, updated)
    kind = row.status or "", row.pipeline or "", row.version or ""
    if history is not None and row.readable:
        doubt = row.doubt or 0
        status = "paused" if doubt == PAUSED_UNASKED else row.status
        kind = _kind(status, doubt, row.pipeline, row.version, *_of_history(history))
        if history.start is not None:
            created = history.start if isinstance(history.start, int) else None
        updated = _newest(created, updated, history.updated)
    return RunEntry(
        run_id,
        NO_START if created is None else created,
        updated,
        *kind,
        row.parent,
        bool(row.background),
        bool(row.readable),
        len(states),
        *_sign(states, history),
    )


def _alone(run_id: str, history: HistoryRow) -> RunEntry:
    start = history.start if isinstance(history.start, int) else None
    kind = _kind(None, 0, None, None, *_of_history(history))
    updated = _newest(start, history.updated)
    started = NO_START if start is None else start
    return RunEntry(run_id, started, updated, *kind, None, False, True, 0, *_sign((), history))


def _newest(*times: int | None) -> int | None:
    known = [when for when in times if when is not None]
    return max(known) if known else None


def _sign(states: Sequence[StateRow], history: HistoryRow | None) -> tuple[int | None, bool]:
    """`RunEntry.sign` and `RunEntry.undated`; none if one of the times cannot be read."""
    times = [time for row in states for time in (row.created, row.updated)]
    if not all(row.readable for row in states) or (history is not None and not history.dated):
        return None, False
    known = [time for time in times if isinstance(time, int)]
    return _newest(*known, None if history is None else history.updated), len(known) < len(times)


def _of_history(history: HistoryRow) -> tuple[Any, ...]:
    own = (history.status, history.pipeline, history.version)
    return *own, history.root_pipeline, history.root_version, bool(history.step_failed)


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
