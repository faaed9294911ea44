"""`InMemoryBackend`: for tests and demos. Data is gone when the process ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from flujo_lens.serialization import safe_dumps, safe_loads
from flujo_lens.serialization.codec import StateCodec
from flujo_lens.state import interpret
from flujo_lens.state.backends.arguments import (
    asked_id,
    check_codec,
    check_hours,
    check_key,
    check_page,
    check_prefix,
    check_run_id,
    check_text,
)
from flujo_lens.state.backends.base import JSONObject, Position
from flujo_lens.state.backends.gathering import evaluation_of, order_runs, step_of
from flujo_lens.state.backends.leaving_out import readable
from flujo_lens.state.backends.memory_deletion import DeletingMemory
from flujo_lens.state.backends.memory_durable import KeptRun
from flujo_lens.state.backends.memory_raw import raw_of
from flujo_lens.state.backends.shapes import WorkflowTally
from flujo_lens.state.backends.vocabulary import (
    as_object,
    as_saved,
    cancelled,
    end_row,
    evaluation_row,
    extras_of,
    filled,
    is_open,
    is_stale,
    moment_before,
    now_text,
    run_row,
    span_rows,
    step_row,
    timed_out,
    trace_rows,
)
from flujo_lens.state.claims import present
from flujo_lens.state.deletion import Keep
from flujo_lens.state.matching import matches
from flujo_lens.state.timestamps import parse_instant
from flujo_lens.state.traces import build_trees
from flujo_lens.state.traces import span_rows as read_span_rows
from flujo_lens.state.views import Evaluation, RunDetail, RunFilter, RunSummary, Span, SystemEntry

__all__ = ["InMemoryBackend"]


class InMemoryBackend(DeletingMemory):
    """Keeps everything in the memory of one process, serialized as a store would keep it.

    So what comes out is what a persistent backend gives: copies, in their JSON form (times as texts), and nothing
    that a caller changes after saving changes anything here. Fields of a state that are not known are kept. Every
    call is atomic and waits for nothing but a lock that is held for the time of it: a backend may be shared by
    threads with event loops of their own. Naive times are read as UTC.

    Args:
        serializer_default, envelope, validate: As of `flujo_lens.serialization.codec.StateCodec`.
    """

    any_loop = True

    def __init__(
        self,
        *,
        serializer_default: Callable[[Any], Any] | None = None,
        envelope: Any = None,
        validate: Any = None,
    ) -> None:
        check_codec(serializer_default, envelope, validate)
        self._codec = StateCodec(serializer_default, envelope=envelope, validate=validate)
        self._default = serializer_default
        super().__init__()
        self._system: dict[str, bytes] = {}

    # --- states

    async def save_state(self, run_id: str, state: JSONObject) -> None:
        """Save the state in place of the one before."""
        self._put_state(check_run_id(run_id), as_object(state, self._default))

    def _put_state(self, run_id: str, state: JSONObject) -> None:
        kept = filled(state, run_id)
        self._codec.check(kept)
        document = self._codec.document(run_id, kept)
        with self._lock:
            self._runs.setdefault(run_id, KeptRun()).state = document

    async def load_state(self, run_id: str) -> JSONObject | None:
        """Return the saved state, times as texts, or None."""
        asked_id(run_id)
        with self._lock:
            found = self._state(run_id)
        if found is None:
            return None
        self._codec.check(found)
        return as_saved(found)

    def _state(self, run_id: str) -> JSONObject | None:
        kept = self._runs.get(run_id)
        if kept is None or kept.state is None:
            return None
        return self._codec.opened(run_id, safe_loads(kept.state))

    async def delete_state(self, run_id: str) -> None:
        """Delete the state; history stays."""
        asked_id(run_id)
        with self._lock:
            kept = self._runs.get(run_id)
            if kept is not None and kept.row is None:
                del self._runs[run_id]
            elif kept is not None:
                kept.state = None

    async def list_states(self, status: str | None = None) -> list[JSONObject]:
        """Return all states that can be read (of one status), the last saved first."""
        check_text(status, "status")
        with self._lock:
            found = [readable(run_id, partial(self._state, run_id)) for run_id in self._runs]
        states = [state for state in found if state is not None]
        wanted = [state for state in states if status is None or state.get("status") == status]
        return list(map(as_saved, sorted(wanted, key=lambda state: str(state.get("updated_at") or ""), reverse=True)))

    # --- history

    def _bytes(self, value: Any) -> bytes:
        return safe_dumps(value, self._default)

    def _history(self, run_id: str, **started: Any) -> KeptRun:
        """What is kept of the run; one that nobody announced is announced herewith."""
        kept = self._runs.setdefault(run_id, KeptRun())
        if kept.row is None:
            kept.row = self._bytes(run_row({"run_id": run_id, **started}))
        return kept

    async def save_run_start(self, run_data: JSONObject) -> None:
        """Save the metadata of a run that starts, in place of those before."""
        row = run_row(run_data)
        data = self._bytes(row)
        with self._lock:
            self._runs.setdefault(row["run_id"], KeptRun()).row = data

    async def save_run_end(self, run_id: str, end_data: JSONObject) -> None:
        """Update the metadata of a run; one that was never started is made."""
        changes = safe_loads(self._bytes(end_row(end_data)))
        with self._lock:
            kept = self._history(check_run_id(run_id))
            kept.row = self._bytes({**safe_loads(kept.row or b"{}"), **changes})

    async def save_step_result(self, step_data: JSONObject) -> None:
        """Add one execution of a step."""
        row = step_row(step_data)
        data = self._bytes(row)
        with self._lock:
            self._history(row["run_id"], created_at=row.get("start_time") or row["created_at"]).steps.append(data)

    async def save_spans(self, run_id: str, spans: list[JSONObject]) -> None:
        """Add spans; one with the id of an earlier one takes its place."""
        self._put_spans(run_id, span_rows(spans), keep=True)

    async def save_trace(self, run_id: str, trace: JSONObject) -> None:
        """Save a trace tree as spans, in place of those before."""
        self._put_spans(run_id, trace_rows(trace), keep=False)

    def _put_spans(self, run_id: str, rows: Iterable[JSONObject], *, keep: bool) -> None:
        check_run_id(run_id)
        new = {row["span_id"]: self._bytes(row) for row in rows}
        with self._lock:
            if new or run_id in self._runs:
                kept = self._history(run_id)
                kept.spans = {**kept.spans, **new} if keep else new

    async def get_spans(self, run_id: str, status: str | None = None, name: str | None = None) -> list[JSONObject]:
        """Return spans in the order of their start."""
        asked_id(run_id)
        with self._lock:
            spans = self._spans(run_id)
        admitted = [span for span in spans if status in (None, span["status"]) and name in (None, span["name"])]
        return sorted(admitted, key=lambda span: (span["start_time"] is None, span["start_time"] or 0.0))

    def _spans(self, run_id: str) -> list[JSONObject]:
        return [safe_loads(span) for span in self._runs.get(run_id, KeptRun()).spans.values()]

    async def persist_evaluation(
        self,
        run_id: str,
        score: float,
        feedback: str | None = None,
        step_name: str | None = None,
        metadata: JSONObject | None = None,
    ) -> None:
        """Add an evaluation; the run need not be known."""
        row = evaluation_row(run_id, score, feedback, step_name, metadata)
        data = self._bytes({**row, "created_at": now_text()})
        with self._lock:
            self._evaluations.append((run_id, data))

    async def set_system_state(self, key: str, value: JSONObject) -> None:
        """Set a global key."""
        check_key(key)
        data = self._bytes({"key": key, "value": value, "updated_at": now_text()})
        with self._lock:
            self._system[key] = data

    async def get_system_state(self, key: str) -> JSONObject | None:
        """Return a global key with its value, or None."""
        check_key(key)
        with self._lock:
            data = self._system.get(key)
        return None if data is None else safe_loads(data)

    # --- cleaning up

    async def cancel_runs(
        self, run_ids: Sequence[str], *, force: bool = False, keep: Keep | None = None
    ) -> Sequence[str]:
        """Mark runs as cancelled; all or none."""
        with self._lock:
            done = [run_id for run_id in dict.fromkeys(run_ids) if self._is_open(asked_id(run_id), force)]
            if keep is not None and done:
                keep([self._cancellable(run_id) for run_id in done])
            for run_id in done:
                state, row = self._state(run_id), self._row(run_id)
                if state is not None:
                    self._put_state(run_id, state | cancelled(now_text()))
                if row is not None:
                    self._runs[run_id].row = safe_dumps(row | cancelled(now_text()))
                self._claims.pop(run_id, None)
                self._cancelled[run_id] = self._runs[run_id].state, self._runs[run_id].row
        return done

    def _is_open(self, run_id: str, force: bool) -> bool:
        claim = self._claims.get(run_id)
        is_free = force or claim is None or claim.has_ended(present())
        return is_free and is_open(self._state(run_id), self._row(run_id))

    async def cleanup_stale_background_tasks(self, stale_hours: float = 24) -> int:
        """Mark running background tasks without a save for `stale_hours` as failed; all or none."""
        cutoff = moment_before(datetime.now(UTC), hours=check_hours(stale_hours))
        with self._lock:
            return len(self._fail_stale(list(self._runs), cutoff, stale_hours))

    async def fail_stale_tasks(self, run_ids: Sequence[str], cutoff: datetime, hours: float) -> Sequence[str]:
        """Mark those of these background tasks that are without a save since `cutoff`; all or none."""
        with self._lock:
            return self._fail_stale(list(dict.fromkeys(run_ids)), cutoff, check_hours(hours, "hours"))

    def _fail_stale(self, run_ids: Sequence[str], cutoff: datetime, hours: float) -> list[str]:
        known = {run_id: self._state(run_id) or {} for run_id in run_ids}
        stale = {run_id: state for run_id, state in known.items() if is_stale(state, cutoff)}
        for run_id, state in stale.items():
            self._put_state(run_id, state | timed_out(hours, now_text()))
        return list(stale)

    # --- what operators read

    def _row(self, run_id: str) -> JSONObject | None:
        kept = self._runs.get(run_id)
        return None if kept is None or kept.row is None else safe_loads(kept.row)

    def _steps(self, run_id: str) -> list[JSONObject]:
        return [safe_loads(step) for step in self._runs.get(run_id, KeptRun()).steps]

    def _raw(self, run_id: str) -> interpret.RawRun:
        return raw_of(run_id, self._state(run_id), self._row(run_id), self._spans(run_id), self._steps(run_id))

    def _selected(self, wanted: RunFilter) -> list[RunSummary]:
        with self._lock:
            found = [interpret.summarise(self._raw(run_id)) for run_id in self._runs]
        return [run for run in found if matches(wanted, run)]

    async def iter_runs(
        self,
        wanted: RunFilter,
        *,
        after: Position | None = None,
        reverse: bool = False,
        ordered: bool = True,
        details: bool = True,
    ) -> AsyncIterator[RunSummary]:
        """Yield the runs that `wanted` admits, as they were when the first was asked for."""
        for run in order_runs(self._selected(wanted), after, reverse):
            yield run

    async def find_run_ids(self, prefix: str, limit: int = 10) -> list[str]:
        """Return run ids that begin with `prefix`, in order."""
        check_prefix(prefix, limit)
        with self._lock:
            return sorted(run_id for run_id in self._runs if run_id.startswith(prefix))[:limit]

    async def read_run(self, run_id: str) -> RunDetail | None:
        """Return all about one run, or None."""
        asked_id(run_id)
        with self._lock:
            if run_id not in self._runs:
                return None
            raw = self._raw(run_id)
            run, state = interpret.summarise(raw), self._state(run_id)
            return RunDetail(
                run=run,
                steps=tuple(interpret.steps_of(raw, map(step_of, self._steps(run_id)), {})),
                state=None if state is None else as_saved(state),
                pause=interpret.pause_of(raw, run.status),
                children=tuple(order_runs(self._selected(RunFilter(parent=run_id)), None, True)),
                final_output=None if state is None else state.get("last_step_output"),
                has_spans=bool(self._runs[run_id].spans),
            )

    async def read_extras(self, run_ids: Sequence[str], *, contexts: bool = False) -> Mapping[str, JSONObject]:
        """Return what the rows of these runs hold beyond a summary."""
        with self._lock:
            found = {run_id: extras_of(self._state(run_id), self._row(run_id)) for run_id in run_ids}
        left_out = () if contexts else ("final_context",)
        return {run_id: {k: v for k, v in row.items() if k not in left_out} for run_id, row in found.items()}

    async def read_step_extras(self, run_id: str) -> Mapping[tuple[int | None, str], JSONObject]:
        """Return the rows of the steps of a run."""
        with self._lock:
            return {(step["step_index"], step["step_name"]): step for step in self._steps(run_id)}

    async def read_spans(self, run_id: str) -> Sequence[Span]:
        """Return the spans of a run as trees."""
        start = (self._row(run_id) or {}).get("created_at")
        return build_trees(read_span_rows(await self.get_spans(run_id)), parse_instant(start))

    async def read_evaluations(self, run_id: str | None = None, limit: int = 50) -> Sequence[Evaluation]:
        """Return evaluations, newest first."""
        check_page(limit)
        with self._lock:
            rows = [row for of, row in reversed(self._evaluations) if run_id in (None, of)]
        return [evaluation_of(safe_loads(row)) for row in rows[:limit]]

    async def read_system_state(self) -> Sequence[SystemEntry]:
        """Return all global keys, in order."""
        with self._lock:
            rows = [safe_loads(self._system[key]) for key in sorted(self._system)]
        return [SystemEntry(row["key"], row["value"], parse_instant(row["updated_at"])) for row in rows]

    def get_workflow_stats_sync(self) -> JSONObject:
        """`get_workflow_stats` without an event loop."""
        tally = WorkflowTally()
        for run in self._selected(RunFilter()):
            tally.add(run)
        return tally.document()
