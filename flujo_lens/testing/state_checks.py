"""States, evaluations and system state: what goes in comes out."""

from __future__ import annotations

from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.views import RunFilter
from flujo_lens.testing.harness import Harness, document_ids, equal, ids_of, on_nothing, on_samples, with_texts
from flujo_lens.testing.samples import EVALUATIONS, SYSTEM


class StateChecks(Harness):
    """What is saved is loaded."""

    # --- states

    @on_samples
    async def test_a_state_comes_back_as_it_was_saved(self, backend: StateBackend) -> None:
        for sample in self.samples:
            loaded = await backend.load_state(sample.run_id)
            if sample.state is None:
                equal(loaded, None, f"the state of {sample.run_id}")
            else:
                found = {name: with_texts(loaded).get(name) for name in sample.state}
                equal(found, sample.state, f"the state of {sample.run_id}")

    @on_samples
    async def test_an_unknown_run_is_none(self, backend: StateBackend) -> None:
        for run_id in ("order", "ORDER-1", "order-1%", "order-10", "", "../order-1"):
            equal(await backend.load_state(run_id), None, f"load_state({run_id!r})")
            equal(await backend.read_run(run_id), None, f"read_run({run_id!r})")
            equal(await backend.get_run_details(run_id), None, f"get_run_details({run_id!r})")
            equal(list(await backend.list_run_steps(run_id)), [], f"list_run_steps({run_id!r})")
            equal(list(await backend.read_spans(run_id)), [], f"read_spans({run_id!r})")
            equal(await backend.get_trace(run_id), None, f"get_trace({run_id!r})")

    @on_samples
    async def test_states_are_listed_the_last_saved_first(self, backend: StateBackend) -> None:
        saved = [s for s in reversed(self.samples) if s.state is not None]
        equal(document_ids(await backend.list_states()), [s.run_id for s in saved], "list_states()")
        for status in ("running", "completed", "failed", "no such status"):
            wanted = [s.run_id for s in saved if s.state and s.state["status"] == status]
            equal(document_ids(await backend.list_states(status)), wanted, f"list_states({status!r})")

    @on_nothing
    async def test_a_store_without_runs(self, backend: StateBackend) -> None:
        await backend.save_state("r", {"run_id": "r", "status": "running"})
        await backend.delete_state("r")
        await backend.delete_state("r")
        equal(list(await backend.list_states()), [], "list_states()")
        equal(await ids_of(backend.iter_runs(RunFilter())), [], "iter_runs()")
        page = await backend.query_runs(RunFilter())
        equal((page.items, page.next), ((), None), "query_runs()")
        equal(await backend.count_runs(RunFilter()), 0, "count_runs()")
        stats = await backend.read_stats(RunFilter())
        equal((stats.total, dict(stats.by_status), stats.failures), (0, {}, ()), "read_stats()")

    # --- evaluations, system state

    @on_samples
    async def test_evaluations_come_newest_first(self, backend: StateBackend) -> None:
        self._needs_history()
        found = await backend.read_evaluations()
        fields = ("run_id", "score", "feedback", "step_name", "metadata")
        actual = [{name: getattr(row, name) for name in fields} for row in found]
        equal(actual, list(EVALUATIONS[::-1]), "read_evaluations()")
        equal(all(row.created_at is not None for row in found), True, "each has a time")
        of_one = [row.score for row in await backend.read_evaluations("order-1")]
        equal(of_one, [0.5, 0.25], 'read_evaluations("order-1")')
        equal([row.score for row in await backend.read_evaluations(limit=1)], [0.5], "the limit")
        listed = await backend.list_evaluations(limit=2)
        equal([{name: row[name] for name in fields} for row in listed], list(EVALUATIONS[:0:-1]), "list_evaluations()")
        equal([row["score"] for row in await backend.list_evaluations(run_id="order-2")], [1.0], "of one run")

    @on_samples
    async def test_system_state(self, backend: StateBackend) -> None:
        self._needs_history()
        await backend.set_system_state("lease", {"owner": "me"})
        entries = await backend.read_system_state()
        equal([(e.key, e.value) for e in entries], [("lease", {"owner": "me"}), SYSTEM[0]], "read_system_state()")
        equal(all(e.updated_at is not None for e in entries), True, "each has a time")
        found = await backend.get_system_state("watermark:crm") or {}
        equal((found.get("key"), found.get("value")), SYSTEM[0], "get_system_state()")
        equal(await backend.get_system_state("watermark"), None, "get_system_state() of no key")
