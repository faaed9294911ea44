"""Finds the code and the position at which a stored run resumes; refuses incompatible runs."""

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
from flujo_lens.state.manifests import is_readable

if TYPE_CHECKING:
    from pydantic import BaseModel


class Code(NamedTuple):
    """A pipeline with its name, version and manifest."""

    pipeline: Pipeline
    name: str
    version: str
    manifest: JSONObject
    digest: str

    @classmethod
    def of(cls, pipeline: Pipeline, name: str, version: str, model: type[BaseModel]) -> Code:
        """The code, with its manifest for the context model `model`."""
        manifest = manifest_of(pipeline, name, version, model)
        return cls(pipeline, name, version, manifest, digest_of(manifest))


class Source(NamedTuple):
    """The source of a runner's code: a pipeline, or a registry."""

    pipeline: Pipeline | None
    registry: PipelineRegistry | None
    name: str
    version: str

    def for_new(self) -> tuple[Pipeline, str]:
        """The pipeline for a new run, and its version.

        Raises:
            UsageError: the runner has no pipeline, or it is not registered.
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
        """The pipeline for a stored run: the version that it was started with, if that is registered.

        Raises:
            UsageError: the run is of another pipeline.
            StateIncompatibilityError: neither its version nor the runner's own is registered.
        """
        self.check_is_ours(stored)
        return self.for_place(stored.run_id, stored.place())

    def check_is_ours(self, stored: Stored) -> None:
        """Check that a run belongs to this pipeline, by name: a run id belongs to one pipeline.

        Without a known name, an ended run belongs to another pipeline if none of its steps is in this one. For other
        runs, `fit` decides.

        Raises:
            UsageError: the run is of another pipeline.
        """
        theirs = stored.summary.pipeline_name
        if not self.is_for(theirs):
            raise UsageError(
                f'{stored.run_id} is a run of the pipeline "{theirs}", not of "{self.name}"',
                hint=f"a run id belongs to one pipeline: use another run id, or pipeline_name={theirs!r}",
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
                "is in this one",
                hint="a run id belongs to one pipeline: use another run id, and different names for the pipelines",
                run_id=stored.run_id,
                pipeline_name=theirs,
            )

    def is_for(self, theirs: str) -> bool:
        """Whether runs of the pipeline `theirs` can resume with it. An unknown name matches any."""
        return NAMELESS[1] in (theirs, self.name) or theirs == self.name

    def for_place(self, run_id: str, place: Place) -> tuple[Pipeline, str]:
        """The pipeline for runs at a position.

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
        """`for_stored` with its manifest; without a name, under the name in the run."""
        pipeline, version = self.for_stored(stored)
        return Code.of(pipeline, self.named(stored.summary.pipeline_name), version, model)

    def named(self, theirs: str) -> str:
        """The name of the pipeline in the code, else in the runs."""
        return theirs if self.name in NAMELESS else self.name

    def judge(self, saved: JSONObject | None, code: Code, place: Place) -> Verdict:
        """The verdict on runs at a position, used by resuming and checking.

        Args:
            saved: The manifest of the runs; None if the store has none.
            code: The current code.
            place: The position.
        """
        readable = saved is not None and "version" in saved
        known = self.migrations(saved["version"], code.version) if saved and readable else None
        return assess(saved, code.manifest, place, migrations=known)

    def migrations(self, old: str, new: str) -> tuple[MigrationFunction, ...] | None:
        """The registered migrations of a saved context between two versions."""
        return None if self.registry is None else self.registry.migrations(self.name, old, new)


class Fitted(NamedTuple, Generic[ContextT]):
    """A stored run that can resume.

    Attributes:
        record: The run at its position in the code.
        waiting: The index of its current step.
    """

    record: Record[ContextT]
    code: Code
    waiting: int
    verdict: Verdict


async def fit(
    backend: StateBackend, source: Source, stored: Stored, model: type[ContextT], given: Any = None
) -> Fitted[ContextT]:
    """Find whether and where a stored run can resume. Writes nothing.

    Args:
        backend: The store, with the manifest of the run.
        model: The type of the context.
        given: The input of the run, used if it is before its first step and the store does not have the input.

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
        saved = await backend.get_manifest(digest)
    except NotSupportedError:
        return None
    return saved if saved is not None and is_readable(saved) else None


def _unknown_fields(stored: Stored, model: type[BaseModel]) -> JSONObject:
    """The saved fields that are not in the model, which another context model may have."""
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
    """The saved context, migrated to the version of the code. The stored context is not changed.

    Raises:
        StateIncompatibilityError: a migration failed, the code cannot read its result, or a value needed by the next
            steps was not saved.
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
    """The difference for a placeholder in place of a value needed by the next steps.

    `context` has only fields of the code's model; other saved fields are kept, but not visible to steps.
    """
    steps, index = code.pipeline.steps, verdict.next_index
    if index is not None and index < len(steps) and steps[index].kind != HUMAN:
        found = lost_in(stored.value(None))
        if found is not None:
            template = 'the input of step "{0}" was not saved: {2} has the placeholder {1}'
            return Difference(
                "input-lost", steps[index].name, found[1], None, template.format(steps[index].name, *reversed(found))
            )
    found = lost_in(context)
    if found is None:
        return None
    sentence = f"a value of the context was not saved: {found[0]} has the placeholder {found[1]}"
    return Difference("value-lost", None, found[1], None, sentence)


def _unfit(error: MigrationError | InvalidStateError) -> Difference:
    """The difference that prevents loading a context."""
    details = error.details if isinstance(error, InvalidStateError) else {}
    kind = "context-unreadable"
    if details.get("kind") is not None:
        kind = "deserializer-failed" if details["raised"] else "deserializer-missing"
    raised, missing = _kinds(details.get("kind"), details.get("raised", False))
    return Difference(kind, details.get("field"), raised, missing, str(error))


def _kinds(kind: str | None, raised: bool) -> tuple[str | None, str | None]:
    """The class whose deserializer failed, or the one without a deserializer."""
    return (kind, None) if raised else (None, kind)


def _unreadable_input(stored: Stored, code: Code, verdict: Verdict) -> Difference | None:
    """The difference if the input of the next step cannot be deserialized."""
    steps, index = code.pipeline.steps, verdict.next_index
    if index is None or index >= len(steps) or steps[index].kind == HUMAN:
        return None
    if stored.state.get("last_step_output") is None and not stored.done:
        return None  # the caller passes it again
    try:
        typed(stored.value(None), *_hints(code, index))
    except UnreadableValueError as error:
        name = steps[index].name
        sentence = f'the input of step "{name}" cannot be deserialized: {error}'
        return Difference("input-unreadable", name, *_kinds(error.kind, error.raised), sentence)
    return None


def _hints(code: Code, index: int) -> tuple[Any, Any]:
    """The annotations of the input of a step: of the previous output, and of its parameter."""
    steps = code.pipeline.steps
    before = steps[index - 1].output_type if index else None
    return before, steps[index].input_type if index < len(steps) else None


def _record(stored: Stored, code: Code, index: int, context: ContextT, given: Any) -> Record[ContextT]:
    paused_at = stored.summary.updated_at
    done = stored.done
    tries = stored.tries_of(code.pipeline.steps[index].name) if index < len(code.pipeline.steps) else 0
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
        tried={index: tries},
    )
