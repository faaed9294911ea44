"""`InMemoryBackend` deleting by plan: what is its own beside the conformance suite."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flujo_lens.errors import NotSupportedError, OperationFailedError
from flujo_lens.state.backends.memory import InMemoryBackend
from flujo_lens.state.claims import Holder
from flujo_lens.state.deletion import Deleted, DeletionPlan, DeletionRequest, Record
from flujo_lens.testing.samples import plain_state

NOW = datetime.now(UTC)
OLD = NOW - timedelta(days=60)


async def filled() -> InMemoryBackend:
    backend = InMemoryBackend()
    for run_id in ("a", "b"):
        await backend.save_state(run_id, plain_state(run_id, "completed", OLD))
        await backend.save_run_start({"run_id": run_id, "created_at": OLD})
        await backend.save_step_result({"run_id": run_id, "step_name": "s", "step_index": 0, "created_at": OLD})
        await backend.save_spans(run_id, [{"span_id": "1"}, {"span_id": "2"}])
        await backend.persist_evaluation(run_id, 0.5)
    return backend


async def planned(backend: InMemoryBackend, **more: Any) -> DeletionPlan:
    given = {"now": datetime.now(UTC), "cutoff": NOW - timedelta(days=30), **more}
    return await backend.plan_deletion(DeletionRequest(**given))


async def carry_out(backend: InMemoryBackend, plan: DeletionPlan, **options: Any) -> list[Deleted]:
    return [done async for done in backend.delete_planned(plan, **options)]


def test_rows_are_counted_by_kind() -> None:
    async def work() -> None:
        backend = await filled()
        plan = await planned(backend)
        rows = {"states": 2, "runs": 2, "steps": 2, "spans": 4, "evaluations": 2}
        assert (plan.rows, plan.count, plan.is_estimate) == (rows, 2, False)
        assert plan.size_bytes > 0
        done = await carry_out(backend, plan, batch_size=1)
        assert [one.run_ids for one in done] == [("a",), ("b",)]
        assert {kind: sum(one.rows[kind] for one in done) for kind in rows} == rows
        assert await backend.list_evaluations() == []

    asyncio.run(work())


def test_evaluations_come_back_in_their_order() -> None:
    async def work() -> None:
        backend = await filled()
        await backend.persist_evaluation("a", 1.0)
        before = await backend.list_evaluations()
        kept: list[Record] = []
        await carry_out(backend, await planned(backend, run_ids=("a",)), keep=kept.extend)
        await backend.restore(json.loads(json.dumps(kept)))
        assert await backend.list_evaluations() == before

    asyncio.run(work())


def test_the_manifest_comes_back_and_the_claim_does_not() -> None:
    async def work() -> None:
        backend = await filled()
        await backend.claim_run("a", Holder.current(), 60)
        plan = await planned(backend)
        assert (plan.count, plan.kept.held) == (1, 1)
        named = await planned(backend, run_ids=("a",))
        assert dict(named.held) == {"a": str(Holder.current())}
        assert [skip.why for one in await carry_out(backend, named) for skip in one.skipped] == ["held"]
        kept: list[Record] = []
        await carry_out(backend, await planned(backend, run_ids=("a",), force=True), keep=kept.extend)
        assert await backend.read_claims() == {}
        await backend.restore(kept)
        assert await backend.read_claims() == {}
        assert await backend.load_state("a") is not None

    asyncio.run(work())


def test_a_claim_between_plan_and_deletion() -> None:
    async def work() -> None:
        backend = await filled()
        plan = await planned(backend)
        await backend.claim_run("b", Holder.current(), 60)
        (done,) = await carry_out(backend, plan)
        assert (done.run_ids, done.skipped) == (("a",), (("b", "held"),))

    asyncio.run(work())


def test_what_is_not_of_memory() -> None:
    async def work() -> None:
        backend = await filled()
        with pytest.raises(NotSupportedError, match="another store"):
            await carry_out(backend, DeletionPlan(DeletionRequest(NOW)))
        with pytest.raises(OperationFailedError, match="of another kind of store"):
            await backend.restore([{"run_id": "a", "tables": {}, "last": True}])

    asyncio.run(work())
