"""What a run does: steps, failures, retries, time limits, questions; and where it goes on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from flujo_lens import (
    FileBackend,
    Flujo,
    InMemoryBackend,
    Pipeline,
    PipelineContext,
    PipelineRegistry,
    SQLiteBackend,
    StateBackend,
    StateIncompatibilityError,
    Step,
    step,
)
from flujo_lens.errors import (
    InvalidAnswerError,
    NotWaitingError,
    RunNotFoundError,
    UnknownValueError,
    UsageError,
)
from flujo_lens.runner.resume_point import fit
from flujo_lens.runner.stored_run import load as stored_of
from flujo_lens.runner.verdicts import Verdict as Judged

Make = Callable[[], StateBackend]


@pytest.fixture(params=["memory", "file", "sqlite"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StateBackend]:
    """A store of each kind."""
    if request.param == "memory":
        made: StateBackend = InMemoryBackend()
    elif request.param == "file":
        made = FileBackend(tmp_path / "states")
    else:
        made = SQLiteBackend(tmp_path / "store.db")
    yield made
    asyncio.run(made.shutdown())


class Invoice(BaseModel):
    number: int
    total: float


class Verdict(BaseModel):
    approved: bool
    note: str = ""


STUCK = "timed out after 0.05 s; it may still be running, since a plain function cannot be stopped; make it async"


class Counting(PipelineContext):
    count: int = 0
    status: str = "mine"


def flujo(pipeline: Pipeline | Step, backend: StateBackend, **more: Any) -> Flujo[Any]:
    return Flujo(pipeline, pipeline_name="orders", pipeline_version="1.0.0", state_backend=backend, **more)


@step
async def load(number: int) -> Invoice:
    return Invoice(number=number, total=9.5)


@step
def describe(invoice: Invoice, context: PipelineContext) -> str:
    context.scratchpad["thread"] = threading.current_thread() is threading.main_thread()
    return f"{type(invoice).__name__} {invoice.number}: {invoice.total}"


@dataclass
class Failing:
    """A step that fails so often."""

    times: int
    calls: int = 0

    async def __call__(self, value: Any) -> str:
        self.calls += 1
        if self.calls <= self.times:
            raise ValueError(f"card declined ({self.calls})")
        return f"paid {value}"


# --- to the end


def test_the_output_of_a_step_is_the_input_of_the_next(backend: StateBackend) -> None:
    done = flujo(load >> describe, backend).run(7, run_id="r", metadata={"tenant": "acme"})
    assert (done.status, done.output, done.success) == ("completed", "Invoice 7: 9.5", True)
    assert [(each.name, each.attempts) for each in done.step_history] == [("load", 1), ("describe", 1)]
    assert done.step_history[0].output == Invoice(number=7, total=9.5)
    assert done.final_pipeline_context.run_id == "r"
    assert done.final_pipeline_context.initial_prompt == "7"
    assert done.final_pipeline_context.scratchpad == {"thread": False}
    state = asyncio.run(backend.load_state("r"))
    assert state is not None
    assert state["metadata"] == {"tenant": "acme"}


def test_a_finished_id_gives_its_result_and_runs_nothing(backend: StateBackend) -> None:
    calls = []

    @step
    async def count(value: str) -> Invoice:
        calls.append(value)
        return Invoice(number=len(calls), total=0)

    first = flujo(Pipeline.from_step(count), backend).run("x", run_id="r")
    again = flujo(Pipeline.from_step(count), backend).run("y", run_id="r")
    assert calls == ["x"]
    assert (again.status, again.output) == ("completed", first.output)
    assert again.final_pipeline_context == first.final_pipeline_context
    assert flujo(count, backend).resume("r").output == first.output


def test_a_run_without_an_id_gets_one(backend: StateBackend) -> None:
    one, other = (flujo(load, backend).run(1) for _ in range(2))
    assert one.run_id.startswith("run_")
    assert one.run_id != other.run_id
    assert one.final_pipeline_context.run_id == one.run_id


def test_the_id_that_is_given_counts_before_that_of_the_data(backend: StateBackend) -> None:
    done = flujo(load, backend).run(1, run_id="r", initial_context_data={"run_id": "other"})
    assert (done.run_id, done.final_pipeline_context.run_id) == ("r", "r")


def test_a_context_of_ones_own_keeps_its_values_under_every_name(backend: StateBackend) -> None:
    @step
    async def add(value: int, context: Counting) -> int:
        context.count += value
        return value

    ask = Step.human_in_the_loop("ask", "Go on?")
    runner = flujo(add >> ask, backend, context_model=Counting, initial_context_data={"count": 40})
    paused = runner.run(2, run_id="r")
    assert (paused.final_pipeline_context.count, paused.final_pipeline_context.status) == (42, "mine")
    done = runner.resume("r", "yes")
    assert (done.final_pipeline_context.count, done.final_pipeline_context.status) == (42, "mine")
    assert [each.human_response for each in done.final_pipeline_context.hitl_history] == ["yes"]
    assert done.final_pipeline_context.scratchpad == {}


def test_a_context_that_cannot_be_made_starts_no_run(backend: StateBackend) -> None:
    class Strict(PipelineContext):
        customer: str

    with pytest.raises(UsageError, match="cannot create the context Strict: customer"):
        flujo(load, backend, context_model=Strict).run(1, run_id="r")
    assert asyncio.run(backend.load_state("r")) is None


def test_what_an_output_says_that_it_cost(backend: StateBackend) -> None:
    class Answer(BaseModel):
        cost_usd: float = 0.25
        token_counts: int = 30

    @step
    async def think(value: Any) -> Answer:
        return Answer()

    done = flujo(think, backend).run("x", run_id="r")
    assert (done.total_cost_usd, done.total_tokens) == (0.25, 30)
    detail = asyncio.run(backend.read_run("r"))
    assert detail is not None
    assert (detail.steps[0].cost_usd, detail.steps[0].token_counts) == (0.25, 30)


# --- failures


def test_a_failed_run_goes_on_at_the_step_that_failed(backend: StateBackend) -> None:
    loads, pay = [], Failing(1)

    @step
    async def fetch(value: str) -> Invoice:
        loads.append(value)
        return Invoice(number=1, total=2)

    @step
    async def charge(invoice: Invoice) -> str:
        assert isinstance(invoice, Invoice)
        return await pay(invoice.number)

    failed = flujo(fetch >> charge, backend).run("x", run_id="r")
    assert (failed.status, failed.error) == ("failed", "ValueError: card declined (1)")
    assert [(each.name, each.success) for each in failed.step_history] == [("fetch", True), ("charge", False)]
    done = flujo(fetch >> charge, backend).run("another input", run_id="r")
    assert (done.status, done.output, done.error) == ("completed", "paid 1", None)
    assert [each.name for each in done.step_history] == ["fetch", "charge"]
    assert loads == ["x"]


def test_a_run_that_failed_at_its_first_step_gets_its_own_input(backend: StateBackend) -> None:
    seen, fail = [], Failing(1)

    @step
    async def first(value: dict[str, int]) -> str:
        seen.append(value)
        return await fail("x")

    runner = flujo(first, backend)
    assert runner.run({"a": 1}, run_id="r").status == "failed"
    assert runner.resume("r").status == "completed"
    assert seen == [{"a": 1}, {"a": 1}]


def test_retries_wait_twice_as_long_each_time(backend: StateBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        waits.append(seconds)
        await sleep(0)

    monkeypatch.setattr("flujo_lens.runner.retry.asyncio.sleep", noted)
    pay = Failing(3)
    done = flujo(Step("pay", function=pay, retries=3, backoff=0.5), backend, lease=9999).run("x")
    assert (done.status, done.output, done.step_history[0].attempts) == ("completed", "paid x", 4)
    assert [wait for wait in waits if wait < 9] == [0.5, 1.0, 2.0]


def test_retries_are_used_up(backend: StateBackend) -> None:
    pay = Failing(9)
    failed = flujo(Step("pay", function=pay, retries=2), backend).run("x")
    assert (failed.status, failed.error, pay.calls) == ("failed", "ValueError: card declined (3)", 3)
    assert failed.step_history[0].attempts == 3


def test_a_step_over_its_time_is_stopped_and_tried_again(backend: StateBackend) -> None:
    ended: list[int] = []

    @step(timeout=0.05, retries=1)
    async def slow(value: str) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(1)
        return value

    failed = flujo(slow, backend).run("x")
    assert (failed.status, failed.error) == ("failed", "timed out after 0.05 s")
    assert (failed.step_history[0].attempts, ended) == (2, [1, 1])


def test_a_plain_function_over_its_time_is_left_behind_and_not_tried_again(backend: StateBackend) -> None:
    free, calls = threading.Event(), []

    @step(timeout=0.05, retries=5)
    def stuck(value: str) -> str:
        calls.append(value)
        free.wait()
        return value

    try:
        failed = flujo(stuck, backend).run("x")
    finally:
        free.set()
    assert (failed.status, failed.error, calls) == ("failed", STUCK, ["x"])


@pytest.mark.parametrize("retries", [0, 2])
def test_a_failed_try_leaves_nothing_in_the_context(backend: StateBackend, retries: int) -> None:
    calls: list[int] = []

    @step(retries=retries)
    async def pay(value: str, context: Counting) -> str:
        calls.append(context.count)
        context.count += 100
        context.scratchpad.setdefault("paid", []).append(value)
        if len(calls) < 3:
            raise ValueError("card declined")
        return value

    runner = flujo(pay, backend, context_model=Counting)
    done = runner.run("x", run_id="r")
    while done.status == "failed":
        assert done.final_pipeline_context.count == 0
        done = runner.resume("r")
    assert calls == [0, 0, 0]
    assert (done.final_pipeline_context.count, done.final_pipeline_context.scratchpad) == (100, {"paid": ["x"]})


def test_a_context_that_cannot_be_copied_is_shared_by_the_tries(backend: StateBackend) -> None:
    lock = threading.Lock()

    @step
    async def keep(value: str, context: Counting) -> str:
        context.scratchpad["lock"] = lock
        return value

    @step(name="next")
    async def use(value: str, context: Counting) -> bool:
        return context.scratchpad["lock"] is lock

    assert flujo(keep >> use, backend, context_model=Counting).run("x").output is True


def test_a_step_that_leaves_a_context_of_another_type_fails_and_can_be_mended(backend: StateBackend) -> None:
    @step(name="count")
    async def wrong(value: str, context: Counting) -> str:
        context.count = "nonsense"  # type: ignore[assignment]
        return value

    @step(name="count")
    async def right(value: str, context: Counting) -> int:
        context.count += 1
        return context.count

    failed = flujo(wrong, backend, context_model=Counting).run("x", run_id="r")
    assert failed.status == "failed"
    assert "does not fit Counting: count: Input should be a valid integer" in str(failed.error)
    assert flujo(right, backend, context_model=Counting).resume("r").output == 1


def test_a_timeout_error_of_the_steps_own_is_told_as_it_is(backend: StateBackend) -> None:
    @step(timeout=60)
    async def call(value: str) -> str:
        raise TimeoutError("the gateway took too long")

    assert flujo(call, backend).run("x").error == "TimeoutError: the gateway took too long"


@pytest.mark.parametrize("error", [StopIteration("x"), KeyError("x"), ValueError()])
def test_a_plain_function_may_raise_anything(error: Exception, backend: StateBackend) -> None:
    @step
    def fails(value: str) -> str:
        raise error

    failed = flujo(fails, backend).run("x")
    assert failed.status == "failed"
    assert type(error).__name__ in str(failed.error)


# --- questions


def test_a_paused_run_comes_back_paused_and_never_skips_the_person(backend: StateBackend) -> None:
    after: list[Any] = []

    @step
    async def act(answer: Any) -> str:
        after.append(answer)
        return "done"

    runner = flujo(load >> Step.human_in_the_loop("approve", "Approve?") >> act, backend)
    for _ in range(3):
        paused = runner.run(1, run_id="r")
        assert (paused.status, paused.paused_step, paused.pause_message) == ("paused", "approve", "Approve?")
        assert runner.resume("r").status == "paused"
    assert after == []
    assert runner.resume(paused, None).status == "completed"
    assert after == [None]


def test_a_question_without_a_message_shows_its_input(backend: StateBackend) -> None:
    paused = flujo(load >> Step.human_in_the_loop("approve"), backend).run(3)
    assert paused.pause_message == '{"number":3,"total":9.5}'


@pytest.mark.parametrize("answer", [{"approved": True}, Verdict(approved=True), '{"approved": true}'])
def test_an_answer_becomes_what_the_schema_says(answer: Any, backend: StateBackend) -> None:
    ask = Step.human_in_the_loop("ask", "Approve?", input_schema=Verdict)
    runner = flujo(load >> ask, backend)
    assert runner.run(1, run_id="r").input_schema is Verdict
    assert runner.resume("r", answer).output == Verdict(approved=True)


@pytest.mark.parametrize("answer", ["yes", {"note": "x"}, None, '{"approved": "perhaps"}'])
def test_an_answer_that_does_not_fit_changes_nothing(answer: Any, backend: StateBackend) -> None:
    ask = Step.human_in_the_loop("ask", "Approve?", input_schema=Verdict)
    runner = flujo(load >> ask, backend)
    runner.run(1, run_id="r")
    before = asyncio.run(backend.load_state("r"))
    with pytest.raises(InvalidAnswerError, match='the answer does not match the schema of "ask"'):
        runner.resume("r", answer)
    assert asyncio.run(backend.load_state("r")) == before
    assert runner.run(None, run_id="r").status == "paused"


def test_an_answer_never_goes_to_another_question(backend: StateBackend) -> None:
    one, two = (Step.human_in_the_loop(name, f"{name}?") for name in ("one", "two"))
    runner = flujo(load >> one >> two, backend)
    first = runner.run(1, run_id="r")
    second = runner.resume(first, "yes")
    assert (second.status, second.pause_message) == ("paused", "two?")
    with pytest.raises(NotWaitingError, match='it now waits at "two"'):
        runner.resume(first, "yes")
    assert runner.resume(second, "no").output == "no"
    with pytest.raises(NotWaitingError, match="it is completed"):
        runner.resume(second, "no")
    with pytest.raises(NotWaitingError, match="it is completed"):
        runner.resume("r", "no")


def test_an_answer_may_name_its_step(backend: StateBackend) -> None:
    one = Step.human_in_the_loop("one", aliases=["first"])
    runner = flujo(load >> one >> Step.human_in_the_loop("two"), backend)
    runner.run(1, run_id="r")
    with pytest.raises(NotWaitingError, match='it now waits at "one"'):
        runner.resume("r", "yes", step="two")
    assert runner.resume("r", "yes", step="first").paused_step == "two"
    with pytest.raises(NotWaitingError, match='it now waits at "two"'):
        runner.resume("r", "yes", step="one")
    assert runner.resume("r", step="two").status == "paused"
    assert runner.resume("r", "no", step="two").output == "no"
    with pytest.raises(NotWaitingError, match="it is completed"):
        runner.resume("r", step="two")


def test_an_answer_to_a_failed_run_is_refused(backend: StateBackend) -> None:
    runner = flujo(Step("pay", function=Failing(1)), backend)
    runner.run("x", run_id="r")
    with pytest.raises(NotWaitingError, match="it is failed"):
        runner.resume("r", "yes")
    assert runner.resume("r").status == "completed"


def test_another_input_of_a_stored_run_is_told(backend: StateBackend, caplog: pytest.LogCaptureFixture) -> None:
    runner = flujo(Step("pay", function=Failing(9)), backend)
    runner.run("one", run_id="r")
    runner.run("one", run_id="r")
    assert caplog.text == ""
    runner.run("OTHER", run_id="r")
    assert "r resumes with its stored input" in caplog.text
    assert "OTHER" not in caplog.text


def test_an_empty_id_is_refused(backend: StateBackend) -> None:
    with pytest.raises(UsageError, match="run_id is empty"):
        flujo(load, backend).run(1, run_id="")
    assert flujo(load, backend).run(1, initial_context_data={"run_id": ""}).run_id.startswith("run_")


def test_a_changed_question_is_a_note(backend: StateBackend) -> None:
    runner = flujo(Step.human_in_the_loop("ask", "Pay?"), backend)
    runner.run("x", run_id="r")
    changed = flujo(Step.human_in_the_loop("ask", "Refund?"), backend)

    async def judged() -> Judged:
        stored = await stored_of(backend, "r")
        assert stored is not None
        return (await fit(backend, changed.source, stored, PipelineContext)).verdict

    verdict = asyncio.run(judged())
    assert (verdict.kind, verdict.notes) == ("identical", ('the question of step "ask" is now "Refund?", was "Pay?"',))
    assert changed.run("x", run_id="r").pause_message == "Pay?"


def test_a_version_belongs_to_one_pipeline() -> None:
    registry = PipelineRegistry()
    for _ in range(2):
        registry.register(load >> describe, "orders", "1.0.0")
    registry.register(Pipeline((load, describe)), "orders", "1.0.0")
    with pytest.raises(UsageError, match=r'another pipeline is already registered as "orders" 1\.0\.0'):
        registry.register(load, "orders", "1.0.0")
    assert len(registry.find("orders", "1.0.0")[0].steps) == 2


def test_no_run_of_that_id(backend: StateBackend) -> None:
    with pytest.raises(RunNotFoundError, match="r has no state in the store"):
        flujo(load, backend).resume("r", "yes")


def test_a_cancelled_run_runs_nothing(backend: StateBackend) -> None:
    runner = flujo(load >> Step.human_in_the_loop("ask"), backend)
    runner.run(1, run_id="r")
    state = asyncio.run(backend.load_state("r"))
    assert state is not None
    asyncio.run(backend.save_state("r", {**state, "status": "cancelled"}))
    assert runner.run(1, run_id="r").status == "cancelled"
    with pytest.raises(NotWaitingError, match="it is cancelled"):
        runner.resume("r", "yes")


# --- which code


def test_a_stored_run_goes_on_with_the_version_that_it_began_with(backend: StateBackend) -> None:
    ask = Step.human_in_the_loop("ask", "?")
    registry = PipelineRegistry()
    registry.register(load >> ask >> Step("end", function=Failing(0)), "orders", "1.9.0")
    Flujo(registry=registry, pipeline_name="orders", state_backend=backend).run(1, run_id="r")
    registry.register(Step("other", function=Failing(0)) >> ask, "orders", "1.10.0")
    newest = Flujo(registry=registry, pipeline_name="orders", state_backend=backend)
    assert newest.resume("r", "yes").output == "paid yes"
    assert newest.run("x").paused_step == "ask"


def test_a_run_of_another_pipeline_is_refused(backend: StateBackend) -> None:
    flujo(load >> Step.human_in_the_loop("ask"), backend).run(1, run_id="r")
    other = Flujo(load, pipeline_name="payments", pipeline_version="1.0.0", state_backend=backend)
    with pytest.raises(UsageError, match='r is a run of the pipeline "orders", not of "payments"'):
        other.resume("r", "yes")


def test_code_that_does_not_fit_is_refused_and_changes_nothing(backend: StateBackend, tmp_path: Path) -> None:
    ask = Step.human_in_the_loop("ask", "?")
    flujo(load >> ask, backend).run(1, run_id="r")
    asyncio.run(backend.shutdown())
    before = _bytes(tmp_path)
    with pytest.raises(StateIncompatibilityError) as refused:
        flujo(Step("fetch", function=Failing(0)) >> ask, backend).resume("r", "yes")
    assert refused.value.run_id == "r"
    asyncio.run(backend.shutdown())
    assert _bytes(tmp_path) == before
    assert flujo(load >> ask, backend).resume("r", "yes").status == "completed"


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_step_that_moved_before_the_question_runs_first(backend: StateBackend) -> None:
    ask = Step.human_in_the_loop("ask", "?")

    def late(value: Any) -> str:
        return f"late {value}"

    after = Step("after", function=late)
    flujo(load >> ask >> after, backend).run(1, run_id="r")
    done = flujo(load >> after >> ask, backend).resume("r", "yes")
    assert [(each.name, each.success) for each in done.step_history] == [("load", True), ("after", True), ("ask", True)]
    assert done.output == "yes"


class Client:
    """Nobody knows how to write it."""


def test_no_step_gets_a_mark_in_place_of_its_input(backend: StateBackend, caplog: pytest.LogCaptureFixture) -> None:
    fail, seen = Failing(1), []

    @step
    async def connect(value: str) -> Any:
        return {"clients": [Client()]}

    @step
    async def use(value: Any) -> str:
        seen.append(value)
        return await fail("x")

    runner = flujo(connect >> use, backend)
    assert runner.run("x", run_id="r").status == "failed"
    assert "1 value(s) could not be serialized: " in caplog.text
    before = asyncio.run(backend.load_state("r"))
    with pytest.raises(
        StateIncompatibilityError, match=r"clients.* has the placeholder <unserializable: Client>"
    ) as caught:
        runner.resume("r")
    assert (caught.value.code, len(seen)) == ("LENS-C10", 1)
    assert caught.value.remediations[0].id == "fork"
    assert "--from-step connect" in str(caught.value.remediations[0].command)
    assert asyncio.run(backend.load_state("r")) == before


def test_no_step_gets_a_context_with_a_mark(backend: StateBackend) -> None:
    @step
    async def connect(value: str, context: PipelineContext) -> str:
        context.scratchpad["client"] = Client()
        return value

    runner = flujo(connect >> Step.human_in_the_loop("ask"), backend)
    runner.run("x", run_id="r")
    with pytest.raises(
        StateIncompatibilityError, match=r"\$\.scratchpad\.client has the placeholder <unserializable: Client>"
    ) as caught:
        runner.resume("r", "yes")
    assert (caught.value.code, caught.value.verdict) == ("LENS-C10", "broken")
    assert [each.id for each in caught.value.remediations][:2] == ["migrate", "new-run-id"]


def test_an_output_that_was_not_kept_is_no_hindrance_where_a_person_answers_next(backend: StateBackend) -> None:
    @step
    async def connect(value: str) -> Any:
        return Client()

    runner = flujo(connect >> Step.human_in_the_loop("ask", "Well?"), backend)
    runner.run("x", run_id="r")
    assert runner.resume("r", "yes").output == "yes"


def test_a_context_is_migrated_version_by_version(backend: StateBackend) -> None:
    class Old(PipelineContext):
        euros: int = 5

    class New(PipelineContext):
        cents: int

    def in_cents(context: dict[str, Any]) -> dict[str, Any]:
        context["cents"] = context.pop("euros") * 100
        return context

    pipeline = load >> Step.human_in_the_loop("ask", "?")
    registry = PipelineRegistry()
    registry.register(pipeline, "orders", "1.0.0")
    Flujo(registry=registry, pipeline_name="orders", state_backend=backend, context_model=Old).run(1, run_id="r")
    newer = PipelineRegistry()
    newer.register(pipeline, "orders", "2.0.0")
    runner = Flujo(registry=newer, pipeline_name="orders", state_backend=backend, context_model=New)
    with pytest.raises(StateIncompatibilityError) as refused:
        runner.resume("r", "yes")
    assert refused.value.code == "LENS-C5"
    newer.register(pipeline, "orders", "2.0.0", migrations={"1.0.0": in_cents})
    done = runner.resume("r", "yes")
    assert done.final_pipeline_context is not None
    assert done.final_pipeline_context.cents == 500


def test_a_pipeline_that_is_not_registered(backend: StateBackend) -> None:
    registry = PipelineRegistry()
    registry.register(load, "orders", "1.0.0")
    with pytest.raises(UnknownValueError, match=r'unknown registered pipeline "order"\. Did you mean orders\?'):
        Flujo(registry=registry, pipeline_name="order", state_backend=backend).run(1)
    with pytest.raises(UnknownValueError, match=r'unknown version of orders "2\.0\.0"'):
        Flujo(registry=registry, pipeline_name="orders", pipeline_version="2.0.0", state_backend=backend).run(1)
    with pytest.raises(UsageError, match="the runner has no pipeline"):
        Flujo(state_backend=backend).run(1)


def test_inside_a_loop_the_plain_calls_are_refused(backend: StateBackend) -> None:
    async def inside() -> None:
        runner = flujo(load, backend)
        for call in (lambda: runner.run(1), lambda: runner.resume("r", "yes")):
            with pytest.raises(UsageError, match="was called inside an event loop"):
                call()

    asyncio.run(inside())


@dataclass
class Priced:
    cost_usd: float
    share: float


def test_numbers_that_json_has_not_are_saved_after_each_step(backend: StateBackend) -> None:
    async def priced(_: Any) -> Priced:
        return Priced(float("nan"), float("inf"))

    async def nothing(_: Any) -> None:
        return None

    code = Pipeline(
        (Step("priced", function=priced), Step.human_in_the_loop("ask", "?"), Step("end", function=nothing))
    )
    flujo = Flujo(code, state_backend=backend, pipeline_name="p", pipeline_version="1")
    assert asyncio.run(flujo.run_async("in", run_id="r")).status == "paused"
    assert asyncio.run(flujo.resume_async("r", float("nan"))).success
    state = asyncio.run(backend.load_state("r"))
    assert state is not None
    saved = [(entry["output"], entry["cost_usd"], entry["feedback"]) for entry in state["step_history"]]
    assert saved == [({"cost_usd": "nan", "share": "inf"}, 0.0, None), ("nan", 0.0, None), (None, 0.0, None)]
