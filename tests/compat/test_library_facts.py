"""What applications of the library rely on in its backends, asked of ours.

Each test is one fact about the library (0.4.35, 0.6.11, or both) that we share. Where we differ on purpose
there is none: a damaged or locked file is never moved aside, `delete_run` takes the state as well, ages are
told by the last update, a store of an older format is migrated by applications alone.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from applications import KINDS, NOW, asynchronous, backend_of, emptied, ids, moment, state
from pydantic import BaseModel

from flujo_lens.errors import BusyError, StoreError
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.backends.file import FileBackend
from flujo_lens.state.backends.memory import InMemoryBackend
from flujo_lens.state.backends.sqlite import SQLiteBackend
from flujo_lens.state.models import WorkflowState


class TestStates:
    """`save_state`, `load_state`, `delete_state`."""

    @asynchronous
    async def test_what_is_not_there_is_none_and_may_be_deleted(self, backend: StateBackend) -> None:
        assert await backend.load_state("nobody") is None
        await backend.delete_state("nobody")

    @asynchronous
    async def test_the_last_save_counts(self, backend: StateBackend) -> None:
        await backend.save_state("r", state("r", error_message="first", step_history=[{"name": "s"}]))
        await backend.save_state("r", state("r", status="completed"))
        loaded = await backend.load_state("r") or {}
        assert (loaded["status"], loaded.get("error_message"), loaded.get("step_history") or []) == (
            "completed",
            None,
            [],
        )
        await backend.delete_state("r")
        assert await backend.load_state("r") is None

    @asynchronous
    async def test_a_state_of_few_keys_is_kept(self, backend: StateBackend) -> None:
        await backend.save_state("r", {"pipeline_context": {"foo": "bar"}, "status": "running"})
        loaded = await backend.load_state("r") or {}
        assert (loaded["pipeline_context"], loaded["status"]) == ({"foo": "bar"}, "running")

    @pytest.mark.parametrize("more", [{}, {"step_history": [{"name": "s", "success": True}], "metadata": {"k": [1]}}])
    def test_a_loaded_state_is_a_workflow_state(self, backend: StateBackend, more: dict[str, Any]) -> None:
        """Applications validate what they load, change it and save what the model dumps."""

        async def work() -> None:
            saved = WorkflowState(**state("r", **more))
            await backend.save_state("r", saved.model_dump())
            await backend.save_state("bare", state("bare"))
            assert WorkflowState.model_validate(await backend.load_state("r")) == saved
            assert WorkflowState.model_validate(await backend.load_state("bare")).step_history == []

        asyncio.run(work())

    @pytest.mark.parametrize("when", [datetime(2026, 3, 1, 10), datetime(2026, 3, 1, 10, 0, 0, 5, tzinfo=UTC)])
    def test_times_come_back_as_they_were_given(self, backend: StateBackend, when: datetime) -> None:
        """Without a zone, too: the runner of 0.4 subtracts them from a time that has none."""

        async def work() -> None:
            await backend.save_state("r", state("r", created_at=when, updated_at=when.isoformat()))
            loaded = await backend.load_state("r") or {}
            assert [moment(loaded[name]) for name in ("created_at", "updated_at")] == [when, when]

        asyncio.run(work())

    @asynchronous
    async def test_times_of_a_database_are_datetimes(self, sqlite: SQLiteBackend) -> None:
        await sqlite.save_state("r", state("r"))
        assert (await sqlite.load_state("r") or {})["created_at"] == NOW

    @asynchronous
    async def test_a_loaded_state_can_be_saved(self, backend: StateBackend) -> None:
        await backend.save_state("r", state("r", metadata={"k": 1}, step_history=[{"output": None}]))
        loaded = await backend.load_state("r")
        assert loaded is not None
        await backend.save_state("r", loaded)
        assert await backend.load_state("r") == loaded

    @asynchronous
    async def test_models_and_odd_numbers_are_plain_data(self, backend: StateBackend) -> None:
        class Order(BaseModel):
            number: int

        context = {"order": Order(number=1), "at": NOW, "ratio": float("nan"), "top": float("inf")}
        await backend.save_state("r", state("r", pipeline_context=context, last_step_output=[Order(number=2)]))
        loaded = await backend.load_state("r") or {}
        plain = {"order": {"number": 1}, "at": NOW.isoformat(), "ratio": "nan", "top": "inf"}
        assert (loaded["pipeline_context"], loaded["last_step_output"]) == (plain, [{"number": 2}])

    @asynchronous
    async def test_what_cannot_be_kept_costs_itself_alone(self, backend: StateBackend) -> None:
        context: dict[str, Any] = {"client": object(), "kept": [1, 2]}
        context["itself"] = context
        await backend.save_state("r", state("r", pipeline_context=context))
        loaded = await backend.load_state("r") or {}
        assert loaded["pipeline_context"] == {
            "client": "<unserializable: object>",
            "kept": [1, 2],
            "itself": "<circular-ref>",
        }

    @asynchronous
    async def test_type_names_in_a_state_are_data(self, backend: StateBackend) -> None:
        """Nothing that a state says is imported, called or made an object of."""
        odd = {"__type__": "builtins.eval", "__reduce__": ["os.system", "true"], "real": 1.0, "imag": 2.0}
        await backend.save_state("r", state("r", pipeline_context=odd, last_step_output="nan"))
        loaded = await backend.load_state("r") or {}
        assert (loaded["pipeline_context"], loaded["last_step_output"]) == (odd, "nan")

    @asynchronous
    async def test_large_states(self, backend: StateBackend) -> None:
        context = {"text": "é" * 500_000, "rows": [{"n": n} for n in range(5_000)]}
        await backend.save_state("r", state("r", pipeline_context=context))
        assert (await backend.load_state("r") or {})["pipeline_context"] == context

    @pytest.mark.parametrize(
        "run_id",
        [
            "x'; DROP TABLE workflow_state; --",
            "' OR '1'='1",
            "100%_done",
            "a\\b",
            "..%2fup",
            "....//up",
            "üñí/漢字",
            "CON",
        ],
    )
    def test_a_run_id_is_a_name_and_nothing_more(self, backend: StateBackend, run_id: str) -> None:
        async def work() -> None:
            for name in (run_id, "other"):
                await backend.save_state(name, state(name))
            assert (await backend.load_state(run_id) or {})["run_id"] == run_id
            await backend.delete_state(run_id)
            assert await backend.load_state(run_id) is None
            assert (await backend.load_state("other") or {})["run_id"] == "other"

        asyncio.run(work())

    @pytest.mark.parametrize("run_id", ["../outside", "/tmp/outside", "..", "../../outside.json"])
    def test_no_run_id_leads_out_of_the_folder(self, tmp_path: Path, run_id: str) -> None:
        async def work() -> None:
            inside = tmp_path / "a" / "states"
            async with FileBackend(inside, cache_dir=tmp_path / "cache") as backend:
                await backend.save_state(run_id, state(run_id))
                await backend.delete_state("../" * 2 + "kept")
            made = [path for path in tmp_path.rglob("*") if path.is_file() and "cache" not in path.parts]
            assert [path for path in made if not path.is_relative_to(inside)] == [tmp_path / "kept.json"]

        (tmp_path / "kept.json").write_text("{}")
        asyncio.run(work())


class TestLife:
    """Opening, closing, event loops, many callers."""

    @asynchronous
    async def test_a_store_without_states_is_empty(self, backend: StateBackend) -> None:
        await emptied(backend)
        assert await backend.list_workflows(status="running", pipeline_id="x", limit=10, offset=0) == []
        assert await backend.list_workflows() == await backend.list_runs() == await backend.list_states() == []
        assert await backend.get_failed_workflows(hours_back=1) == await backend.list_background_tasks() == []
        assert (await backend.get_run_details("r"), await backend.get_trace("r")) == (None, None)
        assert (await backend.list_run_steps("r"), await backend.get_spans("r")) == ([], [])

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_first_save_makes_the_folders(self, tmp_path: Path, kind: str) -> None:
        async def work() -> None:
            async with backend_of(kind, tmp_path / "data" / "today") as backend:
                assert await backend.load_state("r") is None
                await backend.delete_state("r")
                await backend.save_state("r", state("r"))
                assert (await backend.load_state("r") or {})["run_id"] == "r"

        asyncio.run(work())

    @asynchronous
    async def test_a_closed_backend_opens_again(self, backend: StateBackend) -> None:
        if isinstance(backend, InMemoryBackend):
            pytest.skip("what is in memory ends with it")
        async with backend as opened:
            assert opened is backend
            await backend.save_state("r", state("r"))
        await backend.shutdown()
        assert (await backend.load_state("r") or {})["run_id"] == "r"
        await backend.save_state("s", state("s"))
        assert sorted(ids(await backend.list_workflows())) == ["r", "s"]

    def test_one_backend_serves_several_event_loops(self, backend: StateBackend) -> None:
        """A synchronous runner makes an event loop for each call; servers have one in each thread."""
        for n in range(2):
            asyncio.run(backend.save_state(f"turn-{n}", state(f"turn-{n}")))
        failures: list[Exception] = []

        def in_a_thread(n: int) -> None:
            try:
                asyncio.run(backend.save_state(f"thread-{n}", state(f"thread-{n}")))
            except Exception as error:  # noqa: BLE001 - shown by the test
                failures.append(error)

        threads = [threading.Thread(target=in_a_thread, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        found = ids(asyncio.run(backend.list_workflows()))
        assert sorted(found) == [*(f"thread-{n}" for n in range(4)), "turn-0", "turn-1"]

    @asynchronous
    async def test_many_callers_at_once(self, backend: StateBackend) -> None:
        async def one(n: int) -> None:
            await backend.save_state(f"r{n}", state(f"r{n}", current_step_index=n))
            assert (await backend.load_state(f"r{n}") or {})["current_step_index"] == n
            if n % 2:
                await backend.delete_state(f"r{n}")

        await asyncio.gather(*(one(n) for n in range(20)))
        assert sorted(ids(await backend.list_workflows())) == sorted(f"r{n}" for n in range(0, 20, 2))

    @asynchronous
    async def test_a_state_that_is_deleted_while_it_is_loaded(self, backend: StateBackend) -> None:
        await backend.save_state("r", state("r"))
        loaded, _ = await asyncio.gather(backend.load_state("r"), backend.delete_state("r"))
        assert loaded is None or loaded["run_id"] == "r"

    @asynchronous
    async def test_two_backends_on_one_file(self, tmp_path: Path) -> None:
        path = tmp_path / "store.db"
        async with SQLiteBackend(path) as one, SQLiteBackend(path) as other:
            saves = (
                b.save_state(f"{name}{n}", state(f"{name}{n}"))
                for n in range(10)
                for name, b in zip("ab", (one, other), strict=True)
            )
            await asyncio.gather(*saves)
            assert len(await one.list_workflows()) == len(await other.list_workflows()) == 20

    @pytest.mark.parametrize(
        ("method", "given"),
        [
            ("save_run_start", ({"run_id": "r"},)),
            ("save_step_result", ({"run_id": "r", "step_name": "s", "step_index": 0},)),
            ("save_run_end", ("r", {})),
            ("save_trace", ("r", {})),
            ("list_workflows", ()),
        ],
    )
    def test_what_a_backend_cannot_do_is_not_implemented(self, method: str, given: tuple[Any, ...]) -> None:
        """The library's runner calls the history methods, and goes on if they are not implemented."""

        class Three(StateBackend):
            async def save_state(self, run_id: str, state: dict[str, Any]) -> None: ...
            async def load_state(self, run_id: str) -> dict[str, Any] | None: ...
            async def delete_state(self, run_id: str) -> None: ...

        async def work() -> None:
            async with Three() as backend:
                await backend.persist_evaluation("r", 0.5)
                with pytest.raises(NotImplementedError):
                    await getattr(backend, method)(*given)

        asyncio.run(work())


