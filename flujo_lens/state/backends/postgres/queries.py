"""The SQL, by name. Ids are ordered by their code points (``COLLATE "C"``), as everywhere in lens.

Pages are keyset pages in row form: with an ``OR`` in its place PostgreSQL reads the whole index. What is missing from a
store (a half made schema, no tables of ours) is selected from as an empty table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from flujo_lens.state.backends.postgres.tables import COLUMNS, LENS_TABLES, LIBRARY_TABLES, TYPES, Shape
from flujo_lens.state.backends.postgres.uri import literal

FIRST, LAST = "0001-01-01 00:00:00+00", "9999-12-31 23:59:59.999999+00"
"""What Python's calendar has; PostgreSQL has infinities and 294,276 years."""

SNAPSHOT = "SELECT pg_current_snapshot()::text"
"""Which transactions are visible: it changes with each that ends, in all databases of the server."""

WHY_READ_ONLY = """
SELECT CASE WHEN pg_is_in_recovery() THEN 'it is a standby, in recovery'
  WHEN (SELECT reset_val FROM pg_settings WHERE name = 'default_transaction_read_only') = 'on'
    THEN 'default_transaction_read_only is on'
  WHEN NOT (SELECT bool_or(has_any_column_privilege(t, 'INSERT, UPDATE') OR has_table_privilege(t, 'DELETE, TRUNCATE'))
    FROM (VALUES (to_regclass('workflow_state')), (to_regclass('runs'))) AS found (t))
    THEN format('the role %s may only read its tables', current_user) END
"""
"""Why this role cannot write, in words; NULL if it may. What is set in a session does not count."""

SHAPE = f"""
SELECT c.relname::text, array_agg(a.attname::text), bool_and(a.attname <> 'run_id' OR a.attcollation = 100) AND (
  SELECT coalesce(to_jsonb(d) ->> 'datlocprovider', 'c') = 'c' AND datcollate IN ('C', 'POSIX', 'C.UTF-8', 'C.utf8')
  FROM pg_database d WHERE datname = current_database())
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relname IN ({", ".join(f"'{name}'" for name in (*LIBRARY_TABLES, *LENS_TABLES))})
  AND pg_table_is_visible(c.oid) AND a.attnum > 0 AND NOT a.attisdropped GROUP BY c.relname
"""

_KINDS = {
    "time": (
        f"CASE WHEN {{0}} BETWEEN '{FIRST}' AND '{LAST}' THEN replace(to_char({{0}} AT TIME ZONE 'UTC',"
        " 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"+00:00\"'), '.000000', '') ELSE {0}::text END"
    ),
    "json": "{0}::text",
    "real": "{0}::text::float8",
}
_PARAMETERS = {
    "json": "{0}::text::jsonb",
    "time": "{0}::timestamptz",
    "int": "{0}::int",
    "bool": "{0}::boolean",
    "real": "{0}::float8::real",
    "double": "{0}::float8",
    "text": "{0}::text",
}

_ELEMENTS = {"json": "text", "time": "timestamptz", "bool": "boolean", "real": "float8", "double": "float8"}


def source(table: str, shape: Shape) -> str:
    """What is selected from: the table, or nothing, where there is none."""
    texts = ("run_id", "status", "kind", "key", "document", "stamp", "value")
    nothing = ", ".join(f"NULL::text AS {name}" for name in texts)
    others = "NULL::timestamptz AS created_at, NULL::timestamptz AS updated_at, NULL::int AS id"
    return table if shape.has(table) else f"(SELECT {nothing}, {others} WHERE false)"


def without_run(shape: Shape) -> str:
    """A condition that there is no run of a row, ``t``."""
    tables = (table for _, table in SIDES if shape.has(table))
    return " AND ".join(f"NOT EXISTS (SELECT FROM {table} x WHERE x.run_id = t.run_id)" for table in tables)


def _both(shape: Shape) -> tuple[str, str]:
    return source("workflow_state", shape), source("runs", shape)


@lru_cache
def columns(table: str, alias: str, shape: Shape) -> str:
    """The columns of a table as `mapping.document_of` takes them; NULL for one that is missing."""
    there = shape.columns.get(table, frozenset())
    shown = [
        f"{_KINDS.get(kind, '{0}').format(f'{alias}.{name}') if name in there else 'NULL'} AS {name}"
        for name, kind in COLUMNS[table].items()
    ]
    return ", ".join(shown)


