"""`FileBackend` on folders as they are found: torn files, odd names, stale and damaged indexes."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import resource
import shutil
import signal
import sqlite3
import threading
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import Mock

import pytest

from flujo_lens.errors import (
    CorruptStoreError,
    NotAStoreError,
    OperationFailedError,
    ReadOnlyStoreError,
    StoreNotFoundError,
    UnreachableStoreError,
)
from flujo_lens.state import interpret
from flujo_lens.state.backends.core import cache_file
from flujo_lens.state.backends.core.fallbacks import order_runs
from flujo_lens.state.backends.file import backend as backend_module
from flujo_lens.state.backends.file.backend import FileBackend, folder_of_uri
from flujo_lens.state.backends.file.format import document
from flujo_lens.state.backends.file.index import cache as index_module
from flujo_lens.state.backends.file.index import catalogue, run_selection, state_table
from flujo_lens.state.filtering import matches
from flujo_lens.state.views import RunFilter, RunSummary

DATA = Path(__file__).resolve().parents[1] / "data"
NEW, OLD = "flujo-0.6.11", "flujo-0.4.35"
LIMA = timezone(timedelta(hours=-5))
T = TypeVar("T")

ODD_IDS = [
    "weird id/with slash",
    "per%cent_under",
    "a%2Fb",
    "../x",
    "../../etc/passwd",
    "/etc/passwd",
    ".",
    "..",
    "",
    "quo\"te's",
    "two\nlines\tand\ttabs",
    "back\\slash",
    "üñí-漢字",
    "_granular_blobs:0123456789abcdef0123456789abcdef",
    "x" * 300,
    "ü" * 130,
    ".hidden",
    "-n",
    "ends.json",
    "ends.json.tmp",
]


def state(run_id: str | None = "r", at: str = "2026-11-21T00:00:00+00:00", **more: Any) -> dict[str, Any]:
    """A state with the usual fields."""
    made = {"status": "completed", "created_at": at, "updated_at": at, "current_step_index": 1}
    return {**made, "pipeline_name": "unknown", "pipeline_context": {}, "run_id": run_id, **more}


class Place:
    """A folder of a store and a cache directory for its index."""

    def __init__(self, root: Path) -> None:
        self.folder, self.cache = root / "states", root / "cache"
        self.folder.mkdir()

    def put(self, name: str, content: Any) -> Path:
        """Write a file: bytes as they are, anything else as JSON."""
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path

    def use(self, work: Callable[[FileBackend], Awaitable[T]], **options: Any) -> T:
        """What `work` returns on a new backend."""

        async def run() -> T:
            async with FileBackend(self.folder, cache_dir=self.cache, **options) as backend:
                return await work(backend)

        return asyncio.run(run())

    def runs(self, wanted: RunFilter | None = None, **options: Any) -> list[RunSummary]:
        """All runs, as a new backend lists them."""
        return self.use(lambda backend: collect(backend, wanted or RunFilter()), **options)

    def ids(self) -> list[str]:
        """All run ids, the newest start first."""
        return [run.run_id for run in self.runs()]

    def index(self) -> Path:
        """The one index file."""
        (found,) = self.cache.iterdir()
        return found


async def collect(backend: FileBackend, wanted: RunFilter, **options: Any) -> list[RunSummary]:
    """What `iter_runs` yields."""
    return [run async for run in backend.iter_runs(wanted, **options)]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as at rest at once: between two writes of one file there must be a tick of the clock."""
    monkeypatch.setattr(state_table, "REST_NS", -10_000_000_000)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read, as they are read."""
    names: list[str] = []
    real = document.read_bytes

    def load(folder: int, name: str, size: int) -> bytes:
        names.append(name)
        return real(folder, name, size)

    monkeypatch.setattr(document, "read_bytes", load)
    return names


@pytest.fixture(params=[NEW, OLD])
def copied(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A copy of a real folder."""
    place = Place(tmp_path)
    shutil.copytree(DATA / request.param / "file-state", place.folder, dirs_exist_ok=True)
    return place


def traces(folder: Path) -> dict[str, tuple[int, int, int, str]]:
    """Every file below a folder, and itself: size, times, hash."""
    found = {}
    for path in (folder, *folder.rglob("*")):
        facts = path.lstat()
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path)] = (facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, digest)
    return found


# --- what counts as a run


def test_the_run_id_inside_counts(place: Place) -> None:
    place.put("a.json", state("b"))
    place.put("no-id.json", {"status": "failed", "pipeline_context": {}})
    place.put("null-id.json", state(None))
    place.put("number.json", {**state(), "run_id": 17})
    place.put("blank.json", state(""))
    assert sorted(place.ids()) == ["17", "b", "blank", "no-id", "null-id"]
    assert place.use(lambda b: b.load_state("b")) == state("b")
    assert place.use(lambda b: b.load_state("a")) is None
    loaded = place.use(lambda b: b.load_state("no-id"))
    assert loaded is not None
    assert loaded["run_id"] == "no-id"


def test_other_things_are_passed_over(place: Place) -> None:
    place.put("run.json", state("run"))
    place.put("run.json.tmp", b'{"half')
    place.put("_granular_blobs:0123456789abcdef0123456789abcdef.json", {"run_id": "blob"})
    place.put("package.json", {"name": "x", "status": "ok"})
    place.put("notes.txt", b"hello")
    place.put("RUN.JSON", state("shouting"))
    (place.folder / "sub").mkdir()
    (place.folder / "sub" / "inner.json").write_text(json.dumps(state("inner")))
    (place.folder / "dir.json").mkdir()
    (place.folder / "dangling.json").symlink_to("nowhere")
    os.mkfifo(place.folder / "pipe.json")
    assert place.ids() == ["run"]
    assert place.use(lambda b: b.load_state("pipe")) is None
    assert place.use(lambda b: b.load_state("dir")) is None


