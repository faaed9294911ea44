"""`FileBackend` deleting by plan: the same bytes come back, and who dies on the way leaves each run whole or gone."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import textwrap
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from programs import python

from flujo_lens.errors import BusyError, LensError, NotSupportedError, OperationFailedError, SchemaError
from flujo_lens.serialization.envelope import Envelope
from flujo_lens.state.backends.file import FileBackend
from flujo_lens.state.backends.file.format import document, run_records, tombstone_writer, tombstones
from flujo_lens.state.backends.memory import InMemoryBackend
from flujo_lens.state.claims import Holder
from flujo_lens.state.deletion import Deleted, DeletionPlan, DeletionRequest, Record, Restored
from flujo_lens.state.views import RunFilter
from flujo_lens.testing.samples import plain_state

T = TypeVar("T")
SOAK = os.environ.get("LENS_SOAK") == "1"
NOW = datetime.now(UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
CUTOFF = NOW - 30 * DAY
OLD, YOUNG = CUTOFF - HOUR, CUTOFF + HOUR


def use(folder: Path, work: Callable[[FileBackend], Awaitable[T]], **options: Any) -> T:
    async def run() -> T:
        async with FileBackend(folder, cache_dir=folder.parent / "cache", **{"zone": UTC, **options}) as backend:
            return await work(backend)

    return asyncio.run(run())


def put(folder: Path, stem: str, at: Any = None, **more: Any) -> None:
    """A state file as the library leaves it."""
    folder.mkdir(exist_ok=True)
    when = (at or OLD).isoformat() if at is None or isinstance(at, datetime) else at
    made = {"run_id": stem, "status": "completed", "pipeline_context": {}, "created_at": when, "updated_at": when}
    (folder / f"{stem}.json").write_text(json.dumps(made | more))


def with_history(folder: Path, run_id: str, when: datetime = OLD) -> None:
    async def save(backend: FileBackend) -> None:
        await backend.save_run_start({"run_id": run_id, "created_at": when})
        await backend.save_step_result({"run_id": run_id, "step_name": "漢字", "step_index": 0, "end_time": when})
        await backend.save_run_end(run_id, {"end_time": when})

    use(folder, save)


def asked(**more: Any) -> DeletionRequest:
    return DeletionRequest(**{"now": datetime.now(UTC), "cutoff": CUTOFF, **more})


async def planned(backend: FileBackend, **more: Any) -> DeletionPlan:
    return await backend.plan_deletion(asked(**more))


async def carry_out(backend: FileBackend, plan: DeletionPlan, **options: Any) -> list[Deleted]:
    return [done async for done in backend.delete_planned(plan, **options)]


def delete(folder: Path, kept: list[Record] | None = None, **more: Any) -> list[str]:
    async def work(backend: FileBackend) -> list[Deleted]:
        keep = None if kept is None else kept.extend
        return await carry_out(backend, await planned(backend, **more), keep=keep, batch_size=7)

    return sorted(run_id for done in use(folder, work) for run_id in done.run_ids)


def restore(folder: Path, kept: Sequence[Record]) -> Restored:
    through_json = json.loads(json.dumps(list(kept)))
    return use(folder, lambda backend: backend.restore(through_json))


def files(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    """Every file of the folder: its bytes, modification time and permissions."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_mode)
        for path in found
    }


def ids(folder: Path) -> list[str]:
    async def work(backend: FileBackend) -> list[str]:
        return sorted([run.run_id async for run in backend.iter_runs(RunFilter())])

    return use(folder, work)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "states"


# --- planning


FORMS: dict[str, Callable[[datetime], str]] = {
    "T, microseconds, +00:00": lambda when: when.isoformat(),
    "T, Z": lambda when: when.strftime("%Y-%m-%dT%H:%M:%SZ"),
    "T": lambda when: when.strftime("%Y-%m-%dT%H:%M:%S"),
    "T, microseconds": lambda when: when.replace(tzinfo=None).isoformat(),
    "space": lambda when: when.strftime("%Y-%m-%d %H:%M:%S"),
}


@pytest.mark.parametrize("form", FORMS)
def test_an_hour_decides_in_every_form(folder: Path, form: str) -> None:
    put(folder, "old", FORMS[form](OLD))
    put(folder, "young", FORMS[form](YOUNG))
    assert delete(folder) == ["old"]