def kept(alias: str, table: str, shape: Shape, key: str = "run_id") -> str:
    """The document stored for a row (in ``d_`` and its alias), if the row has not changed since.

    Only then the row is looked at once more, by its key: as a whole it would be put together for each run, with all
    that is stored out of line.
    """
    stored = f"d_{alias}"
    row = f"{source(table, shape)} k WHERE k.{key} = {alias}.{key} AND md5(k::text) = {stored}.stamp"
    return f"CASE WHEN {stored}.stamp IS NOT NULL THEN (SELECT {stored}.document FROM {row}) END"


def rows_of_runs(shape: Shape, has_runs: bool) -> str:
    """Joins with the rows of a run, ``s`` and ``r``."""
    tables = ((kind[0], source(table, shape)) for kind, table in SIDES if not (has_runs and kind == "run"))
    return "\n".join(f"LEFT JOIN {table} {row} ON {row}.run_id = wanted.id" for row, table in tables)


def of_wanted(sql: str, has_runs: bool) -> str:
    """SQL with the columns of ``r`` as those of `keys_page`, if that has them: the row is not looked up again."""
    return _OF_RUN.sub(r"wanted.r_\1", sql) if has_runs else sql


_OF_RUN = re.compile(r"\br\.(\w+)")


_NO_START = "NULL::timestamptz AS started"
IDS, ONE = f"SELECT id, {_NO_START} FROM unnest($1::text[]) AS id", f"SELECT $1::text AS id, {_NO_START}"

_PARENTS = """CASE WHEN (SELECT true FROM workflow_state WHERE parent_run_id IS NOT NULL LIMIT 1)
  THEN wanted.id = ANY(ARRAY(SELECT DISTINCT parent_run_id FROM workflow_state
    WHERE parent_run_id = ANY(ARRAY(SELECT id FROM wanted)))) ELSE false END"""


def has_tasks(shape: Shape, parents: bool) -> str:
    """Whether a run has background tasks, NULL if that is not asked for; in many stores no run has any."""
    return _PARENTS if parents and shape.has_parents else "NULL::boolean"


@lru_cache
def runs(shape: Shape, wanted: str, order: str = "", *, parents: bool = False, has_runs: bool = False) -> str:
    """Runs: start, id, whether they have tasks, state there?, its document; the same of ``runs``; columns of both.

    Args:
        shape: What there is.
        wanted: A query for the columns ``id`` and ``started``.
        order: An ORDER BY.
        parents: Whether it is asked for that they have background tasks; else NULL.
        has_runs: Whether ``wanted`` has the columns of ``runs``, as `keys_page`.
    """
    shown = [f"{kind[0]}.run_id IS NOT NULL, {kept(kind[0], table, shape)}" for kind, table in SIDES]
    shown += [columns(table, kind[0], shape) for kind, table in SIDES]
    documents = "LEFT JOIN {0} {1} ON ({1}.run_id, {1}.kind, {1}.key) = (wanted.id, '{2}', '')"
    joins = (documents.format(source("lens_documents", shape), f"d_{kind[0]}", kind) for kind, _ in SIDES)
    sql = f"""SELECT wanted.started, wanted.id, {has_tasks(shape, parents)}, {", ".join(shown)}
FROM wanted {rows_of_runs(shape, has_runs)} {" ".join(joins)}
WHERE s.run_id IS NOT NULL OR r.run_id IS NOT NULL {order}"""
    return f"WITH wanted AS MATERIALIZED ({wanted})\n{of_wanted(sql, has_runs)}"


def order(reverse: bool, of: str = "wanted") -> str:
    """The ORDER BY of a page."""
    way = "ASC NULLS FIRST" if reverse else "DESC NULLS LAST"
    return f'ORDER BY {of}.started {way}, {of}.id COLLATE "C" {way.split()[0]}'


Stored = tuple[frozenset[str], frozenset[str]]
"""Statuses as `filtering.statuses_stored` has them: those of states, and of runs without one."""


def one_of(texts: Iterable[str]) -> str:
    """A condition that a column is one of these: literals, so that the plan is made for them, and only once."""
    return f"IN ({', '.join(literal(text) for text in sorted(texts))})"


