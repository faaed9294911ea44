"""What stored rows mean; which runs a filter means."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples

from flujo_lens.state.completed_runs import summarise_completed_documents
from flujo_lens.state.filtering import matches, needs_details, sort_key
from flujo_lens.state.interpret import (
    BAD,
    RawRun,
    decode,
    named,
    pause_of,
    raw_from_documents,
    steps_of,
    summarise,
    unreadable,
)
from flujo_lens.state.numbers import as_int
from flujo_lens.state.views import UNREADABLE, Pause, RunFilter, RunSummary, StepRecord

T0 = datetime(2026, 3, 1, 10, tzinfo=UTC)
OK = {"name": "a", "success": True, "latency_s": 0.5}
FAILED = {"name": "b", "success": False, "feedback": "boom", "latency_s": 0.25, "attempts": 3}
often = settings(max_examples=examples(300))


def raw(**more: Any) -> RawRun:
    return RawRun(**{"run_id": "x", "has_state": True, "state_status": "completed", **more})


# --- blobs


@pytest.mark.parametrize(
    ("blob", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        (b'{"a": 1}', {"a": 1}),
        (None, None),
        ({"a": 1}, {"a": 1}),
        (7, 7),
        ("null", None),
        ('"\\ud83d\\ude00"', "😀"),
        ("1e400", float("inf")),
        ("1234567890123456789", 1234567890123456789),
    ],
)
def test_blobs(blob: Any, value: Any) -> None:
    assert decode(blob) == value


@pytest.mark.parametrize("blob", ["", " ", "{", "nope", b"\xff", "[" * 100_000, "9" * 5_000, '{"a": 1} x', "\ufeff{}"])
def test_blobs_that_do_not_parse(blob: Any) -> None:
    assert decode(blob) is BAD
    assert not BAD


def test_nan_is_understood() -> None:
    found = decode('{"a": [NaN, Infinity, -Infinity]}')
    assert str(found) == "{'a': [nan, inf, -inf]}"


def test_half_a_surrogate_pair_can_be_printed() -> None:
    json.dumps(decode('["\\udcff", "\\ud83d\\ude00"]'), ensure_ascii=False).encode()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@often
@given(json_values)
def test_what_json_writes_is_read(value: Any) -> None:
    text = json.dumps(value)
    assert decode(text) is not BAD
    assert str(decode(text)) == str(json.loads(text)) or "\\ud" in text or abs_of(value) > 2**63


def abs_of(value: Any) -> float:
    """The largest number in `value`: orjson reads integers beyond 64 bits as floats."""
    if isinstance(value, dict | list):
        return max((abs_of(inner) for inner in (value.values() if isinstance(value, dict) else value)), default=0)
    return abs(value) if isinstance(value, int | float) and value == value else 0


# --- status


@pytest.mark.parametrize(
    ("states", "run", "history", "status"),
    [
        ("failed", "completed", [OK], "cancelled"),
        ("failed", "completed", [], "cancelled"),
        ("failed", "completed", [OK, FAILED], "failed"),
        ("failed", "failed", [OK], "failed"),
        ("failed", None, [OK], "failed"),
        ("paused", "completed", [], "paused"),
        (None, "running", [], "running"),
        (None, None, [], UNREADABLE),
        ("cancelled", "completed", [FAILED], "cancelled"),
    ],
)
def test_the_effective_status(states: str | None, run: str | None, history: list[Any], status: str) -> None:
    assert summarise(raw(state_status=states, run_status=run, history=history)).status == status


def test_a_failure_whose_history_cannot_be_read_is_no_cancellation() -> None:
    found = summarise(raw(state_status="failed", run_status="completed", history="{not json"))
    assert (found.status, found.problems) == ("failed", ("history does not parse",))


def test_a_failed_row_of_steps_says_failed() -> None:
    found = summarise(raw(state_status="failed", run_status="completed", failed_step="b", failed_step_error='"boom"'))
    assert (found.status, found.step_name, found.error_message) == ("failed", "b", "boom")


# --- names


@pytest.mark.parametrize(
    ("run", "state", "span", "name"),
    [
        (("r", "1"), ("s", "2"), ("p", "3"), ("r", "1")),
        (("unknown", "latest"), ("s", "2"), ("p", "3"), ("s", "2")),
        ((None, None), ("unknown", "latest"), ("p", "3"), ("p", "3")),
        ((None, None), (None, None), ("p", None), ("p", "latest")),
        (("", ""), ("", ""), ("", ""), ("unknown", "latest")),
        (("r", None), ("s", "2"), (None, None), ("r", "latest")),
        (("unknown", "7"), ("unknown", "latest"), (None, None), ("unknown", "7")),
    ],
)
def test_names(run: Any, state: Any, span: Any, name: tuple[str, str]) -> None:
    attributes = {"flujo.pipeline.name": span[0], "flujo.pipeline.version": span[1]}
    found = raw(
        run_name=run[0], run_version=run[1], state_name=state[0], state_version=state[1], root_attributes=attributes
    )
    assert named(found) == name


# --- where a run stands, and why


def test_a_paused_run_of_either_version() -> None:
    new = {"pause_message": "Go?", "hitl_data": {"last_hitl_step": "ask"}, "current_step": "loop"}
    old = {"scratchpad": {"pause_message": "Go?"}}
    assert pause_of(raw(context=new), "paused") == Pause("ask", "Go?")
    assert pause_of(raw(context=old), "paused") == Pause(None, "Go?")
    assert pause_of(raw(context=old, open_span="ask"), "paused") == Pause("ask", "Go?")
    assert pause_of(raw(context={"loop_paused_step_name": "in loop"}), "paused") == Pause("in loop", None)
    assert pause_of(raw(context=new), "completed") is None
    assert pause_of(raw(context="{not json"), "paused") == Pause(None, None)
    assert pause_of(raw(context={"pause_message": {"text": 5}}), "paused") == Pause(None, "{'text': 5}")
    assert pause_of(raw(context={"pause_message": None, "scratchpad": "odd", "hitl_data": 5}), "paused") == Pause(
        None, None
    )


def test_where_a_run_stands() -> None:
    context = {"current_step": "c"}
    assert summarise(raw(context=context)).step_name is None
    assert summarise(raw(state_status="running", context=context)).step_name == "c"
    assert summarise(raw(state_status="running", open_span="o")).step_name == "o"
    assert summarise(raw(state_status="failed", context=context, history=[OK, FAILED])).step_name == "b"
    assert summarise(raw(state_status="failed", is_background=1, metadata={"step_name": "m"})).step_name == "m"


def test_errors() -> None:
    def error(**more: Any) -> str | None:
        return summarise(raw(**{"state_status": "failed", **more})).error_message

    assert error(state_error="stored", history=[FAILED]) == "stored"
    assert error(run_error="stored") == "stored"
    assert error(background_error="of the task", history=[FAILED]) == "of the task"
    assert error(metadata={"background_error": "of the task"}) == "of the task"
    assert error(history=[FAILED, OK]) == "boom"
    assert error(history=[FAILED, {**FAILED, "feedback": "last"}]) == "last"
    assert error(history=[{**FAILED, "feedback": {"odd": 1}}]) == "{'odd': 1}"
    assert error() is None
    assert error(state_status="completed", history=[FAILED]) is None


# --- times and lengths


def test_the_start_is_that_of_the_run() -> None:
    start, saved = "2026-03-01T10:00:00+00:00", "2026-03-01T10:00:05+00:00"
    found = summarise(raw(has_run=True, run_start=start, state_created=saved, state_updated=saved))
    assert (found.created_at, found.updated_at) == (T0, T0 + timedelta(seconds=5))
    alone = summarise(raw(state_created=saved, state_updated=saved))
    assert alone.created_at == T0 + timedelta(seconds=5)
    garbage = summarise(raw(has_run=True, run_start="soon", state_created=saved, state_updated=saved))
    assert (garbage.created_at, garbage.problems) == (None, ("the start is not a valid time",))


def test_naive_times_of_the_state_are_the_writers() -> None:
    naive = "2026-03-01T05:00:00"
    found = summarise(raw(run_start=naive, state_updated=naive), timezone(timedelta(hours=-5)))
    assert (found.created_at, found.updated_at) == (T0 - timedelta(hours=5), T0)


@pytest.mark.parametrize(
    ("more", "ms"),
    [
        ({"has_run": True, "run_start": "2026-03-01T10:00:00", "run_end": "2026-03-01T10:00:02"}, 2000.0),
        ({"has_run": True, "run_start": "2026-03-01T10:00:00", "run_updated": "2026-03-01T10:00:03"}, 3000.0),
        ({"has_run": True, "run_start": "2026-03-01T10:00:00", "state_updated": "2026-03-01T10:00:04"}, 4000.0),
        ({"has_run": True, "run_start": "2026-03-01T10:00:09", "run_end": "2026-03-01T10:00:02"}, None),
        ({"has_run": True, "run_end": "2026-03-01T10:00:02"}, None),
        ({"has_run": True, "run_ms": 7, "run_start": "2026-03-01T10:00:00", "run_end": "2026-03-01T10:00:02"}, 7),
        ({"state_ms": 15, "history": [OK, FAILED]}, 15),
        ({"history": [OK, FAILED]}, 750.0),
        ({"history": []}, None),
        ({"state_ms": float("inf"), "history": "{not json"}, None),
        ({"state_status": "running", "state_ms": 15}, None),
    ],
)
def test_lengths(more: dict[str, Any], ms: float | None) -> None:
    assert summarise(raw(**more)).duration_ms == ms


@pytest.mark.parametrize(
    ("value", "number"),
    [(5, 5), (5.0, 5), (5.5, None), ("5", None), (True, None), (None, None), (float("nan"), None), (1e300, None)],
)
def test_whole_numbers(value: Any, number: int | None) -> None:
    assert as_int(value) == number


def test_totals() -> None:
    assert summarise(raw(state_total=4, history=[OK])).total_steps == 4
    assert summarise(raw(run_total=3, state_total=0)).total_steps == 3
    assert summarise(raw(history=[OK, OK])).total_steps == 2
    assert summarise(raw(state_status="running", history=[OK])).total_steps is None


# --- steps


def test_history_and_rows_together() -> None:
    rows = [
        StepRecord(0, "a", "completed", output="old"),
        StepRecord(0, "a", "completed", output="new", created_at=T0),
        StepRecord(7, "z", "completed"),
        StepRecord(None, "?", "completed"),
    ]
    steps = steps_of(raw(history=[OK, FAILED]), rows, {"a": ["in"], "b": ["first", "second"]})
    assert [(s.step_index, s.step_name, s.status, s.output, s.input) for s in steps] == [
        (0, "a", "completed", "new", "in"),
        (1, "b", "failed", None, "first"),
        (7, "z", "completed", None, None),
        (None, "?", "completed", None, None),
    ]
    assert (steps[1].error, steps[1].attempts, steps[1].duration_ms, steps[0].created_at) == ("boom", 3, 250.0, T0)


def test_what_the_history_does_not_tell_comes_from_the_row() -> None:
    row = StepRecord(0, "a", "failed", "out", "err", 0.5, 7, 12.0, None, T0, "in")
    (step,) = steps_of(raw(history=[{"name": "a"}]), [row], {})
    assert step == row._replace(attempts=None)


def test_entries_that_are_no_entries_are_passed_over() -> None:
    assert steps_of(raw(history='[1, null, "a", []]'), [], {}) == []
    assert steps_of(raw(history='{"a": 1}'), [], {}) == []
    (step,) = steps_of(raw(history=[{"name": {"odd": 1}, "attempts": "x", "cost_usd": True}]), [], {})
    assert (step.step_name, step.attempts, step.cost_usd) == ("{'odd': 1}", None, None)


# --- anything

COLUMNS = sorted(RawRun.__dataclass_fields__.keys() - {"_decoded", "problems", "run_id"})


@often
@given(st.dictionaries(st.sampled_from(COLUMNS), json_values))
def test_no_row_breaks_a_list(fields: dict[str, Any]) -> None:
    found = raw(**{**fields, "has_state": bool(fields.get("has_state")), "has_run": bool(fields.get("has_run"))})
    summary = summarise(found)
    assert isinstance(summary.status, str)
    assert isinstance(summary.pipeline_name, str)
    assert isinstance(summary.error_message, str | None)
    assert isinstance(summary.metadata, dict)
    steps_of(found, [], {})
    pause_of(found, "paused")
    assert summary.created_at is None or summary.created_at.tzinfo is UTC
    for name in ("duration_ms", "total_steps", "current_step_index"):
        json.dumps(getattr(summary, name), allow_nan=False)


@often
@given(st.dictionaries(st.text(max_size=12), json_values), st.dictionaries(st.text(max_size=12), json_values))
def test_no_document_breaks_a_list(state: dict[str, Any], run: dict[str, Any]) -> None:
    names = ("status", "pipeline_name", "created_at", "metadata", "step_history", "total_steps", "error_message")
    state = dict(zip(names, state.values(), strict=False))
    found = summarise(raw_from_documents("x", state, dict(zip(names, run.values(), strict=False))))
    assert isinstance(found.status, str)
    assert isinstance(found.pipeline_version, str)


def test_documents_as_the_contract_returns_them() -> None:
    state = {"status": "failed", "created_at": T0, "updated_at": T0, "metadata": {"parent_run_id": "p", "task_id": 5}}
    found = summarise(raw_from_documents("x", state, {"start_time": T0, "status": "failed", "pipeline_name": "n"}))
    assert (found.created_at, found.parent_run_id, found.task_id, found.pipeline_name) == (T0, "p", "5", "n")


def test_the_row_of_a_run_that_cannot_be_read() -> None:
    found = unreadable("x", "does not parse", T0)
    assert (found.run_id, found.status, found.problems, found.updated_at) == ("x", UNREADABLE, ("does not parse",), T0)


# --- matching

RUN = RunSummary(
    run_id="Run-1",
    pipeline_name="orders",
    pipeline_version="2",
    status="failed",
    created_at=T0,
    updated_at=T0 + timedelta(minutes=1),
    error_message="Boom 5",
    pause_message="Ask",
    parent_run_id="p",
    metadata={"n": 3, "f": 1.5, "t": True, "s": "x", "l": [1, "a"], "none": None},
)


@pytest.mark.parametrize(
    ("wanted", "admitted"),
    [
        (RunFilter(), True),
        (RunFilter(statuses=frozenset({"failed", "paused"})), True),
        (RunFilter(statuses=frozenset({"paused"})), False),
        (RunFilter(pipeline="orders", version="2"), True),
        (RunFilter(pipeline="Orders"), False),
        (RunFilter(since=T0), True),
        (RunFilter(since=T0 + timedelta(microseconds=1)), False),
        (RunFilter(until=T0), False),
        (RunFilter(until=T0 + timedelta(microseconds=1)), True),
        (RunFilter(active_since=T0 + timedelta(minutes=1), active_until=T0 + timedelta(minutes=2)), True),
        (RunFilter(active_until=T0 + timedelta(minutes=1)), False),
        (RunFilter(meta=(("n", "3"), ("f", "1.5"), ("t", "true"), ("s", "x"), ("l", '[1,"a"]'))), True),
        (RunFilter(meta=(("n", "3.0"),)), False),
        (RunFilter(meta=(("none", "None"),)), False),
        (RunFilter(meta=(("missing", ""),)), False),
        (RunFilter(search="RUN-"), True),
        (RunFilter(search="ask"), True),
        (RunFilter(search="order"), True),
        (RunFilter(search="xyz"), False),
        (RunFilter(error="boom #"), True),
        (RunFilter(error="boom"), False),
        (RunFilter(top_level=True), True),
        (RunFilter(tasks_only=True), False),
        (RunFilter(parent="p"), True),
        (RunFilter(parent="q"), False),
    ],
)
def test_matching(wanted: RunFilter, admitted: bool) -> None:
    assert matches(wanted, RUN) is admitted


def test_runs_without_what_is_asked_for_do_not_match() -> None:
    bare = RunSummary(run_id="x")
    for wanted in (RunFilter(since=T0), RunFilter(until=T0), RunFilter(active_since=T0), RunFilter(error="*")):
        assert not matches(wanted, bare)
    assert matches(RunFilter(search="X"), bare)


def test_which_filters_need_blobs() -> None:
    assert needs_details(RunFilter(error="*"))
    assert needs_details(RunFilter(search="x"))
    assert needs_details(RunFilter(meta=(("a", "b"),)))
    assert not needs_details(RunFilter(statuses=frozenset({"failed"}), since=T0, parent="p", top_level=True))


def test_the_order_is_by_start_then_id() -> None:
    runs = [RunSummary("b", created_at=T0), RunSummary("a", created_at=T0), RunSummary("z"), RunSummary("A")]
    assert [run.run_id for run in sorted(runs, key=sort_key)] == ["A", "z", "a", "b"]


# --- the short way for runs that have completed

_TEXTS = st.sampled_from([None, "", "orders", "unknown", "latest", "2"])
_WHEN = st.sampled_from(
    [None, "", "2026-03-01T10:00:00+00:00", "2026-03-01T10:00:07.5", "2026-02-30T10:00:00", "no", 7]
)
_NUMBERS = st.sampled_from([None, 0, 3, 2.0, 2.5, "4", 10**19, True])
_ENTRIES = st.lists(
    st.one_of(
        st.fixed_dictionaries({}, optional={"cost_usd": _NUMBERS, "token_counts": _NUMBERS, "latency_s": _NUMBERS}),
        st.sampled_from([None, 1, OK, FAILED, {"token_counts": {"in": 3, "out": 4}}]),
    ),
    max_size=3,
)
_STATES = st.fixed_dictionaries(
    {"status": st.sampled_from(["completed"] * 9 + ["failed"]), "pipeline_name": _TEXTS},
    optional={
        "pipeline_version": _TEXTS,
        "created_at": _WHEN,
        "updated_at": _WHEN,
        "step_history": st.one_of(_ENTRIES, st.sampled_from([None, "", {}, "lens1:x"])),
        "metadata": st.sampled_from([None, {}, {"k": 1}, {"parent_run_id": "p"}, {"task_id": 7}, "", []]),
        "pipeline_context": st.sampled_from([None, {"a": 1}, [], "lens1:x"]),
        "total_steps": _NUMBERS,
        "current_step_index": _NUMBERS,
        "execution_time_ms": _NUMBERS,
        "error_message": st.sampled_from([None, "", "bad", 3]),
        "is_background_task": st.sampled_from([None, False, True]),
        "parent_run_id": _TEXTS,
        "background_error": _TEXTS,
    },
)
_RUNS = st.none() | st.fixed_dictionaries(
    {"status": st.sampled_from(["completed"] * 9 + ["failed"]), "pipeline_name": _TEXTS},
    optional={
        "pipeline_version": _TEXTS,
        "created_at": _WHEN,
        "updated_at": _WHEN,
        "end_time": _WHEN,
        "total_steps": _NUMBERS,
        "execution_time_ms": _NUMBERS,
        "total_cost": _NUMBERS,
        "error_message": st.sampled_from([None, "bad"]),
    },
)


@often
@given(_STATES, _RUNS)
def test_the_short_way_says_the_same(state: dict[str, Any], run: dict[str, Any] | None) -> None:
    zone = timezone(timedelta(hours=-5))
    quick = summarise_completed_documents("x", state, run, zone)
    assert quick is None or quick == summarise(raw_from_documents("x", state, run), zone)


def test_the_short_way_is_taken() -> None:
    state = {"status": "completed", "pipeline_name": "p", "created_at": "2026-03-01T10:00:00Z", "step_history": [OK]}
    for run in (None, {"status": "completed", "pipeline_name": "p", "created_at": "2026-03-01T10:00:00Z"}):
        assert summarise_completed_documents("x", state, run) is not None
