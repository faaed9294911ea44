"""Costs, groups, sorted lists, what failed anew, and the thresholds of the status."""

from __future__ import annotations

import asyncio
import re
import shlex
import sqlite3
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support import NOW, Lens

from flujo_lens.state.aggregate import FEW, Histogram
from flujo_lens.state.backends.sqlite import SQLiteBackend
from flujo_lens.state.costs import model_in, tokens_of, with_models
from flujo_lens.state.sorting import Sort, Top
from flujo_lens.state.views import Span, StepRecord


def state(run_id: str, status: str, when: datetime, history: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "pipeline_id": "p",
        "pipeline_name": "orders",
        "pipeline_version": "1.0",
        "current_step_index": len(history),
        "pipeline_context": {},
        "last_step_output": None,
        "step_history": history,
        "status": status,
        "created_at": when,
        "updated_at": when,
        **more,
    }


def step(name: str, cost: float, tokens: int, **more: Any) -> dict[str, Any]:
    entry = {"name": name, "success": True, "attempts": 1, "latency_s": 0.5, "token_counts": tokens, "cost_usd": cost}
    return {**entry, "output": None, "feedback": None, "metadata_": {}, **more}


def failing(error: str) -> dict[str, Any]:
    return step("write", 0.0, 0, success=False, feedback=error)


def save(lens: Lens, *states: dict[str, Any]) -> None:
    async def work() -> None:
        async with SQLiteBackend(lens.cwd / "costs.db") as backend:
            for one in states:
                times = {name: one[name] for name in ("created_at", "updated_at")}
                start = {name: one[name] for name in ("run_id", "pipeline_id", "pipeline_name", "pipeline_version")}
                await backend.save_run_start({**start, "status": "running", **times})
                await backend.save_state(one["run_id"], one)

    asyncio.run(work())


@pytest.fixture
def costs(lens: Lens) -> Lens:
    """Twelve runs of two versions, the last ones the dearest; one of them without a cost."""
    now = NOW
    made = [
        state(
            f"run-{n:02}",
            "failed" if n == 11 else "completed",
            now - timedelta(minutes=5 + n),
            [step("plan", n / 100, n, metadata_={"model": "small" if n % 2 else "large"}), step("write", 0.0, 0)]
            + ([failing("TimeoutError: 3 s")] if n == 11 else []),
            pipeline_version="2.0" if n > 8 else "1.0",
            metadata={"customer": "ana" if n % 2 else "ben"},
        )
        for n in range(1, 12)
    ]
    save(lens, *made, state("run-12", "running", now, []))
    return lens


# --- sorted lists


def test_the_dearest_come_first_and_pages_are_complete(costs: Lens) -> None:
    ids, command = [], "list --sort cost -n 5 -o id -s costs.db"
    for _ in range(3):
        page = costs(command)
        ids += page.lines
        if "next page: lens " not in page.err:
            break
        command = f"{page.err.partition('next page: lens ')[2].strip()} -o id"
    assert ids == [f"run-{n:02}" for n in range(11, 0, -1)] + ["run-12"]
    assert costs("list --sort cost --all -o id -s costs.db").lines == ids
    assert costs("list --sort cost:asc -n 2 -o id -s costs.db").lines == ["run-01", "run-02"]
    assert costs("list --sort cost --reverse -n 2 -o id -s costs.db").lines == ["run-01", "run-02"]
    assert costs("list --sort started -n 2 -o id -s costs.db").lines == costs("list -n 2 -o id -s costs.db").lines
    assert costs("list --sort size --all -o id -s costs.db").lines[-1] == "run-12"


@pytest.mark.parametrize("field", ["updated", "duration", "tokens", "size"])
def test_each_order_is_that_of_its_field(costs: Lens, field: str) -> None:
    name = {"updated": "updated_at", "duration": "duration_ms", "tokens": "tokens", "size": "size_bytes"}[field]
    values = [run[name] for run in costs(f"list --sort {field} --all -o json -s costs.db").json]
    known = [value for value in values if value is not None]
    assert known == sorted(known, reverse=True)
    assert values[len(known) :] == [None] * (len(values) - len(known))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--sort price", 'unknown --sort field "price"'),
        ("--sort cost:up", 'unknown direction of --sort "up"'),
        ("--sort cost --count", "--count and --sort"),
        ("--sort cost --cursor nonsense", "is not a cursor"),
    ],
)
def test_an_order_that_is_none(costs: Lens, options: str, said: str) -> None:
    done = costs(f"list {options} -s costs.db")
    assert (done.code, said in done.err.replace("cannot be combined with", "and")) == (2, True), done.err


