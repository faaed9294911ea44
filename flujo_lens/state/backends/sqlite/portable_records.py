"""Portable records (see `flujo_lens.state.portable`) of rows of any version of the library's schema, and back.

Both directions go by the records of `flujo_lens.state.backends.sqlite.deletion.run_records`, so that they are read and
restored as those are, and archives of a deletion have a portable form, too.
"""

from __future__ import annotations

import sqlite3
from base64 import b64decode
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, tzinfo
from functools import cache
from typing import TYPE_CHECKING, Any

from flujo_lens.serialization.envelope import ARMOUR, armour, is_sealed
from flujo_lens.serialization.exact import exact_dumps, exact_loads
from flujo_lens.state.backends.sqlite.deletion.delete_rows import count_rows
from flujo_lens.state.backends.sqlite.deletion.run_records import (
    KEPT_OF_OURS,
    NoText,
    decoded,
    encoded,
    large_records,
    read_rows,
    stored_value,
    tables_of,
)
from flujo_lens.state.backends.sqlite.engine.session import Session, as_text
from flujo_lens.state.backends.sqlite.schema import lens_tables
from flujo_lens.state.backends.sqlite.schema.migrations import moved
from flujo_lens.state.backends.sqlite.schema.tables import TABLES, WRITTEN_COLUMNS
from flujo_lens.state.backends.sqlite.writes import queries
from flujo_lens.state.backends.sqlite.writes.key_values import values_of
from flujo_lens.state.backends.sqlite.writes.row_values import column_value
from flujo_lens.state.numbers import as_number
from flujo_lens.state.portable import (
    MARK,
    plain_evaluation,
    plain_run,
    plain_span,
    plain_state,
    plain_step,
    run_of_state,
)
from flujo_lens.state.traces import spans_of_tree
from flujo_lens.state.zones import guess_zone

if TYPE_CHECKING:
    from flujo_lens.state.deletion import Record

_LARGE = 20_000
_Row = tuple[tuple[str, ...], Sequence[Any]]
"""The columns of a stored row, and its values."""

_JSON = {
    "workflow_state": ("pipeline_context", "last_step_output", "step_history", "metadata"),
    "runs": ("final_context_blob",),
    "steps": ("output", "raw_response", "input_blob", "error_blob"),
    "spans": ("attributes",),
    "evaluations": ("metadata",),
}
"""Columns that hold JSON, or sealed bytes."""

_KNOWN = frozenset({*TABLES, *KEPT_OF_OURS}) - {"system_state"}
"""The tables of which a record has rows."""

_FIELD_OF = {"final_context_blob": "final_context", "input_blob": "input", "error_blob": "error"}
_STEP_COLUMNS = ("input_blob", "error_blob", "start_time", "end_time")
"""Columns of ``steps`` that 0.6.11 does not have; made when a step needs one."""
_STEP_FIELDS = tuple((column, _FIELD_OF.get(column, column)) for column in _STEP_COLUMNS)

_OURS = {
    "workflow_state": ("rowid",),
    "runs": ("rowid",),
    "steps": ("rowid", "id", "step_run_id"),
    "spans": ("rowid", "id", "created_at"),
    "evaluations": ("rowid", "id"),
}
"""Columns that number rows, or say when a row of a span was written: no part of a run."""

_MUSTS: dict[str, dict[str, Any]] = {
    "workflow_state": {
        "pipeline_id": "unknown", "pipeline_name": "unknown", "pipeline_version": "latest", "current_step_index": 0,
        "status": "running", "created_at": "", "updated_at": "", "total_steps": 0, "is_background_task": 0,
    },
    "runs": {
        "pipeline_id": "unknown", "pipeline_name": "unknown", "pipeline_version": "latest", "status": "running",
        "created_at": "", "updated_at": "", "total_steps": 0,
    },
    "steps": {"step_name": "unknown", "step_index": 0, "status": "completed", "created_at": ""},
    "spans": {"name": "unknown", "start_time": 0.0, "status": "running", "created_at": ""},
    "evaluations": {"score": 0.0, "created_at": ""},
}  # fmt: skip
"""What stands in columns that must have a value, where a document has none."""

_USUAL_SPANS = frozenset(
    (str, type(parent), str, type(start), type(end), str, dict)
    for parent in ("", None)
    for start in (0, 0.0)
    for end in (0, 0.0, None)
)
"""The types of the values of nearly all spans."""

_TABLES = {"steps": "steps", "spans": "spans", "evaluations": "evaluations"}

