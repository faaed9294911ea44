"""`FileBackend` writing beside others: processes that write at once, that die, that hold the lock, full disks."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import pytest
from programs import python

import flujo_lens
from flujo_lens.errors import BusyError, InvalidStateError, LensError, OperationFailedError, ReadOnlyStoreError
from flujo_lens.fs import atomic_write
from flujo_lens.fs.locks import Lock, try_lock
from flujo_lens.state.backends.core import folder_lock as locks
from flujo_lens.state.backends.core.port import Transaction
from flujo_lens.state.backends.file import FileBackend
from flujo_lens.state.views import RunFilter

T = TypeVar("T")
ROOT = Path(flujo_lens.__file__).resolve().parent.parent
SOAK = os.environ.get("LENS_SOAK") == "1"
AT = "2026-11-21T00:00:00+00:00"

HEAD = """
import asyncio, sys
from flujo_lens.state.backends.file import FileBackend

AT = "2026-11-21T00:00:00+00:00"
def state(**more):
    return {"status": "running", "created_at": AT, "updated_at": AT, "pipeline_context": {}, **more}
"""


def state(**more: Any) -> dict[str, Any]:
    return {"status": "running", "created_at": AT, "updated_at": AT, "pipeline_context": {}, **more}


@contextmanager
def process(code: str, *arguments: object, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs this code; ended with the test."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with python("-c", HEAD + code, *arguments, **{**pipes, **options}) as started:
        try:
            yield started
        finally:
            started.kill()


def finish(started: subprocess.Popen[bytes]) -> str:
    """What it printed, once it has ended well."""
    out, err = started.communicate(timeout=110)
    assert started.returncode == 0, err.decode()
    return out.decode()


def use(folder: Path, work: Callable[[FileBackend], Awaitable[T]], **options: Any) -> T:
    async def run() -> T:
        async with FileBackend(folder, cache_dir=folder.parent / "cache", **options) as backend:
            return await work(backend)

    return asyncio.run(run())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "states"


# --- many at once


SAVING = """
folder, number, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
async def main():
    async with FileBackend(folder) as backend:
        for n in range(count):
            await backend.save_state(f"run-{number}-{n}", state(n=n))
            await backend.save_state("shared", state(number=number, n=n, fill="x" * 3000))
            await backend.persist_evaluation("shared", float(n), feedback=str(number))
