"""The saved state of one run, as an application gets it back: the way that is taken after every step."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from flujo_lens.errors import RESTORE, CorruptStoreError
from flujo_lens.state.backends.sqlite.engine.engine_errors import ENGINE_ERRORS

if TYPE_CHECKING:
    from flujo_lens.state.backends.sqlite.engine.read_connection import Reader
    from flujo_lens.state.backends.sqlite.engine.session import Session

_SELECT = "SELECT * FROM workflow_state WHERE run_id = ?"
_BLOBS: dict[str, Callable[[], Any]] = {
    "pipeline_context": dict,
    "last_step_output": lambda: None,
    "step_history": list,
    "metadata": dict,
}
"""The columns that hold JSON, and what stands for NULL."""


Opener = Callable[[str, str, Any], Any]
"""What makes the value of a blob, given the run's id and the name of the field."""


def load(reader: Reader, session: Callable[[], Session], value: Opener, run_id: str) -> dict[str, Any] | None:
    """The state of a run; None if there is none.

    Blobs are decoded; one that is not there, or is an empty text, is empty.
    ``created_at`` and ``updated_at`` are datetimes, naive where the store's are, as the library returns them; a
    text that is no time is kept. Columns that are not known are kept as they are.

    One statement is a snapshot by itself and needs no transaction. Whatever stands in its way is dealt with by
    `Reader.run`.

    Raises:
        CorruptStoreError: a blob is no JSON, or it is sealed and damaged.
    """
    try:
        found = _row(reader.connection(), run_id)
        if not reader.unchanged():
            found = reader.run(lambda db: _row(db, run_id))
    except ENGINE_ERRORS:
        found = reader.run(lambda db: _row(db, run_id) if session().shape.has("workflow_state") else None)
    return None if found is None else _state(found, value, run_id)


def _row(db: sqlite3.Connection, run_id: str) -> dict[str, Any] | None:
    try:
        cursor = db.execute(_SELECT, (run_id,))
    except UnicodeEncodeError:  # a lone surrogate, which no id in a store has
        return None
    row = cursor.fetchone()
    return (
        None
        if row is None
        else {column[0].lower(): value for column, value in zip(cursor.description, row, strict=True)}
    )


def open_blobs(found: dict[str, Any], value: Opener, run_id: str) -> None:
    """Put the values of the blobs of a row in their place.

    Raises:
        CorruptStoreError: one is no JSON. Its text will not do: saved again, it would be valid, and the loss hidden.
        LensError: what `value` raises.
    """
    for name, make in _BLOBS.items():
        blob = found.get(name)
        found[name] = make() if blob in (None, "") else value(run_id, name, blob)
        if blob and found[name] is blob and isinstance(blob, str | bytes):
            raise CorruptStoreError(f"{name} of run {run_id} is no JSON", hint=RESTORE, run_id=run_id, field=name)


def _state(found: dict[str, Any], value: Opener, run_id: str) -> dict[str, Any]:
    open_blobs(found, value, run_id)
    for name in ("created_at", "updated_at"):
        found[name] = _time(found.get(name))
    if "is_background_task" in found:
        found["is_background_task"] = bool(found["is_background_task"])
    return found


def _time(text: Any) -> Any:
    try:
        return datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return text