def keys_page(
    shape: Shape, reverse: bool, size: int, bounds: Mapping[str, Any], statuses: frozenset[str] | None
) -> tuple[str, list[Any]]:
    """A query for ids and starts of a page, with the columns of ``runs`` (``r_``), and its values.

    Args:
        shape: What there is.
        reverse: The earliest first.
        size: Runs at most.
        bounds: The earliest start (``since``), the one after the latest (``until``), and ``start`` and ``id`` of the
            run that it begins behind; None for none.
        statuses: One of them is that of the state, or of a run without one; None for any.
    """
    given = {name: value for name, value in bounds.items() if value is not None}
    return _keys_page(shape, reverse, size, tuple(given), statuses), list(given.values())


@lru_cache
def _keys_page(shape: Shape, reverse: bool, size: int, given: tuple[str, ...], statuses: frozenset[str] | None) -> str:
    """First a page of ``runs``, off its index of starts; then the states without a run (background tasks).

    Of these, the ones that began within that page. A run starts when its row says, a state without one when it was
    first saved.
    """
    way, beyond = ("ASC", ">") if reverse else ("DESC", "<")
    at = {name: f"${place}" for place, name in enumerate(given, 1)}
    limits = [f"t.created_at BETWEEN '{FIRST}' AND '{LAST}'"]
    if "since" in at:
        limits.append(f"t.created_at >= {at['since']}::timestamptz")
    if "until" in at:
        limits.append(f"t.created_at <= {at['until']}::timestamptz")
    if "start" in at:
        limits.append(f'(t.created_at, t.run_id COLLATE "C") {beyond} ({at["start"]}::timestamptz, {at["id"]}::text)')
    span = " AND ".join(limits)
    states, runs = _both(shape)
    order = f'created_at {way}, run_id COLLATE "C" {way}'
    end, edge, within = ("max", "infinity", "<=") if reverse else ("min", "-infinity", ">=")
    last = f"SELECT CASE WHEN count(*) < {size} THEN '{edge}'::timestamptz ELSE {end}(created_at) END FROM p"
    of_run = of_state = ""
    if statuses is not None:
        of_state = f"AND t.status {one_of(statuses)}"
        of_run = (
            f"AND coalesce((SELECT s.status FROM {states} s WHERE s.run_id = t.run_id), t.status) {one_of(statuses)}"
        )
    there = [name for name in COLUMNS["runs"] if shape.has_column("runs", name)] or ["run_id"]
    of_runs = "".join(f", t.{name} AS r_{name}" for name in there)
    nothing = "".join(f", NULL::{TYPES[COLUMNS['runs'][name]]}" for name in there)
    return f"""
SELECT run_id AS id, created_at AS started{"".join(f", r_{name}" for name in there)} FROM (
  WITH p AS MATERIALIZED (
    SELECT t.run_id, t.created_at{of_runs} FROM {runs} t WHERE {span} {of_run} ORDER BY t.{order} LIMIT {size})
  (SELECT * FROM p) UNION ALL
  (SELECT t.run_id, t.created_at{nothing} FROM {states} t WHERE {span} AND t.created_at {within} ({last})
   AND t.run_id NOT IN (SELECT run_id FROM p) {_without_run(shape)} {of_state} ORDER BY t.{order} LIMIT {size})
) u ORDER BY {order} LIMIT {size}"""


def _without_run(shape: Shape) -> str:
    # NOT EXISTS would become a join, which reads all runs for a page.
    return f"AND (SELECT true FROM {_both(shape)[1]} r WHERE r.run_id = t.run_id) IS NULL"


_FAILED_ONCE = """t.step_history @> '[{"success": false}]' OR jsonb_typeof(t.step_history) = 'string'"""
"""What a paused run without metadata needs to be a failed one (see `interpret.failed_again`), if it is not sealed."""


