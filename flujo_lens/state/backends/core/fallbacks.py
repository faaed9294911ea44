"""What operators read and cancel, by the application's half of the contract.

These are the defaults of `StateBackend`: they ask whichever listing methods a driver defines and apply the
shared rules. They hold all runs in memory to sort them, which is right for small drivers of others; ours
have their own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

from flujo_lens.errors import NotSupportedError
from flujo_lens.state import interpret
from flujo_lens.state.aggregate import aggregate_spans
from flujo_lens.state.backends.base import JSONObject, Position, StateBackend, overrides
from flujo_lens.state.backends.core.rows import cancelled, is_open
from flujo_lens.state.filtering import matches, sort_key
from flujo_lens.state.numbers import as_int, as_number
from flujo_lens.state.statistics import SpanStats
from flujo_lens.state.timestamps import parse_instant
from flujo_lens.state.traces import build_trees, flatten, span_rows, step_inputs
from flujo_lens.state.views import Evaluation, RunDetail, RunFilter, RunSummary, Span, StepRecord


async def iter_gathered(
    backend: StateBackend, wanted: RunFilter, *, after: Position | None, reverse: bool
) -> AsyncIterator[RunSummary]:
    """Runs by way of `list_runs`, `list_workflows` and `list_states`, whichever there are."""
    states, runs = await _listed(backend)
    found = []
    for run_id in {**states, **runs}:
        raw = interpret.raw_from_documents(run_id, states.get(run_id), runs.get(run_id))
        found.append(interpret.summarise(raw))
    for run in order_runs([run for run in found if matches(wanted, run)], after, reverse):
        yield run


async def _listed(backend: StateBackend) -> tuple[dict[str, JSONObject], dict[str, JSONObject]]:
    states: list[JSONObject] = []
    runs: list[JSONObject] = []
    has = {name for name in ("list_states", "list_workflows", "list_runs") if overrides(type(backend), name)}
    if not has:
        raise NotSupportedError.of(type(backend), "list_runs", "a list of runs")
    if "list_states" in has:
        states = await backend.list_states()
    elif "list_workflows" in has:
        states = await backend.list_workflows()
    if "list_runs" in has:
        runs = await backend.list_runs()
    return _by_id(states), _by_id(runs)


def _by_id(rows: Sequence[JSONObject]) -> dict[str, JSONObject]:
    return {str(row["run_id"]): row for row in rows if row.get("run_id") is not None}


def order_runs(runs: list[RunSummary], after: Position | None, reverse: bool) -> list[RunSummary]:
    """`runs` in keyset order, those behind `after` only."""
    ordered = sorted(runs, key=sort_key, reverse=not reverse)
    if after is None:
        return ordered
    border = sort_key(RunSummary(run_id=after[1], created_at=after[0]))
    return [run for run in ordered if (sort_key(run) > border) == reverse and sort_key(run) != border]


async def gather_run(backend: StateBackend, run_id: str) -> RunDetail | None:
    """One run by way of `load_state`, and of `get_run_details` and `list_run_steps` where there are any."""
    state = await backend.load_state(run_id)
    details = await backend.get_run_details(run_id) if overrides(type(backend), "get_run_details") else None
    if state is None and details is None:
        return None
    rows = await backend.list_run_steps(run_id) if overrides(type(backend), "list_run_steps") else []
    spans = await backend.get_spans(run_id) if overrides(type(backend), "get_spans") else []
    raw = interpret.raw_from_documents(run_id, state, details)
    run = interpret.summarise(raw)
    return RunDetail(
        run=run,
        steps=tuple(interpret.steps_of(raw, [step_of(row) for row in rows], step_inputs(span_rows(spans)))),
        state=state,
        pause=interpret.pause_of(raw, run.status),
        children=await _children(backend, run_id),
        final_output=None if state is None else state.get("last_step_output"),
        has_spans=bool(spans),
    )


async def _children(backend: StateBackend, run_id: str) -> tuple[RunSummary, ...]:
    """The background tasks of a run, oldest first, by way of `list_background_tasks`."""
    if not overrides(type(backend), "list_background_tasks"):
        return ()
    rows = await backend.list_background_tasks(run_id)
    found = [interpret.summarise(interpret.raw_from_documents(str(row["run_id"]), row)) for row in rows]
    return tuple(sorted(found, key=sort_key))


def step_of(row: JSONObject) -> StepRecord:
    """A step from a dict with the columns of any version's ``steps``."""
    error = row.get("error", row.get("error_message"))
    return StepRecord(
        step_index=as_int(row.get("step_index")),
        step_name=str(row.get("step_name") or "unknown"),
        status=str(row.get("status") or "completed"),
        output=row.get("output"),
        error=error if isinstance(error, str) else None,
        cost_usd=as_number(row.get("cost_usd", row.get("cost"))),
        token_counts=as_int(row.get("token_counts", row.get("tokens"))),
        duration_ms=as_number(row.get("execution_time_ms", row.get("duration_ms"))),
        created_at=parse_instant(row.get("created_at", row.get("end_time")), UTC),
        input=row.get("input"),
    )


async def gather_spans(backend: StateBackend, run_id: str) -> Sequence[Span]:
    """The span trees of a run by way of `get_spans`."""
    rows = span_rows(await backend.get_spans(run_id))
    start = None
    if overrides(type(backend), "get_run_details"):
        details: dict[str, Any] = await backend.get_run_details(run_id) or {}
        start = parse_instant(details.get("start_time") or details.get("created_at"))
    return build_trees(rows, start)


async def gather_span_stats(backend: StateBackend, wanted: RunFilter) -> tuple[SpanStats, ...]:
    """Spans by name, by way of `read_spans` of every run."""
    if not overrides(type(backend), "get_spans"):
        return ()
    trees = [await backend.read_spans(run.run_id) async for run in backend.iter_runs(wanted)]
    return aggregate_spans(flatten(roots) for roots in trees)


def evaluation_of(row: JSONObject) -> Evaluation:
    """An evaluation from a dict with the columns of ``evaluations``."""
    score = row.get("score")
    return Evaluation(
        run_id=str(row.get("run_id")),
        step_name=row.get("step_name"),
        score=float(score) if isinstance(score, int | float) else None,
        feedback=row.get("feedback"),
        metadata=row.get("metadata"),
        created_at=parse_instant(row.get("created_at")),
    )


# --- cancelling


async def cancel_gathered(backend: StateBackend, run_ids: Sequence[str], force: bool) -> list[str]:
    """`StateBackend.cancel_runs` by the other methods."""
    free = list(dict.fromkeys(run_ids)) if force else await _free(backend, run_ids)
    return [run_id for run_id in free if await _cancel(backend, run_id)]


async def _free(backend: StateBackend, run_ids: Sequence[str]) -> list[str]:
    now = datetime.now(UTC)
    try:
        claims = await backend.read_claims(run_ids)
    except NotSupportedError:
        claims = {}
    return [one for one in dict.fromkeys(run_ids) if one not in claims or claims[one].has_ended(now)]


async def _cancel(backend: StateBackend, run_id: str) -> bool:
    state = await backend.load_state(run_id)
    run = await backend.get_run_details(run_id) if overrides(type(backend), "get_run_details") else None
    if not is_open(state, run):
        return False
    now = datetime.now(UTC).isoformat()
    if state is not None:
        await backend.save_state(run_id, state | cancelled(now))
    if run is not None and overrides(type(backend), "save_run_end"):
        await backend.save_run_end(run_id, cancelled(now))
    return True