FIELDS: Mapping[str, frozenset[str]] = {
    kind: frozenset({*(_FIELD_OF.get(name, name) for name in (*WRITTEN_COLUMNS[table], *more)), MARK})
    for kind, table, more in (
        ("state", "workflow_state", ()),
        ("run", "runs", ()),
        ("steps", "steps", _STEP_COLUMNS),
        ("spans", "spans", ()),
        ("evaluations", "evaluations", ()),
    )
}
"""The fields that the tables have a column for."""


# --- reading


def read_portable(session: Session, run_ids: Sequence[str]) -> Iterator[Record]:
    """Yield the records of these runs; none of one that is not there. A manifest is in the first run of it."""
    seen: set[str] = set()
    begun: set[str] = set()
    if not session.shape.odd and count_rows(session, run_ids, _LARGE) >= _LARGE:
        stored = map(_without_trace, (record for record, _ in large_records(session, run_ids)))
        records = portable_records(stored, session.zone, is_set=session.zone_is_set)
    else:
        records = _whole_runs(session, run_ids)
    for record in records:
        if record["run_id"] not in begun and record.keys() <= {"run_id", "last"}:
            continue
        begun.add(record["run_id"])
        digest = record.get("manifest")
        if digest is not None and digest not in seen:
            seen.add(digest)
            found = values_of(session.connection, "manifest", [digest])
            record |= {"manifest_document": exact_loads(found[digest])} if digest in found else {}
        yield record


def _whole_runs(session: Session, run_ids: Sequence[str]) -> Iterator[Record]:
    """One record a run, straight from its rows."""
    try:
        found = _rows_by_run(session, run_ids, any_text=False)
    except sqlite3.OperationalError:  # a text that is no UTF-8; or what will come up again
        found = _rows_by_run(session, run_ids, any_text=True)
    for run_id, tables in found.items():
        if tables:
            yield _portable_or_problem(as_text(run_id), tables, session.zone, session.zone_is_set) | {"last": True}


def _rows_by_run(session: Session, run_ids: Sequence[str], *, any_text: bool) -> dict[Any, dict[str, list[_Row]]]:
    found: dict[Any, dict[str, list[_Row]]] = {run_id: {} for run_id in run_ids}
    for table, columns, run_id, row in read_rows(session, run_ids, tables_of(session), any_text=any_text):
        # Where a column compares ids in a way of its own, one finds rows that spell it differently.
        found.setdefault(run_id, {}).setdefault(table, []).append((columns, row))
    return found


def _without_trace(record: Record) -> Record:
    """A part of a run with very many rows: a stored tree repeats the spans, which are in other parts."""
    return {**record, "tables": {table: kept for table, kept in record["tables"].items() if table != "traces"}}


def portable_records(records: Iterable[Record], zone: tzinfo, *, is_set: bool = False) -> Iterator[Record]:
    """The portable form of stored records.

    Args:
        zone: The zone of naive times in states.
        is_set: Whether it holds for runs whose own times tell another one.

    Raises:
        ValueError, TypeError, KeyError: a record does not have the form of one.
    """
    for stored in records:
        if not stored.get("tables"):
            if stored.get("last") is True and "tables" in stored:
                yield {"run_id": stored["run_id"], "last": True}
            continue
        last = {"last": True} if stored.get("last") is True else {}
        try:
            tables = _checked(stored)
        except ValueError as error:
            yield {"run_id": stored["run_id"], "problem": str(error)} | last
            continue
        yield _portable_or_problem(stored["run_id"], tables, zone, is_set) | last


def _checked(stored: Record) -> dict[str, list[_Row]]:
    """The rows of a record by table, as they were stored.

    Raises:
        ValueError: it has what no store hands out: other tables, rows of other runs, values that no column holds.
    """
    of_run = stored["run_id"].casefold()  # where a column ignores case, a run has rows that spell its id differently
    tables: dict[str, list[_Row]] = {}
    for table, kept in stored["tables"].items():
        if table not in _KNOWN:
            raise ValueError("it has a table that is not of runs")
        columns, place = tuple(kept["columns"]), kept["columns"].index("run_id")
        for row in kept["rows"]:
            if as_text(decoded(row[place])[0]).casefold() != of_run:
                raise ValueError("it has rows of another run")
            if any(isinstance(value, list) for value in row) or len(row) != len(columns):
                raise ValueError("it has a value that no column can hold")
        tables[table] = [(columns, [stored_value(value) for value in row]) for row in kept["rows"]]
    return tables


