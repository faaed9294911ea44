"""`FileBackend.save_progress`: history and state are two files, and whoever dies between them has saved nothing."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import textwrap
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from programs import run_python

from flujo_lens.fs import atomic_write
from flujo_lens.state.backends.file import FileBackend
from flujo_lens.state.claims import Holder, Progress
from flujo_lens.state.deletion import DeletionRequest, Record
from flujo_lens.state.timestamps import EPOCH
from flujo_lens.state.views import RunFilter
from flujo_lens.testing.samples import plain_state

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]
ODD = "weird id/with slash"


def use(folder: Path, work: Callable[[FileBackend], Awaitable[T]]) -> T:
    async def run() -> T:
        async with FileBackend(folder, cache_dir=folder.parent / "cache") as backend:
            return await work(backend)

    return asyncio.run(run())


def progress(at: int, run_id: str = "r", **more: Any) -> Progress:
    """What a runner saves after the step number `at`."""
    state = plain_state(run_id, status="running", current_step_index=at + 1)
    step = {"step_name": f"s{at}", "step_index": at, "status": "completed"}
    span = {"span_id": f"{at:016x}", "name": f"s{at}", "status": "completed", "start_time": 1.0, "end_time": 2.0}
    return Progress(run_id, **{"state": state, "step": step, "spans": [span], **more})


def save(folder: Path, *made: Progress) -> None:
    async def work(backend: FileBackend) -> None:
        for each in made:
            await backend.save_progress(each)

    use(folder, work)


class Dead(BaseException):
    """The process is no more."""


def die_before_the_state(folder: Path, made: Progress, monkeypatch: pytest.MonkeyPatch) -> None:
    """Save progress, and die when the history has it and the state is about to be put in its place."""

    def dying(*_: object) -> None:
        raise Dead

    with monkeypatch.context() as patch:
        patch.setattr(atomic_write.TempFile, "place", dying)
        with pytest.raises(Dead):
            save(folder, made)


def told(folder: Path, run_id: str = "r") -> tuple[int | None, list[str], list[str], list[str]]:
    """Where the state stands; the steps and the spans of the history; the runs that are listed."""

    async def work(backend: FileBackend) -> tuple[int | None, list[str], list[str], list[str]]:
        state = await backend.load_state(run_id)
        steps = [step["step_name"] for step in await backend.list_run_steps(run_id)]
        spans = [span["name"] for span in await backend.get_spans(run_id)]
        listed = [run.run_id async for run in backend.iter_runs(RunFilter(), details=False)]
        assert listed == [run.run_id async for run in backend.iter_runs(RunFilter())]
        return state and state["current_step_index"], steps, spans, listed

    return use(folder, work)


def after(steps: int, run_id: str = "r") -> tuple[int | None, list[str], list[str], list[str]]:
    """What is told of a run that has saved so many steps."""
    names = [f"s{at}" for at in range(steps)]
    return (steps, names, names, [run_id]) if steps else (None, [], [], [])


def kinds(folder: Path) -> list[str]:
    (path,) = (folder / ".lens-history").glob("*.ndjson")
    return [json.loads(line)["kind"] for line in path.read_bytes().splitlines()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "states"


# --- a death at each system call


_DYING = """
    import asyncio, os, shutil, sys
    from pathlib import Path
    sys.path[:0] = sys.argv[1].split(os.pathsep)
    from test_file_progress import FileBackend, Holder, progress

    CALLS = ["open", "write", "fsync", "ftruncate", "replace", "unlink", "mkdir", "close", "lseek"]

    def die_at(number):
        left = [number]
        def dying(call):
            def wrapped(*args, **options):
                left[0] -= 1
                if left[0] < 0:
                    os._exit(9)
                return call(*args, **options)
            return wrapped
        for name in CALLS:
            setattr(os, name, dying(getattr(os, name)))

    async def save(folder, steps, claimed, number):
        backend = FileBackend(folder, cache_dir=folder.parent / "cache")
        made = progress(steps, sys.argv[4])
        if claimed:
            holder = Holder("another-host", "boot", 1, "1")
            made = made._replace(claim=await backend.claim_run(made.run_id, holder, 0.5))
        die_at(number)
        await backend.save_progress(made)
        os._exit(0)

    start, steps, claimed = Path(sys.argv[2]), int(sys.argv[3]), sys.argv[5] == "True"
    for number in range(200):
        folder = start.with_name(f"{start.name}-{number}")
        if start.exists():
            shutil.copytree(start, folder)
        child = os.fork()
        if not child:
            asyncio.run(save(folder, steps, claimed, number))
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
            break
    print(number)
