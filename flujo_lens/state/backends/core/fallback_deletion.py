"""Deleting from a driver that has no deletion of its own: run by run, by way of what it has.

These are the defaults of `StateBackend`. A run goes by `delete_run`, where the driver has that, else by
`delete_state`; each call is as atomic as the driver makes it. Deleted runs cannot be kept, so a request
to keep them is refused before anything is deleted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from flujo_lens.errors import NotSupportedError
from flujo_lens.state.backends.base import StateBackend, overrides
from flujo_lens.state.backends.core.selection import Chooser, Families, Member, families, in_batches, why_not
from flujo_lens.state.deletion import BackupCallback, Deleted, DeletionPlan, DeletionRequest, Skipped
from flujo_lens.state.filtering import matches
from flujo_lens.state.interpret import INVALID_TIME
from flujo_lens.state.views import RunFilter, RunSummary


async def plan_gathered(backend: StateBackend, asked: DeletionRequest) -> DeletionPlan:
    """A plan by way of `iter_runs`, or of `read_run` for runs that are named; it counts runs alone.

    Raises:
        NotSupportedError: parts of runs are to be dropped.
    """
    if asked.strip:
        raise NotSupportedError.of(type(backend), "delete_planned", "prune --strip")
    choice = Families()
    chooser = Chooser(asked, choice)
    if asked.run_ids is not None:
        return await _plan_named(backend, asked, chooser)
    members = await _members(backend, asked)
    if asked.cutoff is not None or asked.keep_last is not None:
        for family in families(members):
            chooser.offer(family)
    return chooser.plan(choice, len(members))


async def _plan_named(backend: StateBackend, asked: DeletionRequest, chooser: Chooser) -> DeletionPlan:
    held = await _held(backend, asked)
    missing = []
    for run_id in dict.fromkeys(asked.run_ids or ()):
        detail = await backend.read_run(run_id)
        if detail is None:
            missing.append(run_id)
        else:
            chooser.take([_member(asked, detail.run, held)])
    plan = chooser.plan(chooser.chosen, chooser.count)
    mine = {run_id: holder for run_id, holder in held.items() if run_id in (asked.run_ids or ())}
    return replace(plan, missing=tuple(missing), held=mine)


async def _members(backend: StateBackend, asked: DeletionRequest) -> list[Member]:
    held = await _held(backend, asked)
    return [_member(asked, run, held) async for run in backend.iter_runs(RunFilter(), ordered=False)]


async def _held(backend: StateBackend, asked: DeletionRequest) -> dict[str, str]:
    if not overrides(type(backend), "read_claims"):
        return {}
    claims = await backend.read_claims(asked.run_ids)
    return {run_id: str(claim.holder) for run_id, claim in claims.items() if not claim.has_ended(datetime.now(UTC))}


def _member(asked: DeletionRequest, run: RunSummary, held: dict[str, str]) -> Member:
    """A run as a choice goes by it. One of which a time cannot be read is of unknown age."""
    is_dated = run.updated_at is not None and run.updated_at <= asked.now and not _has_bad_time(run)
    return Member(
        run.run_id,
        run.status,
        run.pipeline_name,
        run.updated_at if is_dated else None,
        started=run.created_at,
        admitted=matches(asked.wanted._replace(statuses=frozenset()), run),
        parent=run.parent_run_id,
        held=run.run_id in held,
    )


def _has_bad_time(run: RunSummary) -> bool:
    return any(problem.endswith(INVALID_TIME) for problem in run.problems)


async def delete_gathered(
    backend: StateBackend, plan: DeletionPlan, *, keep: BackupCallback | None, batch_size: int
) -> AsyncIterator[Deleted]:
    """Delete the runs of a plan of `plan_gathered`, each looked at again.

    Raises:
        NotSupportedError: `keep` is given, or the history of a run would have to stay; nothing was deleted.
    """
    asked, choice = plan.request, plan.choice
    if keep is not None:
        raise NotSupportedError.of(type(backend), "restore", "a deletion that can be undone")
    if asked.state_only or not isinstance(choice, Families):
        raise NotSupportedError.of(type(backend), "delete_planned")
    for batch in in_batches(choice.all, max(1, batch_size)):
        yield await _delete_batch(backend, asked, batch)


async def _delete_batch(backend: StateBackend, asked: DeletionRequest, batch: Sequence[Sequence[str]]) -> Deleted:
    known = {} if asked.run_ids is not None else {member.run_id: member for member in await _members(backend, asked)}
    going: list[Member] = []
    skipped: list[Skipped] = []
    for run_ids in batch:
        family = [known[run_id] for run_id in run_ids if run_id in known]
        if asked.run_ids is not None:
            family = await _named(backend, asked, run_ids)
        why = why_not(asked, family, known.values()) if family else ""
        if why:
            skipped += [Skipped(member.run_id, why) for member in family]
        else:
            going += family
    for member in reversed(going):
        await _delete(backend, member.run_id)
    statuses = Counter(member.status for member in going)
    return Deleted(tuple(member.run_id for member in going), dict(statuses), skipped=tuple(skipped))


async def _named(backend: StateBackend, asked: DeletionRequest, run_ids: Sequence[str]) -> list[Member]:
    held = await _held(backend, asked)
    found = [await backend.read_run(run_id) for run_id in run_ids]
    return [_member(asked, detail.run, held) for detail in found if detail is not None]


async def _delete(backend: StateBackend, run_id: str) -> None:
    if overrides(type(backend), "delete_run"):
        await backend.delete_run(run_id)
    else:
        await backend.delete_state(run_id)
