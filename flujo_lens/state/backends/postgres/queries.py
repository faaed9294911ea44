"""The SQL, by name. Ids are ordered by their code points (``COLLATE "C"``), as everywhere in lens.

Pages are keyset pages in row form: with an ``OR`` in its place PostgreSQL reads the whole index. What is missing from a
store (a half made schema, no tables of ours) is left out of a statement by its `Shape`.
"""

from __future__ import annotations

from collections.abc import Iterable

from flujo_lens.state.backends.postgres.tables import COLUMNS, LENS_TABLES, LIBRARY_TABLES, Shape
from flujo_lens.state.views import UNREADABLE, RunFilter

FIRST, LAST = "0001-01-01 00:00:00+00", "9999-12-31 23:59:59.999999+00"
"""What Python's calendar has; PostgreSQL has infinities and 294,276 years."""

SNAPSHOT = "SELECT pg_current_snapshot()::text"
"""Which transactions are visible: it changes with each that ends, in all databases of the server."""

SHAPE = f"""
SELECT c.relname::text, array_agg(a.attname::text) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
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


def columns(table: str, alias: str, shape: Shape) -> str:
    """The columns of a table as `mapping.document_of` takes them; NULL for one that is missing."""
    there = shape.columns.get(table, frozenset())
    shown = [
        _KINDS.get(kind, "{0}").format(f"{alias}.{name}") if name in there else "NULL"
        for name, kind in COLUMNS[table].items()
    ]
    return ", ".join(shown)


def _exact(kind: str, alias: str, key: str, shape: Shape) -> str:
    """A join with the document stored for a row, if the row has not changed since."""
    name = f"d_{alias}"
    if not shape.has("lens_documents"):
        return f"LEFT JOIN (SELECT NULL::text AS document) {name} ON false"
    return (
        f"LEFT JOIN lens_documents {name} ON {name}.kind = '{kind}' AND {name}.run_id = {alias}.run_id"
        f" AND {name}.key = {key} AND {name}.stamp = md5({alias}::text)"
    )


def _or_empty(table: str, alias: str, shape: Shape) -> str:
    if shape.has(table):
        return f"LEFT JOIN {table} {alias} ON {alias}.run_id = wanted.id"
    return f"LEFT JOIN (SELECT NULL::text AS run_id) {alias} ON false"


def runs(wanted: str, shape: Shape, order: str = "") -> str:
    """Runs with all their columns: id, state there?, its columns, its document; the same of the row of ``runs``.

    Args:
        wanted: A FROM item named ``wanted`` with the columns ``id`` and ``started``.
        shape: What there is.
        order: An ORDER BY.
    """
    return f"""
SELECT wanted.started, wanted.id, s.run_id IS NOT NULL, d_s.document, r.run_id IS NOT NULL, d_r.document,
  {columns("workflow_state", "s", shape)}, {columns("runs", "r", shape)}
FROM {wanted}
{_or_empty("workflow_state", "s", shape)} {_exact("state", "s", "''", shape)}
{_or_empty("runs", "r", shape)} {_exact("run", "r", "''", shape)}
WHERE s.run_id IS NOT NULL OR r.run_id IS NOT NULL {order}"""


def keys_page(shape: Shape, reverse: bool, has_border: bool) -> str:
    """Ids and starts of a page: $1 the limit, $2 and $3 the earliest start and the one after the latest, or NULL.

    $4 and $5 are the border's start and id.

    First a page of ``runs``, off its index of starts; then the states without a run (background tasks) that began
    within that page. A run starts when its row says, a state without one when it was first saved.
    """
    way, beyond = ("ASC", ">") if reverse else ("DESC", "<")
    after = f'AND (t.created_at, t.run_id COLLATE "C") {beyond} ($4::timestamptz, $5::text)' if has_border else ""
    since, until = f"coalesce($2::timestamptz, '{FIRST}')", f"coalesce($3::timestamptz, '{LAST}')"
    span = (
        f"t.created_at BETWEEN '{FIRST}' AND '{LAST}' AND t.created_at >= {since} AND t.created_at <= {until} {after}"
    )
    order = f'created_at {way}, run_id COLLATE "C" {way}'
    first = f"SELECT t.run_id, t.created_at FROM runs t WHERE {span} ORDER BY t.{order} LIMIT $1"
    if not shape.has("runs"):
        first = "SELECT NULL::text AS run_id, NULL::timestamptz AS created_at WHERE false AND $1::int > 0"
    if not shape.has("workflow_state"):
        return f"SELECT run_id AS id, created_at AS started FROM ({first}) p"
    end, edge, within = ("max", "infinity", "<=") if reverse else ("min", "-infinity", ">=")
    last = f"SELECT CASE WHEN count(*) < $1 THEN '{edge}'::timestamptz ELSE {end}(created_at) END FROM p"
    return f"""
