"""What drivers are asked and made with: all refuse the same, in words, before anything is changed."""

from __future__ import annotations

import asyncio
import codecs
import math
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from flujo_lens.errors import ConfigError
from flujo_lens.serialization.keys import KeyRing, new_key
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.backends.core import validation
from flujo_lens.state.backends.file import FileBackend
from flujo_lens.state.backends.memory import InMemoryBackend
from flujo_lens.state.backends.sqlite import SQLiteBackend
from flujo_lens.state.models import WorkflowState
from flujo_lens.state.views import RunFilter

Make = Callable[..., StateBackend]
HALF = "half \ud83d"
TIME = "2026-03-01T09:00:00+00:00"


@pytest.fixture(params=["memory", "file", "sqlite"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    def made(**options: Any) -> StateBackend:
        if request.param == "memory":
            return InMemoryBackend(**options)
        if request.param == "file":
            return FileBackend(tmp_path / "states", cache_dir=tmp_path / "cache", **options)
        return SQLiteBackend(tmp_path / "s.db", **options)

    return made


@pytest.fixture(params=[FileBackend, SQLiteBackend])
def placed(request: pytest.FixtureRequest) -> Any:
    return request.param


def run(make: Make, work: Callable[[StateBackend], Awaitable[Any]]) -> Any:
    async def opened() -> Any:
        async with make() as backend:
            return await work(backend)

    return asyncio.run(opened())


async def refused(work: Awaitable[Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        await work
    assert type(caught.value) is kind


# --- single checks


@pytest.mark.parametrize("value", [-1, -0.1, math.nan, -math.inf])
def test_an_age_is_not_negative(value: float) -> None:
    with pytest.raises(ValueError, match="days_old must be 0 or more"):
        validation.check_days(value)
    with pytest.raises(ValueError, match="stale_hours must be 0 or more"):
        validation.check_hours(value)


@pytest.mark.parametrize("value", ["30", None, True])
def test_an_age_is_a_number(value: Any) -> None:
    with pytest.raises(TypeError, match="days_old must be a number"):
        validation.check_days(value)


def test_a_page_is_not_negative() -> None:
    validation.check_page(None)
    validation.check_page(0, 0)
    with pytest.raises(ValueError, match="limit must not be negative: -1"):
        validation.check_page(-1)
    with pytest.raises(ValueError, match="offset must not be negative: -2"):
        validation.check_page(None, -2)


def test_what_no_store_holds_is_asked_for_as_what_no_store_holds() -> None:
    for text in ("", "run-1", "漢字", "\U0001f600", "nul\0inside"):
        assert validation.findable(text) is text
    assert validation.findable(HALF) == "\0half \\ud83d"
    asked = RunFilter(pipeline=HALF, statuses=frozenset({HALF}), meta=((HALF, "x"),), since=datetime.now(UTC))
    assert HALF not in str(validation.findable_filter(asked))
    assert validation.findable_filter(RunFilter(search="x")) == RunFilter(search="x")


# --- ids


@pytest.mark.parametrize("run_id", ["nul\0inside", "\0", HALF, "\udcff"])
def test_an_id_that_engines_do_not_keep_is_not_saved_and_not_found(make: Make, run_id: str) -> None:
    async def work(backend: StateBackend) -> None:
        await backend.save_state("r", {"status": "running"})
        for saving in (
            backend.save_state(run_id, {}),
            backend.save_run_start({"run_id": run_id}),
            backend.save_run_end(run_id, {}),
            backend.save_step_result({"run_id": run_id, "step_name": "s"}),
            backend.save_spans(run_id, [{"span_id": "a"}]),
            backend.save_trace(run_id, {"span_id": "a"}),
            backend.persist_evaluation(run_id, 1.0),
        ):
            await refused(saving, ValueError, "run_id must not contain NUL or lone surrogates")
        for deleting in (backend.delete_state(run_id), backend.delete_run(run_id)):
            assert await deleting is None
        assert await backend.load_state(run_id) is None
        assert await backend.read_run(run_id) is None
        assert await backend.get_run_details(run_id) is None
        assert await backend.get_trace(run_id) is None
        for listed in (
            backend.get_spans(run_id),
            backend.list_run_steps(run_id),
            backend.list_evaluations(run_id=run_id),
            backend.list_states(run_id),
            backend.list_runs(status=run_id, pipeline_name=run_id),
            backend.list_background_tasks(parent_run_id=run_id),
            backend.find_run_ids(run_id),
            backend.read_summaries([run_id]),
        ):
            assert list(await listed) == []
        assert list(await backend.read_spans(run_id)) == []
        for wanted in (RunFilter(search=run_id), RunFilter(meta=((run_id, "x"),)), RunFilter(error=run_id)):
            assert (await backend.query_runs(wanted)).items == ()
            assert await backend.count_runs(wanted) == 0
            assert (await backend.read_stats(wanted)).total == 0
        assert [row["run_id"] for row in await backend.list_runs()] == ["r"]

    run(make, work)


NO_IDS: list[tuple[Any, type[Exception], str]] = [
    (None, ValueError, "run_id is missing"),
    (7, TypeError, "run_id must be a string, not int: 7"),
    (b"r", TypeError, "run_id must be a string, not bytes"),
]


@pytest.mark.parametrize(("run_id", "kind", "words"), NO_IDS)
def test_what_is_no_text_is_no_id(make: Make, run_id: Any, kind: type[Exception], words: str) -> None:
    async def work(backend: StateBackend) -> None:
        for call in (
            backend.save_state(run_id, {}),
            backend.load_state(run_id),
            backend.delete_state(run_id),
            backend.delete_run(run_id),
            backend.save_run_start({"run_id": run_id}),
            backend.save_run_end(run_id, {}),
            backend.save_step_result({"run_id": run_id}),
            backend.save_spans(run_id, []),
            backend.save_trace(run_id, {}),
            backend.persist_evaluation(run_id, 1.0),
            backend.get_run_details(run_id),
            backend.list_run_steps(run_id),
            backend.get_spans(run_id),
            backend.get_trace(run_id),
            backend.read_run(run_id),
            backend.read_spans(run_id),
            backend.find_run_ids(run_id),
        ):
            await refused(call, kind, words)
        assert await backend.list_runs() == []

    run(make, work)


# --- numbers and documents


def test_a_page_that_cannot_be_is_refused(make: Make) -> None:
    wrong: tuple[tuple[Any, type[Exception], str], ...] = (
        (-1, ValueError, "limit must not be negative: -1"),
        ("5", TypeError, "limit must be a whole number, not str"),
        (1.5, TypeError, "limit must be a whole number, not float"),
        (True, TypeError, "limit must be a whole number, not bool"),
    )

    async def work(backend: StateBackend) -> None:
        await backend.save_state("r", {})
        for limit, kind, words in wrong:
            for call in (
                backend.query_runs(RunFilter(), limit=limit),
                backend.find_run_ids("r", limit),
                backend.read_evaluations(limit=limit),
                backend.list_evaluations(limit),
                backend.list_runs(limit=limit),
                backend.list_runs(limit=limit, metadata_filter={"a": 1}),
                backend.list_workflows(limit=limit),
                backend.list_workflows(limit=limit, pipeline_id="p"),
                backend.list_background_tasks(limit=limit),
            ):
                await refused(call, kind, words)
            words = words.replace("limit", "offset")
            for call in (
                backend.list_runs(offset=limit),
                backend.list_workflows(offset=limit),
                backend.list_background_tasks(offset=limit),
            ):
                await refused(call, kind, words)
        assert (await backend.query_runs(RunFilter(), limit=0)).items == ()
        assert list(await backend.find_run_ids("r", 0)) == []

    run(make, work)


def test_an_argument_of_another_type_is_refused(make: Make) -> None:
    wrong: Any = ["a"]
    number: Any = 5
    text: Any = "30"

    async def work(backend: StateBackend) -> None:
        for call, words in (
            (backend.save_state("r", wrong), "a state must be a dict, not list"),
            (backend.save_run_start(wrong), "run_data must be a dict"),
            (backend.save_run_end("r", wrong), "end_data must be a dict"),
            (backend.save_step_result(wrong), "step_data must be a dict"),
            (backend.save_spans("r", number), "spans must be a list of dicts, not int"),
            (backend.save_spans("r", wrong), "each of spans must be a dict, not str"),
            (backend.save_trace("r", wrong), "a trace must be a dict, not list"),
            (backend.persist_evaluation("r", text), "score must be a number, not str"),
            (backend.persist_evaluation("r", 1.0, feedback=number), "feedback must be a string"),
            (backend.persist_evaluation("r", 1.0, step_name=number), "step_name must be a string"),
            (backend.set_system_state(number, {}), "key must be a string, not int"),
            (backend.get_system_state(number), "key must be a string, not int"),
            (backend.cleanup_old_workflows(text), "days_old must be a number"),
            (backend.cleanup_stale_background_tasks(text), "stale_hours must be a number"),
            (backend.get_failed_workflows(text), "hours_back must be a number"),
            (backend.get_failed_background_tasks(number), "parent_run_id must be a string"),
            (backend.list_background_tasks(number), "parent_run_id must be a string"),
            (backend.list_states(number), "status must be a string"),
            (backend.list_runs(number), "status must be a string"),
            (backend.list_runs(pipeline_name=number), "pipeline_name must be a string"),
            (backend.list_runs(metadata_filter=wrong), "metadata_filter must be a dict"),
            (backend.list_workflows(number), "status must be a string"),
            (backend.list_workflows(pipeline_id=number), "pipeline_id must be a string"),
            (backend.list_evaluations(run_id=number), "run_id must be a string"),
            (backend.get_span_statistics(number), "pipeline_name must be a string"),
            (backend.get_span_statistics(None, number), "time_range must be two numbers"),
        ):
            await refused(call, TypeError, words)
        missing: Any = None
        await refused(backend.set_system_state(missing, {}), ValueError, "the key is missing")
        await refused(backend.persist_evaluation("r", 10**400), ValueError, "too large")
        assert await backend.list_runs() == []

    run(make, work)


# --- values that engines have no form for


def test_what_a_column_cannot_hold_takes_the_form_that_it_has_in_json(make: Make) -> None:
    fields: dict[str, Any] = {
        "status": "failed",
        "error_message": HALF,
        "pipeline_name": HALF,
        "created_at": TIME,
        "updated_at": math.nan,
        "total_steps": 2**70,
        "current_step_index": -(2**64),
        "execution_time_ms": math.inf,
        "memory_usage_mb": math.nan,
    }

    async def work(backend: StateBackend) -> None:
        await backend.save_state("r", fields)
        loaded = await backend.load_state("r") or {}
        told = {name: loaded[name] for name in ("error_message", "pipeline_name", "updated_at", "execution_time_ms")}
        texts = {"error_message": "half \ufffd", "pipeline_name": "half \ufffd"}
        assert told == {**texts, "updated_at": "nan", "execution_time_ms": "inf"}
        assert float(loaded["total_steps"]) == float(2**70)
        (found,) = [found async for found in backend.iter_runs(RunFilter())]
        assert (found.pipeline_name, found.error_message) == ("half \ufffd", "half \ufffd")
        assert await backend.cleanup_old_workflows(0) == 0

    run(make, work)


def test_history_takes_the_same_forms(make: Make) -> None:
    async def work(backend: StateBackend) -> None:
        await backend.save_run_start({"run_id": "r", "pipeline_name": HALF, "total_steps": 2**70})
        await backend.save_step_result({"run_id": "r", "step_name": HALF, "step_index": 0, "cost": math.nan})
        spans: list[dict[str, Any]] = [{"span_id": HALF, "name": HALF, "start_time": math.nan, "end_time": 2**70}]
        await backend.save_spans("r", spans)
        await backend.save_run_end("r", {"status": "failed", "error_message": HALF, "execution_time_ms": 10**5000})
        for score in (math.nan, math.inf, Decimal("0.5"), 1):
            await backend.persist_evaluation("r", score, feedback=HALF)  # type: ignore[arg-type]
        (found,) = [found async for found in backend.iter_runs(RunFilter())]
        assert (found.pipeline_name, found.error_message) == ("half \ufffd", "half \ufffd")
        (step,) = await backend.list_run_steps("r")
        assert (step["step_name"], step["cost"]) == ("half \ufffd", None)
        (span,) = await backend.get_spans("r")
        assert (span["span_id"], span["name"], span["end_time"]) == ("half \ufffd", "half \ufffd", None)
        scores = [(row["score"], row["feedback"]) for row in await backend.list_evaluations()]
        assert scores == [(score, "half \ufffd") for score in (1.0, 0.5, None, None)]

    run(make, work)


# --- what a backend is made with


def test_a_codec_of_wrong_parts_is_refused_at_once(make: Make) -> None:
    for options, words in (
        ({"envelope": "zlib"}, "envelope must be a flujo_lens.serialization.envelope.Envelope, not str 'zlib'"),
        ({"validate": "x"}, "validate must be True, False or a pydantic model, not str 'x'"),
        ({"validate": int}, "validate must be"),
        ({"serializer_default": "x"}, "serializer_default must be a function, not str"),
    ):
        with pytest.raises(TypeError, match=words):
            make(**options)
    for validate in (None, True, False, WorkflowState):
        make(validate=validate)


def test_a_timeout_or_zone_that_cannot_be_is_refused_at_once(placed: Any, tmp_path: Path) -> None:
    for options, kind, words in (
        ({"timeout": -1}, ValueError, "timeout must be 0 or more: -1"),
        ({"timeout": math.nan}, ValueError, "timeout must be 0 or more"),
        ({"timeout": "1"}, TypeError, "timeout must be a number, not str"),
        ({"zone": "UTC"}, TypeError, "zone must be a tzinfo"),
    ):
        with pytest.raises(kind, match=words):
            placed(tmp_path / "s", **options)
    assert list(tmp_path.iterdir()) == []


def test_synchronous_of_another_type_is_refused(tmp_path: Path) -> None:
    wrong: Any = 7
    with pytest.raises(TypeError, match="synchronous must be NORMAL or FULL, not int: 7"):
        SQLiteBackend(tmp_path / "s.db", synchronous=wrong)


def test_a_uri_is_no_path(placed: Any) -> None:
    for uri in ("sqlite:///x.db", "file:///x", "postgresql://db/ops", Path("sqlite:///x.db")):
        with pytest.raises(ValueError, match=rf"is a URI, not a path: use {placed.__name__}\.from_uri"):
            placed(uri)
    for wrong, kind in (("", ValueError), ("a\0b", ValueError), (None, TypeError), (7, TypeError), (b"x", TypeError)):
        with pytest.raises(kind, match="path"):
            placed(wrong)


def test_a_path_may_begin_in_the_home_folder(placed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert placed("~/store").path == tmp_path / "store"
    assert placed(Path("~/store")).path == tmp_path / "store"
    assert placed("./~/store").path == Path("./~/store").absolute().relative_to(tmp_path)


def test_a_file_that_begins_with_a_mark_of_its_byte_order_is_read(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(codecs.BOM_UTF8 + b'{"run_id": "r", "status": "paused", "n": 123456789012345678901234567890}')

    async def work() -> None:
        async with FileBackend(tmp_path, cache_dir=tmp_path / "cache") as backend:
            loaded = await backend.load_state("r") or {}
            assert (loaded["status"], loaded["n"]) == ("paused", 123456789012345678901234567890)
            assert [(run.run_id, run.status) async for run in backend.iter_runs(RunFilter())] == [("r", "paused")]

    asyncio.run(work())


# --- keys


def test_two_keys_of_one_name_are_refused() -> None:
    one, two = new_key(), new_key()
    with pytest.raises(ConfigError, match="two keys of the ring have the name a") as caught:
        KeyRing.parse(f"a:{one},a:{two}")
    assert one not in str(caught.value)
    with pytest.raises(ConfigError, match="two keys"):
        KeyRing.parse(f"a:{one}\na:{one}")
    assert KeyRing.parse(f"a:{one},b:{two}").names == ("a", "b")
