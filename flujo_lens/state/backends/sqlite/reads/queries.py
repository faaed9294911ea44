"""The SQL that reads, by name. Written for the columns that a `Shape` says are there.

Aliases: ``s`` is ``workflow_state``, ``r`` is ``runs``. The column lists are in the order of the fields of
`flujo_lens.state.interpret.RawRun`, which rows become at once.
"""

from __future__ import annotations

from collections.abc import Sequence

from flujo_lens.state.backends.sqlite.schema.shape import Shape

NO_NAME = "('unknown', '')"
READABLE = "[0-9][0-9][0-9][0-9]-[0-1][0-9]-[0-3][0-9]*"
"""GLOB for a text that begins with a date."""

_WS, _RUNS = "workflow_state", "runs"


def marks(values: Sequence[object]) -> str:
    """``(?, ?, ?)`` for as many values."""
    return f"({', '.join('?' * len(values))})"


def doubtful(state: str, run: str) -> str:
    """SQL for whether two statuses leave open which is meant; what `interpret.status_of` then reads tells.

    Args:
        state: SQL for the status of the state.
        run: SQL for that of the row of ``runs``; NULL where there is none.
    """
    return f"(({state} = 'failed' AND {run} = 'completed') OR {failed_again(state, run)})"


def failed_again(state: str, run: str) -> str:
    """SQL for whether a state that says paused may be of a run that failed."""
    return f"({state} = 'paused' AND COALESCE(NULLIF({run}, ''), 'failed') = 'failed')"


def start_columns(shape: Shape) -> list[str]:
    """The columns of ``runs`` that hold a start, the one to be believed first.

    A 0.4.35 file that 0.6.11 has opened has both, with an empty ``created_at`` in the old rows.
    """
    return [column for column in ("start_time", "created_at") if shape.has(_RUNS, column)]


def run_columns(shape: Shape, run_id: str, *, state: bool, run: bool, details: bool, costs: bool = False) -> str:
    """The select list for a `RawRun`.

    Args:
        shape: The columns that there are.
        run_id: SQL for the run's id.
        state: Whether ``s`` is joined; else its columns are NULL.
        run: Whether ``r`` is joined.
        details: Whether blobs are wanted. Without, the step history is read only where status or duration depend on it.
        costs: Whether cost and tokens are wanted, for which the step history is read.
    """
    s = Side(shape, _WS, "s", state and shape.has(_WS))
    r = Side(shape, _RUNS, "r", run and shape.has(_RUNS))
    root, *rare = _rare_columns(shape, run_id, s, r, details)
    rare += _stored_costs(shape, run_id, s, r) if details or costs else ("NULL", "NULL")
    plain = [run_id, *_plain_columns(s, r), root, *_time_columns(s, r), *_number_columns(s, r)]
    return ", ".join([*plain, *_blob_columns(s, r, details, costs), *rare])


class Side:
    """One of the two tables in a query, or its absence."""

    def __init__(self, shape: Shape, table: str, alias: str, there: bool) -> None:
        self.shape, self.table, self.alias, self.there = shape, table, alias, there

    def __call__(self, column: str) -> str:
        return self.shape.col(self.table, self.alias, column) if self.there else "NULL"

    def first(self, *columns: str) -> str:
        return self.shape.pick(self.table, self.alias, *columns) if self.there else "NULL"

    @property
    def exists(self) -> str:
        return f"{self.alias}.run_id IS NOT NULL" if self.there else "0"


def _plain_columns(s: Side, r: Side) -> list[str]:
    return [
        s.exists,
        r.exists,
        s.first("status"),
        r.first("status"),
        s("pipeline_name"),
        s("pipeline_version"),
        r("pipeline_name"),
        r("pipeline_version"),
    ]


def _time_columns(s: Side, r: Side) -> list[str]:
    return [
        s("created_at"),
        s("updated_at"),
        r.first("start_time", "created_at"),
        r.first("updated_at"),
        r.first("end_time"),
    ]


def _number_columns(s: Side, r: Side) -> list[str]:
    return [
        s("current_step_index"),
        s("total_steps"),
        r("total_steps"),
        s("error_message"),
        r("error_message"),
        s("execution_time_ms"),
        r("execution_time_ms"),
        s("is_background_task"),
        s("parent_run_id"),
        s("task_id"),
        s("background_error"),
    ]