def test_what_is_of_unknown_age_stays(folder: Path) -> None:
    for stem, at in (("odd", "soon"), ("number", 17), ("none", 0), ("compact", "20200101T000000Z")):
        put(folder, stem, at or "", **({"updated_at": None, "created_at": None} if at == 0 else {}))
    put(folder, "half", OLD, updated_at="soon")
    put(folder, "missing-one", OLD, updated_at=None)
    put(folder, "future", NOW + DAY)
    (folder / "torn.json").write_bytes(b"{")
    os.utime(folder / "torn.json", (0, 0))
    put(folder, "bad-history", OLD)
    use(folder, lambda b: b.save_run_start({"run_id": "bad-history", "created_at": "soon"}))
    plan = use(folder, planned)
    assert (plan.count, plan.total, plan.kept.unknown_age) == (1, 9, 8)
    assert delete(folder) == ["missing-one"]


def test_a_run_in_several_files_is_as_old_as_the_youngest(folder: Path) -> None:
    for run_id, other in (("a", OLD), ("b", YOUNG)):
        put(folder, run_id)
        put(folder, f"copy-of-{run_id}", other, run_id=run_id)
    assert delete(folder) == ["a"]
    assert sorted(files(folder)) == ["b.json", "copy-of-b.json"]


def test_sizes_are_those_of_the_files(folder: Path) -> None:
    put(folder, "a")
    put(folder, "copy-of-a", run_id="a")
    with_history(folder, "a")
    put(folder, "young", YOUNG)
    plan = use(folder, planned)
    assert plan.rows == {"states": 2, "histories": 1}
    assert plan.size_bytes == sum(
        len(content) for name, (content, _, _) in files(folder).items() if "young" not in name
    )
    assert not plan.is_estimate


def test_filters_by_texts_read_the_files(folder: Path) -> None:
    put(folder, "a", metadata={"customer": "4711"})
    put(folder, "b", metadata={"customer": "4712"})
    assert delete(folder, wanted=RunFilter(meta=(("customer", "4711"),))) == ["a"]


def test_parts_of_the_library_and_other_files_stay(folder: Path) -> None:
    put(folder, "a")
    others = ("_granular_blobs:0123.json", "notes.txt", "x.json.tmp")
    for name in others:
        (folder / name).write_text("{}")
    assert delete(folder) == ["a"]
    assert sorted(files(folder)) == sorted(others)


# --- keeping and bringing back


def odd_runs(folder: Path) -> list[str]:
    """Runs in files of every kind."""
    put(folder, "plain")
    put(folder, "copy of plain", run_id="plain")
    put(folder, "other-name", run_id="named/elsewhere")
    put(folder, "üñí")
    with_history(folder, "plain")
    with_history(folder, "üñí")
    with_history(folder, "history-alone")
    sealed = Envelope("zlib", min_bytes=1)
    use(folder, lambda b: b.save_state("sealed", plain_state("sealed", "failed", OLD)), envelope=sealed)
    (folder / "plain.json").chmod(0o640)
    (folder / os.fsdecode(b"\xff.json")).write_text(json.dumps({"run_id": "no-utf8", "status": "failed"}))
    (folder / "torn.json").write_bytes(b"\xff\x00{")
    for at, name in enumerate(sorted(os.listdir(folder))):
        os.utime(folder / name, ns=(at, 1_600_000_000_123_456_789 + at))
    return ["history-alone", "named/elsewhere", "no-utf8", "plain", "sealed", "torn", "üñí"]


@pytest.mark.parametrize("part", [3, 4 * 1024 * 1024])
def test_what_comes_back_are_the_same_bytes(folder: Path, part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_records, "_PART", part)
    run_ids = odd_runs(folder)
    before, kept = files(folder), []
    assert ids(folder) == run_ids
    assert delete(folder, kept, run_ids=tuple(run_ids)) == run_ids
    assert files(folder) == {}
    assert [record["run_id"] for record in kept if record.get("last")] == run_ids
    assert restore(folder, kept) == Restored(tuple(run_ids), ())
    assert files(folder) == before
    assert restore(folder, kept) == Restored((), tuple(run_ids))
    assert files(folder) == before