SELECT run_id AS id, created_at AS started FROM (
  WITH p AS MATERIALIZED ({first})
  (SELECT * FROM p) UNION ALL
  (SELECT t.run_id, t.created_at FROM workflow_state t
   WHERE {span} AND t.created_at {within} ({last}) {_without_run(shape)} ORDER BY t.{order} LIMIT $1)
) u ORDER BY {order} LIMIT $1"""


def _without_run(shape: Shape) -> str:
    # NOT EXISTS would become a join, which reads all runs for a page.
    return "AND (SELECT true FROM runs r WHERE r.run_id = t.run_id) IS NULL" if shape.has("runs") else ""


def keys_by_status(shape: Shape) -> str:
    """Ids and starts of runs by status: $1 those of states, $2 those of runs without a state, $3 the limit.

    A paused state is of a failed run only where the run's row does not say something else (see `interpret.status_of`).
    """
    start = f"CASE WHEN {{0}} BETWEEN '{FIRST}' AND '{LAST}' THEN {{0}} END"
    parts = []
    if shape.has("workflow_state"):
        run = "LEFT JOIN runs r ON r.run_id = s.run_id" if shape.has("runs") else ""
        when = start.format("coalesce(r.created_at, s.created_at)" if run else "s.created_at")
        doubt = "AND (s.status = ANY($2::text[]) OR s.status <> 'paused' OR coalesce(r.status, 'failed') = 'failed')"
        wanted = f"s.status = ANY($1::text[]) {doubt if run else 'AND $2::text[] IS NOT NULL'}"
        parts.append(f"SELECT s.run_id, {when} FROM workflow_state s {run} WHERE {wanted}")
    if shape.has("runs"):
        state = "SELECT FROM workflow_state s WHERE s.run_id = r.run_id" if parts else "SELECT WHERE false"
        alone = f"r.status = ANY($2::text[]) AND NOT EXISTS ({state})"
        parts.append(f"SELECT r.run_id, {start.format('r.created_at')} FROM runs r WHERE {alone}")
    return f"{' UNION ALL '.join(parts)} LIMIT $3"


def keys_of_tasks(shape: Shape) -> str:
    """Ids and starts of the background tasks of a run ($1): $2 the limit."""
    run = "LEFT JOIN runs r ON r.run_id = s.run_id" if shape.has("runs") else ""
    when = "coalesce(r.created_at, s.created_at)" if run else "s.created_at"
    start = f"CASE WHEN {when} BETWEEN '{FIRST}' AND '{LAST}' THEN {when} END"
    return f"SELECT s.run_id, {start} FROM workflow_state s {run} WHERE s.parent_run_id = $1::text LIMIT $2"


def count(shape: Shape, statuses: bool, since: bool, until: bool) -> str:
    """How many runs there are: of statuses (of the state, else of the run), begun from a time on, up to a time.

    Those that are asked for are the parameters, in this order.
    """
    tables = [name for name in ("workflow_state", "runs") if shape.has(name)]
    joined = " FULL JOIN ".join(tables) + " USING (run_id)" * (len(tables) - 1)
    status = ", ".join(f"{name}.status" for name in tables)
    start = f"coalesce({', '.join(f'{name}.created_at' for name in reversed(tables))})"
    asked = [
        *[f"coalesce({status}) = ANY({{}}::text[])"] * statuses,
        *[f"{start} >= {{}}::timestamptz"] * since,
        *[f"{start} <= {{}}::timestamptz"] * until,
    ]
    conditions = [one.format(f"${at}") for at, one in enumerate(asked, 1)]
    if since or until:
        conditions.append(f"{start} BETWEEN '{FIRST}' AND '{LAST}'")
    return f"SELECT count(*) FROM {joined} WHERE {' AND '.join(conditions) or 'true'}"


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
    parts = []
    if shape.has("runs"):
        parts.append(f"SELECT run_id FROM runs WHERE created_at {span}")
    if shape.has("workflow_state"):
        parts.append(f"SELECT t.run_id FROM workflow_state t WHERE t.created_at {span} {_without_run(shape)}")
    return f'SELECT run_id AS id FROM ({" UNION ".join(parts)}) u ORDER BY run_id COLLATE "C"'


def children(table: str, kind: str, shape: Shape, everything: bool) -> str:
    """The rows of one kind, oldest first: run, stored document, columns. $1 are the runs unless `everything`.

    Last come the documents that the library's tables have no row for: those of unknown runs.
    """
    parts = []
    if shape.has(table):
        parts.append(f"""SELECT t.run_id, d_t.document, {columns(table, "t", shape)}, t.id AS place, '' AS key
          FROM {table} t {_exact(kind, "t", "t.id::text", shape)}
          {"" if everything else "WHERE t.run_id = ANY($1::text[])"}""")
    if shape.has("lens_documents"):
        nothing = ", ".join("NULL" for _ in COLUMNS[table])
        parts.append(f"""SELECT run_id, document, {nothing}, NULL, key FROM lens_documents
          WHERE kind = '{kind}' AND stamp IS NULL {"" if everything else "AND run_id = ANY($1::text[])"}""")
    if not parts:
        return f"SELECT NULL{'' if everything else ' WHERE $1::text[] IS NULL'} LIMIT 0"
    return f"{' UNION ALL '.join(parts)} ORDER BY place NULLS LAST, key"


def forget_row(table: str, kind: str) -> str:
    """Remove the row of a run ($1) and its stored document."""
    document = f"DELETE FROM lens_documents WHERE kind = '{kind}' AND run_id = $1::text AND key = ''"
    return f"WITH forgotten AS ({document}) DELETE FROM {table} WHERE run_id = $1::text"


def put(table: str, key: str, kind: str, shape: Shape) -> str:
    """Insert a row, or update the one with its key. Returns an empty text, its digest and its columns.

    The stored document of the row is removed; it is stored again if the row cannot represent all of it.
    """
    there = _there(table, shape)
    names = ", ".join(name for name, _ in there)
    values = ", ".join(_PARAMETERS[kind].format(f"${at}") for at, (_, kind) in enumerate(there, 1))
    update = ", ".join(f"{name} = EXCLUDED.{name}" for name, _ in there if name != key)
    return f"""
