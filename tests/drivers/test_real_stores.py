"""Stores that the real library wrote, in four versions: every run once, and right."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import expected
import pytest
from stores import ALL, DATA, MIXTURE, NEW, OLD, OLDEST, WAL, by_id, copy, detail, outline, read, runs, spans

from flujo_lens.state.backends.file import FileBackend
from flujo_lens.state.views import Pause, RunFilter, RunSummary, Span, StepRecord

LIMA = timezone(timedelta(hours=-5))
TABLES = {NEW: expected.NEW, WAL: expected.NEW, OLD: expected.OLD, OLDEST: expected.OLDEST}
BOOM = "payment gateway said: 'declined' (code=51)"


def instant(text: str) -> datetime:
    """A time of the day on which the stores were made."""
    return datetime.fromisoformat(f"2026-11-21T{text}+00:00")


def step_text(step: StepRecord) -> str:
    """A step as `expected` writes it."""
    failed = "!" if step.status == "failed" else ""
    return f"{step.step_name}{failed}/{step.attempts}/{step.token_counts}{f'/{step.cost_usd}' if step.cost_usd else ''}"


def line(run: RunSummary, steps: tuple[StepRecord, ...]) -> str:
    """A run as `expected` writes it."""
    assert run.created_at is not None
    assert run.updated_at is not None
    return "|".join(
        (
            run.run_id,
            f"{run.pipeline_name} {run.pipeline_version}",
            run.status,
            run.created_at.strftime("%H:%M:%S.%f"),
            run.updated_at.strftime("%H:%M:%S.%f"),
            " ".join(step_text(step) for step in steps),
        )
    )


@pytest.fixture(params=ALL)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    return request.param, copy(request.param, tmp_path)


@pytest.fixture
def new(tmp_path: Path) -> Path:
    return copy(NEW, tmp_path / "new")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return copy(OLD, tmp_path / "old")


def test_the_copy_of_a_store_in_use_is_still_one() -> None:
    """Whoever opens it in the ordinary way checkpoints it: then nothing would be tested any more."""
    assert {path.name for path in (DATA / WAL).iterdir()} == {f"flujo_ops.db{end}" for end in ("", "-wal", "-shm")}


@pytest.mark.parametrize("name", TABLES)
def test_every_run_once_with_its_name_status_times_and_steps(name: str, tmp_path: Path) -> None:
    path = copy(name, tmp_path)
    found = runs(path, zone=LIMA)
    lines = [line(run, detail(path, run.run_id, LIMA).steps) for run in found]
    assert lines == TABLES[name].splitlines()
    assert not any(run.problems for run in found)


def test_the_list_and_the_detail_say_the_same(store: tuple[str, Path]) -> None:
    name, path = store
    for run in runs(path, zone=LIMA):
        assert detail(path, run.run_id, LIMA).run == run._replace(tasks={}), name


def test_the_writers_zone_is_found_in_the_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """0.4.35 saved local times beside UTC ones; the machine that reads may be anywhere."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    path = copy(OLD, tmp_path)
    assert [line(run, detail(path, run.run_id).steps) for run in runs(path)] == expected.OLD.splitlines()


@pytest.mark.parametrize("name", [OLD, MIXTURE])
def test_a_zone_that_a_person_set_counts_first(name: str, tmp_path: Path) -> None:
    """Only states have naive local times, so the start of a run does not move, and a crashed one's last save does."""
    found = by_id(copy(name, tmp_path), zone=timezone(timedelta(hours=-7)))["crashed-001"]
    assert found.created_at == instant("00:11:34.985610")
    assert found.updated_at == instant("02:11:35.027414")


def test_without_any_hint_the_oldest_stores_times_are_this_machines(tmp_path: Path) -> None:
    found = by_id(copy(OLDEST, tmp_path), zone=UTC)["orders-001"]
    assert found.created_at == datetime(2026, 11, 20, 21, 51, 52, 716686, UTC)


# --- what a run says


def test_durations_are_wall_time_from_start_to_end(new: Path, old: Path) -> None:
    new_runs = by_id(new)
    assert new_runs["orders-v1-001"].duration_ms == 112.043
    assert new_runs["crashed-001"].duration_ms is None
    assert new_runs["fail-001"].duration_ms == 59.645