def _portable_or_problem(run_id: str, rows: Mapping[str, Sequence[_Row]], zone: tzinfo, is_set: bool) -> Record:
    try:
        return _portable(run_id, rows, zone, is_set)
    except ValueError as error:
        return {"run_id": run_id, "problem": str(error)}


def _portable(run_id: str, rows: Mapping[str, Sequence[_Row]], zone: tzinfo, is_set: bool) -> Record:
    tables = {table: [_values(table, *row) for row in of_table] for table, of_table in rows.items()}
    record: Record = {"run_id": run_id}
    if "workflow_state" in tables or "runs" in tables:
        record |= _heads(tables, zone, is_set)
    lost: Counter[str] = Counter()
    if steps := [plain_step(_moved("steps", row)) for row in tables.get("steps", ())]:
        record["steps"] = steps
    if spans := _spans(tables, lost):
        record["spans"] = spans
    if evaluations := [plain_evaluation(_named(row)) for row in tables.get("evaluations", ())]:
        record["evaluations"] = evaluations
    if record.get("state") and record["run"] is None and (record.get("steps") or record.get("spans")):
        record["run"] = run_of_state(record["state"])
    return record | ({"lost": dict(lost)} if lost else {})


def _heads(tables: Mapping[str, list[dict[str, Any]]], zone: tzinfo, is_set: bool) -> Record:
    state = next(iter(tables.get("workflow_state", ())), None)
    run = next(iter(tables.get("runs", ())), None)
    if state is not None:
        if not is_set and zone is not UTC and run is not None and run.get("end_time"):
            zone = guess_zone([(state.get("updated_at"), run["end_time"])]) or zone
        if "is_background_task" in state:
            state["is_background_task"] = bool(state["is_background_task"])
    bound = next(iter(tables.get(lens_tables.RUN_MANIFESTS, ())), {})
    note = next(iter(tables.get(lens_tables.STRIPS, ())), None)
    return {
        "state": None if state is None else plain_state(state, zone),
        "run": None if run is None else plain_run(_moved("runs", run)),
        "manifest": bound.get("digest"),
        **({} if note is None else {"stripped": exact_loads(note["body"])}),
    }


@cache
def _read_columns(table: str, columns: tuple[str, ...]) -> tuple[tuple[int, str, bool], ...]:
    """Of the columns that are a part of a run, the place, the name, and whether it holds JSON."""
    of_json, ours = _JSON.get(table, ()), _OURS.get(table, ())
    return tuple((at, column, column in of_json) for at, column in enumerate(columns) if column not in ours)


def _values(table: str, columns: tuple[str, ...], row: Sequence[Any]) -> dict[str, Any]:
    """The values of a row by column, JSON parsed."""
    found: dict[str, Any] = {}
    for at, column, is_json in _read_columns(table, columns):
        value = row[at]
        if isinstance(value, bytes):
            value = _bytes(table, column, value)
        elif is_json and value is not None:
            value = _parsed(value)
        found[column] = value
    return found


def _bytes(table: str, column: str, value: bytes) -> Any:
    if is_sealed(value) and not isinstance(value, NoText):
        return armour(value)
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise ValueError(f"its {column} in {table} is not text") from None
    return _parsed(text) if column in _JSON.get(table, ()) else text


def _parsed(value: Any) -> Any:
    """The value of a column of JSON; text that is not JSON is itself."""
    if not isinstance(value, str):
        return value
    try:
        return exact_loads(value)
    except ValueError:
        return value