def test_a_name_that_another_run_has_taken(folder: Path) -> None:
    put(folder, "name", run_id="mine")
    kept: list[Record] = []
    delete(folder, kept)
    put(folder, "name", run_id="yours")
    assert restore(folder, kept).run_ids == ("mine",)
    assert ids(folder) == ["mine", "yours"]


def test_a_folder_that_is_gone_is_made_again(folder: Path) -> None:
    put(folder, "a")
    with_history(folder, "a")
    before, kept = files(folder), []
    delete(folder, kept)
    (folder / ".lens-history").rmdir()
    folder.rmdir()
    assert restore(folder, kept).run_ids == ("a",)
    assert files(folder) == before


@pytest.mark.parametrize(
    "name", ["../out.json", "/tmp/out.json", "out.txt", "_granular_blobs:0.json", "a\0.json", ".lens"]
)
def test_a_record_leads_nowhere_else(folder: Path, name: str) -> None:
    put(folder, "a")
    kept: list[Record] = []
    delete(folder, kept)
    with pytest.raises(SchemaError, match="is no name"):
        restore(folder, [{**kept[0], "name": name}])
    assert files(folder) == {}


def test_records_that_are_not_whole_or_of_another_store(folder: Path) -> None:
    put(folder, "a")
    with_history(folder, "a")
    kept: list[Record] = []
    delete(folder, kept)
    with pytest.raises(OperationFailedError, match="not complete"):
        restore(folder, kept[:1])
    with pytest.raises(OperationFailedError, match="not from a folder"):
        restore(folder, [{"run_id": "a", "tables": {}, "last": True}])
    assert files(folder) == {}


def test_a_plan_of_another_store(folder: Path) -> None:
    put(folder, "a")
    plan = asyncio.run(InMemoryBackend().plan_deletion(asked()))
    with pytest.raises(NotSupportedError, match="another store"):
        use(folder, lambda b: carry_out(b, plan))


def test_a_file_that_cannot_be_kept_stays(folder: Path) -> None:
    put(folder, "a")
    plan_and_vanish = folder / "a.json"

    async def work(backend: FileBackend) -> None:
        plan = await planned(backend)

        def keep(records: Sequence[Record]) -> None:
            raise OperationFailedError("no room")

        await carry_out(backend, plan, keep=keep)

    with pytest.raises(OperationFailedError, match="no room"):
        use(folder, work)
    assert plan_and_vanish.exists()


# --- looking again


def test_a_file_that_was_touched_is_read_again(folder: Path) -> None:
    for stem in ("same", "saved", "retouched"):
        put(folder, stem)

    async def work(backend: FileBackend) -> list[Deleted]:
        plan = await planned(backend)
        put(folder, "saved", YOUNG)
        put(folder, "retouched", OLD - HOUR)
        return await carry_out(backend, plan)

    (done,) = use(folder, work)
    assert (sorted(done.run_ids), done.skipped) == (["retouched", "same"], (("saved", "changed"),))


def test_a_claimed_run_stays(folder: Path) -> None:
    put(folder, "a")
    put(folder, "b")

    async def work(backend: FileBackend) -> tuple[Any, ...]:
        plan = await planned(backend)
        claim = await backend.claim_run("a", Holder.current(), 60)
        skipped = [skip for done in await carry_out(backend, plan) for skip in done.skipped]
        named = await planned(backend, run_ids=("a",))
        still = await carry_out(backend, named)
        forced = await carry_out(backend, await planned(backend, run_ids=("a",), force=True))
        return plan.kept.held, skipped, dict(named.held), still[0].skipped, forced[0].run_ids, str(claim.holder)

    kept, skipped, held, still, forced, holder = use(folder, work)
    assert (kept, skipped, still) == (0, [("a", "held")], (("a", "held"),))
    assert (held, forced) == ({"a": holder}, ("a",))
    assert files(folder) == {}