def test_a_cursor_belongs_to_its_order(costs: Lens) -> None:
    cursor = shlex.split(costs("list --sort cost -n 2 -s costs.db").err.partition("--cursor ")[2])[0]
    for order in ("", "--sort tokens", "--sort cost:asc"):
        done = costs(f"list {order} --cursor {cursor} -s costs.db")
        assert (done.code, "other filters or another order" in done.err) == (2, True), done.err


def test_what_is_kept_is_a_page() -> None:
    top = Top(Sort("cost"), 3)
    for n in range(1000):
        top.add(f"r{n % 997}-{n}", float(n % 101) if n % 7 else None)
        assert len(top._heap) <= 3
    assert [value for _, value in top.first()] == [100.0] * 3


# --- groups


def test_cost_by_version_and_by_metadata(costs: Lens) -> None:
    rows = costs("stats --by version --sort cost -s costs.db -o json").json["groups"]
    assert [(row["pipeline_version"], row["total"], row["cost_usd"]) for row in rows] == [
        ("1.0", 9, 0.36),
        ("2.0", 3, 0.3),
    ]
    by = costs("stats --by meta:customer --by version --sort cost -n 1 -s costs.db -o csv").lines
    assert by[0].startswith("meta:customer,pipeline_version,total,by_status,duration_ms,cost_usd,tokens")
    assert by[1].startswith("ben,1.0,4,")


@pytest.mark.parametrize("sort", ["", "--sort runs", "--sort cost:asc", "--sort meta:customer"])
def test_runs_without_a_value_come_last(lens: Lens, sort: str) -> None:
    lens.edit("UPDATE workflow_state SET metadata = '{\"customer\": \"a\"}' WHERE run_id IN ('paused-001', 'fail-001')")
    groups = lens(f"stats --by meta:customer {sort} -o json").json["groups"]
    assert groups[-1]["meta:customer"] is None, groups
    assert max(groups, key=lambda group: group["total"]) is groups[-1]


def test_the_newest_hours_are_kept_in_their_order(lens: Lens) -> None:
    for number, run_id in enumerate(("paused-001", "fail-001", "order-001")):
        for table in ("workflow_state", "runs"):
            lens.edit(f"UPDATE {table} SET created_at = '2026-11-2{number}T03:00:00+00:00' WHERE run_id = '{run_id}'")
    every = [group["hour"] for group in lens("stats --by hour --utc -o json").json["groups"] if group["hour"]]
    assert len(every) > 2
    kept = lens("stats --by hour --utc -n 2 -o tsv").tsv
    assert [row["hour"] for row in kept] == every[-2:]
    first = lens("stats --by hour --sort hour:asc --utc -n 2 -o tsv").tsv
    assert [row["hour"] for row in first] == every[:2]
    shown = lens("stats --by hour --utc --status completed,failed,paused -n 2", tty=True)
    assert re.search(r"\d+ more groups: lens stats --by hour -n \d+ --utc --status ", shown.out + shown.err)


def test_a_limit_holds_for_every_list_of_the_document(lens: Lens) -> None:
    whole, first = lens("stats -o json"), lens("stats -o json -n 1")
    for name in ("by_pipeline", "failures", "spans"):
        assert first.json[name] == whole.json[name][:1], name
    assert {name: first.json[name] for name in ("total", "by_status")} == {
        name: whole.json[name] for name in ("total", "by_status")
    }
    assert whole.err == ""
    assert f"{len(whole.json['spans']) - 1} more names of spans: lens stats -n {len(whole.json['spans'])}" in first.err
    assert "more pipelines: lens stats -n " in lens("stats -o csv -n 1").err
    grouped = lens("stats --by status -o json -n 2")
    assert grouped.json["groups"] == lens("stats --by status -o json").json["groups"][:2]


def test_an_empty_store_is_said_to_be_empty(bare_lens: Lens) -> None:
    assert bare_lens("init empty.db").code == 0
    assert "no runs in this store" in bare_lens("stats -s empty.db").err
    assert "no runs match" in bare_lens("stats -s empty.db --status failed -o csv").err


def test_steps_and_models_are_counted_by_execution(costs: Lens) -> None:
    rows = costs("stats --by step,model -s costs.db -o json").json["groups"]
    found = {(row["step_name"], row["model"]): (row["total"], row["cost_usd"]) for row in rows}
    assert found == {("plan", "small"): (6, 0.36), ("plan", "large"): (5, 0.3), ("write", None): (12, 0.0)}