def _blob_columns(s: Side, r: Side, details: bool, costs: bool) -> list[str]:
    """metadata, context, history, last_output."""
    unclear = doubtful(s("status"), r.first("status"))
    if not details:
        alone = f"NOT ({r.exists})"
        context = f"CASE WHEN {failed_again(s('status'), r.first('status'))} THEN {s('pipeline_context')} END"
        history = s("step_history") if costs else f"CASE WHEN {unclear} OR {alone} THEN {s('step_history')} END"
        return ["NULL", context, history, "NULL"]
    is_explained = f"{s('status')} = 'failed' AND length({s('step_history')}) > 2 AND NOT COALESCE({unclear}, 0)"
    unneeded = f"{s('status')} = 'completed' OR ({is_explained})"
    context = f"CASE WHEN NOT COALESCE({unneeded}, 0) THEN {s('pipeline_context')} END"
    return [s("metadata"), context, s("step_history"), "NULL"]


def _rare_columns(shape: Shape, run_id: str, s: Side, r: Side, details: bool) -> list[str]:
    """root_attributes; then failed_step, failed_step_error, open_span: looked up only where needed."""
    nameless = f"COALESCE({r('pipeline_name')}, '') IN {NO_NAME} AND COALESCE({s('pipeline_name')}, '') IN {NO_NAME}"
    no_history = f"{s('step_history')} IS NULL AND COALESCE({s('status')}, {r('status')}) = 'failed'"
    stands = (
        f"{s('status')} IN ('paused', 'running', 'cancelled') OR "
        f"({s('status')} = 'failed' AND {r('status')} = 'completed')"
    )
    step = f"FROM steps WHERE run_id = {run_id} AND status = 'failed' ORDER BY step_index DESC LIMIT 1"
    has_steps = shape.has("steps", "run_id", "status", "step_name", "step_index")
    has_spans = shape.has("spans", "parent_span_id", "name", "start_time", "end_time", "attributes")
    root = f"(SELECT attributes FROM spans WHERE run_id = {run_id} AND parent_span_id IS NULL LIMIT 1)"
    still_open = (
        f"(SELECT name FROM spans WHERE run_id = {run_id} AND end_time IS NULL AND parent_span_id IS NOT NULL "
        "ORDER BY start_time DESC LIMIT 1)"
    )
    error = shape.col("steps", "steps", "error_blob")
    return [
        f"CASE WHEN {nameless} THEN {root} END" if has_spans else "NULL",
        f"CASE WHEN {no_history} THEN (SELECT step_name {step}) END" if has_steps else "NULL",
        f"CASE WHEN {no_history} THEN (SELECT {error} {step}) END" if has_steps and details else "NULL",
        f"CASE WHEN {stands} THEN {still_open} END" if has_spans and details else "NULL",
    ]


def _stored_costs(shape: Shape, run_id: str, s: Side, r: Side) -> tuple[str, str]:
    return costs_without(s("step_history"), r("total_cost"), shape, run_id)


def costs_without(history: str, cost: str, shape: Shape, run_id: str) -> tuple[str, str]:
    """Cost and tokens by the rows of ``steps`` (of a repeated step, the last), else by ``runs``, without a history."""
    untold = f"COALESCE({history}, '') IN ('', '[]', 'null')"
    row, has_steps = shape.row("steps"), shape.has("steps", "run_id", "step_index", "step_name")
    sums = {}
    for names in (("cost_usd", "cost"), ("token_counts", "tokens")):
        value = shape.pick("steps", "t", *names)
        last = f"SELECT {value} AS value, max(t.{row}) FROM steps t WHERE t.run_id = {run_id}"
        rows = f"{last} GROUP BY step_index, step_name"
        sums[names[0]] = f"(SELECT sum(value) FROM ({rows}))" if has_steps else "NULL"
    found = f"COALESCE({sums['cost_usd']}, {cost})"
    return f"CASE WHEN {untold} THEN {found} END", f"CASE WHEN {untold} THEN {sums['token_counts']} END"


# --- walks


