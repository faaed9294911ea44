"""Marking stale background tasks as failed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from flujo_lens.operations.change_report import Recorder, Report
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.stale_runs import silent_ids
from flujo_lens.state.views import RunFilter


class Swept(NamedTuple):
    """The background tasks that were marked failed, or in a dry run, would be; and the report."""

    run_ids: Sequence[str]
    report: Report


async def sweep(
    backend: StateBackend,
    wanted: RunFilter,
    now: datetime,
    silent_for: timedelta,
    record: Callable[[], Recorder] | None,
) -> Swept:
    """Mark running background tasks without activity for `silent_for` as failed.

    A task held by a live process is not stale. Each task is checked again in its transaction; a task saved since is
    skipped. An audit entry is written first.

    Args:
        silent_for: Minimum time without activity.
        record: Creates the recorder, if there are tasks to mark; None for a dry run.

    Raises:
        LensError: the log or the store cannot be written; nothing was changed.
    """
    cutoff = now - silent_for
    found = await silent_ids(backend, wanted._replace(tasks_only=True), cutoff, now, gone=False)
    if record is None or not found:
        return Swept(found, Report(len(found), left=len(found), dry_run=record is None))
    hours = silent_for / timedelta(hours=1)

    async def change() -> Sequence[str]:
        return await backend.fail_stale_tasks(found, cutoff, hours)

    audit_id, done = await record().recorded(
        {"tasks": len(found)}, found, change, lambda done: ({"marked failed": len(done)}, done)
    )
    skipped = len(found) - len(done)
    return Swept(done, Report(len(found), len(done), skipped, audit_id=audit_id))
