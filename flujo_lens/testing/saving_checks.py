"""What `save_state` takes, and what `load_state` gives back."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import math
import uuid
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from unittest import SkipTest

from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.views import RunFilter
from flujo_lens.testing.harness import Harness, document_ids, equal, ids_of, on_nothing, refuses, with_texts
from flujo_lens.testing.samples import IDS, JSONObject, plain_state


class _Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class _Point:
    x: int
    on: date


class _Money:
    """A type that is not registered."""

    def __init__(self, cents: int) -> None:
        self.cents = cents


def _money(value: Any) -> Any:
    if isinstance(value, _Money):
        return {"cents": value.cents}
    raise TypeError(type(value).__name__)


def _model() -> Any:
    from pydantic import BaseModel

    class Order(BaseModel):
        number: int
        items: list[Decimal]

    return Order(number=7, items=[Decimal("1.50")])


def _rich() -> dict[str, tuple[Any, Any]]:
    """Values that JSON does not have, each with the form in which it comes back."""
    when = datetime(2026, 3, 1, 9, 0, 0, 125000, tzinfo=UTC)
    return {
        "datetime": (when, "2026-03-01T09:00:00.125000+00:00"),
        "date": (date(2026, 3, 1), "2026-03-01"),
        "time": (time(9, 30), "09:30:00"),
        "decimal": (Decimal("9.50"), "9.50"),
        "uuid": (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        "enum": (_Colour.RED, "red"),
        "set": ({"one"}, ["one"]),
        "tuple": ((1, (2, 3)), [1, [2, 3]]),
        "bytes": ("café".encode(), "café"),
        "bad bytes": (b"a\xff", "a\ufffd"),
        "nan": (math.nan, "nan"),
        "infinity": ([-math.inf], ["-inf"]),
        "complex": (1 + 2j, {"real": 1.0, "imag": 2.0}),
        "dataclass": (_Point(3, date(2026, 3, 1)), {"x": 3, "on": "2026-03-01"}),
        "model": (_model(), {"number": 7, "items": ["1.50"]}),
        "keys": ({1: "a", _Colour.RED: "b"}, {"1": "a", "red": "b"}),
        "text": ("漢字 \x00\x1b[31m\n[/x] '%_\"", "漢字 \x00\x1b[31m\n[/x] '%_\""),
        "numbers": ([0, -1, 2**53, 0.1, True, None], [0, -1, 2**53, 0.1, True, None]),
        "inside": ([{"deep": {"set": {Decimal("1")}}}], [{"deep": {"set": ["1"]}}]),
    }


class SavingChecks(Harness):
    """Saving, loading and deleting a state."""

    @on_nothing
    async def test_a_state_that_is_saved_is_loaded(self, backend: StateBackend) -> None:
        state = plain_state("r", pipeline_context={"n": 1}, step_history=[{"name": "load", "success": True}])
        await backend.save_state("r", state)
        loaded = with_texts(await backend.load_state("r"))
        equal({name: loaded.get(name) for name in state}, state, "load_state()")

    @on_nothing
    async def test_a_run_that_was_never_saved_is_none(self, backend: StateBackend) -> None:
        equal(await backend.load_state("r"), None, "load_state()")
        await backend.delete_state("r")

    @on_nothing
    async def test_a_state_takes_the_place_of_the_one_before(self, backend: StateBackend) -> None:
        first = plain_state("r", status="running", error_message="first", metadata={"a": 1}, last_step_output=[1])
        await backend.save_state("r", first)
        second = plain_state("r", status="paused", metadata={"b": 2})
        await backend.save_state("r", second)
        loaded = await backend.load_state("r") or {}
        names = ("status", "metadata", "error_message", "last_step_output")
        actual = {name: loaded.get(name) for name in names}
        equal(actual, {name: second[name] for name in names}, "the second state")

    @on_nothing
    async def test_a_run_that_is_saved_twice_is_listed_once(self, backend: StateBackend) -> None:
        for status in ("running", "completed"):
            await backend.save_state("r", plain_state("r", status=status))
        equal(await ids_of(backend.iter_runs(RunFilter())), ["r"], "the runs")
        equal([row["status"] for row in await backend.list_states()], ["completed"], "list_states()")

    @on_nothing
    async def test_what_is_saved_and_loaded_are_copies(self, backend: StateBackend) -> None:
        state = plain_state("r", metadata={"tags": ["a"]})
        await backend.save_state("r", state)
        state["metadata"]["tags"].append("b")
        for _ in range(2):
            loaded = await backend.load_state("r") or {}
            equal(loaded.get("metadata"), {"tags": ["a"]}, "the metadata")
            loaded["metadata"]["tags"].append("c")

    @on_nothing
    async def test_what_is_changed_after_the_call_has_no_part_in_it(self, backend: StateBackend) -> None:
        state = plain_state("r", metadata={"tags": ["a"]})
        saving = asyncio.ensure_future(backend.save_state("r", state))
        await asyncio.sleep(0)
        state["metadata"]["tags"].append("b")
        state["status"] = "failed"
        await saving
        loaded = await backend.load_state("r") or {}
        equal((loaded.get("status"), loaded.get("metadata")), ("running", {"tags": ["a"]}), "the state")

    @on_nothing
    async def test_values_that_json_lacks_come_back_in_their_json_form(self, backend: StateBackend) -> None:
        self._needs_rich_values()
        rich = _rich()
        context = {name: value for name, (value, _) in rich.items()}
        wanted = {name: form for name, (_, form) in rich.items()}
        fields: JSONObject = {"pipeline_context": context, "last_step_output": context, "metadata": context}
        await backend.save_state("r", plain_state("r", step_history=[{"output": context}], **fields))
        loaded = await backend.load_state("r") or {}
        for name in rich:
            equal(loaded["pipeline_context"].get(name), wanted[name], f"{name} in the context")
        for field in fields:
            equal(loaded[field], wanted, field)
        equal(loaded["step_history"], [{"output": wanted}], "step_history")

    @on_nothing
    async def test_an_output_may_be_anything(self, backend: StateBackend) -> None:
        outputs: tuple[Any, ...] = (None, "", "null", "1", 0, False, [], {}, "text", 2.5, ["a", None])
        for output in outputs:
            await backend.save_state("r", plain_state("r", last_step_output=output))
            loaded = await backend.load_state("r") or {}
            found = loaded.get("last_step_output")
            equal((found, type(found)), (output, type(output)), f"the output {output!r}")
            detail = await backend.read_run("r")
            final = detail.final_output if detail else "no run"
            equal((final, type(final)), (output, type(output)), f"the final output {output!r}")
            equal(detail.run.problems if detail else None, (), "the problems")

    @on_nothing
    async def test_times_may_be_texts_or_datetimes(self, backend: StateBackend) -> None:
        self._needs_rich_values()
        when = datetime(2026, 3, 1, 9, 0, tzinfo=UTC)
        await backend.save_state("r", {**plain_state("r"), "created_at": when, "updated_at": when})
        loaded = with_texts(await backend.load_state("r"))
        equal({loaded["created_at"], loaded["updated_at"]}, {when.isoformat()}, "the times")
        runs = [run async for run in backend.iter_runs(RunFilter())]
        equal([(run.created_at, run.updated_at) for run in runs], [(when, when)], "the run's times")

    @on_nothing
    async def test_a_state_without_times_was_saved_just_now(self, backend: StateBackend) -> None:
        if not self.complete:
            raise SkipTest("the driver keeps states as they are")
        before = datetime.now(UTC)
        await backend.save_state("r", {"status": "running", "created_at": None})
        (run,) = [run async for run in backend.iter_runs(RunFilter())]
        for name, when in (("created_at", run.created_at), ("updated_at", run.updated_at)):
            equal(when is not None and before <= when <= datetime.now(UTC), True, f"{name} is the time of the save")
        loaded = with_texts(await backend.load_state("r"))
        (listed,) = await backend.list_states()
        for name in ("created_at", "updated_at"):
            equal(listed.get(name), loaded.get(name), f"{name} of list_states()")

    @on_nothing
    async def test_a_field_that_is_not_known_is_kept_or_dropped(self, backend: StateBackend) -> None:
        """Either is right; but it does not harm the rest, and it is not kept in part."""
        extra = {"of": ["acme", {"n": 1}]}
        await backend.save_state("r", plain_state("r", acme_field=extra, metadata={"n": 1}))
        loaded = await backend.load_state("r") or {}
        equal(loaded.get("acme_field", extra), extra, "the unknown field")
        equal((loaded["status"], loaded["metadata"]), ("running", {"n": 1}), "the rest")

    @on_nothing
    async def test_a_state_may_be_next_to_nothing(self, backend: StateBackend) -> None:
        await backend.save_state("r", {})
        equal(await backend.load_state("r") is None, False, "load_state() of an empty state")
        await backend.delete_state("r")
        equal(await backend.load_state("r"), None, "load_state() after delete_state()")

    @on_nothing
    async def test_any_text_is_a_run_id(self, backend: StateBackend) -> None:
        for at, run_id in enumerate(IDS):
            await backend.save_state(run_id, plain_state(run_id, metadata={"at": at}))
        for at, run_id in enumerate(IDS):
            loaded = await backend.load_state(run_id) or {}
            equal((loaded.get("run_id"), loaded.get("metadata")), (run_id, {"at": at}), f"the state of {run_id!r}")
        for at, run_id in enumerate(IDS):
            await backend.delete_state(run_id)
            equal(await backend.load_state(run_id), None, f"load_state({run_id!r}) after delete_state()")
            for other in IDS[at + 1 :]:
                equal(await backend.load_state(other) is None, False, f"{other!r} is gone with {run_id!r}")

    @on_nothing
    async def test_any_text_is_listed_as_it_is(self, backend: StateBackend) -> None:
        for run_id in IDS:
            await backend.save_state(run_id, plain_state(run_id))
        equal(sorted(await ids_of(backend.iter_runs(RunFilter()))), sorted(IDS), "iter_runs()")
        equal(sorted(document_ids(await backend.list_states())), sorted(IDS), "list_states()")
        equal(sorted(document_ids(await backend.list_runs())), sorted(IDS), "list_runs()")
        for run_id in IDS:
            equal((await backend.get_run_details(run_id) or {}).get("run_id"), run_id, f"the details of {run_id!r}")

    @on_nothing
    async def test_an_id_that_some_engines_do_not_keep_is_refused(self, backend: StateBackend) -> None:
        """It has a NUL or a lone surrogate: it is not cut short, not changed, and finds no other run."""
        self._needs_rich_values()
        wanted = ["half \ufffd", "nul"]
        for run_id in wanted:
            await backend.save_state(run_id, plain_state(run_id))
        for run_id in ("nul\x00inside", "half \ud83d"):
            await refuses(backend.save_state(run_id, plain_state("r")), ValueError, f"save_state({run_id!r}, ...)")
            equal(await backend.load_state(run_id), None, f"load_state({run_id!r})")
            await backend.delete_state(run_id)
        found = [run_id for run_id in wanted if await backend.load_state(run_id) is not None]
        equal(found, wanted, "the states")
        equal(sorted(await ids_of(backend.iter_runs(RunFilter()))), wanted, "iter_runs()")

    @on_nothing
    async def test_a_page_that_cannot_be_is_refused(self, backend: StateBackend) -> None:
        await backend.save_state("r", plain_state("r"))
        await refuses(backend.query_runs(RunFilter(), limit=-1), ValueError, "query_runs(limit=-1)")
        await refuses(backend.find_run_ids("r", -1), ValueError, "find_run_ids(limit=-1)")
        await refuses(backend.list_runs(limit=-1), ValueError, "list_runs(limit=-1)")
        await refuses(backend.list_runs(offset=-1), ValueError, "list_runs(offset=-1)")

    @on_nothing
    async def test_what_is_no_text_is_no_run_id(self, backend: StateBackend) -> None:
        self._needs_rich_values()
        wrong: Any = 7
        await refuses(backend.save_state(wrong, plain_state("r")), TypeError, "save_state(7, ...)")
        missing: Any = None
        await refuses(backend.save_state(missing, plain_state("r")), ValueError, "save_state(None, ...)")

    @on_nothing
    async def test_two_hundred_runs(self, backend: StateBackend) -> None:
        wanted = [f"run-{at:03}" for at in range(200)]
        for at, run_id in enumerate(wanted):
            status = "failed" if at % 10 == 0 else "completed"
            await backend.save_state(run_id, plain_state(run_id, status=status, metadata={"at": at}))
        for at, run_id in enumerate(wanted):
            equal((await backend.load_state(run_id) or {}).get("metadata"), {"at": at}, f"the state of {run_id}")
        equal(sorted(document_ids(await backend.list_states())), wanted, "list_states()")
        paged = [row for at in range(0, 250, 50) for row in await backend.list_runs(limit=50, offset=at)]
        equal(sorted(document_ids(paged)), wanted, "list_runs() page by page")
        equal((await backend.get_workflow_stats())["status_counts"], {"completed": 180, "failed": 20}, "the counts")

    @on_nothing
    async def test_a_large_state(self, backend: StateBackend) -> None:
        context = {"text": "漢字 and ascii " * 60_000, "numbers": list(range(20_000))}
        await backend.save_state("r", plain_state("r", pipeline_context=context))
        equal((await backend.load_state("r") or {}).get("pipeline_context") == context, True, "it is the same")

    def test_a_serializer_of_ones_own(self) -> None:
        async def check() -> None:
            async with await self.new_backend_with(_money) as backend:
                state = plain_state("r", pipeline_context={"paid": _Money(950), "all": [_Money(1)]})
                await backend.save_state("r", state)
                loaded = await backend.load_state("r") or {}
                wanted = {"paid": {"cents": 950}, "all": [{"cents": 1}]}
                equal(loaded["pipeline_context"], wanted, "what serializer_default made")

        asyncio.run(check())