def runs_by_start(shape: Shape, at: int, bounds: str, extra: str, direction: str, budget: int | None) -> str:
    """Runs (with their states) in the order of their start.

    Args:
        shape: The columns that there are.
        at: Which of `start_columns`; rows that have an earlier one of them are left out.
        bounds: Conditions on ``{c}``, the start.
        extra: Further conditions on ``r`` and ``s``.
        direction: ``ASC`` or ``DESC``.
        budget: Look at no more rows of ``runs`` than this.
    """
    columns = start_columns(shape)
    start = f'"{columns[at]}"'
    earlier = " AND ".join(f"COALESCE(\"{c}\", '') = ''" for c in columns[:at])
    where = f"{bounds.format(c=start)} AND {start} GLOB '{READABLE}' AND run_id IS NOT NULL"
    where += f" AND {earlier}" if earlier else ""
    inner, outer = _ordered(start, f"r.{start}", direction, budget)
    source = f"(SELECT {_run_side(shape)} FROM runs WHERE {where}{inner}) r"
    return f"SELECT {{columns}} FROM {source} {_join_state(shape)} WHERE {extra}{outer}"


def _ordered(inner: str, outer: str, direction: str, budget: int | None) -> tuple[str, str]:
    """ORDER BY for a sub-query and for the query round it.

    A sub-query with a LIMIT is run as it stands, and its order goes through the joins; one without is
    flattened, and its own ORDER BY is lost.
    """
    if budget is None:
        return "", f" ORDER BY {outer} {direction}"
    return f" ORDER BY {inner} {direction} LIMIT {budget}", ""


def _run_side(shape: Shape) -> str:
    """Every column of ``runs`` that a `RawRun` takes."""
    wanted = (
        "run_id pipeline_name pipeline_version status start_time created_at updated_at end_time total_steps "
        "error_message execution_time_ms total_cost"
    )
    return ", ".join(f'"{c}"' for c in wanted.split() if shape.has(_RUNS, c))


def _join_state(shape: Shape) -> str:
    return "LEFT JOIN workflow_state s ON s.run_id = r.run_id" if shape.has(_WS) else ""


def states_by_first_save(shape: Shape, bounds: str, extra: str, direction: str, budget: int | None) -> str:
    """States that have no row in ``runs``, in the order of ``created_at``."""
    where = f"{bounds.format(c='created_at')} AND created_at GLOB '{READABLE}' AND run_id IS NOT NULL"
    inner, outer = _ordered("created_at", "b.saved", direction, budget)
    row = shape.row(_WS)
    source = f"(SELECT {row} AS at, run_id AS id, created_at AS saved FROM workflow_state WHERE {where}{inner}) b"
    alone = "NOT EXISTS (SELECT 1 FROM runs x WHERE x.run_id = b.id)" if shape.has(_RUNS) else "1"
    joined = f"{source} CROSS JOIN workflow_state s ON s.{row} = b.at"
    return f"SELECT {{columns}} FROM {joined} WHERE {alone} AND {extra}{outer}"


def run_without_start(shape: Shape) -> str:
    """Runs that have a state, and a row in ``runs`` that does not tell their start."""
    first, *others = start_columns(shape) or ["run_id"]
    empty = " AND ".join(["1", *(f"COALESCE(r.\"{c}\", '') = ''" for c in others)])
    joined = "SELECT 1 FROM runs r JOIN workflow_state s ON s.run_id = r.run_id"
    tests = (f'r."{first}" IS NULL', f"r.\"{first}\" = ''") if start_columns(shape) else ("1",)
    return " UNION ALL ".join(f"SELECT * FROM ({joined} WHERE {test} AND {empty} LIMIT 1)" for test in tests)


def unreadable_starts(shape: Shape) -> str:
    """Ids of runs whose start is no time."""
    parts = []
    if shape.has(_RUNS):
        starts = start_columns(shape)
        none = f"NOT lens_is_time(COALESCE({shape.pick(_RUNS, 'r', *starts)}, ''))"
        parts.append(
            f"SELECT r.run_id FROM {_no_times(shape, _RUNS, starts[:1])} "
            f"CROSS JOIN runs r ON r.{shape.row(_RUNS)} = b.at WHERE {none}"
        )
    if shape.has(_WS):
        saves = ["created_at"] if shape.has(_WS, "created_at") else []
        alone = "WHERE NOT EXISTS (SELECT 1 FROM runs x WHERE x.run_id = s.run_id)" if shape.has(_RUNS) else ""
        parts.append(
            f"SELECT s.run_id FROM {_no_times(shape, _WS, saves)} "
            f"CROSS JOIN workflow_state s ON s.{shape.row(_WS)} = b.at {alone}"
        )
    return " UNION ".join(parts)


