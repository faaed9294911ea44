"""PostgreSQL deleting by age: most runs are chosen, looked at again and removed by its SQL, and the outcome is that of
the core, which reads every run.
"""

from __future__ import annotations

import asyncio
import os
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from servers import PostgresServer

from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.backends.memory import InMemoryBackend
from flujo_lens.state.backends.postgres import PostgresBackend
from flujo_lens.state.claims import Holder
from flujo_lens.state.deletion import Deleted, DeletionPlan, DeletionRequest
from flujo_lens.state.views import RunFilter

asyncpg = pytest.importorskip("asyncpg")
NOW = datetime.now(UTC).replace(microsecond=0)
CUTOFF = NOW - timedelta(days=30)
ROUNDS = range(60 if "LENS_SOAK" in os.environ else 6)
STATUSES = ("completed", "completed", "completed", "failed", "cancelled", "paused", "running", "odd")


@pytest.fixture
def uri(pg16: PostgresServer) -> str:
    """An empty schema."""
    pg16.execute("DROP SCHEMA IF EXISTS agreement CASCADE; CREATE SCHEMA agreement;", "SELECT 1")
    return f"{pg16.uri}&schema=agreement"


def state_of(status: str, updated: datetime, parent: str | None = None) -> dict[str, Any]:
    """A state that began an hour before its last save."""
    return {
        "pipeline_name": "orders", "status": status, "pipeline_context": {}, "metadata": {}, "parent_run_id": parent,
        "is_background_task": parent is not None, "created_at": updated - timedelta(hours=1), "updated_at": updated,
    }  # fmt: skip


async def put(backend: StateBackend, run_id: str, state: dict[str, Any], run: str | None = None) -> None:
    """Save a run with its history, which has a status of its own."""
    times = {"created_at": state["created_at"], "updated_at": state["updated_at"]}
    if run is not None:
        row = {"run_id": run_id, "pipeline_name": "orders", "pipeline_version": "1", "status": run, **times}
        await backend.save_run_start(row)
        await backend.save_step_result({"run_id": run_id, "step_name": "s", "step_index": 0, **times})
    await backend.save_state(run_id, state)


async def forget_documents(backend: PostgresBackend) -> None:
    """Leave runs as the library writes them, in columns; but for some."""
    async with backend._server._transaction(writes=True) as connection:
        await connection.execute("DELETE FROM lens_documents WHERE kind IN ('state', 'run') AND run_id !~ '3$'")


async def carried_out(backend: StateBackend, plan: DeletionPlan, **options: Any) -> Deleted:
    """The result of all batches together."""
    found = [one async for one in backend.delete_planned(plan, **options)]
    rows = {kind: sum(one.rows.get(kind, 0) for one in found) for kind in ("states", "runs", "steps", "spans")}
    ids, skipped = ([i for one in found for i in part(one)] for part in (lambda d: d.run_ids, lambda d: d.skipped))
    return Deleted(tuple(sorted(ids)), {}, rows, tuple(sorted(skipped)))


def content(chance: random.Random, young: int) -> list[tuple[str, dict[str, Any], str | None]]:
    """Runs of every status and age, some with background tasks; and young ones, so that the others may be few."""
    found: list[tuple[str, dict[str, Any], str | None]] = []
    for number in range(30):
        heads = [run_id for run_id, state, _ in found if state["parent_run_id"] is None]
        parent = chance.choice([*heads, "nobody"]) if heads and chance.random() < 0.3 else None
        updated = NOW - timedelta(days=chance.choice((-1, 1, 40, 60, 90)), minutes=number)
        run = chance.choice((None, "completed", "completed", "failed", "running"))
        found.append((f"r-{number}", state_of(chance.choice(STATUSES), updated, parent), run))
    ages = ((f"y-{number}", NOW - timedelta(hours=number)) for number in range(1, young))
    return [*found, *((run_id, state_of("completed", updated), None) for run_id, updated in ages)]


@pytest.mark.parametrize("young", [0, 400], ids=["many", "few"])
@pytest.mark.parametrize("seed", ROUNDS)
def test_the_plan_and_the_deletion_are_those_of_the_core(uri: str, seed: int, young: int) -> None:
    chance = random.Random(seed)
    stored, wanted = content(chance, young), chance.choice((frozenset[str](), frozenset({"completed", "failed"})))
    asked = DeletionRequest(
        datetime.now(UTC), CUTOFF, RunFilter(statuses=wanted), keep_paused=chance.random() < 0.5,
        keep_unknown=chance.random() < 0.5, keep_last=chance.choice((None, None, 3)),
    )  # fmt: skip
    keep = chance.choice(({}, {"keep": lambda records: None}))

    async def outcome(backend: StateBackend) -> tuple[Any, ...]:
        for run_id, state, run in stored:
            await put(backend, run_id, state, run)
        if isinstance(backend, PostgresBackend):
            await forget_documents(backend)
        plan = await backend.plan_deletion(asked)
        ids = sorted([run_id async for run_id in backend.planned_ids(plan)])
        changed = random.Random(seed).sample([*ids, "r-0", "r-1", "r-2"], 3)
        await backend.save_state(changed[0], state_of("running", NOW))
        await backend.save_state("new", state_of("completed", NOW - timedelta(days=50), changed[1]))
        await backend.claim_run(changed[2], Holder("host", "boot", 1, ""), 60)
        told = (plan.count, plan.total, plan.by_status, plan.by_pipeline, plan.kept, ids)
        done = await carried_out(backend, plan, **keep)
        return (*told, done, sorted([run.run_id async for run in backend.iter_runs(RunFilter())]))

    async def work() -> None:
        async with PostgresBackend(uri) as backend:
            assert await outcome(backend) == await outcome(InMemoryBackend())

    asyncio.run(work())


def test_a_young_run_keeps_its_old_tasks_where_few_runs_are_old(uri: str) -> None:
    async def work() -> DeletionPlan:
        async with PostgresBackend(uri) as backend:
            for number in range(40):
                await backend.save_state(f"y-{number}", state_of("completed", NOW))
            await backend.save_state("task", state_of("completed", NOW - timedelta(days=60), "y-0"))
            await forget_documents(backend)
            return await backend.plan_deletion(DeletionRequest(datetime.now(UTC), CUTOFF))

    plan = asyncio.run(work())
    assert (plan.count, plan.total) == (0, 41)