@lru_cache
def keys_by_status(shape: Shape, wanted: Stored, most: int) -> str:
    """Ids and starts of runs by status, at most so many.

    A paused state is of a failed run only where the run's row does not say something else, a failed one is of a
    cancelled run only where the row says completed (see `interpret.status_of`): of these, few are looked at.
    """
    of_states, of_runs = wanted
    states, runs = _both(shape)
    same, start = one_of(of_states & of_runs), _START.format("coalesce(r.created_at, s.created_at)")
    of_both = f"SELECT s.run_id, {start} FROM {states} s LEFT JOIN {runs} r ON r.run_id = s.run_id WHERE s.status"
    is_one = f"s.run_id IS NULL OR s.status {same}"
    parts = [f"{of_both} {same} AND s.run_id NOT IN (SELECT run_id FROM f)"]
    if "paused" in of_states - of_runs:
        is_one += " OR s.status = 'paused' AND r.status = 'failed'"
        some = f"AND ({_FAILED_ONCE})" if shape.has_column("workflow_state", "step_history") else ""
        alone = f"SELECT t.run_id, {_START.format('t.created_at')} FROM {states} t"
        parts.append(f"{alone} WHERE t.status = 'paused' {some} {_without_run(shape)}")
    if "failed" in of_states - of_runs:
        parts.append(f"{of_both} = 'failed' AND r.status = 'completed'")
    return f"""WITH f AS MATERIALIZED (SELECT r.run_id, {_START.format("r.created_at")} AS started, {is_one} AS is_one
  FROM {runs} r LEFT JOIN {states} s ON s.run_id = r.run_id WHERE r.status {one_of(of_runs)})
SELECT run_id, started FROM f WHERE is_one UNION ALL {" UNION ALL ".join(parts)} LIMIT {most}"""


_START = f"CASE WHEN {{0}} BETWEEN '{FIRST}' AND '{LAST}' THEN {{0}} END"


def page_by_status(reverse: bool, has_border: bool, most: int, size: int) -> str:
    """A query for ids and starts of the first page in `first_by_status`, behind the run of $1 and $2."""
    beyond, never = ">" if reverse else "<", "'-infinity'::timestamptz"
    border = f"(coalesce($1::timestamptz, {never}), $2::text)"
    after = f"""AND (coalesce(started, {never}), id COLLATE "C") {beyond} {border}""" if has_border else ""
    return f"SELECT id, started FROM k WHERE (SELECT count FROM n) < {most} {after} {order(reverse, 'k')} LIMIT {size}"


@lru_cache
def first_by_status(shape: Shape, wanted: Stored, most: int, rows: str, reverse: bool) -> str:
    """How many keys `keys_by_status` has, and if they are fewer than `most`, the `rows` of a first page of them."""
    counts = [
        f"(SELECT count(*) FROM (SELECT FROM {source(table, shape)} t WHERE t.status {one_of(some)} LIMIT {most}) AS x)"
        for table, some in zip(("workflow_state", "runs"), wanted, strict=True)
    ]
    return f"""WITH s AS MATERIALIZED (SELECT greatest({", ".join(counts)}) AS count),
k AS MATERIALIZED (SELECT * FROM ({keys_by_status(shape, wanted, most)}) AS k (id, started)
  WHERE (SELECT count FROM s) < {most}),
n AS MATERIALIZED (SELECT greatest(count(*), (SELECT count FROM s)) AS count FROM k)
SELECT n.count, page.* FROM n LEFT JOIN ({rows}) AS page ON true {order(reverse, "page")}"""


@lru_cache
def ids(shape: Shape, limit: int, has_end: bool) -> str:
    """Ids that begin with $1, and lie before $2, the first in each table: off a key in the order of code points."""
    end = "AND {key} < $2::text" * has_end
    key = "run_id" if shape.is_bytewise else 'run_id COLLATE "C"'
    some = f"{key} >= $1::text {end.format(key=key)} AND starts_with(run_id, $1::text)"
    part = f"(SELECT run_id FROM {{}} t WHERE {some} ORDER BY {key} LIMIT {limit})"
    return " UNION ALL ".join(part.format(source(table, shape)) for _, table in SIDES)


def keys_of_tasks(shape: Shape) -> str:
    """Ids and starts of the background tasks of a run ($1): $2 the limit."""
    states, runs = _both(shape)
    return f"""SELECT s.run_id, {_START.format("coalesce(r.created_at, s.created_at)")}
FROM {states} s LEFT JOIN {runs} r ON r.run_id = s.run_id WHERE s.parent_run_id = $1::text LIMIT $2"""


