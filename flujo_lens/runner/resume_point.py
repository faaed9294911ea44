"""Finds the code that a stored run goes on with, and the place in it; refuses what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple

from flujo_lens.errors import InvalidStateError, NotSupportedError, UsageError, nearest
from flujo_lens.runner.context import field_of, load_context, without_notes
from flujo_lens.runner.differences import Difference
from flujo_lens.runner.dsl import HUMAN, Pipeline
from flujo_lens.runner.incompatibility import StateIncompatibilityError, migration_failed, not_registered
from flujo_lens.runner.manifests import digest_of, manifest_of
from flujo_lens.runner.migrations import MigrationError, MigrationFunction, migrated
from flujo_lens.runner.registry import PipelineRegistry
from flujo_lens.runner.results import ContextT
from flujo_lens.runner.run_record import Record
from flujo_lens.runner.stored_run import Stored
from flujo_lens.runner.value_checks import UnreadableValueError, restored, typed
from flujo_lens.runner.verdicts import Place, Verdict, assess
from flujo_lens.serialization import PlainList, lost_in, safe_serialize
from flujo_lens.state.backends.base import JSONObject, StateBackend
from flujo_lens.state.interpret import NAMELESS

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["Code", "Fitted", "Source", "fit", "fitting_context"]


class Code(NamedTuple):
    """A pipeline under its name and version, with its manifest."""

    pipeline: Pipeline
    name: str
    version: str
    manifest: JSONObject
    digest: str

    @classmethod
    def of(cls, pipeline: Pipeline, name: str, version: str, model: type[BaseModel]) -> Code:
        """The code with its manifest for contexts of the type `model`."""
        manifest = manifest_of(pipeline, name, version, model)
        return cls(pipeline, name, version, manifest, digest_of(manifest))


class Source(NamedTuple):
    """Where the code of a runner comes from: one pipeline, or a registry that is asked for it."""

    pipeline: Pipeline | None
    registry: PipelineRegistry | None
    name: str
    version: str

    def for_new(self) -> tuple[Pipeline, str]:
        """The pipeline for a run that begins, and its version.

        Raises:
            UsageError: there is no pipeline, or it is not registered.
        """
        if self.pipeline is not None:
            return self.pipeline, self.version
        if self.registry is None:
            raise UsageError(
                "the runner has no pipeline",
                hint="Flujo(pipeline, ...), or Flujo(registry=..., pipeline_name=...)",
            )
        return self.registry.find(self.name, self.version)

    def for_stored(self, stored: Stored) -> tuple[Pipeline, str]:
        """The pipeline for a run that goes on: the version that it began with, as long as that is registered.

        Raises:
            UsageError: the run is of another pipeline.
            StateIncompatibilityError: neither its version nor the runner's own is registered.
        """
        self.check_is_ours(stored)
        return self.for_place(stored.run_id, stored.place())

    def check_is_ours(self, stored: Stored) -> None:
        """See that a run, wherever it stands, is one of this pipeline: a run id belongs to one pipeline, by name.

        Where a name is not known, the steps of one at its end tell: if none of them is of this pipeline, it is of
        another. Of one that may go on `fit` finds out.

        Raises:
            UsageError: the run is of another pipeline.
        """
        theirs = stored.summary.pipeline_name
        if not self.is_for(theirs):
            raise UsageError(
                f'{stored.run_id} is a run of the pipeline "{theirs}", not of "{self.name}"',
                hint=f"a run id belongs to one pipeline: give this run another; the other is pipeline_name={theirs!r}",
                run_id=stored.run_id,
                pipeline_name=theirs,
            )
        done = {str(entry.get("name")) for entry in stored.done}
        is_named = NAMELESS[1] not in (theirs, self.name)
        if is_named or not done or self.pipeline is None or stored.status not in ("completed", "cancelled"):
            return
        if not done & {name for step in self.pipeline.steps for name in (step.name, *step.aliases)}:
            raise UsageError(
                f'{stored.run_id} is a run of another pipeline: none of its steps ("{next(iter(sorted(done)))}", ...) '
                "is one of this one's",
                hint="a run id belongs to one pipeline: give this run another, and the pipelines names of their own",
                run_id=stored.run_id,
                pipeline_name=theirs,
            )

    def is_for(self, theirs: str) -> bool:
        """Whether runs of the pipeline `theirs` may go on with it. A name that is not known fits any."""
        return NAMELESS[1] in (theirs, self.name) or theirs == self.name

    def for_place(self, run_id: str, place: Place) -> tuple[Pipeline, str]:
        """The pipeline for a run, or for many, that stand at a place.

        Raises:
            StateIncompatibilityError: neither their version nor the runner's own is registered.
        """
        if self.registry is None or self.pipeline is not None:
            return self.for_new()
        for wanted in (place.version or "latest", self.version):
            if self.registry.get(self.name, wanted) is not None:
                return self.registry.find(self.name, wanted)
        near = nearest(self.name, self.registry.names())
        raise not_registered(run_id, place, self.name, self.registry.versions(self.name), near)

    def code_for(self, stored: Stored, model: type[BaseModel]) -> Code:
        """`for_stored` with its manifest, under the name that the run has if there is no other."""
        pipeline, version = self.for_stored(stored)
        return Code.of(pipeline, self.named(stored.summary.pipeline_name), version, model)

    def named(self, theirs: str) -> str:
        """The pipeline's name; where the code has none, that of the runs."""
        return theirs if self.name in NAMELESS else self.name

    def judge(self, saved: JSONObject | None, code: Code, place: Place) -> Verdict:
        """The verdict on a run, or on many, that stand at a place: for one that goes on, and for a check before.

        Args:
            saved: The manifest that they were started with; None if the store has none.
            code: What they would go on with.
            place: Where they stand.
        """
        readable = saved is not None and "version" in saved
        known = self.migrations(saved["version"], code.version) if saved and readable else None
        return assess(saved, code.manifest, place, migrations=known)

    def migrations(self, old: str, new: str) -> tuple[MigrationFunction, ...] | None:
        """What is registered to lead a saved context from one version to another."""
        return None if self.registry is None else self.registry.migrations(self.name, old, new)


