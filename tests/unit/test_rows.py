"""The words of the library's versions, under one name each."""

from __future__ import annotations

import copy
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from flujo_lens.state.backends.core import rows as vocabulary
from flujo_lens.testing.samples import BASE

TEXT = BASE.isoformat()
LATER = (BASE + timedelta(seconds=5)).isoformat()


def without_times(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ("created_at", "updated_at", "end_time")}


def test_a_run_has_all_that_a_store_needs() -> None:
    before = datetime.now(UTC)
    row = vocabulary.run_row({"run_id": "r"})
    named = {"pipeline_id": "unknown", "pipeline_name": "unknown", "pipeline_version": "latest"}
    assert without_times(row) == {"run_id": "r", **named, "status": "running", "total_steps": 0}
    assert row["created_at"] == row["updated_at"]
    assert before <= datetime.fromisoformat(row["created_at"]) <= datetime.now(UTC)


@pytest.mark.parametrize("name", ["created_at", "start_time"])
@pytest.mark.parametrize("when", [BASE, BASE.replace(tzinfo=None), BASE.astimezone(timezone(timedelta(hours=5))), TEXT])
def test_the_start_of_a_run_has_two_names_and_many_forms(name: str, when: object) -> None:
    row = vocabulary.run_row({"run_id": "r", name: when})
    assert (row["created_at"], row["updated_at"], "start_time" in row) == (TEXT, TEXT, False)


def test_of_two_names_for_one_thing_the_newer_counts() -> None:
    step = {"run_id": "r", "cost": 1, "cost_usd": 2, "duration_ms": 3, "execution_time_ms": 4, "tokens": 5}
    row = vocabulary.step_row(step)
    assert (row["cost_usd"], row["execution_time_ms"], row["token_counts"]) == (2, 4, 5)
    assert {"cost", "duration_ms", "tokens"} & row.keys() == set()
    assert vocabulary.run_row({"run_id": "r", "start_time": TEXT, "created_at": LATER})["created_at"] == LATER


def test_the_time_of_a_step_is_its_end() -> None:
    both = {"run_id": "r", "start_time": TEXT, "end_time": LATER}
    assert vocabulary.step_row(both)["created_at"] == LATER
    assert vocabulary.step_row({"run_id": "r", "start_time": TEXT})["created_at"] == TEXT
    assert vocabulary.step_row({**both, "created_at": "2026"})["created_at"] == "2026"


def test_the_end_of_a_run_is_no_new_start() -> None:
    row = vocabulary.end_row({"run_id": "other", "start_time": TEXT, "end_time": LATER, "final_context_blob": {"a": 1}})
    assert row == {"status": "completed", "end_time": LATER, "updated_at": LATER, "final_context": {"a": 1}}
    assert vocabulary.end_row({"status": None, "updated_at": TEXT}) == {
        "status": "completed",
        "end_time": TEXT,
        "updated_at": TEXT,
    }


def test_nothing_that_is_passed_in_is_changed() -> None:
    data = {"run_id": "r", "start_time": BASE, "cost": 1, "output": {"a": [1]}, "children": [{"span_id": "x"}]}
    before = copy.deepcopy(data)
    vocabulary.run_row(data)
    vocabulary.end_row(data)
    vocabulary.step_row(data)
    vocabulary.trace_rows(data)
    assert data == before


def test_what_is_not_known_stays() -> None:
    assert vocabulary.run_row({"run_id": "r", "acme": [1]})["acme"] == [1]
    assert vocabulary.step_row({"run_id": "r", "acme": [1]})["acme"] == [1]


@pytest.mark.parametrize("make", [vocabulary.run_row, vocabulary.step_row])
def test_a_row_belongs_to_a_run(make: Any) -> None:
    with pytest.raises(ValueError, match="run_id is missing"):
        make({"step_name": "s"})
    with pytest.raises(TypeError, match="must be a string, not int"):
        make({"run_id": 7})
    assert make({"run_id": ""})["run_id"] == ""


