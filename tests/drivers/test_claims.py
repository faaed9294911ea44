"""Claims and manifests across real processes, and on stores of any version."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import textwrap
from collections.abc import Callable, Coroutine
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
from programs import python
from stores import ALL, copy

from flujo_lens.errors import LostClaimError, RunHeldError
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.backends.file import FileBackend
from flujo_lens.state.backends.sqlite import SQLiteBackend
from flujo_lens.state.claims import Claim, Holder, Progress
from flujo_lens.state.processes import boot_id, start_of
from flujo_lens.state.views import RunFilter

NOW = datetime(2026, 11, 21, tzinfo=UTC)

CLAIM = """
import asyncio, sys
from flujo_lens.errors import RunHeldError
from flujo_lens.state.claims import Holder
from flujo_lens.state.registry import open_backend

async def main():
    async with open_backend(sys.argv[1], {}) as backend:
        print("ready", flush=True)
        sys.stdin.readline()
        try:
            claim = await backend.claim_run("r", Holder.current(), 3600)
        except RunHeldError as error:
            print("held", flush=True)
        else:
            print("won", flush=True)
        sys.stdin.readline()

asyncio.run(main())
"""


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """The test, run in an event loop of its own."""

    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


def sqlite_uri(folder: Path) -> str:
    """A store in one file."""
    return f"sqlite:///{folder / 'store.db'}"


def file_uri(folder: Path) -> str:
    """A store in a folder."""
    return f"file://{folder / 'states'}"


BOTH = pytest.mark.parametrize("uri_in", [sqlite_uri, file_uri])


def opened(uri: str) -> StateBackend:
    """A backend on a store."""
    return SQLiteBackend.from_uri(uri) if uri.startswith("sqlite") else FileBackend.from_uri(uri)


def claimer(uri: str) -> subprocess.Popen[str]:
    """A process that claims a run when it is told to, and lives until it is told to end."""
    code = textwrap.dedent(CLAIM)
    process = python("-c", code, uri, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def told(process: subprocess.Popen[str]) -> None:
    """Let it go on."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def answer(process: subprocess.Popen[str]) -> str:
    """What it says next."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


@BOTH
def test_of_eight_processes_one_wins(uri_in: Callable[[Path], str], tmp_path: Path) -> None:
    processes = [claimer(uri_in(tmp_path)) for _ in range(8)]
    for process in processes:
        told(process)
    answers = [answer(process) for process in processes]
    winner = processes[answers.index("won")]
    stored = asyncio.run(claims_of(uri_in(tmp_path)))
    for process in processes:
        process.communicate("\n")
    assert sorted(answers) == ["held"] * 7 + ["won"]
    assert [claim.holder.pid for claim in stored] == [winner.pid]


async def claims_of(uri: str) -> list[Claim]:
    """The claims of a store."""
    async with opened(uri) as backend:
        return list((await backend.read_claims()).values())


@BOTH
@pytest.mark.usefixtures("fresh_processes")  # a child of this process, which leaves it unreaped
def test_a_holder_that_was_killed_is_replaced_at_once(uri_in: Callable[[Path], str], tmp_path: Path) -> None:
    uri = uri_in(tmp_path)
    first = claimer(uri)
    told(first)
    assert answer(first) == "won"

    async def claim() -> Claim:
        async with opened(uri) as backend:
            return await backend.claim_run("r", Holder.current(), 60)

    with pytest.raises(RunHeldError, match=f"pid {first.pid} on "):
        asyncio.run(claim())
    os.kill(first.pid, signal.SIGKILL)
    os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)  # dead, and its parent has not looked yet
    assert asyncio.run(claim()).holder == Holder.current()
    first.communicate()


def test_who_is_gone() -> None:
    here = Holder.current()
    assert not here.is_gone()
    assert here._replace(started="another").is_gone()
    assert here._replace(pid=2**22 + 1).is_gone()
    assert here._replace(boot_id="an earlier boot").is_gone()
    assert not here._replace(host="another", pid=2**22 + 1).is_gone()
    assert not here._replace(boot_id="").is_gone()
    assert str(here) == f"pid {os.getpid()} on {here.host}"


def test_what_another_container_or_machine_of_this_name_has_is_not_known_to_be_gone() -> None:
    boot, space, machine = boot_id().split("/")
    if not (boot and space and machine):
        pytest.skip("this system does not tell")
    gone = Holder.current()._replace(pid=2**22 + 1)
    assert gone.is_gone()
    assert not gone._replace(boot_id=f"{boot}/1{space}/{machine}").is_gone()
    assert not gone._replace(boot_id=f"another/{space}/another").is_gone()


def test_the_start_of_a_process_is_its_own() -> None:
    process = python("-c", "input()", stdin=subprocess.PIPE)
    started = start_of(process.pid)
    assert started
    assert started == start_of(process.pid)
    process.communicate(b"\n")
    assert start_of(process.pid) is None


def test_when_a_claim_has_ended() -> None:
    claim = Claim.take("r", Holder("another", "", 1, ""), 60, NOW)
    ages = (-3600, 0, 60, 61)
    assert [claim.has_ended(NOW + timedelta(seconds=age)) for age in ages] == [False, False, False, True]
    assert not claim.beaten(NOW + timedelta(seconds=30)).has_ended(NOW + timedelta(seconds=61))
    assert Claim.from_dict(json.loads(json.dumps(claim.to_dict()))) == claim


# --- the tables


def shape_of(path: Path) -> dict[str, Any]:
    """Every table and index, with the SQL that made it, and the schema's version."""
    with closing(sqlite3.connect(path)) as db:
        made = db.execute("SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'").fetchall()
        return dict(made) | {"version": db.execute("PRAGMA user_version").fetchone()[0]}