def count(shape: Shape, statuses: frozenset[str], since: datetime | None, until: datetime | None) -> str:
    """How many runs there are: of statuses (of the state, else of the run), begun from a time on, up to a time.

    The times are literals, so that the plan is made for them: few runs are found by an index, of status or start.
    """
    states, runs = _both(shape)
    some, times = [f"{{0}}.status {one_of(statuses)}"] * bool(statuses), list[str]()
    for how, time in ((">=", since), ("<=", until)):
        times += [] if time is None else [f"{{0}}.created_at {how} {as_literal(time)}::timestamptz"]
    alone = "NOT EXISTS (SELECT FROM {} o WHERE o.run_id = {{0}}.run_id)"
    if times:  # a run begins when its row says, a state without one when it was first saved
        times.append(f"{{0}}.created_at BETWEEN '{FIRST}' AND '{LAST}'")
        status = f"coalesce((SELECT o.status FROM {states} o WHERE o.run_id = r.run_id), r.status)"
        of_run, of_state = [status + text[len("{0}.status") :] for text in some], [alone.format(runs), *some]
    else:
        of_run, of_state = [alone.format(states), *some], some
    counts = (
        f"(SELECT count(*) FROM {table} {alias} WHERE {' AND '.join([*times, *asked]).format(alias) or 'true'})"
        for alias, table, asked in (("s", states, of_state), ("r", runs, of_run))
    )
    return f"SELECT {' + '.join(counts)}"


def statuses(shape: Shape) -> str:
    """Every status of states and of runs, off their indexes: one look for each, not one for each row."""
    found = []
    for table in ("workflow_state", "runs"):
        if shape.has(table):
            next_one = f"SELECT min(status) FROM {table}"
            walk = f"{next_one} UNION ALL SELECT ({next_one} WHERE status > w.s) FROM w WHERE w.s IS NOT NULL"
            found.append(f"(WITH RECURSIVE w (s) AS ({walk}) SELECT s FROM w WHERE s IS NOT NULL)")
    return " UNION ".join(found)


def keys_unreadable(shape: Shape) -> str:
    """Ids of runs whose start no calendar has; they come last."""
    span = f"NOT BETWEEN '{FIRST}' AND '{LAST}'"
    states, runs = _both(shape)
    both = f"""SELECT run_id FROM {runs} r WHERE created_at {span} UNION
      SELECT t.run_id FROM {states} t WHERE t.created_at {span} {_without_run(shape)}"""
    return f'SELECT run_id AS id FROM ({both}) u ORDER BY run_id COLLATE "C"'


@lru_cache
def children(table: str, kind: str, shape: Shape, some: str) -> str:
    """The rows of one kind, oldest first: run, stored document, columns; `some` is a condition on the run.

    Last come the documents that the library's tables have no row for: those of unknown runs.
    """
    documents, nothing = source("lens_documents", shape), ", ".join("NULL" for _ in COLUMNS[table])
    return f"""SELECT t.run_id, {kept("t", table, shape, "id")}, {columns(table, "t", shape)}, t.id AS place, '' AS key
FROM {source(table, shape)} t LEFT JOIN {documents} d_t ON d_t.kind = '{kind}' AND d_t.run_id = t.run_id
  AND d_t.key = t.id::text WHERE t.run_id {some}
UNION ALL SELECT run_id, document, {nothing}, NULL, key FROM {documents} d
WHERE kind = '{kind}' AND stamp IS NULL AND d.run_id {some} ORDER BY place NULLS LAST, key"""


@lru_cache
def save(shape: Shape, *ways: str) -> str:
    """Write the state and the metadata of a run ($1), in this order, each in one of these ways.

    It is left (""), removed (``forget``), its columns are written, which follow as parameters (``row``), or these and
    then the document itself (``document``). Fails (22012) if a trigger keeps a row from being written.
    """
    parts, written, at = [], ["1"], 2
    for (kind, table), way in zip(SIDES, ways, strict=True):
        if way in ("row", "forget"):
            parts.append(f"kept_{kind} AS ({_FORGET.format(kind)})")
        if way == "forget":
            parts.append(f"{kind} AS (DELETE FROM {table} WHERE run_id = $1::text)")
        elif way:
            stamp = "md5(t::text)" if way == "document" else "NULL"
            parts.append(f"{kind} AS ({_upsert(table, 'run_id', shape, at)} RETURNING {stamp} AS stamp)")
            written.append(f"(SELECT count(*) FROM {kind})")
            at += len(_there(table, shape))
        if way == "document":
            parts.append(f"""kept_{kind} AS (INSERT INTO lens_documents (kind, run_id, key, document, stamp)
              SELECT '{kind}', $1::text, '', ${at}::text, stamp FROM {kind} {_KEPT})""")
            at += 1
    return f"WITH {', '.join(parts)} SELECT 1 / ({' * '.join(written)})"


