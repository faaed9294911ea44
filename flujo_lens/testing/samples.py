"""The runs that the conformance suite fills a store with: one of every kind that real stores hold."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from flujo_lens.state.views import RunFilter

JSONObject = dict[str, Any]

BASE = datetime(2026, 3, 1, 9, 0, tzinfo=UTC)
"""The start of the oldest sample."""

MINUTE = timedelta(minutes=1)

FILTERS: tuple[RunFilter, ...] = (
    RunFilter(),
    *(RunFilter(statuses=frozenset({s})) for s in ("running", "paused", "completed", "failed", "cancelled")),
    RunFilter(statuses=frozenset({"failed", "cancelled", "no such status"})),
    RunFilter(pipeline="orders"),
    RunFilter(pipeline="orders", version="2.0"),
    RunFilter(pipeline="Order"),
    RunFilter(version="1.0"),
    RunFilter(since=BASE + 10 * MINUTE),
    RunFilter(until=BASE + 10 * MINUTE),
    RunFilter(since=BASE + 10 * MINUTE, until=BASE + 30 * MINUTE),
    RunFilter(since=BASE + 30 * MINUTE, until=BASE + 30 * MINUTE + timedelta(microseconds=1)),
    RunFilter(active_since=BASE + 20 * MINUTE),
    RunFilter(active_until=BASE + 20 * MINUTE),
    RunFilter(active_since=BASE, active_until=BASE + 11 * MINUTE, statuses=frozenset({"completed"})),
    RunFilter(meta=(("customer", "4711"),)),
    RunFilter(meta=(("customer", "4711"), ("vip", "false"))),
    RunFilter(meta=(("n", "3"),)),
    RunFilter(meta=(("tags", '["a","b"]'),)),
    RunFilter(meta=(("customer", "no one"),)),
    RunFilter(search="SAME-A"),
    RunFilter(search="INVOICE 4711"),
    RunFilter(search="declined"),
    RunFilter(search="approvals"),
    RunFilter(search="漢字"),
    RunFilter(search="%"),
    RunFilter(error="valueerror: card 4711 *"),
    RunFilter(error="ValueError: card # declined"),
    RunFilter(error="*refused", tasks_only=True),
    RunFilter(top_level=True),
    RunFilter(tasks_only=True),
    RunFilter(parent="order-1"),
    RunFilter(parent="order-1", statuses=frozenset({"failed"})),
    RunFilter(parent="missing"),
)
"""One of every kind, and some together."""

SYSTEM: tuple[tuple[str, JSONObject], ...] = (
    ("watermark:crm", {"cursor": "2026-07-01T00:00:00Z", "n": 3}),
    ("lease", {"owner": None}),
)
"""System state, in the order in which it is set."""

EVALUATIONS: tuple[JSONObject, ...] = (
    {"run_id": "order-1", "score": 0.25, "feedback": "[terse]", "step_name": "pack", "metadata": {"by": "rule"}},
    {"run_id": "order-2", "score": 1.0, "feedback": None, "step_name": None, "metadata": None},
    {"run_id": "order-1", "score": 0.5, "feedback": None, "step_name": None, "metadata": None},
)
"""Evaluations, in the order in which they are persisted."""


IDS: tuple[str, ...] = (
    "",
    " ",
    ".",
    "..",
    "../outside",
    "/tmp/outside",
    "a/b",
    "a\\b",
    "a",
    "A",
    "CON",
    "r.json",
    "per%cent_under",
    "star*?[a]",
    "it's; DROP TABLE runs --",
    'a "quoted" one',
    "two\nlines\tand a tab",
    "\x1b[31mred",
    "{prefix}:key",
    "üñí-run",
    "u\u0308n\u0303i\u0301-run",
    "漢字",
    "\U0001f600",
    "long" * 75,
    "long" * 74 + "lonG",
)
"""Run ids, of which each has broken a store."""


class Sample(NamedTuple):
    """A run as it is written, and what has to come out.

    Attributes:
        expected: Fields of the run's `RunSummary`.
        state: For `save_state`; None for a run that has left history alone.
        run: For `save_run_start`; None for a run that is known by its state alone.
        end: For `save_run_end`; None if the run has not ended.
        steps: For `save_step_result`.
        spans: For `save_spans`.
    """

    expected: JSONObject
    state: JSONObject | None = None
    run: JSONObject | None = None
    end: JSONObject | None = None
    steps: Sequence[JSONObject] = ()
    spans: Sequence[JSONObject] = ()

    @property
    def run_id(self) -> str:
        """The run's id."""
        return str(self.expected["run_id"])


