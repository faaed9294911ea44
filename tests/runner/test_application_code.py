"""Whatever a step, a context model, a migration or a schema does, the run is saved as failed, and lens goes on."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from programs import ended, start, told
from pydantic import field_validator

from flujo_lens import Flujo, InMemoryBackend, PipelineContext, PipelineRegistry, SQLiteBackend, Step, step
from flujo_lens.errors import InvalidAnswerError, LensError, NotWaitingError, OperationFailedError, UsageError
from flujo_lens.runner.application_code import describe, is_signal
from flujo_lens.runner.protected_loop import drive
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.claims import Claim


class OwnError(BaseException):
    """One of an application, which `except Exception` does not catch."""


class Unreadable(Exception):
    def __str__(self) -> str:
        raise SystemExit(5)

    __repr__ = __str__


def raising(error: BaseException) -> Callable[[str], Coroutine[Any, Any, None]]:
    async def body(given: str) -> None:
        raise error

    return body


async def inner_cancelled(given: str) -> None:
    inner = asyncio.ensure_future(asyncio.sleep(10))
    inner.cancel()
    await inner


async def own_cancelled(given: str) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(10)


async def in_a_task(given: str) -> None:
    await asyncio.gather(raising(OwnError("in a task"))(given))


GROUP = BaseExceptionGroup("several", [SystemExit(3), KeyError("b")])
CASES: list[tuple[Any, str]] = [
    (raising(SystemExit(0)), "SystemExit: 0"),
    (raising(SystemExit()), "SystemExit"),
    (raising(SystemExit("bye")), "SystemExit: bye"),
    (raising(KeyboardInterrupt()), "KeyboardInterrupt"),
    (raising(GeneratorExit()), "GeneratorExit"),
    (raising(OwnError("mine")), "OwnError: mine"),
    (raising(asyncio.CancelledError("gave up")), "CancelledError: gave up"),
    (raising(Unreadable()), "Unreadable: (its text cannot be read: SystemExit)"),
    (raising(GROUP), "BaseExceptionGroup: several (2 sub-exceptions): SystemExit: 3; KeyError: 'b'"),
    (raising(ValueError("\udc80")), r"ValueError: \udc80"),
    (inner_cancelled, "CancelledError: cancelled by the application itself"),
    (own_cancelled, "CancelledError: cancelled by the application itself"),
    (in_a_task, "OwnError: in a task"),
    (lambda given: sys.exit(0), "SystemExit: 0"),
    (lambda given: next(iter(())), "RuntimeError: StopIteration"),
]


def flujo(made: Any, backend: StateBackend, **more: Any) -> Flujo[Any]:
    return Flujo(made, pipeline_name="p", pipeline_version="1", state_backend=backend, **more)


@pytest.mark.parametrize(("body", "error"), CASES, ids=[error for _, error in CASES])
def test_a_step_that_raises_anything_has_failed(body: Any, error: str) -> None:
    backend = InMemoryBackend()
    result = flujo(Step("x", function=body), backend).run("given", run_id="r")
    assert (result.status, result.error) == ("failed", error)
    state = asyncio.run(backend.load_state("r"))
    assert state is not None
    assert (state["status"], state["error_message"]) == ("failed", error)
    assert asyncio.run(backend.read_claims()) == {}


def test_such_a_step_is_tried_again() -> None:
    errors: list[BaseException] = [SystemExit(1), asyncio.CancelledError()]

    async def body(given: str) -> str:
        if errors:
            raise errors.pop()
        return "done"

    result = flujo(Step("x", function=body, retries=2), InMemoryBackend()).run("given")
    assert (result.output, result.step_history[0].attempts) == ("done", 3)


def test_the_error_of_a_save_says_that_the_step_has_run() -> None:
    class Full(InMemoryBackend):
        async def save_progress(self, progress: Any) -> None:
            if progress.step is not None:
                raise OperationFailedError("the disk is full; nothing was changed")
            await super().save_progress(progress)

    runs = flujo(Step("pay", function=raising(SystemExit(1))), Full())
    with pytest.raises(OperationFailedError) as caught:
        runs.run("x", run_id="r")
    assert caught.value.message == str(caught.value)
    assert str(caught.value).startswith('the disk is full; step "pay" has run, but its result was not saved')


def test_a_huge_text_is_shortened() -> None:
    told_ = describe(ValueError("x" * 10**6))
    assert len(told_) < 11_000
    assert told_.endswith("(1,000,012 characters)")


def test_a_cancellation_from_outside_goes_through_also_where_a_step_swallows_it() -> None:
    backend, began = InMemoryBackend(), asyncio.Event()

    async def deaf(given: str) -> str:
        began.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "I go on"
        return "late"

    async def next_one(given: str) -> None:
        raise AssertionError("it runs")

    async def main() -> None:
        runs = flujo(Step("deaf", function=deaf) >> Step("next", function=next_one), backend)
        task = asyncio.create_task(runs.run_async("x", run_id="r"))
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        state = await backend.load_state("r")
        assert state is not None
        done = [(entry["name"], entry["success"]) for entry in state["step_history"]]
        assert (state["error_message"], done) == ("interrupted", [("deaf", True), ("next", False)])

    asyncio.run(main())


def test_what_a_step_sets_in_its_context_variables_the_next_one_sees() -> None:
    import contextvars

    name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="nobody")

    async def one(given: str) -> None:
        name.set("somebody")

    async def two(given: None) -> str:
        return name.get()

    assert (
        flujo(Step("one", function=one) >> Step("two", function=two), InMemoryBackend()).run("x").output == "somebody"
    )
    assert name.get() == "nobody"


def test_a_serializer_that_leaves_has_failed_as_one_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    from flujo_lens.utils import register_custom_serializer

    class Leaving:
        pass

    register_custom_serializer(Leaving, lambda value: sys.exit(3))
    backend = InMemoryBackend()

    async def body(given: str) -> Leaving:
        return Leaving()

    result = flujo(Step("x", function=body) >> Step("y", function=lambda given: sys.exit(1)), backend).run(
        "x", run_id="r"
    )
    assert (result.status, result.error) == ("failed", "SystemExit: 1")
    assert "its serializer failed: SystemExit: 3" in caplog.text
    with pytest.raises(LensError, match='the input of step "y" was not saved'):
        flujo(Step("x", function=body) >> Step("y", function=lambda given: "y"), backend).run("x", run_id="r")


def test_a_context_that_cannot_be_written_fails_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def dump(context: Any, notes: Any) -> Any:
        if context.scratchpad:
            sys.exit(4)
        return {**notes, "run_id": "r"}

    monkeypatch.setattr("flujo_lens.runner.run_record.dump_context", dump)
    backend = InMemoryBackend()

    async def body(given: str, context: PipelineContext) -> str:
        context.scratchpad["a"] = 1
        return "done"

    result = flujo(Step("x", function=body), backend).run("x", run_id="r")
    assert (result.status, result.error) == ("failed", "the output cannot be saved: SystemExit: 4")
    state = asyncio.run(backend.load_state("r"))
    assert state is not None
    assert (state["status"], len(state["step_history"])) == ("failed", 1)


class Exiting(PipelineContext):
    amount: int = 0

    @field_validator("amount")
    @classmethod
    def leave(cls, value: int) -> int:
        if value == 1:
            sys.exit(3)
        if value == 2:
            raise TypeError("no such amount")
        return value


@pytest.mark.parametrize(("amount", "told_"), [(1, "SystemExit: 3"), (2, "TypeError: no such amount")])
def test_a_context_model_that_leaves(amount: int, told_: str) -> None:
    backend = InMemoryBackend()
    runs = flujo(Step("x", function=raising(ValueError("down"))), backend, context_model=Exiting)
    with pytest.raises(UsageError, match=f"cannot create the context Exiting: {told_}"):
        runs.run("x", initial_context_data={"amount": amount})
    runs.run("x", run_id="r")

    async def main() -> None:
        state = await backend.load_state("r")
        assert state is not None
        await backend.save_state("r", {**state, "pipeline_context": {**state["pipeline_context"], "amount": amount}})
        with pytest.raises(LensError, match=told_):
            await runs.run_async("x", run_id="r")
        assert (await backend.load_state("r") or {})["status"] == "failed"

    asyncio.run(main())


def test_a_schema_that_leaves_takes_no_answer() -> None:
    from pydantic import AfterValidator

    schema = __import__("typing").Annotated[str, AfterValidator(lambda value: sys.exit(3))]
    runs = flujo(Step.human_in_the_loop("ask", "Go on?", schema), InMemoryBackend())
    runs.run("x", run_id="r")
    with pytest.raises(InvalidAnswerError, match="SystemExit: 3"):
        runs.resume("r", "yes")
    assert runs.run("x", run_id="r").status == "paused"


@pytest.mark.parametrize("leaves", [SystemExit(3), OwnError("no"), asyncio.CancelledError()])
def test_a_migration_that_leaves_changes_nothing(leaves: BaseException) -> None:
    def migrate(context: dict[str, Any]) -> dict[str, Any]:
        raise leaves

    class Older(PipelineContext):
        old: int = 1

    class Newer(PipelineContext):
        new: str

    backend = InMemoryBackend()
    failing = Step("x", function=raising(ValueError("down")))
    first = PipelineRegistry()
    first.register(failing, "p", "1")
    Flujo(registry=first, pipeline_name="p", state_backend=backend, context_model=Older).run("x", run_id="r")
    second = PipelineRegistry()
    second.register(failing, "p", "2", migrations={"1": migrate})
    runs = Flujo(registry=second, pipeline_name="p", state_backend=backend, context_model=Newer)
    with pytest.raises(LensError, match=type(leaves).__name__):
        runs.run("x", run_id="r")


# --- forks


@pytest.mark.parametrize(
    ("child", "status"), [("return 'child'", 0), ("sys.exit(7)", 7), ("sys.exit()", 0), ("raise ValueError('c')", 1)]
)
@pytest.mark.parametrize("kind", ["async def", "def"])
def test_a_child_that_comes_back_ends_there(child: str, status: int, kind: str, tmp_path: Path) -> None:
    script = f"""
