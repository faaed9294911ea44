"""The SQL of statistics, by name. Aliases are those of `queries`; ``p`` is ``spans``."""

from __future__ import annotations

from flujo_lens.state.backends.sqlite.reads import queries
from flujo_lens.state.backends.sqlite.schema.shape import Shape
from flujo_lens.state.views import UNREADABLE

_WS, _RUNS = "workflow_state", "runs"


def note_odd_states() -> tuple[str, ...]:
    """Fill ``temp.odd`` with the states that are not completed: row, status and run."""
    return (
        "CREATE TEMP TABLE IF NOT EXISTS odd (id INTEGER PRIMARY KEY, status TEXT, run_id TEXT)",
        "CREATE INDEX IF NOT EXISTS temp.odd_runs ON odd (run_id, status)",
        "DELETE FROM temp.odd",
        *(
            f"INSERT INTO temp.odd SELECT rowid, status, run_id FROM {_WS} WHERE status {comparison} 'completed'"
            for comparison in ("<", ">")
        ),
    )


def plain_runs(shape: Shape) -> str:
    """Runs with a name of their own and a status beyond doubt: what statistics are made of, one row a run.

    The columns: id, name, version, status, start, end, length in milliseconds where it is stored. Whether there is a
    state matters only where it can say something else than the run, so most states are not looked up.
    """
    there = f"CASE WHEN EXISTS (SELECT 1 FROM {_WS} x WHERE x.run_id = r.run_id) THEN 'completed' END"
    of_state = (
        "CASE WHEN o.run_id IS NOT NULL THEN NULLIF(o.status, '') "
        f"WHEN r.status = 'completed' THEN r.status ELSE {there} END"
    )
    source = "FROM runs r LEFT JOIN temp.odd o ON o.run_id = r.run_id"
    return f"SELECT {_plain_run(shape, of_state)} {source} WHERE {_is_plain('o.status')}"


MOST_STEPS = 16
"""The longest step history whose costs SQLite reads; longer ones are decoded."""


def plain_states(shape: Shape) -> str:
    """The plain runs that have a state, in the order of the states: to seek each by its id takes six times as long.

    The columns: those of `plain_runs`, then the costs of all steps and the tokens of all steps as one JSON array. It is
    NULL where a history is sealed, cannot be parsed, or has more than `MOST_STEPS` entries.
    """
    of_state = "NULLIF(COALESCE(o.status, 'completed'), '')"
    costs = _step_costs(shape.col(_WS, "s", "step_history"))
    states = f"FROM {_WS} s NOT INDEXED CROSS JOIN runs r ON r.run_id = s.run_id"
    return (
        f"SELECT {_plain_run(shape, of_state)}, {costs} {states} LEFT JOIN temp.odd o ON o.id = s.rowid "
        f"WHERE {_is_plain('o.status')}"
    )


def _step_costs(history: str) -> str:
    """SQL for the costs and tokens of a step history.

    SQLite keeps the parsed history for all functions of a row, and skips what is not asked for: contexts and outputs,
    which are most of it, never become values.
    """
    cases = " ".join(f"WHEN {count} THEN json_extract({history}, {_cost_paths(count)})" for count in _STEPS)
    found = f"CASE json_array_length({history}) {cases} END"
    return f"CASE WHEN typeof({history}) = 'text' AND json_valid({history}) THEN {found} END"


_STEPS = range(1, MOST_STEPS + 1)


def _cost_paths(count: int) -> str:
    return ", ".join(f"'$[{at}].{key}'" for key in ("cost_usd", "token_counts") for at in range(count))


def plain_runs_alone(shape: Shape) -> str:
    """The plain runs that have no state, with the columns of `plain_runs`, and their cost and tokens."""
    alone = queries.difference(shape, _RUNS, _WS)
    joined = f"FROM ({alone}) b CROSS JOIN runs r ON r.run_id = b.run_id"
    stored = queries.Side(shape, _RUNS, "r", True)("total_cost")
    costs = ", ".join(queries.costs_without("NULL", stored, shape, "r.run_id"))
    return f"SELECT {_plain_run(shape, 'NULL')}, {costs} {joined} WHERE {_is_plain('NULL')}"


def _plain_run(shape: Shape, of_state: str) -> str:
    """The columns of `plain_runs`; `of_state` is the status that the state says, or NULL."""
    r = queries.Side(shape, _RUNS, "r", True)
    start, end = r.first(*queries.start_columns(shape)), r.first("end_time", "updated_at")
    return (
        f"r.run_id, r.pipeline_name, {r('pipeline_version')}, "
        f"COALESCE({of_state}, NULLIF(r.status, ''), '{UNREADABLE}'), {start}, {end}, "
        f"{_sensible(r('execution_time_ms'))}"
    )


def _is_plain(state: str) -> str:
    """SQL for whether a run is plain; `state` is the status of a state that is not completed, else NULL."""
    doubtful = queries.doubtful(state, "r.status")
    return f"r.run_id IS NOT NULL AND r.pipeline_name NOT IN {queries.NO_NAME} AND NOT COALESCE({doubtful}, 0)"


def odd_runs(shape: Shape) -> str:
    """Ids of the runs that `plain_runs` leaves out."""
    return (
        f"SELECT run_id FROM runs WHERE pipeline_name IN {queries.NO_NAME} "
        "UNION SELECT r.run_id FROM temp.odd o CROSS JOIN runs r ON r.run_id = o.run_id "
        f"WHERE {queries.doubtful('o.status', 'r.status')} "
        f"UNION SELECT run_id FROM ({queries.difference(shape, _WS, _RUNS)})"
    )


def span_lengths(source: str) -> str:
    """Spans (``p`` in the source), each with name, status and duration."""
    return f"SELECT p.name, {_SPAN_STATUS}, {_span_ms()} FROM {source}"


_SPAN_STATUS = "COALESCE(NULLIF(p.status, ''), 'running')"


def _span_ms() -> str:
    return _sensible("((p.end_time - p.start_time) * 1000.0)")


def _sensible(ms: str) -> str:
    """SQL for a length in milliseconds; NULL for an infinity, and for a text (which is greater than any number)."""
    return f"CASE WHEN {ms} < 1e15 THEN {ms} END"
