"""Dropping parts of runs whose rows stay, and taking that back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.deletion import Deleted, DeletionRequest, Record
from flujo_lens.state.views import RunDetail, RunFilter
from flujo_lens.testing.harness import Harness, equal, on_history, on_sample_history
from flujo_lens.testing.samples import plain_state

_DAY, _MONTH = timedelta(days=1), timedelta(days=30)
_ALL = ("spans", "outputs", "state")


async def _everything(backend: StateBackend) -> dict[str, Any]:
    runs = {run.run_id: run async for run in backend.iter_runs(RunFilter())}
    details = {run_id: await backend.read_run(run_id) for run_id in runs}
    states = {run_id: await backend.load_state(run_id) for run_id in runs}
    spans = {run_id: await backend.get_spans(run_id) for run_id in runs}
    steps = {run_id: await backend.list_run_steps(run_id) for run_id in runs}
    scores = await backend.list_evaluations(limit=1000)
    return {"runs": runs, "details": details, "states": states, "spans": spans, "steps": steps, "scores": scores}


def _open(before: dict[str, Any], run_id: str) -> list[Any]:
    """The spans that stay: those that tell at which step a run is that is not completed."""
    if before["runs"][run_id].status == "completed":
        return []
    spans = before["spans"][run_id]
    return [span for span in spans if span["end_time"] is None and span["parent_span_id"] is not None]


def _light(detail: RunDetail) -> list[Any]:
    """What stays of the steps of a run."""
    return [step._replace(input=None, output=None) for step in detail.steps]


class StripChecks(Harness):
    """`plan_deletion`, `delete_planned` and `restore` of a request with `strip`; `read_stripped`."""

    def _stripping(self, *parts: str, age: timedelta = timedelta(0)) -> DeletionRequest:
        return DeletionRequest(now=datetime.now(UTC), cutoff=self._now - age, strip=frozenset(parts))

    async def _strip(
        self, backend: StateBackend, asked: DeletionRequest, kept: list[Record] | None = None
    ) -> list[Deleted]:
        plan = await backend.plan_deletion(asked)
        keep = None if kept is None else kept.extend
        done = [one async for one in backend.delete_planned(plan, keep=keep, batch_size=3)]
        stripped = sorted(run_id for one in done for run_id in one.run_ids)
        equal(stripped, sorted([run_id async for run_id in backend.planned_ids(plan)]), "what was planned, and done")
        rows: dict[str, int] = {}
        for one in done:
            rows = {name: rows.get(name, 0) + one.rows.get(name, 0) for name in {*rows, *one.rows}}
        equal(rows, dict(plan.rows), "rows that were planned, and done")
        return done

    @on_sample_history
    async def test_the_rows_of_stripped_runs_stay(self, backend: StateBackend) -> None:
        before = await _everything(backend)
        await self._strip(backend, self._stripping(*_ALL))
        after = await _everything(backend)
        equal(after["runs"], before["runs"], "the runs")
        equal(after["scores"], before["scores"], "the evaluations")
        for run_id, detail in before["details"].items():
            equal(_light(after["details"][run_id]), _light(detail), f"steps of {run_id}")
            equal([step.output for step in after["details"][run_id].steps if step.output], [], f"outputs of {run_id}")
            equal(after["spans"][run_id], _open(before, run_id), f"spans of {run_id}")
            equal(after["details"][run_id].pause, detail.pause, f"pause of {run_id}")
            equal(after["details"][run_id].final_output, None, f"final output of {run_id}")

    @on_sample_history
    async def test_each_part_goes_by_itself(self, backend: StateBackend) -> None:
        before = await _everything(backend)
        await self._strip(backend, self._stripping("spans"))
        after = await _everything(backend)
        same = ("runs", "states", "scores")
        equal({what: after[what] for what in same}, {what: before[what] for what in same}, "all but spans")
        outputs = {run_id: [step["output"] for step in steps] for run_id, steps in before["steps"].items()}
        equal({i: [step["output"] for step in s] for i, s in after["steps"].items()}, outputs, "outputs")
        equal(after["spans"], {run_id: _open(before, run_id) for run_id in before["runs"]}, "spans")
        await self._strip(backend, self._stripping("state"))
        now = await _everything(backend)
        for run_id, state in after["states"].items():
            left = (now["states"][run_id] or {}).get("pipeline_context") or {}
            equal(set(left) <= set((state or {}).get("pipeline_context") or {}), True, f"context of {run_id}")
        equal({i: [step["output"] for step in s] for i, s in now["steps"].items()}, outputs, "outputs")

    @on_sample_history
    async def test_what_was_stripped_is_no_work(self, backend: StateBackend) -> None:
        await self._strip(backend, self._stripping("spans", "outputs"))
        again = await backend.plan_deletion(self._stripping("spans"))
        equal((again.count, again.is_empty, dict(again.rows)), (0, True, {}), "another plan")
        more = await backend.plan_deletion(self._stripping("spans", "state"))
        equal(more.count, more.total, "a plan with another part")

    @on_sample_history
    async def test_it_is_noted_until_a_run_is_saved_again(self, backend: StateBackend) -> None:
        asked = self._stripping("outputs")
        await self._strip(backend, asked)
        ids = ["order-1", "order-2", "missing"]
        notes = await backend.read_stripped(ids)
        equal(sorted(notes), ["order-1", "order-2"], "those with a note")
        note = notes["order-1"]
        equal((dict(note.parts), note.can_resume), ({"outputs": asked.now}, False), "the note")
        await backend.save_state("order-1", plain_state("order-1", "running", datetime.now(UTC)))
        equal(sorted(await backend.read_stripped(ids)), ["order-2"], "those with a note after a save")

    @on_sample_history
    async def test_what_is_put_back_is_as_it_was(self, backend: StateBackend) -> None:
        before = await _everything(backend)
        kept: list[Record] = []
        await self._strip(backend, self._stripping(*_ALL), kept)
        restored = await backend.restore(kept)
        equal(sorted(restored.run_ids), sorted(before["runs"]), "those that were put back")
        equal(await _everything(backend), before, "the store")
        equal(await backend.read_stripped(list(before["runs"])), {}, "notes")
        equal((await backend.restore(kept)).run_ids, (), "those that were put back the second time")

    @on_sample_history
    async def test_parts_come_back_in_any_order(self, backend: StateBackend) -> None:
        before = await _everything(backend)
        for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
            copies: list[list[Record]] = [[], [], []]
            for part, kept in zip(("outputs", "state", "spans"), copies, strict=True):
                await self._strip(backend, self._stripping(part), kept)
            for at in order:
                equal(len((await backend.restore(copies[at])).run_ids), len(before["runs"]), "those put back")
            equal(await _everything(backend), before, f"the store, put back in the order {order}")

    @on_sample_history
    async def test_a_run_that_was_saved_since_is_left_alone(self, backend: StateBackend) -> None:
        kept: list[Record] = []
        await self._strip(backend, self._stripping(*_ALL), kept)
        await backend.save_state("order-1", plain_state("order-1", "running", datetime.now(UTC)))
        saved = await backend.load_state("order-1")
        restored = await backend.restore(kept)
        equal(restored.existing, ("order-1",), "those that were left alone")
        equal(await backend.load_state("order-1"), saved, "its state")

    @on_sample_history
    async def test_a_stripped_run_is_deleted_and_comes_back_stripped(self, backend: StateBackend) -> None:
        await self._strip(backend, self._stripping(*_ALL))
        before, ids = await _everything(backend), ["order-1", "ask-1"]
        notes = await backend.read_stripped(ids)
        kept: list[Record] = []
        plan = await backend.plan_deletion(DeletionRequest(now=datetime.now(UTC), run_ids=tuple(ids)))
        _ = [one async for one in backend.delete_planned(plan, keep=kept.extend)]
        equal(await backend.read_stripped(ids), {}, "notes of what is gone")
        equal(sorted((await backend.restore(kept)).run_ids), sorted(ids), "those that came back")
        equal(await _everything(backend), before, "the store")
        equal(await backend.read_stripped(ids), notes, "notes")

    @on_history
    async def test_what_changed_since_the_plan_is_not_stripped(self, backend: StateBackend) -> None:
        for name in ("saved", "old"):
            state = plain_state(name, "completed", self._now - 2 * _MONTH)
            await backend.save_state(name, {**state, "pipeline_context": {"large": "x" * 1000}})
        plan = await backend.plan_deletion(self._stripping("state", age=_MONTH))
        equal(plan.count, 2, "count")
        equal(plan.size_bytes >= 2000, True, f"size of what goes: {plan.size_bytes}")
        await backend.save_state("saved", plain_state("saved", "completed", datetime.now(UTC)))
        done: Sequence[Deleted] = [one async for one in backend.delete_planned(plan)]
        equal([run_id for one in done for run_id in one.run_ids], ["old"], "what was stripped")
        reasons = {skip.why for one in done for skip in one.skipped}
        equal(reasons - {"changed"}, set(), "why the other was not")
