"""Dropping parts of runs whose rows stay, and putting them back, on tables of any version.

The rules are those of `flujo_lens.state.stripped`. Each function is called inside a transaction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from flujo_lens.errors import CorruptStoreError, LensError
from flujo_lens.serialization import safe_dumps
from flujo_lens.serialization.codec import StateCodec
from flujo_lens.serialization.envelope import is_sealed
from flujo_lens.state import stripped as rules
from flujo_lens.state.backends.core.strip_notes import note_bytes, notes_in
from flujo_lens.state.backends.sqlite.deletion import queries
from flujo_lens.state.backends.sqlite.deletion.queries import ROWID
from flujo_lens.state.backends.sqlite.deletion.run_records import decoded
from flujo_lens.state.backends.sqlite.engine.session import Session, as_text, page_ids
from flujo_lens.state.backends.sqlite.schema import lens_tables
from flujo_lens.state.backends.sqlite.writes import queries as writes
from flujo_lens.state.backends.sqlite.writes.key_values import values_of
from flujo_lens.state.deletion import DeletionRequest
from flujo_lens.state.interpret import BAD, NAMELESS, decode
from flujo_lens.state.stripped import Stripped
from flujo_lens.state.timestamps import parse_instant
from flujo_lens.state.views import RunSummary

SPAN_TABLES = ("spans", "traces")
_WS, _RUNS = "workflow_state", "runs"
_HEAVY_OF_STATE = ("pipeline_context", "last_step_output", "step_history")
_HEAVY_OF_RUN = ("final_context_blob",)


class _Light(NamedTuple):
    """Columns of a state that change, how many of its entries lose outputs, and about how many bytes go."""

    columns: Mapping[str, Any]
    outputs: int
    size: int


class _Heavy(NamedTuple):
    """Where runs hold something of some parts: columns of their states, steps and metadata; tables of their spans."""

    parts: Collection[str]
    state: Sequence[str]
    steps: Sequence[str]
    run: Sequence[str]
    spans: Sequence[str]

    @classmethod
    def of(cls, session: Session, parts: Collection[str]) -> _Heavy:
        """That of a store."""
        has = session.shape.has
        state, steps, run = (
            heavy_columns(session, table, parts) if has(table, "run_id") else [] for table in (_WS, "steps", _RUNS)
        )
        spans = [table for table in SPAN_TABLES if "spans" in parts and has(table, "run_id")]
        return cls(parts, state, steps, run, spans)


def heavy_columns(session: Session, table: str, parts: Collection[str]) -> list[str]:
    """The columns of a table that hold something of these parts, and can be empty."""
    rows = session.rows(f"PRAGMA table_info({table})").fetchall()
    free = {row[1].lower() for row in rows if not row[3] and not row[5]}
    if table == "steps":
        return sorted(free - rules.STEP_FIELDS) if "outputs" in parts else []
    if table == _RUNS:
        return [name for name in _HEAVY_OF_RUN if name in free and "state" in parts]
    parts_of = {"pipeline_context": {"state"}, "last_step_output": {"outputs"}, "step_history": {"outputs", "state"}}
    there = session.shape.columns.get(table, frozenset())
    return [name for name in _HEAVY_OF_STATE if name in there and parts_of[name] & set(parts)]


def note_of(session: Session, run_id: str) -> Stripped | None:
    """What a run has lost, whatever became of it since."""
    return notes_in(values_of(session.connection, "strip", [run_id])).get(run_id)


def write_note(session: Session, run_id: str, note: Stripped | None) -> None:
    """Put a note in the place of that before; None removes it."""
    db = session.connection
    lens_tables.make(db, lens_tables.STRIPS)
    if note is None:
        db.execute(writes.REMOVE_VALUE["strip"], (run_id,))
    else:
        db.execute(writes.PUT_VALUE["strip"], (run_id, note_bytes(note).decode()))


def begin(session: Session, ages: Mapping[str, datetime | None], asked: DeletionRequest) -> None:
    """Note that these runs are being stripped, before a part of their rows goes: the next strip finishes it."""
    for run in page_ids(session, list(ages), details=False):
        note = _note(session, run, ages[run.run_id], asked)
        write_note(session, run.run_id, note._replace(is_whole=False))


def _note(session: Session, run: RunSummary, age: datetime | None, asked: DeletionRequest) -> Stripped:
    earlier = Stripped.earlier(note_of(session, run.run_id), run.updated_at)
    steps = 0
    if session.shape.has("steps", "run_id"):
        steps = int(session.value("SELECT count(*) FROM steps WHERE run_id = ?", (run.run_id,)))
    parts = {**dict.fromkeys(asked.strip, asked.now), **earlier.parts}
    return Stripped(parts, run.updated_at, age, steps, left_out=earlier.left_out)


def strip_runs(
    session: Session, ids: Sequence[Any], ages: Mapping[str, datetime | None], asked: DeletionRequest
) -> tuple[dict[str, int], dict[str, str]]:
    """Drop the parts of these runs (ids as they are stored); how many rows lost something, and who stays as it is."""
    dropped, refused, lights = Counter[str](), dict[str, str](), dict[Any, _Light]()
    heavy = _Heavy.of(session, asked.strip)
    for run_id in ids:
        try:
            lights[run_id] = _light(session, run_id, heavy)
        except LensError as error:
            refused[as_text(run_id)] = "unreadable" if isinstance(error, CorruptStoreError) else "sealed"
    runs = {run.run_id: run for run in page_ids(session, [as_text(i) for i in lights], details=False)}
    notes = {name: _note(session, run, ages.get(name), asked) for name, run in runs.items()}
    for run_id, light in lights.items():
        name = as_text(run_id)
        dropped += _strip(session, run_id, light, heavy, runs[name].status if name in runs else "")
    if "spans" in asked.strip:
        _keep_names(session, runs)
    for name, note in notes.items():
        write_note(session, name, note)
    return dict(dropped), refused


def weigh(session: Session, ids: Sequence[Any], parts: Collection[str]) -> tuple[Counter[str], int]:
    """How many rows of runs (ids as they are stored) would lose something, and about how many bytes that is."""
    heavy, dropped, size = _Heavy.of(session, parts), Counter[str](), 0
    statuses = {run.run_id: run.status for run in page_ids(session, [as_text(i) for i in ids], details=False)}
    for run_id in ids:
        try:
            light = _light(session, run_id, heavy)
        except LensError:
            continue
        lost, taken = _weigh(session, run_id, light, heavy, statuses.get(as_text(run_id), ""))
        dropped += lost
        size += taken
    return dropped, size


def _weigh(session: Session, run_id: Any, light: _Light, heavy: _Heavy, status: str) -> tuple[Counter[str], int]:
    dropped, size = Counter[str](), light.size
    for table in heavy.spans:
        but = rules.OPEN_SPAN if _keeps_open(session, table, status) else ""
        sql = queries.size_of(table, session.shape.columns[table], 1, but)
        dropped[table], taken = session.rows(sql, (run_id,)).fetchone()
        size += taken or 0
    outputs, taken = _weigh_columns(session, "steps", run_id, heavy.steps)
    metadata, more = _weigh_columns(session, _RUNS, run_id, heavy.run)
    dropped["outputs"] += outputs or light.outputs
    dropped["states"] += bool(metadata or light.columns)
    return +dropped, size + taken + more


def _weigh_columns(session: Session, table: str, run_id: Any, columns: Sequence[str]) -> tuple[int, int]:
    if not columns:
        return 0, 0
    count, size = session.rows(queries.size_of_some(table, columns, 1), (run_id,)).fetchone()
    return int(count), int(size or 0)


def _keeps_open(session: Session, table: str, status: str) -> bool:
    return status != "completed" and session.shape.has(table, "end_time", "parent_span_id")


def _strip(session: Session, run_id: Any, light: _Light, heavy: _Heavy, status: str) -> Counter[str]:
    dropped = Counter[str]()
    for table in heavy.spans:
        keeps = _keeps_open(session, table, status)
        sql = queries.delete_closed(table) if keeps else queries.delete(table, 1)
        dropped[table] += session.rows(sql, (run_id,)).rowcount
    dropped["outputs"] += _emptied(session, "steps", run_id, heavy.steps) or light.outputs
    changed = _emptied(session, _RUNS, run_id, heavy.run)
    if light.columns:
        sets = ", ".join(f"{name} = ?" for name in light.columns)
        session.rows(f"UPDATE {_WS} SET {sets} WHERE run_id = ?", (*light.columns.values(), run_id))
    dropped["states"] += bool(changed or light.columns)
    return +dropped


def _emptied(session: Session, table: str, run_id: Any, columns: Sequence[str]) -> int:
    """Empty columns of a run's rows; how many had something in them."""
    if not columns:
        return 0
    return session.rows(queries.emptied(table, columns), (run_id,)).rowcount