def test_a_folder_whose_lock_is_held_is_busy(folder: Path) -> None:
    put(folder, "a")
    work = f"import fcntl, os; f = os.open({str(folder)!r}, 0); fcntl.flock(f, 2); print(1, flush=True); input()"
    with python("-c", work, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(BusyError):
            use(folder, lambda b: _delete_all(b), timeout=0.2)
        holder.communicate(b"\n")
    assert ids(folder) == ["a"]


async def _delete_all(backend: FileBackend) -> list[Deleted]:
    return await carry_out(backend, await planned(backend))


# --- states alone


def test_a_state_goes_and_its_history_stays(folder: Path) -> None:
    put(folder, "a")
    with_history(folder, "a")
    put(folder, "b")
    before, kept = files(folder), []
    assert delete(folder, kept, run_ids=("a", "b"), state_only=True) == ["a", "b"]
    assert sorted(files(folder)) == [".lens-history/a.ndjson"]
    assert use(folder, lambda b: b.get_run_details("a"))["status"] == "cancelled"
    assert restore(folder, kept).run_ids == ("a", "b")
    assert files(folder).keys() == before.keys()
    assert {name: found[0] for name, found in files(folder).items()} == {
        name: found[0] for name, found in before.items()
    }


def test_a_history_that_went_on_keeps_its_lines(folder: Path) -> None:
    put(folder, "a")
    with_history(folder, "a")
    kept: list[Record] = []
    delete(folder, kept, run_ids=("a",), state_only=True)
    use(folder, lambda b: b.persist_evaluation("a", 1.0))
    lines = (folder / ".lens-history/a.ndjson").read_bytes()
    assert restore(folder, kept).run_ids == ("a",)
    assert (folder / ".lens-history/a.ndjson").read_bytes() == lines


# --- files that are as good as gone


def dug(folder: Path, states: Sequence[str], histories: Sequence[str]) -> None:
    """The list of a deletion that died before it had removed a file."""
    found = {
        "states": {name: list(tombstones.mark_of(os.lstat(folder / name))) for name in states},
        "histories": {name: list(tombstones.mark_of(os.lstat(folder / ".lens-history" / name))) for name in histories},
    }
    (folder / ".lens-history" / tombstones.GRAVES).write_text(json.dumps(found))


@pytest.fixture
def half_gone(folder: Path) -> Path:
    """A folder with two runs, of which one is listed as gone."""
    for run_id in ("gone", "here"):
        put(folder, run_id)
        with_history(folder, run_id)
    dug(folder, ["gone.json"], ["gone.ndjson"])
    return folder


def test_no_reader_sees_what_is_listed(half_gone: Path) -> None:
    async def read(backend: FileBackend) -> list[Any]:
        return [
            [run.run_id async for run in backend.iter_runs(RunFilter())],
            [state["run_id"] for state in await backend.list_states()],
            await backend.load_state("gone"),
            await backend.read_run("gone"),
            await backend.get_run_details("gone"),
            await backend.list_run_steps("gone"),
            await backend.get_spans("gone"),
            await backend.find_run_ids("gone"),
            await backend.count_runs(RunFilter()),
        ]

    before = files(half_gone)
    assert use(half_gone, read) == [["here"], ["here"], None, None, None, [], [], [], 1]
    assert files(half_gone) == before


@pytest.mark.parametrize("how", ["save", "delete", "restore", "cleanup"])
def test_the_next_writer_removes_what_is_listed(half_gone: Path, how: str) -> None:
    async def write(backend: FileBackend) -> object:
        if how == "save":
            return await backend.save_state("other", plain_state("other"))
        if how == "restore":
            return await backend.restore([])
        if how == "cleanup":
            return await backend.cleanup_old_workflows(1)
        return await carry_out(backend, await planned(backend))

    use(half_gone, write)
    left = [name for name in files(half_gone) if "gone" in name or "graves" in name]
    assert left == ([] if how != "restore" else left)


def test_a_run_that_is_listed_may_be_saved_again(half_gone: Path) -> None:
    use(half_gone, lambda b: b.save_step_result({"run_id": "gone", "step_name": "new", "step_index": 0}))
    steps = use(half_gone, lambda b: b.list_run_steps("gone"))
    assert [step["step_name"] for step in steps] == ["new"]
    assert use(half_gone, lambda b: b.load_state("gone")) is None
    use(half_gone, lambda b: b.save_state("gone", plain_state("gone", "paused")))
    assert (use(half_gone, lambda b: b.load_state("gone")) or {})["status"] == "paused"
    assert ids(half_gone) == ["gone", "here"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"states": 1}', '{"states": {"a.json": 1}, "histories": {}}'])
def test_a_list_that_is_none_hides_nothing(half_gone: Path, content: str) -> None:
    (half_gone / ".lens-history" / tombstones.GRAVES).write_text(content)
    assert ids(half_gone) == ["gone", "here"]


# --- dying


_WORK = """
    import asyncio, json, os, sys
    from datetime import datetime, timedelta, UTC
    from flujo_lens.state.backends.file import FileBackend
    from flujo_lens.state.deletion import DeletionRequest

    def keep(records):
        with open(sys.argv[2], "a") as archive:
            archive.write(json.dumps(records) + "\\n")
            archive.flush()
            os.fsync(archive.fileno())

    async def main():
        backend = FileBackend(sys.argv[1], cache_dir=sys.argv[1] + "-cache", zone=UTC)
        now = datetime.now(UTC)
        plan = await backend.plan_deletion(DeletionRequest(now=now, cutoff=now - timedelta(days=30)))
        print(plan.count, flush=True)
        {body}

    asyncio.run(main())
"""
_DELETING = "async for done in backend.delete_planned(plan, keep=keep, batch_size=4): pass"
_RESTORING = "await backend.restore([r for line in open(sys.argv[2]) for r in json.loads(line)])"


def killed(folder: Path, archive: Path, body: str, seconds: float) -> None:
    """Do the work in another process, and kill it so many seconds after it has planned."""
    script = textwrap.dedent(_WORK).replace("{body}", body)
    with python("-c", script, folder, archive, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        worker.stdout.readline()
        time.sleep(seconds)
        worker.send_signal(signal.SIGKILL)


def whole_runs(folder: Path) -> dict[str, tuple[bytes, bytes]]:
    """The bytes of the runs that a reader sees: each has its state and its history, or the test fails."""

    async def read(backend: FileBackend) -> dict[str, Any]:
        runs = [run.run_id async for run in backend.iter_runs(RunFilter())]
        return {r: (await backend.list_run_steps(r), await backend.load_state(r)) for r in sorted(runs)}

    found = {}
    for run_id, (steps, state) in use(folder, read).items():
        assert state is not None, run_id
        assert len(steps) == 1, run_id
        name = f"{run_id}.json", f".lens-history/{run_id}.ndjson"
        found[run_id] = (folder / name[0]).read_bytes(), (folder / name[1]).read_bytes()
    return found


@pytest.mark.parametrize("n", range(100 if SOAK else 10))
def test_killed_while_deleting(folder: Path, tmp_path: Path, n: int) -> None:
    rng = random.Random(n)
    for at in range(24):
        put(folder, f"r{at}")
    use(folder, _histories)
    before, archive = whole_runs(folder), tmp_path / "archive"
    archive.touch()
    killed(folder, archive, _DELETING, rng.uniform(0, 0.08))
    left = whole_runs(folder)
    kept = [record for line in archive.read_text().splitlines() for record in json.loads(line)]
    assert left == {run_id: before[run_id] for run_id in left}
    assert {record["run_id"] for record in kept} >= set(before) - set(left)
    delete(folder, kept)
    assert files(folder) == {}
    assert len(restore(folder, kept).run_ids) == 24
    assert whole_runs(folder) == before


@pytest.mark.parametrize("n", range(100 if SOAK else 5))
def test_killed_while_bringing_back(folder: Path, tmp_path: Path, n: int) -> None:
    rng = random.Random(n)
    for at in range(24):
        put(folder, f"r{at}")
    use(folder, _histories)
    before, archive, kept = whole_runs(folder), tmp_path / "archive", []
    delete(folder, kept)
    archive.write_text(json.dumps(kept) + "\n")
    killed(folder, archive, _RESTORING, rng.uniform(0, 0.08))
    left = whole_runs(folder)
    assert left == {run_id: before[run_id] for run_id in left}
    restored = restore(folder, kept)
    assert set(restored.existing) == set(left)
    assert whole_runs(folder) == before


def test_what_comes_back_is_synced_before_it_gets_its_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the folders once for all of it."""
    for at in range(10):
        put(folder, f"r{at}")
    kept: list[Record] = []
    use(folder, lambda b: b.save_step_result({"run_id": "r0", "step_name": "s", "step_index": 0, "end_time": OLD}))
    delete(folder, kept)
    done: list[tuple[str, str]] = []
    sync, replace = os.fsync, os.replace

    def synced(file: int) -> None:
        name = os.readlink(f"/proc/self/fd/{file}")
        done.append(("folder" if os.path.isdir(name) else "sync", Path(name).name))
        sync(file)

    def placed(name: str, to: str, **options: Any) -> None:
        done.append(("place", name))
        replace(name, to, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", synced)
        patch.setattr(os, "replace", placed)
        assert len(restore(folder, kept).run_ids) == 10
    last_placed = {name: at for at, (what, name) in enumerate(done) if what == "place"}
    first_synced = {name: at for at, (what, name) in reversed([*enumerate(done)]) if what == "sync"}
    assert len(last_placed) == 12  # ten states, a history, and the list of what is to come
    assert max(first_synced[name] for name in last_placed) < min(at for at in sorted(last_placed.values())[1:])
    assert [what for what, _ in done].count("folder") == 4


async def _histories(backend: FileBackend) -> None:
    for at in range(24):
        await backend.save_step_result({"run_id": f"r{at}", "step_name": "s", "step_index": 0, "end_time": OLD})


@pytest.mark.parametrize("step", range(8))
def test_dying_between_any_two_files(folder: Path, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call that changes a name is once the last."""
    for run_id in ("a", "b"):
        put(folder, run_id)
        with_history(folder, run_id)
    left = [step]

    class Dead(BaseException):
        pass

    def dying(call: Callable[..., None]) -> Callable[..., None]:
        def wrapped(*args: Any, **options: Any) -> None:
            if left[0] == 0:
                raise Dead
            left[0] -= 1
            call(*args, **options)

        return wrapped

    with monkeypatch.context() as patch:
        patch.setattr(tombstone_writer.os, "unlink", dying(os.unlink))
        patch.setattr(tombstone_writer.os, "replace", dying(os.replace))
        with suppress(Dead):
            delete(folder)
    assert set(whole_runs(folder)) in ({"a", "b"}, set())
    delete(folder)
    assert files(folder) == {}


def test_errors_are_ours(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(folder, "a")
    with_history(folder, "a")

    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tombstone_writer.os, "replace", full)
        with pytest.raises(LensError, match="No space left"):
            delete(folder)
    assert ids(folder) == ["a"]
    assert not [name for name in files(folder) if name.endswith(document.LEFTOVER)]


# --- memory


def test_a_run_of_any_size_passes_through_little_memory(folder: Path, tmp_path: Path) -> None:
    """Its history is larger than all that a deletion, a list or restoring it may hold."""
    text = "x" * 4000

    async def fill(backend: FileBackend) -> None:
        await backend.save_run_start({"run_id": "big", "pipeline_name": "orders", "created_at": OLD.isoformat()})
        for at in range(40):
            spans = [{"span_id": f"{at}-{n}", "name": "s", "attributes": {"text": text}} for n in range(250)]
            await backend.save_spans("big", spans)
        await backend.save_run_end("big", {"end_time": OLD.isoformat()})

    use(folder, fill)
    put(folder, "big", OLD)
    (history,) = (folder / ".lens-history").iterdir()
    before, size = history.read_bytes(), history.stat().st_size
    archive = tmp_path / "kept"

    def keep(records: Sequence[Record]) -> None:
        with archive.open("a") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)

    async def delete_big(backend: FileBackend) -> list[Deleted]:
        return await carry_out(backend, await planned(backend), keep=keep)

    class Kept:
        """The records, read while they are asked for."""

        def __iter__(self) -> Iterator[Record]:
            with archive.open() as file:
                yield from map(json.loads, file)

    tracemalloc.start()
    try:
        (done,) = use(folder, delete_big)
        assert (done.run_ids, files(folder)) == (("big",), {})
        assert use(folder, lambda b: b.restore(Kept())).run_ids == ("big",)
        assert tracemalloc.get_traced_memory()[1] < size // 2
    finally:
        tracemalloc.stop()
    assert history.read_bytes() == before
