"""Counts and durations; what applications list."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.groups import Grouping
from flujo_lens.state.sorting import sort_value
from flujo_lens.state.statistics import Stats
from flujo_lens.state.views import RunFilter
from flujo_lens.testing.harness import (
    Harness,
    by_pipeline,
    counted,
    document_ids,
    equal,
    near,
    on_nothing,
    on_samples,
    refuses,
)
from flujo_lens.testing.samples import FILTERS, plain_state


def _counts(stats: Stats) -> dict[Any, Any]:
    return {
        group.key: (group.total, dict(group.by_status), _rounded(group.cost_usd), group.tokens, group.trend)
        for group in stats.groups
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _figures(groups: Sequence[Any]) -> list[Any]:
    """Groups with their sums rounded: these depend on the order of adding."""
    return [replace(group, total_ms=round(group.total_ms, 3)) for group in groups]


class FigureChecks(Harness):
    """What `read_stats` gives, and the listing methods that return dicts."""

    # --- figures

    @on_samples
    async def test_stats_count_what_the_list_shows(self, backend: StateBackend) -> None:
        for wanted in FILTERS:
            runs = [run async for run in backend.iter_runs(wanted)]
            stats = await backend.read_stats(wanted)
            equal(stats.total, len(runs), f"read_stats({wanted}).total")
            equal(dict(stats.by_status), counted(run.status for run in runs), f"by_status of {wanted}")
            by_name = {p.pipeline_name: (p.total, dict(p.by_status)) for p in stats.by_pipeline}
            equal(by_name, by_pipeline(runs), f"by_pipeline of {wanted}")
            failed = [run for run in runs if run.status == "failed"]
            equal(sum(group.count for group in stats.failures), len(failed), f"failures of {wanted}")

    @on_samples
    async def test_groups_count_what_the_list_shows(self, backend: StateBackend) -> None:
        for by in (("pipeline", "version"), ("status", "day"), ("hour",), ("error",), ("step", "pipeline")):
            grouping = Grouping(by)
            for wanted in FILTERS:
                found = await backend.read_grouped_stats(wanted, grouping)
                tally = await StateBackend.read_grouped_stats(backend, wanted, grouping)
                equal(_counts(found), _counts(tally), f"groups by {by} of {wanted}")
                equal((found.by, found.total), (by, tally.total), f"what is grouped by, and the total of {wanted}")

    @on_samples
    async def test_figures_are_those_of_the_runs_one_by_one(self, backend: StateBackend) -> None:
        for wanted in FILTERS:
            found, scanned = await backend.read_stats(wanted), await StateBackend.read_stats(backend, wanted)
            equal(_figures(found.by_pipeline), _figures(scanned.by_pipeline), f"pipelines of {wanted}")
            equal(found.failures, scanned.failures, f"failures of {wanted}")
            pipelines = await backend.read_pipelines(wanted)
            equal(_figures(pipelines), _figures(scanned.by_pipeline), f"pipelines of {wanted} alone")
            spans = await backend.read_span_stats(wanted)
            equal(_figures(spans), _figures(await StateBackend.read_span_stats(backend, wanted)), f"spans of {wanted}")
            found = await backend.read_grouped_stats(wanted, Grouping(("version",)))
            scanned = await StateBackend.read_grouped_stats(backend, wanted, Grouping(("version",)))
            equal(
                [group.duration_ms for group in found.groups], [group.duration_ms for group in scanned.groups], "groups"
            )
            lights = {run.run_id async for run in backend.iter_runs(wanted, ordered=False, details=False)}
            equal(lights, {run.run_id async for run in backend.iter_runs(wanted)}, f"runs without details of {wanted}")

    @on_samples
    async def test_costs_are_the_sum_of_those_of_the_runs(self, backend: StateBackend) -> None:
        runs = [run async for run in backend.iter_runs(RunFilter())]
        stats = await backend.read_stats(RunFilter())
        costs = [run.cost_usd for run in runs if run.cost_usd is not None]
        near(stats.cost_usd or 0.0, sum(costs), "the cost of all runs")
        equal(stats.tokens or 0, sum(run.tokens or 0 for run in runs), "their tokens")

    @on_samples
    async def test_sort_values_are_those_of_the_runs(self, backend: StateBackend) -> None:
        for wanted in FILTERS:
            runs = {run.run_id: run async for run in backend.iter_runs(wanted)}
            for field in ("started", "updated", "duration", "cost", "tokens"):
                values = {run_id: value async for run_id, value in backend.iter_sort_values(wanted, field)}
                shown = {run_id: _rounded(sort_value(run, field)) for run_id, run in runs.items()}
                equal({run_id: _rounded(value) for run_id, value in values.items()}, shown, f"{field} of {wanted}")

    @on_samples
    async def test_activity_is_the_last_update_of_the_runs(self, backend: StateBackend) -> None:
        runs = [run async for run in backend.iter_runs(RunFilter())]
        times = sorted(run.updated_at for run in runs if run.updated_at is not None)
        middle = times[len(times) // 2]
        by_status = [RunFilter(statuses=frozenset({run.status})) for run in runs]
        recent = [wanted._replace(active_since=middle) for wanted in by_status]
        older = [wanted._replace(active_until=middle) for wanted in by_status]
        for wanted in dict.fromkeys((*FILTERS, *by_status, *recent, *older)):
            found, scanned = await backend.read_activity(wanted), await StateBackend.read_activity(backend, wanted)
            equal(sorted(found), sorted(scanned), f"read_activity({wanted})")
            listed = {run.run_id: run.updated_at async for run in backend.iter_runs(wanted)}
            equal(dict(found), listed, f"what read_activity({wanted}) has of the runs")

    @on_samples
    async def test_every_status_of_a_run(self, backend: StateBackend) -> None:
        shown = {run.status async for run in backend.iter_runs(RunFilter())}
        missing = shown - await backend.read_statuses()
        equal(missing, set(), "statuses that the list shows and read_statuses lacks")

    @on_samples
    async def test_failures_are_grouped_by_their_normalised_error(self, backend: StateBackend) -> None:
        stats = await backend.read_stats(RunFilter(statuses=frozenset({"failed"}), pipeline="payments"))
        (group,) = stats.failures
        actual = (group.error, group.count, group.step_name, group.sample_run_id)
        equal(actual, ("ValueError: card # declined", 1, "charge", "pay-1"), "the group")
        updated = next(s.expected["updated_at"] for s in self.samples if s.run_id == "pay-1")
        equal((group.first_at, group.last_at), (updated, updated), "its times")

    @on_samples
    async def test_durations_are_right_to_two_percent(self, backend: StateBackend) -> None:
        self._needs_history()
        stats = await backend.read_stats(RunFilter(pipeline="orders", statuses=frozenset({"completed"})))
        lengths = stats.by_pipeline[0].duration_ms
        near(lengths.avg, (2500.0 + 3000.0 + 4000.0) / 3, "the average")
        near(lengths.p50, 3000.0, "the median")
        near(lengths.p99, 4000.0, "the 99th percentile")

    @on_samples
    async def test_workflow_stats(self, backend: StateBackend) -> None:
        found = await backend.get_workflow_stats()
        runs = [run async for run in backend.iter_runs(RunFilter())]
        equal(found["total_workflows"], len(runs), "total_workflows")
        equal(found["status_counts"], counted(run.status for run in runs), "status_counts")
        equal(found["background_status_counts"], {"completed": 1, "failed": 1}, "background_status_counts")
        equal(found["recent_workflows_24h"], 2, "recent_workflows_24h")
        if not self.states_only:
            spent = 2500.0 + 3000.0 + 1000.0 + 4000.0 + 3000.0
            near(found["average_execution_time_ms"], spent / 5, "average_execution_time_ms, of the runs that ended")

    @on_nothing
    async def test_workflow_stats_of_nothing(self, backend: StateBackend) -> None:
        await backend.save_state("r", plain_state("r"))
        found = await backend.get_workflow_stats()
        equal((found["total_workflows"], found["status_counts"]), (1, {"running": 1}), "counts of one that runs")
        equal((found["average_execution_time_ms"], found["recent_workflows_24h"]), (0, 0), "its other figures")

    @on_samples
    async def test_workflow_stats_without_an_event_loop(self, backend: StateBackend) -> None:
        wanted = await backend.get_workflow_stats()
        equal(backend.get_workflow_stats_sync(), wanted, "get_workflow_stats_sync() inside a running loop")
        equal(await asyncio.to_thread(backend.get_workflow_stats_sync), wanted, "in a thread without one")

    # --- what applications list

    @on_samples
    async def test_runs_are_listed_as_dicts(self, backend: StateBackend) -> None:
        order = self._order()
        equal(document_ids(await backend.list_runs()), order, "list_runs()")
        equal(document_ids(await backend.list_runs(limit=3)), order[:3], "list_runs(limit=3)")
        equal(document_ids(await backend.list_runs(limit=3, offset=2)), order[2:5], "limit and offset")
        equal(document_ids(await backend.list_runs(offset=len(order))), [], "an offset past the end")
        paused = self._order(RunFilter(statuses=frozenset({"paused"})))
        equal(document_ids(await backend.list_runs(status="paused")), paused, 'list_runs(status="paused")')
        odd = self._order(RunFilter(pipeline="odd"))
        equal(document_ids(await backend.list_runs(pipeline_name="odd")), odd, 'list_runs(pipeline_name="odd")')
        for name in ("list_runs", "list_workflows", "list_background_tasks"):
            listing = getattr(backend, name)
            equal(await listing(limit=0), [], f"{name}(limit=0)")
            await refuses(listing(limit=-1), ValueError, f"{name}(limit=-1)")
            await refuses(listing(limit=1, offset=-1), ValueError, f"{name}(offset=-1)")
        one = await backend.list_runs(metadata_filter={"customer": "4711", "vip": True})
        equal(document_ids(one), ["order-1"], "list_runs(metadata_filter=...)")

    @on_samples
    async def test_workflows_are_listed_as_dicts(self, backend: StateBackend) -> None:
        order = self._order()
        found = await backend.list_workflows()
        equal(document_ids(found), order, "list_workflows()")
        equal(document_ids(await backend.list_workflows(limit=2, offset=1)), order[1:3], "limit and offset")
        failed = self._order(RunFilter(statuses=frozenset({"failed"})))
        equal(document_ids(await backend.list_workflows(status="failed")), failed, 'status="failed"')

    @on_samples
    async def test_the_details_of_a_run(self, backend: StateBackend) -> None:
        for sample in self.samples:
            found = await backend.get_run_details(sample.run_id) or {}
            names = ("run_id", "pipeline_name", "pipeline_version", "status")
            actual = {name: found.get(name) for name in names}
            equal(actual, {name: sample.expected[name] for name in names}, f"get_run_details({sample.run_id!r})")

    @on_samples
    async def test_the_steps_of_a_run_are_listed_by_index(self, backend: StateBackend) -> None:
        found = await backend.list_run_steps("order-1")
        actual = [(row["step_index"], row["step_name"], row["status"]) for row in found]
        equal({row["run_id"] for row in found}, {"order-1"}, "the run of the steps")
        equal(actual, [(0, "load", "completed"), (1, "pack", "completed"), (2, "price", "completed")], "the steps")

    @on_samples
    async def test_failed_workflows(self, backend: StateBackend) -> None:
        lately = await backend.get_failed_workflows(hours_back=24)
        equal(document_ids(lately), ["order-1_bg_2", "pay-1"], "get_failed_workflows(24)")
        equal([row["error_message"] for row in lately][1], "ValueError: card 4711 declined", "the error")
        equal(document_ids(await backend.get_failed_workflows(hours_back=0)), [], "get_failed_workflows(0)")

    @on_samples
    async def test_background_tasks(self, backend: StateBackend) -> None:
        both = ["order-1_bg_2", "order-1_bg_1"]
        equal(document_ids(await backend.list_background_tasks()), both, "list_background_tasks()")
        equal(document_ids(await backend.list_background_tasks("order-1")), both, "of their parent")
        equal(document_ids(await backend.list_background_tasks("order-2")), [], "of another")
        equal(document_ids(await backend.list_background_tasks(status="completed")), both[1:], "by status")
        equal(document_ids(await backend.list_background_tasks(limit=1, offset=1)), both[1:], "limit and offset")
        failed = await backend.get_failed_background_tasks(hours_back=1)
        equal(document_ids(failed), both[:1], "get_failed_background_tasks()")
        equal(failed[0]["background_error"], "smtp: connection refused", "its error")
        equal(await backend.get_failed_background_tasks("order-2"), [], "get_failed_background_tasks(parent)")