def _light(session: Session, run_id: Any, heavy: _Heavy) -> _Light:
    """The columns of a run's state without the parts.

    Raises:
        LensError: one is sealed, and its key is not here; or it does not parse.
    """
    columns, parts = heavy.state, heavy.parts
    row = session.rows(writes.fields_of_run(_WS, columns), {"run": run_id}).fetchone() if columns else None
    changed: dict[str, Any] = {}
    outputs = 0
    for name, stored in zip(columns, row or (), strict=False):
        if stored is None:
            continue
        if name == "last_step_output":
            changed[name] = None
            continue
        value = opened(as_text(run_id), name, stored)
        light = rules.light_context(value) if name == "pipeline_context" else rules.light_history(value, parts)
        if light != value:
            changed[name] = sealed_as(as_text(run_id), name, light, stored)
        if name == "step_history" and isinstance(value, list) and "outputs" in parts:
            outputs = sum(new != old for new, old in zip(light, value, strict=True))
    sizes = [
        _length(stored) - _length(changed.get(name, stored)) for name, stored in zip(columns, row or (), strict=False)
    ]
    return _Light(changed, outputs, sum(sizes))


def _length(stored: Any) -> int:
    return len(stored) if isinstance(stored, str | bytes) else 0


def opened(run_id: str, name: str, stored: Any) -> Any:
    """The value of a column.

    Raises:
        SealedStateError: its key is not here.
        CorruptStoreError: it does not parse.
    """
    if is_sealed(stored):
        return StateCodec().value(run_id, name, stored)
    value = decode(stored, printable=False)
    if value is BAD:
        raise CorruptStoreError(
            f"{name} of run {run_id} does not parse", hint="lens doctor --full lists such runs", run_id=run_id
        )
    return value


