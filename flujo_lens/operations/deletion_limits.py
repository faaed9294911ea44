"""Checks before a deletion: limits on its size, and free space on the disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from flujo_lens.errors import OperationFailedError
from flujo_lens.state.deletion import DeletionPlan

_ROOM, _ROOM_OF_RUN = 128 << 10, 40 << 10
"""Maximum bytes of the journal of a batch: a fixed part, and a part per run."""

UNATTENDED_SHARE = 0.5
"""The default of ``--max-share`` for unattended deletions."""

_NARROWER = "to delete fewer, use a longer --older-than or a filter"


class Bounds(NamedTuple):
    """Limits of a deletion.

    Attributes:
        most: Maximum number of runs.
        share: Maximum share of all runs, from 0 to 1.
        is_default: Whether the share is the default.
    """

    most: int | None = None
    share: float | None = None
    is_default: bool = False

    def check(self, plan: DeletionPlan, *, is_shown: bool = False) -> None:
        """Check that a plan is within the limits.

        Args:
            is_shown: Whether the plan was shown, as a dry run does.

        Raises:
            OperationFailedError: it exceeds them; nothing was deleted.
        """
        if self.most is not None and plan.count > self.most:
            raise OperationFailedError(
                f"{plan.count:,} runs match, more than --max-delete {self.most:,}; nothing was deleted",
                hint=_hint("to allow it, raise --max-delete", is_shown),
                matched=plan.count,
            )
        if self.share is not None and self.exceeds_share(plan):
            raise self._too_large(plan, self.share, is_shown)

    def exceeds_share(self, plan: DeletionPlan) -> bool:
        """Whether a plan deletes more than the share of all runs."""
        return self.share is not None and plan.count > self.share * plan.total

    def _too_large(self, plan: DeletionPlan, share: float, is_shown: bool) -> OperationFailedError:
        given = f"--max-share {share * 100:g}%"
        what = f"{given}, the default with --yes" if self.is_default else given
        allow = "to allow it, raise --max-share"
        if self.is_default:
            allow = "--max-share 100% allows it; without --yes, lens asks on a terminal"
        return OperationFailedError(
            f"{plan.count:,} of {plan.total:,} runs ({plan.count / plan.total:.1%}) match, more than {what}; "
            "nothing was deleted",
            hint=_hint(allow, is_shown),
            matched=plan.count,
            total=plan.total,
        )


def _hint(allow: str, is_shown: bool) -> str:
    return f"{'' if is_shown else '--dry-run shows them; '}{_NARROWER}\n{allow}"


def _log_of(store: Path) -> int:
    """Bytes of the WAL of a SQLite store, which are reused and need no more space."""
    try:
        return os.stat(f"{os.path.realpath(store)}-wal").st_size
    except OSError:
        return 0


def room_of_batch(runs: int) -> int:
    """Free bytes required on the disk of a store to delete a batch of `runs` runs."""
    return _ROOM + runs * _ROOM_OF_RUN


def check_room(store: Path | None, runs: int) -> None:
    """Check that the disk of a store has space for the journal of a batch, which is written before space is freed.

    Args:
        store: The store; None if it has no path.
        runs: Number of runs in a batch.

    Raises:
        OperationFailedError: it has not enough; nothing was deleted.
    """
    if store is None:
        return
    try:
        room = os.statvfs(os.path.realpath(store))
    except OSError:
        return
    free = room.f_bavail * room.f_frsize + _log_of(store)
    if room.f_blocks and free < (needed := room_of_batch(runs)):
        fitting = (free - _ROOM) // _ROOM_OF_RUN
        fewer = f"smaller batches need less space: lens prune --no-bin --batch-size {fitting}\n" if fitting > 0 else ""
        elsewhere = "files of lens can be on another disk: --no-bin --audit-file FILE --lock-file FILE\n"
        raise OperationFailedError(
            f"the disk of {store} is full: {free:,} bytes are free, but deleting {runs} runs at a time needs "
            f"{needed:,}; nothing was deleted",
            hint=f"{fewer}{elsewhere}to free some space: move a log or an archive to another disk, or empty the bin "
            f"({store}.lens-bin/; lens undo cannot restore its runs then)\n"
            "afterwards, lens optimize --vacuum shrinks the file",
            path=str(store),
        )