asyncio.run(main())
"""


def test_processes_that_save_at_once(folder: Path) -> None:
    count = 500 if SOAK else 50
    with ExitAll(process(SAVING, folder, number, count) for number in range(8)) as all_of_them:
        for started in all_of_them:
            finish(started)

    async def check(backend: FileBackend) -> None:
        for number in range(8):
            for n in range(count):
                loaded = await backend.load_state(f"run-{number}-{n}")
                assert loaded is not None
                assert loaded["n"] == n
        shared = await backend.load_state("shared")
        assert shared is not None
        assert (shared["n"], len(shared["fill"])) == (count - 1, 3000)
        rated = await backend.read_evaluations(limit=10**6)
        assert sorted((row.feedback, row.score) for row in rated) == sorted(
            (str(number), float(n)) for number in range(8) for n in range(count)
        )

    use(folder, check)
    names = os.listdir(folder)
    assert len(names) == 8 * count + 2
    assert [name for name in names if name.endswith(".tmp")] == []


class ExitAll:
    """Several processes at once."""

    def __init__(self, made: Any) -> None:
        self.made = list(made)

    def __enter__(self) -> list[subprocess.Popen[bytes]]:
        return [one.__enter__() for one in self.made]

    def __exit__(self, *_: object) -> None:
        for one in self.made:
            one.__exit__(None, None, None)


def test_runs_whose_names_collide_saved_at_once(folder: Path) -> None:
    """Names with a hash are names of runs too: two of these are at home where the first may be."""
    from flujo_lens.state.backends.file.format.document import names_of

    odd = "a/b"
    ids = [odd, *(name.removesuffix(".json") for name in names_of(odd))][:3]
    backends = [FileBackend(folder, cache_dir=folder.parent / "cache") for _ in ids]

    def save(at: int) -> None:
        async def many() -> None:
            for n in range(10):
                await backends[at].save_state(ids[at], state(run_id=ids[at], n=n))

        asyncio.run(many())

    threads = [threading.Thread(target=save, args=(at,)) for at in range(len(ids))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = {run_id: use(folder, lambda b, i=run_id: b.load_state(i)) for run_id in ids}
    assert {run_id: loaded and (loaded["run_id"], loaded["n"]) for run_id, loaded in found.items()} == {
        run_id: (run_id, 9) for run_id in ids
    }
    assert len(os.listdir(folder)) == len(ids)


def test_tasks_of_one_backend(folder: Path) -> None:
    async def work(backend: FileBackend) -> None:
        await asyncio.gather(*(backend.save_state(f"r{n}", state(n=n)) for n in range(100)))
        await asyncio.gather(*(backend.persist_evaluation("r0", n) for n in range(50)))
        assert await backend.count_runs(RunFilter()) == 100
        assert len(await backend.read_evaluations("r0", 100)) == 50

    use(folder, work)


def test_a_state_is_copied_before_the_first_await(folder: Path) -> None:
    async def work(backend: FileBackend) -> None:
        given = state(metadata={"n": 1})
        saving = asyncio.ensure_future(backend.save_state("r", given))
        await asyncio.sleep(0)
        given["metadata"]["n"] = 2
        await saving
        loaded = await backend.load_state("r")
        assert loaded is not None
        assert loaded["metadata"] == {"n": 1}

    use(folder, work)


# --- processes that die


DYING = """
import os
folder = sys.argv[1]
async def main():
    async with FileBackend(folder) as backend:
        n = 0
        while True:
            await backend.save_state("r", state(n=n, fill="x" * 20000))
            os.write(1, b"saved %d\\n" % n)
            await backend.save_state(f"r{n}", state(n=n))
            os.write(1, b"made %d\\n" % n)
            await backend.save_step_result({"run_id": "r", "step_name": "s", "step_index": n, "output": "y" * 5000})
            os.write(1, b"added %d\\n" % n)
            n += 1
asyncio.run(main())
"""


def test_what_was_acknowledged_outlives_the_process(folder: Path) -> None:
    dice = random.Random()
    acknowledged = {"saved": -1, "made": -1, "added": -1}
    steps = 0
    for _ in range(200 if SOAK else 20):
        with process(DYING, folder, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as started:
            assert started.stdout is not None
            first = started.stdout.readline()
            time.sleep(dice.uniform(0, 0.03))
            started.send_signal(signal.SIGKILL)
            told = first + started.stdout.read()
            assert told.endswith(b"\n")
        acknowledged = dict.fromkeys(acknowledged, -1)
        for line in told.splitlines():
            what, _, number = line.decode().partition(" ")
            acknowledged[what] = max(acknowledged[what], int(number))
        steps += acknowledged["added"] + 1
        steps = use(folder, lambda b, low=steps, last=dict(acknowledged): whole(b, last, low))
    use(folder, lambda b: b.save_state("last", state()))
    use(folder, lambda b: b.save_run_end("last", {}))
    assert [path.name for path in folder.rglob("*.tmp")] == []


async def whole(backend: FileBackend, last: dict[str, int], low: int) -> int:
    """See that all is there that was acknowledged, and at most one of each more; return how many steps there are."""
    loaded = await backend.load_state("r")
    assert loaded is not None
    assert len(loaded["fill"]) == 20000
    assert loaded["n"] - last["saved"] in (0, 1)
    for n in range(last["made"] + 1):
        made = await backend.load_state(f"r{n}")
        assert made is not None
        assert made["n"] == n
    (run,) = await backend.read_summaries(["r"])
    assert run.problems == ()
    history = await backend._files.read(_steps)
    assert {len(step["output"]) for step in history} <= {5000}
    assert len(history) - low in (0, 1)
    assert (await backend.read_facts())["notes"] in (
        (),
        *((f"{n} leftovers of interrupted saves (*.json.tmp)",) for n in (1, 2)),
    )
    return len(history)


async def _steps(tx: Transaction) -> list[dict[str, Any]]:
    return [json.loads(row.data) async for row in tx.children("step", ["r"])]


# --- leftovers


def test_leftovers_are_removed_when_nobody_writes_them(folder: Path) -> None:
    folder.mkdir()
    ours, theirs, old, alive = (
        folder / name for name in (".lens-00.json.tmp", "young.json.tmp", "old.json.tmp", ".lens-11.json.tmp")
    )
    for path in (ours, theirs, old, alive):
        path.write_bytes(b"{")
    os.utime(old, (0, time.time() - 3700))
    (folder / ".lens-dir.json.tmp").mkdir()
    (folder / ".lens-link.json.tmp").symlink_to(theirs)
    with open(alive, "rb") as writing:
        fcntl.flock(writing, fcntl.LOCK_EX)
        assert use(folder, lambda b: b.count_runs(RunFilter())) == 0
        assert ours.exists()
        use(folder, lambda b: b.save_state("r", state()))
        assert (ours.exists(), theirs.exists(), old.exists(), alive.exists()) == (False, True, False, True)
    use(folder, lambda b: b.save_state("r", state()))
    left = {".lens-dir.json.tmp", ".lens-link.json.tmp", "young.json.tmp", "r.json"}
    assert set(os.listdir(folder)) == left


def test_a_draft_that_was_taken_for_a_leftover_is_written_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    descriptor = os.open(folder, os.O_RDONLY)
    real = try_lock
    swept: list[str] = []

    def late(file: int) -> Lock:
        if not swept:
            swept.extend(os.listdir(folder))
            atomic_write.sweep(descriptor)
        return real(file)

    monkeypatch.setattr(atomic_write, "try_lock", lambda file: real(file) if swept else late(file))
    with atomic_write.drafted(descriptor, b"{}", "r.json") as draft:
        draft.place("r.json")
    os.close(descriptor)
    assert len(swept) == 1
    assert os.listdir(folder) == ["r.json"]


# --- the lock


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """The lock of a folder in another process's hands."""
    code = """
import fcntl, os
fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX)
print("got", flush=True)
sys.stdin.read()
"""
    with process(code, folder, stderr=subprocess.DEVNULL) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"got\n"
        yield