def test_durations_of_the_older_library(old: Path) -> None:
    found = by_id(old)
    assert found["orders-v1-001"].duration_ms == 176.392
    assert found["resumed-001"].duration_ms == 79.599
    assert found["crashed-001"].duration_ms is None


@pytest.mark.parametrize("name", [NEW, WAL])
def test_where_each_run_stands(name: str, tmp_path: Path) -> None:
    found = by_id(copy(name, tmp_path))
    standing = {i: run.step_name for i, run in found.items() if run.step_name is not None}
    assert standing == {
        "bgcrashed-001_bg_bg_58a11160bc9345138fd41a15a80c2fd9": "slow_bg",
        "bgcrashed-001": "slow_bg",
        "bgparent-001_bg_bg_23d875c599424dd6aa5fe053e8f2c700": "notify_fail",
        "crashed-001": "enrich",
        "cancelled-001": "slow",
        "paused-001": "approve",
        "paused-schema-001": "pick",
        "paused-loop-001": "ask",
        "fail-001": "boom",
    }
    assert found["resumed-001"].current_step_index == 8
    assert found["resumed-001"].total_steps == 4


def test_where_each_run_of_the_older_library_stands(old: Path) -> None:
    standing = {i: run.step_name for i, run in by_id(old).items() if run.step_name is not None}
    assert standing == {
        "paused-001": "approve",
        "paused-schema-001": "pick",
        "paused-loop-001": "ask_loop",
        "fail-001": "boom",
        "cancelled-001": "slow",
    }


def test_errors(new: Path, old: Path) -> None:
    errors = {i: run.error_message for i, run in by_id(new).items() if run.error_message}
    assert errors == {
        "fail-001": f"Agent execution failed with ValueError: {BOOM}",
        "bgparent-001_bg_bg_23d875c599424dd6aa5fe053e8f2c700": (
            "Agent execution failed with RuntimeError: smtp: connection refused"
        ),
    }


def test_errors_of_the_older_library(old: Path) -> None:
    assert {i: run.error_message for i, run in by_id(old).items() if run.error_message} == {"fail-001": BOOM}
    failed = detail(old, "fail-001").steps[1]
    assert (failed.step_name, failed.status, failed.error, failed.attempts) == ("boom", "failed", BOOM, 1)


@pytest.mark.parametrize(("name", "step"), [(NEW, "approve"), (WAL, "approve"), (OLD, "approve"), (OLDEST, None)])
def test_what_a_paused_run_waits_for(name: str, step: str | None, tmp_path: Path) -> None:
    path = copy(name, tmp_path)
    message = "Approve invoice 4711? (yes/no)"
    found = by_id(path)
    assert found["paused-001"].pause_message == message
    assert detail(path, "paused-001").pause == Pause(step, message)
    assert detail(path, "resumed-001").pause is None
    assert found["resumed-001"].pause_message is None
    if name != OLDEST:
        assert found["paused-schema-001"].pause_message == "Pick a colour"
        assert found["paused-loop-001"].pause_message == "continue?"


def test_a_run_that_was_resumed_has_the_persons_step_too(new: Path, old: Path) -> None:
    for path in (new, old):
        steps = detail(path, "resumed-001").steps
        assert [(s.step_index, s.step_name) for s in steps] == [
            (0, "load"),
            (1, "approve"),
            (2, "after_human"),
            (3, "finish"),
        ]
        assert steps[1].output == "yes"
        assert steps[1].created_at is None
        assert steps[2].created_at is not None


def test_steps_know_what_went_in_when_they_were_saved_and_how_long_they_took(new: Path) -> None:
    first, second, _ = detail(new, "orders-v1-001").steps
    assert (first.input, first.output) == ("order 1", "loaded:order 1")
    assert first.created_at == instant("00:11:07.730921")
    assert first.duration_ms == 12.169085
    assert second.input == "loaded:order 1"
    assert second.output["text"] == "loaded:order 1"


def test_costs(new: Path) -> None:
    load, priced, _ = detail(new, "cost-001").steps
    assert (priced.cost_usd, priced.token_counts) == (0.0123, 456)
    assert (load.cost_usd, load.token_counts) == (0.0, 1)


