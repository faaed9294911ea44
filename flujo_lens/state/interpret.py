"""Interpretation of the stored rows of a run: the rules shared by all drivers.

A driver fills a `RawRun` from its data (a row of ``workflow_state``, one of ``runs``, or both) and calls `summarise`,
`steps_of` and `pause_of`. The rules were derived from stores written by the library's versions 0.4.32, 0.4.35 and
0.6.11: the state has the correct status, ``runs`` has name, version and start, and the step history has cost, tokens,
durations, attempts and errors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, cast

import orjson

from flujo_lens.state.costs import model_in, tokens_of, total_of, total_of_history
from flujo_lens.state.numbers import as_int, as_number
from flujo_lens.state.timestamps import parse_instant
from flujo_lens.state.views import UNREADABLE, Pause, RunSummary, StepRecord

_SEAL = b"\x93lens"
"""The prefix of sealed bytes (`flujo_lens.serialization.envelope.TAG`)."""

_SEALED_AS = {
    "context": "pipeline_context",
    "history": "step_history",
    "last_output": "last_step_output",
    "root_attributes": "attributes",
}
INVALID_TIME = "is not a valid time"
"""The end of a problem that names a time; deletion keeps such runs."""
NAMELESS = ("", "unknown", None)
VERSIONLESS = ("", "latest", None)
_TIMES = ("the start", "the last save", "the state's start", "the last update", "the end")
MILLISECOND = timedelta(milliseconds=1)


class _Bad:
    """The value of a blob that cannot be parsed."""

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "<unreadable>"


BAD = _Bad()


def decode(blob: Any, *, printable: bool = True) -> Any:
    """Decode a stored JSON blob; `BAD` if it cannot be parsed.

    A value other than text or bytes is returned unchanged. NaN and infinities, which 0.4.x wrote, are accepted. A lone
    surrogate, which cannot be printed, becomes U+FFFD if `printable`, else it is kept.
    """
    if not isinstance(blob, str | bytes):
        return blob
    try:
        return orjson.loads(blob)
    except orjson.JSONDecodeError:
        return _decode_leniently(blob, printable)


def _decode_leniently(blob: str | bytes, printable: bool) -> Any:
    import json

    try:
        value = json.loads(blob)
        if not printable:
            return value
        plain = json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass").decode(errors="replace")
        return json.loads(plain)
    except (ValueError, RecursionError):
        return BAD


@dataclass(slots=True, eq=False, repr=False)
class RawRun:
    """The columns of both tables; blobs are stored undecoded and decoded on access."""

    run_id: str
    has_state: bool = False
    has_run: bool = False
    state_status: str | None = None
    run_status: str | None = None
    state_name: str | None = None
    state_version: str | None = None
    run_name: str | None = None
    run_version: str | None = None
    root_attributes: Any = None
    state_created: Any = None
    state_updated: Any = None
    run_start: Any = None
    run_updated: Any = None
    run_end: Any = None
    step_index: Any = None
    state_total: Any = None
    run_total: Any = None
    state_error: str | None = None
    run_error: str | None = None
    state_ms: Any = None
    run_ms: Any = None
    is_background: Any = None
    parent_run_id: str | None = None
    task_id: str | None = None
    background_error: str | None = None
    metadata: Any = None
    context: Any = None
    history: Any = None
    last_output: Any = None
    failed_step: str | None = None
    """The step of a failed row of ``steps``, if the step history does not have it."""
    failed_step_error: Any = None
    open_span: str | None = None
    """The name of the newest span without an end."""
    stored_cost: Any = None
    """The cost by the rows of ``steps``, or else by ``runs``, if the step history has none."""
    stored_tokens: Any = None
    problems: list[str] = field(default_factory=list)
    _decoded: dict[str, Any] = field(default_factory=dict)

    def read(self, name: str) -> Any:
        """The decoded blob `name`; None if it cannot be parsed, which is noted as a problem once."""
        known = self._decoded
        if name not in known:
            blob = getattr(self, name)
            known[name] = self._read_blob(name, blob) if isinstance(blob, (str, bytes)) else blob
        return known[name]

    def _read_blob(self, name: str, blob: str | bytes) -> Any:
        is_closed = isinstance(blob, bytes) and blob.startswith(_SEAL)
        value = self._unsealed(name, cast("bytes", blob)) if is_closed else decode(blob)
        if value is BAD:
            self.problems.append(f"{name} does not parse")
            return None
        return value

    def put(self, name: str, value: Any) -> None:
        """Set the decoded value of the blob `name`."""
        self._decoded[name] = value

    def _unsealed(self, name: str, blob: bytes) -> Any:
        """The content of a sealed blob; None without its key, which is noted as a problem."""
        from flujo_lens.errors import LensError
        from flujo_lens.serialization.envelope import open_sealed

        try:
            return decode(open_sealed(blob, self.run_id, _SEALED_AS.get(name, name)))
        except LensError as error:
            self.problems.append(error.message)
            return None

    def mapping(self, name: str) -> Mapping[str, Any]:
        """The decoded blob `name` if it is an object, else an empty mapping."""
        value = self.read(name)
        return value if isinstance(value, dict) else {}

    def steps(self) -> list[Mapping[str, Any]]:
        """The entries of the step history, if they are objects."""
        found: list[Mapping[str, Any]] | None = self._decoded.get("steps")
        if found is None:
            value = self.read("history")
            entries = value if isinstance(value, list) else []
            found = self._decoded["steps"] = [entry for entry in entries if isinstance(entry, dict)]
        return found

    def failing_entry(self) -> Mapping[str, Any]:
        """The last entry of a step that failed, else an empty one."""
        found: Mapping[str, Any] | None = self._decoded.get("failing")
        if found is None:
            entries = reversed(self.steps())
            found = self._decoded["failing"] = next((one for one in entries if one.get("success") is False), {})
        return found

    def total(self) -> tuple[float | None, int | None]:
        """Cost and tokens of the step history."""
        found: tuple[float | None, int | None] | None = self._decoded.get("total")
        if found is None:
            found = self._decoded["total"] = total_of_history(self.steps())[:2]
        return found


def raw_from_documents(run_id: str, state: Mapping[str, Any] | None, run: Mapping[str, Any] | None = None) -> RawRun:
    """A `RawRun` from a saved state and run metadata as the contract's methods return them."""
    state_ = state or {}
    metadata = state_.get("metadata")
    meta = metadata if isinstance(metadata, dict) else {}
    raw = RawRun(
        run_id=run_id,
        has_state=state is not None,
        has_run=run is not None,
        state_status=_text(state_.get("status")),
        state_name=_text(state_.get("pipeline_name")),
        state_version=_text(state_.get("pipeline_version")),
        state_created=_time_text(state_.get("created_at")),
        state_updated=_time_text(state_.get("updated_at")),
        step_index=state_.get("current_step_index"),
        state_total=state_.get("total_steps"),
        state_error=_text(state_.get("error_message")),
        state_ms=state_.get("execution_time_ms"),
        is_background=state_.get("is_background_task", meta.get("is_background_task")),
        parent_run_id=_text(state_.get("parent_run_id") or meta.get("parent_run_id")),
        task_id=_text(state_.get("task_id") or meta.get("task_id")),
        background_error=_text(state_.get("background_error")),
        metadata=metadata,
        context=state_.get("pipeline_context"),
        history=state_.get("step_history"),
        last_output=state_.get("last_step_output"),
    )
    if run:
        put_run(raw, run)
    return raw


