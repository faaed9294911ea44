"""Checking whether stored runs would resume under some code: one verdict for all runs at one position of one shape.

It is the same verdict that decides when a run is resumed: both use `flujo_lens.runner.resume_point.Source`. Nothing is
written, and no step runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from flujo_lens.errors import LensError, NotSupportedError, nearest
from flujo_lens.operations.runs_in_flight import Inflight, manifest
from flujo_lens.runner.application_code import application_code
from flujo_lens.runner.differences import Difference
from flujo_lens.runner.incompatibility import StateIncompatibilityError, not_registered
from flujo_lens.runner.remedies import Remediation
from flujo_lens.runner.resume_point import Code, Source, fitting_context
from flujo_lens.runner.stored_run import Stored, load
from flujo_lens.runner.verdicts import Place, Verdict
from flujo_lens.state.backends.base import JSONObject, StateBackend
from flujo_lens.state.fingerprint import normalise_error
from flujo_lens.state.resumable import RESUMABLE, resumable
from flujo_lens.state.views import RunFilter, RunSummary

if TYPE_CHECKING:
    from flujo_lens.runner.application import Application
    from flujo_lens.state.claims import ResumableGroup

SHAPE_MATCHES = "shape-matches"
"""The verdict on runs of an unchanged pipeline whose contexts were not read."""

VERDICTS = (
    "broken",
    "unknown",
    "needs-migration",
    "remapped",
    "names-match",
    SHAPE_MATCHES,
    "compatible",
    "identical",
)
"""All verdicts, worst first."""

_LOST = "the manifest of the runs is missing in the store; --deep compares step names"


class CheckedGroup(NamedTuple):
    """Runs that share a verdict.

    Attributes:
        pipeline_name: Their pipeline.
        step_name: The current step of the runs; None if unknown.
        status: ``paused``, ``failed`` or ``running``.
        verdict: One of `VERDICTS`.
        code: The reason why they could not resume, as `Verdict.code`; None if they could.
        runs: Number of runs.
        sample_run_id: One of the runs.
        differences: The differences, those that prevent resuming first.
        remedies: Lossless changes of the code, best first.
        manifest: The digest of their manifest; None without one.
    """

    pipeline_name: str
    pipeline_version: str
    step_name: str | None
    status: str
    verdict: str
    code: str | None
    runs: int
    sample_run_id: str
    differences: tuple[Difference, ...] = ()
    remedies: tuple[Remediation, ...] = ()
    manifest: str | None = None


class CheckReport(NamedTuple):
    """The checked groups, worst verdict first, then by number of runs."""

    groups: tuple[CheckedGroup, ...]

    @property
    def runs(self) -> int:
        """Number of checked runs."""
        return sum(group.runs for group in self.groups)

    @property
    def stranded(self) -> int:
        """Number of runs that could not resume."""
        return sum(group.runs for group in self.groups if group.code is not None)

    @property
    def unread(self) -> int:
        """Number of runs with an unchanged pipeline and an unread context."""
        return sum(group.runs for group in self.groups if group.verdict == SHAPE_MATCHES)

    @property
    def unshaped(self) -> int:
        """Number of runs without a manifest, which were checked by names alone."""
        return sum(each.runs for each in self.groups if each.manifest is None and each.code in (None, "LENS-C6"))


class _Outcome(NamedTuple):
    """A verdict with its code; None for no code."""

    verdict: str
    code: str | None
    differences: tuple[Difference, ...]
    remedies: tuple[Remediation, ...]
    step_name: str | None

    @classmethod
    def good(cls, verdict: Verdict, step_name: str | None) -> _Outcome:
        """The outcome of runs that could resume."""
        return cls(verdict.kind, None, verdict.differences, (), step_name)

    @classmethod
    def refused(cls, error: StateIncompatibilityError) -> _Outcome:
        """The outcome of runs that could not."""
        safe = tuple(remedy for remedy in error.remediations if remedy.safe)
        return cls(error.verdict, error.code, error.differences, safe, error.waiting)

    @classmethod
    def unreadable(cls, code: str, sentence: str) -> _Outcome:
        """The outcome of unreadable runs."""
        return cls("unknown", code, (Difference("place-unclear", None, None, None, sentence),), (), None)


def check_groups(found: Inflight, application: Application) -> CheckReport:
    """Check groups of runs by their manifests, or without them, by step names.

    No context is read, so no verdict is "identical": at best the shape matches.
    """
    judge = _Judge(application)
    return _report(
        [_checked(group, judge.group(group, found.manifests.get(group.manifest or ""))) for group in found.groups]
    )


async def check_contexts(
    backend: StateBackend,
    wanted: RunFilter,
    application: Application,
    progress: Callable[[int], None] = lambda done: None,
) -> CheckReport:
    """Check every run by all its stored data: the context is migrated to the version of the code, and validated.

    Registered migrations are called on copies. Runs with the same verdict and reason form a group. A run that ends
    during the check is left out.

    Args:
        wanted: The filter; only resumable runs are checked.
        progress: Called after every run with the number of runs read.
    """
    admitted, done = resumable(wanted), 0
    deep = _Deep(backend, _Judge(application))
    if admitted is not None:
        async for run in backend.iter_runs(admitted, ordered=False):
            await deep.add(run)
            done += 1
            progress(done)
    return _report(list(deep.found.values()))


def _report(groups: Sequence[CheckedGroup]) -> CheckReport:
    def rank(group: CheckedGroup) -> tuple[bool, int, int, tuple[str, ...]]:
        texts = (group.pipeline_name, group.pipeline_version, group.status, group.step_name or "", group.sample_run_id)
        return group.code is None, VERDICTS.index(group.verdict), -group.runs, texts

    return CheckReport(tuple(sorted(groups, key=rank)))


def _checked(group: ResumableGroup, outcome: _Outcome) -> CheckedGroup:
    return CheckedGroup(
        pipeline_name=group.pipeline_name,
        pipeline_version=group.pipeline_version,
        step_name=group.step_name or outcome.step_name,
        status=group.status,
        verdict=outcome.verdict,
        code=outcome.code,
        runs=group.runs,
        sample_run_id=group.sample_run_id,
        differences=outcome.differences,
        remedies=outcome.remedies,
        manifest=group.manifest,
    )


class _Judge:
    """Computes verdicts for positions. The manifest of each version is made once."""

    def __init__(self, application: Application) -> None:
        self.application = application
        self._codes: dict[tuple[str, str | None], Code] = {}

    def group(self, group: ResumableGroup, saved: JSONObject | None) -> _Outcome:
        """The outcome for a group; `saved` is its manifest."""
        place = _place_of(group)
        if group.manifest is not None and saved is None:
            return _Outcome.unreadable("LENS-C6", _LOST)
        try:
            code, verdict = self.verdict(group.sample_run_id, group.pipeline_name, place, saved)
        except StateIncompatibilityError as error:
            return _Outcome.refused(error)
        outcome = _Outcome.good(verdict, _next_step(code, verdict))
        return outcome._replace(verdict=SHAPE_MATCHES) if verdict.kind == "identical" else outcome

    def verdict(self, run_id: str, name: str, place: Place, saved: JSONObject | None) -> tuple[Code, Verdict]:
        """The verdict on runs of a pipeline at a position, and the code it refers to.

        Raises:
            StateIncompatibilityError: they could not resume.
        """
        with application_code():  # shapes come from the application's types
            source = self.application.source_for(name)
            code = self._code(source, run_id, name, place)
            verdict = source.judge(saved, code, place)
        if not verdict.can_resume:
            raise StateIncompatibilityError(
                run_id, verdict, saved=saved, current=code.manifest, place=place, pipeline=code.name
            )
        return code, verdict

    def _code(self, source: Source, run_id: str, name: str, place: Place) -> Code:
        key = name, place.version
        if key not in self._codes:
            if not source.is_for(name):
                raise not_registered(run_id, place, name, (), nearest(name, [source.name]))
            pipeline, version = source.for_place(run_id, place)
            self._codes[key] = Code.of(pipeline, source.named(name), version, self.application.context_model)
        return self._codes[key]


def _place_of(group: ResumableGroup) -> Place:
    """The position of the runs of a group, as `Stored.place` for one run."""
    by_history = group.status == "failed" and group.manifest is None
    index = len(group.completed) if by_history else group.step_index or 0
    return Place(group.status, index, group.step_name, group.completed, group.pipeline_version)


def _next_step(code: Code, verdict: Verdict) -> str | None:
    """The name of the step that would run next."""
    steps, index = code.pipeline.steps, verdict.next_index
    return steps[index].name if index is not None and index < len(steps) else None


class _Deep:
    """Fully read runs, grouped by verdict and reason."""

    def __init__(self, backend: StateBackend, judge: _Judge) -> None:
        self.found: dict[tuple[object, ...], CheckedGroup] = {}
        self._backend, self._judge = backend, judge
        self._manifests: dict[str, JSONObject | None] = {}

    async def add(self, run: RunSummary) -> None:
        """Read and check a run."""
        digest = await self._digest(run.run_id)
        try:
            stored = await load(self._backend, run.run_id)
            if stored is not None and stored.status not in RESUMABLE:
                return
            note = (await self._backend.read_stripped([run.run_id])).get(run.run_id)
            if note is not None and not note.can_resume:
                return
            outcome = await self._outcome(stored, digest)
        except StateIncompatibilityError as error:
            stored, outcome = None, _Outcome.refused(error)
        except LensError as error:
            stored, outcome = None, _Outcome.unreadable(error.code, error.message)
        self._count(stored.summary if stored else run, digest, outcome)

    async def _digest(self, run_id: str) -> str | None:
        try:
            digest = await self._backend.manifest_of(run_id)
        except NotSupportedError:
            return None
        if digest is not None and digest not in self._manifests:
            self._manifests[digest] = await manifest(self._backend, digest)
        return digest

    async def _outcome(self, stored: Stored | None, digest: str | None) -> _Outcome:
        if stored is None:
            return _Outcome.unreadable(
                "LENS-C6", "the store has no state of it: no step was saved yet, or it was deleted"
            )
        saved = None if digest is None else self._manifests[digest]
        name, place = stored.summary.pipeline_name, stored.place()
        code, verdict = self._judge.verdict(stored.run_id, name, place, saved)
        fitting_context(stored, self._judge.application.context_model, verdict, saved, code, place)
        return _Outcome.good(verdict, _next_step(code, verdict))

    def _count(self, run: RunSummary, digest: str | None, outcome: _Outcome) -> None:
        step = run.step_name or outcome.step_name
        head = run.pipeline_name, run.pipeline_version, step, run.status, outcome.verdict, outcome.code
        key = (*head, digest, *(_reason(each, run.run_id) for each in outcome.differences))
        one = CheckedGroup(*head, 1, run.run_id, outcome.differences, outcome.remedies, digest)
        known = self.found.get(key, one._replace(runs=0))
        sample = min(known, one, key=lambda group: group.sample_run_id)
        self.found[key] = sample._replace(runs=known.runs + 1)


def _reason(difference: Difference, run_id: str) -> tuple[object, ...]:
    """The key of a difference, without what is specific to a run."""
    same = difference.kind, difference.step, difference.saved, difference.current
    return *same, normalise_error(difference.sentence.replace(run_id, ""))
