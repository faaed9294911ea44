"""Claims: of any number that ask for a run one gets it, and keeps it for as long as it gives signs."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from datetime import UTC, datetime
from unittest import SkipTest

from flujo_lens.errors import LostClaimError, RunHeldError
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.claims import Claim, Holder, Progress
from flujo_lens.testing.harness import Harness, equal, on_nothing, refuses
from flujo_lens.testing.samples import plain_state

_LONG = 3600.0
_MOMENT = 0.001
"""Leases in seconds: one that outlives the test, and one that is over at once."""


def _elsewhere() -> Holder:
    """A holder whose process cannot be checked from this host."""
    return Holder("another-host", "boot", 4711, "12345")


def _dead() -> Holder:
    """A process of this machine that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    holder = Holder.current()._replace(pid=ended.pid, started="")
    if not holder.is_gone():
        raise SkipTest("this system does not tell whether a process lives")
    return holder


async def _lost(backend: StateBackend, run_id: str = "r") -> tuple[Claim, Claim]:
    """A claim whose lease ran out, and the one that took its place."""
    first = await backend.claim_run(run_id, _elsewhere(), _MOMENT)
    await asyncio.sleep(10 * _MOMENT)
    return first, await backend.claim_run(run_id, Holder.current(), _LONG)


async def _statuses(backend: StateBackend, *run_ids: str) -> list[str]:
    """The effective status of each run."""
    return [run.status for run in await backend.read_summaries(run_ids)]


