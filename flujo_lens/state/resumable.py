"""Grouping resumable runs by shape and position: the rules for all drivers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from flujo_lens.state import interpret
from flujo_lens.state.claims import ResumableGroup
from flujo_lens.state.interpret import RawRun, step_name_of
from flujo_lens.state.numbers import as_int
from flujo_lens.state.views import RunDetail, RunFilter

if TYPE_CHECKING:
    from flujo_lens.state.backends.base import StateBackend

RESUMABLE = frozenset({"running", "paused", "failed"})
"""Effective statuses of runs that have not ended."""

Entry = TypeVar("Entry", bound=Mapping[str, Any])

Place = tuple[str, str, str, int | None, str | None, str | None, tuple[str, ...]]
"""The fields of a `ResumableGroup` up to `completed`."""


def resumable(wanted: RunFilter) -> RunFilter | None:
    """`wanted` restricted to resumable runs: no ended runs or background tasks. None if none can match."""
    statuses = wanted.statuses & RESUMABLE if wanted.statuses else RESUMABLE
    if not statuses or wanted.tasks_only:
        return None
    return wanted._replace(statuses=statuses, top_level=True)


class Tally:
    """Counts runs by position."""

    def __init__(self) -> None:
        self._found: dict[Place, tuple[int, str]] = {}

    def add(self, place: Place, run_id: str, runs: int = 1) -> None:
        """Add `runs` runs at a position, including `run_id`; the smallest id is the sample."""
        count, sample = self._found.get(place, (0, run_id))
        self._found[place] = count + runs, min(sample, run_id)

    def groups(self) -> list[ResumableGroup]:
        """The groups sorted by their fields; unknown values first."""
        found = [ResumableGroup(*place, runs, sample) for place, (runs, sample) in self._found.items()]
        return sorted(found, key=lambda group: [(field is not None, field) for field in group])


def place_of(raw: RawRun, status: str, done: tuple[str, ...]) -> Place:
    """The position of a run without a manifest.

    Args:
        done: The names of the finished steps.
    """
    waiting = stands_at(status, step_name_of(raw, status), raw.mapping("context"), done)
    return (*interpret.named(raw), status, as_int(raw.step_index), waiting, None, done)


def completed_of(raw: RawRun, status: str) -> tuple[str, ...] | None:
    """The names of the finished steps in the step history; None without a history."""
    if not isinstance(raw.read("history"), list):
        return None
    return tuple(str(entry.get("name")) for entry in done_before(status, raw.steps()))


def done_before(status: str, history: Sequence[Entry]) -> list[Entry]:
    """The entries of the finished steps in a step history, for a run with this effective status.

    A restarted library continues after a failed step: for a failed run, only the steps before the failure are
    finished; a waiting run has passed it.
    """
    if status == "paused":
        return list(history)
    failures = [at for at, entry in enumerate(history) if entry.get("success") is False]
    if status == "failed" and failures:
        return list(history[: failures[0]])
    return [entry for entry in history if entry.get("success") is not False]


def stands_at(status: str, step: str | None, context: Mapping[str, Any], done: Sequence[str]) -> str | None:
    """The current step of a run in its pipeline; None if unknown.

    Args:
        step: The displayed step, which may be inside a loop.
        context: The saved context, in which 0.6.11 names the step of the pipeline, or the last finished one of a
            killed run.
        done: The names of the finished steps.
    """
    if status == "running" and done and step == done[-1]:
        return None
    outer = context.get("current_step")
    is_inside = (
        status == "paused" and isinstance(outer, str) and outer and context.get("loop_resume_requires_hitl_output")
    )
    return outer if is_inside else step


def step_at(manifest: Mapping[str, Any] | None, index: int | None) -> str | None:
    """The name of a step in a manifest by index; None if unknown."""
    steps = manifest.get("steps") if manifest is not None else None
    if (
        index is None
        or not isinstance(steps, list)
        or not 0 <= index < len(steps)
        or not isinstance(steps[index], dict)
    ):
        return None
    name = steps[index].get("name")
    return name if isinstance(name, str) else None


async def group_runs(backend: StateBackend, wanted: RunFilter) -> list[ResumableGroup]:
    """The groups of a store, by `iter_runs`, `manifest_of` and `read_run` for each run."""
    from flujo_lens.state.backends.base import overrides

    admitted, tally = resumable(wanted), Tally()
    if admitted is None:
        return []
    has_manifests, known = overrides(type(backend), "manifest_of"), dict[str, Mapping[str, Any] | None]()
    async for run in backend.iter_runs(admitted, ordered=False):
        digest = await backend.manifest_of(run.run_id) if has_manifests else None
        head = run.pipeline_name, run.pipeline_version, run.status, run.current_step_index
        if digest is None:
            detail = await backend.read_run(run.run_id)
            done, state = _completed(detail), detail.state if detail is not None else None
            context = (state or {}).get("pipeline_context")
            waiting = stands_at(run.status, run.step_name, context if isinstance(context, dict) else {}, done)
            tally.add((*head, waiting, None, done), run.run_id)
            continue
        if digest not in known:
            known[digest] = await backend.get_manifest(digest)
        tally.add((*head, step_at(known[digest], run.current_step_index), digest, ()), run.run_id)
    return tally.groups()


def _completed(detail: RunDetail | None) -> tuple[str, ...]:
    """The names of the finished steps, from the step history or the rows of steps."""
    if detail is None:
        return ()
    names = completed_of(interpret.raw_from_documents(detail.run.run_id, detail.state), detail.run.status)
    return tuple(step.step_name for step in detail.steps if step.status == "completed") if names is None else names
