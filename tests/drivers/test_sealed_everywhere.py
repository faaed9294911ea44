"""What is encrypted, on every driver alike: what stays in clear, what an application is told, what an operator sees."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from flujo_lens.errors import CorruptStoreError, SealedStateError
from flujo_lens.serialization.codec import SEALED
from flujo_lens.serialization.envelope import Envelope, armour, wrap
from flujo_lens.serialization.keys import KeyRing
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.backends.file import FileBackend
from flujo_lens.state.backends.memory import InMemoryBackend
from flujo_lens.state.backends.sqlite import SQLiteBackend
from flujo_lens.state.views import RunFilter

pytest.importorskip("cryptography")
T = TypeVar("T")
AT = "2026-03-01T09:00:00+00:00"
SECRET = "swordfish"
LOCKED = Envelope(keys=KeyRing({"one": bytes(32)}))


@pytest.fixture(params=["sqlite", "file"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., StateBackend]:
    """Makes backends on one store."""

    def make(envelope: Envelope | None = None) -> StateBackend:
        if request.param == "sqlite":
            return SQLiteBackend(tmp_path / "store.db", envelope=envelope)
        return FileBackend(tmp_path / "states", cache_dir=tmp_path / "cache", envelope=envelope)

    return make


def use(backend: StateBackend, work: Callable[[StateBackend], Awaitable[T]]) -> T:
    async def run() -> T:
        async with backend:
            return await work(backend)

    return asyncio.run(run())


def state(**more: Any) -> dict[str, Any]:
    times = {"created_at": AT, "updated_at": AT}
    return {"pipeline_name": "orders", "status": "completed", "pipeline_context": {}, **times, **more}


async def fill(backend: StateBackend) -> None:
    """One run that keeps the secret wherever it may be kept."""
    await backend.save_run_start({"run_id": "r", "pipeline_name": "orders", "start_time": AT})
    step = {"run_id": "r", "step_name": "load", "step_index": 0, "output": {"x": SECRET}, "cost_usd": 0.5}
    await backend.save_step_result({**step, "raw_response": [SECRET], "input": SECRET, "status": "failed"})
    await backend.save_state("r", state(status="failed", pipeline_context={"x": SECRET}, last_step_output=SECRET))
    root = {"span_id": "a", "name": "root", "start_time": 1.0, "end_time": 2.0, "status": "completed"}
    await backend.save_spans("r", [{**root, "attributes": {"x": SECRET}}])
    await backend.persist_evaluation("r", 0.5, "good", "load", {"by": "me"})
    end = {"status": "failed", "error_message": "lost", "final_context": {"x": SECRET}, "total_cost": 0.5}
    await backend.save_run_end("r", {**end, "end_time": AT})


CALLS: dict[str, Callable[[StateBackend], Awaitable[Any]]] = {
    "load_state": lambda b: b.load_state("r"),
    "get_spans": lambda b: b.get_spans("r"),
    "get_trace": lambda b: b.get_trace("r"),
    "get_run_details": lambda b: b.get_run_details("r"),
    "list_run_steps": lambda b: b.list_run_steps("r"),
}


@pytest.mark.parametrize("call", CALLS)
def test_an_application_without_the_key_is_told(opened: Callable[..., StateBackend], call: str) -> None:
    use(opened(LOCKED), fill)
    with_key = use(opened(LOCKED), CALLS[call])
    assert SECRET in repr(with_key)
    with pytest.raises(SealedStateError) as caught:
        use(opened(), CALLS[call])
    assert (caught.value.code, caught.value.details["run_id"]) == ("LENS-S7", "r")


def test_what_is_in_clear_is_the_same_everywhere(opened: Callable[..., StateBackend], tmp_path: Path) -> None:
    use(opened(LOCKED), fill)
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert SECRET.encode() not in stored

    async def look(backend: StateBackend) -> None:
        for filtered in (RunFilter(), RunFilter(error="lost")):
            (run,) = [run async for run in backend.iter_runs(filtered)]
            assert (run.run_id, run.pipeline_name, run.error_message) == ("r", "orders", "lost")
        (evaluation,) = await backend.list_evaluations()
        assert {name: evaluation[name] for name in ("score", "feedback", "step_name", "metadata")} == {
            "score": 0.5,
            "feedback": "good",
            "step_name": "load",
            "metadata": {"by": "me"},
        }
        (listed,) = await backend.list_runs()
        assert (listed["status"], listed["total_cost"]) == ("failed", 0.5)

    use(opened(), look)


def test_an_operator_sees_marks(opened: Callable[..., StateBackend]) -> None:
    use(opened(LOCKED), fill)

    async def look(backend: StateBackend) -> None:
        detail = await backend.read_run("r")
        assert detail is not None
        assert detail.state is not None
        assert (detail.state["pipeline_context"], detail.state["last_step_output"]) == (SEALED, SEALED)
        assert (detail.final_output, detail.has_spans) == (SEALED, True)
        (step,) = detail.steps
        assert (step.step_name, step.cost_usd, step.output, step.input) == ("load", 0.5, SEALED, SEALED)
        (span,) = await backend.read_spans("r")
        assert (span.span_id, span.name, span.duration_ms, span.status) == ("a", "root", 1000.0, "completed")
        assert span.attributes == {"unreadable": SEALED}
        assert any("encrypted" in problem or "sealed" in problem for problem in detail.run.problems)
        assert SECRET not in repr(detail)

    use(opened(), look)


def test_one_sealed_run_hides_no_other(opened: Callable[..., StateBackend], caplog: pytest.LogCaptureFixture) -> None:
    async def both(backend: StateBackend) -> None:
        await backend.save_state("sealed", state(pipeline_context={"x": SECRET}))

    use(opened(LOCKED), both)
    use(opened(), lambda b: b.save_state("plain", state()))
    with caplog.at_level(logging.WARNING, "flujo_lens.state"):
        for status in (None, "completed"):
            found = use(opened(), lambda b, s=status: b.list_states(s))
            assert [one["run_id"] for one in found] == ["plain"]
    assert len(caplog.messages) == 2
    assert all("'sealed'" in message and "encrypted" in message for message in caplog.messages)
    caplog.clear()
    assert use(opened(), lambda b: b.list_states("failed")) == []
    assert caplog.messages == []
    found = use(opened(LOCKED), lambda b: b.list_states())
    assert sorted(one["run_id"] for one in found) == ["plain", "sealed"]
    ids = use(opened(), lambda b: b.find_run_ids(""))
    assert ids == ["plain", "sealed"]


def test_in_memory_too(caplog: pytest.LogCaptureFixture) -> None:
    backend = InMemoryBackend(envelope=LOCKED)

    async def main() -> None:
        await backend.save_state("sealed", state(pipeline_context={"x": SECRET}))
        backend.codec = InMemoryBackend().codec
        await backend.save_state("plain", state())
        assert [one["run_id"] for one in await backend.list_states()] == ["plain"]
        with pytest.raises(SealedStateError):
            await backend.load_state("sealed")

    asyncio.run(main())
    assert len(caplog.messages) == 1


# --- files


def files(tmp_path: Path, envelope: Envelope | None = None) -> FileBackend:
    return FileBackend(tmp_path / "states", cache_dir=tmp_path / "cache", envelope=envelope)


def test_a_file_that_does_not_parse_hides_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    use(files(tmp_path), lambda b: b.save_state("good", state()))
    (tmp_path / "states" / "torn.json").write_bytes(b'{"run_id": "torn", "sta')
    found = use(files(tmp_path), lambda b: b.list_states())
    assert [one["run_id"] for one in found] == ["good"]
    assert ["'torn'" in message and "torn.json" in message for message in caplog.messages] == [True]
    with pytest.raises(CorruptStoreError):
        use(files(tmp_path), lambda b: b.load_state("torn"))


def test_one_field_with_another_key_leaves_the_others(tmp_path: Path) -> None:
    codec = files(tmp_path, Envelope(keys=KeyRing({"lost": bytes(range(32))}))).codec.fields
    lost = codec.leaf("r", "pipeline_context", {"x": 1})
    use(files(tmp_path), lambda b: b.save_state("r", state(step_history=[{"name": "s", "success": True}])))
    path = tmp_path / "states" / "r.json"
    path.write_text(path.read_text().replace('"pipeline_context":{}', f'"pipeline_context":"{lost}"'))
    detail = use(files(tmp_path), lambda b: b.read_run("r"))
    assert detail is not None
    assert detail.state is not None
    assert detail.state["pipeline_context"] == SEALED
    assert [step.step_name for step in detail.steps] == ["s"]


def test_spans_that_were_replaced_are_missed_by_nobody(tmp_path: Path) -> None:
    use(files(tmp_path, LOCKED), fill)

    async def again(backend: StateBackend) -> None:
        await backend.save_spans("r", [{"span_id": "b", "name": "more", "start_time": 3.0}])
        with pytest.raises(SealedStateError):
            await backend.get_spans("r")
        await backend.save_spans("r", [{"span_id": "a", "name": "root", "start_time": 1.0}])
        assert [span["span_id"] for span in await backend.get_spans("r")] == ["a", "b"]

    use(files(tmp_path), again)
    use(files(tmp_path, LOCKED), lambda b: b.save_spans("r", [{"span_id": "c", "attributes": {"x": 1}}]))

    async def anew(backend: StateBackend) -> None:
        with pytest.raises(SealedStateError):
            await backend.get_spans("r")
        await backend.save_trace("r", {"span_id": "d", "name": "t", "start_time": 1.0})
        assert [span["span_id"] for span in await backend.get_spans("r")] == ["d"]

    use(files(tmp_path), anew)


def test_texts_that_look_sealed_come_back(tmp_path: Path) -> None:
    text = armour(wrap(b'"a trick"'))

    async def work(backend: StateBackend) -> None:
        await backend.save_step_result({"run_id": "r", "step_name": "s", "output": text, "error": text})
        await backend.persist_evaluation("r", 1.0, text, None, {"x": text})
        await backend.save_run_end("r", {"final_context": text, "error_message": text})
        await backend.set_system_state("k", text)  # type: ignore[arg-type]
        (step,) = await backend.list_run_steps("r")
        assert (step["output"], step["error"]) == (text, text)
        (evaluation,) = await backend.list_evaluations()
        assert (evaluation["feedback"], evaluation["metadata"]) == (text, {"x": text})
        details = await backend.get_run_details("r")
        assert details is not None
        assert (details["final_context"], details["error_message"]) == (text, text)
        assert (await backend.get_system_state("k") or {})["value"] == text

    use(files(tmp_path), work)
    use(files(tmp_path, LOCKED), lambda b: b.delete_run("r"))
    use(files(tmp_path, LOCKED), work)


def test_a_line_in_one_seal_is_read(tmp_path: Path) -> None:
    """As the first version wrote them."""
    codec = files(tmp_path, LOCKED).codec.fields
    (tmp_path / "states" / ".lens-history").mkdir(parents=True)
    span = {"span_id": "a", "name": "n", "start_time": 1.0, "end_time": None, "status": "running"}
    lines = [
        ("run_end", {"final_context": {"x": SECRET}}),
        ("step", {"output": SECRET}),
        ("spans", {"spans": [{**span, "parent_span_id": None, "attributes": {"x": SECRET}}]}),
        ("evaluation", {"feedback": "good"}),
    ]
    text = "".join(
        f'{{"run_id":"r","kind":"{kind}","at":"{AT}","data":"{codec.leaf("r", kind, data)}"}}\n' for kind, data in lines
    )
    (tmp_path / "states" / ".lens-history" / "r.ndjson").write_text(text)
    for call in ("get_spans", "get_run_details", "list_run_steps"):
        assert SECRET in repr(use(files(tmp_path, LOCKED), CALLS[call]))
        with pytest.raises(SealedStateError):
            use(files(tmp_path), CALLS[call])
    assert [row.feedback for row in use(files(tmp_path, LOCKED), lambda b: b.read_evaluations())] == ["good"]
    assert [row.score for row in use(files(tmp_path), lambda b: b.read_evaluations())] == [None]


def test_a_sealed_key_hides_no_other(tmp_path: Path) -> None:
    use(files(tmp_path, LOCKED), lambda b: b.set_system_state("sealed", {"x": SECRET}))
    use(files(tmp_path), lambda b: b.set_system_state("plain", {"n": 1}))
    entries = use(files(tmp_path), lambda b: b.read_system_state())
    assert [(entry.key, entry.value) for entry in entries] == [("plain", {"n": 1}), ("sealed", SEALED)]
    with pytest.raises(SealedStateError):
        use(files(tmp_path), lambda b: b.get_system_state("sealed"))