class ClaimChecks(Harness):
    """Who works on a run."""

    @on_nothing
    async def test_what_is_cancelled_is_not_at_its_end(self, backend: StateBackend) -> None:
        ids = ("running", "paused", "failed", "completed", "cancelled")
        for run_id in ids:
            await backend.save_state(run_id, plain_state(run_id, status=run_id, metadata={"kept": run_id}))
        done = await backend.cancel_runs(["failed", *ids, "nowhere", "paused"])
        equal(list(done), ["failed", "running", "paused"], "those that were cancelled")
        equal(await _statuses(backend, *ids), [*["cancelled"] * 3, "completed", "cancelled"], "the statuses")
        equal((await backend.load_state("paused") or {})["metadata"], {"kept": "paused"}, "the rest of the state")
        equal(list(await backend.cancel_runs(ids)), [], "those that were the second time")
        equal(list(await backend.cancel_runs([])), [], "of no runs")

    @on_nothing
    async def test_a_run_of_which_history_alone_is_there_is_cancelled(self, backend: StateBackend) -> None:
        self._needs_history()
        await backend.save_run_start({"run_id": "r", "pipeline_name": "p", "status": "running"})
        equal(list(await backend.cancel_runs(["r"])), ["r"], "what was cancelled")
        equal(await _statuses(backend, "r"), ["cancelled"], "its status")

    @on_nothing
    async def test_what_is_held_is_cancelled_by_force_alone(self, backend: StateBackend) -> None:
        for run_id in ("held", "lost"):
            await backend.save_state(run_id, plain_state(run_id))
        claim = await backend.claim_run("held", Holder.current(), _LONG)
        await backend.claim_run("lost", _dead(), _LONG)
        equal(list(await backend.cancel_runs(["held", "lost"])), ["lost"], "runs without a live holder")
        equal(await _statuses(backend, "held"), ["running"], "the status of the other")
        equal(list(await backend.cancel_runs(["held"], force=True)), ["held"], "by force")
        progress = Progress("held", state=plain_state("held", status="completed"), claim=claim)
        await refuses(backend.save_progress(progress), LostClaimError, "a save by the holder of then")
        equal(await _statuses(backend, "held"), ["cancelled"], "its status in the end")

    @on_nothing
    async def test_a_free_run_is_claimed(self, backend: StateBackend) -> None:
        before = datetime.now(UTC)
        claim = await backend.claim_run("r", Holder.current(), _LONG)
        equal((claim.run_id, claim.holder, claim.lease), ("r", Holder.current(), _LONG), "the claim")
        equal(before <= claim.taken_at <= datetime.now(UTC), True, f"that {claim.taken_at} is now")
        equal(claim.beat_at, claim.taken_at, "its first sign")
        equal(dict(await backend.read_claims()), {"r": claim}, "read_claims()")

    @on_nothing
    async def test_a_run_that_is_held_is_refused(self, backend: StateBackend) -> None:
        claim = await backend.claim_run("r", Holder.current(), _LONG)
        for holder in (Holder.current(), _elsewhere()):
            try:
                await backend.claim_run("r", holder, _LONG)
            except RunHeldError as error:
                known = (str(claim.holder), claim.beat_at.isoformat())
                equal((error.details["holder"], error.details["beat_at"]), known, "what the error tells")
            else:
                raise AssertionError(f"{holder} gets a run that is held")
        equal(dict(await backend.read_claims()), {"r": claim}, "the claim after it was refused")

    @on_nothing
    async def test_runs_are_claimed_one_by_one(self, backend: StateBackend) -> None:
        claims = {run_id: await backend.claim_run(run_id, _elsewhere(), _LONG) for run_id in ("a", "ü/漢 b", "")}
        equal(dict(await backend.read_claims()), claims, "read_claims()")
        equal(dict(await backend.read_claims(["a", "missing"])), {"a": claims["a"]}, "the claims of some")
        equal(dict(await backend.read_claims([])), {}, "the claims of none")
        equal(len({claim.token for claim in claims.values()}), 3, "different tokens")

    @on_nothing
    async def test_of_many_that_ask_at_once_one_gets_it(self, backend: StateBackend) -> None:
        async def ask() -> Claim | RunHeldError:
            try:
                return await backend.claim_run("r", Holder.current(), _LONG)
            except RunHeldError as error:
                return error

        got = await asyncio.gather(*(ask() for _ in range(20)))
        claims = [one for one in got if isinstance(one, Claim)]
        refused = [one for one in got if isinstance(one, RunHeldError)]
        equal((len(claims), len(refused)), (1, 19), "how many got it, and how many were refused")
        equal(dict(await backend.read_claims()), {"r": claims[0]}, "the claim that is stored")

    @on_nothing
    async def test_a_lease_that_is_over_frees_the_run(self, backend: StateBackend) -> None:
        _, second = await _lost(backend)
        equal(dict(await backend.read_claims()), {"r": second}, "read_claims()")

    @on_nothing
    async def test_a_holder_that_is_gone_frees_the_run(self, backend: StateBackend) -> None:
        await backend.claim_run("r", _dead(), _LONG)
        claim = await backend.claim_run("r", Holder.current(), _LONG)
        equal(dict(await backend.read_claims()), {"r": claim}, "read_claims()")

    @on_nothing
    async def test_a_sign_renews_the_claim(self, backend: StateBackend) -> None:
        claim = await backend.claim_run("r", _elsewhere(), _LONG)
        beaten = await backend.heartbeat(claim)
        equal(beaten._replace(beat_at=claim.beat_at), claim, "the claim, but for its sign")
        equal(claim.beat_at <= beaten.beat_at <= datetime.now(UTC), True, "that the sign is newer")
        equal(dict(await backend.read_claims()), {"r": beaten}, "read_claims()")

    @on_nothing
    async def test_a_late_heartbeat_counts_until_the_run_is_taken(self, backend: StateBackend) -> None:
        claim = await backend.claim_run("r", _elsewhere(), _MOMENT)
        await asyncio.sleep(10 * _MOMENT)
        beaten = await backend.heartbeat(claim)
        equal(dict(await backend.read_claims()), {"r": beaten}, "read_claims()")

    @on_nothing
    async def test_a_lost_claim_gives_no_sign(self, backend: StateBackend) -> None:
        first, second = await _lost(backend)
        await refuses(backend.heartbeat(first), LostClaimError, "heartbeat() of a lost claim")
        equal(dict(await backend.read_claims()), {"r": second}, "the claim of the other")
        await backend.release_run(second)
        await refuses(backend.heartbeat(second), LostClaimError, "heartbeat() of a released claim")

    @on_nothing
    async def test_a_released_run_is_free(self, backend: StateBackend) -> None:
        claim = await backend.claim_run("r", Holder.current(), _LONG)
        await backend.release_run(claim)
        await backend.release_run(claim)
        equal(dict(await backend.read_claims()), {}, "read_claims()")
        await backend.claim_run("r", _elsewhere(), _LONG)

    @on_nothing
    async def test_releasing_a_lost_claim_leaves_the_run_to_the_other(self, backend: StateBackend) -> None:
        first, second = await _lost(backend)
        await backend.release_run(first)
        equal(dict(await backend.read_claims()), {"r": second}, "read_claims()")

    @on_nothing
    async def test_a_store_without_claims(self, backend: StateBackend) -> None:
        equal(dict(await backend.read_claims()), {}, "the claims of an empty store")
        await backend.save_state("r", plain_state("r"))
        equal(dict(await backend.read_claims(["r"])), {}, "the claims of an unclaimed run")
        never = Claim.take("r", Holder.current(), _LONG, datetime.now(UTC))
        await refuses(backend.heartbeat(never), LostClaimError, "heartbeat() of a claim that does not exist")
        await backend.release_run(never)

    @on_nothing
    async def test_what_is_no_lease(self, backend: StateBackend) -> None:
        for lease in (0.0, -1.0, float("nan"), float("inf")):
            await refuses(backend.claim_run("r", Holder.current(), lease), ValueError, f"a lease of {lease}")
        equal(dict(await backend.read_claims()), {}, "read_claims()")

    @on_nothing
    async def test_a_claim_goes_with_its_run(self, backend: StateBackend) -> None:
        for run_id in ("r", "stays"):
            await backend.save_state(run_id, plain_state(run_id))
            await backend.claim_run(run_id, Holder.current(), _LONG)
        await backend.delete_run("r")
        equal(list(await backend.read_claims()), ["stays"], "claims after delete_run()")
        await backend.claim_run("r", Holder.current(), _LONG)

    @on_nothing
    async def test_another_backend_is_refused_too(self, backend: StateBackend) -> None:
        async with await self.reopen() as other:
            claim = await backend.claim_run("r", Holder.current(), _LONG)
            equal(dict(await other.read_claims()), {"r": claim}, "what the other reads")
            await refuses(other.claim_run("r", Holder.current(), _LONG), RunHeldError, "claim_run() by the other")
            await other.release_run(claim)
            theirs = await other.claim_run("r", _elsewhere(), _LONG)
            await refuses(backend.heartbeat(claim), LostClaimError, "heartbeat() after the other took it")
            equal(dict(await backend.read_claims()), {"r": theirs}, "what the first reads")