def _no_times(shape: Shape, table: str, columns: list[str]) -> str:
    """The rows (see `Shape.row`) of which the column (if there is one) holds no time: off its index, if it has one.

    ``lens_is_time`` is ours, and slow; SQLite's own `julianday` takes some texts that it does not.
    """
    text = f"COALESCE(\"{columns[0]}\", '')" if columns else "''"
    usual = (
        f"{text} GLOB '{READABLE}' AND {text} > '0001' AND substr({text}, 9, 2) < '29' "
        f"AND substr({text}, 12, 2) < '24' AND instr({text}, ' ') = 0 AND julianday({text}) IS NOT NULL"
    )
    return f"(SELECT {shape.row(table)} AS at FROM {table} WHERE NOT ({usual}) AND NOT lens_is_time({text})) b"


# --- by id


def by_ids(shape: Shape, ids: str, *, details: bool, costs: bool = False) -> str:
    """Runs whose ids the query `ids` yields (in its first column), from both tables."""
    columns = run_columns(shape, "j.id", state=True, run=True, details=details, costs=costs)
    return f"WITH j(id) AS ({ids}) SELECT {columns} FROM {_joined(shape)} WHERE j.id IS NOT NULL"


def activity(shape: Shape, ids: str) -> str:
    """Id, the statuses of state and run, and the times of both, for the ids that the query `ids` yields.

    Then context, history and the step of a failed row of ``steps``, where the status depends on them.
    """
    s, r = Side(shape, _WS, "s", shape.has(_WS)), Side(shape, _RUNS, "r", shape.has(_RUNS))
    statuses = s.first("status"), r.first("status")
    context = f"CASE WHEN {failed_again(*statuses)} THEN {s('pipeline_context')} END"
    history = f"CASE WHEN {doubtful(*statuses)} THEN {s('step_history')} END"
    failed_step = _rare_columns(shape, "j.id", s, r, False)[1]
    columns = ", ".join(["j.id", *statuses, *_time_columns(s, r), context, history, failed_step])
    return f"WITH j(id) AS ({ids}) SELECT {columns} FROM {_joined(shape)} WHERE j.id IS NOT NULL"


def _joined(shape: Shape) -> str:
    """``j``, which has ids, with both tables."""
    states = " LEFT JOIN workflow_state s ON s.run_id = j.id" if shape.has(_WS) else ""
    runs = " LEFT JOIN runs r ON r.run_id = j.id" if shape.has(_RUNS) else ""
    return f"j{states}{runs}"


def starts_by_ids(shape: Shape, ids: str) -> str:
    """Id, start of the run and first save of the state, for the ids that the query `ids` yields."""
    has_runs = shape.has(_RUNS) and bool(start_columns(shape))
    start = shape.pick(_RUNS, "r", *start_columns(shape)) if has_runs else "NULL"
    runs = "LEFT JOIN runs r ON r.run_id = j.id" if has_runs else ""
    saved = (
        "(SELECT created_at FROM workflow_state s WHERE s.run_id = j.id)" if shape.has(_WS, "created_at") else "NULL"
    )
    first_save = f"CASE WHEN {start} IS NULL THEN {saved} END"
    return f"WITH j(id) AS ({ids}) SELECT j.id, {start}, {first_save} FROM j {runs} WHERE j.id IS NOT NULL"


def failed(shape: Shape) -> str:
    """Every run whose state says failed, and failed ones without a state, with details, in the order of the table.

    Read straight through, for there may be many. Cancelled and paused runs are among them (see `interpret.status_of`).
    """
    with_state = run_columns(shape, "s.run_id", state=True, run=True, details=True)
    without = run_columns(shape, "r.run_id", state=False, run=True, details=True)
    return (
        f"SELECT {with_state} FROM workflow_state s LEFT JOIN runs r ON r.run_id = s.run_id "
        f"WHERE s.run_id IS NOT NULL AND (s.status IN ('failed', '') OR {failed_again('s.status', 'r.status')}) "
        f"UNION ALL SELECT {without} FROM runs r WHERE r.status = 'failed' AND r.run_id IS NOT NULL "
        "AND NOT EXISTS (SELECT 1 FROM workflow_state x WHERE x.run_id = r.run_id)"
    )