@pytest.mark.parametrize("name", ALL)
@in_a_loop
async def test_on_a_store_of_any_version_nothing_is_migrated_for_a_claim(name: str, tmp_path: Path) -> None:
    path = copy(name, tmp_path)
    before = shape_of(path)
    async with SQLiteBackend(path, migrate=False) as backend:
        assert (await backend.read_claims(), await backend.manifest_of("r")) == ({}, None)
        groups = await backend.group_resumable(RunFilter())
        assert shape_of(path) == before
        claim = await backend.heartbeat(await backend.claim_run("r", Holder.current(), 60))
        await backend.put_manifest("d", {"format": 1})
        await backend.save_progress(Progress("r", manifest="d", claim=claim))
        assert await backend.manifest_of("r") == "d"
        assert await backend.group_resumable(RunFilter()) == groups
    after = shape_of(path)
    new = {"lens_claims", "lens_manifests", "lens_run_manifests", "idx_lens_run_manifests_digest"}
    assert after.keys() - before.keys() == new
    assert {part: sql for part, sql in after.items() if part not in new} == before


@pytest.mark.parametrize("name", ALL)
@in_a_loop
async def test_a_migration_leaves_claims_and_manifests(name: str, tmp_path: Path) -> None:
    path = copy(name, tmp_path)
    async with SQLiteBackend(path) as backend:
        claim = await backend.claim_run("r", Holder.current(), 60)
        await backend.put_manifest("d", {"format": 1})
        await backend.save_progress(Progress("r", manifest="d"))
        await backend.migrate(datetime.now(UTC), backup=False)
        assert await backend.read_claims() == {"r": claim}
        assert (await backend.manifest_of("r"), await backend.get_manifest("d")) == ("d", {"format": 1})
        findings = await backend.check(datetime.now(UTC), timedelta(hours=1), full=True)
        told = " ".join(f"{finding.check} {finding.detail}" for finding in findings if not finding.ok)
        assert "lens_" not in told


STANDS_AT = {"crashed-001": None, "bgcrashed-001": None, "paused-loop-001": "ask_loop"}
"""Where the step of the pipeline is another than the one that is shown: a killed run has done the last one that it
names, and a question inside of a loop is asked by the loop."""


@pytest.mark.parametrize("name", ALL)
@in_a_loop
async def test_groups_of_real_stores_are_their_runs(name: str, tmp_path: Path) -> None:
    async with SQLiteBackend(copy(name, tmp_path)) as backend:
        wanted = RunFilter(statuses=frozenset({"running", "paused", "failed"}), top_level=True)
        runs = [run async for run in backend.iter_runs(wanted)]
        groups = await backend.group_resumable(RunFilter())
        for run in runs:
            step = STANDS_AT.get(run.run_id, run.step_name)
            place = (run.pipeline_name, run.pipeline_version, run.status, run.current_step_index, step)
            assert any(group[:5] == place for group in groups), run
        assert sum(group.runs for group in groups) == len(runs)


@in_a_loop
async def test_a_claim_that_is_no_claim_keeps_nobody_out(tmp_path: Path) -> None:
    async with SQLiteBackend(tmp_path / "store.db") as backend:
        await backend.claim_run("r", Holder.current(), 3600)
        with closing(sqlite3.connect(tmp_path / "store.db")) as db, db:
            db.execute("UPDATE lens_claims SET beat_at = 'soon'")
        assert await backend.read_claims() == {}
        await backend.claim_run("r", Holder.current(), 3600)


@in_a_loop
async def test_progress_of_a_lost_claim_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    async with SQLiteBackend(tmp_path / "store.db") as backend:
        claim = await backend.claim_run("r", Holder.current(), 3600)
        await backend.release_run(claim)
        await backend.shutdown()
        with closing(sqlite3.connect(tmp_path / "store.db")) as db:
            before = list(db.iterdump())
            with pytest.raises(LostClaimError, match="nothing was saved"):
                await backend.save_progress(Progress("r", state={"status": "running"}, claim=claim, manifest="d"))
            assert list(db.iterdump()) == before


@in_a_loop
async def test_a_folder_of_files_keeps_claims_beside_the_histories(tmp_path: Path) -> None:
    async with FileBackend(tmp_path, cache_dir=tmp_path.parent / "cache") as backend:
        await backend.save_progress(Progress("r", state={"status": "paused"}, run_start={"pipeline_name": "p"}))
        claim = await backend.claim_run("r", Holder.current(), 60)
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lens-history", "r.json"]
        assert [run.run_id async for run in backend.iter_runs(RunFilter())] == ["r"]
        findings = await backend.check(datetime.now(UTC), timedelta(hours=1), full=True)
        assert [finding.check for finding in findings if not finding.ok] == []
        await backend.release_run(claim)
        assert [path.suffix for path in (tmp_path / ".lens-history").iterdir()] == [".ndjson"]