def test_background_tasks_and_their_parents(new: Path) -> None:
    found = by_id(new)
    tasks = {i: (run.parent_run_id, run.task_id) for i, run in found.items() if run.is_background_task}
    assert tasks == {
        f"{parent}_bg_{task}": (parent, task)
        for parent, task in (
            ("bgparent-001", "bg_423670f9b70243479cbd071658e5a469"),
            ("bgparent-001", "bg_23d875c599424dd6aa5fe053e8f2c700"),
            ("bgcrashed-001", "bg_58a11160bc9345138fd41a15a80c2fd9"),
        )
    }
    assert found["bgparent-001"].tasks == {"completed": 1, "failed": 1}
    children = detail(new, "bgparent-001").children
    assert [child.task_id for child in children] == [
        "bg_423670f9b70243479cbd071658e5a469",
        "bg_23d875c599424dd6aa5fe053e8f2c700",
    ]
    assert detail(new, "bgparent-001_bg_bg_423670f9b70243479cbd071658e5a469").children == ()


def test_metadata_and_totals(new: Path, old: Path) -> None:
    found = by_id(new)
    assert found["meta-001"].total_steps == 3
    assert dict(found["bgcrashed-001_bg_bg_58a11160bc9345138fd41a15a80c2fd9"].metadata) == {
        "is_background_task": True,
        "task_id": "bg_58a11160bc9345138fd41a15a80c2fd9",
        "parent_run_id": "bgcrashed-001",
        "step_name": "slow_bg",
        "input_data": "loaded:crash",
    }


def test_values_of_every_type_come_out_as_the_library_left_them(new: Path, old: Path) -> None:
    for path in (new, old):
        for run_id in ("binary-001", "complex-001", "orders-v2-001"):
            found = detail(path, run_id)
            assert found.run.status == "completed"
            assert found.state is not None
            assert isinstance(found.state["pipeline_context"], dict)
    assert detail(new, "orders-v2-001").final_output == "finished v2"


def test_the_oldest_library_has_no_steps_to_show(tmp_path: Path) -> None:
    path = copy(OLDEST, tmp_path)
    found = detail(path, "orders-001")
    assert (found.steps, found.children, found.has_spans, found.final_output) == ((), (), False, "finished")
    assert found.state is not None
    assert found.state["pipeline_context"]["initial_prompt"] == "order 1"
    assert spans(path, "orders-001") == []
    assert read(path, lambda b: b.read_evaluations()) == []
    assert read(path, lambda b: b.read_system_state()) == []
    assert read(path, lambda b: b.read_span_stats(RunFilter())) == ()
    assert read(path, lambda b: b.list_run_steps("orders-001")) == []
    stats = read(path, lambda b: b.read_stats(RunFilter()))
    assert stats.by_status == {"completed": 6, "cancelled": 1, "paused": 1, "running": 1}
    found = by_id(path)["meta-001"]
    assert (found.pipeline_name, found.pipeline_version, found.total_steps) == ("orders", "1.0.0", 3)
    assert by_id(path)["resumed-001"].duration_ms == 15


def test_a_store_that_two_versions_wrote(tmp_path: Path) -> None:
    path = copy(MIXTURE, tmp_path)
    found = runs(path)
    assert [run.run_id for run in found[:4]] == ["later-paused", "later-failed", "later-failed_bg_bg_1", "later-done"]
    old = [line(run, detail(path, run.run_id).steps) for run in found[4:]]
    assert old == expected.OLD.splitlines()
    later = {run.run_id: run for run in found[:4]}
    assert later["later-done"].created_at == instant("09:00:00.000001")
    assert later["later-failed"].error_message == "RuntimeError: smtp: connection refused"
    assert later["later-failed"].step_name == "boom"
    assert later["later-failed"].tasks == {"failed": 1}
    assert later["later-failed_bg_bg_1"].error_message == "smtp: connection refused"
    assert later["later-paused"].pause_message == "Go on?"
    assert [s.step_name for s in detail(path, "later-failed").steps] == ["load", "boom"]
    assert [c.run_id for c in detail(path, "later-failed").children] == ["later-failed_bg_bg_1"]
    assert [e.key for e in read(path, lambda b: b.read_system_state())] == ["seen"]
    assert [e.score for e in read(path, lambda b: b.read_evaluations("fail-001"))] == [0.5]


# --- spans


def test_four_levels(new: Path, old: Path) -> None:
    levels = """\
load completed
  research completed
    enrich completed
      finish completed
      boom failed
  finish completed"""
    assert outline(spans(new, "trace4-001")) == f"pipeline_run completed\n  {levels}"