def children_by_status(count: int) -> str:
    """Background tasks of `count` runs: parent, status, how many."""
    return (
        "SELECT parent_run_id, status, count(*) FROM workflow_state "
        f"WHERE parent_run_id IN ({', '.join('?' * count)}) GROUP BY 1, 2"
    )


# --- all runs


def count_all(shape: Shape) -> str:
    """How many runs any table knows."""
    if not (shape.has(_RUNS) and shape.has(_WS)):
        return f"SELECT count(*) FROM {_RUNS if shape.has(_RUNS) else _WS} WHERE run_id IS NOT NULL"
    runs = "SELECT count(*) FROM runs WHERE run_id IS NOT NULL"
    return f"SELECT ({runs}) + (SELECT count(*) FROM ({difference(shape, _WS, _RUNS)}))"


def note_lone_states(shape: Shape) -> tuple[str, ...]:
    """Fill ``temp.alone`` with the rows of the states that have no run."""
    return (
        "CREATE TEMP TABLE IF NOT EXISTS alone (id INTEGER PRIMARY KEY)",
        "DELETE FROM temp.alone",
        f"INSERT INTO temp.alone SELECT s.rowid FROM ({difference(shape, _WS, _RUNS)}) b "
        f"CROSS JOIN {_WS} s ON s.run_id = b.run_id",
    )


def difference(shape: Shape, table: str, other: str) -> str:
    """The ids of a table that another does not have.

    In order, which is that of both primary keys, this is one pass over each: a third of the time of seeking each id.
    The LIMIT keeps SQLite from dropping the order.
    """
    if not (shape.indexed(table, "run_id") and shape.indexed(other, "run_id")):
        return (
            f"SELECT run_id FROM {table} t WHERE run_id IS NOT NULL "
            f"AND NOT EXISTS (SELECT 1 FROM {other} x WHERE x.run_id = t.run_id)"
        )
    one, two = (f"SELECT run_id FROM {name} WHERE run_id IS NOT NULL" for name in (table, other))
    return f"{one} EXCEPT {two} ORDER BY 1 LIMIT -1"


def starts_of_runs(shape: Shape) -> str:
    """The starts in ``runs`` from a text on, off their index."""
    start = start_columns(shape)[0]
    return f'SELECT "{start}" FROM runs WHERE "{start}" >= ? AND run_id IS NOT NULL'


def starts_of_lone_states(shape: Shape) -> str:
    """The first saves from a text on of the states in ``temp.alone``, off their index alone if there is one."""
    index = shape.index_on(_WS, "created_at")
    by = f"INDEXED BY {index}" if index else ""
    created = shape.col(_WS, "s", "created_at")
    return f"SELECT {created} FROM {_WS} s {by} WHERE {created} >= ? AND s.rowid IN (SELECT id FROM temp.alone)"


def statuses(shape: Shape) -> str:
    """Each status of either table once; empty if neither has any."""
    tables = [table for table in (_WS, _RUNS) if shape.has(table, "status")]
    return " UNION ".join(f"SELECT DISTINCT status FROM {table}" for table in tables)


def ids_between(shape: Shape) -> str:
    """Run ids from ``:from`` on and before ``:to``, ``:limit`` of them, in order, by the primary keys."""
    first = "WHERE run_id >= :from AND run_id < :to ORDER BY run_id LIMIT :limit"
    tables = [table for table in (_RUNS, _WS) if shape.has(table)]
    parts = [f"SELECT * FROM (SELECT run_id FROM {table} {first})" for table in tables]
    return f"SELECT run_id FROM ({' UNION '.join(parts)}) ORDER BY run_id LIMIT :limit"


def newest(shape: Shape, table: str, column: str, direction: str = "DESC") -> str:
    """A column of the row that was written last, or first."""
    return f"SELECT {column} FROM {table} ORDER BY {shape.row(table)} {direction} LIMIT 1"


def newest_cancelled(table: str) -> str:
    """The last updates of cancelled runs, one for each form in which times are written."""
    return f"SELECT max(updated_at) FROM {table} WHERE status = 'cancelled' GROUP BY substr(updated_at, 11, 1)"


