"""`Flujo`: runs a pipeline durably, so that another process can resume it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, Generic, overload

from flujo_lens.errors import NotSupportedError, RunNotFoundError, UsageError
from flujo_lens.runner.context import PipelineContext, make_context
from flujo_lens.runner.dsl import Pipeline, Step
from flujo_lens.runner.event_loops import loop_runs, run_to_end
from flujo_lens.runner.execution import Answer, Execution
from flujo_lens.runner.interrupts import terminable
from flujo_lens.runner.lease import RunLease, lease_of
from flujo_lens.runner.registry import PipelineRegistry
from flujo_lens.runner.reply import NO_ANSWER, Reply
from flujo_lens.runner.results import ContextT, PipelineResult, ReadyResult
from flujo_lens.runner.resume_point import Code, Fitted, Source, fit
from flujo_lens.runner.run_record import Record, new_run_id
from flujo_lens.runner.stored_run import Stored, load_whole
from flujo_lens.runner.value_checks import checked_answer
from flujo_lens.state.backends.base import JSONObject, StateBackend

_SILENT = Reply()


class Flujo(Generic[ContextT]):
    """Runs a pipeline and saves after every step.

    State, run, steps and spans are saved together after each step, so that a step runs only once, unless the process
    dies within it. The input and the shape of the pipeline are stored with the run; before it is resumed, the shape is
    compared with that of the code.

    One process works on a run at a time: it holds a claim with a lease, and sends heartbeats while its steps run. The
    claim of a dead process on this machine expires at once, any other after its lease. A process ended by Ctrl-C or
    SIGTERM leaves its run failed, "interrupted"; the run resumes at the interrupted step.

    The runner does not close the store.

    Args:
        pipeline: The pipeline. Alternatively, it is looked up by name:
        registry: The registry of the pipeline. A stored run resumes with the version that it was started with, if that
            is registered.
        pipeline_name: Its name.
        pipeline_version: Its version; ``latest`` is the newest registered one.
        state_backend: The store; by default, an in-memory store for the lifetime of this runner.
        context_model: The type of the context, a subclass of `PipelineContext`.
        initial_context_data: Values of fields of the context, for new runs.
        lease: Seconds from a heartbeat to the expiry of a claim; by default, ``LENS_LEASE``, or 30.

    Raises:
        ConfigError: the lease is not a valid duration.
    """

    @overload
    def __init__(
        self: Flujo[PipelineContext],
        pipeline: Pipeline | Step | None = None,
        *,
        registry: PipelineRegistry | None = None,
        pipeline_name: str | None = None,
        pipeline_version: str = "latest",
        state_backend: StateBackend | None = None,
        initial_context_data: JSONObject | None = None,
        lease: float | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        pipeline: Pipeline | Step | None = None,
        *,
        registry: PipelineRegistry | None = None,
        pipeline_name: str | None = None,
        pipeline_version: str = "latest",
        state_backend: StateBackend | None = None,
        context_model: type[ContextT],
        initial_context_data: JSONObject | None = None,
        lease: float | None = None,
    ) -> None: ...
    def __init__(
        self,
        pipeline: Pipeline | Step | None = None,
        *,
        registry: PipelineRegistry | None = None,
        pipeline_name: str | None = None,
        pipeline_version: str = "latest",
        state_backend: StateBackend | None = None,
        context_model: type[Any] = PipelineContext,
        initial_context_data: JSONObject | None = None,
        lease: float | None = None,
    ) -> None:
        made = Pipeline.from_step(pipeline) if isinstance(pipeline, Step) else pipeline
        self.context_model: type[ContextT] = context_model
        self.state_backend = state_backend if state_backend is not None else _in_memory()
        self.lease = lease_of(lease)
        self.source = Source(made, registry, pipeline_name or "unknown", pipeline_version)
        self._initial = dict(initial_context_data or {})
        self._manifests: set[str] = set()

    def run(
        self,
        initial_input: Any = None,
        *,
        run_id: str | None = None,
        initial_context_data: JSONObject | None = None,
        metadata: JSONObject | None = None,
    ) -> PipelineResult[ContextT]:
        """`run_async`, for programs without an event loop."""
        return _to_the_end(
            "run",
            lambda: self.run_async(
                initial_input, run_id=run_id, initial_context_data=initial_context_data, metadata=metadata
            ),
        )

    async def run_async(
        self,
        initial_input: Any = None,
        *,
        run_id: str | None = None,
        initial_context_data: JSONObject | None = None,
        metadata: JSONObject | None = None,
    ) -> PipelineResult[ContextT]:
        """Start a run, or resume the stored run with the id `run_id`.

        For a completed or cancelled run, returns its stored result. A waiting run is returned paused, with its
        question. A failed run resumes at the failed step, a run of a dead process at the first unsaved step.

        Args:
            initial_input: The input of the first step. A resumed run uses the stored input, and logs a warning if this
                one differs.
            run_id: The id of the run and its context; by default, the id in `initial_context_data`, or a new one.
            initial_context_data: Values of fields of the context, for a new run.
            metadata: Metadata to find the run by, for a new run.

        Returns:
            The result up to the next stop. A failed step does not raise: see `PipelineResult.status`.

        Raises:
            RunHeldError: another process holds it.
            LostClaimError: another process has taken it over.
            StateIncompatibilityError: it does not fit the code. Nothing was changed.
            UsageError: it is of another pipeline, its context cannot be created, or `run_id` is empty.
        """
        data = {**self._initial, **(initial_context_data or {})}
        wanted = run_id if run_id is not None else data.get("run_id") or None
        if wanted == "":
            raise UsageError("run_id is empty", hint="omit run_id to get a new id")
        stored = None if wanted is None else await load_whole(self.state_backend, wanted)
        if stored is not None:
            if "initial_prompt" not in data:
                stored.compare_input(initial_input)
            return await self._continue(stored, given=initial_input)
        record, code = self._begun(new_run_id() if wanted is None else wanted, initial_input, data, metadata)
        with terminable():
            async with RunLease(self.state_backend, record.run_id, self.lease) as holding:
                stored = None if wanted is None else await load_whole(self.state_backend, wanted)
                if stored is None:
                    return await self._execute(record, code, holding)
        return await self._continue(stored, given=initial_input)

    def resume(
        self,
        paused: PipelineResult[ContextT] | str,
        human_input: Any = NO_ANSWER,
        *,
        step: str | None = None,
        question: str | None = None,
    ) -> PipelineResult[ContextT]:
        """`resume_async`, for programs without an event loop."""
        return _to_the_end("resume", lambda: self._resume(paused, human_input, step, question))

    def resume_async(
        self,
        paused: PipelineResult[ContextT] | str,
        human_input: Any = NO_ANSWER,
        *,
        step: str | None = None,
        question: str | None = None,
    ) -> Coroutine[Any, Any, PipelineResult[ContextT]]:
        """Resume a run, usually with the answer that it waits for.

        Outside of an event loop, this returns when the run has stopped again; the result can also be awaited.

        Args:
            paused: The result of `run_async`, or a run id. An outdated result is refused, since the answer would be for
                another question. For a completed run, returns the stored result. With a run id, give `question` or
                `step`; without them, only the first question of a run can be answered.
            human_input: The answer; validated by the step's input schema before anything is changed. Without an
                answer, the run resumes as by `run_async`.
            step: The step of the answer; a run that waits at another step is refused.
            question: The token of the question, `PipelineResult.question`; a run with another question, even at the
                same step, is refused.

        Raises:
            InvalidAnswerError: the answer does not fit.
            NotWaitingError: the run does not wait for this answer.
            RunNotFoundError: the run does not exist.
            RunHeldError, LostClaimError, StateIncompatibilityError, UsageError: as for `run_async`.
        """
        if loop_runs():
            return self._resume(paused, human_input, step, question)
        return ReadyResult.of(run_to_end(self._resume(paused, human_input, step, question)))

    # --- resuming

    async def _resume(
        self, paused: PipelineResult[ContextT] | str, human_input: Any, step: str | None, question: str | None
    ) -> PipelineResult[ContextT]:
        run_id = paused if isinstance(paused, str) else paused.run_id
        stored = await load_whole(self.state_backend, run_id)
        if stored is None:
            raise RunNotFoundError(f"{run_id} has no state in the store", hint="lens list", run_id=run_id)
        if isinstance(paused, str):
            return await self._continue(stored, reply=Reply(human_input, None, step, question))
        # a repeated script has the result of the finished run, which has no question
        reply = Reply() if paused.success else Reply(human_input, paused, step, question)
        return await self._continue(stored, reply=reply)

    async def _continue(self, stored: Stored, *, given: Any = None, reply: Reply = _SILENT) -> PipelineResult[ContextT]:
        """Resume a run. It is checked before the claim, so that a refusal writes nothing, and again under it."""
        self.source.check_is_ours(stored)
        if stored.status == "running":
            await _check_free(self.state_backend, stored.run_id)
        prepared = await self._prepared(stored, given, reply)
        if prepared is None:
            return stored.result(self.context_model, self._code_of(stored))
        with terminable():
            async with RunLease(self.state_backend, stored.run_id, self.lease) as holding:
                found = await load_whole(self.state_backend, stored.run_id)
                if found is None:
                    raise RunNotFoundError(f"{stored.run_id} was deleted by another process", run_id=stored.run_id)
                prepared = await self._prepared(found, given, reply)
                if prepared is None:
                    return found.result(self.context_model, self._code_of(found))
                fitted, answer = prepared
                return await self._execute(fitted.record, fitted.code, holding, answer)

    async def _prepared(
        self, stored: Stored, given: Any, reply: Reply
    ) -> tuple[Fitted[ContextT], Answer | None] | None:
        """The run to resume, with the answer; None if it waits and no answer was given.

        Raises:
            NotWaitingError: an answer was given, but the run does not wait for it.
        """
        self.source.check_is_ours(stored)
        if stored.status != "paused" or not reply.has_answer:
            reply.check(stored, self._code_of(stored))
        if not reply.has_answer:
            if not stored.goes_on:
                return None
            return await fit(self.state_backend, self.source, stored, self.context_model, given), None
        fitted = await fit(self.state_backend, self.source, stored, self.context_model)
        reply.check(stored, fitted.code.pipeline)
        asking = fitted.code.pipeline.steps[fitted.waiting]
        return fitted, Answer(checked_answer(reply.answer, asking.input_schema, asking.name), fitted.waiting)

    def _begun(
        self, run_id: str, initial_input: Any, data: JSONObject, metadata: JSONObject | None
    ) -> tuple[Record[ContextT], Code]:
        pipeline, version = self.source.for_new()
        code = Code.of(pipeline, self.source.name, version, self.context_model)
        context = make_context(self.context_model, run_id, initial_input, data)
        kept = {"metadata": dict(metadata or {})}
        return Record(run_id, code.name, version, pipeline, context, initial_input, kept=kept), code

    async def _execute(
        self, record: Record[ContextT], code: Code, holding: RunLease, answer: Answer | None = None
    ) -> PipelineResult[ContextT]:
        digest = await self._digest(code)
        await Execution(self.state_backend, record, holding.claim, answer).go(digest)
        return record.result()

    async def _digest(self, code: Code) -> str | None:
        """Save the manifest and return its digest; None if the driver has no manifests."""
        if code.digest not in self._manifests:
            try:
                await self.state_backend.put_manifest(code.digest, code.manifest)
            except NotSupportedError:
                return None
            self._manifests.add(code.digest)
        return code.digest

    def _code_of(self, stored: Stored) -> Pipeline | None:
        """The pipeline with the types of a run that is not resumed; or None."""
        source = self.source
        if source.pipeline is not None or source.registry is None:
            return source.pipeline
        return source.registry.get(source.name, stored.summary.pipeline_version) or source.registry.latest(source.name)


async def _check_free(backend: StateBackend, run_id: str) -> None:
    try:
        claims = await backend.read_claims([run_id])
    except NotSupportedError:
        return
    if run_id in claims:
        claims[run_id].check_free(datetime.now(UTC))


def _in_memory() -> StateBackend:
    from flujo_lens.state.backends.memory import InMemoryBackend

    return InMemoryBackend()


def _to_the_end(
    name: str, make: Callable[[], Coroutine[Any, Any, PipelineResult[ContextT]]]
) -> PipelineResult[ContextT]:
    """Run a coroutine outside of an event loop."""
    if loop_runs():
        raise UsageError(f"{name}() was called inside an event loop", hint=f"await {name}_async(...)")
    return run_to_end(make())