def sealed_as(run_id: str, name: str, value: Any, before: Any) -> str | bytes:
    """The content of a column, sealed if that before it was."""
    if is_sealed(before):
        return StateCodec().resealed(run_id, name, value, before)
    return safe_dumps(value).decode()


def _keep_names(session: Session, before: Mapping[str, RunSummary]) -> None:
    """Give runs the names of their pipelines that their spans alone have."""
    if not session.shape.has(_RUNS, "pipeline_name", "pipeline_version"):
        return
    for run in page_ids(session, list(before), details=False):
        was = before[run.run_id]
        if run.pipeline_name in NAMELESS and was.pipeline_name not in NAMELESS:
            values = (was.pipeline_name, was.pipeline_version, run.run_id)
            session.rows(f"UPDATE {_RUNS} SET pipeline_name = ?, pipeline_version = ? WHERE run_id = ?", values)


# --- putting back what a strip dropped, from the rows that were copied before


Tables = Mapping[str, Any]


def put_parts_back(
    session: Session,
    run_id: Any,
    strip: Mapping[str, Any],
    records: Iterable[Tables],
    insert: Callable[[str, Mapping[str, Any]], None],
) -> bool:
    """Put back what one strip dropped of a run; False, and nothing done, if the run has changed since.

    Args:
        session: The store, inside a transaction.
        strip: The parts, and when.
        records: The rows of the run by table, record by record.
        insert: Inserts rows of a table.
    """
    note, at = note_of(session, run_id), parse_instant(strip["at"])
    parts = {part for part in strip["parts"] if note is not None and note.parts.get(part) == at}
    updated = [run.updated_at for run in page_ids(session, [run_id], details=False)]
    if note is None or not parts or not updated or not note.is_of(updated[0]):
        return False
    if "outputs" in parts and _steps(session, run_id) != note.steps:
        return False
    is_all = parts == note.parts.keys()
    for tables in records:
        is_all = is_all and lens_tables.STRIPS not in tables  # else it lacked parts already
        for table, kept in tables.items():
            if table in SPAN_TABLES and "spans" in parts:
                _clear(session, table, kept)
                insert(table, kept)
            elif table in ("steps", "runs", "workflow_state"):
                _fill(session, table, kept, parts, is_all)
    left = {part: when for part, when in note.parts.items() if part not in parts}
    write_note(session, run_id, note._replace(parts=left, is_whole=True) if left else None)
    return True


def _clear(session: Session, table: str, kept: Mapping[str, Any]) -> None:
    """Remove those of these rows that stayed: an open span, and what an interrupted strip left."""
    at, run = kept["columns"].index(ROWID), kept["columns"].index("run_id")
    keys = [(row[at], decoded(row[run])[0]) for row in kept["rows"]]
    session.connection.executemany(f"DELETE FROM {table} WHERE rowid = ? AND run_id = ?", keys)


def _steps(session: Session, run_id: Any) -> int:
    if not session.shape.has("steps", "run_id"):
        return 0
    return int(session.value("SELECT count(*) FROM steps WHERE run_id = ?", (run_id,)))


def _fill(session: Session, table: str, kept: Mapping[str, Any], parts: Collection[str], is_all: bool) -> None:
    """Give the heavy columns of rows the values that they had."""
    names = kept["columns"]
    columns = [name for name in heavy_columns(session, table, parts) if name in names]
    for row in kept["rows"] if columns else ():
        values = dict(zip(names, map(decoded, row), strict=True))
        key, where = ("run_id", "run_id = ?") if table != "steps" else (ROWID, "rowid = ?")
        given = [values[name] for name in columns]
        if not is_all and "step_history" in columns:
            given[columns.index("step_history")] = _merged(session, values, parts)
        sets = ", ".join(f"{n} = {'CAST(? AS TEXT)' if v[1] else '?'}" for n, v in zip(columns, given, strict=True))
        session.rows(
            f"UPDATE {table} SET {sets} WHERE {where} AND run_id = ?",
            (*(value for value, _ in given), values[key][0], values["run_id"][0]),
        )


def _merged(session: Session, values: Mapping[str, Any], parts: Collection[str]) -> tuple[Any, bool]:
    """The step history with the parts that are back, and without those that stay dropped."""
    run_id = values["run_id"][0]
    now = session.value("SELECT step_history FROM workflow_state WHERE run_id = ?", (run_id,))
    before = values["step_history"][0]
    if now is None or before is None:
        return now, False
    whole = rules.whole_history(opened(run_id, "step_history", now), opened(run_id, "step_history", before), parts)
    return sealed_as(run_id, "step_history", whole, now), False
