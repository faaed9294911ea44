"""Runs whose process was killed: every screen says so at once, not when the lease is over or an hour has passed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from programs import python
from support import Lens

from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.backends.file import FileBackend
from flujo_lens.state.backends.memory import InMemoryBackend
from flujo_lens.state.backends.sqlite import SQLiteBackend
from flujo_lens.state.claims import Claim, Holder
from flujo_lens.state.stale_runs import gone_runs, silent_ids, with_signs
from flujo_lens.state.views import GONE, INACTIVE, RunFilter, RunSummary

RUN = """
import asyncio, sys
from flujo_lens import Flujo, Pipeline, step
from flujo_lens.state.registry import open_backend

@step
async def load(x):
    return x

@step
async def wait(x):
    print("at work", flush=True)
    await asyncio.sleep(3600)

async def main():
    async with open_backend(sys.argv[1], {}) as backend:
        await Flujo(load >> wait, pipeline_name="orders", state_backend=backend).run_async(1, run_id=sys.argv[2])

asyncio.run(main())
"""


def _at_work(lens: Lens, store: str, run_id: str) -> subprocess.Popen[str]:
    """A process that works on a run."""
    more = {"cwd": lens.cwd, "env": lens.environment(), "start_new_session": True}
    process = python("-c", RUN, store, run_id, stdout=subprocess.PIPE, text=True, **more)
    assert process.stdout is not None
    assert process.stdout.readline() == "at work\n"
    return process


@pytest.fixture(params=["sqlite", "files"])
def dead(request: pytest.FixtureRequest, bare_lens: Lens) -> Iterator[Lens]:
    """``lens`` beside a store with two runs that are said to run: one is being run, one whose process was killed."""
    folder = bare_lens.cwd / "states"
    if request.param == "files":
        folder.mkdir()
    store = "sqlite:///s.db" if request.param == "sqlite" else f"file://{folder}"
    bare_lens.env["LENS_STORE"] = store
    alive, killed = _at_work(bare_lens, store, "order-alive"), _at_work(bare_lens, store, "order-dead")
    with closing(alive.stdout), closing(killed.stdout):  # type: ignore[type-var]
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        bare_lens.env["DEAD"] = str(killed.pid)
        yield bare_lens
        alive.kill()
        alive.wait()


def test_every_screen_says_that_the_process_is_gone(dead: Lens) -> None:
    pid = dead.env["DEAD"]
    listed = dead.terminal("list", width=160).out
    assert re.search(rf"order-dead .*stale.*process is gone \(pid {pid} on .*\), at wait", listed)
    assert re.search(r"order-alive .*running.*at wait", listed)
    shown = dead.terminal("show order-dead", width=160).out
    assert "running (stale: process is gone)" in re.sub(r"\x1b\[[\d;]*m", "", shown)
    assert f"was held by pid {pid}" in shown
    assert "lens resume order-dead" in shown
    alive = dead.terminal("show order-alive", width=160).out
    assert ("gone" in alive, "lens resume" in alive, "held by pid" in alive) == (False, False, True)
    assert "1 running, process gone" in dead.process("status -o table").out
    assert "2 running (1 stale)" in dead.process("stats -o table").out
    assert "1 stale (lens list --status running)" in dead.process("failed").err
    assert "process is gone" in dead.process("trace order-dead -o table").out
    assert "said to be running" not in dead.process("delete order-dead --dry-run").out
    checked = {row["check"]: row for row in dead.process("doctor -o json").json}
    assert (checked["stale runs"]["ok"], checked["stale runs"]["count"]) == (False, 1)


def test_machines_read_it_in_fields_of_their_own(dead: Lens) -> None:
    wanted = {"order-dead": ("running", "process gone"), "order-alive": ("running", None)}
    for line in ("list -o json", "list --all -o ndjson"):
        text = dead.process(line)
        rows = text.json if line.endswith(" json") else [json.loads(row) for row in text.lines]
        assert {row["run_id"]: (row["status"], row["stale"]) for row in rows} == wanted
        assert all(row["holder"].startswith("pid ") for row in rows)
    assert dead.process("show order-dead -o json").json["run"]["stale"] == "process gone"
    status = dead.process("status -o json --exit-status")
    assert status.code == 1
    assert [(run["run_id"], run["stale"]) for run in status.json["silent"]] == [("order-dead", "process gone")]


def test_it_is_free_at_once(dead: Lens) -> None:
    """What a killed process left can be ended or deleted; what a living one works on cannot."""
    assert dead.process("cancel order-alive --yes").code != 0
    assert dead.process("cancel order-dead --yes").code == 0
    run = dead.process("show order-dead -o json").json["run"]
    assert (run["status"], run["holder"], run["stale"]) == ("cancelled", None, None)
    assert dead.process("delete order-dead --yes").code == 0
    assert dead.process("list -o id").lines == ["order-alive"]


# --- without processes

NOW = datetime(2026, 11, 21, 3, tzinfo=UTC)
HERE = Holder.current()
DEAD = HERE._replace(pid=2**22 + 1)
"""No process has an id as high."""
ELSEWHERE = HERE._replace(host="another-machine")


class _Claimed(InMemoryBackend):
    """A store with claims as a test wants them."""

    asked = 0

    def __init__(self, holders: dict[str, tuple[Holder, timedelta]]) -> None:
        super().__init__()
        self._made = {run_id: Claim.take(run_id, holder, 30, NOW - ago) for run_id, (holder, ago) in holders.items()}

    async def read_claims(self, run_ids: object = None) -> dict[str, Claim]:
        self.asked += 1
        return self._made


def _run(run_id: str, status: str = "running", ago: timedelta = timedelta(minutes=1)) -> RunSummary:
    return RunSummary(run_id, status=status, updated_at=NOW - ago)


def test_who_is_stale() -> None:
    second, long = timedelta(seconds=1), timedelta(hours=2)
    claims = {
        "alive": (HERE, second),
        "gone": (DEAD, second),
        "gone-elsewhere": (ELSEWHERE._replace(pid=DEAD.pid), second),
        "lease-over": (ELSEWHERE, long),
        "old-and-alive": (HERE, second),
        "done": (DEAD, second),
    }
    backend = _Claimed(claims)
    runs = [
        _run("alive"), _run("gone"), _run("gone-elsewhere"), _run("lease-over", ago=long),
        _run("old-and-alive", ago=long), _run("done", "completed"), _run("nobody"), _run("nobody-for-long", ago=long),
        RunSummary("no-time"),
    ]  # fmt: skip
    found = asyncio.run(with_signs(backend, runs, NOW, timedelta(hours=1)))
    assert {run.run_id: run.stale for run in found if run.stale} == {
        "gone": GONE,
        "lease-over": INACTIVE,
        "nobody-for-long": INACTIVE,
    }
    assert {run.run_id for run in found if run.holder} == set(claims) - {"done"}
    assert backend.asked == 1


def test_where_nothing_runs_no_claim_is_read() -> None:
    backend = _Claimed({})
    asyncio.run(with_signs(backend, [_run("a", "failed"), _run("b", "paused")], NOW, timedelta(hours=1)))
    assert backend.asked == 0


@pytest.mark.parametrize("kind", ["sqlite", "files", "memory"])
def test_silent_are_also_those_whose_process_is_gone(kind: str, tmp_path: Path) -> None:
    def make() -> StateBackend:
        (tmp_path / "d").mkdir()
        kinds = {"sqlite": SQLiteBackend, "files": FileBackend}
        return (
            kinds[kind](tmp_path / "d" / ("s.db" if kind == "sqlite" else "")) if kind in kinds else InMemoryBackend()
        )

    async def work() -> None:
        now = datetime.now(UTC)
        async with make() as backend:
            for run_id, status in (
                ("gone", "running"),
                ("alive", "running"),
                ("done", "completed"),
                ("free", "running"),
            ):
                state = {"run_id": run_id, "status": status, "pipeline_context": {}, "pipeline_name": "p"}
                times = dict.fromkeys(("created_at", "updated_at"), now.isoformat())
                await backend.save_state(run_id, {**state, "pipeline_version": "1", **times})
            await backend.claim_run("gone", DEAD, 3600)
            await backend.claim_run("alive", HERE, 3600)
            await backend.claim_run("done", DEAD, 3600)
            cutoff = now - timedelta(hours=1)
            assert await silent_ids(backend, RunFilter(), cutoff, now) == ["gone"]
            assert await silent_ids(backend, RunFilter(), cutoff, now, gone=False) == []
            assert await silent_ids(backend, RunFilter(pipeline="q"), cutoff, now) == []
            claims = await backend.read_claims()
            assert [run.run_id for run in await gone_runs(backend, RunFilter(), claims.values())] == ["gone"]

    asyncio.run(work())


def test_no_process_has_the_id_of_a_dead_one() -> None:
    with pytest.raises(ProcessLookupError):
        os.kill(DEAD.pid, 0)
