"""Forking a run: creating a new run at an earlier step of a run."""

from __future__ import annotations

import copy
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from itertools import takewhile
from typing import Any, NamedTuple

from flujo_lens.errors import NotSupportedError, OperationFailedError, RunNotFoundError, UnknownValueError, command_line
from flujo_lens.operations.change_report import Recorder, Report
from flujo_lens.state.backends.base import JSONObject, StateBackend
from flujo_lens.state.claims import Progress
from flujo_lens.state.forks import FORKED_FROM, ID_PART, fork_error
from flujo_lens.state.manifests import is_readable
from flujo_lens.state.stripped import check_whole
from flujo_lens.state.views import RunDetail

_QUARTER = timedelta(minutes=15)
"""The unit of all UTC offsets."""

_PAUSE_NOTES = ("pause_message", "hitl_data", "paused_step_input")


class ForkPlan(NamedTuple):
    """A planned fork.

    Attributes:
        old: The original run, with its state.
        step: The first step of the new run.
        kept: The names of the steps whose outputs are kept.
        again: The names of the finished steps that run again.
        manifest: The digest of the manifest of both runs, if the store has one.
        state: The state of the new run.
    """

    old: RunDetail
    step: str
    kept: tuple[str, ...]
    again: tuple[str, ...]
    manifest: str | None
    state: JSONObject


class Forked(NamedTuple):
    """The new run (None in a dry run), whether the original was cancelled, and the report."""

    run_id: str | None
    is_cancelled: bool
    report: Report


async def plan_fork(backend: StateBackend, run_id: str, step: str) -> ForkPlan:
    """Plan a fork. Writes nothing.

    Args:
        run_id: The whole id of the run.
        step: The first step of the new run: a finished step, or the current one.

    Raises:
        RunNotFoundError: the run has no state.
        UnknownValueError: the run has not reached a step of that name.
        OperationFailedError: the store does not have the outputs of the steps before it.
        StrippedRunError: they were dropped.
    """
    old = await backend.read_run(run_id)
    if old is None or old.state is None:
        raise RunNotFoundError(f"{run_id} has no state in the store: it cannot be forked", run_id=run_id)
    check_whole(run_id, await backend.read_stripped([run_id]))
    done = _done(old.state)
    names = [str(entry.get("name")) for entry in done]
    at = names.index(step) if step in names else _standing(old, step, names)
    manifest = await _manifest(backend, run_id)
    shape = await backend.get_manifest(manifest) if manifest is not None else None
    known = shape if shape is not None and is_readable(shape) else {}
    return ForkPlan(old, step, tuple(names[:at]), tuple(names[at:]), manifest, _state(old, done[:at], step, known))


def _new_id(run_id: str) -> str:
    """A new id for a fork of a run."""
    return f"{run_id}{ID_PART}{secrets.token_hex(4)}"


async def fork(
    backend: StateBackend,
    plan: ForkPlan,
    now: datetime,
    record: Callable[[], Recorder] | None,
    *,
    cancels_old: bool = False,
) -> Forked:
    """Create the new run in one transaction; then cancel the original, if requested.

    The new run is ``failed`` until it is resumed, but is not counted as a failure until then
    (`flujo_lens.state.forks`). A process that dies leaves no new run, or the new run and the unchanged original.

    Args:
        record: Creates the recorder; None for a dry run.
        cancels_old: Whether to cancel the original run. A run that has ended, or is held, does not change.

    Raises:
        LensError: the log or the store cannot be written. No new run was created.
    """
    if record is None:
        return Forked(None, False, Report(1, left=1, dry_run=True))
    old_id = plan.old.run.run_id
    made = _new_id(old_id)

    async def change() -> bool:
        await backend.save_progress(_progress(plan, made, now))
        return bool(cancels_old and await backend.cancel_runs([old_id]))

    audit_id, is_cancelled = await record().recorded({"runs": 1}, [old_id, made], change)
    return Forked(made, is_cancelled, Report(1, 1, audit_id=audit_id))


