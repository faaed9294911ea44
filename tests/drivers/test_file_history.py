"""`FileBackend`'s history: what lies in the sub-folder, and that it tells the same as every other driver."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import threading
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flujo_lens.errors import CorruptStoreError, OperationFailedError, StoreNotFoundError
from flujo_lens.serialization.envelope import Envelope
from flujo_lens.serialization.keys import KeyRing
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.backends.file import FileBackend
from flujo_lens.state.backends.file.format import document
from flujo_lens.state.backends.file.format import history as file_history
from flujo_lens.state.backends.file.index import state_table
from flujo_lens.state.backends.memory import InMemoryBackend
from flujo_lens.state.views import RunFilter, RunSummary

T = TypeVar("T")
AT = datetime(2026, 3, 1, 9, tzinfo=UTC)
ODD_IDS = [
    "a/b",
    "",
    "..",
    "x" * 300,
    "ü" * 130,
    "漢字",
    "ends.ndjson",
    "two\nlines",
]


def later(seconds: float) -> str:
    return (AT + timedelta(seconds=seconds)).isoformat()


def state(run_id: str, **more: Any) -> dict[str, Any]:
    """A state with the usual fields."""
    made = {"status": "completed", "created_at": later(5), "updated_at": later(9), "pipeline_context": {}}
    return {"run_id": run_id, "pipeline_name": "unknown", **made, **more}


class Store:
    """A folder of a store, and a directory for its index."""

    def __init__(self, root: Path) -> None:
        self.folder, self.cache = root / "states", root / "cache"
        self.history = self.folder / ".lens-history"

    def backend(self, **options: Any) -> FileBackend:
        return FileBackend(self.folder, cache_dir=self.cache, zone=UTC, **options)

    def use(self, work: Callable[[FileBackend], Awaitable[T]], **options: Any) -> T:
        """What `work` returns on a new backend."""

        async def run() -> T:
            async with self.backend(**options) as backend:
                return await work(backend)

        return asyncio.run(run())

    def runs(self, wanted: RunFilter | None = None, **options: Any) -> list[RunSummary]:
        return self.use(lambda b: collect(b, wanted or RunFilter()), **options)

    def lines(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.history / name).read_bytes().splitlines()]

    def traces(self) -> dict[str, tuple[int, int, bytes]]:
        """Every file of the store: times and content."""
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return {str(p): (p.stat().st_mtime_ns, p.stat().st_ctime_ns, p.read_bytes()) for p in files}


async def collect(backend: StateBackend, wanted: RunFilter, **options: Any) -> list[RunSummary]:
    return [run async for run in backend.iter_runs(wanted, **options)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.fixture
def at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as at rest at once."""
    monkeypatch.setattr(state_table, "REST_NS", -10_000_000_000)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the histories that are read, as they are read."""
    names: list[str] = []
    real = file_history.read

    def reading(folder: int, histories: int, name: str, codec: Any, **more: Any) -> Any:
        names.append(name)
        return real(folder, histories, name, codec, **more)

    monkeypatch.setattr(file_history, "read", reading)
    return names


async def fill(backend: StateBackend, run_id: str = "r") -> None:
    """A run with something of every kind."""
    await backend.save_run_start({"run_id": run_id, "pipeline_name": "orders", "start_time": later(0)})
    await backend.save_step_result(
        {"run_id": run_id, "step_name": "load", "step_index": 0, "output": {"n": 1}, "duration_ms": 5, "cost": 0.5}
    )
    await backend.save_spans(
        run_id, [{"span_id": "s", "name": "root", "start_time": 1.0, "end_time": 2.0, "status": "completed"}]
    )
    await backend.persist_evaluation(run_id, 0.5, "good", "load", {"by": "rule"})
    await backend.save_run_end(run_id, {"status": "completed", "end_time": later(4), "final_context": {"done": True}})


# --- what lies in the folder


def test_states_alone_leave_no_trace_of_us(store: Store) -> None:
    store.use(lambda b: b.save_state("r", state("r")))
    store.use(lambda b: b.delete_run("other"))
    assert os.listdir(store.folder) == ["r.json"]


def test_a_line_a_record(store: Store) -> None:
    store.use(fill)
    assert os.listdir(store.folder) == [".lens-history"]
    assert os.listdir(store.history) == ["r.ndjson"]
    lines = store.lines("r.ndjson")
    assert [line["kind"] for line in lines] == ["run_start", "step", "spans", "evaluation", "run_end"]
    assert {line["run_id"] for line in lines} == {"r"}
    assert all(datetime.fromisoformat(line["at"]).tzinfo is not None for line in lines)
    assert (lines[1]["step_name"], lines[1]["cost_usd"], lines[1]["data"]) == ("load", 0.5, {"output": {"n": 1}})


def test_a_file_is_only_ever_added_to(store: Store) -> None:
    store.use(fill)
    before = (store.history / "r.ndjson").read_bytes()
    store.use(fill)
    assert (store.history / "r.ndjson").read_bytes().startswith(before)


def test_what_goes_in_comes_out(store: Store) -> None:
    store.use(fill)

    async def work(backend: FileBackend) -> None:
        (run,) = await collect(backend, RunFilter())
        assert (run.run_id, run.pipeline_name, run.status) == ("r", "orders", "completed")
        assert (run.created_at, run.updated_at, run.duration_ms) == (AT, AT + timedelta(seconds=4), 4000.0)
        (step,) = await backend.list_run_steps("r")
        assert (step["output"], step["duration_ms"], step["execution_time_ms"], step["cost"]) == ({"n": 1}, 5, 5, 0.5)
        details = await backend.get_run_details("r")
        assert details is not None
        assert details["final_context"] == {"done": True}
        assert [span.name for span in await backend.read_spans("r")] == ["root"]
        (evaluation,) = await backend.read_evaluations()
        assert (evaluation.run_id, evaluation.score, evaluation.metadata) == ("r", 0.5, {"by": "rule"})
        assert (await backend.read_facts())["size_bytes"] == (store.history / "r.ndjson").stat().st_size

    store.use(work)


@pytest.mark.parametrize("run_id", ODD_IDS)
def test_odd_ids(store: Store, run_id: str) -> None:
    async def work(backend: FileBackend) -> None:
        await fill(backend, "other")
        await fill(backend, run_id)
        await backend.save_state(run_id, state(run_id))
        detail = await backend.read_run(run_id)
        assert detail is not None
        assert (detail.run.run_id, detail.run.pipeline_name, len(detail.steps)) == (run_id, "orders", 1)
        assert {run.run_id for run in await collect(backend, RunFilter())} == {run_id, "other"}
        await backend.delete_run(run_id)
        assert await backend.read_run(run_id) is None
        assert await backend.find_run_ids("") == ["other"]

    store.use(work)
    assert os.listdir(store.history) == ["other.ndjson"]
    assert {path.name for path in store.folder.parent.iterdir()} <= {"states", "cache"}


def test_a_name_that_another_run_has(store: Store) -> None:
    store.use(lambda b: fill(b, "a"))
    (store.history / "a.ndjson").rename(store.history / "b.ndjson")
    (store.history / "c.ndjson").mkdir()
    for run_id in ("a", "b", "c"):
        store.use(lambda b, i=run_id: fill(b, i))
        assert store.use(lambda b, i=run_id: b.read_run(i)) is not None
    assert sorted(store.use(lambda b: b.find_run_ids(""))) == ["a", "b", "c"]
    assert {line["run_id"] for line in store.lines("b.ndjson")} == {"a"}
    for name in list(document.names_of("full", ".ndjson")):
        (store.history / name).mkdir()
    with pytest.raises(OperationFailedError, match="taken"):
        store.use(lambda b: fill(b, "full"))


def test_the_first_name_that_was_given_stays(store: Store) -> None:
    store.use(lambda b: fill(b, "a"))
    (store.history / "a.ndjson").rename(store.history / "b.ndjson")
    store.use(lambda b: fill(b, "b"))
    (store.history / "b.ndjson").unlink()
    store.use(lambda b: fill(b, "b"))
    (name,) = os.listdir(store.history)
    assert len(store.lines(name)) == 10


def test_links_are_not_followed(store: Store, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"")
    store.use(lambda b: b.save_state("r", state("r")))
    store.history.symlink_to(outside)
    assert [run.run_id for run in store.runs()] == ["r"]
    with pytest.raises(OperationFailedError, match="not a folder"):
        store.use(fill)
    store.history.unlink()
    store.history.mkdir()
    (store.history / "r.ndjson").symlink_to(outside / "file")
    store.use(fill)
    assert (outside / "file").read_bytes() == b""
    assert len(store.use(lambda b: b.list_run_steps("r"))) == 1


# --- what a crash leaves


@pytest.mark.parametrize(
    "tail", [b"{", b'{"run_id":"r","kind":"step","at":"x"}', b"\0" * 70_000, b'{"run_id":"other",']
)
def test_a_torn_last_line_does_not_count(store: Store, tail: bytes) -> None:
    store.use(fill)
    path = store.history / "r.ndjson"
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    (run,) = store.runs()
    assert (run.problems, len(store.use(lambda b: b.list_run_steps("r")))) == ((), 1)
    assert path.read_bytes() == whole + tail
    store.use(lambda b: b.persist_evaluation("r", 1.0))
    assert path.read_bytes().startswith(whole + b'{"run_id":"r","kind":"evaluation"')
    assert len(store.use(lambda b: b.read_evaluations("r"))) == 2


@pytest.mark.parametrize("tail", [b"", b"{", b'{"run_id":"other","kind'])
def test_a_torn_first_line(store: Store, tail: bytes) -> None:
    store.history.mkdir(parents=True)
    (store.history / "r.ndjson").write_bytes(tail)
    assert store.runs() == []
    store.use(fill)
    assert store.lines("r.ndjson")[0]["kind"] == "run_start"
    assert os.listdir(store.history) == ["r.ndjson"]


def test_damaged_lines_are_a_problem_of_the_run(store: Store) -> None:
    store.use(fill)
    path = store.history / "r.ndjson"
    lines = path.read_bytes().splitlines(keepends=True)
    odd = [b"garbage\n", b'{"run_id":"r","kind":"spans","at":"x"}\n', b'{"run_id":"r","kind":"from later","at":"x"}\n']
    path.write_bytes(b"".join([*lines[:1], *odd, b"[1]\n", b'{"run_id":"s","kind":"step"}\n', *lines[1:]]))
    (run,) = store.runs()
    assert run.status == "completed"
    assert any("3 lines of .lens-history/r.ndjson do not parse" in problem for problem in run.problems)
    assert len(store.use(lambda b: b.list_run_steps("r"))) == 1


def test_a_file_of_garbage_is_no_run(store: Store) -> None:
    store.use(lambda b: b.save_state("r", state("r")))
    store.history.mkdir()
    (store.history / "x.ndjson").write_bytes(b"\xff\n\n{}\n")
    (store.history / "notes.txt").write_text("x")
    assert [run.run_id for run in store.runs()] == ["r"]


# --- the same as in every other driver


STATES = [
    None,
    {"status": "completed"},
    {"status": "failed"},
    {"status": "failed", "step_history": [{"name": "a", "success": False, "feedback": "boom"}]},
    {"status": "failed", "step_history": "torn ["},
    {"status": "running", "pipeline_name": "mine", "pipeline_version": "7"},
    {"status": "paused", "created_at": "never", "pipeline_version": "8"},
    {"status": None, "updated_at": None},
]
STARTS = [
    None,
    {"pipeline_name": "orders", "pipeline_version": "1", "start_time": later(0)},
    {"pipeline_version": "2", "created_at": "yesterday"},
    {"status": "paused", "created_at": later(-5)},
]
ENDS = [None, {"status": "completed", "end_time": later(20)}, {"status": "failed", "error_message": "lost"}]
PARTS = [
    (),
    ("failed step",),
    ("root span",),
    ("open span", "root span"),
    ("good step", "failed step"),
]


async def write_case(backend: StateBackend, run_id: str, case: tuple[Any, ...]) -> None:
    saved, start, end, parts = case
    if start is not None:
        await backend.save_run_start({"run_id": run_id, **start})
    for part in parts:
        if part.endswith("step"):
            status = "failed" if part == "failed step" else "completed"
            step = {"run_id": run_id, "step_name": part, "step_index": 1, "status": status, "error": "why"}
            await backend.save_step_result({**step, "start_time": later(1)})
        else:
            parent = None if part == "root span" else "0"
            attributes = {"flujo.pipeline.name": "rooted", "flujo.pipeline.version": "9"}
            span = {"span_id": part, "parent_span_id": parent, "name": part, "start_time": 1.0}
            await backend.save_spans(run_id, [{**span, "attributes": attributes}])
    if end is not None:
        await backend.save_run_end(run_id, end)
    if saved is not None:
        await backend.save_state(run_id, state(run_id, **saved))


def known(run: RunSummary) -> RunSummary:
    """What does not depend on when it was written."""
    recent = run.updated_at is not None and run.updated_at > AT + timedelta(days=1)
    begun = run.created_at is not None and run.created_at > AT + timedelta(days=1)
    return run._replace(
        updated_at=None if recent else run.updated_at,
        created_at=None if begun else run.created_at,
        duration_ms=None if recent or begun else run.duration_ms,
        tasks={},
    )


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, InMemoryBackend]:
    """Every combination of states and histories, in a folder and in memory."""
    store, memory = Store(tmp_path_factory.mktemp("both")), InMemoryBackend()

    async def fill_both(backend: FileBackend) -> None:
        cases = itertools.product(STATES, STARTS, ENDS, PARTS)
        chosen = random.Random(7).sample(list(cases), 150)
        for number, case in enumerate(chosen):
            for one in (backend, memory):
                await write_case(one, f"run-{number:03}", case)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        store.use(fill_both)
    return store, memory


def test_runs_are_told_as_by_the_driver_in_memory(both: tuple[Store, InMemoryBackend]) -> None:
    store, memory = both
    wanted = {run.run_id: known(run) for run in asyncio.run(collect(memory, RunFilter()))}
    found = {run.run_id: known(run) for run in store.runs()}
    assert len(wanted) > 100
    differing = [(a, found.get(a.run_id)) for a in wanted.values() if found.get(a.run_id) != a]
    assert (differing, len(found)) == ([], len(wanted))


def test_what_the_index_tells_is_what_the_files_tell(both: tuple[Store, InMemoryBackend]) -> None:
    store, _ = both
    full = {run.run_id: run for run in store.runs()}
    light = store.use(lambda b: collect(b, RunFilter(), details=False))
    assert {run.run_id for run in light} == full.keys()
    for run in light:
        whole = full[run.run_id]
        for name in ("status", "pipeline_name", "pipeline_version", "created_at", "updated_at"):
            assert (run.run_id, name, getattr(run, name)) == (run.run_id, name, getattr(whole, name))


def test_filters_and_single_runs_agree(both: tuple[Store, InMemoryBackend]) -> None:
    store, memory = both

    async def work(backend: FileBackend) -> None:
        for status, name in itertools.product(
            ("failed", "cancelled", "completed", "running"), (None, "orders", "rooted")
        ):
            wanted = RunFilter(statuses=frozenset({status}), pipeline=name, until=AT + timedelta(seconds=3))
            expected = [run.run_id for run in await collect(memory, wanted)]
            assert [run.run_id for run in await collect(backend, wanted)] == expected
            assert await backend.count_runs(wanted) == len(expected)
        for run_id in ("run-003", "run-077", "run-149"):
            one, other = await backend.read_run(run_id), await memory.read_run(run_id)
            assert (one is None) == (other is None)
            if one is not None and other is not None:
                assert known(one.run) == known(other.run)
                assert [s._replace(created_at=None) for s in one.steps] == [
                    s._replace(created_at=None) for s in other.steps
                ]
                assert (one.state, one.pause, one.has_spans) == (other.state, other.pause, other.has_spans)

    store.use(work)


def test_a_torn_state_with_history_is_unreadable(store: Store) -> None:
    store.use(fill)
    (store.folder / "r.json").write_bytes(b"{")
    (run,) = store.runs()
    assert run.status == "unreadable"
    (light,) = store.use(lambda b: collect(b, RunFilter(), details=False))
    assert light.status == "unreadable"
    detail = store.use(lambda b: b.read_run("r"))
    assert detail is not None
    assert (detail.state, detail.has_spans) == (None, True)


# --- deleting


def test_deleting_the_state_keeps_the_history(store: Store) -> None:
    store.use(fill)
    store.use(lambda b: b.save_state("r", state("r", status="failed")))
    assert store.runs()[0].status == "cancelled"
    store.use(lambda b: b.delete_state("r"))
    (run,) = store.runs()
    assert (run.status, run.pipeline_name) == ("completed", "orders")
    assert store.use(lambda b: b.load_state("r")) is None
    detail = store.use(lambda b: b.read_run("r"))
    assert detail is not None
    assert (detail.state, len(detail.steps)) == (None, 1)


def test_deleting_a_run_takes_all(store: Store) -> None:
    for run_id in ("r", "kept"):
        store.use(lambda b, i=run_id: fill(b, i))
        store.use(lambda b, i=run_id: b.save_state(i, state(i)))
    store.use(lambda b: b.delete_run("r"))
    store.use(lambda b: b.delete_run("r"))
    assert sorted(path.name for path in store.folder.rglob("*") if path.is_file()) == ["kept.json", "kept.ndjson"]
    assert [row.run_id for row in store.use(lambda b: b.read_evaluations())] == ["kept"]
    assert list(store.use(lambda b: b.read_spans("r"))) == []


def test_nothing_is_made_by_asking(store: Store) -> None:
    async def work(backend: FileBackend) -> None:
        await backend.delete_run("r")
        await backend.delete_state("r")
        assert await backend.cleanup_old_workflows(1) == 0
        assert await backend.cleanup_stale_background_tasks(1) == 0
        assert await backend.get_system_state("k") is None
        assert await backend.get_spans("r") == []
        with pytest.raises(StoreNotFoundError):
            await backend.read_system_state()

    store.use(work)
    assert not store.folder.exists()


# --- system state


def test_system_state_lasts(store: Store) -> None:
    store.use(lambda b: b.set_system_state("b", {"n": 1}))
    store.use(lambda b: b.set_system_state("a", {"n": 2}))
    store.use(lambda b: b.set_system_state("b", {"n": 3}))
    entries = store.use(lambda b: b.read_system_state())
    assert [(entry.key, entry.value) for entry in entries] == [("a", {"n": 2}), ("b", {"n": 3})]
    assert os.listdir(store.history) == ["system.json"]
    assert store.runs() == []


@pytest.mark.parametrize("content", [b"{", b"[]"])
def test_system_state_that_is_damaged(store: Store, content: bytes) -> None:
    store.use(lambda b: b.set_system_state("a", {"n": 2}))
    (store.history / "system.json").write_bytes(content)
    works: list[Callable[[FileBackend], Awaitable[Any]]] = [
        lambda b: b.read_system_state(),
        lambda b: b.get_system_state("a"),
        lambda b: b.set_system_state("b", {}),
    ]
    for work in works:
        with pytest.raises(CorruptStoreError, match=r"system\.json"):
            store.use(work)
    assert (store.history / "system.json").read_bytes() == content


def test_keys_set_at_once_are_all_there(store: Store) -> None:
    backends = [store.backend() for _ in range(4)]

    def work(number: int) -> None:
        async def keys() -> None:
            await asyncio.gather(*(backends[number].set_system_state(f"{number}-{n}", {"n": n}) for n in range(10)))

        asyncio.run(keys())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.use(lambda b: b.read_system_state())) == 40


# --- reading never writes; the index


def test_reading_leaves_no_trace(store: Store) -> None:
    store.use(fill)
    store.use(lambda b: b.set_system_state("a", {}))
    store.use(lambda b: b.save_state("r", state("r")))
    before = store.traces()

    async def work(backend: FileBackend) -> None:
        await collect(backend, RunFilter(search="x"))
        await backend.read_run("r")
        await backend.get_trace("r")
        await backend.list_run_steps("r")
        await backend.list_runs()
        await backend.read_span_stats(RunFilter())
        await backend.read_evaluations()
        await backend.read_system_state()
        await backend.get_workflow_stats()
        await backend.read_facts()

    store.use(work)
    assert store.traces() == before


@pytest.mark.usefixtures("at_rest")
def test_unchanged_histories_are_not_read(store: Store, read: list[str]) -> None:
    for run_id in "abc":
        store.use(lambda b, i=run_id: fill(b, i))
    read.clear()
    first = store.use(lambda b: b.count_runs(RunFilter(statuses=frozenset({"completed"}))))
    assert (first, sorted(read)) == (3, ["a.ndjson", "b.ndjson", "c.ndjson"])
    read.clear()
    assert store.use(lambda b: b.count_runs(RunFilter())) == 3
    assert read == []
    store.use(lambda b: b.save_run_end("b", {"status": "failed"}))
    (store.history / "c.ndjson").unlink()
    read.clear()
    assert store.use(lambda b: b.count_runs(RunFilter(statuses=frozenset({"failed"})))) == 1
    assert store.use(lambda b: b.find_run_ids("")) == ["a", "b"]
    assert set(read) == {"b.ndjson"}


@pytest.mark.usefixtures("at_rest")
def test_a_damaged_index_of_histories_is_none(store: Store) -> None:
    store.use(fill)
    expected = store.runs()
    (index,) = store.cache.iterdir()
    good = index.read_bytes()
    for bad in (b"", good[:-5], good.replace(b"orders", b"ordeal")):
        index.write_bytes(bad)
        assert store.runs() == expected


def test_what_has_just_changed_is_not_trusted(store: Store, read: list[str]) -> None:
    store.use(fill)
    read.clear()
    for _ in range(2):
        store.use(lambda b: b.count_runs(RunFilter()))
    assert read == ["r.ndjson", "r.ndjson"]


def test_the_span_figures_read_no_other_history(store: Store, read: list[str]) -> None:
    store.use(lambda b: fill(b, "a"))
    store.use(lambda b: b.save_run_start({"run_id": "b", "pipeline_name": "orders"}))

    async def work(backend: FileBackend) -> None:
        await backend.count_runs(RunFilter())
        read.clear()
        (stats,) = await backend.read_span_stats(RunFilter(pipeline="orders", search="A"))
        assert (stats.name, stats.count) == ("root", 1)
        assert await backend.read_span_stats(RunFilter(pipeline="none")) == ()

    store.use(work)


# --- layers


def test_compressed_histories(store: Store) -> None:
    packed = Envelope(compression="zlib", min_bytes=1)
    text = "well " * 100
    store.use(lambda b: b.save_step_result({"run_id": "r", "step_name": "s", "output": text}), envelope=packed)
    store.use(lambda b: b.set_system_state("k", {"text": text}), envelope=packed)
    assert b"well" not in b"".join(path.read_bytes() for path in store.history.iterdir())
    assert store.use(lambda b: b.list_run_steps("r"))[0]["output"] == text
    found = store.use(lambda b: b.get_system_state("k"))
    assert found is not None
    assert found["value"] == {"text": text}


def test_encrypted_histories(store: Store) -> None:
    pytest.importorskip("cryptography")
    locked = Envelope(keys=KeyRing({"one": bytes(32)}))
    store.use(fill, envelope=locked)
    store.use(lambda b: b.save_state("r", state("r", pipeline_context={"secret": "x"})), envelope=locked)
    assert store.use(lambda b: b.read_evaluations(), envelope=locked)[0].feedback == "good"
    assert store.runs(envelope=locked)[0].problems == ()
    (run,) = store.runs()
    assert (run.run_id, run.pipeline_name, run.status) == ("r", "orders", "completed")
    assert any("encrypted" in problem for problem in run.problems)


# --- any history


RECORDS = st.lists(
    st.tuples(
        st.sampled_from(["start", "end", "step", "span", "trace", "evaluation"]),
        st.text(max_size=8),
        st.one_of(st.none(), st.integers(-5, 5), st.floats(allow_nan=False), st.text(max_size=5)),
    ),
    max_size=8,
)


@given(RECORDS)
def test_any_sequence_of_records_reads_as_in_memory(tmp_path_factory: pytest.TempPathFactory, records: Any) -> None:
    store, memory = Store(tmp_path_factory.mktemp("any")), InMemoryBackend()

    async def work(backend: FileBackend) -> None:
        store.folder.mkdir()
        for one in (backend, memory):
            for record in records:
                await write_record(one, *record)
        for run_id in await memory.find_run_ids(""):
            mine, theirs = await backend.read_run(run_id), await memory.read_run(run_id)
            assert mine is not None
            assert theirs is not None
            assert known(mine.run) == known(theirs.run)
            assert [s._replace(created_at=None) for s in mine.steps] == [
                s._replace(created_at=None) for s in theirs.steps
            ]
            assert await backend.get_spans(run_id) == await memory.get_spans(run_id)
        assert await backend.find_run_ids("") == await memory.find_run_ids("")
        rated = [row._replace(created_at=None) for row in await backend.read_evaluations("r", 100)]
        assert rated == [row._replace(created_at=None) for row in await memory.read_evaluations("r", 100)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        store.use(work)


async def write_record(backend: StateBackend, kind: str, text: str, value: Any) -> None:
    if kind == "start":
        await backend.save_run_start({"run_id": "r", "pipeline_name": text, "start_time": later(0), "x": value})
    elif kind == "end":
        await backend.save_run_end("r", {"status": "failed", "error_message": text, "total_cost": value})
    elif kind == "step":
        await backend.save_step_result({"run_id": "r", "step_name": text, "output": value, "start_time": later(1)})
    elif kind == "span":
        await backend.save_spans("r", [{"span_id": text, "name": text, "attributes": {"v": value}, "start_time": 1}])
    elif kind == "trace":
        children = [{"span_id": "c", "name": text, "start_time": 2.0}]
        await backend.save_trace("r", {"span_id": text, "name": "t", "start_time": 1.0, "children": children})
    else:
        await backend.persist_evaluation("r", 1.0, text, metadata={"v": value})