def test_a_day_has_its_hours(costs: Lens) -> None:
    rows = costs("stats --by day --utc -s costs.db -o json").json["groups"]
    assert sum(row["total"] for row in rows) == 12
    assert all(sum(row["trend"]) == row["total"] and len(row["trend"]) == 24 for row in rows)
    screen = costs("stats --by day --utc -s costs.db", tty=True, width=80).out
    assert all(word in screen for word in ("BY HOUR", "█", "COST"))
    assert "--by step excludes it" in screen.rpartition("durations:")[2]


@pytest.mark.parametrize("what", ["weekday", "meta:", "meta"])
def test_what_cannot_be_grouped_by(costs: Lens, what: str) -> None:
    assert costs(f"stats --by {what} -s costs.db").code == 2


def test_percentiles_are_exact_where_few_and_say_so() -> None:
    few, many = Histogram(), Histogram()
    for n in range(1, FEW + 2):
        many.add(float(n))
        if n <= 200:
            few.add(float(n))
    assert (few.durations().p50, few.durations().p99, few.durations().exact) == (100.0, 198.0, True)
    assert many.durations().exact is False
    assert abs((many.durations().p95 or 0) - 0.95 * FEW) < 0.02 * FEW
    assert many.count == FEW + 1


def test_models_come_from_the_spans_below_a_step() -> None:
    steps = [StepRecord(0, "plan", "completed"), StepRecord(1, "write", "completed", model="own")]
    spans = [
        Span("1", None, "run", "completed", 0.0, 9.0, None),
        Span("2", "1", "plan", "completed", 1.0, 2.0, None),
        Span("3", "2", "chat", "completed", 1.0, 1.0, None, {"gen_ai.request.model": "m-1"}),
        Span("4", "2", "chat", "completed", 2.0, 1.0, None, {"gen_ai.request.model": "m-2"}),
        Span("5", "1", "write", "completed", 3.0, 2.0, None, {"model": "other"}),
    ]
    assert [found.model for found in with_models(steps, spans)] == ["m-1, m-2", "own"]
    assert (model_in({"model": 4}), tokens_of({"input": 3, "output": 4}), tokens_of({"total": 9, "x": 1})) == (
        None,
        7,
        9,
    )


# --- what failed anew


@pytest.fixture
def deploy(lens: Lens) -> Lens:
    """Version 2 of a pipeline fails in a new way, and both fail in an old one."""
    now = NOW

    def runs(version: str, error: str, hours: float, count: int) -> list[dict[str, Any]]:
        when = now - timedelta(hours=hours)
        return [
            state(f"{version}-{error[:4]}-{hours}-{n}", "failed", when, [failing(error)], pipeline_version=version)
            for n in range(count)
        ]

    old = [one for day in range(2, 7) for one in runs("1.0", "TimeoutError: 3 s", 24 * day, 2)]
    save(lens, *old, *runs("2.0", "KeyError: 'x'", 2, 3), *runs("2.0", "TimeoutError: 9 s", 3, 1))
    return lens


def test_what_is_new_since_a_version(deploy: Lens) -> None:
    rows = deploy("failed --by version -s costs.db -o json").json
    assert [(row["pipeline_version"], row["error"], row["count"], row["new"]) for row in rows] == [
        ("2.0", "KeyError: '#'", 3, True),
        ("2.0", "TimeoutError: # s", 1, False),
    ]
    assert rows[1]["usual"] == 1.25  # ten in eight windows
    assert deploy("failed --by version --version 1.0 -s costs.db -o json").json == []
    hours = deploy("failed --by hour -s costs.db -o json").json
    assert [(row["error"], row["new"]) for row in hours] == [("KeyError: '#'", True), ("TimeoutError: # s", False)]
    assert deploy("failed --by step -s costs.db").code == 2


def test_nothing_is_new_where_there_is_nothing_to_compare_with(lens: Lens) -> None:
    """A first version fails in no new way; one that failed in no way before does."""
    early, late = NOW - timedelta(days=3), NOW - timedelta(hours=2)
    first = state("a-1", "failed", late, [failing("KeyError: 'x'")], pipeline_version="1.0")
    save(lens, first)
    for by in ("version", "hour"):
        (row,) = lens(f"failed --by {by} -s costs.db -o json").json
        assert (row["new"], row["compared"]) == (False, False)
        shown = lens(f"failed --by {by} -s costs.db", tty=True, width=160)
        assert "NEW" not in shown.out
        assert "1 error, 0 new" in shown.err
        assert "to compare with" in shown.err
    save(lens, state("a-0", "completed", early, [], pipeline_version="0.9"))
    for by in ("version", "hour"):
        (row,) = lens(f"failed --by {by} -s costs.db -o json").json
        assert (row["new"], row["compared"]) == (True, True)