def test_four_levels_of_the_older_library(old: Path) -> None:
    roots = spans(old, "trace4-001")
    assert outline(roots).splitlines()[0] == "pipeline_root running"
    assert outline(roots).splitlines()[3:6] == ["    enrich completed", "      finish completed", "      boom failed"]
    (root,) = roots
    assert root.duration_ms is None
    assert root.started_at == datetime.fromtimestamp(0, UTC) + timedelta(seconds=1795219891.4372933)


def _span(roots: list[Span], *path: int) -> Span:
    span = roots[path[0]]
    for at in path[1:]:
        span = span.children[at]
    return span


def test_a_monotonic_clock_counts_from_the_start_of_the_run(new: Path) -> None:
    roots = spans(new, "trace4-001")
    started = instant("00:11:09.256917")
    assert _span(roots, 0).started_at == started
    assert (_span(roots, 0).start_offset_ms, _span(roots, 0).duration_ms) == (0.0, 97.941568)
    boom = _span(roots, 0, 1, 0, 1)
    assert (boom.name, boom.start_offset_ms, boom.duration_ms) == ("boom", 49.34675, 0.042675)
    assert boom.started_at == started + timedelta(seconds=2025.165011588 - 2025.115664838)
    assert boom.attributes["feedback"].startswith("nested failure")


def test_an_epoch_clock_is_the_time(new: Path) -> None:
    """The OpenTelemetry exporter writes the date; its rows come leaves first."""
    roots = spans(new, "otel-001")
    assert outline(roots) == "pipeline_run completed\n  outer running\n    inner failed"
    assert abs(_span(roots, 0).started_at - instant("00:11:09.410947")) < timedelta(microseconds=2)
    assert _span(roots, 0, 0, 0).start_offset_ms == pytest.approx(10.424, abs=0.01)
    assert _span(roots, 0, 0).duration_ms == pytest.approx(20.8, abs=0.01)


@pytest.mark.parametrize("name", [NEW, OLD])
def test_a_resumed_run_has_all_its_roots(name: str, tmp_path: Path) -> None:
    path = copy(name, tmp_path)
    stored = read(path, lambda b: b.get_spans("resumed-001"))
    roots = spans(path, "resumed-001")
    assert len(roots) == sum(row["parent_span_id"] is None for row in stored)
    assert all(root.start_offset_ms == 0.0 for root in roots)
    assert outline(roots).count("\n") + 1 == len(stored)


def test_crashed_runs_have_no_spans(new: Path, old: Path) -> None:
    for path in (new, old):
        assert spans(path, "crashed-001") == []
        assert detail(path, "crashed-001").has_spans is False
        assert detail(path, "trace4-001").has_spans is True


def test_every_span_of_a_store_is_in_a_tree(store: tuple[str, Path]) -> None:
    _, path = store
    for run in runs(path):
        stored = read(path, lambda b, run_id=run.run_id: b.get_spans(run_id))
        shown = outline(spans(path, run.run_id))
        assert len(shown.splitlines()) == len(stored), run.run_id


def test_a_trace_is_made_of_the_spans_as_no_version_stores_one(new: Path) -> None:
    tree = read(new, lambda b: b.get_trace("trace4-001"))
    assert [child["name"] for child in tree["children"]] == ["load", "research", "finish"]
    assert [child["name"] for child in tree["children"][1]["children"][0]["children"]] == ["finish", "boom"]
    json.dumps(tree)
    assert read(new, lambda b: b.get_trace("crashed-001")) is None


def test_span_statistics(new: Path, old: Path) -> None:
    by_name = {s.name: s for s in read(new, lambda b: b.read_span_stats(RunFilter()))}
    assert (by_name["boom"].count, by_name["boom"].failed) == (2, 2)
    assert by_name["load"].failed == 0
    assert by_name["load"].duration_ms.p50 == pytest.approx(14.8, rel=0.03)
    of_one = read(new, lambda b: b.read_span_stats(RunFilter(pipeline="otelpipe")))
    assert {s.name: (s.count, s.failed) for s in of_one} == {"pipeline_run": (1, 0), "outer": (1, 0), "inner": (1, 1)}
    old_names = {s.name: s for s in read(old, lambda b: b.read_span_stats(RunFilter(pipeline="payments")))}
    assert {name: s.failed for name, s in old_names.items()} == {"pipeline_root": 0, "load": 0, "boom": 1}


