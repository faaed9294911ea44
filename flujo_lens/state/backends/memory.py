"""`InMemoryBackend`: for tests and demos. Data is gone when the process ends."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

from flujo_lens.state import interpret
from flujo_lens.state.backends.base import JSONObject, Position
from flujo_lens.state.backends.gathering import evaluation_of, order_runs, step_of
from flujo_lens.state.backends.reading import ReadingBackend
from flujo_lens.state.matching import matches
from flujo_lens.state.timestamps import parse_instant
from flujo_lens.state.traces import build_trees, span_rows, spans_of_tree
from flujo_lens.state.views import Evaluation, RunDetail, RunFilter, RunSummary, Span, SystemEntry

__all__ = ["InMemoryBackend"]


def _now() -> str:
    return datetime.now(UTC).isoformat()


class InMemoryBackend(ReadingBackend):
    """Keeps everything in dicts of one process.

    What goes in is copied, so that a caller who changes a state after saving it changes nothing here; what
    comes out is a copy too. Every call is atomic: none of them awaits anything.
    """

    def __init__(self) -> None:
        self._states: dict[str, JSONObject] = {}
        self._runs: dict[str, JSONObject] = {}
        self._steps: dict[str, list[JSONObject]] = {}
        self._spans: dict[str, dict[str, JSONObject]] = {}
        self._evaluations: list[JSONObject] = []
        self._system: dict[str, JSONObject] = {}

    async def save_state(self, run_id: str, state: JSONObject) -> None:
        """Save a copy of the state in place of the one before."""
        self._states[run_id] = {**copy.deepcopy(state), "run_id": run_id}

    async def load_state(self, run_id: str) -> JSONObject | None:
        """Return a copy of the saved state, or None."""
        return copy.deepcopy(self._states.get(run_id))

    async def delete_state(self, run_id: str) -> None:
        """Delete the state; history stays."""
        self._states.pop(run_id, None)

    async def list_states(self, status: str | None = None) -> list[JSONObject]:
        """Return copies of all states (of one status), the last saved first."""
        wanted = [s for s in self._states.values() if status is None or s.get("status") == status]
        return copy.deepcopy(sorted(wanted, key=lambda s: str(s.get("updated_at") or ""), reverse=True))

    async def save_run_start(self, run_data: JSONObject) -> None:
        """Save the metadata of a run that starts."""
        run = {"status": "running", "created_at": _now(), **copy.deepcopy(run_data)}
        self._runs[str(run["run_id"])] = {"updated_at": run["created_at"], **run}

    async def save_run_end(self, run_id: str, end_data: JSONObject) -> None:
        """Update the metadata of a run; a run that was never started is made."""
        run = self._runs.setdefault(run_id, {"run_id": run_id, "created_at": _now()})
        run.update({"updated_at": _now(), **copy.deepcopy(end_data)})

    async def save_step_result(self, step_data: JSONObject) -> None:
        """Add one execution of a step."""
        step = {"status": "completed", "created_at": _now(), **copy.deepcopy(step_data)}
        self._steps.setdefault(str(step["run_id"]), []).append(step)

    async def save_spans(self, run_id: str, spans: list[JSONObject]) -> None:
        """Add spans; one with the id of an earlier one takes its place."""
        kept = self._spans.setdefault(run_id, {})
        kept.update({str(span["span_id"]): copy.deepcopy(span) for span in spans})

    async def save_trace(self, run_id: str, trace: JSONObject) -> None:
        """Save a trace tree as spans, in place of those before."""
        self._spans[run_id] = {
            row.span_id: {
                "span_id": row.span_id,
                "parent_span_id": row.parent_span_id,
                "name": row.name,
                "status": row.status,
                "start_time": row.start,
                "end_time": row.end,
                "attributes": dict(row.attributes),
            }
            for row in spans_of_tree(trace)
        }

    async def get_spans(self, run_id: str, status: str | None = None, name: str | None = None) -> list[JSONObject]:
        """Return spans in the order of their start."""
        spans = [
            span
            for span in self._spans.get(run_id, {}).values()
            if status in (None, span.get("status")) and name in (None, span.get("name"))
        ]
        return copy.deepcopy(sorted(spans, key=lambda span: span.get("start_time") or 0.0))

    async def persist_evaluation(
        self,
        run_id: str,
        score: float,
        feedback: str | None = None,
        step_name: str | None = None,
        metadata: JSONObject | None = None,
    ) -> None:
        """Add an evaluation."""
        row = {"run_id": run_id, "score": score, "feedback": feedback, "step_name": step_name}
        self._evaluations.append({**row, "metadata": copy.deepcopy(metadata), "created_at": _now()})

    async def list_evaluations(self, limit: int = 20, run_id: str | None = None) -> list[JSONObject]:
        """Return evaluations, newest first."""
        rows = [row for row in reversed(self._evaluations) if run_id in (None, row["run_id"])]
        return copy.deepcopy(rows[:limit])

    async def set_system_state(self, key: str, value: JSONObject) -> None:
        """Set a global key."""
        self._system[key] = {"key": key, "value": copy.deepcopy(value), "updated_at": _now()}

    async def get_system_state(self, key: str) -> JSONObject | None:
        """Return a global key with its value, or None."""
        return copy.deepcopy(self._system.get(key))

    async def delete_run(self, run_id: str) -> None:
        """Delete a run with all that hangs on it."""
        self._states.pop(run_id, None)
        self._runs.pop(run_id, None)
        self._steps.pop(run_id, None)
        self._spans.pop(run_id, None)
        self._evaluations = [row for row in self._evaluations if row["run_id"] != run_id]

    # --- what operators read

    def _raw(self, run_id: str) -> interpret.RawRun:
        raw = interpret.raw_from_documents(run_id, self._states.get(run_id), self._runs.get(run_id))
        roots = [s for s in self._spans.get(run_id, {}).values() if s.get("parent_span_id") is None]
        raw.root_attributes = roots[0].get("attributes") if roots else None
        failed = [step for step in self._steps.get(run_id, []) if step.get("status") == "failed"]
        if failed:
            raw.failed_step = failed[-1].get("step_name")
            raw.failed_step_error = failed[-1].get("error")
        return raw

    async def iter_runs(
        self,
        wanted: RunFilter,
        *,
        after: Position | None = None,
        reverse: bool = False,
        ordered: bool = True,
        details: bool = True,
    ) -> AsyncIterator[RunSummary]:
        """Yield the runs that `wanted` admits, sorted by start."""
        ids = dict.fromkeys([*self._runs, *self._states])
        found = [interpret.summarise(self._raw(run_id)) for run_id in ids]
        for run in order_runs([run for run in found if matches(wanted, run)], after, reverse):
            yield run

    async def find_run_ids(self, prefix: str, limit: int = 10) -> list[str]:
        """Return run ids that begin with `prefix`, in order."""
        return sorted(i for i in {*self._runs, *self._states} if i.startswith(prefix))[:limit]

    async def read_run(self, run_id: str) -> RunDetail | None:
        """Return all about one run, or None."""
        if run_id not in self._states and run_id not in self._runs:
            return None
        raw = self._raw(run_id)
        run = interpret.summarise(raw)
        rows = [step_of(row) for row in self._steps.get(run_id, [])]
        children = [child async for child in self.iter_runs(RunFilter(parent=run_id), reverse=True)]
        return RunDetail(
            run=run,
            steps=tuple(interpret.steps_of(raw, rows, {})),
            state=await self.load_state(run_id),
            pause=interpret.pause_of(raw, run.status),
            children=tuple(children),
            final_output=raw.read("last_output"),
            has_spans=run_id in self._spans,
        )

    async def read_spans(self, run_id: str) -> Sequence[Span]:
        """Return the spans of a run as trees."""
        run = self._runs.get(run_id, {})
        start = parse_instant(run.get("start_time") or run.get("created_at"))
        return build_trees(span_rows(await self.get_spans(run_id)), start)

    async def read_evaluations(self, run_id: str | None = None, limit: int = 50) -> Sequence[Evaluation]:
        """Return evaluations, newest first."""
        return [evaluation_of(row) for row in await self.list_evaluations(limit, run_id)]

    async def read_system_state(self) -> Sequence[SystemEntry]:
        """Return all global keys, in order."""
        rows = sorted(self._system.values(), key=lambda row: str(row["key"]))
        return [SystemEntry(row["key"], copy.deepcopy(row["value"]), parse_instant(row["updated_at"])) for row in rows]
