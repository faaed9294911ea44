"""Several processes, one run: who works on it, who waits, who takes over; and how a process ends."""

from __future__ import annotations

import asyncio
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from programs import UNMEASURED, ended, ran, start, told

from flujo_lens import Flujo, InMemoryBackend, Pipeline, SQLiteBackend, Step, step
from flujo_lens.errors import BusyError, ConfigError, LostClaimError, RunHeldError
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.claims import Claim, Holder, Progress

APP = """
import asyncio, sys, time
from pathlib import Path
from flujo_lens import Flujo, Step, step
from flujo_lens.errors import LensError
from flujo_lens.state.backends.sqlite import SQLiteBackend

@step
async def load(text):
    return text.upper()

@step
async def act(answer):
    with open("signs", "a") as file:
        file.write(f"{answer}\\n")
    print("acting", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    return f"acted on {answer}"

@step
async def wait(answer):
    print("acting", flush=True)
    await asyncio.sleep(600)

@step
def wait_in_a_thread(answer):
    print("acting", flush=True)
    time.sleep(600)

backend = SQLiteBackend(Path("store.db"))

def flujo(pipeline, **more):
    return Flujo(pipeline, pipeline_name="p", pipeline_version="1", state_backend=backend, **more)

asking = load >> Step.human_in_the_loop("ask", "Go on?") >> act
"""

RESUME = (
    APP
    + """
print("ready", flush=True)
sys.stdin.readline()
try:
    print(flujo(asking).resume("r", sys.argv[1]).output)
except LensError as error:
    print(error.code, error.message)
"""
)


def _state(folder: Path, run_id: str = "r") -> dict[str, Any]:
    async def read() -> dict[str, Any]:
        async with SQLiteBackend(folder / "store.db") as backend:
            state = await backend.load_state(run_id)
            assert state is not None
            return state

    return asyncio.run(read())


def _claims(folder: Path) -> dict[str, Claim]:
    async def read() -> dict[str, Claim]:
        async with SQLiteBackend(folder / "store.db") as backend:
            return dict(await backend.read_claims())

    return asyncio.run(read())


def _paused(folder: Path) -> None:
    assert ended(start(APP + "print(flujo(asking).run('x', run_id='r').status)", cwd=folder)) == "paused\n"


def test_of_eight_that_resume_one_run_one_gets_it(tmp_path: Path) -> None:
    _paused(tmp_path)
    started = [start(RESUME, f"answer {number}", cwd=tmp_path) for number in range(8)]
    assert {told(process) for process in started} == {"ready"}
    for process in started:
        _type(process)
    lines = {process: told(process) for process in started}
    (winner,) = [process for process, line in lines.items() if line == "acting"]
    losers = [process for process in started if process is not winner]
    assert {lines[process].split()[0] for process in losers} == {"LENS-B2"}
    assert all(f"r is held by pid {winner.pid} on" in lines[process] for process in losers)
    assert [ended(process) for process in losers] == [""] * 7
    assert ended(winner) == f"acted on answer {started.index(winner)}\n"
    assert (tmp_path / "signs").read_text() == f"answer {started.index(winner)}\n"
    assert _state(tmp_path)["status"] == "completed"
    assert _claims(tmp_path) == {}


def _type(process: Any) -> None:
    process.stdin.write("\n")
    process.stdin.flush()


def test_a_dead_holder_is_replaced_at_once(tmp_path: Path) -> None:
    _paused(tmp_path)
    holder = start(RESUME, "yes", cwd=tmp_path, env={"LENS_LEASE": "1h"})
    _type(holder)
    assert (told(holder), told(holder)) == ("ready", "acting")
    other = start(RESUME, "no", cwd=tmp_path)
    assert other.communicate("\n")[0].split("\n")[1].startswith(f"LENS-B2 r is held by pid {holder.pid} on ")
    holder.kill()
    holder.communicate()
    assert _claims(tmp_path)["r"].lease == 3600
    after = start(APP + "print(flujo(asking).run('x', run_id='r').output)", cwd=tmp_path)
    assert ended(after) == "acting\nacted on yes\n"
    assert (tmp_path / "signs").read_text() == "yes\nyes\n"


@pytest.mark.parametrize("body", ["wait", "wait_in_a_thread"])
@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=UNMEASURED), signal.SIGINT])
@pytest.mark.parametrize(
    "call", ["flujo({}).run('x', run_id='r')", "asyncio.run(flujo({}).run_async('x', run_id='r'))"]
)
def test_a_run_that_is_interrupted_goes_on_later(body: str, number: signal.Signals, call: str, tmp_path: Path) -> None:
    process = start(APP + call.format(f"load >> {body}"), cwd=tmp_path)
    assert told(process) == "acting"
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == -number
    state = _state(tmp_path)
    assert (state["status"], state["error_message"], state["current_step_index"]) == ("failed", "interrupted", 1)
    assert [(each["name"], each["success"]) for each in state["step_history"]] == [("load", True), (body, False)]
    assert _claims(tmp_path) == {}
    again = APP.replace("600", "0") + f"print(flujo(load >> {body}).run('x', run_id='r').status)"
    assert ended(start(again, cwd=tmp_path)) == "acting\ncompleted\n"


