"""`Flujo`: runs a pipeline so that another process can go on where this one stopped."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, Generic, overload

from flujo_lens.errors import NotSupportedError, RunNotFoundError, UsageError
from flujo_lens.runner.answers import NO_ANSWER, Reply
from flujo_lens.runner.context import PipelineContext, make_context
from flujo_lens.runner.dsl import Pipeline, Step
from flujo_lens.runner.event_loops import loop_runs, run_to_end
from flujo_lens.runner.execution import Answer, Execution
from flujo_lens.runner.interrupts import terminable
from flujo_lens.runner.lease import RunLease, lease_of
from flujo_lens.runner.registry import PipelineRegistry
from flujo_lens.runner.results import ContextT, PipelineResult, ReadyResult
from flujo_lens.runner.resume_point import Code, Fitted, Source, fit
from flujo_lens.runner.run_record import Record, new_run_id
from flujo_lens.runner.stored_run import Stored, load
from flujo_lens.runner.value_checks import checked_answer
from flujo_lens.state.backends.base import JSONObject, StateBackend

__all__ = ["Flujo"]

_SILENT = Reply()


class Flujo(Generic[ContextT]):
    """Runs a pipeline, and saves after every step.

    The state, the run, its steps and its spans are saved together after each step, so that a step runs once unless
    the process dies inside that very step. What a run was started with and the shape of its pipeline are kept with
    it; before it goes on, the shape is compared with that of the code.

    One process works on a run at a time: it holds a claim with a lease, and gives signs while its steps run. A
    holder on this machine whose process is gone is replaced at once, any other after its lease. A process that is
    ended by Ctrl-C or SIGTERM leaves its run failed, "interrupted"; it goes on at the step that was cut off.

    The store is the caller's: nothing here closes it.

    Args:
        pipeline: What to run. Or it is looked up by name:
        registry: Where the pipeline is registered. A stored run goes on with the version that it began with, as
            long as that is registered.
        pipeline_name: Its name.
        pipeline_version: Its version; ``latest`` is the newest that is registered.
        state_backend: The store; by default one that lives as long as this runner.
        context_model: The type of the context, a subclass of `PipelineContext`.
        initial_context_data: Values of fields of the context, for every run that begins.
        lease: Seconds that a claim is good for without a sign; by default what ``LENS_LEASE`` says, else 30.

    Raises:
        ConfigError: the lease is no length of time.
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
        """Start a run, or go on with the one that the store has under `run_id`.

        A run that is completed or cancelled gives its stored result, and runs nothing. One that waits for a person
        comes back paused, with its question. One that failed goes on at the step that failed, one whose process
        died at the step that was not saved.

        Args:
            initial_input: The input of the first step; of a run that goes on, the stored one counts, and a warning
                is logged where this is another.
            run_id: The id of the run, which the context gets too; by default that of `initial_context_data`, else
                a new one.
            initial_context_data: Values of fields of the context, for a run that begins.
            metadata: What to find the run by, for one that begins.

        Returns:
            The run, as far as it went. A step that fails is no exception: see `PipelineResult.status`.

        Raises:
            RunHeldError: another process works on it.
            LostClaimError: another process has taken it over meanwhile.
            StateIncompatibilityError: it does not fit the code. Nothing was changed.
            UsageError: it is of another pipeline, its context cannot be made, or `run_id` is empty.
        """
        data = {**self._initial, **(initial_context_data or {})}
        wanted = run_id if run_id is not None else data.get("run_id") or None
        if wanted == "":
            raise UsageError("a run needs an id: run_id is empty", hint="leave run_id out, and the run gets a new one")
        stored = None if wanted is None else await load(self.state_backend, wanted)
        if stored is not None:
            if "initial_prompt" not in data:
                stored.compare_input(initial_input)
            return await self._continue(stored, given=initial_input)
        record, code = self._begun(new_run_id() if wanted is None else wanted, initial_input, data, metadata)
        with terminable():
            async with RunLease(self.state_backend, record.run_id, self.lease) as holding:
                stored = None if wanted is None else await load(self.state_backend, wanted)
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
        """Go on with a run, as a rule with the answer of the person for whom it waits.

        Outside of an event loop it has gone on when this returns, and what it returns is the result itself, which
        may be awaited too.

        Args:
            paused: What `run_async` returned, or a run id. A result that is older than what the store has is
                refused: the answer would go to another question. One that is completed comes back as it is stored.
                With a run id, `question` or `step` says which question was read; an answer that does not say so is
                taken for the first question of a run alone.
            human_input: The answer; checked against the step's input schema before anything is changed. Without
                it the run goes on as by `run_async`.
            step: The step that the answer is for: a run that does not wait there is refused.
            question: The token of the question that was read, `PipelineResult.question`: a run that asks another one,
                at the same step too, is refused.

        Raises:
            InvalidAnswerError: the answer does not fit.
            NotWaitingError: the run does not wait for this answer.
            RunNotFoundError: the store has no such run.
            RunHeldError, LostClaimError, StateIncompatibilityError, UsageError: as `run_async`.
        """
        if loop_runs():
            return self._resume(paused, human_input, step, question)
        return ReadyResult.of(run_to_end(self._resume(paused, human_input, step, question)))

    # --- going on

    async def _resume(
        self, paused: PipelineResult[ContextT] | str, human_input: Any, step: str | None, question: str | None
    ) -> PipelineResult[ContextT]:
        run_id = paused if isinstance(paused, str) else paused.run_id
        stored = await load(self.state_backend, run_id)
        if stored is None:
            raise RunNotFoundError(f"there is no state of {run_id} in the store", hint="lens list", run_id=run_id)
        if isinstance(paused, str):
            return await self._continue(stored, reply=Reply(human_input, None, step, question))
        # A script that is run again has the finished run in its hands, and nobody's question.
        reply = Reply() if paused.success else Reply(human_input, paused, step, question)
        return await self._continue(stored, reply=reply)

    async def _continue(self, stored: Stored, *, given: Any = None, reply: Reply = _SILENT) -> PipelineResult[ContextT]:
        """Go on with a run if it can: looked at before it is claimed, so that a refusal writes nothing; and after."""
        self.source.check_is_ours(stored)
        if stored.status == "running":
            await _check_free(self.state_backend, stored.run_id)
        prepared = await self._prepared(stored, given, reply)
        if prepared is None:
            return stored.result(self.context_model, self._code_of(stored))
        with terminable():
            async with RunLease(self.state_backend, stored.run_id, self.lease) as holding:
                found = await load(self.state_backend, stored.run_id)
                if found is None:
                    raise RunNotFoundError(f"{stored.run_id} was deleted meanwhile", run_id=stored.run_id)
                prepared = await self._prepared(found, given, reply)
                if prepared is None:
                    return found.result(self.context_model, self._code_of(found))
                fitted, answer = prepared
                return await self._execute(fitted.record, fitted.code, holding, answer)

    async def _prepared(
        self, stored: Stored, given: Any, reply: Reply
    ) -> tuple[Fitted[ContextT], Answer | None] | None:
        """The run as it goes on, with the answer; None if it does not go on by itself, and there is no answer.

        Raises:
            NotWaitingError: there is an answer, and the run does not wait for it.
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
        """The digest of the manifest, which is in the store then; None where the store keeps none."""
        if code.digest not in self._manifests:
            try:
                await self.state_backend.put_manifest(code.digest, code.manifest)
            except NotSupportedError:
                return None
            self._manifests.add(code.digest)
        return code.digest

    def _code_of(self, stored: Stored) -> Pipeline | None:
        """The pipeline that tells the types of a run that does not go on; None if there is none."""
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
    """Run a coroutine, outside of an event loop."""
    if loop_runs():
        raise UsageError(f"{name}() was called inside an event loop", hint=f"await {name}_async(...)")
    return run_to_end(make())
