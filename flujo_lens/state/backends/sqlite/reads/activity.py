"""When runs were last updated, without reading what else is known of them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from flujo_lens.state.backends.sqlite.engine.session import Session, as_text
from flujo_lens.state.backends.sqlite.reads import queries
from flujo_lens.state.backends.sqlite.reads.index_choice import Candidates, find_candidates
from flujo_lens.state.backends.sqlite.reads.run_selection import select
from flujo_lens.state.filtering import matches
from flujo_lens.state.interpret import RawRun, last_update, status_of
from flujo_lens.state.views import RunFilter, RunSummary

_COLUMNS = (
    *("state_status", "run_status", "state_created", "state_updated", "run_start", "run_updated", "run_end"),
    *("context", "history", "failed_step"),
)
"""The fields of `RawRun` that `queries.activity` yields behind the id."""


def activity(session: Session, wanted: RunFilter) -> list[tuple[str, datetime | None]]:
    """The ids of the runs that are wanted, in no order, each with its last update.

    Asked for by status and last update alone, no more than these is read of a run.
    """
    light = RunFilter(statuses=wanted.statuses, active_since=wanted.active_since, active_until=wanted.active_until)
    narrow = find_candidates(session, wanted) if wanted.statuses and wanted == light else None
    runs = (
        _light(session, narrow)
        if narrow is not None
        else select(session, wanted, None, False, ordered=False, details=False)
    )
    return [(run.run_id, run.updated_at) for run in runs if matches(wanted, run)]


def _light(session: Session, narrow: Candidates) -> Iterator[RunSummary]:
    """Runs with their status and last update alone."""
    for run_id, *values in session.rows(queries.activity(session.shape, narrow.sql), narrow.values):
        raw = RawRun(as_text(run_id), **dict(zip(_COLUMNS, values, strict=True)))
        yield RunSummary(raw.run_id, status=status_of(raw), updated_at=last_update(raw, session.zone_of(raw)))
