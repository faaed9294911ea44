"""Planning a deletion, carrying it out, and taking it back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from flujo_lens.errors import OperationFailedError
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.deletion import Deleted, DeletionPlan, DeletionRequest, Record
from flujo_lens.state.views import RunFilter
from flujo_lens.testing.harness import Harness, counted, equal, ids_of, on_nothing, on_samples, refuses
from flujo_lens.testing.samples import EVALUATIONS, SYSTEM, plain_state

_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
_MONTH = timedelta(days=30)


async def _everything(backend: StateBackend, *, states_only: bool) -> dict[str, Any]:
    """What every reading method tells of every run."""
    runs = {run.run_id: run async for run in backend.iter_runs(RunFilter())}
    found: dict[str, Any] = {"runs": runs, "states": await backend.list_states()}
    for run_id in runs:
        found[f"state of {run_id}"] = await backend.load_state(run_id)
        found[f"detail of {run_id}"] = await backend.read_run(run_id)
    if states_only:
        return found
    for run_id in (*runs, "missing"):
        found[f"details of {run_id}"] = await backend.get_run_details(run_id)
        found[f"steps of {run_id}"] = await backend.list_run_steps(run_id)
        found[f"spans of {run_id}"] = await backend.get_spans(run_id)
        found[f"trace of {run_id}"] = await backend.get_trace(run_id)
    found["evaluations"] = await backend.list_evaluations(limit=1000)
    found["system"] = [await backend.get_system_state(key) for key, _ in SYSTEM]
    found["statistics"] = (await backend.get_workflow_stats(), await backend.get_span_statistics())
    return found


async def _carried_out(backend: StateBackend, plan: DeletionPlan, **options: Any) -> list[Deleted]:
    return [deleted async for deleted in backend.delete_planned(plan, **options)]


def _gone(done: Sequence[Deleted]) -> list[str]:
    return sorted(run_id for deleted in done for run_id in deleted.run_ids)


async def _ids(backend: StateBackend, plan: DeletionPlan) -> list[str]:
    return sorted([run_id async for run_id in backend.planned_ids(plan)])


class DeletionChecks(Harness):
    """`plan_deletion`, `planned_ids`, `delete_planned`, `restore`."""

    def _asked(self, age: timedelta | None = _MONTH, **more: Any) -> DeletionRequest:
        return DeletionRequest(now=datetime.now(UTC), cutoff=None if age is None else self._now - age, **more)

    async def _snapshot(self, backend: StateBackend) -> dict[str, Any]:
        return await _everything(backend, states_only=self.states_only)

    async def _put(
        self, backend: StateBackend, run_id: str, age: timedelta, status: str = "completed", **more: Any
    ) -> None:
        await backend.save_state(run_id, plain_state(run_id, status, self._now - age, **more))

    async def _put_task(self, backend: StateBackend, run_id: str, parent: str, age: timedelta, **more: Any) -> None:
        facts = {"is_background_task": True, "parent_run_id": parent, "task_id": run_id}
        await self._put(backend, run_id, age, **{**facts, "metadata": facts, **more})

    # --- planning

    @on_samples
    async def test_a_plan_changes_nothing(self, backend: StateBackend) -> None:
        before = await self._snapshot(backend)
        plan = await backend.plan_deletion(self._asked(_DAY, orphans_before=self._now))
        await _ids(backend, plan)
        equal(await self._snapshot(backend), before, "the store after a plan")

    @on_samples
    async def test_what_was_planned_is_what_goes(self, backend: StateBackend) -> None:
        statuses = {run.run_id: run.status async for run in backend.iter_runs(RunFilter())}
        plan = await backend.plan_deletion(self._asked(_DAY))
        ids = await _ids(backend, plan)
        # The task of the first order failed half an hour ago, so its family stays, and so does the payment.
        stay = ["order-1", "order-1_bg_1", "order-1_bg_2", "pay-1"]
        equal(ids, sorted(set(statuses) - set(stay)), "the runs of the plan")
        equal((plan.count, plan.total), (len(ids), len(statuses)), "count and total")
        equal(dict(plan.by_status), counted(statuses[run_id] for run_id in ids), "by_status of the plan")
        equal((plan.kept.family, plan.is_empty), (1, False), "families kept, and whether it is empty")
        done = await _carried_out(backend, plan, batch_size=2)
        equal(_gone(done), ids, "the runs that went")
        actual = [status for deleted in done for status, n in deleted.by_status.items() for _ in range(n)]
        equal(counted(actual), dict(plan.by_status), "by_status of what went")
        equal(max(len(deleted.run_ids) for deleted in done) <= 2, True, "no batch is larger than asked")
        equal(sorted(await ids_of(backend.iter_runs(RunFilter()))), sorted(stay), "the runs that are left")
        again = await backend.plan_deletion(self._asked(_DAY))
        equal((again.count, again.is_empty), (0, True), "another plan")

    @on_samples
    async def test_nothing_is_left_of_what_went_and_the_rest_is_as_before(self, backend: StateBackend) -> None:
        before = await self._snapshot(backend)
        done = await _carried_out(backend, await backend.plan_deletion(self._asked(_DAY)))
        after = await self._snapshot(backend)
        about = ("runs", "states", "statistics", "evaluations")
        left = {what: found for what, found in after.items() if what not in about}
        equal(left, {what: before[what] for what in left}, "what is left")
        for run_id in _gone(done):
            equal(await backend.read_run(run_id), None, f"read_run({run_id!r})")
            if not self.states_only:
                equal(await backend.list_evaluations(run_id=run_id), [], f"evaluations of {run_id}")
                equal(await backend.get_spans(run_id), [], f"spans of {run_id}")

    @on_nothing
    async def test_a_run_and_its_tasks_go_together(self, backend: StateBackend) -> None:
        for name, age, below in (("old", 2 * _MONTH, 2 * _MONTH), ("young", 2 * _MONTH, _DAY)):
            await self._put(backend, name, age)
            await self._put_task(backend, f"{name}-task", name, 2 * _MONTH)
            await self._put_task(backend, f"{name}-task-of-task", f"{name}-task", below)
        await self._put_task(backend, "alone", "missing", 2 * _MONTH)
        plan = await backend.plan_deletion(self._asked())
        equal(await _ids(backend, plan), ["alone", "old", "old-task", "old-task-of-task"], "the runs of the plan")
        equal(plan.kept.family, 1, "families kept")
        done = await _carried_out(backend, plan, batch_size=1)
        equal(sorted(len(deleted.run_ids) for deleted in done), [1, 3], "sizes of the batches")

    @on_nothing
    async def test_the_status_is_asked_of_the_whole_family(self, backend: StateBackend) -> None:
        await self._put(backend, "done", 2 * _MONTH)
        await self._put_task(backend, "done-task", "done", 2 * _MONTH, status="failed")
        await self._put(backend, "other", 2 * _MONTH)
        wanted = RunFilter(statuses=frozenset({"completed"}), top_level=True)
        plan = await backend.plan_deletion(self._asked(wanted=wanted))
        equal((await _ids(backend, plan), plan.kept.family), (["other"], 1), "the runs of the plan, families kept")

    @on_nothing
    async def test_a_run_that_gave_a_sign_lately_may_be_alive(self, backend: StateBackend) -> None:
        for name, age, status in (
            ("alive", _HOUR / 4, "running"),
            ("silent", _HOUR, "running"),
            ("done", _HOUR / 4, "failed"),
        ):
            await self._put(backend, name, age, status)
        asked = self._asked(None, keep_last=0, alive_since=self._now - _HOUR / 2)
        plan = await backend.plan_deletion(asked)
        equal(
            (await _ids(backend, plan), plan.kept.held), (["done", "silent"], 1), "those that go, those that may live"
        )
        await self._put(backend, "silent", _HOUR / 4, "running")
        equal(_gone(await _carried_out(backend, plan)), ["done"], "what went after another sign")
        forced = await backend.plan_deletion(asked._replace(force=True))
        equal(await _ids(backend, forced), ["alive", "silent"], "those that go with force")

    @on_nothing
    async def test_a_task_stays_with_a_run_that_is_not_asked_for(self, backend: StateBackend) -> None:
        await self._put(backend, "done", 2 * _MONTH)
        await self._put_task(backend, "done-task", "done", 2 * _MONTH, status="failed")
        plan = await backend.plan_deletion(self._asked(wanted=RunFilter(statuses=frozenset({"failed"}))))
        equal((await _ids(backend, plan), plan.kept.family), ([], 1), "the runs of the plan, what stays of a family")

    @on_nothing
    async def test_paused_runs_stay_where_that_is_asked(self, backend: StateBackend) -> None:
        await self._put(backend, "paused", 2 * _MONTH, "paused")
        await self._put(backend, "done", 2 * _MONTH)
        careful = await backend.plan_deletion(self._asked(keep_paused=True))
        equal((await _ids(backend, careful), careful.kept.paused), (["done"], 1), "those that go, paused ones kept")
        careless = await backend.plan_deletion(self._asked())
        equal((await _ids(backend, careless), careless.kept.paused), (["done", "paused"], 0), "without keep_paused")

    @on_nothing
    async def test_a_run_of_unknown_age_stays(self, backend: StateBackend) -> None:
        old = (self._now - 2 * _MONTH).isoformat()
        for run_id, when in (("unreadable", "yesterday"), ("future", (self._now + _HOUR).isoformat()), ("old", old)):
            state = {**plain_state(run_id, "completed"), "created_at": old, "updated_at": when}
            await backend.save_state(run_id, state)
        plan = await backend.plan_deletion(self._asked())
        equal((await _ids(backend, plan), plan.kept.unknown_age), (["old"], 2), "those that go, unknown ages kept")

    @on_nothing
    async def test_the_last_of_each_pipeline_stay(self, backend: StateBackend) -> None:
        for n in range(4):
            for name in ("a", "b"):
                age = 2 * _MONTH - n * _DAY
                await self._put(backend, f"{name}-{n}", age, pipeline_name=name)
        plan = await backend.plan_deletion(self._asked(None, keep_last=3))
        equal((await _ids(backend, plan), plan.kept.last), (["a-0", "b-0"], 6), "those that go, last ones kept")
        equal(dict(plan.by_pipeline), {"a": 1, "b": 1}, "by_pipeline")

    @on_samples
    async def test_runs_by_name(self, backend: StateBackend) -> None:
        asked = self._asked(None, run_ids=("ask-1", "missing", "order-1", "ask-1"))
        plan = await backend.plan_deletion(asked)
        equal((plan.count, plan.missing), (2, ("missing",)), "count and missing")
        equal(_gone(await _carried_out(backend, plan)), ["ask-1", "order-1"], "those that went")
        equal(await backend.read_run("order-1_bg_1") is None, False, "a task of one of them is gone")

    # --- looking again

    @on_nothing
    async def test_what_changed_since_the_plan_stays(self, backend: StateBackend) -> None:
        for run_id in ("saved", "paused", "gone", "old", "grown"):
            await self._put(backend, run_id, 2 * _MONTH)
        await self._put_task(backend, "task-of-saved", "saved", 2 * _MONTH)
        plan = await backend.plan_deletion(self._asked(keep_paused=True))
        equal(plan.count, 6, "count")
        await self._put(backend, "saved", timedelta(0))
        await self._put(backend, "paused", 2 * _MONTH, "paused")
        await backend.delete_state("gone")
        await self._put_task(backend, "task-of-grown", "grown", timedelta(0))
        done = await _carried_out(backend, plan)
        equal(_gone(done), ["old"], "those that went")
        reasons = {skip.why for deleted in done for skip in deleted.skipped}
        equal(reasons - {"changed", "paused"}, set(), "why others stayed")
        equal("changed" in reasons, True, "it is said that something has changed")
        left = sorted(await ids_of(backend.iter_runs(RunFilter())))
        equal(left, ["grown", "paused", "saved", "task-of-grown", "task-of-saved"], "the runs that are left")

    # --- keeping

    @on_samples
    async def test_what_goes_is_kept_before(self, backend: StateBackend) -> None:
        plan = await backend.plan_deletion(self._asked(_DAY))
        kept: list[list[Record]] = []
        done = 0
        async for deleted in backend.delete_planned(
            plan, keep=lambda records: kept.append(list(records)), batch_size=3
        ):
            done += 1
            equal(len(kept), done, "how often records were kept before a batch was done")
            ids = list(dict.fromkeys(record["run_id"] for record in kept[-1]))
            equal(sorted(ids), sorted(deleted.run_ids), "the runs whose records were kept")
            whole = [record["run_id"] for record in kept[-1] if record.get("last")]
            equal(whole, ids, "the runs whose records are whole, in order")

    @on_samples
    async def test_what_cannot_be_kept_stays(self, backend: StateBackend) -> None:
        plan = await backend.plan_deletion(self._asked(_DAY))
        before = await self._snapshot(backend)

        def refuse(records: Sequence[Record]) -> None:
            raise OperationFailedError("the bin is full")

        await refuses(_carried_out(backend, plan, keep=refuse), OperationFailedError, "delete_planned()")
        equal(await self._snapshot(backend), before, "the store")

    # --- bringing back

    async def _take_away(self, backend: StateBackend, asked: DeletionRequest) -> list[Record]:
        kept: list[Record] = []
        plan = await backend.plan_deletion(asked)
        await _carried_out(backend, plan, keep=kept.extend, batch_size=4)
        return kept

    @on_samples
    async def test_what_is_brought_back_is_as_it_was(self, backend: StateBackend) -> None:
        before = await self._snapshot(backend)
        kept = await self._take_away(backend, self._asked(timedelta(0)))
        equal(await ids_of(backend.iter_runs(RunFilter())), [], "the runs")
        restored = await backend.restore(kept)
        equal(sorted(restored.run_ids), sorted(before["runs"]), "the runs that came back")
        equal(restored.existing, (), "those that were there")
        equal(await self._snapshot(backend), before, "the store")

    @on_samples
    async def test_a_run_that_is_there_is_left_alone(self, backend: StateBackend) -> None:
        kept = await self._take_away(backend, self._asked(None, run_ids=("order-2", "ask-1")))
        await self._put(backend, "order-2", timedelta(0), "running")
        before = await self._snapshot(backend)
        restored = await backend.restore(kept)
        equal((restored.run_ids, restored.existing), (("ask-1",), ("order-2",)), "those that came back, and did not")
        equal(await backend.load_state("order-2"), before["state of order-2"], "the one that was there")
        equal((await backend.restore(kept)).run_ids, (), "those that came back the second time")

    @on_samples
    async def test_a_state_goes_and_its_history_stays(self, backend: StateBackend) -> None:
        self._needs_history()
        before = await self._snapshot(backend)
        kept = await self._take_away(backend, self._asked(None, run_ids=("order-1", "ask-1"), state_only=True))
        for run_id in ("order-1", "ask-1"):
            equal(await backend.load_state(run_id), None, f"load_state({run_id!r})")
            equal((await backend.get_run_details(run_id) or {}).get("status"), "cancelled", f"status of {run_id}")
        equal(len(await backend.get_spans("order-1")), 5, "the number of spans")
        equal(sorted((await backend.restore(kept)).run_ids), ["ask-1", "order-1"], "those that came back")
        equal(await self._snapshot(backend), before, "the store")

    @on_nothing
    async def test_what_hangs_on_no_run(self, backend: StateBackend) -> None:
        self._needs_history()
        await self._put(backend, "order-1", 2 * _MONTH)
        for evaluation in EVALUATIONS:
            await backend.persist_evaluation(**evaluation)
        plan = await backend.plan_deletion(self._asked(None, orphans_before=self._now - _HOUR))
        equal(plan.is_empty, True, "whether there is nothing to do yet")
        plan = await backend.plan_deletion(self._asked(None, orphans_before=datetime.now(UTC) + _HOUR))
        equal((plan.count, dict(plan.orphans)), (0, {"evaluations": 1}), "count and orphans")
        before = await backend.list_evaluations()
        kept: list[Record] = []
        done = await _carried_out(backend, plan, keep=kept.extend)
        equal(sum(deleted.orphans for deleted in done), 1, "rows that went")
        equal(len(await backend.list_evaluations()), 2, "the evaluations that are left")
        await backend.restore(kept)
        equal(await backend.list_evaluations(), before, "the evaluations that came back")