class TestTrouble:
    """Files that are damaged, foreign or locked. They are left as they are."""

    def test_the_store_is_known_by_its_path(self, tmp_path: Path) -> None:
        assert SQLiteBackend(tmp_path / "s.db").db_path == tmp_path / "s.db"
        assert FileBackend(tmp_path / "states").path == tmp_path / "states"

    @pytest.mark.parametrize("content", [b"This is no database", b"SQLite format 3\0" + b"\xff" * 5000])
    def test_a_file_that_is_no_store_is_never_touched(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "store.db"
        path.write_bytes(content)

        async def work() -> None:
            async with SQLiteBackend(path, timeout=0.2) as backend:
                with pytest.raises(StoreError):
                    await backend.save_state("r", state("r"))
                with pytest.raises(StoreError):
                    await backend.load_state("r")
                with pytest.raises(StoreError):
                    await backend.list_workflows()

        asyncio.run(work())
        assert path.read_bytes() == content
        assert [found.name for found in tmp_path.iterdir()] == ["store.db"]

    @asynchronous
    async def test_a_locked_store_is_busy_and_nothing_is_lost(self, tmp_path: Path) -> None:
        path = tmp_path / "store.db"
        async with SQLiteBackend(path, timeout=0.1) as backend:
            await backend.save_state("r", state("r"))
            with closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                with pytest.raises(BusyError):
                    await backend.save_state("r", state("r", status="completed"))
                other.execute("ROLLBACK")
            await backend.save_state("s", state("s"))
            assert (await backend.load_state("r") or {})["status"] == "running"
        assert not list(tmp_path.glob("*.corrupt*"))

    @asynchronous
    async def test_close_is_another_word_for_shutdown(self, sqlite: SQLiteBackend) -> None:
        await sqlite.save_state("r", state("r"))
        await sqlite.close()
        await sqlite.close()
        assert (await sqlite.load_state("r") or {})["run_id"] == "r"


@pytest.mark.parametrize("state", ["text", None, ["x"]])
def test_a_state_that_is_no_dict_is_refused(backend: StateBackend, state: Any) -> None:
    async def work() -> None:
        with pytest.raises(TypeError, match="a state must be a dict"):
            await backend.save_state("r", state)
        assert await backend.load_state("r") is None

    asyncio.run(work())
