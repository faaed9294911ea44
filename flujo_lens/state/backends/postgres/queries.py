"""The SQL, by name. Ids are ordered by their code points (``COLLATE "C"``), as everywhere in lens.

Pages are keyset pages in row form: with an ``OR`` in its place PostgreSQL reads the whole index. What is missing from a
store (a half made schema, no tables of ours) is left out of a statement by its `Shape`.
"""

from __future__ import annotations

from collections.abc import Sequence

from flujo_lens.state.backends.postgres.tables import COLUMNS, LENS_TABLES, LIBRARY_TABLES, Shape

__all__ = [
    "FIRST",
    "LAST",
    "SHAPE",
    "children",
    "children_alone",
    "columns",
    "keys_page",
    "keys_unreadable",
    "lock_rows",
    "put",
    "runs",
]

FIRST, LAST = "0001-01-01 00:00:00+00", "9999-12-31 23:59:59.999999+00"
"""What Python's calendar has; PostgreSQL has infinities and 294,276 years."""

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


def columns(table: str, alias: str, shape: Shape) -> str:
    """The columns of a table as `mapping.document_of` takes them; NULL for one that is missing."""
    there = shape.columns.get(table, frozenset())
    shown = [
        _KINDS.get(kind, "{0}").format(f"{alias}.{name}") if name in there else "NULL"
        for name, kind in COLUMNS[table].items()
    ]
    return ", ".join(shown)


def _exact(kind: str, alias: str, key: str, shape: Shape) -> str:
    """A join with the document that was kept beside a row, if the row is still the same."""
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
    """Ids and starts of a page of runs: $1 the limit, then the border's start and id.

    First a page of ``runs``, off its index of starts; then the states without a run (background tasks) that began
    within that page. A run starts when its row says, a state without one when it was first saved.
    """
    way, beyond = ("ASC", ">") if reverse else ("DESC", "<")
    after = f'AND (t.created_at, t.run_id COLLATE "C") {beyond} ($2::timestamptz, $3::text)' if has_border else ""
    span = f"t.created_at BETWEEN '{FIRST}' AND '{LAST}' {after}"
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
    return "AND NOT EXISTS (SELECT FROM runs r WHERE r.run_id = t.run_id)" if shape.has("runs") else ""


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
    """The rows of one kind, oldest first: run, document kept beside, columns. $1 are the runs unless `everything`."""
    where = "" if everything else "WHERE t.run_id = ANY($1::text[])"
    return f"""
SELECT t.run_id, d_t.document, {columns(table, "t", shape)}
FROM {table} t {_exact(kind, "t", "t.id::text", shape)} {where} ORDER BY t.id"""


def children_alone(everything: bool) -> str:
    """Documents of children that the library's tables have no row for: those of unknown runs."""
    some = "" if everything else "AND run_id = ANY($2::text[])"
    return f"SELECT run_id, document FROM lens_documents WHERE kind = $1 AND stamp IS NULL {some} ORDER BY key"


def put(table: str, conflict: str | None, shape: Shape) -> str:
    """Insert rows from arrays, one a column; update those that are there. Returns key, digest and columns."""
    there = [(name, kind) for name, kind in COLUMNS[table].items() if name in shape.columns.get(table, ())]
    names = ", ".join(name for name, _ in there)
    values = ", ".join(_PARAMETERS[kind].format(f"${at}") for at, (_, kind) in enumerate(there, 1))
    update = ""
    if conflict is not None:
        changed = [name for name, _ in there if name != conflict]
        update = f"ON CONFLICT ({conflict}) DO UPDATE SET " + ", ".join(f"{name} = EXCLUDED.{name}" for name in changed)
    key = "''" if conflict is not None else "t.id::text"
    return f"""
INSERT INTO {table} AS t ({names}) VALUES ({values}) {update}
RETURNING {key}, md5(t::text), {columns(table, "t", shape)}"""


def lock_rows(table: str) -> str:
    """Lock the rows of runs until the transaction ends, in a fixed order."""
    return f'SELECT run_id FROM {table} WHERE run_id = ANY($1::text[]) ORDER BY run_id COLLATE "C" FOR UPDATE'


def delete_from(tables: Sequence[str]) -> list[str]:
    """Delete the rows of runs, children first."""
    return [f"DELETE FROM {table} WHERE run_id = ANY($1::text[])" for table in tables]