def _done(state: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The successful entries of the step history before the first failure, after which the library continued."""
    history = state.get("step_history")
    entries = [entry for entry in history if isinstance(entry, dict)] if isinstance(history, list) else []
    return list(takewhile(lambda entry: entry.get("success") is not False, entries))


def _standing(old: RunDetail, step: str, names: Sequence[str]) -> int:
    """The index of the current step, if `step` is its name."""
    if step == old.run.step_name:
        return len(names)
    if any(record.step_name == step and record.status == "completed" for record in old.steps):
        raise OperationFailedError(
            f"the state of {old.run.run_id} does not have the outputs of its steps: it cannot be forked",
            hint=f"{command_line('show', old.run.run_id, '--show-output')} shows the outputs in the history",
            run_id=old.run.run_id,
        )
    raise UnknownValueError.of(f"step of {old.run.run_id}", step, steps_to_fork_from(old) or ("none",))


def steps_to_fork_from(old: RunDetail) -> list[str]:
    """The steps from which a run can start again: its finished ones in order, and the current one."""
    done = [str(entry.get("name")) for entry in _done(old.state or {})]
    return list(dict.fromkeys([*done, *([old.run.step_name] if old.run.step_name else [])]))


async def _manifest(backend: StateBackend, run_id: str) -> str | None:
    try:
        return await backend.manifest_of(run_id)
    except NotSupportedError:
        return None


def _state(old: RunDetail, kept: Sequence[Mapping[str, Any]], step: str, shape: Mapping[str, Any]) -> JSONObject:
    """The state of the original run, reduced to the kept steps."""
    state = copy.deepcopy(dict(old.state or {}))
    first = next((record.input for record in old.steps if record.step_index == 0), None)
    given = {
        "pipeline_name": old.run.pipeline_name,
        "pipeline_version": old.run.pipeline_version,
        "current_step_index": len(kept),
        "step_history": [copy.deepcopy(dict(entry)) for entry in kept],
        "last_step_output": kept[-1].get("output") if kept else first,
        "pipeline_context": _context(state, kept, step, shape),
        "status": "failed",
        "metadata": {**(state.get("metadata") or {}), FORKED_FROM: old.run.run_id},
    }
    of_a_task = {"is_background_task": False, "parent_run_id": None, "task_id": None, "background_error": None}
    own = {name: value for name, value in of_a_task.items() if name in state}
    return {**state, **given, **own, "execution_time_ms": None}


def _context(state: JSONObject, kept: Sequence[Mapping[str, Any]], step: str, shape: Mapping[str, Any]) -> JSONObject:
    """The saved context without its pause and later answers; other values written by steps stay.

    Some versions of the library save the context of each step; then that context is used.
    """
    context = state.get("pipeline_context")
    context = dict(context) if isinstance(context, dict) else {}
    of_then = kept[-1].get("branch_context") if kept else None
    if isinstance(of_then, dict) and of_then:
        context.update(of_then)
    for name in _PAUSE_NOTES:
        context.pop(name, None)
    if "current_step" in context:
        context.update(status="failed", current_step=step)
    scratchpad = context.get("scratchpad")
    if isinstance(scratchpad, dict):
        notes = ("status", *_PAUSE_NOTES) if "status" in scratchpad else ()
        context["scratchpad"] = {name: value for name, value in scratchpad.items() if name not in notes}
    if isinstance(context.get("hitl_history"), list):
        context["hitl_history"] = _answers(context["hitl_history"], kept, shape)
    return context


def _answers(history: list[Any], kept: Sequence[Mapping[str, Any]], shape: Mapping[str, Any]) -> list[Any]:
    """The answers of the kept steps: found by the kinds of the steps, else by their outputs."""
    kinds = {step["name"]: step["kind"] for step in shape.get("steps", ())}
    count = 0
    for entry in kept:
        name, output = entry.get("name"), entry.get("output")
        answer = history[count].get("human_response") if count < len(history) else None
        if kinds.get(name) == "human" if kinds else (answer is not None and answer == output):
            count += 1
    return history[:count]


def _as_its_writer_would(old: RunDetail, now: datetime) -> str:
    """The current time in the format of the original state: version 0.4.x needs naive local times."""
    stored = (old.state or {}).get("updated_at")
    try:
        text = stored if isinstance(stored, datetime) else datetime.fromisoformat(str(stored))
    except ValueError:
        return now.isoformat()
    if text.tzinfo is not None or old.run.updated_at is None:
        return now.isoformat()
    ahead = round((text - old.run.updated_at.astimezone(UTC).replace(tzinfo=None)) / _QUARTER) * _QUARTER
    local = now.astimezone(timezone(ahead)) if abs(ahead) < timedelta(hours=15) else now.astimezone()
    return local.replace(tzinfo=None).isoformat()


def _progress(plan: ForkPlan, run_id: str, now: datetime) -> Progress:
    when, old = now.isoformat(), plan.old.run
    error = fork_error(old.run_id)
    context = plan.state["pipeline_context"]
    saved = _as_its_writer_would(plan.old, now)
    own = {"run_id": run_id, "created_at": saved, "updated_at": saved, "error_message": error}
    start = {
        "run_id": run_id,
        "status": "failed",
        "created_at": when,
        "updated_at": when,
        "pipeline_name": old.pipeline_name,
        "pipeline_version": old.pipeline_version,
        "total_steps": old.total_steps,
    }
    return Progress(
        run_id,
        state={**plan.state, **own, "pipeline_context": {**context, "run_id": run_id} if context else {}},
        run_start=start,
        run_end={"status": "failed", "updated_at": when, "error_message": error},
        manifest=plan.manifest,
    )