def plan_save_state(shape: Shape, way: str) -> str:
    """Let the server keep the plan of `save_state` for a connection."""
    return f"PREPARE lens_save_{way} AS {save(shape, way, '')}; PREPARE lens_lock_{way} AS {_HOLD}"


def save_state(way: str, given: Sequence[str], namespace: str) -> str:
    """Lock a run, the first of these literals, and write its state in one of the ways of `save`, as it is planned."""
    return f"EXECUTE lens_lock_{way}({namespace}, {given[0]}); EXECUTE lens_save_{way}({', '.join(given)})"


def as_literal(value: Any) -> str:
    """A value as SQL takes it, to be cast."""
    if value is None:
        return "NULL"
    return literal(value.isoformat() if isinstance(value, datetime) else str(value))


@lru_cache
def state(shape: Shape) -> str:
    """The state of a run ($1): the document stored for it, and its columns."""
    table = "workflow_state"
    return f"""SELECT {kept("s", table, shape)}, {columns(table, "s", shape)} FROM {source(table, shape)} s
LEFT JOIN {source("lens_documents", shape)} d_s ON (d_s.run_id, d_s.kind, d_s.key) = ($1::text, 'state', '')
WHERE s.run_id = $1::text"""


SIDES = (("state", "workflow_state"), ("run", "runs"))
_FORGET = "DELETE FROM lens_documents WHERE kind = '{}' AND run_id = $1::text AND key = ''"


def _upsert(table: str, key: str, shape: Shape, at: int = 1) -> str:
    there = _there(table, shape)
    names = ", ".join(name for name, _ in there)
    values = ", ".join(_PARAMETERS[kind].format(f"${place}") for place, (_, kind) in enumerate(there, at))
    update = ", ".join(f"{name} = EXCLUDED.{name}" for name, _ in there if name != key)
    return f"INSERT INTO {table} AS t ({names}) VALUES ({values}) ON CONFLICT ({key}) DO UPDATE SET {update}"


@lru_cache
def put(table: str, key: str, kind: str, shape: Shape) -> str:
    """Insert a row, or update the one with its key. Returns an empty text, its digest and its columns.

    The stored document of the row is removed; it is stored again if the row cannot represent all of it.
    """
    returned = f"'', md5(t::text), {columns(table, 't', shape)}"
    return f"WITH forgotten AS ({_FORGET.format(kind)}) {_upsert(table, key, shape)} RETURNING {returned}"


def add(table: str, shape: Shape, key: str = "id", *, returns: bool = True) -> str:
    """Insert rows from arrays, one a column, in their order; it may return keys as texts, digests and columns."""
    returning = f"RETURNING t.{key}::text, md5(t::text), {columns(table, 't', shape)}" if returns else ""
    there = _there(table, shape)
    names = ", ".join(name for name, _ in there)
    values = ", ".join(_PARAMETERS[kind].format(f"u.{name}") for name, kind in there)
    arrays = ", ".join(f"${at}::{_ELEMENTS.get(kind, kind)}[]" for at, (_, kind) in enumerate(there, 1))
    return f"""
INSERT INTO {table} AS t ({names})
SELECT {values} FROM unnest({arrays}) WITH ORDINALITY AS u ({names}, place) ORDER BY u.place {returning}"""


_KEPT = "ON CONFLICT (run_id, kind, key) DO UPDATE SET document = EXCLUDED.document, stamp = EXCLUDED.stamp"
KEEP = f"""INSERT INTO lens_documents (kind, run_id, key, document, stamp)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[]) {_KEPT}"""
"""Stores documents that rows cannot represent, from arrays, one a column."""


DELETE_SPANS = """DELETE FROM spans s USING unnest($1::text[], $2::text[]) AS u (run_id, span_id)
WHERE s.run_id = u.run_id AND s.span_id = u.span_id RETURNING s.run_id, s.id::text"""


def _there(table: str, shape: Shape) -> list[tuple[str, str]]:
    return [(name, kind) for name, kind in COLUMNS[table].items() if name in shape.columns.get(table, ())]