"""


def deaths(start: Path, steps: int, run_id: str, claimed: bool) -> list[Path]:
    """Copies of a folder in which the next save died: each at another system call; the last one did not die."""
    tests = Path(__file__).parents[1]
    paths = os.pathsep.join(map(str, (tests / "drivers", tests / "helpers")))
    found = run_python("-c", textwrap.dedent(_DYING), paths, start, steps, run_id, claimed, check=True)
    return [start.with_name(f"{start.name}-{number}") for number in range(int(found.stdout) + 1)]


@pytest.mark.parametrize(("steps", "run_id", "claimed"), [(0, "r", True), (1, "r", False), (1, ODD, True)])
def test_dying_at_any_system_call(folder: Path, steps: int, run_id: str, claimed: bool) -> None:
    if steps:
        save(folder, *(progress(at, run_id) for at in range(steps)))
    found = deaths(folder, steps, run_id, claimed)
    seen = [told(path, run_id)[0] if path.exists() else None for path in found]
    assert {None if number is None else number - steps for number in seen} == {None if not steps else 0, 1}
    assert len(found) > 15
    for path, number in zip(found, seen, strict=True):
        done = number or 0
        if path.exists():
            assert told(path, run_id) == after(done, run_id), path
        use(path, lambda backend, done=done: _go_on(backend, run_id, done, steps + 2))
        assert told(path, run_id) == after(steps + 2, run_id), path
    for path in (*found, folder):
        shutil.rmtree(path, ignore_errors=True)


async def _go_on(backend: FileBackend, run_id: str, done: int, end: int) -> None:
    """What who takes the run over does: the step that was not saved, and the next."""
    for claim in (await backend.read_claims([run_id])).values():
        await backend.release_run(claim)
    claim = await backend.claim_run(run_id, Holder.current(), 60)
    state = await backend.load_state(run_id)
    assert (state["current_step_index"] if state else 0) == done
    for at in range(done, end):
        await backend.save_progress(progress(at, run_id, claim=claim))


# --- what is unfinished


@pytest.mark.parametrize("steps", [0, 1])
def test_what_is_unfinished_is_passed_over_and_cut_off(
    folder: Path, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(folder, *(progress(at) for at in range(steps)))
    before = kinds(folder) if steps else []
    die_before_the_state(folder, progress(steps), monkeypatch)
    assert kinds(folder) == [*before, "progress"]
    assert told(folder) == after(steps)
    use(folder, lambda b: b.claim_run("r", Holder.current(), 60))
    assert kinds(folder) == before
    assert told(folder) == after(steps)


@pytest.mark.parametrize("part", ["state", "step"])
def test_progress_of_one_part_without_a_claim_cuts_it_off(
    folder: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(folder, progress(0))
    die_before_the_state(folder, progress(1), monkeypatch)
    again = progress(1)
    save(folder, Progress("r", **{part: getattr(again, part)}))
    assert told(folder) == ((2, ["s0"], ["s0"], ["r"]) if part == "state" else (1, ["s0", "s1"], ["s0"], ["r"]))


@pytest.mark.parametrize(
    "write",
    [
        lambda b: b.persist_evaluation("r", 0.5),
        lambda b: b.cancel_runs(["r"]),
        lambda b: b.fail_stale_tasks(["r"], EPOCH.replace(year=2100), 1),
    ],
    ids=["evaluation", "cancel", "sweep"],
)
def test_every_other_write_cuts_it_off(
    folder: Path, write: Callable[[FileBackend], Awaitable[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = {"is_background_task": True, "parent_run_id": "p", "task_id": "t", "status": "running"}
    use(folder, lambda b: b.save_state("r", plain_state("r", current_step_index=1, **task)))
    die_before_the_state(folder, progress(1), monkeypatch)
    use(folder, write)
    assert told(folder)[:3] == (1, [], [])
    assert "progress" not in kinds(folder)


def test_a_state_that_is_neither_leaves_the_history_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(folder, progress(0))
    die_before_the_state(folder, progress(1), monkeypatch)
    use(folder, lambda b: b.save_state("r", plain_state("r", current_step_index=7)))
    use(folder, lambda b: b.claim_run("r", Holder.current(), 60))
    assert told(folder) == (7, ["s0", "s1"], ["s0", "s1"], ["r"])


def test_the_same_state_again_counts(folder: Path) -> None:
    made = progress(0)
    save(folder, made, made._replace(spans=(), step={**(made.step or {}), "step_name": "again"}))
    use(folder, lambda b: b.claim_run("r", Holder.current(), 60))
    assert told(folder) == (1, ["s0", "again"], ["s0"], ["r"])


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("by_hand", [True, False])
def test_a_state_that_goes_later_leaves_its_history(folder: Path, by_hand: bool, steps: int) -> None:
    save(folder, *(progress(at) for at in range(steps)))
    if by_hand:
        (folder / "r.json").unlink()
    else:
        use(folder, lambda b: b.delete_state("r"))
    use(folder, lambda b: b.claim_run("r", Holder.current(), 60))
    assert told(folder) == (None, *after(steps)[1:])


def test_an_error_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(folder, progress(0))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(Exception, match="No space left"):
            save(folder, progress(1))
    assert told(folder) == after(1)
    save(folder, progress(1))
    assert told(folder) == after(2)


def test_what_is_unfinished_goes_with_its_run_and_comes_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is all that the history has."""
    use(folder, lambda b: b.save_state("r", plain_state("r", current_step_index=1)))
    die_before_the_state(folder, progress(1), monkeypatch)
    kept: list[Record] = []

    async def delete(backend: FileBackend) -> list[str]:
        asked = DeletionRequest(now=EPOCH.replace(year=2100), cutoff=EPOCH.replace(year=2099))
        plan = await backend.plan_deletion(asked)
        return [run_id async for done in backend.delete_planned(plan, keep=kept.extend) for run_id in done.run_ids]

    assert use(folder, delete) == ["r"]
    assert [path.name for path in folder.rglob("*") if path.is_file()] == []
    assert use(folder, lambda b: b.restore(kept)).run_ids == ("r",)
    assert told(folder) == (1, [], [], ["r"])
    assert kinds(folder) == ["progress"]


