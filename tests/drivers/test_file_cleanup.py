"""`FileBackend` cleaning up by age: what is old, what never is, and what is looked at again under the lock."""

from __future__ import annotations

import asyncio
import json
import math
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, TypeVar

import pytest

from flujo_lens.serialization.envelope import Envelope
from flujo_lens.state.backends.file import FileBackend
from flujo_lens.state.claims import Claim, Holder
from flujo_lens.state.views import RunFilter

T = TypeVar("T")
LIMA = timezone(timedelta(hours=-5))
NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)
OLD, YOUNG = NOW - timedelta(days=30) - HOUR, NOW - timedelta(days=30) + HOUR


def use(folder: Path, work: Callable[[FileBackend], Awaitable[T]], **options: Any) -> T:
    async def run() -> T:
        async with FileBackend(folder, cache_dir=folder.parent / "cache", **{"zone": UTC, **options}) as backend:
            return await work(backend)

    return asyncio.run(run())


def put(folder: Path, stem: str, at: Any, **more: Any) -> None:
    """A state file as somebody else left it."""
    folder.mkdir(exist_ok=True)
    made = {"run_id": stem, "status": "completed", "pipeline_context": {}, "created_at": at, "updated_at": at}
    (folder / f"{stem}.json").write_text(json.dumps(made | more))


def clean(folder: Path, days: float = 30, **options: Any) -> int:
    return use(folder, lambda b: b.cleanup_old_workflows(days), **options)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "states"


FORMS: dict[str, Callable[[datetime], str]] = {
    "aware": lambda when: when.isoformat(),
    "Z": lambda when: when.isoformat().replace("+00:00", "Z"),
    "elsewhere": lambda when: when.astimezone(timezone(timedelta(hours=9, minutes=30))).isoformat(),
    "naive": lambda when: when.replace(tzinfo=None).isoformat(),
    "space": lambda when: when.replace(tzinfo=None).isoformat(sep=" "),
    "seconds": lambda when: when.isoformat(timespec="seconds"),
}


@pytest.mark.parametrize("form", FORMS)
def test_age_is_that_of_the_instant(folder: Path, form: str) -> None:
    put(folder, "old", FORMS[form](OLD))
    put(folder, "young", FORMS[form](YOUNG))
    assert clean(folder) == 1
    assert names(folder) == ["young.json"]


def test_naive_times_are_of_the_zone(folder: Path) -> None:
    put(folder, "r", OLD.replace(tzinfo=None).isoformat())
    assert clean(folder, zone=LIMA) == 0
    assert clean(folder, zone=UTC) == 1


@pytest.mark.parametrize("status", ["running", "paused", "completed", "failed", "cancelled", None])
def test_the_status_does_not_matter(folder: Path, status: str | None) -> None:
    put(folder, "r", OLD.isoformat(), status=status)
    assert clean(folder) == 1


def test_what_is_never_old(folder: Path) -> None:
    put(folder, "future", (NOW + HOUR).isoformat())
    put(folder, "odd", "yesterday")
    put(folder, "number", 17)
    put(folder, "none", None)
    put(folder, "half", OLD.isoformat(), updated_at="soon")
    (folder / "torn.json").write_bytes(b"{")
    os.utime(folder / "torn.json", (0, 0))
    before = names(folder)
    assert clean(folder, 0) == 0
    assert names(folder) == before


def test_the_newest_of_all_times_counts(folder: Path) -> None:
    put(folder, "ended-late", OLD.isoformat())
    use(folder, lambda b: b.save_run_start({"run_id": "ended-late", "start_time": OLD}))
    use(folder, lambda b: b.save_run_end("ended-late", {"end_time": YOUNG}))
    put(folder, "old", OLD.isoformat())
    use(folder, lambda b: b.save_run_start({"run_id": "old", "start_time": OLD}))
    use(folder, lambda b: b.save_run_end("old", {"end_time": OLD}))
    use(folder, lambda b: b.persist_evaluation("old", 1.0))
    use(folder, lambda b: b.save_run_start({"run_id": "alone", "start_time": OLD}))
    put(folder, "saved-late", YOUNG.isoformat())
    use(folder, lambda b: b.save_run_start({"run_id": "saved-late", "start_time": OLD}))
    assert clean(folder) == 2
    assert names(folder) == ["ended-late.json", "ended-late.ndjson", "saved-late.json", "saved-late.ndjson"]