_ROWS = 'WHERE run_id = ANY($1::text[]) ORDER BY run_id COLLATE "C" FOR UPDATE'
LOCK = f"""WITH held AS MATERIALIZED (SELECT pg_advisory_xact_lock(1818585715, lock) FROM (
  SELECT DISTINCT hashtext($2::text || id) AS lock FROM unnest($1::text[]) AS id ORDER BY lock) AS locks),
r AS MATERIALIZED (SELECT run_id FROM runs {_ROWS}), s AS MATERIALIZED (SELECT run_id FROM workflow_state {_ROWS})
SELECT (SELECT count(*) FROM held), (SELECT count(*) FROM r), (SELECT count(*) FROM s)"""
"""Locks ids of a namespace for those who ask as we do, and their rows for everybody; each in an order."""


HELD = "pg_advisory_xact_lock(1818585715, hashtext({}))"
_HOLD = f"SELECT {HELD.format('$1::text || $2::text')}"


def lock_one(run_id: str, namespace: str) -> str:
    """The same for one id, as statements without parameters; both are literals."""
    held = f"SELECT {HELD.format(f'{namespace} || {run_id}')}"
    rows = "; ".join(f"SELECT FROM {table} WHERE run_id = {run_id} FOR UPDATE" for _, table in SIDES[::-1])
    return f"{held}; {rows}"


_FREE = "(SELECT run_id, status, created_at, updated_at FROM {} WHERE run_id = ANY($1::text[]) FOR UPDATE SKIP LOCKED)"
_TIMES = "(r.created_at, r.updated_at, s.created_at, s.updated_at)"
LOCK_FREE = f"""WITH held AS MATERIALIZED (
  SELECT id FROM unnest($1::text[]) AS id WHERE pg_try_advisory_xact_lock(1818585715, hashtext($2::text || id))),
r AS MATERIALIZED {_FREE.format("runs")}, s AS MATERIALIZED {_FREE.format("workflow_state")}
SELECT id, CASE WHEN least{_TIMES} >= '{FIRST}' AND greatest{_TIMES} <= '{LAST}'
  AND r.status <> '' AND NOT (s.status = 'failed' AND r.status = 'completed') THEN s.status END,
  CASE WHEN greatest{_TIMES} BETWEEN '{FIRST}' AND '{LAST}' THEN greatest{_TIMES} END
FROM held LEFT JOIN r ON r.run_id = id LEFT JOIN s ON s.run_id = id
WHERE (r.run_id IS NOT NULL OR NOT EXISTS (SELECT FROM runs t WHERE t.run_id = id))
  AND (s.run_id IS NOT NULL OR NOT EXISTS (SELECT FROM workflow_state t WHERE t.run_id = id))"""
"""Locks those of ids ($1), of a namespace ($2), that nobody has locked, without waiting for anybody.

Returns them with status (see `interpret.status_of`) and last update as these are now, where columns tell, and both rows
are there: a later statement may find another that has come since."""


def after_all(prefix: str) -> str | None:
    """The first text behind all that begin with a prefix, by code points; None if there is none, or none is needed."""
    last = ord(prefix[-1:] or "\U0010ffff") + 1
    return prefix[:-1] + chr(last) if last < 0x110000 and not 0xD800 <= last < 0xE000 else None


def storable(texts: Iterable[str]) -> list[str]:
    """Each of these texts once, without those that PostgreSQL has no place for."""
    return [text for text in dict.fromkeys(texts) if "\0" not in text]


_OF_RUNS = ("workflow_state", "runs", "steps", "spans", "evaluations")
_REST = " UNION ALL ".join(f"(SELECT '{t}' FROM {t} WHERE run_id = ANY($1::text[]) LIMIT 1)" for t in _OF_RUNS)
GUARDED = f"""SELECT FROM pg_class c WHERE c.oid IN ({", ".join(f"'{table}'::regclass" for table in _OF_RUNS)})
  AND (c.relrowsecurity OR c.relhasrules OR c.relkind <> 'r'
    OR EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal))"""
"""Tables with something that may keep rows from being deleted."""

STILL_THERE = f"SELECT t FROM ({_REST}) AS x (t) LIMIT 1"
"""A table that has rows of these runs ($1); NULL if none has."""
