"""Deleting: one run, runs of an age, and giving up dead background tasks."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.views import RunFilter
from flujo_lens.testing.harness import Harness, document_ids, equal, ids_of, instant, on_nothing, on_samples, refuses
from flujo_lens.testing.samples import plain_state

_HOUR = timedelta(hours=1)
_MONTH = timedelta(days=30)

_FORMS: dict[str, Callable[[datetime], str]] = {
    "T, microseconds, +00:00": lambda when: when.replace(microsecond=1).isoformat(),
    "T, +00:00": lambda when: when.replace(microsecond=0).isoformat(),
    "T, microseconds, Z": lambda when: when.replace(microsecond=1).isoformat()[:26] + "Z",
    "T, Z": lambda when: when.strftime("%Y-%m-%dT%H:%M:%SZ"),
    "T, microseconds": lambda when: when.replace(microsecond=1, tzinfo=None).isoformat(),
    "T": lambda when: when.strftime("%Y-%m-%dT%H:%M:%S"),
    "space": lambda when: when.strftime("%Y-%m-%d %H:%M:%S"),
    "space, microseconds, +00:00": lambda when: when.replace(microsecond=1).isoformat(" "),
    "another zone": lambda when: when.astimezone(timezone(-5 * _HOUR)).isoformat(),
}
"""The forms of time that stores hold; as texts they do not sort by time."""


class CleanupChecks(Harness):
    """`delete_state`, `delete_run`, `cleanup_old_workflows`, `cleanup_stale_background_tasks`."""

    # --- one run

    @on_samples
    async def test_a_deleted_state_leaves_the_history(self, backend: StateBackend) -> None:
        self._needs_history()
        await backend.delete_state("order-1")
        await backend.delete_state("order-1")
        equal(await backend.load_state("order-1"), None, "load_state()")
        details = await backend.get_run_details("order-1") or {}
        equal((details.get("pipeline_name"), details.get("status")), ("orders", "completed"), "get_run_details()")
        equal([row["step_name"] for row in await backend.list_run_steps("order-1")], ["load", "pack", "price"], "steps")
        equal(len(await backend.get_spans("order-1")), 5, "the number of spans")
        equal(len(await backend.list_evaluations(run_id="order-1")), 2, "the number of evaluations")
        equal("order-1" in await ids_of(backend.iter_runs(RunFilter())), True, "it is listed")
        equal("order-1" in document_ids(await backend.list_states()), False, "it is among the states")

    @on_samples
    async def test_of_a_deleted_run_nothing_is_left(self, backend: StateBackend) -> None:
        before = await ids_of(backend.iter_runs(RunFilter()))
        for _ in range(2):
            await backend.delete_run("order-1")
            await self._is_gone(backend, "order-1")
        left = [run_id for run_id in before if run_id != "order-1"]
        equal(await ids_of(backend.iter_runs(RunFilter())), left, "the other runs")
        if not self.states_only:
            equal(len(await backend.get_spans("order-2")), 5, "the spans of another run")
            equal(len(await backend.list_evaluations()), 1, "the evaluations of another run")
            equal(len(await backend.read_system_state()), 2, "the system state")

    async def _is_gone(self, backend: StateBackend, run_id: str) -> None:
        equal(await backend.load_state(run_id), None, f"load_state({run_id!r})")
        equal(await backend.get_run_details(run_id), None, f"get_run_details({run_id!r})")
        equal(await backend.read_run(run_id), None, f"read_run({run_id!r})")
        equal(await backend.list_run_steps(run_id), [], f"list_run_steps({run_id!r})")
        if not self.states_only:
            equal(await backend.get_spans(run_id), [], f"get_spans({run_id!r})")
            equal(await backend.get_trace(run_id), None, f"get_trace({run_id!r})")
            equal(await backend.list_evaluations(run_id=run_id), [], f"list_evaluations({run_id!r})")

    @on_samples
    async def test_a_deleted_run_may_be_saved_again(self, backend: StateBackend) -> None:
        state = await backend.load_state("order-1")
        await backend.delete_run("order-1")
        await backend.save_state("order-1", state or {})
        detail = await backend.read_run("order-1")
        equal(detail is not None and detail.run.status, "completed", "its status")
        equal(detail is not None and detail.has_spans and bool(await backend.get_spans("order-1")), False, "has spans")

    # --- by age

    @on_nothing
    async def test_age_by_any_form_of_time(self, backend: StateBackend) -> None:
        for form, text in _FORMS.items():
            for word, age in (("old", _MONTH + _HOUR), ("young", _MONTH - _HOUR)):
                when = text(self._now - age)
                state = plain_state(f"{word}: {form}", "completed", metadata={"form": form})
                await backend.save_state(f"{word}: {form}", {**state, "created_at": when, "updated_at": when})
        equal(await backend.cleanup_old_workflows(30), len(_FORMS), "how many were deleted")
        left = sorted(await ids_of(backend.iter_runs(RunFilter())))
        equal(left, sorted(f"young: {form}" for form in _FORMS), "the runs that are left")

    @on_nothing
    async def test_age_of_history_by_any_form_of_time(self, backend: StateBackend) -> None:
        self._needs_history()
        for form, text in _FORMS.items():
            for word, age in (("old", _MONTH + _HOUR), ("young", _MONTH - _HOUR)):
                when, run_id = text(self._now - age), f"{word}: {form}"
                await backend.save_run_start({"run_id": run_id, "created_at": when, "updated_at": when})
                await backend.save_run_end(run_id, {"status": "failed", "end_time": when, "updated_at": when})
        equal(await backend.cleanup_old_workflows(30), len(_FORMS), "how many were deleted")
        left = sorted(await ids_of(backend.iter_runs(RunFilter())))
        equal(left, sorted(f"young: {form}" for form in _FORMS), "the runs that are left")

    @on_nothing
    async def test_the_newest_time_of_a_run_is_its_age(self, backend: StateBackend) -> None:
        self._needs_history()
        old, young = self._now - 2 * _MONTH, self._now - _HOUR
        for run_id, saved, updated in (("state", young, old), ("run", old, young), ("neither", old, old)):
            await backend.save_state(run_id, plain_state(run_id, "completed", saved))
            await backend.save_run_start({"run_id": run_id, "created_at": old.isoformat()})
            await backend.save_run_end(run_id, {"updated_at": updated.isoformat(), "end_time": updated.isoformat()})
        equal(await backend.cleanup_old_workflows(30), 1, "how many were deleted")
        await self._is_gone(backend, "neither")
        equal(sorted(await ids_of(backend.iter_runs(RunFilter()))), ["run", "state"], "the runs that are left")

    @on_nothing
    async def test_a_time_that_is_unreadable_or_in_the_future_is_never_old(self, backend: StateBackend) -> None:
        old = plain_state("old", "completed", self._now - 2 * _MONTH)
        await backend.save_state("old", old)
        for run_id, when in (("unreadable", "yesterday"), ("future", (self._now + _HOUR).isoformat())):
            await backend.save_state(run_id, {**old, "run_id": run_id, "updated_at": when})
        nameless = {name: value for name, value in old.items() if not name.endswith("_at")}
        await backend.save_state("missing", {**nameless, "run_id": "missing"})
        equal(await backend.cleanup_old_workflows(0.5), 1, "how many were deleted")
        left = [run_id for run_id in ("unreadable", "future", "missing") if await backend.load_state(run_id)]
        equal(left, ["unreadable", "future", "missing"], "the states that are left")

    @on_nothing
    async def test_age_counts_whatever_the_status(self, backend: StateBackend) -> None:
        statuses = ("running", "paused", "completed", "failed", "cancelled", "no such status")
        for status in statuses:
            await backend.save_state(status, plain_state(status, status, self._now - 2 * _MONTH))
        equal(await backend.cleanup_old_workflows(), len(statuses), "how many were deleted")
        equal(await ids_of(backend.iter_runs(RunFilter())), [], "the runs")

    @on_samples
    async def test_old_runs_go_with_all_that_hangs_on_them(self, backend: StateBackend) -> None:
        ages = {s.run_id: self._now - s.expected["updated_at"] for s in self.samples}
        old = [run_id for run_id, age in ages.items() if age > timedelta(days=1)]
        equal(await backend.cleanup_old_workflows(1), len(old), "how many were deleted")
        for run_id in old:
            await self._is_gone(backend, run_id)
        equal(sorted(await ids_of(backend.iter_runs(RunFilter()))), ["order-1_bg_2", "pay-1"], "what is left")
        equal(await backend.cleanup_old_workflows(1), 0, "how many were deleted the second time")

    @on_nothing
    async def test_an_age_that_cannot_be(self, backend: StateBackend) -> None:
        await backend.save_state("r", plain_state("r", when=self._now - 2 * _MONTH))
        for days in (-1, -0.001, math.nan):
            await refuses(backend.cleanup_old_workflows(days), ValueError, f"cleanup_old_workflows({days})")
        for days in (math.inf, 1e9):
            equal(await backend.cleanup_old_workflows(days), 0, f"cleanup_old_workflows({days})")
        equal(await backend.load_state("r") is None, False, "the state is gone")
        equal(await backend.cleanup_old_workflows(0), 1, "cleanup_old_workflows(0)")

    # --- background tasks

    async def _save_task(self, backend: StateBackend, run_id: str, age: timedelta, **more: Any) -> None:
        when = self._now - age
        facts = {"is_background_task": True, "parent_run_id": "parent", "task_id": run_id}
        await backend.save_state(run_id, plain_state(run_id, when=when, **{**facts, "metadata": facts, **more}))

    @on_nothing
    async def test_tasks_without_a_sign_are_given_up(self, backend: StateBackend) -> None:
        await self._save_task(backend, "dead", 25 * _HOUR, pipeline_context={"n": 1})
        await self._save_task(backend, "alive", 23 * _HOUR)
        await self._save_task(backend, "done", 25 * _HOUR, status="completed")
        await self._save_task(backend, "run", 25 * _HOUR, is_background_task=False, metadata={})
        equal(await backend.cleanup_stale_background_tasks(), 1, "how many were given up")
        state = await backend.load_state("dead") or {}
        why = "timed out: no activity for 24 hours"
        actual = (state["status"], state["error_message"], state["background_error"], state["pipeline_context"])
        equal(actual, ("failed", why, why, {"n": 1}), "the state of the dead one")
        saved = instant(state["updated_at"])
        equal(saved is not None and self._now <= saved <= datetime.now(UTC), True, "it was updated now")
        statuses = {row["run_id"]: row["status"] for row in await backend.list_states()}
        equal(statuses, {"dead": "failed", "alive": "running", "done": "completed", "run": "running"}, "statuses")
        equal(document_ids(await backend.get_failed_background_tasks("parent")), ["dead"], "the failed tasks")
        equal(await backend.cleanup_stale_background_tasks(), 0, "how many were given up the second time")

    @on_nothing
    async def test_activity_by_any_form_of_time(self, backend: StateBackend) -> None:
        for form, text in _FORMS.items():
            for word, age in (("dead", 25 * _HOUR), ("alive", 23 * _HOUR)):
                when = text(self._now - age)
                await self._save_task(backend, f"{word}: {form}", age, created_at=when, updated_at=when)
        equal(await backend.cleanup_stale_background_tasks(24), len(_FORMS), "how many were given up")
        failed = sorted(document_ids(await backend.list_background_tasks(status="failed")))
        equal(failed, sorted(f"dead: {form}" for form in _FORMS), "those that were")

    @on_nothing
    async def test_only_the_named_tasks_are_given_up(self, backend: StateBackend) -> None:
        for run_id, age in (("dead", 25), ("dead too", 25), ("not named", 25), ("alive", 23)):
            await self._save_task(backend, run_id, age * _HOUR)
        await self._save_task(backend, "done", 25 * _HOUR, status="completed")
        named = ["dead too", "nowhere", "alive", "done", "dead", "dead too"]
        cutoff = self._now - 24 * _HOUR
        equal(list(await backend.fail_stale_tasks(named, cutoff, 24)), ["dead too", "dead"], "those that were")
        statuses = {row["run_id"]: row["status"] for row in await backend.list_states()}
        failed = sorted(run_id for run_id, status in statuses.items() if status == "failed")
        equal(failed, ["dead", "dead too"], "the failed states")
        equal(
            (await backend.load_state("dead") or {})["error_message"],
            "timed out: no activity for 24 hours",
            "the error",
        )
        equal(list(await backend.fail_stale_tasks(named, cutoff, 24)), [], "those that were the second time")

    @on_nothing
    async def test_a_silence_that_cannot_be(self, backend: StateBackend) -> None:
        await self._save_task(backend, "task", 25 * _HOUR)
        for hours in (-1, math.nan):
            work = backend.cleanup_stale_background_tasks(hours)
            await refuses(work, ValueError, f"cleanup_stale_background_tasks({hours})")
        equal(await backend.cleanup_stale_background_tasks(math.inf), 0, "cleanup_stale_background_tasks(inf)")
        equal((await backend.load_state("task") or {})["status"], "running", "the status of the task")