WITH forgotten AS (DELETE FROM lens_documents WHERE kind = '{kind}' AND run_id = $1::text AND key = '')
INSERT INTO {table} AS t ({names}) VALUES ({values}) ON CONFLICT ({key}) DO UPDATE SET {update}
RETURNING '', md5(t::text), {columns(table, "t", shape)}"""


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


KEEP = """INSERT INTO lens_documents (kind, run_id, key, document, stamp)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[])
ON CONFLICT (run_id, kind, key) DO UPDATE SET document = EXCLUDED.document, stamp = EXCLUDED.stamp"""
"""Stores documents that rows cannot represent, from arrays, one a column."""


DELETE_SPANS = """DELETE FROM spans s USING unnest($1::text[], $2::text[]) AS u (run_id, span_id)
WHERE s.run_id = u.run_id AND s.span_id = u.span_id RETURNING s.run_id, s.id::text"""


def _there(table: str, shape: Shape) -> list[tuple[str, str]]:
    return [(name, kind) for name, kind in COLUMNS[table].items() if name in shape.columns.get(table, ())]


def lock(shape: Shape) -> str:
    """Lock ids ($1) of a namespace ($2) for those who ask as we do, and their rows for everybody; each in an order."""
    parts = {
        "held": """SELECT pg_advisory_xact_lock(1818585715, lock) FROM (
          SELECT DISTINCT hashtext($2::text || id) AS lock FROM unnest($1::text[]) AS id ORDER BY lock) AS locks"""
    }
    for table in ("runs", "workflow_state"):
        if shape.has(table):
            rows = f"SELECT run_id FROM {table} WHERE run_id = ANY($1::text[])"
            parts[f"of_{table}"] = f'{rows} ORDER BY run_id COLLATE "C" FOR UPDATE'
    tables = ", ".join(f"{name} AS MATERIALIZED ({sql})" for name, sql in parts.items())
    return f"WITH {tables} SELECT " + ", ".join(f"(SELECT count(*) FROM {name})" for name in parts)


def lock_free(shape: Shape) -> str:
    """Lock those of ids ($1), of a namespace ($2), that nobody has locked, and return them.

    Of a row that another transaction is changing nothing is waited for: this transaction holds up nobody.
    """
    mine = "pg_try_advisory_xact_lock(1818585715, hashtext($2::text || id))"
    parts = [f"held AS MATERIALIZED (SELECT id FROM unnest($1::text[]) AS id WHERE {mine})"]
    free = []
    for table in ("runs", "workflow_state"):
        if shape.has(table):
            rows = f"SELECT run_id FROM {table} WHERE run_id = ANY($1::text[]) FOR UPDATE SKIP LOCKED"
            parts.append(f"of_{table} AS MATERIALIZED ({rows})")
            there = f"EXISTS (SELECT FROM {table} t WHERE t.run_id = held.id)"
            free.append(f"(held.id IN (SELECT run_id FROM of_{table}) OR NOT {there})")
    return f"WITH {', '.join(parts)} SELECT id FROM held WHERE {' AND '.join(free) or 'true'}"


def storable(texts: Iterable[str]) -> list[str]:
    """Each of these texts once, without those that PostgreSQL has no place for."""
    return [text for text in dict.fromkeys(texts) if "\0" not in text]


def statuses_stored(wanted: RunFilter) -> tuple[frozenset[str], frozenset[str]] | None:
    """Which statuses states can have, and runs without one, that a filter admits; None if it admits any.

    A state may say failed of a run that was cancelled, and paused of one that failed (see `interpret.status_of`).
    """
    asked = wanted.statuses
    if not asked or UNREADABLE in asked or not are_plain(asked):
        return None
    more = {"failed"} if "cancelled" in asked else set()
    return asked | more | ({"paused"} if "failed" in asked else set()), asked


def are_plain(texts: Iterable[str]) -> bool:
    """Whether the columns hold these texts as they are."""
    return not any("\0" in text or "\ufffd" in text for text in texts)
