"""Resuming a stored run with the application's code."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from flujo_lens.errors import BusyError, NotSupportedError, OperationFailedError, RunNotFoundError, command_line
from flujo_lens.runner.application_code import application_code, as_exception
from flujo_lens.runner.context import PipelineContext
from flujo_lens.runner.incompatibility import StateIncompatibilityError
from flujo_lens.runner.interrupts import terminable
from flujo_lens.runner.lease import RunLease, lease_of
from flujo_lens.runner.reply import NO_ANSWER, Reply
from flujo_lens.runner.resume_point import Fitted, fit
from flujo_lens.runner.stored_run import Stored, load_whole
from flujo_lens.runner.value_checks import checked_answer
from flujo_lens.runner.verdicts import Place, Verdict, assess
from flujo_lens.serialization import safe_serialize
from flujo_lens.state.backends.base import JSONObject, StateBackend
from flujo_lens.state.views import RunFilter

if TYPE_CHECKING:
    from flujo_lens.runner.application import Application
    from flujo_lens.runner.dsl import Pipeline
    from flujo_lens.runner.results import PipelineResult
    from flujo_lens.state.claims import ResumableGroup

T = TypeVar("T")


class Outcome(NamedTuple):
    """The result of resuming a run.

    Attributes:
        output: Its output as plain data, if it is completed.
        pause_message: The question, if it waits for a person.
        step: The step that waits, or failed.
        error: The reason of the failure.
        code: The code of the error of lens that prevented resuming, if any; the run is then unchanged.
        question: The token of the question, if it waits for a person.
    """

    run_id: str
    status: str
    output: Any = None
    pause_message: str | None = None
    step: str | None = None
    error: str | None = None
    code: str | None = None
    question: str | None = None

    def document(self) -> JSONObject:
        """The fields for ``-o json``."""
        return {
            "run_id": self.run_id,
            "status": self.status,
            "output": self.output,
            "pause_message": self.pause_message,
            "error_message": self.error,
            **({"question": self.question} if self.question is not None else {}),
        }


class Prepared(NamedTuple):
    """A stored run that can resume under the code.

    Attributes:
        version: The version of the pipeline.
        step: The next step, or the one that waits for a person; None if only its end has to be saved.
        at: The index of that step.
        schema: The type of the answer; None if any answer is accepted, or none is needed.
        has_manifest: Whether the store has the manifest of the run.
    """

    stored: Stored
    verdict: Verdict
    version: str
    step: str | None
    at: int
    schema: Any
    has_manifest: bool
    pipeline: Pipeline

    @property
    def waits(self) -> bool:
        """Whether the run waits for an answer."""
        return self.stored.status == "paused"


async def stored_run(backend: StateBackend, run_id: str) -> Stored:
    """Read a run.

    Raises:
        RunNotFoundError: it has no state; a history alone cannot be resumed.
        StrippedRunError: its outputs or its state were dropped.
    """
    stored = await load_whole(backend, run_id)
    if stored is None:
        raise RunNotFoundError(
            f"{run_id} has no state in the store; a history alone cannot be resumed",
            hint=f"{command_line('show', run_id)} shows the history",
            run_id=run_id,
        )
    return stored


def stored_outcome(stored: Stored, reply: Reply) -> Outcome | None:
    """The outcome of an ended run; None for a run that can be resumed.

    Raises:
        NotWaitingError: an answer was given, but the run does not wait.
        OperationFailedError: the run is cancelled.
    """
    if not stored.goes_on and stored.status != "paused":
        reply.check(stored, None)
    if stored.status == "cancelled":
        raise OperationFailedError(
            f"{stored.run_id} is cancelled: it cannot be resumed",
            hint=f"{command_line('fork', stored.run_id, '--from-step STEP')} creates a new run from it",
            run_id=stored.run_id,
        )
    return _stored_now(stored) if stored.status == "completed" else None


async def check_free(backend: StateBackend, stored: Stored, now: datetime, lease: float, *, force: bool) -> None:
    """Check that no live process is working on a run.

    A run without a claim (the library makes none) counts as live for the length of a lease after its last save,
    unless `force`.

    Raises:
        RunHeldError: a live process holds it.
        BusyError: it was saved a moment ago, by an unknown process.
    """
    try:
        claim = (await backend.read_claims([stored.run_id])).get(stored.run_id)
    except NotSupportedError:
        claim = None
    if claim is not None:
        claim.check_free(now)
        return
    saved = stored.summary.updated_at
    if force or stored.status != "running" or saved is None or now - saved > timedelta(seconds=lease):
        return
    raise BusyError(
        f"{stored.run_id} was saved {(now - saved).total_seconds():.0f} s ago, and it has no claim that tells "
        "whether its process is alive",
        hint=f"wait until {lease:.0f} s have passed without a save; if the process is gone: --force",
        run_id=stored.run_id,
    )


async def check_library(backend: StateBackend, application: Application) -> None:
    """Check that the installed library, if the application uses it, supports the store, before it opens it.

    Raises:
        LibraryVersionError: the installed version does not support the store.
    """
    if application.library is not None:
        from flujo_lens.runner.library_version import check_store

        await check_store(backend)


async def prepare(
    backend: StateBackend, application: Application, stored: Stored, version: str | None = None
) -> Prepared:
    """Find where a run would resume under an application's code. Writes and runs nothing.

    Args:
        stored: A run that has not ended.
        version: The version to use; by default the one that it was started with, if registered.

    Raises:
        StateIncompatibilityError: the run does not fit the code; with `others` counted.
        UsageError: the version is not registered.
    """
    await check_library(backend, application)
    source = application.source_for(stored.summary.pipeline_name, version)
    try:
        fitted = await _contained(fit(backend, source, stored, application.context_model))
    except StateIncompatibilityError as error:
        error.others = await _others(backend, error, stored)
        error.of_application(
            application.target,
            tells_context=application.context_model is not PipelineContext,
            has_version=_has(application, error),
        )
        raise
    if application.library is not None:
        await application.library.check(backend, stored, fitted.code.name, fitted.code.version)
    return _prepared(stored, fitted)


def _has(application: Application, error: StateIncompatibilityError) -> bool:
    """Whether the version that the run was started with is registered, although another one was compared."""
    current = error.current["version"] if error.current else None
    registered = application.registry.versions(error.pipeline) if application.registry is not None else ()
    return error.version in registered and error.version != current


def _prepared(stored: Stored, fitted: Fitted[Any]) -> Prepared:
    steps = fitted.code.pipeline.steps
    at = fitted.waiting if stored.status == "paused" else fitted.record.index
    step = steps[at] if at < len(steps) else None
    schema = step.input_schema if step is not None and stored.status == "paused" else None
    has_manifest = fitted.verdict.kind != "names-match"
    code, name = fitted.code, step.name if step else None
    return Prepared(stored, fitted.verdict, code.version, name, at, schema, has_manifest, code.pipeline)


async def resume_run(
    backend: StateBackend,
    application: Application,
    stored: Stored,
    answer: Any = NO_ANSWER,
    version: str | None = None,
) -> Outcome:
    """Run to the next stop, under a claim. The run is loaded and compared again under the claim.

    The answer is only for the question of `stored`.

    Args:
        stored: The run when the question was read.
        answer: The answer, if it waits for one.
        version: As for `prepare`.

    Raises:
        InvalidAnswerError, NotWaitingError: the answer does not fit, or the run does not wait for one.
        RunNotFoundError, RunHeldError, LostClaimError, StateIncompatibilityError, UsageError: as for `Flujo`.
    """
    with application_code():
        seen = stored.result(application.context_model, None)
        runner = None
        if application.library is None:
            runner = application.runner(backend, stored.summary.pipeline_name, version)
    if runner is None:
        return await _contained(_hand_over(backend, application, stored, Reply(answer, seen), version))
    answers = () if answer is NO_ANSWER else (answer,)
    return _outcome(await _contained(runner.resume_async(seen, *answers)))


async def retry_run(
    backend: StateBackend, application: Application, run_id: str, now: datetime, version: str | None = None
) -> Outcome:
    """`resume_run` for a failed run, or a running one whose process is dead.

    Raises:
        OperationFailedError: it has ended, or waits for a person.
        LensError: as for `resume_run` and `check_free`.
    """
    stored = await _retriable(backend, application, run_id, now)
    return await resume_run(backend, application, stored, version=version)


async def preview_retry(
    backend: StateBackend, application: Application, run_id: str, now: datetime, version: str | None = None
) -> Outcome:
    """The position from which `retry_run` would continue. Writes and runs nothing.

    Raises:
        LensError: as for `retry_run`, as far as known before it runs.
    """
    stored = await _retriable(backend, application, run_id, now)
    prepared = await prepare(backend, application, stored, version)
    return Outcome(run_id, stored.status, step=prepared.step)


async def _retriable(backend: StateBackend, application: Application, run_id: str, now: datetime) -> Stored:
    """Read a run that has failed, or whose process is dead."""
    stored = await stored_run(backend, run_id)
    if not stored.goes_on:
        raise OperationFailedError(f"{run_id} is now {stored.status}", hint=command_line("show", run_id), run_id=run_id)
    await check_free(backend, stored, now, lease_of(application.lease), force=False)
    return stored


async def _contained(work: Coroutine[Any, Any, T]) -> T:
    """Await a call of an application's code, and convert a `BaseException` that it raises.

    Raises:
        ApplicationExitError: the code raised a `BaseException` other than a cancellation by lens.
    """
    task = asyncio.current_task()
    wishes = task.cancelling() if task is not None else 0
    try:
        return await work
    except asyncio.CancelledError as error:
        if task is None or task.cancelling() > wishes:
            raise
        raise as_exception(error) from error
    except Exception:
        raise
    except BaseException as error:
        raise as_exception(error) from error


async def _hand_over(
    backend: StateBackend, application: Application, stored: Stored, reply: Reply, version: str | None
) -> Outcome:
    """Resume a run of the library by the library."""
    library = application.library
    assert library is not None
    with terminable():
        async with RunLease(backend, stored.run_id, lease_of(application.lease)):
            stored = await stored_run(backend, stored.run_id)
            source = application.source_for(stored.summary.pipeline_name, version)
            fitted = await fit(backend, source, stored, application.context_model)
            code = fitted.code
            await library.check(backend, stored, code.name, code.version)
            reply.check(stored, code.pipeline)
            if reply.has_answer:
                step = code.pipeline.steps[fitted.waiting]
                checked = checked_answer(reply.answer, step.input_schema, step.name)
                await library.answer(backend, stored, code.name, code.version, checked)
            elif stored.goes_on:
                await library.start(backend, stored, code.name, code.version)
    now, steps = await stored_run(backend, stored.run_id), code.pipeline.steps
    at = len(now.done)
    return _stored_now(now, steps[at].name if now.status == "paused" and at < len(steps) else None)


def _stored_now(stored: Stored, step: str | None = None) -> Outcome:
    """The outcome read from the store; `step` overrides the current step."""
    run, output = stored.summary, None
    if run.status == "completed" and stored.done:
        output = stored.value(None)
    at, question = step or run.step_name, next(iter(stored.questions), None)
    return Outcome(run.run_id, run.status, output, run.pause_message, at, run.error_message, question=question)


def _outcome(result: PipelineResult[Any]) -> Outcome:
    failed = result.step_history[-1].name if result.status == "failed" and result.step_history else None
    return Outcome(
        result.run_id,
        result.status,
        safe_serialize(result.output) if result.status == "completed" else None,
        result.pause_message,
        result.paused_step or failed,
        result.error,
        question=result.question,
    )


# --- other runs with the same problem


async def _others(backend: StateBackend, error: StateIncompatibilityError, stored: Stored) -> int | None:
    """Number of other runs of the pipeline with the same problem; None if the driver cannot list runs."""
    try:
        groups = await backend.group_resumable(RunFilter(pipeline=stored.summary.pipeline_name))
    except NotSupportedError:
        return None
    shapes: dict[str, JSONObject | None] = {}
    count = 0
    for group in groups:
        if group.manifest is not None and group.manifest not in shapes:
            shapes[group.manifest] = await backend.get_manifest(group.manifest)
        saved = shapes[group.manifest] if group.manifest is not None else None
        count += group.runs if _has_same(group, saved, error) else 0
    return max(count - 1, 0)


def _has_same(group: ResumableGroup, saved: JSONObject | None, error: StateIncompatibilityError) -> bool:
    if error.current is None:
        return group.pipeline_version == error.version
    place = Place(group.status, group.step_index or 0, group.step_name, group.completed, group.pipeline_version)
    return assess(saved, error.current, place).code == error.code