def _entry(name: str, seconds: float, output: Any = None, error: str | None = None) -> JSONObject:
    """An entry of a state's step history."""
    return {
        "name": name,
        "success": error is None,
        "attempts": 1 if error is None else 2,
        "latency_s": seconds,
        "cost_usd": 0.125 if name == "price" else 0.0,
        "token_counts": 456 if name == "price" else 0,
        "output": output,
        "feedback": error,
    }


def _state(run_id: str, name: str, status: str, start: datetime, saved: datetime, **more: Any) -> JSONObject:
    """A state with every field that the library saves."""
    fields = {
        "pipeline_id": f"{name}-id",
        "pipeline_version": "1.0",
        "current_step_index": len(more.get("step_history", ())),
        "pipeline_context": {"current_step": None},
        "last_step_output": None,
        "step_history": [],
        "total_steps": 0,
        "error_message": None,
        "execution_time_ms": None,
        "metadata": {},
        "is_background_task": False,
        "parent_run_id": None,
        "task_id": None,
        "background_error": None,
    }
    times = {"created_at": start.isoformat(), "updated_at": saved.isoformat()}
    return {"run_id": run_id, "pipeline_name": name, "status": status, **fields, **times, **more}


def plain_state(run_id: str, status: str = "running", when: datetime = BASE, **more: Any) -> JSONObject:
    """A whole state as the library saves one, started and saved at `when`."""
    return _state(run_id, "orders", status, when, when, **more)


def _expected(state: JSONObject, start: datetime, updated: datetime, **more: Any) -> JSONObject:
    """What a `RunSummary` must say of a state, unless `more` knows better."""
    names = ["run_id", "pipeline_name", "pipeline_version", "status", "current_step_index", "error_message"]
    names += ["metadata", "is_background_task", "parent_run_id", "task_id", "background_error"]
    plain = {name: state[name] for name in names}
    derived = {"created_at": start, "updated_at": updated, "step_name": None, "pause_message": None}
    return {**plain, **derived, **more}


def _spans(run_id: str, start: datetime) -> list[JSONObject]:
    """A root with two children, of which one has a child that failed; a span without an end."""
    zero = start.timestamp()
    rows = (
        ("root", None, "pipeline_run", 0.0, 2.0, "completed"),
        ("load", "root", "load", 0.25, 0.5, "completed"),
        ("pack", "root", "pack", 0.75, 1.75, "completed"),
        ("leaf", "pack", "call", 1.0, 1.5, "failed"),
        ("open", "root", "wait", 1.875, None, "running"),
    )
    return [
        {
            "span_id": f"{run_id}:{span_id}",
            "parent_span_id": f"{run_id}:{parent}" if parent else None,
            "name": name,
            "start_time": zero + begins,
            "end_time": None if ends is None else zero + ends,
            "status": status,
            "attributes": {"step_input": f"into {name}", "n": 1},
        }
        for span_id, parent, name, begins, ends, status in rows
    ]


def _order(number: int, run_id: str, version: str, start: datetime, metadata: JSONObject) -> Sample:
    """A run that completed, with everything that hangs on one."""
    saved, ended = start + timedelta(seconds=2), start + timedelta(seconds=2, milliseconds=500 * number)
    history = [_entry("load", 0.25, "loaded"), _entry("pack", 1.0, {"box": number}), _entry("price", 0.5, 9.5)]
    state = _state(
        run_id,
        "orders",
        "completed",
        start,
        saved,
        pipeline_version=version,
        step_history=history,
        last_step_output={"total": 9.5, "text": "漢字 <b>[/x]"},
        metadata=metadata,
    )
    run = {"run_id": run_id, "pipeline_name": "orders", "pipeline_version": version, "status": "running"}
    times = {"created_at": start.isoformat(), "updated_at": start.isoformat()}
    end = {"status": "completed", "updated_at": ended.isoformat(), "end_time": ended.isoformat()}
    steps = [_step_row(run_id, index, entry, start) for index, entry in enumerate(history)]
    expected = _expected(state, start, ended, total_steps=3, duration_ms=2000.0 + 500 * number)
    return Sample(expected, state, {**run, **times}, end, steps, _spans(run_id, start))


def _step_row(run_id: str, index: int, entry: JSONObject, start: datetime) -> JSONObject:
    return {
        "run_id": run_id,
        "step_name": entry["name"],
        "step_index": index,
        "status": "completed" if entry["success"] else "failed",
        "output": entry["output"],
        "created_at": (start + timedelta(seconds=index + 1)).isoformat(),
    }


