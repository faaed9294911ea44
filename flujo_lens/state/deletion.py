"""Deletion: the values of requests, plans, results and restored runs, shared by all drivers.

A deletion is a plan and its execution. `StateBackend.plan_deletion` changes nothing; its plan can be printed, counted
and confirmed. `StateBackend.delete_planned` executes it in small batches, and checks every run again before deleting
it. The records of a batch are passed to a `BackupCallback` before they are deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from flujo_lens.state.views import EMPTY, RunFilter

Record = dict[str, Any]
"""A part of the stored data of a run, JSON-serializable: ``run_id``, and fields of its driver.

The records of a run are consecutive; the last one has ``"last": True``.
"""

BackupCallback = Callable[[Sequence[Record]], None]
"""Saves the records of a batch of runs durably: they are on disk when it returns.

It is called before the batch is deleted, on a thread of the driver, which may hold a lock. An exception stops the
deletion; the batch is not deleted.
"""


ORPHANS_AGE = timedelta(days=1)
"""Default minimum age of rows without a run to delete, since their run may be about to be saved."""


class DeletionRequest(NamedTuple):
    """Which runs to delete.

    A run and its background tasks (and theirs) are a family, which is deleted as a whole: when every member is old
    enough and has a requested status, and the run itself matches the rest of the filter.

    Attributes:
        now: The current time, in UTC. Times in the future of it have no age.
        strip: Drop only these parts of the runs (of `flujo_lens.state.stripped.PARTS`), and keep their rows. Runs that
            lack them already are left out.
        cutoff: Runs last updated before this instant are old enough; None for any age.
        run_ids: Only these runs, without their families; age, pauses and the filter do not apply.
        state_only: Of `run_ids`, delete the state and keep the history, marked cancelled.
        keep_last: Number of runs to keep of each pipeline: the last started that match the filter.
        keep_paused: Whether to keep families with a paused run.
        keep_unknown: Whether to keep families with a status other than `RUN_STATUSES`.
        orphans_before: Also delete rows without a run if all of their id are older; None to keep them.
        alive_since: A running run without a claim counts as held if it was active at this instant or later; None to
            use only claims. Does not apply to `run_ids`.
        force: Also delete runs held by live processes.
    """

    now: datetime
    cutoff: datetime | None = None
    wanted: RunFilter = RunFilter()
    run_ids: tuple[str, ...] | None = None
    state_only: bool = False
    keep_last: int | None = None
    keep_paused: bool = False
    keep_unknown: bool = False
    orphans_before: datetime | None = None
    alive_since: datetime | None = None
    force: bool = False
    strip: frozenset[str] = frozenset()


class Retained(NamedTuple):
    """Numbers of runs that match the filter but are kept, by reason.

    Attributes:
        paused: Paused, or in a family with a paused run.
        unknown_age: A time is missing, unreadable, or in the future.
        family: Old enough, but another run of the family is not, or is not selected.
        last: Among the last of their pipeline.
        held: Held by a live process, or possibly alive (see `DeletionRequest.alive_since`).
        unknown_status: With a status other than `RUN_STATUSES`, or in a family with such a run.
    """

    paused: int = 0
    unknown_age: int = 0
    family: int = 0
    last: int = 0
    held: int = 0
    unknown_status: int = 0


_NONE_KEPT = Retained()


@dataclass(frozen=True, slots=True)
class DeletionPlan:
    """The runs that would be deleted at the moment of the plan. `choice` is specific to the driver.

    Attributes:
        choice: The runs in the form of the driver; some tens of bytes per run.
        count: Number of runs to delete.
        total: Number of runs in the store.
        by_status: Number of runs to delete by effective status.
        by_pipeline: Number of runs to delete by pipeline.
        kept: Numbers of runs that match but are kept.
        missing: Ids in `request.run_ids` that do not exist.
        held: Runs held by live processes, and their holders; kept unless `request.force`.
        rows: Number of their rows by table (``steps``, ``spans``, ...).
        size_bytes: Their size in bytes.
        is_estimate: Whether `rows` is estimated from a sample.
        is_size_estimate: Whether `size_bytes` is estimated.
        orphans: Number of rows without a run to delete, by table.
        young_orphans: Number of rows without a run that are too new, as far as the driver counts them.
        unfinished: Number of runs of an interrupted deletion. They are included in the counts, unless the driver hides
            them.
    """

    request: DeletionRequest
    choice: Any = field(default=None, repr=False)
    count: int = 0
    total: int = 0
    by_status: Mapping[str, int] = field(default_factory=dict)
    by_pipeline: Mapping[str, int] = field(default_factory=dict)
    kept: Retained = _NONE_KEPT
    missing: tuple[str, ...] = ()
    held: Mapping[str, str] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)
    size_bytes: int = 0
    is_estimate: bool = False
    is_size_estimate: bool = False
    orphans: Mapping[str, int] = field(default_factory=dict)
    young_orphans: int = 0
    unfinished: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to delete."""
        return not (self.count or self.orphans or self.unfinished)

    def with_counts(self, rows: Mapping[str, int], size_bytes: int, is_estimate: bool) -> DeletionPlan:
        """The plan with the rows of its runs, and their estimated size."""
        return replace(self, rows=rows, size_bytes=size_bytes, is_estimate=is_estimate, is_size_estimate=True)


class Skipped(NamedTuple):
    """A run of the plan that was kept, and why: it has ``changed``, is ``held``, or now ``paused``.

    Or ``stateless``: it has no state, and only the state was to be deleted. Or ``sealed`` or ``unreadable``: parts of
    it were to be dropped, and what has to stay cannot be read.
    """

    run_id: str
    why: str


class Deleted(NamedTuple):
    """The result of a batch, as durable as other writes of the store.

    Attributes:
        run_ids: The deleted runs.
        by_status: Their number by effective status.
        rows: Number of deleted rows by table, including the runs themselves; of a strip, that of ``spans``, ``outputs``
            and ``states`` that were dropped.
        skipped: Runs of the plan that were kept. Runs that no longer exist are in neither.
        orphans: Number of deleted rows without a run.
    """

    run_ids: tuple[str, ...] = ()
    by_status: Mapping[str, int] = EMPTY
    rows: Mapping[str, int] = EMPTY
    skipped: tuple[Skipped, ...] = ()
    orphans: int = 0


class Restored(NamedTuple):
    """The restored runs, and those skipped because their id exists."""

    run_ids: tuple[str, ...] = ()
    existing: tuple[str, ...] = ()