class Fitted(NamedTuple, Generic[ContextT]):
    """A stored run that may go on.

    Attributes:
        record: The run, as it stands under the code.
        code: That code.
        waiting: Index of the step at which it stands.
        verdict: Why it may.
    """

    record: Record[ContextT]
    code: Code
    waiting: int
    verdict: Verdict


async def fit(
    backend: StateBackend, source: Source, stored: Stored, model: type[ContextT], given: Any = None
) -> Fitted[ContextT]:
    """See whether a stored run may go on, and where. Nothing is written.

    Args:
        backend: The store, which is asked for the shape that the run was started with.
        source: The code.
        stored: The run.
        model: The type of the context.
        given: The input of the run, in case that it stands before its first step and the store does not tell it.

    Raises:
        StateIncompatibilityError: it does not fit the code.
        UsageError: it is of another pipeline.
    """
    code, place = source.code_for(stored, model), stored.place()
    saved = await _saved_manifest(backend, stored.run_id, code)
    verdict = source.judge(saved, code, place)
    if verdict.next_index is None:
        raise StateIncompatibilityError(
            stored.run_id,
            verdict,
            saved=saved,
            current=code.manifest,
            place=place,
            pipeline=code.name,
            saved_at=stored.summary.updated_at,
            database=_file_of(backend),
        )
    context = fitting_context(stored, model, verdict, saved, code, place)
    record = _record(stored, code, verdict.next_index, context, given)
    if not verdict.migrations:
        record.carried = _unknown_fields(stored, model)
    waiting = verdict.next_index if verdict.waiting_index is None else verdict.waiting_index
    return Fitted(record, code, waiting, verdict)


async def _saved_manifest(backend: StateBackend, run_id: str, code: Code) -> JSONObject | None:
    try:
        digest = await backend.manifest_of(run_id)
        if digest is None or digest == code.digest:
            return None if digest is None else code.manifest
        return await backend.get_manifest(digest)
    except NotSupportedError:
        return None


def _unknown_fields(stored: Stored, model: type[BaseModel]) -> JSONObject:
    """What the saved context has and the model does not: another model of it may."""
    saved = without_notes(stored.context, model)
    return {name: value for name, value in saved.items() if field_of(name, model) is None}


def _file_of(backend: StateBackend) -> str | None:
    path = getattr(backend, "db_path", None)
    return path.name if isinstance(path, Path) else None


