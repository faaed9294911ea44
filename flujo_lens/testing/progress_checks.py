"""Progress is saved whole or not at all; manifests; and what could still resume."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest import SkipTest

from flujo_lens.errors import LostClaimError
from flujo_lens.state.backends.base import StateBackend, overrides
from flujo_lens.state.claims import Holder, Progress, ResumableGroup
from flujo_lens.state.views import RunFilter
from flujo_lens.testing.harness import Harness, equal, on_nothing, on_samples, refuses, with_texts
from flujo_lens.testing.samples import plain_state

_MANIFEST = {"format": 1, "pipeline": "p", "version": "1", "steps": [{"name": "load"}, {"name": "ask"}], "context": {}}
_START = {"run_id": "r", "pipeline_name": "p", "pipeline_version": "1", "created_at": "2026-03-01T09:00:00+00:00"}


def _history(*names: str, failed: bool = False) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = [{"name": name, "success": True, "output": 1, "latency_s": 0.5} for name in names]
    return [*entries[:-1], {**entries[-1], "success": False, "feedback": "no"}] if failed else entries


_NAMED = {"pipeline_name": "p", "pipeline_version": "1"}


def _progress(run_id: str = "r", **more: Any) -> Progress:
    """All that a step leaves behind."""
    return Progress(
        run_id,
        state={**plain_state(run_id, status="paused", step_history=_history("load"), current_step_index=1), **_NAMED},
        run_start={**_START, "run_id": run_id},
        step={"step_name": "load", "step_index": 0, "status": "completed", "output": {"n": 1}},
        spans=[{"span_id": "1", "name": "load", "start_time": 1.0, "end_time": 2.0, "status": "completed"}],
        run_end={"status": "paused", "end_time": "2026-03-01T09:01:00+00:00"},
        **more,
    )


async def _seen(backend: StateBackend, run_id: str = "r") -> Any:
    """All that is actual of a run."""
    state = await backend.load_state(run_id)
    spans = await backend.get_spans(run_id) if overrides(type(backend), "get_spans") else []
    digest = await backend.manifest_of(run_id) if overrides(type(backend), "manifest_of") else None
    return state and with_texts(state), await backend.read_run(run_id), spans, digest


class ProgressChecks(Harness):
    """What a runner saves between two steps."""

    @on_nothing
    async def test_progress_is_all_that_the_single_methods_save(self, backend: StateBackend) -> None:
        made = _progress("r")
        assert made.state is not None
        await backend.save_progress(made)
        equal(with_texts(await backend.load_state("r")).get("step_history"), made.state["step_history"], "the history")
        self._needs_history()
        found = await backend.read_run("r")
        assert found is not None
        equal((found.run.pipeline_name, found.run.status, found.has_spans), ("p", "paused", True), "the run")
        steps = [(step.step_name, step.status, step.output) for step in found.steps]
        equal(steps, [("load", "completed", 1)], "its steps")
        equal([span["name"] for span in await backend.get_spans("r")], ["load"], "its spans")

    @on_nothing
    async def test_progress_may_have_one_part(self, backend: StateBackend) -> None:
        made = _progress("r")
        await backend.save_progress(Progress("r"))
        equal((await _seen(backend))[:2], (None, None), "what an empty progress leaves")
        await backend.save_progress(Progress("r", state=made.state))
        equal(await backend.load_state("r") is not None, True, "that there is a state")
        self._needs_history()
        for part in ("run_start", "step", "spans", "run_end"):
            await backend.save_progress(Progress("r", **{part: getattr(made, part)}))
        await backend.save_progress(_progress("whole"))
        mine, whole = await backend.read_run("r"), await backend.read_run("whole")
        assert mine is not None
        assert whole is not None
        equal(
            [step._replace(created_at=None) for step in mine.steps],
            [step._replace(created_at=None) for step in whole.steps],
            "the steps",
        )
        equal(mine.run._replace(run_id="", updated_at=None), whole.run._replace(run_id="", updated_at=None), "the run")

    @on_nothing
    async def test_a_step_of_an_unknown_run(self, backend: StateBackend) -> None:
        self._needs_history()
        await backend.save_progress(Progress("r", step=_progress().step))
        found = await backend.read_run("r")
        equal([step.step_name for step in found.steps] if found else None, ["load"], "its steps")

    @on_nothing
    async def test_progress_belongs_to_its_run_whatever_the_parts_say(self, backend: StateBackend) -> None:
        self._needs_history()
        other = {"run_id": "another"}
        await backend.save_progress(Progress("r", run_start=other, step={"step_name": "s", "step_index": 0, **other}))
        equal(await backend.read_run("another"), None, "the run that the parts name")
        equal(len(await backend.list_run_steps("r")), 1, "the steps of the run")

    @on_nothing
    async def test_progress_with_a_claim_gives_a_sign(self, backend: StateBackend) -> None:
        claim = await backend.claim_run("r", Holder.current(), 3600)
        await backend.save_progress(_progress(claim=claim))
        found = (await backend.read_claims())["r"]
        equal(found._replace(beat_at=claim.beat_at), claim, "the claim, but for its sign")
        equal(found.beat_at > claim.beat_at, True, f"that {found.beat_at} is newer than {claim.beat_at}")
        equal(await backend.load_state("r") is not None, True, "that there is a state")

    @on_nothing
    async def test_who_lost_the_run_saves_nothing(self, backend: StateBackend) -> None:
        lost = await backend.claim_run("r", Holder("another-host", "boot", 1, "1"), 0.001)
        await backend.save_progress(Progress("r", state=plain_state("r"), claim=lost))
        await asyncio.sleep(0.01)
        mine = await backend.claim_run("r", Holder.current(), 3600)
        before = await _seen(backend)
        await refuses(backend.save_progress(_progress(claim=lost, manifest="d")), LostClaimError, "a lost claim")
        equal(await _seen(backend), before, "the run")
        equal(dict(await backend.read_claims()), {"r": mine}, "the claims")

    @on_nothing
    async def test_a_part_that_cannot_be_saved_leaves_nothing(self, backend: StateBackend) -> None:
        if not overrides(type(backend), "save_progress"):
            raise SkipTest("the driver saves the parts one after the other")
        await backend.save_state("another", plain_state("another"))
        for before in (False, True):
            if before:
                await backend.save_state("r", plain_state("r"))
            seen = await _seen(backend)
            bad: Any = ["no object"]
            await refuses(backend.save_progress(_progress()._replace(run_end=bad)), TypeError, "a list as an end")
            equal(await _seen(backend), seen, "the run")

    @on_nothing
    async def test_progress_is_copied(self, backend: StateBackend) -> None:
        made = _progress()
        assert made.state is not None
        saving = asyncio.ensure_future(backend.save_progress(made))
        await asyncio.sleep(0)
        made.state["step_history"].append({"name": "too late"})
        await saving
        history = (await backend.load_state("r") or {})["step_history"]
        equal([entry["name"] for entry in history], ["load"], "the history")

    # --- manifests

    @on_nothing
    async def test_a_manifest_is_stored_once(self, backend: StateBackend) -> None:
        equal(await backend.get_manifest("d"), None, "a manifest that is not there")
        await backend.put_manifest("d", _MANIFEST)
        await backend.put_manifest("d", {"another": 1})
        equal(await backend.get_manifest("d"), _MANIFEST, "the manifest")
        equal(await backend.get_manifest("e"), None, "another that is not there")

    @on_nothing
    async def test_a_run_belongs_to_a_manifest(self, backend: StateBackend) -> None:
        equal(await backend.manifest_of("r"), None, "the manifest of no run")
        await backend.save_progress(_progress(manifest="d"))
        equal(await backend.manifest_of("r"), "d", "the manifest of the run")
        await backend.save_progress(Progress("r", state=plain_state("r")))
        equal(await backend.manifest_of("r"), "d", "the manifest after progress that names none")
        await backend.save_progress(Progress("r", manifest="e"))
        equal(await backend.manifest_of("r"), "e", "the manifest that it was moved to")
        equal(await backend.manifest_of("another"), None, "the manifest of another run")

    @on_nothing
    async def test_a_binding_goes_with_its_run(self, backend: StateBackend) -> None:
        await backend.put_manifest("d", _MANIFEST)
        for run_id in ("r", "stays"):
            await backend.save_progress(_progress(run_id, manifest="d"))
        await backend.delete_run("r")
        found = (await backend.manifest_of("r"), await backend.manifest_of("stays"), await backend.get_manifest("d"))
        equal(found, (None, "d", _MANIFEST), "the two bindings, and the manifest")

    @on_nothing
    async def test_clean_up_takes_claims_and_bindings_along(self, backend: StateBackend) -> None:
        long_ago: dict[str, Any] = {
            "created_at": "2020-01-01T00:00:00+00:00",
            "updated_at": "2020-01-01T00:00:00+00:00",
        }
        await backend.save_progress(Progress("r", state=plain_state("r", **long_ago), manifest="d"))
        await backend.claim_run("r", Holder.current(), 3600)
        equal(await backend.cleanup_old_workflows(30), 1, "how many were deleted")
        equal((await backend.manifest_of("r"), dict(await backend.read_claims())), (None, {}), "what is left of it")

    # --- what could resume

    @on_nothing
    async def test_groups_of_runs_with_a_manifest(self, backend: StateBackend) -> None:
        await backend.put_manifest("d", _MANIFEST)
        for run_id in ("b", "a", "c"):
            await backend.save_progress(_progress(run_id, manifest="d"))
        await backend.save_progress(Progress("done", state=plain_state("done", status="completed"), manifest="d"))
        wanted = ResumableGroup("p", "1", "paused", 1, "ask", "d", (), 3, "a")
        equal(list(await backend.group_resumable(RunFilter())), [wanted], "the groups")

    @on_nothing
    async def test_groups_of_runs_without_a_manifest(self, backend: StateBackend) -> None:
        def state(status: str, history: list[dict[str, Any]]) -> dict[str, Any]:
            named: dict[str, Any] = {"pipeline_name": "p", "pipeline_version": "2"}
            return plain_state("", status=status, step_history=history, current_step_index=1, **named)

        await backend.save_state("a", state("failed", _history("load", "send", failed=True)))
        await backend.save_state("b", state("failed", _history("load", "send", failed=True)))
        await backend.save_state("c", state("running", _history("load")))
        await backend.save_state("d", state("running", _history("fetch")))
        for status in ("completed", "cancelled"):
            await backend.save_state(status, state(status, _history("load")))
        groups = [
            ResumableGroup("p", "2", "failed", 1, "send", None, ("load",), 2, "a"),
            ResumableGroup("p", "2", "running", 1, None, None, ("fetch",), 1, "d"),
            ResumableGroup("p", "2", "running", 1, None, None, ("load",), 1, "c"),
        ]
        equal(list(await backend.group_resumable(RunFilter())), groups, "the groups")
        failed = RunFilter(statuses=frozenset({"failed", "completed"}), pipeline="p")
        equal(list(await backend.group_resumable(failed)), groups[:1], "those that failed")
        for nothing in (RunFilter(statuses=frozenset({"completed"})), RunFilter(version="1"), RunFilter(search="zz")):
            equal(list(await backend.group_resumable(nothing)), [], f"those of {nothing}")
        equal(list(await backend.group_resumable(RunFilter(search="A"))), [groups[0]._replace(runs=1)], "one run")

    @on_samples
    async def test_groups_hold_the_runs_that_are_listed(self, backend: StateBackend) -> None:
        listed: dict[tuple[str, str, str], int] = {}
        async for run in backend.iter_runs(RunFilter(top_level=True)):
            if run.status in ("running", "paused", "failed"):
                key = (run.pipeline_name, run.pipeline_version, run.status)
                listed[key] = listed.get(key, 0) + 1
        grouped: dict[tuple[str, str, str], int] = {}
        for group in await backend.group_resumable(RunFilter()):
            grouped[group[:3]] = grouped.get(group[:3], 0) + group.runs
        equal(grouped, listed, "runs by pipeline, version and status")
