"""Comparing two runs: their steps side by side, contexts, metadata and the shapes of their pipelines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any, NamedTuple

from flujo_lens.errors import NotSupportedError
from flujo_lens.operations.document_changes import Change, changes
from flujo_lens.operations.runs import read_run, steps_with_current
from flujo_lens.state.backends.base import JSONObject, StateBackend
from flujo_lens.state.views import RunDetail, RunSummary, StepRecord

_UNFINISHED = frozenset({"running", "stale", "paused"})
_COMPARED = ("status", "input", "output", "error")
_LONGEST_ALIGNED = 2_000
"""Up to this many steps are aligned by their names; longer histories by their positions."""

_FACTS = ("pipeline", "version", "format")
"""Fields of a manifest that are compared as facts of the run."""


class Side(NamedTuple):
    """One of the two runs.

    Attributes:
        manifest_digest: The digest of its manifest; None if it has none.
        manifest: The shape of its pipeline; None if it is not stored.
    """

    detail: RunDetail
    manifest_digest: str | None = None
    manifest: JSONObject | None = None

    @property
    def run(self) -> RunSummary:
        """Its summary."""
        return self.detail.run

    @property
    def context(self) -> Any:
        """Its context; None if no state is stored."""
        return None if self.detail.state is None else self.detail.state.get("pipeline_context")


class StepPair(NamedTuple):
    """A step of both runs, or of one of them.

    Attributes:
        left, right: The executions; None where the run has none.
        differs: What differs: ``status``, ``input``, ``output``, ``error``, or ``missing`` if one run has no such step.
    """

    left: StepRecord | None
    right: StepRecord | None
    differs: tuple[str, ...] = ()

    @property
    def step_name(self) -> str:
        """The name of the step."""
        found = self.left or self.right
        assert found is not None
        return found.step_name


class RunDiff(NamedTuple):
    """What differs between two runs. Times, costs and tokens are shown, but are no differences.

    Attributes:
        left, right: The runs.
        steps: The steps, aligned by name.
        context, metadata, manifest: Differences by path; None where one of the runs has nothing to compare.
    """

    left: Side
    right: Side
    steps: tuple[StepPair, ...]
    context: tuple[Change, ...] | None
    metadata: tuple[Change, ...]
    manifest: tuple[Change, ...] | None

    @property
    def first(self) -> int | None:
        """The index of the first pair of steps that differs; None if none does."""
        return next((at for at, pair in enumerate(self.steps) if pair.differs), None)

    @property
    def differs(self) -> tuple[str, ...]:
        """What differs: fields of the run, ``steps``, ``context``, ``metadata``, ``manifest``."""
        names = ("pipeline_name", "pipeline_version", "status")
        found = [name for name in names if getattr(self.left.run, name) != getattr(self.right.run, name)]
        parts = {"steps": self.first is not None, "context": self.context, "metadata": self.metadata}
        return (*found, *(name for name, there in {**parts, "manifest": self.manifest}.items() if there))

    def changes(self, left: Any, right: Any) -> list[Change]:
        """The differences between a value of the left run and one of the right run, by path."""
        return _changes(self.left, self.right, left, right)

    @property
    def shapes(self) -> tuple[JSONObject, JSONObject]:
        """The shapes of the pipelines as they were compared; empty where one is not stored."""
        return _shapes(self.left.manifest or {}, self.right.manifest or {})


async def read_side(backend: StateBackend, text: str, unescaped: str | None = None) -> Side:
    """Read the run that `text` names (see `flujo_lens.operations.runs.resolve_run`) with its manifest."""
    detail = await read_run(backend, text, unescaped)
    try:
        digest = await backend.manifest_of(detail.run.run_id)
        manifest = None if digest is None else await backend.get_manifest(digest)
    except NotSupportedError:
        return Side(detail)
    return Side(detail, digest, manifest)


def compare(left: Side, right: Side) -> RunDiff:
    """Compare two runs."""
    context: tuple[Change, ...] | None = None
    manifest: tuple[Change, ...] | None = None
    if left.detail.state is not None and right.detail.state is not None:
        context = tuple(_changes(left, right, left.context, right.context))
    if left.manifest is not None and right.manifest is not None:
        manifest = tuple(_changes(left, right, *_shapes(left.manifest, right.manifest)))
    pairs = _aligned(steps_with_current(left.detail), steps_with_current(right.detail))
    steps = tuple(_paired(left, right, pair) for pair in pairs)
    metadata = tuple(_changes(left, right, left.run.metadata, right.run.metadata))
    return RunDiff(left, right, steps, context, metadata, manifest)


def _changes(left: Side, right: Side, one: Any, two: Any) -> list[Change]:
    """The differences between values of two runs. That each holds the id of its own run is none."""
    ids = (left.run.run_id, right.run.run_id)
    return list(changes(one, two, lambda a, b: (a, b) == ids))


def _paired(left: Side, right: Side, pair: StepPair) -> StepPair:
    """The pair with what differs."""
    if pair.left is None or pair.right is None:
        return pair._replace(differs=("missing",))
    if _UNFINISHED & {pair.left.status, pair.right.status}:  # one has no output yet
        return pair._replace(differs=() if pair.left.status == pair.right.status else ("status",))
    both = [(name, getattr(pair.left, name), getattr(pair.right, name)) for name in _COMPARED]
    return pair._replace(differs=tuple(name for name, one, two in both if _changes(left, right, one, two)))


def _aligned(left: Sequence[StepRecord], right: Sequence[StepRecord]) -> Iterator[StepPair]:
    if max(len(left), len(right)) > _LONGEST_ALIGNED:
        yield from _by_position(left, right)
        return
    names = [step.step_name for step in left], [step.step_name for step in right]
    for what, at, end, there, stop in SequenceMatcher(None, *names, autojunk=False).get_opcodes():
        if what == "equal":
            yield from map(StepPair, left[at:end], right[there:stop])
        else:
            yield from (StepPair(step, None) for step in left[at:end])
            yield from (StepPair(None, step) for step in right[there:stop])


def _by_position(left: Sequence[StepRecord], right: Sequence[StepRecord]) -> Iterator[StepPair]:
    for at in range(max(len(left), len(right))):
        one, two = left[at] if at < len(left) else None, right[at] if at < len(right) else None
        if one is None or two is None or one.step_name == two.step_name:
            yield StepPair(one, two)
        else:
            yield from (StepPair(one, None), StepPair(None, two))


def _shapes(left: JSONObject, right: JSONObject) -> tuple[JSONObject, JSONObject]:
    """Two manifests with their steps by name, so that one more of them is one difference, and with the common order."""
    names = _step_names(left), _step_names(right)
    if names[0] is None or names[1] is None:
        return _without_facts(left), _without_facts(right)
    common = set(names[0]) & set(names[1])
    return _by_name(left, common), _by_name(right, common)


def _without_facts(manifest: Mapping[str, Any]) -> JSONObject:
    return {name: value for name, value in manifest.items() if name not in _FACTS}


def _step_names(manifest: Mapping[str, Any]) -> list[str] | None:
    """The names of the steps; None if they do not tell one step from the other."""
    steps = manifest.get("steps")
    if not isinstance(steps, list) or not all(isinstance(step, Mapping) and "name" in step for step in steps):
        return None
    names = [str(step["name"]) for step in steps]
    return names if len(set(names)) == len(names) else None


def _by_name(manifest: Mapping[str, Any], common: set[str]) -> JSONObject:
    steps = {str(step["name"]): {k: v for k, v in step.items() if k != "name"} for step in manifest["steps"]}
    return {**_without_facts(manifest), "steps": steps, "order": [name for name in steps if name in common]}