def fitting_context(
    stored: Stored,
    model: type[ContextT],
    verdict: Verdict,
    saved: JSONObject | None,
    code: Code,
    place: Place,
) -> ContextT:
    """The saved context, brought to the version of the code. What is stored stays as it is.

    Raises:
        StateIncompatibilityError: a migration does not work, or the code cannot read what comes of it; or a value
            that the next steps would get was not kept.
    """
    data = without_notes(stored.context, model)
    try:
        ready = migrated(data, verdict.migrations)
        seen = {name: value for name, value in ready.items() if field_of(name, model) is not None}
        lost = _lost(stored, code, verdict, seen) or _unreadable_input(stored, code, verdict)
        if lost is not None:
            refused = Verdict("broken", "LENS-C10", (lost,), None)
            raise StateIncompatibilityError(
                stored.run_id, refused, saved=saved, current=code.manifest, place=place, pipeline=code.name
            )
        return load_context(ready, model, stored.run_id)
    except (MigrationError, InvalidStateError) as error:
        if saved is not None and verdict.migrations:
            raise migration_failed(
                stored.run_id, error.args[0], saved=saved, current=code.manifest, place=place
            ) from error
        unfit = _unfit(error)
        refused = Verdict("needs-migration", "LENS-C5", (unfit,), None)
        raise StateIncompatibilityError(
            stored.run_id, refused, saved=saved, current=code.manifest, place=place, pipeline=code.name
        ) from error


def _lost(stored: Stored, code: Code, verdict: Verdict, context: JSONObject) -> Difference | None:
    """A mark that stands where the next step, or any, would look for a value.

    `context` is what the code's model has fields for: what else was saved is carried on, and no step sees it.
    """
    steps, index = code.pipeline.steps, verdict.next_index
    if index is not None and index < len(steps) and steps[index].kind != HUMAN:
        found = lost_in(stored.value(None))
        if found is not None:
            told = 'the input of step "{0}" was not kept when it was saved: {1} stands at {2}'
            return Difference(
                "input-lost", steps[index].name, found[1], None, told.format(steps[index].name, *reversed(found))
            )
    found = lost_in(context)
    if found is None:
        return None
    told = f"a value of the context was not kept when it was saved: {found[1]} stands at {found[0]}"
    return Difference("value-lost", None, found[1], None, told)


def _unfit(error: MigrationError | InvalidStateError) -> Difference:
    """What keeps a context from being loaded."""
    details = error.details if isinstance(error, InvalidStateError) else {}
    kind = "context-unreadable"
    if details.get("kind") is not None:
        kind = "deserializer-failed" if details["raised"] else "deserializer-missing"
    raised, missing = _kinds(details.get("kind"), details.get("raised", False))
    return Difference(kind, details.get("field"), raised, missing, str(error))


def _kinds(kind: str | None, raised: bool) -> tuple[str | None, str | None]:
    """The class whose deserializer failed, and the one that has none."""
    return (kind, None) if raised else (None, kind)


def _unreadable_input(stored: Stored, code: Code, verdict: Verdict) -> Difference | None:
    """Why the value that the next step gets cannot be made again."""
    steps, index = code.pipeline.steps, verdict.next_index
    if index is None or index >= len(steps) or steps[index].kind == HUMAN:
        return None
    if stored.state.get("last_step_output") is None and not stored.done:
        return None  # it is given again
    try:
        typed(stored.value(None), *_hints(code, index))
    except UnreadableValueError as error:
        name = steps[index].name
        told = f'the input of step "{name}" cannot be made again: {error}'
        return Difference("input-unreadable", name, *_kinds(error.kind, error.raised), told)
    return None


def _hints(code: Code, index: int) -> tuple[Any, Any]:
    """The annotations that tell the type of what a step gets: of the output before it, and of its own input."""
    steps = code.pipeline.steps
    before = steps[index - 1].output_type if index else None
    return before, steps[index].input_type if index < len(steps) else None


def _record(stored: Stored, code: Code, index: int, context: ContextT, given: Any) -> Record[ContextT]:
    paused_at = stored.summary.updated_at
    done = stored.done
    return Record(
        run_id=stored.run_id,
        name=code.name,
        version=code.version,
        pipeline=code.pipeline,
        context=context,
        value=restored(stored.value(given), *_hints(code, index)),
        index=index,
        results=[each for each in stored.results() if each.success],
        history=PlainList(safe_serialize(done)),
        asked=stored.summary.pause_message,
        asked_at=paused_at.timestamp() if paused_at else None,
        began=stored.began,
        kept=dict(stored.state),
    )