def test_a_lock_that_is_held_too_long(folder: Path) -> None:
    use(folder, lambda b: b.save_state("r", state(n=1)))
    use(folder, lambda b: b.persist_evaluation("r", 1.0))
    works: list[Callable[[FileBackend], Awaitable[Any]]] = [
        lambda b: b.save_state("r", state(n=2)),
        lambda b: b.delete_state("r"),
        lambda b: b.cleanup_old_workflows(0),
    ]
    with held(folder):
        for work in works:
            with pytest.raises(BusyError, match="held the lock") as raised:
                use(folder, work, timeout=0.05)
            assert raised.value.hint
        assert use(folder, lambda b: b.count_runs(RunFilter())) == 1
        use(folder, lambda b: b.persist_evaluation("r", 2.0))
    with held(folder / ".lens-history"):
        for work in (lambda b: b.persist_evaluation("r", 3.0), lambda b: b.delete_run("r")):
            with pytest.raises(BusyError):
                use(folder, work, timeout=0.05)
    loaded = use(folder, lambda b: b.load_state("r"))
    assert loaded is not None
    assert loaded["n"] == 1
    assert len(use(folder, lambda b: b.read_evaluations())) == 2
    assert [path.name for path in folder.rglob("*.tmp")] == []


def test_a_lock_that_becomes_free(folder: Path) -> None:
    folder.mkdir()

    async def work(backend: FileBackend) -> None:
        with held(folder):
            saving = [asyncio.ensure_future(backend.save_state(f"r{n}", state())) for n in range(3)]
            await asyncio.sleep(0.05)
            assert not any(one.done() for one in saving)
        await asyncio.gather(*saving)
        assert await backend.count_runs(RunFilter()) == 3

    use(folder, work)


def test_a_save_that_is_cancelled_while_it_waits(folder: Path) -> None:
    use(folder, lambda b: b.save_state("r", state(n=1)))

    async def work(backend: FileBackend) -> None:
        with held(folder):
            saving = [asyncio.ensure_future(backend.save_state("r", state(n=2))) for _ in range(2)]
            await asyncio.sleep(0.05)
            for one in saving:
                one.cancel()
            for one in saving:
                with pytest.raises(asyncio.CancelledError):
                    await one
            assert os.listdir(folder) == ["r.json"]
        loaded = await backend.load_state("r")
        assert loaded is not None
        assert loaded["n"] == 1

    use(folder, work, timeout=60.0)


