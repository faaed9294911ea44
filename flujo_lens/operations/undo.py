"""Restoring the runs deleted by a command from the bin."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import datetime

from flujo_lens.errors import AmbiguousRunError, ArchiveError, OperationFailedError, RunNotFoundError
from flujo_lens.operations.archive_reader import survey
from flujo_lens.operations.change_report import Recorder
from flujo_lens.operations.deletion import Stop
from flujo_lens.operations.recycle_bin import LEAST_PREFIX, Bin, BinItem
from flujo_lens.operations.restore import Restoration, RestorePlan, restore_runs
from flujo_lens.state.backends.base import StateBackend


def runs_meant(item: BinItem, asked: Mapping[str, str], *, prefix: bool) -> frozenset[str]:
    """The whole ids of the requested runs of an item.

    Args:
        asked: Ids, or with `prefix`, unique prefixes of 4 or more characters, each mapped to the same text with the
            escapes of tables decoded, which is tried if no id matches.
        prefix: Whether prefixes are accepted.

    Raises:
        RunNotFoundError: the item does not have such a run.
        AmbiguousRunError: several of its runs have this prefix.
    """
    found = survey(item.path).run_ids
    whole = set(found)
    return frozenset(
        next((one for one in (text, unescaped) if one in whole), None) or _begun(text, found, item, prefix)
        for text, unescaped in asked.items()
    )


def _begun(text: str, found: Collection[str], item: BinItem, prefix: bool) -> str:
    """The id in `found` with the prefix `text`."""
    begin = [run_id for run_id in found if run_id.startswith((text, f"run_{text}"))]
    if not prefix or len(text) < LEAST_PREFIX or not begin:
        raise RunNotFoundError(
            f'{item.audit_id} has no run "{text}"; nothing was changed',
            hint=f"lens undo {item.audit_id} --dry-run -o id lists its runs",
            run_id=text,
        )
    if len(begin) > 1:
        hint = "\n".join(["type more characters:", *(f"  {one}" for one in begin[:10])])
        raise AmbiguousRunError(f'"{text}" is a prefix of several run ids', hint=hint, run_id=text)
    return begin[0]


def check_order(bin: Bin, item: BinItem, plan: RestorePlan) -> None:
    """Check that no state would be restored whose history was deleted later and is also in the bin.

    The history could not be restored then, since a run of its id would exist.

    Raises:
        OperationFailedError: one would; the hint names the item to restore first.
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
                hint=f"restore that first: lens undo {other.audit_id}",
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
    """Restore the runs of a plan of `plan_restore`, after writing an audit entry.

    If all runs of the item were restored, it is removed; otherwise it stays until it expires, as the only copy. Other
    expired items are removed, too.

    Raises:
        ArchiveError: the item is no longer in the bin.
        LensError: as for `restore_runs`.
    """
    try:
        with bin.held(item.path):
            done = await restore_runs(backend, plan, recorder, stop=stop, progress=progress)
    except OSError as error:
        raise ArchiveError.unreadable(item.path, error.strerror or str(error)) from error
    if len(done.run_ids) == len(plan.found.run_ids) and not plan.found.unfinished:
        bin.remove(item.path)
    bin.expire(now)
    return done
