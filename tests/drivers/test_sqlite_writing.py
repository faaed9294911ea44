"""What SQLite writes: what comes back, what other programs find in the file, what is cleaned up."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from stores import NEW, copy, edit, listed, make, read, run, runs, state

from flujo_lens.errors import CorruptStoreError, InvalidStateError, NotAStoreError
from flujo_lens.serialization.envelope import Envelope
from flujo_lens.state.backends.sqlite import SQLiteBackend
from flujo_lens.state.backends.sqlite.schema.tables import CREATE, TABLES
from flujo_lens.state.views import RunFilter

NOW = datetime.now(UTC)


def rows(path: Path, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(sql, values).fetchall()


# --- how a backend is made


def test_synchronous_is_normal_or_full(tmp_path: Path) -> None:
    for given, level in (("normal", 1), ("FULL", 2), ("Full", 2)):

        async def work(backend: SQLiteBackend, level: int = level) -> None:
            await backend.save_state("x", {})
            found = await backend._store.writer.write(lambda db: db.execute("PRAGMA synchronous").fetchone()[0])
            assert found == level

        read(tmp_path / f"{given}.db", work, synchronous=given)
    with pytest.raises(ValueError, match="NORMAL or FULL"):
        SQLiteBackend(tmp_path / "s.db", synchronous="off")


def test_a_new_file_is_made_by_a_save_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.db"

    async def work(backend: SQLiteBackend) -> None:
        await backend.delete_state("x")
        await backend.delete_run("x")
        assert await backend.cleanup_old_workflows(0) == 0
        assert await backend.cleanup_stale_background_tasks(0) == 0
        assert await backend.load_state("x") is None
        assert backend.get_workflow_stats_sync() == await backend.get_workflow_stats()
        assert (await backend.get_workflow_stats())["total_workflows"] == 0
        assert (await backend.list_runs(), await backend.get_trace("x"), await backend.get_run_details("x")) == (
            [],
            None,
            None,
        )
        assert list(tmp_path.iterdir()) == []
        await backend.set_system_state("k", {})
        assert path.exists()

    read(path, work)
    assert rows(path, "PRAGMA journal_mode") == [("wal",)]
    names = {row[0] for row in rows(path, "SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert names == {*TABLES, "sqlite_sequence"}


def test_a_database_without_tables_is_no_store_to_delete_from(tmp_path: Path) -> None:
    path = edit(tmp_path / "s.db", "PRAGMA journal_mode = wal", "CREATE TABLE t (a)", "DROP TABLE t")
    with pytest.raises(NotAStoreError):
        read(path, lambda b: b.delete_run("x"))
    assert rows(path, "SELECT * FROM sqlite_master") == []


# --- states


class Colour(Enum):
    RED = "red"


def test_a_state_as_other_programs_find_it(tmp_path: Path) -> None:
    """The forms in which the library writes: JSON text, ISO times, 0 and 1."""
    saved = {
        "pipeline_name": "p",
        "status": Colour.RED,
        "pipeline_context": {"a": [1, "漢"]},
        "metadata": {},
        "created_at": datetime(2026, 3, 1, 10, tzinfo=timezone(timedelta(hours=-5))),
        "error_message": ValueError("no"),
        "is_background_task": True,
        "task_id": UUID(int=5),
    }
    read(tmp_path / "s.db", lambda b: b.save_state("x", saved))
    names = "pipeline_id, status, pipeline_context, last_step_output, metadata, created_at, error_message"
    names += ", is_background_task, task_id, current_step_index, total_steps, pipeline_version"
    (found,) = rows(tmp_path / "s.db", f"SELECT {names} FROM workflow_state")
    wanted: tuple[Any, ...] = ("p", "red", '{"a":[1,"漢"]}', None, "{}", "2026-03-01T10:00:00-05:00", "no")
    assert found == (*wanted, 1, str(UUID(int=5)), 0, 0, "latest")


def test_times_are_loaded_as_datetimes_naive_where_the_stored_ones_are(tmp_path: Path) -> None:
    path = make(
        tmp_path / "s.db",
        {
            "workflow_state": [
                state("aware", created_at="2026-03-01T10:00:00Z", updated_at="2026-03-01T10:00:00.5-05:00"),
                state("naive", created_at="2026-03-01 10:00:00", updated_at="2026-03-01T10:00:00"),
                state("odd", created_at="yesterday", updated_at=""),
            ]
        },
    )
    zone = timezone(timedelta(hours=-5))

    async def work(backend: SQLiteBackend) -> None:
        aware, naive, odd = [await backend.load_state(run_id) or {} for run_id in ("aware", "naive", "odd")]
        assert aware["created_at"] == datetime(2026, 3, 1, 10, tzinfo=UTC)
        assert aware["updated_at"] == datetime(2026, 3, 1, 15, 0, 0, 500000, tzinfo=UTC)
        assert naive["created_at"] == naive["updated_at"] == datetime(2026, 3, 1, 10)
        assert (odd["created_at"], odd["updated_at"]) == ("yesterday", "")
        assert all(isinstance(s["created_at"], str) for s in await backend.list_states())
        detail = await backend.read_run("aware")
        assert detail is not None
        assert detail.state is not None
        assert detail.state["created_at"] == "2026-03-01T10:00:00Z"

    read(path, work, zone)


def test_a_column_that_is_not_known_is_loaded_as_it_is(tmp_path: Path) -> None:
    path = edit(copy(NEW, tmp_path), "ALTER TABLE workflow_state ADD COLUMN tenant TEXT DEFAULT 'acme'")
    assert (read(path, lambda b: b.load_state("fail-001")) or {})["tenant"] == "acme"


@pytest.mark.parametrize("field", ["pipeline_context", "last_step_output", "step_history", "metadata"])
@pytest.mark.parametrize("blob", ["{half", b"\xff\x00"])
def test_a_blob_that_does_not_parse_is_an_error_and_not_a_text(field: str, blob: str | bytes, tmp_path: Path) -> None:
    """Its text, saved again, would be JSON, and nobody would see any more that something was lost."""
    path = make(tmp_path / "s.db", {"workflow_state": [state("x", **{field: blob}), state("whole")]})

    async def work(backend: SQLiteBackend) -> None:
        with pytest.raises(CorruptStoreError, match=f"{field} of run x is no JSON") as caught:
            await backend.load_state("x")
        assert "lens show RUN" in (caught.value.hint or "")
        assert [found["run_id"] for found in await backend.list_states()] == ["whole"]
        detail = await backend.read_run("x")
        assert detail is not None
        assert detail.state is not None
        assert detail.state[field] == blob

    read(path, work)


def test_a_blob_that_is_not_there_is_empty_in_the_state_and_in_the_list(tmp_path: Path) -> None:
    blobs = {"pipeline_context": None, "last_step_output": "", "step_history": None, "metadata": ""}
    path = make(tmp_path / "s.db", {"workflow_state": [state("x", **blobs)]})
    empty = {"pipeline_context": {}, "last_step_output": None, "step_history": [], "metadata": {}}

    async def work(backend: SQLiteBackend) -> None:
        for found in (await backend.load_state("x"), *await backend.list_states()):
            assert found is not None
            assert {name: found[name] for name in empty} == empty

    read(path, work)


def test_the_state_that_was_saved_last_is_listed_first(tmp_path: Path) -> None:
    async def work(backend: SQLiteBackend) -> None:
        for run_id in "abcab":
            await backend.save_state(run_id, {})
            assert (await backend.list_states())[0]["run_id"] == run_id
        await backend.save_state("b", {"status": "paused"})
        await backend.save_state("b", {"status": "failed"})
        newest = (await backend.list_states())[0]
        assert (newest["run_id"], newest["status"]) == ("b", "failed")
        await backend.delete_state("b")
        await backend.save_state("b", {})
        assert [s["run_id"] for s in await backend.list_states()] == ["b", "a", "c"]

    read(tmp_path / "s.db", work)


def test_a_state_that_another_process_saved_meanwhile_is_no_longer_the_newest(tmp_path: Path) -> None:
    path = tmp_path / "s.db"

    async def work(backend: SQLiteBackend) -> None:
        async with SQLiteBackend(path) as other:
            for run_id in ("mine", "theirs"):
                await backend.save_state("mine", {})
                await other.save_state(run_id, {})
            await backend.save_state("mine", {})
        assert [s["run_id"] for s in await backend.list_states()] == ["mine", "theirs"]

    read(path, work)


def test_what_is_changed_after_the_call_is_not_saved(tmp_path: Path) -> None:
    async def work(backend: SQLiteBackend) -> None:
        given = {"metadata": {"n": 1}}
        saving = asyncio.ensure_future(backend.save_state("x", given))
        await asyncio.sleep(0)
        given["metadata"]["n"] = 2
        await saving
        assert (await backend.load_state("x") or {})["metadata"] == {"n": 1}

    read(tmp_path / "s.db", work)


def test_a_state_that_does_not_fit_its_model_is_refused(tmp_path: Path) -> None:
    async def work(backend: SQLiteBackend) -> None:
        await backend.save_state("x", {"run_id": "x"})
        with pytest.raises(InvalidStateError):
            await backend.save_state("x", {"run_id": "x", "current_step_index": "third"})
        assert (await backend.load_state("x") or {})["current_step_index"] == 0

    read(tmp_path / "s.db", work, validate=True)


def test_values_of_any_type_go_through_the_serializer_that_is_given(tmp_path: Path) -> None:
    class Odd:
        pass

    async def work(backend: SQLiteBackend) -> None:
        await backend.save_state("x", {"pipeline_context": {"odd": Odd()}})
        assert (await backend.load_state("x") or {})["pipeline_context"] == {"odd": "told"}

    read(tmp_path / "s.db", work, serializer_default=lambda value: "told")


def test_what_is_compressed_reads_as_what_is_not(tmp_path: Path) -> None:
    text = "x" * 5000
    history = [{"name": "s", "success": True, "output": text}]

    async def work(backend: SQLiteBackend) -> None:
        await backend.save_state("x", {"pipeline_context": {"t": text}, "step_history": history, "status": "failed"})
        await backend.save_step_result({"run_id": "x", "step_name": "more", "step_index": 1, "output": text})
        await backend.save_spans("x", [{"span_id": "1", "name": "n", "start_time": 1.0, "attributes": {"t": text}}])
        for found in (await backend.load_state("x") or {}, (await backend.list_states())[0]):
            assert (found["pipeline_context"], found["step_history"]) == ({"t": text}, history)
        detail = await backend.read_run("x")
        assert detail is not None
        assert [(s.step_name, s.output) for s in detail.steps] == [("s", text), ("more", text)]
        assert (await backend.get_trace("x"))["attributes"] == {"t": text}

    read(tmp_path / "s.db", work, envelope=Envelope(compression="zlib"))
    assert rows(tmp_path / "s.db", "SELECT typeof(pipeline_context), typeof(metadata) FROM workflow_state") == [
        ("blob", "null")
    ]


def test_a_reader_sees_what_was_saved_before_and_after_it_opened(tmp_path: Path) -> None:
    path = copy(NEW, tmp_path)

    async def work(backend: SQLiteBackend) -> None:
        for number in range(3):
            before = await backend.count_runs(RunFilter())
            await backend.save_state(f"new-{number}", {})
            assert await backend.load_state(f"new-{number}") is not None
            assert await backend.count_runs(RunFilter()) == before + 1

    read(path, work)


# --- history


def test_the_words_of_both_versions(tmp_path: Path) -> None:
    """A run and its steps in the words of 0.4.x and of 0.6.x are the same rows."""
    old = {"run_id": "old", "start_time": datetime(2026, 3, 1, 10, tzinfo=UTC), "pipeline_name": "p"}
    new = {"run_id": "new", "created_at": "2026-03-01T10:00:00+00:00", "pipeline_name": "p"}
    step = {"step_name": "s", "step_index": 2, "output": {"a": 1}, "status": "completed"}
    old_step = {**step, "run_id": "old", "duration_ms": 7, "cost": 0.5, "tokens": 9, "end_time": old["start_time"]}
    new_step = {**step, "run_id": "new", "execution_time_ms": 7, "cost_usd": 0.5, "token_counts": 9}
    new_step["created_at"] = new["created_at"]
    ended = datetime(2026, 3, 1, 11, tzinfo=UTC)

    async def work(backend: SQLiteBackend) -> None:
        for start, done in ((old, old_step), (new, new_step)):
            await backend.save_run_start(start)
            await backend.save_step_result(done)
        await backend.save_run_end("old", {"end_time": ended, "final_context": {"n": 1}, "total_cost": 2.5})
        await backend.save_run_end(
            "new", {"end_time": ended.isoformat(), "final_context_blob": {"n": 1}, "total_cost": 2.5}
        )
        details = [await backend.get_run_details(run_id) for run_id in ("old", "new")]
        assert all(d is not None and d["final_context"] == {"n": 1} for d in details)

    path = tmp_path / "s.db"
    read(path, work)
    for table in ("runs", "steps"):
        names = ", ".join(c for c in TABLES[table] if c not in ("id", "run_id"))
        found = rows(path, f"SELECT {names} FROM {table}")
        assert len(found) == 2
        assert found[0] == found[1]
    assert rows(path, "SELECT final_context_blob FROM runs") == [('{"n":1}',)] * 2


def test_the_input_and_the_error_of_a_step_are_kept(tmp_path: Path) -> None:
    """0.6.11 has no columns for them: they are added when there is something to keep."""
    path = copy(NEW, tmp_path)
    step = {"run_id": "fail-001", "step_name": "again", "step_index": 7, "status": "failed"}

    async def work(backend: SQLiteBackend) -> None:
        assert await backend.list_run_steps("fail-001")
        await backend.save_step_result(step)
        assert not {"input_blob", "error_blob"} & {r[1] for r in rows(path, "PRAGMA table_info(steps)")}
        await backend.save_step_result(
            {**step, "step_index": 8, "input": [1], "error": "boom", "raw_response": {"r": 1}}
        )
        last = (await backend.list_run_steps("fail-001"))[-1]
        assert (last["input"], last["error"], last["raw_response"]) == ([1], "boom", {"r": 1})

    read(path, work)


def test_what_comes_before_its_run_is_not_lost(tmp_path: Path) -> None:
    async def work(backend: SQLiteBackend) -> None:
        await backend.save_step_result({"run_id": "step", "step_name": "s", "step_index": 0})
        await backend.save_spans("span", [{"span_id": "1", "name": "n", "start_time": 1.0}])
        assert [s["step_name"] for s in await backend.list_run_steps("step")] == ["s"]
        await backend.save_run_start(
            {"run_id": "step", "pipeline_name": "p", "created_at": "2026-03-01T10:00:00+00:00"}
        )
        assert [s["step_name"] for s in await backend.list_run_steps("step")] == ["s"]
        assert (await backend.get_run_details("step") or {})["created_at"] == "2026-03-01T10:00:00+00:00"
        await backend.save_state("task", {"is_background_task": True})
        await backend.save_step_result({"run_id": "task", "step_name": "s", "step_index": 0})

    read(tmp_path / "s.db", work)
    assert rows(tmp_path / "s.db", "SELECT run_id FROM runs ORDER BY 1") == [("span",), ("step",)]


def test_a_run_that_starts_again_keeps_its_steps(tmp_path: Path) -> None:
    async def work(backend: SQLiteBackend) -> None:
        await backend.save_run_start({"run_id": "x"})
        await backend.save_step_result({"run_id": "x", "step_name": "s", "step_index": 0})
        await backend.save_run_end("x", {"total_cost": 1.0})
        await backend.save_run_start({"run_id": "x"})
        assert len(await backend.list_run_steps("x")) == 1

    read(tmp_path / "s.db", work)
    assert rows(tmp_path / "s.db", "SELECT status, end_time, total_cost FROM runs") == [("running", None, None)]


@pytest.mark.parametrize("method", ["save_run_start", "save_step_result"])
def test_history_needs_a_run_id(method: str, tmp_path: Path) -> None:
    for given, error in (({}, ValueError), ({"run_id": None}, ValueError), ({"run_id": 7}, TypeError)):
        with pytest.raises(error, match="run_id"):
            read(tmp_path / "s.db", lambda b, given=given: getattr(b, method)(given))
    assert list(tmp_path.iterdir()) == []


def test_a_span_takes_the_place_of_the_one_with_its_id_in_its_run(tmp_path: Path) -> None:
    def span(span_id: str, name: str, **more: Any) -> dict[str, Any]:
        return {"span_id": span_id, "name": name, "start_time": 1.0, "status": "running", **more}

    async def work(backend: SQLiteBackend) -> None:
        await backend.save_spans("x", [span("1", "a"), span("2", "b")])
        await backend.save_spans("y", [span("1", "other")])
        await backend.save_spans("x", [span("1", "new", end_time=2.0, attributes={"a": {1, 2}})])
        names = {s["span_id"]: (s["name"], s["end_time"]) for s in await backend.get_spans("x")}
        assert names == {"1": ("new", 2.0), "2": ("b", None)}
        assert [s["name"] for s in await backend.get_spans("y")] == ["other"]

    read(tmp_path / "s.db", work)


def test_a_trace_takes_the_place_of_every_span_and_of_a_stored_tree(tmp_path: Path) -> None:
    path = make(
        tmp_path / "s.db",
        {"runs": [run("x")], "traces": [{"run_id": "x", "trace_data": '{"span_id": "old"}', "created_at": "2026"}]},
    )
    leaf = {
        "span_id": "2",
        "name": "leaf",
        "start_time": 2.0,
        "end_time": 3.0,
        "status": "failed",
        "attributes": {"n": 1},
    }
    tree = {"span_id": "1", "name": "root", "start_time": 1.0, "end_time": 4.0, "status": "completed", "attributes": {}}
    wanted = {**tree, "parent_span_id": None, "children": [{**leaf, "parent_span_id": "1", "children": []}]}

    async def work(backend: SQLiteBackend) -> None:
        await backend.save_spans("x", [{"span_id": "0", "name": "gone", "start_time": 1.0}])
        await backend.save_trace("x", {**tree, "children": [leaf]})
        assert await backend.get_trace("x") == wanted
        assert await backend.get_trace("nobody") is None

    read(path, work)


def test_a_deep_trace(tmp_path: Path) -> None:
    tree: dict[str, Any] = {"span_id": "0", "name": "n", "start_time": 0.0, "children": []}
    at = tree
    for number in range(1, 3000):
        at["children"] = [{"span_id": str(number), "name": "n", "start_time": float(number), "children": []}]
        at = at["children"][0]

    async def work(backend: SQLiteBackend) -> None:
        await backend.save_trace("x", tree)
        found, depth = await backend.get_trace("x"), 1
        while found["children"]:
            (found,), depth = found["children"], depth + 1
        assert depth == 3000

    read(tmp_path / "s.db", work)


def test_evaluations_and_system_state_as_other_programs_find_them(tmp_path: Path) -> None:
    async def work(backend: SQLiteBackend) -> None:
        await backend.persist_evaluation("x", 0.5, "fine", "s", {"by": "rule"})
        for value in ({"n": 1}, {"n": 2}):
            await backend.set_system_state("k", value)
        assert (await backend.get_system_state("k") or {})["value"] == {"n": 2}

    path = tmp_path / "s.db"
    read(path, work)
    assert rows(path, "SELECT run_id, score, feedback, step_name, metadata, length(created_at) FROM evaluations") == [
        ("x", 0.5, "fine", "s", '{"by":"rule"}', 19)
    ]
    assert rows(path, "SELECT key, value FROM system_state") == [("k", '{"n":2}')]


# --- deleting


def test_a_run_is_deleted_from_every_table_and_no_other(tmp_path: Path) -> None:
    path = copy(NEW, tmp_path)

    def counts() -> dict[str, tuple[int, int]]:
        sql = "SELECT total(run_id = 'fail-001'), total(run_id <> 'fail-001') FROM {}"
        return {t: rows(path, sql.format(t))[0] for t in TABLES if t != "system_state"}  # type: ignore[misc]

    edit(path, "INSERT INTO traces VALUES ('fail-001', '{}', '')")
    edit(path, "INSERT INTO evaluations (run_id, score) VALUES ('fail-001', 1)")
    before = counts()
    assert all(mine for mine, _ in before.values())
    read(path, lambda b: b.delete_run("fail-001"))
    assert counts() == {table: (0, others) for table, (_, others) in before.items()}
    read(path, lambda b: b.delete_run("nobody"))
    assert counts() == {table: (0, others) for table, (_, others) in before.items()}


def test_an_id_that_is_stored_as_bytes_is_deleted(tmp_path: Path) -> None:
    path = make(tmp_path / "s.db", {"workflow_state": [state(b"x"), state("y")], "runs": [run(b"x")]})
    read(path, lambda b: b.delete_run("x"))
    assert rows(path, "SELECT run_id FROM workflow_state") == [("y",)]
    assert rows(path, "SELECT run_id FROM runs") == []


def test_a_deletion_is_whole_or_not_at_all(tmp_path: Path) -> None:
    path = edit(
        copy(NEW, tmp_path),
        "CREATE TRIGGER kept BEFORE DELETE ON runs BEGIN SELECT RAISE(ABORT, 'kept'); END",
    )
    before = {run.run_id for run in read(path, listed)}
    steps = rows(path, "SELECT count(*) FROM steps")
    for work in (lambda b: b.delete_run("fail-001"), lambda b: b.cleanup_old_workflows(0)):
        with pytest.raises(Exception, match="kept; nothing was changed"):
            read(path, work)
    assert {run.run_id for run in read(path, listed)} == before
    assert rows(path, "SELECT count(*) FROM steps") == steps


HOUR = timedelta(hours=1)
FORMS: dict[str, Callable[[datetime], str]] = {
    "aware": lambda t: t.isoformat(),
    "Z": lambda t: t.strftime("%Y-%m-%dT%H:%M:%SZ"),
    "another zone": lambda t: t.astimezone(timezone(timedelta(hours=9))).isoformat(),
    "naive": lambda t: t.replace(tzinfo=None).isoformat(),
    "a space": lambda t: t.strftime("%Y-%m-%d %H:%M:%S"),
}


@pytest.mark.parametrize("form", FORMS)
def test_old_runs_are_cleaned_up_by_the_instant(form: str, tmp_path: Path) -> None:
    old, young = (FORMS[form](NOW - timedelta(days=30) + d) for d in (-HOUR, HOUR))
    times = {"created_at": old, "updated_at": old}
    kept = {
        "young state": (state("young state", **{**times, "updated_at": young}), None),
        "young run": (state("young run", **times), run("young run", **{**times, "updated_at": young})),
        "young end": (state("young end", **times), run("young end", **times, end_time=young)),
        "future": (state("future", **{**times, "updated_at": FORMS[form](NOW + timedelta(days=1))}), None),
        "unreadable": (state("unreadable", **times), run("unreadable", **{**times, "updated_at": "soon"})),
        "timeless": (state("timeless", created_at="", updated_at=""), None),
    }
    gone = {
        "both": (state("both", **times), run("both", **times)),
        "running": (state("running", **times, status="running"), None),
        "history": (None, run("history", **times)),
    }
    every = [*kept.values(), *gone.values()]
    tables = {
        "workflow_state": [s for s, _ in every if s],
        "runs": [r for _, r in every if r],
        "steps": [{"run_id": i, "step_name": "s", "step_index": 0, "status": "completed", "created_at": old}
                  for i in (*kept, *gone)],
    }  # fmt: skip
    path = make(tmp_path / "s.db", tables)
    assert read(path, lambda b: b.cleanup_old_workflows(30), UTC) == 3
    assert {run.run_id for run in runs(path, zone=UTC)} == set(kept)
    assert {row[0] for row in rows(path, "SELECT run_id FROM steps")} == set(kept)
    assert read(path, lambda b: b.cleanup_old_workflows(), UTC) == 0


def test_more_runs_than_go_into_one_transaction_are_cleaned_up(tmp_path: Path) -> None:
    path = make(tmp_path / "s.db", {"workflow_state": [state(f"r{n}") for n in range(250)]})
    assert read(path, lambda b: b.cleanup_old_workflows(30)) == 250
    assert read(path, listed) == []


def test_a_run_that_is_saved_while_old_ones_are_cleaned_up_stays(tmp_path: Path) -> None:
    """It was old when somebody looked, and is not when its turn comes."""
    path = make(tmp_path / "s.db", {"workflow_state": [state(f"r{n:03}") for n in range(150)]})

    async def work(backend: SQLiteBackend) -> None:
        cleaning = asyncio.ensure_future(backend.cleanup_old_workflows(30))
        while await backend.count_runs(RunFilter()) == 150:
            await asyncio.sleep(0)
        await backend.save_state("r149", {})
        assert await cleaning in (149, 150)
        assert "r149" in {run.run_id for run in await listed(backend)}

    read(path, work)


@pytest.mark.parametrize("days", [-1, float("nan")])
def test_ages_that_are_none(days: float, tmp_path: Path) -> None:
    path = copy(NEW, tmp_path)
    before = read(path, listed)
    for method in ("cleanup_old_workflows", "cleanup_stale_background_tasks"):
        with pytest.raises(ValueError, match="0 or more"):
            read(path, lambda b, method=method: getattr(b, method)(days))
    assert read(path, lambda b: b.cleanup_old_workflows(float("inf"))) == 0
    assert read(path, listed) == before


def test_dead_background_tasks_are_marked_failed(tmp_path: Path) -> None:
    long_ago, lately = (NOW - timedelta(hours=25)).isoformat(), (NOW - timedelta(hours=23)).isoformat()
    task = {"is_background_task": 1, "status": "running", "updated_at": long_ago}
    path = make(
        tmp_path / "s.db",
        {
            "workflow_state": [
                state("dead", **task),
                state("told by its metadata", **{**task, "is_background_task": 0},
                      metadata='{"is_background_task": true}'),
                state("alive", **{**task, "updated_at": lately}),
                state("no task", **{**task, "is_background_task": 0}),
                state("done", **{**task, "status": "completed"}),
                state("timeless", **{**task, "updated_at": "soon"}),
            ]
        },
    )  # fmt: skip
    assert read(path, lambda b: b.cleanup_stale_background_tasks(24)) == 2
    found = rows(path, "SELECT run_id, error_message, background_error, updated_at > ? FROM workflow_state "
                       "WHERE status = 'failed' ORDER BY run_id", lately)  # fmt: skip
    why = "timed out: no activity for 24 hours"
    assert found == [("dead", why, why, 1), ("told by its metadata", why, why, 1)]
    assert read(path, lambda b: b.cleanup_stale_background_tasks(24)) == 0


# --- figures


def test_figures_without_an_event_loop_are_those_with_one(tmp_path: Path) -> None:
    path = copy(NEW, tmp_path)

    async def work(backend: SQLiteBackend) -> None:
        wanted = await backend.get_workflow_stats()
        assert wanted["total_workflows"] == await backend.count_runs(RunFilter())
        assert backend.get_workflow_stats_sync() == wanted
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(backend.get_workflow_stats_sync()))
        thread.start()
        thread.join()
        assert found == [wanted]

    read(path, work)
    assert [p.name for p in tmp_path.iterdir()] == ["flujo_ops.db"]


def test_a_store_of_nothing_measured_has_an_average_of_nothing(tmp_path: Path) -> None:
    path = make(tmp_path / "s.db", {}, CREATE)
    found = SQLiteBackend(path).get_workflow_stats_sync()
    assert (found["total_workflows"], found["average_execution_time_ms"]) == (0, 0)


@pytest.mark.parametrize("use", [lambda b: b.load_state("x"), lambda b: b.list_runs(), lambda b: b.get_trace("x")])
def test_a_backend_that_has_only_read_has_no_writer(
    use: Callable[[SQLiteBackend], Awaitable[Any]], tmp_path: Path
) -> None:
    async def work(backend: SQLiteBackend) -> None:
        await use(backend)
        assert not backend._store.has_writer

    read(copy(NEW, tmp_path), work)


def test_a_state_of_many_megabytes_is_saved_over_one_that_is_there(tmp_path: Path) -> None:
    path, large = tmp_path / "s.db", {"text": "漢" * 3_000_000, "more": "y" * 9_000_000}

    async def work(backend: SQLiteBackend) -> None:
        await backend.save_state("r", {"status": "running", "pipeline_context": {"n": 1}})
        state = {"status": "paused", "pipeline_context": large, "last_step_output": large["more"], "metadata": {"k": 1}}
        await backend.save_state("r", state)
        found = await backend.load_state("r") or {}
        assert {name: found[name] for name in state} == state
        await backend.save_state("r", {"status": "completed"})
        assert (await backend.load_state("r") or {})["pipeline_context"] == {}

    read(path, work)
    assert rows(path, "SELECT run_id, status FROM workflow_state") == [("r", "completed")]