TORN = {
    "empty": b"",
    "cut": json.dumps(state("cut")).encode()[:-20],
    "list": b"[1, 2]",
    "text": b'"hello"',
    "latin": '{"run_id": "ü"}'.encode("latin-1"),
    "utf16": json.dumps(state("utf16")).encode("utf-16"),
    "zeros": b"\0" * 64,
    "deep": b"[" * 20_000,
}


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.usefixtures("at_rest")
def test_a_file_that_does_not_parse_is_an_unreadable_run(place: Place, known: bool) -> None:
    place.put("good.json", state("good"))
    for stem, content in TORN.items():
        place.put(f"{stem}.json", content)
    if known:
        place.runs()
    found = {run.run_id: run for run in place.runs()}
    assert found.pop("good").status == "completed"
    assert found.keys() == TORN.keys()
    for stem, run in found.items():
        changed = (place.folder / f"{stem}.json").stat().st_mtime_ns // 1000
        assert run.status == "unreadable"
        assert run.created_at == run.updated_at == datetime.fromtimestamp(0, UTC) + timedelta(microseconds=changed)
        assert run.error_message is not None
        assert run.error_message.startswith(f"{stem}.json: does not parse: ")
        assert run.problems == (run.error_message,)
    light = place.use(lambda b: collect(b, RunFilter(statuses=frozenset({"unreadable"})), details=False))
    assert {run.run_id: run.created_at for run in light} == {r.run_id: r.created_at for r in found.values()}
    assert len(place.use(lambda b: b.list_states())) == 1


def test_one_unreadable_run(place: Place) -> None:
    place.put("cut.json", TORN["cut"])
    detail = place.use(lambda b: b.read_run("cut"))
    assert detail is not None
    assert (detail.run.status, detail.state, detail.steps) == ("unreadable", None, ())
    with pytest.raises(CorruptStoreError, match=r"cut\.json: does not parse"):
        place.use(lambda b: b.load_state("cut"))
    place.use(lambda b: b.save_state("cut", state("cut")))
    assert place.runs()[0].status == "completed"
    place.put("cut.json", TORN["cut"])
    place.use(lambda b: b.delete_state("cut"))
    assert place.ids() == []


def test_numbers_that_json_does_not_have(place: Place) -> None:
    place.put("nan.json", b'{"run_id": "nan", "status": "failed", "metadata": {"x": NaN, "y": -Infinity}}')
    (run,) = place.runs()
    assert (run.status, run.problems) == ("failed", ())