def test_an_applications_own_handler_of_sigterm_is_left_alone(tmp_path: Path) -> None:
    script = APP + (
        "import os, signal\n"
        "signal.signal(signal.SIGTERM, lambda *_: os.write(1, b'mine\\n'))\n"  # print may be interrupted by itself
        "print(flujo(load >> act).run('x', run_id='r').status)"
    )
    process = start(script, cwd=tmp_path)
    assert told(process) == "acting"
    process.send_signal(signal.SIGTERM)
    assert told(process) == "mine"
    assert ended(process) == "completed\n"


# --- in one process


@pytest.fixture
def backend() -> InMemoryBackend:
    return InMemoryBackend()


def flujo(pipeline: Pipeline | Step, backend: StateBackend, **more: Any) -> Flujo[Any]:
    return Flujo(pipeline, pipeline_name="p", pipeline_version="1", state_backend=backend, **more)


@step
async def load(text: str) -> str:
    return text.upper()


def test_a_cancelled_task_leaves_its_run_failed(backend: InMemoryBackend) -> None:
    began = asyncio.Event()

    @step
    async def wait(text: str) -> None:
        began.set()
        await asyncio.Event().wait()

    async def main() -> None:
        running = asyncio.create_task(flujo(load >> wait, backend).run_async("x", run_id="r"))
        await began.wait()
        with pytest.raises(RunHeldError):
            await flujo(load >> wait, backend).run_async("x", run_id="r")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        state = await backend.load_state("r")
        assert state is not None
        assert (state["status"], state["error_message"]) == ("failed", "interrupted")
        assert await backend.read_claims() == {}

    asyncio.run(main())


def test_who_has_lost_the_run_saves_nothing_more_and_stops(backend: InMemoryBackend) -> None:
    stopped = []

    @step
    async def wait(text: str) -> None:
        claims = await backend.read_claims(["r"])
        gone = replace_holder(claims["r"])
        await backend.release_run(claims["r"])
        await backend.claim_run("r", gone, 3600)
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append(True)

    with pytest.raises(LostClaimError, match="pid 1 on elsewhere has taken it over"):
        flujo(load >> wait, backend, lease=0.3).run("x", run_id="r")
    assert stopped == [True]
    state = asyncio.run(backend.load_state("r"))
    assert state is not None
    assert (state["status"], state["current_step_index"]) == ("running", 1)
    with pytest.raises(RunHeldError, match="pid 1 on elsewhere"):
        flujo(load, backend).run("x", run_id="r")


def replace_holder(claim: Claim) -> Holder:
    return claim.holder._replace(host="elsewhere", pid=1)


def test_a_heartbeat_keeps_the_run_beyond_its_lease(backend: InMemoryBackend) -> None:
    @step
    async def wait(text: str) -> bool:
        first = (await backend.read_claims(["r"]))["r"]
        while (now := (await backend.read_claims(["r"]))["r"]).beat_at - first.beat_at <= timedelta(seconds=0.3):
            await asyncio.sleep(0.01)
        return not now.has_ended(datetime.now(UTC))

    assert flujo(wait, backend, lease=0.3).run("x", run_id="r").output is True


def test_a_busy_store_does_not_lose_what_a_step_did(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flujo_lens.runner.execution._WAITS", (0.0, 0.0))

    class Locked(InMemoryBackend):
        saves = 0

        async def save_progress(self, progress: Progress) -> None:
            self.saves += 1
            if self.saves % 3:
                raise BusyError("locked")
            await super().save_progress(progress)

    calls = []

    @step
    async def count(text: str) -> int:
        calls.append(text)
        return len(calls)

    backend = Locked()
    assert flujo(count, backend).run("x", run_id="r").output == 1
    assert (calls, backend.saves) == (["x"], 6)


@pytest.mark.parametrize(("text", "seconds"), [("45", 45), ("90s", 90), ("5m", 300), ("0.5", 0.5), (None, 30)])
def test_the_lease_of_the_environment(text: str | None, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    if text is None:
        monkeypatch.delenv("LENS_LEASE", raising=False)
    else:
        monkeypatch.setenv("LENS_LEASE", text)
    assert flujo(load, InMemoryBackend()).lease == seconds
    assert flujo(load, InMemoryBackend(), lease=7).lease == 7


@pytest.mark.parametrize("text", ["soon", "0", "-3", "nan", "inf"])
def test_a_lease_that_is_none(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LENS_LEASE", text)
    with pytest.raises(ConfigError, match=f"cannot read the lease {text}"):
        flujo(load, InMemoryBackend())


def test_a_process_ends_in_silence_after_a_step_that_used_a_thread() -> None:
    """At the end of a process Python 3.12 starts no thread, and closing a loop wants one."""
    script = """
import asyncio
from flujo_lens import Flujo, step

@step
async def work(text: str) -> str:
    return await asyncio.to_thread(str.upper, text)

print(Flujo(work).run("x").output)
"""
    assert ran(script) == "X\n"
