"""What is to hold before anything is deleted: not more than was expected, and room on the disk to do it."""

from __future__ import annotations

import os
from pathlib import Path

from flujo_lens.errors import OperationFailedError
from flujo_lens.state.deletion import DeletionPlan

__all__ = ["LEAST_ROOM", "check_limits", "check_room"]

LEAST_ROOM = 4 << 20
"""Bytes that a disk must have left before anything is deleted from a store on it."""

_NARROWER = "--dry-run shows which; a longer --older-than or a filter narrows it down\na larger {} allows it"


def check_limits(plan: DeletionPlan, most: int | None, share: float | None) -> None:
    """See that a plan is not more than somebody thought it would be.

    Args:
        plan: What would go.
        most: So many runs at most.
        share: Such a part (0 to 1) of all runs at most.

    Raises:
        OperationFailedError: it is more; nothing was deleted.
    """
    if most is not None and plan.count > most:
        raise OperationFailedError(
            f"{plan.count:,} runs would go, more than --max-delete {most:,}; nothing was deleted",
            hint=_NARROWER.format("--max-delete"),
            matched=plan.count,
        )
    if share is not None and plan.count > share * plan.total:
        raise OperationFailedError(
            f"{plan.count:,} of {plan.total:,} runs ({plan.count / plan.total:.1%}) would go, "
            f"more than --max-share {share * 100:g}%; nothing was deleted",
            hint=_NARROWER.format("--max-share"),
            matched=plan.count,
        )


def check_room(store: Path | None) -> None:
    """See that the disk of a store at a path has room for the log of one batch: nothing is free before that is written.

    Raises:
        OperationFailedError: it has not; nothing was deleted.
    """
    if store is None:
        return
    try:
        room = os.statvfs(os.path.realpath(store))
    except OSError:
        return
    free = room.f_bavail * room.f_frsize
    if room.f_blocks and free < LEAST_ROOM:
        raise OperationFailedError(
            f"the disk of {store} is full: {free:,} bytes are free, and to delete takes {LEAST_ROOM:,} for a while; "
            "nothing was deleted",
            hint="make a little room first: move a log or an archive away from it, or empty the bin "
            f"({store}.lens-bin/, then nothing can be brought back)\n"
            "then --no-bin --batch-size 10 takes the least; lens optimize --vacuum makes the file smaller afterwards",
            path=str(store),
        )