def test_threads_wait_for_each_other_without_flock(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that knows no lock on folders."""

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    folder.mkdir()
    one, other = (os.open(folder, os.O_RDONLY) for _ in range(2))
    with (
        locks.folder_lock(one, folder, 1.0, threading.Event()),
        pytest.raises(BusyError),
        locks.folder_lock(other, folder, 0.02, threading.Event()),
    ):
        raise AssertionError("both have it")
    with locks.folder_lock(other, folder, 0.02, threading.Event()):
        pass
    os.close(one)
    os.close(other)
    use(folder, lambda b: b.save_state("r", state()))
    use(folder, lambda b: b.persist_evaluation("r", 1.0))
    leftover = folder / ".lens-00.json.tmp"
    leftover.write_bytes(b"{")
    use(folder, lambda b: b.save_state("r", state()))
    assert leftover.exists()
    os.utime(leftover, (0, time.time() - 3700))
    use(folder, lambda b: b.save_state("r", state()))
    assert not leftover.exists()


# --- places


def test_a_link_is_replaced(folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    outside = tmp_path / "outside.json"
    outside.write_text(json.dumps(state(run_id="r", n=1)))
    (folder / "r.json").symlink_to(outside)
    use(folder, lambda b: b.save_state("r", state(n=2)))
    assert not (folder / "r.json").is_symlink()
    assert json.loads(outside.read_text())["n"] == 1
    loaded = use(folder, lambda b: b.load_state("r"))
    assert loaded is not None
    assert loaded["n"] == 2


def test_a_file_of_somebody_else_is_noticed(folder: Path) -> None:
    """What this backend knows of a file holds only as long as nobody has touched it."""

    async def work(backend: FileBackend) -> None:
        await backend.save_state("r", state(n=1))
        (folder / "r.json").write_text(json.dumps(state(run_id="other")))
        await backend.save_state("r", state(n=2))
        assert sorted(run.run_id for run in (await backend.query_runs(RunFilter())).items) == ["other", "r"]
        await backend.delete_state("other")
        await backend.save_state("r", state(n=3))
        assert len(os.listdir(folder)) == 1

    use(folder, work)


def test_a_draft_is_no_more_readable_than_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(folder, lambda b: b.save_state("r", state()))
    (folder / "r.json").chmod(0o600)
    modes: list[int] = []
    real = os.fsync

    def sync(file: int) -> None:
        modes.append(os.fstat(file).st_mode & 0o777)
        real(file)

    monkeypatch.setattr(os, "fsync", sync)
    use(folder, lambda b: b.save_state("r", state()))
    assert modes[0] == 0o600
    assert (folder / "r.json").stat().st_mode & 0o777 == 0o600


def test_a_state_that_does_not_fit_is_not_saved(folder: Path) -> None:
    use(folder, lambda b: b.save_state("r", state(run_id="r")), validate=True)
    with pytest.raises(InvalidStateError):
        use(folder, lambda b: b.save_state("r", state(run_id="r", current_step_index="x")), validate=True)
    assert "current_step_index" not in json.loads((folder / "r.json").read_text())


def test_a_serializer_of_ones_own(folder: Path) -> None:
    class Odd:
        pass

    use(folder, lambda b: b.save_state("r", state(x=Odd())), serializer_default=lambda value: "odd")
    assert json.loads((folder / "r.json").read_text())["x"] == "odd"


# --- disks that are full, folders that are not ours


LIMITED = """
import resource, signal
from flujo_lens.errors import OperationFailedError
folder = sys.argv[1]
async def refused(work):
    try:
        await work
    except OperationFailedError as error:
        print(error.message)
async def main():
    async with FileBackend(folder) as backend:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        await refused(backend.save_state("r", state(fill="x" * 5000)))
        await refused(backend.save_state("new", state(fill="x" * 5000)))
        await refused(backend.persist_evaluation("r", 1.0, "x" * 5000))
        await refused(backend.persist_evaluation("new", 1.0, "x" * 5000))
        await refused(backend.set_system_state("k", {"x": "x" * 5000}))
        await backend.save_state("small", state())
asyncio.run(main())
"""


def test_a_full_disk_changes_nothing(folder: Path) -> None:
    use(folder, lambda b: b.save_state("r", state(n=1)))
    use(folder, lambda b: b.persist_evaluation("r", 0.5))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with process(LIMITED, folder) as started:
        told = finish(started).splitlines()
    assert len(told) == 5
    assert all("File too large; nothing was changed" in line for line in told)
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert after.pop(folder / "small.json")
    assert after == before


FOREIGN = """
import os
from flujo_lens.errors import ReadOnlyStoreError
async def told(work):
    try:
        await work
    except ReadOnlyStoreError as error:
        return error.message
    return "done"
async def main(folder):
    async with FileBackend(folder) as backend:
        return [
            await told(backend.save_state("r", state(n=2))),
            await told(backend.save_state("new", state())),
            await told(backend.delete_state("r")),
            await told(backend.persist_evaluation("r", 1.0)),
            await told(backend.set_system_state("k", {})),
            await told(backend.delete_run("r")),
            await told(backend.cleanup_old_workflows(0)),
            await backend.load_state("r") is not None,
        ]
asyncio.run(main(sys.argv[1]))  # all modules are loaded by one who may read them
if os.geteuid() == 0:
    os.setuid(65534)
print(*asyncio.run(main(sys.argv[2])), sep="\\n")
"""


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A folder that anybody may look into: above `tmp_path` every pytest that starts shuts the others out."""
    with TemporaryDirectory() as found:
        os.chmod(found, 0o755)
        yield Path(found)


def test_a_folder_that_may_not_be_written(open_path: Path, tmp_path: Path) -> None:
    folder = open_path / "states"
    use(folder, lambda b: b.save_state("r", state(n=1)))
    use(folder, lambda b: b.persist_evaluation("r", 0.5))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for path in before:
        path.chmod(0o444)  # their owner, who is not root everywhere, could write them in place
    for place in (folder, folder / ".lens-history"):
        place.chmod(0o555)
    try:
        with process(FOREIGN, tmp_path / "other", folder) as started:
            told = finish(started).splitlines()
    finally:
        for place in (folder, folder / ".lens-history"):
            place.chmod(0o755)
    assert told[-1] == "True"
    assert len(told) == 8
    assert [line for line in told[:-1] if "is not writable: Permission denied" not in line] == []
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_does_not_confirm_a_name(folder: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """No message says that nothing was changed when something was."""
    use(folder, lambda b: b.save_state("r", state(n=1)))
    real = os.fsync

    def sync(file: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{file}"):
            raise OSError(number, os.strerror(number))
        real(file)

    monkeypatch.setattr(os, "fsync", sync)
    with pytest.raises(OperationFailedError, match="was changed, but could not be synced to disk"):
        use(folder, lambda b: b.save_state("r", state(n=2)))
    assert json.loads((folder / "r.json").read_text())["n"] == 2


@pytest.mark.parametrize(
    "number", [errno.EIO, errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EMFILE, errno.ENAMETOOLONG]
)
@pytest.mark.parametrize("call", ["open", "fsync", "write", "replace", "unlink", "mkdir", "ftruncate"])
def test_no_error_of_the_system_leaks(folder: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int) -> None:
    use(folder, lambda b: b.save_state("r", state()))

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    works: list[Callable[[FileBackend], Awaitable[Any]]] = [
        lambda b: b.save_state("r", state()),
        lambda b: b.persist_evaluation("r", 1.0),
        lambda b: b.set_system_state("k", {}),
        lambda b: b.delete_run("r"),
        lambda b: b.cleanup_old_workflows(0),
    ]
    failed = []
    for work in works:
        with monkeypatch.context() as patch:
            patch.setattr(os, call, refuse)
            try:
                use(folder, work)
            except LensError as error:
                failed.append(error)
    assert failed
    assert [error for error in failed if str(folder) not in error.message] == []
    if number in (errno.EACCES, errno.EROFS) and call not in ("open", "fsync"):
        assert {type(error) for error in failed} == {ReadOnlyStoreError}