def test_a_file_that_may_not_be_read(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.put("mine.json", state("mine"))
    place.put("secret.json", state("secret"))
    real = os.open

    def refuse(path: Any, *args: Any, **options: Any) -> int:
        if path == "secret.json":
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        found = {run.run_id: run for run in place.runs()}
    assert found["mine"].status == "completed"
    assert found["secret"].error_message == "secret.json: does not parse: Permission denied"
    assert {run.status for run in place.runs()} == {"completed"}


def test_a_file_that_vanishes_is_left_out(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.put("stays.json", state("stays"))
    goes = place.put("goes.json", state("goes"))
    real = document.read_bytes

    def load(folder: int, name: str, size: int) -> bytes:
        goes.unlink(missing_ok=True)
        return real(folder, name, size)

    monkeypatch.setattr(document, "read_bytes", load)
    assert place.ids() == ["stays"]


# --- what counts as a store


def test_places_that_are_no_store(place: Place, tmp_path: Path) -> None:
    missing = FileBackend(tmp_path / "missing", cache_dir=place.cache)
    with pytest.raises(StoreNotFoundError):
        asyncio.run(missing.query_runs(RunFilter()))
    assert asyncio.run(missing.load_state("r")) is None
    asyncio.run(missing.delete_state("r"))
    assert not (tmp_path / "missing").exists()
    file = tmp_path / "file"
    file.write_text("x")
    for work in (FileBackend.count_runs, FileBackend.save_state):
        given: tuple[Any, ...] = (RunFilter(),) if work is FileBackend.count_runs else ("r", state())
        with pytest.raises(NotAStoreError, match="not a folder"):
            asyncio.run(work(FileBackend(file, cache_dir=place.cache), *given))
    with pytest.raises(StoreNotFoundError):
        asyncio.run(FileBackend(file / "below", cache_dir=place.cache).read_facts())


def test_an_empty_store(place: Place) -> None:
    assert place.ids() == []
    place.put("a.json.tmp", b"{")
    place.put("_granular_blobs:0123456789abcdef0123456789abcdef.json", b"{}")
    (place.folder / "sub").mkdir()
    assert place.ids() == []
    facts = place.use(lambda b: b.read_facts())
    assert facts == {
        "size_bytes": 3,
        "last_write_at": None,
        "notes": ("1 leftovers of interrupted saves (*.json.tmp)",),
    }


@pytest.mark.parametrize(("name", "content"), [("notes.txt", b"x"), ("package.json", b'{"name": "x"}')])
def test_a_folder_of_other_files(place: Place, name: str, content: bytes) -> None:
    place.put(name, content)
    for work in (FileBackend.query_runs, FileBackend.count_runs):
        with pytest.raises(NotAStoreError, match="holds no workflow states"):
            place.use(lambda b, w=work: w(b, RunFilter()))
    assert place.use(lambda b: b.load_state("r")) is None
    place.put("torn.json", b"{")
    assert [run.status for run in place.runs()] == ["unreadable"]


def test_a_folder_that_may_not_be_read(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse(path: Any, *args: Any, **options: Any) -> int:
        if path == place.folder:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *args, **options)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UnreachableStoreError, match="Permission denied"):
        place.runs()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_be_listed_only(place: Place) -> None:
    place.put("r.json", state())
    place.folder.chmod(0o400)
    try:
        with pytest.raises(UnreachableStoreError):
            place.runs()
        with pytest.raises(UnreachableStoreError):
            place.use(lambda b: b.load_state("r"))
    finally:
        place.folder.chmod(0o700)


def test_uris() -> None:
    assert folder_of_uri("file:///a/b%20c?x=1") == Path("/a/b c")
    assert folder_of_uri("file://localhost/a") == Path("/a")
    assert folder_of_uri("some/100%25?") == Path("some/100%25?")
    assert FileBackend.from_uri("file:///a", timeout=1.0, zone=LIMA).path == Path("/a")


# --- ids and names


@pytest.mark.parametrize("run_id", ODD_IDS)
def test_odd_ids_come_back(place: Place, run_id: str) -> None:
    place.put("other.json", state("other", "2020-01-01T00:00:00+00:00"))

    async def work(backend: FileBackend) -> None:
        await backend.save_state(run_id, state(run_id, metadata={"n": 1}))
        await backend.save_state(run_id, state(run_id, metadata={"n": 2}))
        loaded = await backend.load_state(run_id)
        assert loaded is not None
        assert (loaded["run_id"], loaded["metadata"]) == (run_id, {"n": 2})
        assert [run.run_id for run in await collect(backend, RunFilter())] == [run_id, "other"]
        detail = await backend.read_run(run_id)
        assert detail is not None
        assert detail.run.run_id == run_id
        assert run_id in await backend.find_run_ids(run_id[:3])
        await backend.delete_state(run_id)
        assert await backend.load_state(run_id) is None

    before = traces(place.folder.parent)
    place.use(work)
    assert os.listdir(place.folder) == ["other.json"]
    assert traces(place.folder)[str(place.folder / "other.json")] == before[str(place.folder / "other.json")]
    assert {path.name for path in place.folder.parent.iterdir()} <= {"states", "cache"}


def test_ids_do_not_lead_out_of_the_folder(place: Place) -> None:
    place.put("r.json", state("r"))
    (place.folder.parent / "secret.json").write_text(json.dumps(state("../secret")))
    assert place.use(lambda b: b.load_state("../secret")) is None
    assert place.use(lambda b: b.read_run("../secret")) is None
    place.use(lambda b: b.delete_state("../secret"))
    assert (place.folder.parent / "secret.json").exists()


def test_a_plain_name_where_that_is_one(place: Place) -> None:
    plain = ["per%cent_under", "üñí-run", "two\nlines", "back\\slash", ".hidden", "x" * 250]
    for run_id in plain:
        place.use(lambda b, i=run_id: b.save_state(i, state(i)))
    assert sorted(os.listdir(place.folder)) == sorted(os.fsdecode(f"{run_id}.json".encode()) for run_id in plain)


def test_a_name_that_is_taken(place: Place) -> None:
    place.put("a.json", state("b"))
    place.put("package.json", {"name": "not ours"})
    (place.folder / "dir.json").mkdir()
    for run_id in ("a", "package", "dir"):
        place.use(lambda b, i=run_id: b.save_state(i, state(i)))
        assert place.use(lambda b, i=run_id: b.load_state(i)) == state(run_id)
    assert json.loads((place.folder / "package.json").read_text()) == {"name": "not ours"}
    assert sorted(place.ids()) == ["a", "b", "dir", "package"]
    for name in list(document.names_of("full")):
        (place.folder / name).mkdir()
    with pytest.raises(OperationFailedError, match="taken"):
        place.use(lambda b: b.save_state("full", state("full")))


def test_names_that_are_no_utf8(place: Place) -> None:
    place.put("r.json", state("r"))
    (place.folder / os.fsdecode(b"b\xff.json")).write_bytes(b"{")
    for _ in range(2):
        assert sorted(place.ids()) == ["b\\xff", "r"]
    assert place.use(lambda b: b.read_run("b\\xff")) is not None


def test_several_files_of_one_run(place: Place) -> None:
    place.put("z-old.json", state("r", "2026-01-01T00:00:00+00:00", status="running"))
    place.put("r.json", state("r", "2026-01-02T00:00:00+00:00", status="paused"))
    place.put("a-new.json", state("r", "2026-01-03T00:00:00+00:00", status="failed"))
    place.put("torn.json", b"{")
    place.put("holds-torn.json", state("torn", "2020-01-01T00:00:00+00:00"))
    found = {run.run_id: run for run in place.runs()}
    assert found.keys() == {"r", "torn"}
    assert found["r"].status == "failed"
    assert "a-new.json, r.json, z-old.json" in found["r"].problems[0]
    assert found["torn"].status == "completed"
    assert place.use(lambda b: b.count_runs(RunFilter())) == 2
    detail = place.use(lambda b: b.read_run("r"))
    assert detail is not None
    assert detail.run == found["r"]
    assert "2 runs are in several files each" in place.use(lambda b: b.read_facts())["notes"]
    place.use(lambda b: b.delete_state("r"))
    assert place.ids() == ["torn"]


def test_links_are_followed_for_reading(place: Place, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_text(json.dumps(state("linked")))
    (place.folder / "linked.json").symlink_to(elsewhere)
    (place.folder / "loop.json").symlink_to("loop.json")
    found = {run.run_id: run.status for run in place.runs()}
    assert found == {"linked": "completed", "loop": "unreadable"}


# --- what is asked means the same as everywhere


def truth(folder: Path, zone: Any) -> list[RunSummary]:
    """The runs of a folder by the plain definition."""
    documents = [json.loads(path.read_bytes()) for path in folder.glob("*.json")]
    return [interpret.summarise(interpret.raw_from_documents(d["run_id"], d), zone) for d in documents]


def filters(runs: list[RunSummary]) -> Iterator[RunFilter]:
    """Filters of every kind, with values that some runs have."""
    yield RunFilter()
    for run in runs[::4]:
        yield RunFilter(statuses=frozenset({run.status}))
        yield RunFilter(pipeline=run.pipeline_name, version=run.pipeline_version)
        yield RunFilter(since=run.created_at, active_until=run.updated_at)
        yield RunFilter(until=run.created_at, statuses=frozenset({"completed", "failed"}))
        yield RunFilter(active_since=run.updated_at)
        yield RunFilter(parent=run.parent_run_id or run.run_id)
        yield RunFilter(search=run.run_id[2:7].upper())
        yield RunFilter(error=f"*{(run.error_message or 'nothing')[-9:]}*")
        yield RunFilter(meta=tuple((key, str(value)) for key, value in run.metadata.items())[:1])
    yield RunFilter(top_level=True)
    yield RunFilter(tasks_only=True)
    yield RunFilter(search="approve")
    yield RunFilter(version="7", statuses=frozenset({"paused"}))


@pytest.mark.parametrize("zone", [UTC, LIMA])
def test_filters_agree_with_the_definition(copied: Place, zone: Any) -> None:
    copied.put("named.json", state("named", pipeline_name="orders", pipeline_version="7", status="paused"))
    copied.put("timeless.json", state("timeless", "yesterday", status=None, metadata={"is_background_task": 1}))
    copied.put("numbers.json", state("numbers", updated_at=17, status=4, parent_run_id=5))
    runs = truth(copied.folder, zone)
    tasks = {run.run_id: counts(runs, run.run_id) for run in runs}
    for wanted in filters(runs):
        expected = [run._replace(tasks=tasks[run.run_id]) for run in runs if matches(wanted, run)]
        forwards, backwards, light, count = copied.use(lambda b, w=wanted: four_ways(b, w), zone=zone)
        assert forwards == order_runs(expected, None, False), wanted
        assert backwards == order_runs(expected, None, True), wanted
        assert {light_part(run) for run in light} == {light_part(run) for run in expected}, wanted
        assert count == len(expected)


async def four_ways(backend: FileBackend, wanted: RunFilter) -> tuple[Any, ...]:
    """The runs of a filter from the first and from the last, without order and details, and their number."""
    return (
        await collect(backend, wanted),
        await collect(backend, wanted, reverse=True),
        await collect(backend, wanted, ordered=False, details=False),
        await backend.count_runs(wanted),
    )


def counts(runs: list[RunSummary], parent: str) -> dict[str, int]:
    """Background tasks by status."""
    statuses = [run.status for run in runs if run.parent_run_id == parent]
    return {status: statuses.count(status) for status in statuses}


def light_part(run: RunSummary) -> tuple[Any, ...]:
    """What is known of a run without its file."""
    who = (run.run_id, run.pipeline_name, run.pipeline_version, run.status, run.parent_run_id)
    return (*who, run.is_background_task, run.created_at, run.updated_at)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("limit", [0, 1, 7, 500])
def test_pages_join_to_the_list(copied: Place, limit: int, reverse: bool) -> None:
    copied.put("timeless.json", state("timeless", "never"))
    copied.put("timeless2.json", state("timeless2", "never"))

    async def work(backend: FileBackend) -> None:
        wanted = RunFilter(statuses=frozenset({"completed", "failed"}))
        whole = await collect(backend, wanted, reverse=reverse)
        page = await backend.query_runs(wanted, limit=limit, reverse=reverse)
        found = list(page.items)
        while page.next and limit:
            assert len(page.items) == limit
            page = await backend.query_runs(wanted, after=page.next, limit=limit, reverse=reverse)
            found += page.items
        assert found == (whole if limit else [])
        middle = whole[len(whole) // 2]
        rest = await collect(backend, wanted, after=(middle.created_at, middle.run_id), reverse=reverse)
        assert rest == whole[len(whole) // 2 + 1 :]

    copied.use(work)


def test_a_page_reads_its_own_files_alone(place: Place, read: list[str], at_rest: None) -> None:
    for n in range(300):
        place.put(f"r{n:03}.json", state(f"r{n:03}", f"2026-01-01T00:{n // 60:02}:{n % 60:02}+00:00"))
    place.runs()
    read.clear()
    page = place.use(lambda b: b.query_runs(RunFilter(), limit=10))
    assert [run.run_id for run in page.items] == [f"r{n}" for n in range(299, 289, -1)]
    assert len(read) == 11
    read.clear()
    assert place.use(lambda b: b.load_state("r007")) is not None
    assert read == ["r007.json"]


def test_the_other_reading_methods(copied: Place) -> None:
    async def work(backend: FileBackend) -> None:
        runs = await collect(backend, RunFilter())
        assert await backend.find_run_ids("paused-") == ["paused-001", "paused-loop-001", "paused-schema-001"]
        assert await backend.find_run_ids("orders-", limit=2) == ["orders-v1-001", "orders-v1-002"]
        assert {s["run_id"] for s in await backend.list_states("paused")} == {
            "paused-001",
            "paused-loop-001",
            "paused-schema-001",
        }
        states = await backend.list_states()
        assert [s["updated_at"] for s in states] == sorted((s["updated_at"] for s in states), reverse=True)
        assert [row["run_id"] for row in await backend.list_runs(limit=3)] == [run.run_id for run in runs[:3]]
        stats = await backend.read_stats(RunFilter())
        assert stats.total == len(runs)
        facts = await backend.read_facts()
        assert facts["size_bytes"] == sum(path.stat().st_size for path in copied.folder.iterdir())
        assert facts["last_write_at"] == max(run.updated_at for run in runs if run.updated_at)
        assert facts["notes"] == ()
        assert (await backend.read_spans("cost-001"), await backend.get_spans("cost-001")) == ((), [])
        assert (await backend.read_evaluations(), await backend.list_evaluations()) == ((), [])
        assert (await backend.read_system_state(), await backend.get_trace("cost-001")) == ((), None)

    copied.use(work)


def test_background_tasks_hang_on_their_parent(place: Place) -> None:
    place.put("p.json", state("p"))
    place.put("t1.json", state("t1", "2026-11-22T00:00:00+00:00", parent_run_id="p", is_background_task=True))
    place.put("t2.json", state("t2", status="failed", metadata={"parent_run_id": "p", "is_background_task": True}))
    detail = place.use(lambda b: b.read_run("p"))
    assert detail is not None
    assert [child.run_id for child in detail.children] == ["t2", "t1"]
    assert detail.run.tasks == {"completed": 1, "failed": 1}
    assert [run.run_id for run in place.runs(RunFilter(top_level=True))] == ["p"]


# --- reading never writes


def test_reading_leaves_no_trace(copied: Place) -> None:
    copied.put("torn.json", b"{")
    copied.put("left.json.tmp", b"{")
    before = traces(copied.folder)

    async def work(backend: FileBackend) -> None:
        await backend.query_runs(RunFilter())
        await collect(backend, RunFilter(search="x"))
        await backend.read_run("fail-001")
        await backend.load_state("no such run")
        await backend.read_facts()
        await backend.read_stats(RunFilter())
        await backend.list_states()

    copied.use(work)
    assert traces(copied.folder) == before


@pytest.mark.usefixtures("at_rest")
def test_no_index_inside_the_store(place: Place) -> None:
    place.put("r.json", state())
    link = place.folder.parent / "link"
    link.symlink_to(place.folder)
    for cache in (place.folder, place.folder / "cache", link / "cache"):
        backend = FileBackend(place.folder, cache_dir=cache)
        assert asyncio.run(backend.count_runs(RunFilter())) == 1
    assert os.listdir(place.folder) == ["r.json"]


# --- the index


@pytest.mark.usefixtures("at_rest")
class TestIndex:
    @pytest.fixture(autouse=True)
    def _three(self, place: Place) -> None:
        for name in "abc":
            place.put(f"{name}.json", state(name))
        place.put("other.json", {"no": "state"})
        place.put("torn.json", b"{")

    def light(self, place: Place, **options: Any) -> dict[str, str]:
        """Status by run id, of which nothing is read but by the index's need."""
        runs = place.use(lambda b: collect(b, RunFilter(), details=False), **options)
        return {run.run_id: run.status for run in runs}

    def test_unchanged_files_are_not_read(self, place: Place, read: list[str]) -> None:
        first = self.light(place)
        assert sorted(read) == ["a.json", "b.json", "c.json", "other.json", "torn.json"]
        read.clear()
        stamp = place.index().stat()
        assert self.light(place) == first
        assert read == []
        assert place.index().stat() == stamp

    def test_a_changed_file_is_read(self, place: Place, read: list[str]) -> None:
        self.light(place)
        read.clear()
        time.sleep(0.05)
        place.put("b.json", state("b", status="failed"))
        place.put("torn.json", state("torn"))
        place.put("new.json", state("new"))
        (place.folder / "a.json").unlink()
        found = {"b": "failed", "c": "completed", "torn": "completed", "new": "completed"}
        assert self.light(place) == found
        assert sorted(read) == ["b.json", "new.json", "torn.json"]
        read.clear()
        assert self.light(place) == found
        assert read == []

    def test_the_same_size_and_time(self, place: Place) -> None:
        self.light(place)
        time.sleep(0.05)
        path = place.folder / "a.json"
        before = path.stat()
        place.put("a.json", state("z"))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert path.stat().st_size == before.st_size
        assert self.light(place).keys() == {"z", "b", "c", "torn"}
        time.sleep(0.05)
        fresh = place.put("fresh", state("y"))
        os.utime(fresh, ns=(before.st_atime_ns, before.st_mtime_ns))
        fresh.replace(path)
        assert self.light(place).keys() == {"y", "b", "c", "torn"}

    def test_one_backend_sees_changes_too(self, place: Place) -> None:
        async def work(backend: FileBackend) -> None:
            assert await backend.count_runs(RunFilter()) == 4
            place.put("d.json", state("d"))
            (place.folder / "torn.json").unlink()
            assert [run.run_id for run in await collect(backend, RunFilter(search="d"))] == ["d"]
            assert await backend.count_runs(RunFilter()) == 4

        place.use(work)

    def test_a_damaged_index_is_none(self, place: Place, read: list[str]) -> None:
        expected = self.light(place)
        good = place.index().read_bytes()
        for bad in (b"", b"\n", b"x" * 99, good[:-9], good[:4096], good[:100]):
            place.index().write_bytes(bad)
            read.clear()
            assert self.light(place) == expected
            assert len(read) == 5
            assert place.index().read_bytes() != bad
        place.index().unlink()
        assert self.light(place) == expected
        place.index().unlink()
        place.cache.rmdir()
        assert self.light(place) == expected

    @pytest.mark.parametrize(
        "change",
        [
            "UPDATE meta SET version = 1",
            "UPDATE meta SET boot = 'before a restart'",
            "DELETE FROM meta",
            "DROP TABLE meta",
            "DROP TABLE runs",
            "ALTER TABLE states DROP COLUMN size",
            "UPDATE states SET name = name || 'x'",
        ],
    )
    def test_an_index_that_somebody_changed(self, place: Place, read: list[str], change: str) -> None:
        expected = self.light(place)
        with closing(sqlite3.connect(place.index())) as db, db:
            db.execute(change)
        read.clear()
        assert self.light(place) == expected
        assert len(read) == 5
        read.clear()
        assert self.light(place) == expected
        assert read == []

    def test_an_index_that_another_process_writes(
        self, place: Place, read: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cache_file, "_WAIT", 0.0)
        expected = self.light(place)
        before = place.index().read_bytes()
        with closing(sqlite3.connect(place.index(), isolation_level=None)) as db:
            db.execute("BEGIN EXCLUSIVE")
            read.clear()
            assert self.light(place) == expected
            assert len(read) == 5
        assert place.index().read_bytes() == before

    def test_modes(self, place: Place) -> None:
        self.light(place)
        assert place.cache.stat().st_mode & 0o777 == 0o700
        assert place.index().stat().st_mode & 0o777 == 0o600

    def test_an_index_of_somebody_else(self, place: Place, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.light(place)
        read.clear()
        monkeypatch.setattr(os, "geteuid", lambda: 4711)
        self.light(place)
        assert len(read) == 5

    def test_no_cache_directory(self, place: Place, tmp_path: Path, read: list[str]) -> None:
        (tmp_path / "file").write_text("x")
        place.cache = tmp_path / "file" / "cache"
        for _ in range(2):
            read.clear()
            assert len(self.light(place)) == 4
            assert len(read) == 5
        assert (tmp_path / "file").read_text() == "x"

    def test_a_full_disk(self, place: Place, read: list[str]) -> None:
        """Nothing is written beyond the first bytes of the cache; what is there of it is none."""
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, before[1]))
        try:
            assert len(self.light(place)) == 4
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)
        for expected in (5, 0):
            read.clear()
            assert len(self.light(place)) == 4
            assert len(read) == expected

    def test_a_zone_has_an_index_of_its_own(self, place: Place, read: list[str]) -> None:
        place.put("naive.json", state("naive", "2026-01-01T12:00:00"))
        found = []
        for zone in (UTC, LIMA, UTC):
            runs = place.use(lambda b: collect(b, RunFilter(), details=False), zone=zone)
            found += [run.created_at.hour for run in runs if run.run_id == "naive" and run.created_at]
        assert found == [12, 17, 12]
        assert read.count("naive.json") == 2
        assert len(list(place.cache.iterdir())) == 2

    def test_an_index_that_may_not_be_written(
        self, place: Place, read: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is in it counts all the same."""
        monkeypatch.setattr(cache_file, "_WAIT", 0.0)
        self.light(place)
        before = place.index().read_bytes()
        time.sleep(0.05)
        place.put("b.json", state("b", status="failed"))
        with closing(sqlite3.connect(place.index(), isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")
            read.clear()
            assert self.light(place)["b"] == "failed"
            assert read == ["b.json", "b.json"]
        assert place.index().read_bytes() == before

    def test_a_process_that_dies_before_runs_are_derived(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        self.light(place)
        time.sleep(0.05)
        place.put("b.json", state("b", status="failed"))
        with monkeypatch.context() as dying:
            dying.setattr(index_module.Index, "derive", Mock(side_effect=MemoryError))
            with pytest.raises(MemoryError):
                self.light(place)
        assert self.light(place)["b"] == "failed"

    def test_lone_surrogates(self, place: Place, read: list[str]) -> None:
        place.put("lone.json", b'{"run_id": "lone\\ud800", "status": "failed"}')
        place.put("\udcff.json", state(None))
        for _ in range(2):
            read.clear()
            assert self.light(place)["lone\ud800"] == "failed"
        assert read == []

    def test_lone_surrogates_and_times_without_a_zone(self, place: Place) -> None:
        at = "2026-11-21T00:00:00"
        place.put("lone.json", state("lone\ud800", at))
        place.put("split.json", state("split", "2026-11-21\ud80000:00:00"))
        place.put("late.json", state("late", "2026-11-22T00:00:00+00:00"))
        for _ in range(2):
            found = place.use(lambda b: collect(b, RunFilter(until=datetime(2026, 11, 22, tzinfo=UTC))))
            assert {"lone\ud800", "split"} < {run.run_id for run in found} < {"lone\ud800", "split", *"abc", "torn"}
            assert {run.created_at for run in found} == {datetime(2026, 11, 21, tzinfo=UTC)}

    @pytest.mark.parametrize("reverse", [False, True])
    def test_pages_behind_a_lone_surrogate(self, place: Place, reverse: bool) -> None:
        place.put("lone.json", state("b\ud800"))

        async def work(backend: FileBackend) -> None:
            whole = await collect(backend, RunFilter(), reverse=reverse)
            lone = next(number for number, run in enumerate(whole) if run.run_id == "b\ud800")
            after = (whole[lone].created_at, "b\ud800")
            page = await backend.query_runs(RunFilter(), after=after, reverse=reverse)
            rest = await collect(backend, RunFilter(), after=after, reverse=reverse)
            assert list(page.items) == rest == whole[lone + 1 :] != []

        place.use(work)

    @pytest.mark.parametrize("year", [2300, 1600])
    def test_a_file_time_beyond_64_bits(self, place: Place, year: int) -> None:
        when = int((datetime(year, 1, 1, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()) * 10**9
        for name in ("a.json", "torn.json"):
            os.utime(place.folder / name, ns=(when, when))
        for _ in range(2):
            assert self.light(place).keys() == {"a", "b", "c", "torn"}
        place.use(lambda b: b.delete_state("a"))
        assert self.light(place).keys() == {"b", "c", "torn"}

    def test_two_stores_two_indexes(self, place: Place, tmp_path: Path) -> None:
        self.light(place)
        other = tmp_path / "other"
        shutil.copytree(place.folder, other)
        (tmp_path / "link").symlink_to(place.folder)
        for folder in (other, tmp_path / "link"):
            asyncio.run(FileBackend(folder, cache_dir=place.cache).count_runs(RunFilter()))
        assert len(list(place.cache.iterdir())) == 2

    def test_many_at_once(self, place: Place) -> None:
        found: list[int] = []
        threads = [threading.Thread(target=lambda: found.append(len(self.light(place)))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [4] * 8
        assert place.index().is_file()


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of a few runs."""
    monkeypatch.setattr(run_selection, "_AT_ONCE", 7)
    monkeypatch.setattr(backend_module, "_BATCH", 7)
    monkeypatch.setattr(index_module, "_CHUNK", 10)
    monkeypatch.setattr(index_module, "_DERIVED", 10)
    monkeypatch.setattr(catalogue, "_BATCH", 9)


@pytest.mark.usefixtures("at_rest", "small_pages")
@pytest.mark.parametrize("has_cache", [True, False])
@pytest.mark.parametrize("options", [{}, {"reverse": True}, {"ordered": False}])
@pytest.mark.parametrize("details", [True, False])
def test_a_long_list_while_others_write(place: Place, options: Any, has_cache: bool, details: bool) -> None:
    """It has what was there at its first step, once, whatever others do to the folder and to the index."""

    def put(number: int, **more: Any) -> None:
        place.put(f"r{number:03}.json", state(f"r{number:03}", f"2026-01-01T00:00:{number % 60:02}+00:00", **more))

    for number in range(50):
        put(number)
    if not has_cache:
        place.cache = place.put("no folder", b"")

    async def work(backend: FileBackend) -> list[RunSummary]:
        runs = backend.iter_runs(RunFilter(), details=details, **options)
        found = [await anext(runs) for _ in range(10)]
        async with FileBackend(place.folder, cache_dir=place.cache) as other:
            for number in range(100, 160):
                put(number)
            left = [number for number in range(50) if f"r{number:03}" not in {run.run_id for run in found}]
            (place.folder / f"r{left[20]:03}.json").unlink()
            put(left[21], status="failed")
            assert await other.count_runs(RunFilter()) == 109
            assert await backend.count_runs(RunFilter()) == 109
        found += [run async for run in runs]
        assert [run.run_id for run in found] == sorted((run.run_id for run in found), reverse=not options)
        assert {run.run_id for run in found} == {f"r{number:03}" for number in range(50) if number != left[20]}
        return [run for run in found if run.status == "failed"]

    assert len(place.use(work)) == 1


@pytest.mark.usefixtures("at_rest", "small_pages")
@pytest.mark.parametrize("bad", [b"", b"x" * 8192])
def test_an_index_that_is_damaged_during_a_list(place: Place, bad: bytes) -> None:
    for number in range(50):
        place.put(f"r{number:03}.json", state(f"r{number:03}"))

    async def work(backend: FileBackend) -> None:
        runs = backend.iter_runs(RunFilter(), reverse=True, details=False)
        found = [await anext(runs) for _ in range(10)]
        place.index().write_bytes(bad)
        found += [run async for run in runs]
        assert [run.run_id for run in found] == [f"r{number:03}" for number in range(50)]

    place.use(work)
    assert len(place.ids()) == 50


@pytest.mark.usefixtures("at_rest", "small_pages")
def test_memory_does_not_grow_with_the_folder(place: Place) -> None:
    """What is held of a run is its file's name, while the folder is looked at; a whole row took 2,300 bytes."""
    runs = 3_000
    for number in range(runs):
        place.put(f"r{number:04}.json", state(f"r{number:04}", pipeline_name=f"p{number}"))
    place.use(lambda b: b.count_runs(RunFilter()))

    async def work(backend: FileBackend) -> int:
        return sum([1 async for _ in backend.iter_runs(RunFilter(), details=False)])

    tracemalloc.start()
    try:
        assert place.use(work) == runs
        assert tracemalloc.get_traced_memory()[1] / runs < 250
    finally:
        tracemalloc.stop()


def test_what_has_just_changed_is_not_trusted(place: Place, read: list[str]) -> None:
    place.put("new.json", state("new"))
    for _ in range(2):
        assert place.use(lambda b: b.count_runs(RunFilter())) == 1
    assert read == ["new.json", "new.json"]


def test_the_user_cache_is_the_default(place: Place, monkeypatch: pytest.MonkeyPatch, at_rest: None) -> None:
    place.put("r.json", state())
    monkeypatch.setenv("XDG_CACHE_HOME", str(place.folder.parent / "home"))
    monkeypatch.setenv("HOME", str(place.folder.parent / "home"))
    asyncio.run(FileBackend(place.folder).count_runs(RunFilter()))
    assert len(list((place.folder.parent / "home").rglob("*.sqlite"))) == 1


# --- writing


KEPT = ("binary-001", "meta-001", "üñí-run", "paused-001")


def test_a_state_is_written_as_the_library_does(copied: Place) -> None:
    files = {name: copied.folder / os.fsdecode(f"{name}.json".encode()) for name in KEPT}
    before = {name: json.loads(file.read_bytes()) for name, file in files.items()}

    async def work(backend: FileBackend) -> None:
        for run_id in KEPT:
            loaded = await backend.load_state(run_id)
            assert loaded is not None
            await backend.save_state(run_id, loaded)

    copied.use(work)
    for name, file in files.items():
        written = file.read_text(encoding="ascii")
        assert json.loads(written) == before[name]
        assert list(json.loads(written)) == sorted(before[name])
    assert not (copied.folder / ".lens-history").exists()


def test_what_is_saved(place: Place) -> None:
    place.folder = place.folder / "deep" / "er"
    when = datetime(2026, 1, 1, tzinfo=UTC)
    given = {"run_id": "other", "z": {2: "ü"}, "created_at": when, "updated_at": when, "a": None}
    place.use(lambda b: b.save_state("r", given))
    written = (place.folder / "r.json").read_text(encoding="ascii")
    assert written == (
        '{"a":null,"created_at":"2026-01-01T00:00:00+00:00","run_id":"r",'
        '"updated_at":"2026-01-01T00:00:00+00:00","z":{"2":"\\u00fc"}}'
    )
    assert given["run_id"] == "other"
    assert os.listdir(place.folder) == ["r.json"]


@pytest.mark.parametrize(
    ("number", "expected"), [(errno.EROFS, ReadOnlyStoreError), (errno.ENOSPC, OperationFailedError)]
)
def test_a_save_that_fails_changes_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch, number: int, expected: type[Exception]
) -> None:
    path = place.put("r.json", state("r", n=1))
    before = path.read_bytes()

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, refuse)
            with pytest.raises(expected, match=os.strerror(number)):
                place.use(lambda b: b.save_state("r", state("r", n=2)))
        assert path.read_bytes() == before
        assert os.listdir(place.folder) == ["r.json"]


def test_a_delete_that_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.put("r.json", state("r"))

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(ReadOnlyStoreError):
        place.use(lambda b: b.delete_state("r"))


def test_a_save_keeps_the_permissions(place: Place) -> None:
    path = place.put("r.json", state("r"))
    path.chmod(0o640)
    place.use(lambda b: b.save_state("r", state("r")))
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_file_system_that_cannot_sync_folders(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def sync(file: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{file}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(file)

    monkeypatch.setattr(os, "fsync", sync)
    place.use(lambda b: b.save_state("r", state("r")))
    assert place.ids() == ["r"]
    place.use(lambda b: b.delete_state("r"))
    assert place.ids() == []


def test_deleting_many_looks_at_the_folder_once(place: Place, read: list[str]) -> None:
    for n in range(20):
        place.put(f"r{n}.json", state(f"r{n}"))
    place.put("elsewhere.json", state("r7"))

    async def work(backend: FileBackend) -> None:
        for n in range(20):
            await backend.delete_state(f"r{n}")

    place.use(work)
    assert os.listdir(place.folder) == []
    assert len(read) < 3 * 21


def test_saves_and_lists_at_once(place: Place) -> None:
    async def work(backend: FileBackend) -> None:
        await backend.save_state("r", state("r", n=0))
        saves = [backend.save_state("r", state("r", n=n)) for n in range(30)]
        lists = [backend.query_runs(RunFilter()) for _ in range(30)]
        done = await asyncio.gather(*saves, *lists)
        assert all(page is None or [run.status for run in page.items] == ["completed"] for page in done)

    place.use(work)


def test_a_cancelled_list_stops(place: Place, monkeypatch: pytest.MonkeyPatch, read: list[str]) -> None:
    for n in range(50):
        place.put(f"r{n}.json", state(f"r{n}"))
    started, go_on = threading.Event(), threading.Event()
    real = document.read_bytes

    def load(folder: int, name: str, size: int) -> bytes:
        started.set()
        go_on.wait(10)
        return real(folder, name, size)

    monkeypatch.setattr(document, "read_bytes", load)

    async def work(backend: FileBackend) -> None:
        task = asyncio.create_task(backend.query_runs(RunFilter()))
        await asyncio.to_thread(started.wait, 10)
        task.cancel()
        await asyncio.sleep(0.01)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    place.use(work)
    assert len(read) == 1
