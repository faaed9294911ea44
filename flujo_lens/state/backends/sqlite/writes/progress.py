"""What a runner saves between two steps, as rows made by the caller, and all of them saved in one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from flujo_lens.state.backends.core.validation import check_run_id, check_state
from flujo_lens.state.backends.sqlite.writes import key_values, queries, row_values, save_sql
from flujo_lens.state.claims import Claim, Progress

if TYPE_CHECKING:
    from flujo_lens.serialization.codec import StateCodec


class Rows(NamedTuple):
    """The rows of a `Progress`; None where it has no such part."""

    run_id: str
    state: list[Any] | None
    run: tuple[Any, ...] | None
    step: Mapping[str, Any] | None
    spans: list[tuple[Any, ...]]
    end: Mapping[str, Any] | None
    announced: tuple[Any, ...] | None
    manifest: str | None
    claim: Claim | None

    def tables(self) -> tuple[str, ...]:
        """The tables that must be of the newest schema."""
        has_history = bool(self.run or self.step or self.spans or self.end)
        needs = {"workflow_state": self.state, "runs": has_history, "steps": self.step, "spans": self.spans}
        return tuple(table for table, needed in needs.items() if needed)


def rows_of(codec: StateCodec, progress: Progress) -> Rows:
    """The rows of `progress`, copies of all that is in it.

    Raises:
        ValueError, TypeError: the run id is no text, or a value cannot be serialized.
        InvalidStateError: the state does not fit the model that it is checked against.
    """
    run_id, own = check_run_id(progress.run_id), {"run_id": progress.run_id}
    return Rows(
        run_id,
        _state(codec, progress),
        None if progress.run_start is None else row_values.run_values(codec, {**progress.run_start, **own}),
        None if progress.step is None else row_values.step_values(codec, {**progress.step, **own}),
        row_values.span_values(codec, run_id, list(progress.spans)) if progress.spans else [],
        None if progress.run_end is None else row_values.end_changes(codec, run_id, progress.run_end),
        _announced(codec, progress),
        progress.manifest,
        progress.claim,
    )


def _state(codec: StateCodec, progress: Progress) -> list[Any] | None:
    if progress.state is None:
        return None
    check_state(progress.state)
    codec.check(progress.state)
    return list(row_values.state_values(codec, progress.run_id, progress.state))


def _announced(codec: StateCodec, progress: Progress) -> tuple[Any, ...] | None:
    """The row of the run if no table knows it; None where this progress makes it known, or has no part of it."""
    if progress.state is not None or progress.run_start is not None or not (progress.step or progress.spans):
        return None
    return row_values.announced(codec, {**(progress.step or {}), "run_id": progress.run_id})


def save(db: sqlite3.Connection, rows: Rows, makes_columns: bool) -> bool:
    """Save them; whether a column was made for it. `rows.state` is empty afterwards.

    Raises:
        LostClaimError: the claim is not held any more.
    """
    if rows.claim is not None:
        key_values.beat(db, rows.claim)
    if rows.state is not None:
        _save_state(db, rows.state)
    if rows.run is not None:
        db.execute(queries.SAVE_RUN, rows.run)
    made = rows.step is not None and save_sql.add_step(db, rows.step, rows.announced, makes_columns)
    if rows.spans:
        save_sql.replace_spans(db, rows.run_id, rows.spans, rows.announced)
    if rows.end is not None:
        db.execute(queries.set_by_row("runs", "run_id", list(rows.end)), (*rows.end.values(), rows.run_id))
    if rows.manifest is not None:
        key_values.bind(db, rows.run_id, rows.manifest)
    return made


def _save_state(db: sqlite3.Connection, values: list[Any]) -> None:
    if save_sql.is_large(tuple(values)):
        save_sql.save_large_state(db, values)
    else:
        save_sql.save_state(db, tuple(values), is_newest=True)
        values.clear()