def test_status_in_a_line_and_versions_of_all_pipelines(lens: Lens) -> None:
    save(lens, state("a-1", "failed", NOW, [failing("KeyError: 'x'")]), state("a-2", "paused", NOW, []))
    assert lens("status --quiet -s costs.db").lines == ["1 failing, 0 stale, 1 waiting"]
    assert lens("status --quiet -s costs.db -o json").json["runs"] == 2
    apart = "lens stats --store costs.db --by pipeline --by version"
    assert apart in lens("stats --by version -s costs.db").err
    assert apart not in lens("stats --by version --by pipeline -s costs.db").err


def test_a_run_that_failed_for_its_task_shows_the_error_of_the_task(lens: Lens) -> None:
    now = NOW
    parent = state("parent", "failed", now, [failing("background task bg_1 failed")])
    task = {
        "is_background_task": True,
        "parent_run_id": "parent",
        "task_id": "bg_1",
        "background_error": "ValueError: no",
    }
    save(lens, parent, state("parent_bg_bg_1", "failed", now, [], **task))
    (group,) = lens("failed -s costs.db -o json").json
    assert (group["error"], group["count"]) == ("ValueError: no", 2)
    assert {run["error_message"] for run in lens("failed --flat -s costs.db -o json").json} == {"ValueError: no"}


# --- thresholds


@pytest.mark.parametrize(
    ("alerts", "code"),
    [
        ("", 1),
        ('failing_share = "50%"\nstale = 0', 0),
        ('failing_share = "5%"', 1),
        ('failing_share = "50%"\noldest_waiting = "2h"', 1),
        ('failing_share = "50%"\noldest_waiting = "3d"', 0),
    ],
)
def test_thresholds_decide_on_the_exit_code(costs: Lens, alerts: str, code: int) -> None:
    asked = NOW - timedelta(hours=5)
    save(
        costs,
        state(
            "ask",
            "paused",
            asked,
            [],
            pipeline_context={"pause_message": "Go?", "hitl_data": {"last_hitl_step": "ask"}},
        ),
    )
    (costs.cwd / "lens.toml").write_text(f"[alerts]\n{alerts}\n")
    done = costs("status --exit-status -s costs.db -o json")
    assert done.code == code, done.out
    assert (done.json["failed_since"], done.json["started_since"]) == (1, 13)
    assert costs("status --since 1m -s costs.db -o json").json["failed_since"] == 0


@pytest.mark.parametrize("share", ["5", '"5"', '"101%"', '"many"'])
def test_a_share_that_is_none(lens: Lens, share: str) -> None:
    (lens.cwd / "lens.toml").write_text(f"[alerts]\nfailing_share = {share}\n")
    done = lens("status -s flujo_ops.db")
    said = "must be a string in quotes" if share == "5" else 'must be a percentage like "5%"'
    assert (done.code, said in done.err) == (2, True), done.err


# --- filters that SQL judges


def test_metadata_and_texts_are_judged_as_the_reference_does(lens: Lens) -> None:
    now = NOW
    values = ["x", 1, 1.5, True, None, ["a"], {"b": 1}, 10**17, "1", "straße", "ſ"]
    save(lens, *(state(f"r{n}", "completed", now, [], metadata={"k": value}) for n, value in enumerate(values)))
    with sqlite3.connect(lens.cwd / "costs.db") as db:
        db.executemany(
            "UPDATE workflow_state SET error_message = ? WHERE run_id = ?", [("Straße ß", "r0"), ("ESC", "r1")]
        )
    for asked, count in (
        ("k=x", 1),
        ("k=1", 2),
        ("k=1.5", 1),
        ("k=true", 1),
        ('k=["a"]', 1),
        ("k=straße", 1),
        ("j=x", 0),
    ):
        assert lens("list", "--meta", asked, "--count", "-s", "costs.db").out == f"{count}\n", asked
    for sought, ids in (("STRASSE", ["r0"]), ("esc", ["r1"]), ("r10", ["r10"]), ("orders", 11)):
        found = lens("list", "--search", sought, "--all", "-o", "id", "-s", "costs.db").lines
        assert (found if isinstance(ids, list) else len(found)) == ids, sought


def test_reading_leaves_no_trace(costs: Lens, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in costs.cwd.iterdir() if path.is_file()}
    for command in ("stats --by day", "list --sort size", "failed --by version", "status", "list --meta a=b --count"):
        assert costs(f"{command} -s costs.db").code == 0
    assert {path.name: path.read_bytes() for path in costs.cwd.iterdir() if path.is_file()} == before