def _payment(start: datetime) -> Sample:
    """A run that failed in its second step."""
    saved = start + timedelta(seconds=3)
    error = "ValueError: card 4711 declined"
    history = [_entry("load", 0.5, "loaded"), _entry("charge", 0.25, error=error)]
    state = _state("pay-1", "payments", "failed", start, saved, step_history=history, metadata={"customer": "7"})
    run = {"run_id": "pay-1", "pipeline_name": "payments", "pipeline_version": "1.0"}
    end = {"status": "failed", "updated_at": saved.isoformat(), "end_time": saved.isoformat()}
    steps = [_step_row("pay-1", index, entry, start) for index, entry in enumerate(history)]
    expected = _expected(state, start, saved, error_message=error, step_name="charge", duration_ms=3000.0)
    return Sample(expected, state, {**run, "created_at": start.isoformat()}, end, steps)


def _question(start: datetime) -> Sample:
    """A run that waits for a person; the library's ``runs`` says that it completed."""
    saved = start + timedelta(seconds=1)
    message = "Approve invoice 4711? (yes/no)"
    context = {"pause_message": message, "hitl_data": {"last_hitl_step": "ask"}, "current_step": "ask"}
    history = [_entry("load", 0.5, "loaded")]
    state = _state("ask-1", "approvals", "paused", start, saved, step_history=history, pipeline_context=context)
    run = {"run_id": "ask-1", "pipeline_name": "approvals", "pipeline_version": "1.0"}
    end = {"status": "completed", "updated_at": saved.isoformat(), "end_time": saved.isoformat()}
    expected = _expected(state, start, saved, pause_message=message, step_name="ask")
    return Sample(expected, state, {**run, "created_at": start.isoformat()}, end)


def _cancelled(start: datetime) -> Sample:
    """A run that was cancelled: failed in the state, completed in ``runs``, and no step failed."""
    saved = start + timedelta(seconds=1)
    history = [_entry("load", 0.5, "loaded")]
    state = _state("cancel-1", "orders", "failed", start, saved, step_history=history)
    run = {"run_id": "cancel-1", "pipeline_name": "orders", "pipeline_version": "1.0"}
    end = {"status": "completed", "updated_at": saved.isoformat(), "end_time": saved.isoformat()}
    expected = _expected(state, start, saved, status="cancelled")
    return Sample(expected, state, {**run, "created_at": start.isoformat()}, end)


def _alive(run_id: str, start: datetime, seconds: int, name: str = "orders") -> Sample:
    """A run that runs, was saved so many seconds after its start, and is known by its state alone."""
    saved = start + timedelta(seconds=seconds)
    state = _state(run_id, name, "running", start, saved, pipeline_context={"current_step": "load"})
    return Sample(_expected(state, start, saved, step_name="load", duration_ms=None), state)


def _task(number: int, status: str, start: datetime) -> Sample:
    """A background task of the first order."""
    run_id, task_id = f"order-1_bg_{number}", f"bg_{number}"
    error = "smtp: connection refused" if status == "failed" else None
    facts = {"is_background_task": True, "parent_run_id": "order-1", "task_id": task_id}
    metadata = {**facts, "step_name": "mail", **({"background_error": error} if error else {})}
    state = _state(run_id, "orders", status, start, start, **facts, metadata=metadata, background_error=error)
    step = None if status == "completed" else "mail"
    return Sample(_expected(state, start, start, step_name=step, error_message=error), state)


def _history_alone(start: datetime) -> Sample:
    """A run whose state was deleted."""
    ended = start + timedelta(seconds=4)
    run = {"run_id": "gone-1", "pipeline_name": "orders", "pipeline_version": "1.0"}
    end = {"status": "completed", "updated_at": ended.isoformat(), "end_time": ended.isoformat()}
    expected = {
        **run,
        "status": "completed",
        "created_at": start,
        "updated_at": ended,
        "duration_ms": 4000.0,
        "is_background_task": False,
    }
    return Sample(expected, None, {**run, "created_at": start.isoformat()}, end)


def samples(now: datetime) -> list[Sample]:
    """All samples, in the order of their last save, the oldest first.

    Args:
        now: The present: one run failed an hour ago, one of its background tasks half an hour ago.
    """
    minute = timedelta(minutes=1)
    same = BASE + 30 * minute
    return [
        _order(1, "order-1", "1.0", BASE, {"customer": "4711", "vip": True, "n": 3, "tags": ["a", "b"]}),
        _order(2, "order-2", "2.0", BASE + 10 * minute, {"customer": "4711", "vip": False}),
        _task(1, "completed", BASE + 11 * minute),
        _history_alone(BASE + 12 * minute),
        _question(BASE + 20 * minute),
        _alive("same-b", same, 1),
        _alive("same-a", same, 2),
        _alive("same-A", same, 3, "Orders"),
        _cancelled(BASE + 40 * minute),
        _alive("weird id/with %_ 'quotes' and 漢字", BASE + 50 * minute, 0, "odd"),
        _payment(now - 60 * minute),
        _task(2, "failed", now - 30 * minute),
    ]
