"""Two processes and one run: the holder is stopped beyond its lease, its steps block, clocks differ. Whatever was saved
once stays, and what the loser did is not saved.

Every step gets what all steps before it returned, each with a mark of its own. So what any step was given has to be the
beginning of what the run returns in the end: else a save was lost, or one of the loser's has landed.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from programs import start, told

from flujo_lens import Flujo, InMemoryBackend, SQLiteBackend, Step
from flujo_lens.errors import LostClaimError, RunHeldError
from flujo_lens.state import claims
from flujo_lens.state.claims import Holder

ROUNDS = 50 if os.environ.get("LENS_SOAK") else 5
LEASE = 0.4

WORKER = """
import asyncio, json, os, random, secrets, socket, sys, time
from datetime import UTC, datetime, timedelta
from pathlib import Path
import flujo_lens.state.claims as claims

STORE, LOG, HOST, AHEAD, LEASE = sys.argv[1:]
claims.present = lambda: datetime.now(UTC) + timedelta(seconds=float(AHEAD))
if HOST:
    socket.gethostname = lambda: HOST

from flujo_lens import FileBackend, Flujo, Pipeline, SQLiteBackend, Step
from flujo_lens.errors import LostClaimError, RunHeldError

def made(number):
    async def body(given):
        with open(LOG, "a") as file:
            file.write(json.dumps([os.getpid(), number, given]) + "\\n")
        pause = random.choice((0.01, 0.05, 0.1, 2.5 * float(LEASE) if number == 3 else 0.02))
        time.sleep(pause) if random.random() < 0.5 else await asyncio.sleep(pause)
        return [*given, f"{os.getpid()}-{secrets.token_hex(4)}"]
    return Step(f"step-{number}", function=body)

backend = SQLiteBackend(Path(STORE)) if STORE.endswith(".db") else FileBackend(Path(STORE))
pipeline = Pipeline(tuple(made(number) for number in range(6)))
flujo = Flujo(pipeline, pipeline_name="p", pipeline_version="1", state_backend=backend, lease=float(LEASE))
print("ready", flush=True)
sys.stdin.readline()
while True:
    try:
        result = flujo.run([], run_id="r")
    except (RunHeldError, LostClaimError) as error:
        print(type(error).__name__, flush=True)
        time.sleep(0.03)
        continue
    print(json.dumps(result.output))
    break
"""


def _begun(log: Path) -> list[list[Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def _worker(folder: Path, name: str, host: str = "", ahead: float = 0) -> subprocess.Popen[str]:
    return start(WORKER, folder / name, folder / "log", host, ahead, LEASE)


def _go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def _round(folder: Path, name: str, host: str, ahead: float) -> tuple[set[int], list[str]]:
    """One round; the processes whose steps were saved, and what the second one was told."""
    folder.mkdir()
    first, second = _worker(folder, name), _worker(folder, name, host, ahead)
    assert (told(first), told(second)) == ("ready", "ready")
    _go(first)
    while not _begun(folder / "log"):
        assert first.poll() is None, first.communicate()
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.3))
    first.send_signal(signal.SIGSTOP)
    _go(second)
    time.sleep(random.uniform(2, 4) * LEASE)
    first.send_signal(signal.SIGCONT)
    if random.random() < 0.5 and second.poll() is None:
        second.send_signal(signal.SIGSTOP)
        time.sleep(2 * LEASE)
        second.send_signal(signal.SIGCONT)
    (said, _), (out, _) = second.communicate(timeout=120), first.communicate(timeout=120)
    final = json.loads(out.splitlines()[-1])
    assert json.loads(said.splitlines()[-1]) == final
    assert len(final) == 6
    for pid, number, given in _begun(folder / "log"):
        assert given == final[:number], f"{pid} was given what is not saved"
    return {int(mark.split("-")[0]) for mark in final}, said.splitlines()[:-1]


@pytest.mark.parametrize("name", ["store.db", "states"])
def test_what_was_saved_once_stays_and_the_loser_saves_nothing(name: str, tmp_path: Path) -> None:
    random.seed(name)
    taken_over = 0
    for number in range(ROUNDS):
        ahead = (0, 0, 3600, -3600)[number % 4]
        workers, _ = _round(tmp_path / str(number), name, "another-host", ahead)
        taken_over += len(workers) > 1
    assert taken_over > 0


@pytest.mark.parametrize("name", ["store.db", "states"])
def test_a_process_of_this_machine_that_lives_is_not_replaced(name: str, tmp_path: Path) -> None:
    for number in range(max(2, ROUNDS // 5)):
        folder = tmp_path / str(number)
        workers, refusals = _round(folder, name, "", (0, 3600)[number % 2])
        assert len(workers) == 1
        assert set(refusals) <= {"RunHeldError"}
        assert [step for _, step, _ in _begun(folder / "log")] == list(range(6))


def test_a_thread_that_blocks_keeps_its_run_and_who_is_replaced_saves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    backend, began, goes_on = InMemoryBackend(), threading.Event(), threading.Event()

    async def block(given: str) -> str:
        began.set()
        goes_on.wait(30)  # the loop of this thread gives no sign now
        return "of the first"

    def flujo() -> Flujo[Any]:
        return Flujo(Step("block", function=block), pipeline_name="p", state_backend=backend, lease=0.2)

    errors: list[Exception] = []

    def hold() -> None:
        try:
            flujo().run("x", run_id="r")
        except LostClaimError as error:
            errors.append(error)

    thread = threading.Thread(target=hold)
    thread.start()
    assert began.wait(30)
    first = asyncio.run(backend.read_claims())["r"]
    while asyncio.run(backend.read_claims())["r"].beat_at == first.beat_at:
        time.sleep(0.02)
    with pytest.raises(RunHeldError, match="r is held by pid"):
        flujo().run("x", run_id="r")
    late = claims.present
    monkeypatch.setattr(claims, "present", lambda: late().replace(year=2999))
    monkeypatch.setattr(claims, "WORKING", set())  # as another machine would see it
    claim = asyncio.run(backend.claim_run("r", Holder("another-host", "boot", 1, "2"), 3600))
    goes_on.set()
    thread.join(30)
    assert [type(error) for error in errors] == [LostClaimError]
    state = asyncio.run(backend.load_state("r"))
    assert state is not None
    assert (state["status"], state["step_history"]) == ("running", [])
    assert asyncio.run(backend.read_claims()) == {"r": claim}


def test_a_claim_of_a_task_that_was_forgotten_ends_with_its_lease(tmp_path: Path) -> None:
    async def main() -> None:
        backend = SQLiteBackend(tmp_path / "store.db")
        claim = await backend.claim_run("r", Holder.current(), 0.05)
        await asyncio.sleep(0.2)
        assert claim.token not in claims.WORKING
        await backend.claim_run("r", Holder.current(), 30)
        await backend.shutdown()

    asyncio.run(main())
