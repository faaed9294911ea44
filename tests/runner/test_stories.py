"""What is saved has the shape of real stores: the commands tell it, and the runner goes on with what others wrote."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from flujo_lens import FileBackend, Flujo, SQLiteBackend, StateBackend, StateIncompatibilityError, Step, step
from flujo_lens.state.views import RunFilter

DATA = Path(__file__).resolve().parents[1] / "data"


@step
async def load(number: int) -> dict[str, int]:
    return {"number": number}


@step
async def charge(invoice: Any) -> None:
    raise ValueError("card declined")


ask = Step.human_in_the_loop("approve", message_for_user="Approve?")


def flujo(pipeline: Any, backend: StateBackend) -> Flujo[Any]:
    return Flujo(pipeline, pipeline_name="orders", pipeline_version="1.0.0", state_backend=backend)


@pytest.fixture(params=["file", "sqlite"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    made = FileBackend(tmp_path / "states") if request.param == "file" else SQLiteBackend(tmp_path / "store.db")
    yield made
    asyncio.run(made.shutdown())


def test_a_failed_run_is_told(backend: StateBackend) -> None:
    flujo(load >> charge, backend).run(7, run_id="r")

    async def check() -> None:
        (group,) = (await backend.read_stats(RunFilter())).failures
        assert (group.error, group.step_name, group.sample_run_id) == ("ValueError: card declined", "charge", "r")
        detail = await backend.read_run("r")
        assert detail is not None
        assert [(s.step_name, s.status, s.output, s.error) for s in detail.steps] == [
            ("load", "completed", {"number": 7}, None),
            ("charge", "failed", None, "ValueError: card declined"),
        ]
        (root,) = await backend.read_spans("r")
        assert (root.name, root.status, root.duration_ms is not None) == ("pipeline_run", "failed", True)
        assert [(s.name, s.status) for s in root.children] == [("load", "completed"), ("charge", "failed")]

    asyncio.run(check())


def test_a_paused_run_is_told_and_its_spans_end_with_the_answer(backend: StateBackend) -> None:
    runner = flujo(load >> ask, backend)
    runner.run(7, run_id="r")

    async def check(status: str, child: str) -> None:
        (root,) = await backend.read_spans("r")
        assert (root.status, [(s.name, s.status) for s in root.children]) == (
            status,
            [("load", "completed"), ("approve", child)],
        )

    async def waiting() -> tuple[str | None, str | None, int | None, int | None]:
        (run,) = (await backend.query_runs(RunFilter(statuses=frozenset({"paused"})))).items
        return run.step_name, run.pause_message, run.current_step_index, run.total_steps

    assert asyncio.run(waiting()) == ("approve", "Approve?", 1, 2)
    asyncio.run(check("paused", "paused"))
    runner.resume("r", "yes")
    asyncio.run(check("completed", "completed"))


def test_the_document_has_what_the_library_reads(backend: StateBackend) -> None:
    flujo(load >> ask, backend).run(7, run_id="r")
    state = asyncio.run(backend.load_state("r"))
    assert state is not None
    (entry,) = state["step_history"]
    assert {"name", "output", "success", "attempts", "latency_s", "token_counts", "cost_usd", "feedback"} <= set(entry)
    context = state["pipeline_context"]
    assert (context["status"], context["pause_message"]) == ("paused", "Approve?")
    assert context["hitl_data"] == {"last_hitl_step": "approve"}
    assert context["scratchpad"] == {"status": "paused", "pause_message": "Approve?"}
    assert (state["pipeline_name"], state["pipeline_version"]) == ("orders", "1.0.0")
    assert (state["current_step_index"], state["last_step_output"]) == (1, {"number": 7})


# --- runs that the real library wrote


def approvals(name: str = "load") -> Any:
    async def passed(value: Any) -> str:
        return f"passed {value}"

    steps = [Step(each, function=passed) for each in (name, "after_human", "finish")]
    return steps[0] >> Step.human_in_the_loop("approve", "Approve?") >> steps[1] >> steps[2]


@pytest.mark.parametrize("version", ["flujo-0.6.11", "flujo-0.4.35"])
def test_a_run_of_the_library_goes_on_by_its_names(version: str, tmp_path: Path) -> None:
    shutil.copyfile(DATA / version / "flujo_ops.db", tmp_path / "store.db")
    backend = SQLiteBackend(tmp_path / "store.db")

    def runner(pipeline: Any, pipeline_version: str) -> Flujo[Any]:
        return Flujo(pipeline, pipeline_name="approvals", pipeline_version=pipeline_version, state_backend=backend)

    assert runner(approvals(), "1.0.0").run(None, run_id="paused-001").pause_message == "Approve invoice 4711? (yes/no)"
    for other in (runner(approvals("fetch"), "1.0.0"), runner(approvals(), "2.0.0")):
        with pytest.raises(StateIncompatibilityError) as refused:
            other.resume("paused-001", "yes")
        assert refused.value.code == "LENS-C6"
    done = runner(approvals(), "1.0.0").resume("paused-001", "yes")
    assert (done.status, done.output) == ("completed", "passed passed yes")
    state = asyncio.run(backend.load_state("paused-001"))
    assert state is not None
    assert state["pipeline_context"]["invoice"]["number"] == 4711, "what the model does not know stays"
    asyncio.run(backend.shutdown())


@pytest.mark.parametrize("version", ["flujo-0.6.11", "flujo-0.4.35"])
def test_a_failed_run_of_the_library_goes_on_at_the_step_that_failed(version: str, tmp_path: Path) -> None:
    shutil.copyfile(DATA / version / "flujo_ops.db", tmp_path / "store.db")
    backend = SQLiteBackend(tmp_path / "store.db")
    seen: list[Any] = []

    async def boom(value: Any) -> str:
        seen.append(value)
        return "paid"

    detail = asyncio.run(backend.read_run("fail-001"))
    assert detail is not None
    pipeline = Step("load", function=boom) >> Step("boom", function=boom)
    runner = Flujo(pipeline, pipeline_name="payments", pipeline_version="1.0.0", state_backend=backend)
    assert runner.run(None, run_id="fail-001").output == "paid"
    assert seen == ["loaded:pay"]
    asyncio.run(backend.shutdown())