import os, sys, warnings
warnings.simplefilter("ignore")
from pathlib import Path
from flujo_lens import Flujo, SQLiteBackend, step
@step
{kind} fork(given):
    pid = os.fork()
    if pid == 0:
        {child}
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
backend = SQLiteBackend(Path("store.db"))
result = Flujo(fork, pipeline_name="p", state_backend=backend).run("x", run_id="r")
print(os.getpid(), result.status, result.output, flush=True)
"""
    process = start(script, cwd=tmp_path)
    out, _ = process.communicate(timeout=60)
    assert out == f"{process.pid} completed {status}\n"

    async def steps() -> int:
        async with SQLiteBackend(tmp_path / "store.db") as backend:
            return len(await backend.list_run_steps("r"))

    assert asyncio.run(steps()) == 1


# --- Ctrl-C


def test_a_signal_is_no_statement_of_the_code(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt) as raised:
        raise KeyboardInterrupt
    assert not is_signal(raised.value)
    script = """
import signal, time
from flujo_lens.runner.application_code import is_signal
try:
    print("ready", flush=True)
    while True:
        time.sleep(0.01)
except KeyboardInterrupt as error:
    print(is_signal(error))
"""
    process = start(script, cwd=tmp_path)
    assert told(process) == "ready"
    process.send_signal(2)
    assert ended(process) == "True\n"


# --- the loop of lens


async def _step(body: Callable[[], Coroutine[Any, Any, Any]], backend: StateBackend) -> str:
    async def made(given: str) -> Any:
        return await body()

    result = await flujo(Step("x", function=made), backend).run_async("x", run_id="r")
    return result.error or "completed"


async def _cancel_all() -> None:
    for task in asyncio.all_tasks():
        task.cancel()
    await asyncio.sleep(10)


async def _stop_the_loop() -> None:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0.01)
    raise ValueError("after it")


async def _leave_in_a_task() -> None:
    asyncio.get_running_loop().call_soon(sys.exit, 9)
    task = asyncio.create_task(raising(SystemExit(9))(""))
    await task


async def _leave_a_stubborn_task() -> None:
    async def stubborn() -> None:
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                continue

    _kept.append(asyncio.create_task(stubborn()))


_kept: list[Any] = []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("body", "error"),
    [
        (_cancel_all, "CancelledError: cancelled by the application itself"),
        (_stop_the_loop, "ValueError: after it"),
        (_leave_in_a_task, "SystemExit: 9"),
        (_leave_a_stubborn_task, "completed"),
    ],
)
def test_a_step_does_not_end_the_loop_of_lens(body: Any, error: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flujo_lens.runner.protected_loop._GRACE", 0.05)
    assert drive(_step(body, InMemoryBackend())) == error


def _claim_now(backend: InMemoryBackend) -> Claim:
    """The claim on the run, for a step that gives the loop no chance: calls of this driver never wait."""
    with pytest.raises(StopIteration) as ended_:
        backend.read_claims().send(None)
    found: Claim = ended_.value.value["r"]
    return found


def test_signs_are_given_while_the_loop_is_blocked_and_no_step_cancels_them() -> None:
    backend, signs = InMemoryBackend(), list[Claim]()

    @step
    async def block(given: str) -> str:
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            if "beat" in repr(task):
                task.cancel()
        known = {thread.name for thread in threading.enumerate()}
        first, limit = _claim_now(backend), time.monotonic() + 30
        while _claim_now(backend).beat_at == first.beat_at and time.monotonic() < limit:
            time.sleep(0.01)
        signs.append(_claim_now(backend))
        return "lens-heartbeat" if "lens-heartbeat" in known else ""

    assert flujo(block, backend, lease=0.3).run("x", run_id="r").output == "lens-heartbeat"
    assert signs[0].beat_at > signs[0].taken_at


# --- whose run, which question


@pytest.mark.parametrize("status", ["completed", "failed", "paused", "cancelled", "running"])
def test_a_run_id_belongs_to_one_pipeline(status: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with SQLiteBackend(tmp_path / "store.db") as backend:
            made = {"failed": Step("a", function=raising(ValueError("x"))), "paused": Step.human_in_the_loop("a")}
            orders = Flujo(made.get(status, Step("a", function=len)), pipeline_name="orders", state_backend=backend)
            refunds = Flujo(Step("a", function=len), pipeline_name="refunds", state_backend=backend)
            theirs = await orders.run_async("x", run_id="4711")
            if status in ("cancelled", "running"):
                await backend.save_state("4711", {**(await backend.load_state("4711") or {}), "status": status})
            for wanted in (
                refunds.run_async("x", run_id="4711"),
                refunds._resume("4711", "yes", None, None),
                refunds._resume(theirs, "yes", None, None),
            ):
                with pytest.raises(UsageError, match='4711 is a run of the pipeline "orders", not of "refunds"'):
                    await wanted

    asyncio.run(main())


def test_a_pipeline_without_a_name_gets_no_result_of_other_steps() -> None:
    backend = InMemoryBackend()
    Flujo(Step("charge", function=len), state_backend=backend).run("x", run_id="4711")
    with pytest.raises(UsageError, match="4711 is a run of another pipeline"):
        Flujo(Step("refund", function=len), state_backend=backend).run("x", run_id="4711")
    assert Flujo(Step("charge", function=len), state_backend=backend).run("x", run_id="4711").output == 1


def asking(backend: StateBackend) -> Flujo[Any]:
    first, second = (Step.human_in_the_loop(name, f"{name}?") for name in ("amount", "pay"))
    return flujo(first >> second >> Step("done", function=lambda given: given), backend)


def test_a_form_that_comes_twice_answers_one_question(tmp_path: Path) -> None:
    runs = asking(SQLiteBackend(tmp_path / "store.db"))
    first = runs.run("x", run_id="r")
    second = runs.resume("r", "yes")
    with pytest.raises(NotWaitingError, match='has another question at "pay": pay\\?') as refused:
        runs.resume("r", "yes")
    assert refused.value.details["question"] == second.question
    with pytest.raises(NotWaitingError, match='it now waits at "pay"'):
        runs.resume("r", "yes", question=first.question)
    assert runs.run("x", run_id="r").question == second.question
    assert runs.resume("r", "no", question=second.question).output == "no"
    with pytest.raises(NotWaitingError, match="it is completed"):
        runs.resume("r", "no", question=second.question)


@pytest.mark.parametrize("kind", ["memory", "store.db", "states"])
def test_a_run_that_was_begun_again_asks_another_question(kind: str, tmp_path: Path) -> None:
    from flujo_lens import FileBackend

    path = tmp_path / kind
    backend: StateBackend = InMemoryBackend()
    if kind != "memory":
        backend = SQLiteBackend(path) if kind == "store.db" else FileBackend(path)
    runs = asking(backend)
    first = runs.run("x", run_id="r")

    async def forget() -> None:
        await backend.delete_run("r")

    from flujo_lens.runner.event_loops import run_to_end
    from flujo_lens.state.questions import question_of

    async def listed() -> str | None:
        return question_of((await backend.read_summaries(["r"]))[0])

    assert run_to_end(listed()) == first.question
    run_to_end(forget())
    again = runs.run("x", run_id="r")
    assert (again.paused_step, again.question == first.question) == (first.paused_step, False)
    for late in (lambda: runs.resume(first, "yes"), lambda: runs.resume("r", "yes", question=first.question)):
        with pytest.raises(NotWaitingError):
            late()
    assert runs.resume(again, "yes").paused_step == "pay"