def test_a_span_has_all_its_keys() -> None:
    assert vocabulary.span_row({"span_id": 7, "start_time": "soon", "end_time": True, "attributes": [1]}) == {
        "span_id": "7",
        "parent_span_id": None,
        "name": "unknown",
        "start_time": None,
        "end_time": None,
        "status": "running",
        "attributes": {},
    }
    assert vocabulary.span_row({"name": "no id"}) is None


def test_of_spans_with_one_id_the_later_counts() -> None:
    rows = vocabulary.span_rows([{"span_id": "a", "name": "1"}, {"span_id": "b"}, {"span_id": "a", "name": "2"}])
    assert [(row["span_id"], row["name"]) for row in rows] == [("a", "2"), ("b", "unknown")]


def test_the_tree_says_who_is_whose_parent() -> None:
    leaf = {"span_id": "leaf", "parent_span_id": "nobody"}
    tree = {"span_id": "root", "children": [{"name": "no id", "children": [leaf]}, "no node", {"span_id": "b"}]}
    rows = vocabulary.trace_rows(tree)
    assert [(row["span_id"], row["parent_span_id"]) for row in rows] == [
        ("root", None),
        ("leaf", "root"),
        ("b", "root"),
    ]
    assert vocabulary.trace_rows({}) == vocabulary.trace_rows(None) == []


def test_the_last_update_is_the_newest_time_unless_one_is_unreadable() -> None:
    assert vocabulary.last_update([TEXT, None], [LATER, ""]) == BASE + timedelta(seconds=5)
    assert vocabulary.last_update([TEXT], ["yesterday"]) is None
    assert vocabulary.last_update([None], []) is None
    lima = timezone(timedelta(hours=-5))
    assert vocabulary.last_update(["2026-03-01T04:00:00"], ["2026-03-01 08:00:00"], lima) == BASE
    assert vocabulary.last_update([BASE.replace(tzinfo=None)]) == BASE


@pytest.mark.parametrize(
    ("change", "stale"),
    [
        ({}, True),
        ({"updated_at": LATER}, False),
        ({"updated_at": None}, False),
        ({"updated_at": "soon"}, False),
        ({"status": "paused"}, False),
        ({"is_background_task": False}, False),
        ({"is_background_task": None, "metadata": {"is_background_task": True}}, True),
        ({"is_background_task": None, "metadata": "text"}, False),
    ],
)
def test_a_stale_task_is_one_that_runs_and_is_silent(change: dict[str, Any], stale: bool) -> None:
    task = {"status": "running", "is_background_task": True, "updated_at": TEXT, "created_at": LATER}
    assert vocabulary.is_stale({**task, **change}, BASE + timedelta(seconds=1)) is stale


def test_a_task_that_is_given_up_says_why() -> None:
    why = "timed out: no activity for 24 hours"
    changes = {"status": "failed", "error_message": why, "background_error": why, "updated_at": TEXT}
    assert vocabulary.timed_out(24.0, TEXT) == changes


def test_a_moment_beyond_the_calendar_is_its_beginning() -> None:
    assert vocabulary.moment_before(BASE, days=1) == BASE - timedelta(days=1)
    for days in (math.inf, 1e9, 1e300):
        assert vocabulary.moment_before(BASE, days=days) == datetime.min.replace(tzinfo=UTC)


def test_what_a_summary_lacks() -> None:
    state = {"pipeline_id": "unknown", "memory_usage_mb": None}
    run = {"pipeline_id": "p-1", "memory_usage_mb": 2.5, "total_cost": 0, "final_context": {}}
    found = {"pipeline_id": "p-1", "memory_usage_mb": 2.5, "total_cost": 0, "end_time": None, "final_context": {}}
    assert vocabulary.extras_of(state, run) == found
    assert set(vocabulary.extras_of(None, None).values()) == {None}