# --- the rest


def test_evaluations(new: Path) -> None:
    second, first = read(new, lambda b: b.read_evaluations())
    assert (first.run_id, first.step_name, first.score) == ("orders-v1-001", "finish", 0.87)
    assert (first.feedback, first.metadata) == (
        "good, but [terse]",
        {"judge": "rule", "at": "2026-07-01T00:00:00+00:00"},
    )
    assert first.created_at == instant("00:11:11")
    assert (second.run_id, second.step_name, second.feedback, second.metadata) == ("orders-v1-002", None, None, None)


def test_system_state(new: Path) -> None:
    (entry,) = read(new, lambda b: b.read_system_state())
    assert (entry.key, entry.value) == ("watermark:crm", {"cursor": "2026-07-01T00:00:00Z", "n": 3})
    assert entry.updated_at == instant("00:11:11.911369")


def test_statistics(new: Path, old: Path) -> None:
    stats = read(new, lambda b: b.read_stats(RunFilter()))
    assert stats.total == 30
    assert stats.by_status == {"completed": 20, "running": 4, "paused": 3, "failed": 2, "cancelled": 1}
    orders = next(p for p in stats.by_pipeline if p.pipeline_name == "orders")
    assert (orders.total, orders.by_status) == (11, {"completed": 9, "cancelled": 1, "running": 1})
    assert [(g.error, g.count) for g in stats.failures] == [
        ("RuntimeError: smtp: connection refused", 1),
        ("ValueError: payment gateway said: '#' (code=#)", 1),
    ]


def test_statistics_of_the_older_library(old: Path) -> None:
    stats = read(old, lambda b: b.read_stats(RunFilter()))
    assert stats.by_status == {"completed": 18, "paused": 3, "cancelled": 1, "failed": 1, "running": 1}
    assert [(g.error, g.step_name) for g in stats.failures] == [("payment gateway said: '#' (code=#)", "boom")]


def test_ids_with_odd_letters_are_found(store: tuple[str, Path]) -> None:
    _, path = store
    for run_id in ("weird id/with slash", "üñí-run"):
        assert read(path, lambda b, run_id=run_id: b.find_run_ids(run_id[:5])) == [run_id]
        assert detail(path, run_id).run.run_id == run_id
        assert [r.run_id for r in runs(path, RunFilter(search=run_id.upper()))] == [run_id]


# --- the folders of JSON files


@pytest.mark.parametrize("name", [NEW, OLD])
def test_a_folder_of_files(name: str, tmp_path: Path) -> None:
    folder = DATA / name / "file-state"
    stored = [json.loads(path.read_bytes()) for path in folder.glob("*.json")]

    async def work() -> list[RunSummary]:
        async with FileBackend(folder, zone=LIMA, cache_dir=tmp_path) as backend:
            return [run async for run in backend.iter_runs(RunFilter())]

    found = asyncio.run(work())
    assert sorted(run.run_id for run in found) == sorted(state["run_id"] for state in stored)
    by_run = {state["run_id"]: state for state in stored}
    for run in found:
        state = by_run[run.run_id]
        updated = datetime.fromisoformat(state["updated_at"])
        assert run.status == state["status"]
        assert run.updated_at == (updated if updated.tzinfo else updated.replace(tzinfo=LIMA)).astimezone(UTC)
        assert run.current_step_index == state["current_step_index"]
        assert run.problems == ()
    paused = {run.run_id: run.pause_message for run in found if run.status == "paused"}
    assert paused == {
        "paused-001": "Approve invoice 4711? (yes/no)",
        "paused-schema-001": "Pick a colour",
        "paused-loop-001": "continue?",
    }


def test_one_run_of_a_folder(tmp_path: Path) -> None:
    async def work() -> None:
        async with FileBackend(DATA / NEW / "file-state", cache_dir=tmp_path) as backend:
            failed = await backend.read_run("fail-001")
            assert failed is not None
            assert [step_text(step) for step in failed.steps] == ["load/1/1", "boom!/2/0"]
            assert failed.run.error_message == f"Agent execution failed with ValueError: {BOOM}"
            parent = await backend.read_run("bgparent-001")
            assert parent is not None
            assert {child.status for child in parent.children} == {"completed", "failed"}
            assert await backend.read_run("nobody") is None

    asyncio.run(work())