@pytest.mark.parametrize("cut", [1, 40])
def test_a_line_that_is_torn_takes_all_of_its_save_along(
    folder: Path, cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(folder, progress(0))
    die_before_the_state(folder, progress(1), monkeypatch)
    path = folder / ".lens-history" / "r.ndjson"
    os.truncate(path, path.stat().st_size - cut)
    assert told(folder) == after(1)
    save(folder, progress(1))
    assert told(folder) == after(2)


@pytest.mark.parametrize(
    "damage", [{"name": "../r.json"}, {"name": 7}, {"before": "x"}, {"before": [1]}, {"before": [None, None]}]
)
def test_a_line_that_is_none_of_ours_counts(folder: Path, damage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    save(folder, progress(0))
    die_before_the_state(folder, progress(1), monkeypatch)
    path = folder / ".lens-history" / "r.ndjson"
    *lines, last = path.read_text().splitlines()
    changed = json.loads(last)
    changed = {**{key: changed[key] for key in ("run_id", "kind", "at")}, **damage, "lines": changed["lines"]}
    path.write_text("\n".join([*lines, json.dumps(changed, separators=(",", ":"))]) + "\n")
    assert told(folder)[1] == ["s0", "s1"]


def test_nothing_of_it_is_kept_in_the_index(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state comes without a change of the history: the list must not remember the history without it."""
    from flujo_lens.state.backends.file.index import state_table

    monkeypatch.setattr(state_table, "REST_NS", -10_000_000_000)
    die_before_the_state(folder, progress(0), monkeypatch)
    assert told(folder) == after(0)
    state = progress(0).state
    (folder / "r.json").write_text(json.dumps(state))
    assert told(folder) == after(1)
