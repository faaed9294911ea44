"""Several at once: tasks, threads with event loops of their own, backends on one store. And the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any
from unittest import SkipTest

from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.views import RunFilter
from flujo_lens.testing.harness import Harness, equal, ids_of, on_nothing, on_samples, with_texts
from flujo_lens.testing.samples import plain_state


async def _in_threads(work: Callable[[int], Coroutine[Any, Any, None]], count: int) -> None:
    """Run `work` so many times at once, each in a thread with an event loop of its own."""
    await asyncio.gather(*(asyncio.to_thread(asyncio.run, work(number)) for number in range(count)))


class SharingChecks(Harness):
    """Concurrent writers lose and mix nothing."""

    @on_nothing
    async def test_of_saves_at_once_one_is_there_whole(self, backend: StateBackend) -> None:
        def state(number: int) -> dict[str, Any]:
            parts: dict[str, Any] = {"metadata": {"n": number}, "pipeline_context": {"n": [number] * 200}}
            return plain_state("r", current_step_index=number, **parts)

        for _ in range(5):
            await asyncio.gather(*(backend.save_state("r", state(number)) for number in range(10)))
            loaded = with_texts(await backend.load_state("r"))
            wanted = state(loaded["current_step_index"])
            equal({name: loaded.get(name) for name in wanted}, wanted, "the state")

    @on_nothing
    async def test_saves_of_many_runs_at_once(self, backend: StateBackend) -> None:
        ids = [f"run-{at}" for at in range(50)]
        await asyncio.gather(*(backend.save_state(i, plain_state(i, metadata={"of": i})) for i in ids))
        loaded = await asyncio.gather(*(backend.load_state(i) for i in ids))
        equal([(state or {}).get("metadata") for state in loaded], [{"of": i} for i in ids], "the states")

    @on_nothing
    async def test_history_written_at_once(self, backend: StateBackend) -> None:
        self._needs_history()
        await backend.save_run_start({"run_id": "r"})
        steps = [{"run_id": "r", "step_name": f"s{at}", "step_index": at, "output": at} for at in range(30)]
        spans = [{"span_id": str(at), "name": "s", "start_time": float(at)} for at in range(30)]
        await asyncio.gather(
            *(backend.save_step_result(step) for step in steps),
            *(backend.save_spans("r", [span]) for span in spans),
            *(backend.persist_evaluation("r", at / 10) for at in range(10)),
            *(backend.set_system_state(f"key {at}", {"at": at}) for at in range(10)),
        )
        equal([row["output"] for row in await backend.list_run_steps("r")], list(range(30)), "the steps")
        equal([row["span_id"] for row in await backend.get_spans("r")], [str(at) for at in range(30)], "the spans")
        equal(len(await backend.list_evaluations()), 10, "the number of evaluations")
        equal(len(await backend.read_system_state()), 10, "the number of keys")

    @on_nothing
    async def test_readers_see_a_whole_state_while_it_is_saved(self, backend: StateBackend) -> None:
        await backend.save_state("r", plain_state("r", current_step_index=0, metadata={"n": 0}))

        async def save() -> None:
            for number in range(1, 20):
                await backend.save_state("r", plain_state("r", current_step_index=number, metadata={"n": number}))

        async def read() -> None:
            for _ in range(20):
                state = await backend.load_state("r") or {}
                equal(state.get("metadata"), {"n": state.get("current_step_index")}, "what was read during the writes")

        await asyncio.gather(save(), read(), read())

    @on_nothing
    async def test_threads_with_event_loops_of_their_own(self, backend: StateBackend) -> None:
        self._needs_many_loops()

        async def work(number: int) -> None:
            for at in range(10):
                run_id = f"{number}-{at}"
                await backend.save_state(run_id, plain_state(run_id, metadata={"of": run_id}))
                await backend.save_state("shared", plain_state("shared", metadata={"of": number}))
                equal((await backend.load_state(run_id) or {})["metadata"], {"of": run_id}, run_id)

        await _in_threads(work, 4)
        for run_id in [f"{number}-{at}" for number in range(4) for at in range(10)]:
            equal((await backend.load_state(run_id) or {}).get("metadata"), {"of": run_id}, f"the state of {run_id}")

    @on_nothing
    async def test_threads_that_write_and_list(self, backend: StateBackend) -> None:
        self._needs_many_loops()
        self._needs_history()

        async def work(number: int) -> None:
            await backend.save_run_start({"run_id": f"r{number}", "pipeline_name": "p"})
            for at in range(5):
                step = {"run_id": f"r{number}", "step_name": f"s{at}", "step_index": at}
                await backend.save_step_result(step)
                equal(f"r{number}" in await ids_of(backend.iter_runs(RunFilter())), True, "its own run is listed")

        await _in_threads(work, 4)
        for number in range(4):
            steps = [row["step_name"] for row in await backend.list_run_steps(f"r{number}")]
            equal(steps, [f"s{at}" for at in range(5)], f"the steps of r{number}")

    def _needs_many_loops(self) -> None:
        if not self.many_loops:
            raise SkipTest("a backend of this driver belongs to one event loop")

    # --- a second backend on the store

    @on_samples
    async def test_another_backend_sees_what_was_saved(self, backend: StateBackend) -> None:
        async with await self.reopen() as other:
            for sample in self.samples:
                mine, theirs = await backend.read_run(sample.run_id), await other.read_run(sample.run_id)
                equal(theirs, mine, f"read_run({sample.run_id!r})")
                equal(await other.load_state(sample.run_id), await backend.load_state(sample.run_id), "load_state()")
                equal(await other.get_run_details(sample.run_id), await backend.get_run_details(sample.run_id), "it")
            if not self.states_only:
                equal(await other.get_trace("order-1"), await backend.get_trace("order-1"), "get_trace()")
                equal(await other.list_evaluations(), await backend.list_evaluations(), "list_evaluations()")
                equal(await other.read_system_state(), await backend.read_system_state(), "read_system_state()")

    @on_nothing
    async def test_two_backends_on_one_store(self, backend: StateBackend) -> None:
        async with await self.reopen() as other:
            for number, writer, reader in ((1, backend, other), (2, other, backend), (3, backend, other)):
                await writer.save_state("r", plain_state("r", metadata={"n": number}))
                equal((await reader.load_state("r") or {}).get("metadata"), {"n": number}, "what the other sees")
            await other.delete_state("r")
            equal(await backend.load_state("r"), None, "load_state() after the other deleted it")

    @on_nothing
    async def test_what_was_saved_outlives_the_backend(self, backend: StateBackend) -> None:
        await backend.save_state("r", plain_state("r", metadata={"n": 1}))
        await backend.shutdown()
        async with await self.reopen() as other:
            equal((await other.load_state("r") or {}).get("metadata"), {"n": 1}, "the state")

    # --- the end

    @on_nothing
    async def test_a_backend_is_its_own_context(self, backend: StateBackend) -> None:
        async with backend as entered:
            equal(entered is backend, True, "`async with` gives the backend")
            await entered.save_state("r", plain_state("r"))

    @on_samples
    async def test_shutdown_may_be_called_twice(self, backend: StateBackend) -> None:
        await backend.shutdown()
        await backend.shutdown()
        await backend.close()

    @on_nothing
    async def test_shutdown_of_a_backend_that_did_nothing(self, backend: StateBackend) -> None:
        await backend.shutdown()
