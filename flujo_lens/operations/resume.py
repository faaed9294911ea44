"""Going on with a stored run by the application's own code."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from flujo_lens.errors import BusyError, NotSupportedError, OperationFailedError, RunNotFoundError, command_line
from flujo_lens.runner.answers import NO_ANSWER, Reply
from flujo_lens.runner.application_code import application_code, as_exception
from flujo_lens.runner.context import PipelineContext
from flujo_lens.runner.incompatibility import StateIncompatibilityError
from flujo_lens.runner.interrupts import terminable
from flujo_lens.runner.lease import RunLease, lease_of
from flujo_lens.runner.resume_point import Fitted, fit
from flujo_lens.runner.stored_run import Stored, load
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

__all__ = [
    "Outcome",
    "Prepared",
    "check_free",
    "check_library",
    "go_on",
    "prepare",
    "stored_outcome",
    "stored_run",
    "try_again",
    "would_try_again",
]

T = TypeVar("T")


class Outcome(NamedTuple):
    """How far a run came.

    Attributes:
        run_id: The run.
        status: Where it stands.
        output: What it returned, in plain data, if it is completed.
        pause_message: What a person is asked, if one is waited for.
        step: The step that waits, or failed.
        error: Why it failed.
        code: Of the error of lens that kept it from going on, if one did; then it is as it was before.
        question: The token of the question, if one is asked.
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
        """The fields that ``-o json`` prints."""
        return {
            "run_id": self.run_id,
            "status": self.status,
            "output": self.output,
            "pause_message": self.pause_message,
            "error_message": self.error,
            **({"question": self.question} if self.question is not None else {}),
        }


class Prepared(NamedTuple):
    """A stored run that may go on under the code.

    Attributes:
        stored: The run as it is stored.
        verdict: Why it may.
        version: The version of the pipeline that it goes on with.
        step: The step that runs next, or waits for a person; None if only its end has to be saved.
        at: The place of that step.
        schema: The type of a person's answer; None if any will do, or none is waited for.
        has_manifest: Whether the store has the shape that the run was started with.
        pipeline: The code that it goes on with.
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
        """Whether a person has to answer first."""
        return self.stored.status == "paused"


async def stored_run(backend: StateBackend, run_id: str) -> Stored:
    """The run as the store has it.

    Raises:
        RunNotFoundError: there is no state of it; its history alone cannot go on.
    """
    stored = await load(backend, run_id)
    if stored is None:
        raise RunNotFoundError(
            f"there is no state of {run_id} in the store, and its history alone cannot go on",
            hint=f"{command_line('show', run_id)} shows what there is",
            run_id=run_id,
        )
    return stored


def stored_outcome(stored: Stored, reply: Reply) -> Outcome | None:
    """How a run stands that is at its end; None for one that may go on.

    Raises:
        NotWaitingError: there is an answer, and nobody waits for it.
        OperationFailedError: it is cancelled.
    """
    if not stored.goes_on and stored.status != "paused":
        reply.check(stored, None)
    if stored.status == "cancelled":
        raise OperationFailedError(
            f"{stored.run_id} is cancelled: nothing resumes it",
            hint=f"{command_line('fork', stored.run_id, '--from-step STEP')} makes a new run of it",
            run_id=stored.run_id,
        )
    return _stored_now(stored) if stored.status == "completed" else None


async def check_free(backend: StateBackend, stored: Stored, now: datetime, lease: float, *, force: bool) -> None:
    """See that nobody works on a run.

    Of one without a claim (the library has none) nobody knows: it is taken for alive for as long after its last save
    as a claim would be good for, unless `force`.

    Raises:
        RunHeldError: a living process holds it.
        BusyError: it was saved a moment ago, and nothing tells by whom.
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
        f"{stored.run_id} was saved {(now - saved).total_seconds():.0f} s ago, and nothing tells whether the "
        "process that runs it is alive",
        hint=f"wait until {lease:.0f} s have passed without a save; if it is dead for certain: --force",
        run_id=stored.run_id,
    )


async def check_library(backend: StateBackend, application: Application) -> None:
    """See that the library, if the application is one of it, may open the store; before it sees that.

    Raises:
        LibraryVersionError: the installed version is none for the store.
    """
    if application.library is not None:
        from flujo_lens.runner.library_version import check_store

        await check_store(backend)


async def prepare(
    backend: StateBackend, application: Application, stored: Stored, version: str | None = None
) -> Prepared:
    """See where a run goes on under an application's code. Nothing is written, nothing runs.

    Args:
        backend: The store.
        application: The code.
        stored: A run that is not at its end.
        version: The version to go on with; by default that with which it began, if that is registered.

    Raises:
        StateIncompatibilityError: it does not fit; with `others` counted.
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
    """Whether the version that the run began with is registered, under which it was not compared."""
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


async def go_on(
    backend: StateBackend,
    application: Application,
    stored: Stored,
    answer: Any = NO_ANSWER,
    version: str | None = None,
) -> Outcome:
    """Bring a run as far as it goes, under a claim. It is loaded and compared again under that.

    The answer is for the question at which `stored` waits, and for no other.

    Args:
        backend: The store.
        application: The code.
        stored: The run, as it stood when the question was read.
        answer: A person's answer, if it waits for one.
        version: As of `prepare`.

    Raises:
        InvalidAnswerError, NotWaitingError: the answer does not fit, or the run does not wait for one.
        RunNotFoundError, RunHeldError, LostClaimError, StateIncompatibilityError, UsageError: as of `Flujo`.
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


async def try_again(
    backend: StateBackend, application: Application, run_id: str, now: datetime, version: str | None = None
) -> Outcome:
    """`go_on` with a run that failed; or that is said to run, if nobody works on it.

    Raises:
        OperationFailedError: it is at its end, or waits for a person.
        LensError: as of `go_on` and `check_free`.
    """
    stored = await stored_run(backend, run_id)
    _check_goes_on(stored)
    await check_free(backend, stored, now, lease_of(application.lease), force=False)
    return await go_on(backend, application, stored, version=version)


async def would_try_again(
    backend: StateBackend, application: Application, run_id: str, now: datetime, version: str | None = None
) -> Outcome:
    """How `try_again` would begin: where the run stands. Nothing is written, nothing runs.

    Raises:
        LensError: as of `try_again`, as far as that is known before it runs.
    """
    stored = await stored_run(backend, run_id)
    _check_goes_on(stored)
    await check_free(backend, stored, now, lease_of(application.lease), force=False)
    prepared = await prepare(backend, application, stored, version)
    return Outcome(run_id, stored.status, step=prepared.step)


def _check_goes_on(stored: Stored) -> None:
    """See that a run has failed, or was left behind.

    Raises:
        OperationFailedError: it is at its end, or waits for a person.
    """
    if not stored.goes_on:
        run_id = stored.run_id
        raise OperationFailedError(
            f"{run_id} is {stored.status} by now", hint=command_line("show", run_id), run_id=run_id
        )


async def _contained(work: Coroutine[Any, Any, T]) -> T:
    """Await what calls an application's code; what is no `Exception` was raised by that, unless we were cancelled.

    Raises:
        ApplicationExitError: in its place.
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
    """Bring a run of the library as far as it goes, by the library itself."""
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
    """How far a run came, as the store tells it; `step` is where it stands, if somebody knows better."""
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


# --- how many others have the same problem


async def _others(backend: StateBackend, error: StateIncompatibilityError, stored: Stored) -> int | None:
    """How many other runs of the pipeline do not go on for the same reason; None if the store has no lists."""
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