def put_run(raw: RawRun, run: Mapping[str, Any]) -> None:
    """Set what run metadata tells."""
    raw.run_status = _text(run.get("status"))
    raw.run_name, raw.run_version = _text(run.get("pipeline_name")), _text(run.get("pipeline_version"))
    raw.run_start = _time_text(run.get("start_time") or run.get("created_at"))
    raw.run_updated, raw.run_end = _time_text(run.get("updated_at")), _time_text(run.get("end_time"))
    raw.run_total, raw.run_error = run.get("total_steps"), _text(run.get("error_message"))
    raw.run_ms = run.get("execution_time_ms")
    raw.stored_cost = run.get("total_cost")


def _text(value: Any) -> str | None:
    """A column as text, since SQLite columns can hold any type."""
    if value is None or type(value) is str:
        return value
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, str) else str(value)


def _time_text(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def unreadable(run_id: str, problem: str, updated_at: datetime | None = None) -> RunSummary:
    """The summary of a run of which only the id is readable."""
    return RunSummary(
        run_id=run_id,
        status=UNREADABLE,
        created_at=updated_at,
        updated_at=updated_at,
        error_message=problem,
        problems=(problem,),
    )


# --- the rules


def status_of(raw: RawRun) -> str:
    """The effective status: that of the state, or of the run without a state.

    0.6.11 stores a cancelled run as failed in the state and completed in ``runs``; unlike a failed run, it has no
    failed step in its history. A run that failed again after it was resumed or restarted is paused in the state and
    failed in ``runs``; unlike a paused run, it has no question.
    """
    if raw.state_status is None:
        return _text(raw.run_status) or UNREADABLE
    doubtful = raw.state_status == "failed" and raw.run_status == "completed"
    if doubtful and not _some_step_failed(raw):
        return "cancelled"
    if raw.state_status == "paused" and raw.run_status in ("failed", None) and failed_again(raw):
        return "failed"
    return _text(raw.state_status) or UNREADABLE


def failed_again(raw: RawRun) -> bool:
    """Whether a paused state is of a run that failed more than once, as left by 0.6.11.

    A pause records its step (or the enclosing loop) in the context, and an answer removes it; the message of the last
    question may stay. ``runs`` is not sufficient: it stays failed when a failed run is restarted and pauses.
    """
    context = raw.mapping("context")
    if _paused_step(raw) or context.get("loop_resume_requires_hitl_output"):
        return False
    if raw.run_status == "failed" and _pause_message(context) is None:
        return True
    return "hitl_data" in context and any(entry.get("success") is False for entry in raw.steps())


def _some_step_failed(raw: RawRun) -> bool:
    entries = raw.steps()
    if not entries and raw.problems:
        return True
    return raw.failed_step is not None or any(entry.get("success") is False for entry in entries)


def named(raw: RawRun) -> tuple[str, str]:
    """Name and version of the pipeline: of ``runs``, the state, or the root span."""
    for name, version in ((raw.run_name, raw.run_version), (raw.state_name, raw.state_version)):
        if name not in NAMELESS:
            return _text(name) or "unknown", _text(version) or "latest"
    attributes = raw.mapping("root_attributes") if raw.root_attributes is not None else {}
    if attributes.get("flujo.pipeline.name") not in NAMELESS:
        return str(attributes["flujo.pipeline.name"]), str(attributes.get("flujo.pipeline.version") or "latest")
    version = next((v for v in (raw.run_version, raw.state_version) if v not in VERSIONLESS), None)
    return "unknown", _text(version) or "latest"


def tells_failure(raw: RawRun) -> bool:
    """Whether the step history of a failed run tells its step, its error and its costs, so that no rows are asked."""
    entry = raw.failing_entry()
    return bool(entry.get("name") and entry.get("feedback")) and not raw.is_background and None not in cost_of(raw)


def step_name_of(raw: RawRun, status: str) -> str | None:
    """The current step; None for a completed run."""
    if status == "completed":
        return None
    if raw.is_background:
        found: Any = raw.mapping("metadata").get("step_name")
    elif status == "failed":
        found = raw.failing_entry().get("name") or raw.failed_step
    elif status == "paused":
        found = _paused_step(raw)
    else:
        found = None
    return _text(found or raw.mapping("context").get("current_step") or _open_span(raw))


def _open_span(raw: RawRun) -> str | None:
    """The step of an unclosed span; resumed runs keep old ones, so they do not count."""
    name = _text(raw.open_span)
    done = [entry.get("name") for entry in raw.steps() if entry.get("success") is not False]
    return None if name in done else name


def _paused_step(raw: RawRun) -> Any:
    context = raw.mapping("context")
    hitl = context.get("hitl_data")
    last = hitl.get("last_hitl_step") if isinstance(hitl, dict) else None
    return last or context.get("loop_paused_step_name")


def _error(raw: RawRun, status: str) -> str | None:
    has_ended = raw.has_state and status == "completed"  # earlier failures in the history are resolved
    stored = _text(raw.state_error if has_ended else raw.state_error or raw.run_error)
    if status != "failed":
        return stored
    background = raw.background_error or raw.mapping("metadata").get("background_error")
    feedback = raw.failing_entry().get("feedback")
    return _text(stored or background or feedback or decode(raw.failed_step_error) or None)


def pause_of(raw: RawRun, status: str) -> Pause | None:
    """The pause of a paused run, else None."""
    if status != "paused":
        return None
    return Pause(step=step_name_of(raw, status), message=_text(_pause_message(raw.mapping("context"))))


def _pause_message(context: Mapping[str, Any]) -> Any:
    """The message of the question in the context; 0.4.x keeps it in ``scratchpad``."""
    scratchpad = context.get("scratchpad")
    message = context.get("pause_message")
    return scratchpad.get("pause_message") if message is None and isinstance(scratchpad, dict) else message


def _total(raw: RawRun, status: str) -> int | None:
    if stored := as_int(raw.state_total) or as_int(raw.run_total):
        return stored
    return len(raw.steps()) or None if status == "completed" else None


def _duration(raw: RawRun, status: str, start: datetime | None, last_save: datetime | None) -> float | None:
    if status in ("running", UNREADABLE):
        return None
    stored = as_number(raw.run_ms)
    if stored is not None:
        return stored
    if raw.has_run:
        end = parse_instant(raw.run_end) or parse_instant(raw.run_updated) or last_save
        return (end - start) / MILLISECOND if start and end and end >= start else None
    spent = as_number(raw.state_ms)
    return spent if spent is not None else busy_ms(raw.steps())


def _is_wall_time(raw: RawRun) -> bool:
    """Whether `_duration` is the time from start to end, in which a run may have waited for a person."""
    return raw.has_run and as_number(raw.run_ms) is None


def cost_of(raw: RawRun) -> tuple[float | None, int | None]:
    """Cost and tokens of a run: the sums over its step history, or else what its rows tell."""
    cost, tokens = raw.total()
    if cost is not None and tokens is not None:
        return cost, tokens
    stored = total_of([(raw.stored_cost, raw.stored_tokens)])
    return stored[0] if cost is None else cost, stored[1] if tokens is None else tokens


def busy_ms(steps: Iterable[Any]) -> float | None:
    """The sum of the steps' durations, for a store without ``runs``."""
    entries = (entry.get("latency_s") for entry in steps if isinstance(entry, dict))
    spent = [s for s in map(as_number, entries) if s is not None]
    return round(sum(spent) * 1000, 3) if spent else None


def _instants(raw: RawRun, naive: tzinfo) -> tuple[datetime | None, ...]:
    """The times of a run in the order of `_TIMES`; those that cannot be read are noted as problems."""
    saved, first_save = parse_instant(raw.state_updated, naive), parse_instant(raw.state_created, naive)
    started, updated = parse_instant(raw.run_start), parse_instant(raw.run_updated)
    ended = raw.run_end and parse_instant(raw.run_end)
    found = (started, saved, first_save, updated, ended or None)
    if None in found:
        texts = (raw.run_start, raw.state_updated, raw.state_created, raw.run_updated, raw.run_end)
        for name, text, when in zip(_TIMES, texts, found, strict=True):
            if text and when is None:
                raw.problems.append(f"{name} {INVALID_TIME}")
    return found


def last_update(raw: RawRun, naive: tzinfo = UTC) -> datetime | None:
    """When anything of a run was last written, as `summarise` has it: the newest of its times."""
    saves = (parse_instant(text, naive) for text in (raw.state_updated, raw.state_created))
    times = (parse_instant(text) for text in (raw.run_start, raw.run_updated, raw.run_end))
    return max((when for when in (*saves, *times) if when), default=None)


def summarise(raw: RawRun, naive: tzinfo = UTC) -> RunSummary:
    """The summary of a run.

    Args:
        naive: The zone of naive times in the state (those in ``runs`` are UTC).
    """
    status = status_of(raw)
    name, version = named(raw)
    started, saved, first_save, _, _ = instants = _instants(raw, naive)
    pause = pause_of(raw, status)
    duration = _duration(raw, status, started, saved)
    return RunSummary(
        run_id=raw.run_id,
        pipeline_name=name,
        pipeline_version=version,
        status=status,
        created_at=started if raw.run_start else first_save,
        updated_at=max(filter(None, instants), default=None),
        duration_ms=duration,
        current_step_index=as_int(raw.step_index),
        step_name=pause.step if pause else step_name_of(raw, status),
        total_steps=_total(raw, status),
        error_message=_error(raw, status),
        pause_message=pause.message if pause else None,
        parent_run_id=_text(raw.parent_run_id),
        task_id=_text(raw.task_id),
        is_background_task=bool(raw.is_background),
        metadata=raw.mapping("metadata"),
        background_error=_text(raw.background_error),
        problems=tuple(raw.problems),
        cost_usd=(total := cost_of(raw))[0],  # behind `problems`: a history that is read for it alone adds none
        tokens=total[1],
        counts_waiting=duration is not None and _is_wall_time(raw),
    )


# --- steps


def steps_of(raw: RawRun, rows: Iterable[StepRecord], inputs: Mapping[str, list[Any]]) -> list[StepRecord]:
    """The executed steps, merged from the step history and the rows of ``steps``.

    An entry and a row are the same step if index and name are equal; of repeated rows, the last is used. Steps in only
    one of the two are kept.

    Args:
        rows: Rows of ``steps`` in the order they were written.
        inputs: Step inputs from the spans by step name, in order.
    """
    by_key: dict[tuple[int | None, str], StepRecord] = {(r.step_index, r.step_name): r for r in rows}
    merged: list[StepRecord] = []
    for index, entry in enumerate(raw.steps()):
        row = by_key.pop((index, str(entry.get("name"))), None)
        merged.append(_merged_step(index, entry, row))
    merged += by_key.values()
    merged.sort(key=lambda step: (step.step_index is None, step.step_index or 0))
    return [_with_input(step, inputs) for step in merged]


def _merged_step(index: int, entry: Mapping[str, Any], row: StepRecord | None) -> StepRecord:
    success, seconds = entry.get("success"), as_number(entry.get("latency_s"))
    failed = success is False
    status = "failed" if failed else "completed" if success else (row.status if row else "completed")
    tokens, cost = tokens_of(entry.get("token_counts")), as_number(entry.get("cost_usd"))
    return StepRecord(
        step_index=index,
        step_name=_text(entry.get("name")) or "unknown",
        status=status,
        output=entry["output"] if entry.get("output") is not None else row.output if row else None,
        error=_text(entry.get("feedback") if failed else None) or (row.error if row else None),
        cost_usd=cost if cost is not None else row.cost_usd if row else None,
        token_counts=tokens if tokens is not None else row.token_counts if row else None,
        duration_ms=round(seconds * 1000, 6) if seconds is not None else row.duration_ms if row else None,
        attempts=as_int(entry.get("attempts")),
        created_at=row.created_at if row else None,
        input=row.input if row else None,
        model=model_in(entry.get("metadata_")) or _model_in_output(entry.get("output")),
    )


def _model_in_output(output: Any) -> str | None:
    """The model of an output that tells what it cost, as an agent's result does."""
    is_result = isinstance(output, dict) and ("token_counts" in output or "cost_usd" in output or "usage" in output)
    return model_in(output) if is_result else None


def _with_input(step: StepRecord, inputs: Mapping[str, list[Any]]) -> StepRecord:
    waiting = inputs.get(step.step_name)
    if step.input is not None or not waiting:
        return step
    return step._replace(input=waiting.pop(0) if len(waiting) > 1 else waiting[0])
