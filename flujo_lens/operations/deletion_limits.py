"""What is to hold before anything is deleted: not more than was expected, and room on the disk to do it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import NamedTuple

from flujo_lens.errors import OperationFailedError, ReadOnlyStoreError
from flujo_lens.state.deletion import DeletionPlan

__all__ = ["UNATTENDED_SHARE", "Bounds", "check_may_write", "check_room", "room_of_batch"]

_ROOM, _ROOM_OF_RUN = 128 << 10, 40 << 10
"""Bytes that the log of one batch takes of a disk at most: whatever is in it, and for each run."""

UNATTENDED_SHARE = 0.5
"""The part of all runs that goes at most where nobody is asked, unless somebody says otherwise."""

_NARROWER = "--dry-run shows which; a longer --older-than or a filter narrows it down\na larger {} allows it"


class Bounds(NamedTuple):
    """How much may go.

    Attributes:
        most: So many runs at most.
        share: Such a part (0 to 1) of all runs at most.
        is_default: Whether nobody gave the share.
    """

    most: int | None = None
    share: float | None = None
    is_default: bool = False

    def check(self, plan: DeletionPlan) -> None:
        """See that a plan is not more than somebody thought it would be.

        Raises:
            OperationFailedError: it is more; nothing was deleted.
        """
        if self.most is not None and plan.count > self.most:
            raise OperationFailedError(
                f"{plan.count:,} runs would go, more than --max-delete {self.most:,}; nothing was deleted",
                hint=_NARROWER.format("--max-delete"),
                matched=plan.count,
            )
        if self.share is not None and plan.count > self.share * plan.total:
            raise self._too_large(plan, self.share)

    def _too_large(self, plan: DeletionPlan, share: float) -> OperationFailedError:
        given = f"--max-share {share * 100:g}%"
        what = f"{given}, the default where nobody is asked" if self.is_default else given
        allow = "--max-share 100% allows it, and without --yes a terminal asks" if self.is_default else None
        return OperationFailedError(
            f"{plan.count:,} of {plan.total:,} runs ({plan.count / plan.total:.1%}) would go, more than {what}; "
            "nothing was deleted",
            hint=_NARROWER.format("--max-share") if allow is None else f"{_NARROWER.partition(chr(10))[0]}\n{allow}",
            matched=plan.count,
            total=plan.total,
        )


def check_may_write(store: Path | None) -> None:
    """See that a store at a path may be written, before anything is made beside it.

    Raises:
        ReadOnlyStoreError: it may not; nothing was deleted.
    """
    if store is None or not os.path.exists(store) or os.access(store, os.W_OK):
        return
    raise ReadOnlyStoreError(
        f"{store} may not be written: {os.strerror(errno.EACCES)}; nothing was deleted",
        hint="write as the user that owns it",
        path=str(store),
    )


def _log_of(store: Path) -> int:
    """Bytes of the log of a SQLite store, which is written anew from its start: that much takes no more room."""
    try:
        return os.stat(f"{os.path.realpath(store)}-wal").st_size
    except OSError:
        return 0


def room_of_batch(runs: int) -> int:
    """Bytes that a disk must have left before a batch of so many runs is deleted from a store on it."""
    return _ROOM + runs * _ROOM_OF_RUN


def check_room(store: Path | None, runs: int) -> None:
    """See that the disk of a store at a path has room for the log of one batch: nothing is free before that is written.

    Args:
        store: The store; None if it is at no path.
        runs: How many runs a batch has.

    Raises:
        OperationFailedError: it has not; nothing was deleted.
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
        fewer = f"fewer at a time take less room: lens prune --no-bin --batch-size {fitting}\n" if fitting > 0 else ""
        elsewhere = "what lens writes beside the store can be elsewhere: --no-bin --audit-file FILE --lock-file FILE\n"
        raise OperationFailedError(
            f"the disk of {store} is full: {free:,} bytes are free, and to delete {runs} at a time takes {needed:,} "
            "for a while; nothing was deleted",
            hint=f"{fewer}{elsewhere}to make a little room: move a log or an archive away from it, or empty the bin "
            f"({store}.lens-bin/, then nothing can be brought back)\n"
            "lens optimize --vacuum makes the file smaller afterwards",
            path=str(store),
        )
