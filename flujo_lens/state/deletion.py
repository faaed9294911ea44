"""What is to be deleted and why, what was, and what brings it back: values that every driver shares.

A deletion is a plan and its execution. `StateBackend.plan_deletion` looks and changes nothing; its plan can be printed,
counted, asked about. `StateBackend.delete_planned` carries it out, in small batches, and looks at every run again
before it goes. What goes is handed, as records, to whoever wants to keep it (see `BackupCallback`), before it is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from flujo_lens.state.views import EMPTY, RunFilter

__all__ = [
    "ORPHANS_AGE",
    "BackupCallback",
    "Deleted",
    "DeletionPlan",
    "DeletionRequest",
    "Record",
    "Restored",
    "Retained",
    "Skipped",
]

Record = dict[str, Any]
"""What a store holds of one run, or a part of that, as JSON-ready data: ``run_id``, and what its driver understands.

The records of one run come one after the other. A run is whole with the one that says ``"last": True``.
"""

BackupCallback = Callable[[Sequence[Record]], None]
"""Keeps the records of a batch of runs, so that they survive the death of the machine when it returns.

It is called before they are deleted, on a thread of the driver, which may hold a lock meanwhile. What it raises stops
the deletion; the batch stays.
"""


ORPHANS_AGE = timedelta(days=1)
"""How old a row without a run has to be where no age is given: its run may be about to be saved."""


class DeletionRequest(NamedTuple):
    """Which runs are to go.

    A run and its background tasks (and theirs) are a family, and go together or not at all: when every member is old
    enough and has one of the statuses asked for, and the run itself fits the rest of the filter.

    Attributes:
        now: The current time, in UTC. A time behind it is no age.
        cutoff: Runs last updated before this instant are old; None: age does not matter.
        wanted: The filter.
        run_ids: These runs alone, whatever else: their families, age, pauses and the filter do not matter.
        state_only: Of `run_ids`, delete the state and keep the history, marked as cancelled.
        keep_last: So many runs of each pipeline stay: those that started last, of those that the filter admits.
        keep_paused: Families with a paused run stay.
        keep_unknown: Families stay that have a run with a status which is none of `RUN_STATUSES`.
        orphans_before: Rows that hang on no run are deleted too, if the newest of their id is older; None: they stay.
        alive_since: A run that is said to be running, and gave a sign at this instant or later, is taken for one that a
            living process holds, though it has no claim; None: claims alone tell. Named runs it does not concern.
        force: Also what a living process holds.
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


class Retained(NamedTuple):
    """Runs that the filter admits and that stay all the same: how many, and why.

    Attributes:
        paused: They are paused, or of a family with a run that is.
        unknown_age: A time of theirs is missing, cannot be read, or lies in the future.
        family: They are old, but another of their family is not, or is none of those that were asked for.
        last: They are among the last of their pipeline.
        held: A living process holds them, or they may be alive (see `DeletionRequest.alive_since`).
        unknown_status: Their status is none of `RUN_STATUSES`, or they are of a family with such a run.
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
    """What would go at the moment of the plan. `choice` is the driver's own: how it finds the runs again.

    Attributes:
        request: What was asked.
        choice: The runs, as only the driver reads them; holds no more than some tens of bytes a run.
        count: How many runs would go.
        total: How many runs there are.
        by_status: Runs that would go, by effective status.
        by_pipeline: The same by pipeline.
        kept: What the filter admits and stays.
        missing: Of `request.run_ids`, those that no table knows.
        held: Runs that a living process holds, and by whom; they stay unless `request.force`.
        rows: Rows that hang on them, by table (``steps``, ``spans``, ...).
        size_bytes: How much room all that takes.
        is_estimate: Whether `rows` are estimated from a sample.
        is_size_estimate: Whether `size_bytes` is.
        orphans: Rows that hang on no run and would go, by table.
        young_orphans: Rows that hang on no run and stay, since they are too young, as far as the driver counts them.
        unfinished: Runs whose deletion began earlier and was interrupted. They are among the others, unless the driver
            shows them to nobody any more.
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
        """The plan with what hangs on its runs, and about how much room it takes."""
        return replace(self, rows=rows, size_bytes=size_bytes, is_estimate=is_estimate, is_size_estimate=True)


class Skipped(NamedTuple):
    """A run of the plan that stayed, and why: it ``changed`` meanwhile, is ``held``, or ``paused`` now.

    Or ``stateless``: its state alone was to go, and it has none.
    """

    run_id: str
    why: str


class Deleted(NamedTuple):
    """What one batch did; it is durable as far as the store's other writes are.

    Attributes:
        run_ids: The runs that went.
        by_status: How many, by the effective status that they had.
        rows: Rows that went with them, by table, those of the runs themselves included.
        skipped: Runs of the plan that stayed. Runs that were gone already are neither.
        orphans: Rows without a run that went.
    """

    run_ids: tuple[str, ...] = ()
    by_status: Mapping[str, int] = EMPTY
    rows: Mapping[str, int] = EMPTY
    skipped: tuple[Skipped, ...] = ()
    orphans: int = 0


class Restored(NamedTuple):
    """What was brought back: the runs, and those that were left alone since a run of that id exists."""

    run_ids: tuple[str, ...] = ()
    existing: tuple[str, ...] = ()