def test_a_run_in_several_files_goes_as_a_whole_or_not(folder: Path) -> None:
    put(folder, "a", OLD.isoformat())
    put(folder, "copy-of-a", OLD.isoformat(), run_id="a")
    put(folder, "b", OLD.isoformat())
    put(folder, "copy-of-b", YOUNG.isoformat(), run_id="b")
    assert clean(folder) == 1
    assert names(folder) == ["b.json", "copy-of-b.json"]


def test_many(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(230):
        put(folder, f"r{n}", (OLD if n % 2 else YOUNG).isoformat())
    assert clean(folder) == 115
    assert len(names(folder)) == 115
    assert clean(folder) == 0


@pytest.mark.parametrize("days", [-1, -0.001, math.nan])
def test_ages_that_are_none(folder: Path, days: float) -> None:
    put(folder, "r", OLD.isoformat())
    for work in (FileBackend.cleanup_old_workflows, FileBackend.cleanup_stale_background_tasks):
        with pytest.raises(ValueError, match="must be 0 or more"):
            use(folder, lambda b, w=work: w(b, days))
    assert clean(folder, math.inf) == 0
    assert clean(folder, 10**9) == 0
    assert names(folder) == ["r.json"]


def after_the_look(backend: FileBackend, meanwhile: Callable[[], None]) -> FileBackend:
    """The backend, where `meanwhile` happens between its look at the folder and the lock that it then takes."""
    real = backend._changes.locked

    @contextmanager
    def locked(stop: threading.Event, *, creates: bool) -> Iterator[Any]:
        if backend._folder.last is not None:
            meanwhile()
        with real(stop, creates=creates) as places:
            yield places

    backend._changes.locked = locked  # type: ignore[method-assign]
    return backend


def test_what_was_saved_since_the_look_stays(folder: Path) -> None:
    """Another process saves a run between the look at the index and the deletion."""
    for run_id in ("gone", "saved", "begun"):
        put(folder, run_id, OLD.isoformat())

    def meanwhile() -> None:
        put(folder, "saved", NOW.isoformat())
        use(folder, lambda other: other.save_run_start({"run_id": "begun"}))

    assert use(folder, lambda b: after_the_look(b, meanwhile).cleanup_old_workflows(30)) == 1
    assert names(folder) == ["begun.json", "begun.ndjson", "saved.json"]


def test_reading_goes_on_while_runs_are_deleted(folder: Path) -> None:
    for n in range(120):
        put(folder, f"r{n}", OLD.isoformat())
    put(folder, "kept", NOW.isoformat())

    async def work(backend: FileBackend) -> None:
        other = FileBackend(folder, cache_dir=folder.parent / "cache")
        pages = [other.query_runs(RunFilter(), limit=200) for _ in range(5)]
        deleted, *found = await asyncio.gather(backend.cleanup_old_workflows(30), *pages)
        assert deleted == 120
        assert all("kept" in {run.run_id for run in page.items} for page in found)

    use(folder, work)


# --- background tasks


def task(**more: Any) -> dict[str, Any]:
    return {"status": "running", "is_background_task": True, "parent_run_id": "p", "task_id": "t", **more}


def test_tasks_without_a_sign_fail(folder: Path) -> None:
    stale, alive = (NOW - 25 * HOUR).isoformat(), (NOW - 23 * HOUR).isoformat()
    put(folder, "stale", stale, **task(metadata={"step_name": "mail"}))
    put(folder, "by-metadata", stale, status="running", metadata={"is_background_task": True})
    put(folder, "alive", alive, **task())
    put(folder, "done", stale, **task(status="completed"))
    put(folder, "no-task", stale, status="running")
    put(folder, "timeless", None, **task())
    untouched = {name: (folder / name).read_bytes() for name in names(folder)}
    before = datetime.now(UTC)
    assert use(folder, lambda b: b.cleanup_stale_background_tasks()) == 2
    for run_id in ("stale", "by-metadata"):
        del untouched[f"{run_id}.json"]
        loaded = use(folder, lambda b, i=run_id: b.load_state(i))
        assert loaded is not None
        assert loaded["status"] == "failed"
        assert loaded["error_message"] == loaded["background_error"] == "timed out: no activity for 24 hours"
        assert datetime.fromisoformat(loaded["updated_at"]) >= before
    assert {name: (folder / name).read_bytes() for name in untouched} == untouched
    (run,) = use(folder, lambda b: b.get_failed_background_tasks("p"))
    assert (run["run_id"], run["background_error"]) == ("stale", "timed out: no activity for 24 hours")
    assert use(folder, lambda b: b.cleanup_stale_background_tasks()) == 0


def test_hours_are_what_is_asked(folder: Path) -> None:
    put(folder, "r", (NOW - 2 * HOUR).isoformat(), **task())
    assert use(folder, lambda b: b.cleanup_stale_background_tasks(2.5)) == 0
    assert use(folder, lambda b: b.cleanup_stale_background_tasks(1.5)) == 1
    loaded = use(folder, lambda b: b.load_state("r"))
    assert loaded is not None
    assert loaded["error_message"] == "timed out: no activity for 1.5 hours"


def test_a_task_that_has_saved_since_the_look_goes_on(folder: Path) -> None:
    put(folder, "r", NOW.isoformat(), **task())

    assert use(folder, lambda b: b.fail_stale_tasks(["r"], NOW - HOUR, 1)) == []

    def meanwhile() -> None:
        put(folder, "late", NOW.isoformat(), **task())

    put(folder, "late", (NOW - 2 * HOUR).isoformat(), **task())
    assert use(folder, lambda b: after_the_look(b, meanwhile).cleanup_stale_background_tasks(1)) == 0


# --- figures without a loop


def test_figures_inside_a_running_loop(folder: Path) -> None:
    put(folder, "r", NOW.isoformat(), execution_time_ms=20)
    put(folder, "t", NOW.isoformat(), **task())
    use(folder, lambda b: b.save_run_start({"run_id": "h", "start_time": OLD}))

    async def work(backend: FileBackend) -> None:
        threads = {thread.ident for thread in threading.enumerate()}
        found = backend.get_workflow_stats_sync()
        assert {thread.ident for thread in threading.enumerate()} <= threads  # idle ones of others may end
        assert found == await backend.get_workflow_stats()
        assert (found["total_workflows"], found["recent_workflows_24h"]) == (3, 2)

    use(folder, work)
    backend = FileBackend(folder, cache_dir=folder.parent / "cache")
    assert backend.get_workflow_stats_sync()["total_workflows"] == 3


def test_a_folder_of_the_library_gets_no_history(folder: Path) -> None:
    """Cancelling a run and giving up a task change their states alone."""
    put(folder, "r", OLD.isoformat(), status="paused")
    put(folder, "bg", OLD.isoformat(), **task())
    assert use(folder, lambda b: b.cancel_runs(["r", "never was"])) == ["r"]
    assert use(folder, lambda b: b.cleanup_stale_background_tasks(1)) == 1
    use(folder, lambda b: b.release_run(Claim.take("r", Holder.current(), 30, NOW)))
    use(folder, lambda b: b.delete_run("never was"))
    assert sorted(os.listdir(folder)) == ["bg.json", "r.json"]


def test_what_is_sealed_in_a_stale_task_stays_as_it_is(tmp_path: Path) -> None:
    async def work() -> None:
        async with FileBackend(tmp_path / "s", envelope=Envelope("zlib", min_bytes=1)) as backend:
            old = {"status": "running", "is_background_task": True, "updated_at": "2020-01-01T00:00:00+00:00"}
            await backend.save_state("bg", {**old, "pipeline_context": {"v": "x" * 500}})
            assert await backend.cleanup_stale_background_tasks(1) == 1
            found = await backend.load_state("bg") or {}
            assert (found["status"], found["pipeline_context"]) == ("failed", {"v": "x" * 500})

    asyncio.run(work())
