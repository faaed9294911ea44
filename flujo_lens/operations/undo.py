"""Bringing back from the bin what a command deleted."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import datetime

from flujo_lens.errors import AmbiguousRunError, ArchiveError, OperationFailedError, RunNotFoundError
from flujo_lens.operations.archive_reader import survey
from flujo_lens.operations.change_report import Recorder
from flujo_lens.operations.deletion import Stop
from flujo_lens.operations.recycle_bin import LEAST_PREFIX, Bin, BinItem
from flujo_lens.operations.restore import Restoration, RestorePlan, bring_back
from flujo_lens.state.backends.base import StateBackend

__all__ = ["check_order", "runs_meant", "undo"]


def runs_meant(item: BinItem, asked: Mapping[str, str], *, prefix: bool) -> frozenset[str]:
    """The whole ids of those runs of an item that are asked for.

    Args:
        item: The item.
        asked: Whole ids, or with `prefix` their unique beginnings of 4 or more characters: as they were typed, each
            with what it is when the escapes are read back that tables print; that is tried where no id is as typed.
        prefix: Whether beginnings are taken.

    Raises:
        RunNotFoundError: one of them is not among its runs.
        AmbiguousRunError: several of its runs begin so.
    """
    found = survey(item.path).run_ids
    whole = set(found)
    return frozenset(
        next((one for one in (text, unescaped) if one in whole), None) or _begun(text, found, item, prefix)
        for text, unescaped in asked.items()
    )


def _begun(text: str, found: Collection[str], item: BinItem, prefix: bool) -> str:
    """The one of `found` that begins as `text`."""
    begin = [run_id for run_id in found if run_id.startswith((text, f"run_{text}"))]
    if not prefix or len(text) < LEAST_PREFIX or not begin:
        raise RunNotFoundError(
            f'{item.audit_id} deleted no run "{text}"; nothing was changed',
            hint=f"lens undo {item.audit_id} --dry-run -o id lists those that it can bring back",
            run_id=text,
        )
    if len(begin) > 1:
        hint = "\n".join(["type more of the one you mean:", *(f"  {one}" for one in begin[:10])])
        raise AmbiguousRunError(f'"{text}" is the beginning of several run ids', hint=hint, run_id=text)
    return begin[0]


def check_order(bin: Bin, item: BinItem, plan: RestorePlan) -> None:
    """See that no state comes back alone whose history was deleted after it, and is in the bin.

    The history could not come back then, since there would be a run of its id.

    Raises:
        OperationFailedError: one would; the item that has to come back first is named.
    """
    states = plan.found.states.intersection(plan.run_ids)
    if not states:
        return
    for other in bin.items():
        if other.made_at < item.made_at:
            return
        found = survey(other.path)
        for run_id in states.intersection(found.run_ids) - found.states:
            raise OperationFailedError(
                f"the history of {run_id} was deleted after its state; nothing was changed",
                hint=f"bring that back first: lens undo {other.audit_id}",
                run_id=run_id,
                audit_id=other.audit_id,
            )


async def undo(
    backend: StateBackend,
    bin: Bin,
    item: BinItem,
    plan: RestorePlan,
    recorder: Recorder,
    now: datetime,
    *,
    stop: Stop | None = None,
    progress: Callable[[int], None] | None = None,
) -> Restoration:
    """Bring back what `plan_restore` planned, with an entry in the audit log before the first.

    When all of the item came back it is removed. When only a part did, or a run of one of the ids exists again, it
    stays until its time is over: it is the only copy. Whatever else is too old for the bin is removed as well.

    Raises:
        ArchiveError: the item is not in the bin any more.
        LensError: as `bring_back`.
    """
    try:
        with bin.held(item.path):
            done = await bring_back(backend, plan, recorder, stop=stop, progress=progress)
    except OSError as error:
        raise ArchiveError.unreadable(item.path, error.strerror or str(error)) from error
    if len(done.run_ids) == len(plan.found.run_ids) and not plan.found.unfinished:
        bin.remove(item.path)
    bin.expire(now)
    return done