def _moved(table: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row by the columns of the newest schema; the contents of a column whose place moved are JSON, too."""
    found = moved(table, row, lambda value: value not in (None, ""))
    if table == "steps" and "output_blob" in row and "output" in found:
        found["output"] = _parsed(found["output"])
    return _named(found)


def _named(row: Mapping[str, Any]) -> dict[str, Any]:
    return {_FIELD_OF.get(column, column): value for column, value in row.items()}


def _spans(tables: Mapping[str, list[dict[str, Any]]], lost: Counter[str]) -> list[dict[str, Any]]:
    """The spans, each id once; those of a stored trace tree if there are no others."""
    rows = tables.get("spans", [])
    if not rows:
        trees = (_parsed(row.get("trace_data")) for row in tables.get("traces", ()))
        return [_of_tree(span) for tree in trees if isinstance(tree, dict) for span in spans_of_tree(tree)]
    found = {span["span_id"]: span for span in (_span(row, lost) for row in rows)}
    if len(found) < len(rows):
        lost["earlier spans with the id of a later one"] += len(rows) - len(found)
    return list(found.values())


def _span(row: Mapping[str, Any], lost: Counter[str]) -> dict[str, Any]:
    """A span as lens reads it: a time is a number, attributes are an object, the rest is text."""
    span = plain_span(row)
    if tuple(map(type, span.values())) in _USUAL_SPANS and _are_numbers(span):
        return span
    for name in ("start_time", "end_time"):
        if span[name] is not None and as_number(span[name]) is None:
            lost["times of spans that are not numbers"] += 1
            span[name] = None
    if not isinstance(span["attributes"], dict) and not is_sealed(span["attributes"]):
        span["attributes"] = {"unreadable": span["attributes"]}
    texts = {
        name: str(span[name]) for name in ("span_id", "parent_span_id", "name", "status") if span[name] is not None
    }
    return {**span, "span_id": "None", **texts}


def _are_numbers(span: Mapping[str, Any]) -> bool:
    return all(span[name] is None or as_number(span[name]) is not None for name in ("start_time", "end_time"))


def _of_tree(span: Any) -> dict[str, Any]:
    return plain_span({**span._asdict(), "start_time": span.start, "end_time": span.end, "attributes": span.attributes})


# --- writing


def stored_records(records: Iterable[Record], now: str) -> Iterator[Record]:
    """The stored form of portable records, for a store of the newest schema.

    Args:
        now: The time for rows that say when they were written.
    """
    for record in records:
        tables = {
            table: {"columns": list(columns), "rows": [[encoded(value) for value in row] for row in rows]}
            for table, columns, rows in rows_of(record, now)
        }
        yield {"run_id": record["run_id"], "tables": tables, **({"last": True} if record.get("last") is True else {})}


def rows_of(record: Record, now: str) -> Iterator[tuple[str, tuple[str, ...], list[list[Any]]]]:
    """Yield the rows of a portable record, in the order in which they can be inserted: a table, columns, values.

    Args:
        now: The time for rows that say when they were written.
    """
    run_id = record["run_id"]
    for name, table in (("state", "workflow_state"), ("run", "runs")):
        if record.get(name) is not None:
            yield _table(table, run_id, [record[name]], now)
    for name, table in _TABLES.items():
        if record.get(name):
            yield _table(table, run_id, record[name], now)
    if record.get("manifest") is not None:
        yield lens_tables.RUN_MANIFESTS, ("run_id", "digest"), [[run_id, record["manifest"]]]
    if record.get("stripped"):
        yield lens_tables.STRIPS, ("run_id", "body"), [[run_id, exact_dumps(record["stripped"]).decode()]]


def _table(
    table: str, run_id: str, documents: Sequence[Mapping[str, Any]], now: str
) -> tuple[str, tuple[str, ...], list[list[Any]]]:
    more: tuple[str, ...] = ()
    if table == "steps":
        more = tuple(column for column, field in _STEP_FIELDS if any(row.get(field) is not None for row in documents))
    columns = _written_columns(table, more)
    fixed = {"run_id": run_id, "created_at": now} if table == "spans" else {"run_id": run_id}
    rows = []
    for document in documents:
        row = []
        for _, field, is_json, must in columns:
            value = fixed[field] if field in fixed else document.get(field)
            if value is None:
                row.append(must)
            else:
                row.append(_stored_json(value) if is_json else column_value(value))
        rows.append(row)
    return table, tuple(column[0] for column in columns), rows


@cache
def _written_columns(table: str, more: tuple[str, ...]) -> tuple[tuple[str, str, bool, Any], ...]:
    """Of the columns that are written, the name, the field, whether it holds JSON, and what stands for None."""
    of_json, musts = _JSON[table], _MUSTS[table]
    return tuple(
        (column, _FIELD_OF.get(column, column), column in of_json, musts.get(column))
        for column in (*WRITTEN_COLUMNS[table], *more)
    )


def _stored_json(value: Any) -> str | bytes:
    if isinstance(value, str) and is_sealed(value):
        return b64decode(value[len(ARMOUR) :])
    return exact_dumps(value).decode()


def add_step_columns(db: sqlite3.Connection, records: Iterable[Record]) -> None:
    """Add the columns that steps of these portable records need, if they are not there."""
    needed = {
        column
        for record in records
        for step in record.get("steps", ())
        for column in _STEP_COLUMNS
        if step.get(_FIELD_OF.get(column, column)) is not None
    }
    there = {row[1].lower() for row in db.execute("PRAGMA table_info(steps)")} if needed else set()
    for column in sorted(needed - there):
        db.execute(queries.add_column("steps", column))