def columns_of_runs(shape: Shape, table: str, names: Sequence[str]) -> str:
    """The id and some columns of runs, ids as JSON."""
    columns = ", ".join(["t.run_id", *(shape.col(table, "t", name) for name in names)])
    return f"SELECT {columns} FROM {table} t WHERE t.run_id IN (SELECT value FROM json_each(?))"


def sizes(shape: Shape) -> str:
    """Ids in ``temp.wanted``, and the bytes of all values of their rows."""
    parts = []
    for table in (_WS, _RUNS, "steps", "spans", "evaluations"):
        if shape.has(table, "run_id"):
            values = " + ".join(f'COALESCE(length(CAST(t."{c}" AS BLOB)), 0)' for c in sorted(shape.columns[table]))
            parts.append(f"(SELECT CAST(total({values}) AS INTEGER) FROM {table} t WHERE t.run_id = w.run_id)")
    return f"SELECT w.run_id, {' + '.join(parts)} FROM temp.wanted w"


# --- one run


_STEP_COLUMNS = (
    ("output", "output_blob"),
    ("error_blob",),
    ("cost_usd", "cost"),
    ("token_counts", "tokens"),
    ("execution_time_ms", "duration_ms"),
    ("created_at", "end_time", "start_time"),
    ("input_blob",),
)


def steps(shape: Shape) -> str:
    """Index, name, status and `_STEP_COLUMNS` of the steps of a run, in the order of index and writing."""
    picked = ", ".join(shape.pick("steps", "t", *names) for names in _STEP_COLUMNS)
    return (
        f"SELECT t.step_index, t.step_name, t.status, {picked} "
        f"FROM steps t WHERE t.run_id = ? ORDER BY t.step_index, t.{shape.row('steps')}"
    )


def step_columns(shape: Shape, names: Sequence[str], sealed: Sequence[str], seal: str) -> str:
    """Index, name and some columns of the steps of a run, in the order of writing; further ones if they are sealed.

    Args:
        shape: The columns that there are.
        names: The columns.
        sealed: Those that are NULL unless they begin with the bytes of `seal`.
        seal: Five bytes, in hexadecimal.
    """
    parts = [shape.col("steps", "t", name) for name in names]
    blobs = [shape.col("steps", "t", name) for name in sealed]
    parts += [f"CASE WHEN hex(substr({blob}, 1, 5)) = '{seal}' THEN {blob} END" for blob in blobs]
    columns = ", ".join(parts)
    return f"SELECT step_index, step_name, {columns} FROM steps t WHERE t.run_id = ? ORDER BY t.{shape.row('steps')}"


def spans(shape: Shape) -> str:
    """The spans of a run, in the order of their start."""
    return (
        "SELECT span_id, parent_span_id, name, status, start_time, end_time, "
        f"{shape.col('spans', 'spans', 'attributes')} FROM spans "
        f"WHERE run_id = ? ORDER BY start_time, {shape.row('spans')}"
    )


def start_of_run(shape: Shape) -> str:
    """The start of a run in ``runs``."""
    return f"SELECT {shape.pick(_RUNS, 'r', *start_columns(shape))} FROM runs r WHERE r.run_id = ?"


def tasks(shape: Shape) -> str:
    """The ids of the background tasks of a run, the first saved first."""
    created = shape.col(_WS, "s", "created_at")
    return f"SELECT run_id FROM workflow_state s WHERE parent_run_id = ? ORDER BY {created}, run_id"


def evaluations(shape: Shape, where: str) -> str:
    """Evaluations, the newest first, as many as the last parameter says."""
    names = ("step_name", "score", "feedback", "metadata", "created_at")
    columns = ", ".join(shape.col("evaluations", "evaluations", name) for name in names)
    order = "created_at DESC, " if shape.has("evaluations", "created_at") else ""
    row = shape.row("evaluations")
    return f"SELECT run_id, {columns} FROM evaluations {where} ORDER BY {order}{row} DESC LIMIT ?"


def system_entries(shape: Shape, where: str) -> str:
    """Global keys with their values, by key."""
    updated = shape.col("system_state", "system_state", "updated_at")
    return f"SELECT key, value, {updated} FROM system_state {where} ORDER BY key"
