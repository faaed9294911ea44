"""What marks a run against deletion, or for it: the claims of living processes, and deletions that began.

The deletion of a run with very many rows is several transactions: the first marks it, the last takes the mark away
with the run. A process that dies between them leaves the mark, and the next plan has the run. One that is saved after
its deletion began is no longer to go, and loses the mark.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from flujo_lens.state.backends.sqlite.engine.session import Session, as_text
from flujo_lens.state.backends.sqlite.schema import lens_tables
from flujo_lens.state.backends.sqlite.writes.key_values import claims_of


def read_held(session: Session, now: datetime, run_ids: Sequence[Any] | None = None) -> dict[str, str]:
    """The runs (of these, unless None) that a living process holds, and which one."""
    found = claims_of(session.connection, None if run_ids is None else [as_text(run_id) for run_id in run_ids])
    return {run_id: str(claim.holder) for run_id, claim in found.items() if not claim.has_ended(now)}


def unfinished_ids(session: Session) -> list[Any]:
    """The runs whose deletion began."""
    if not lens_tables.is_there(session.connection, lens_tables.DELETIONS):
        return []
    return [row[0] for row in session.rows(f"SELECT run_id FROM {lens_tables.DELETIONS} ORDER BY began_at")]


def sign_of(db: sqlite3.Connection, run_id: Any) -> str | None:
    """The last sign of a run when its deletion began; None if it did not."""
    if not lens_tables.is_there(db, lens_tables.DELETIONS):
        return None
    row = db.execute(f"SELECT sign FROM {lens_tables.DELETIONS} WHERE run_id = ?", (run_id,)).fetchone()
    return None if row is None else str(row[0])


def mark(db: sqlite3.Connection, run_id: Any, now: datetime, sign: str) -> None:
    """Say that the deletion of a run began; inside a transaction.

    Args:
        db: The connection.
        run_id: The run.
        now: The current time.
        sign: What every save of the run changes, whatever the clock says.
    """
    lens_tables.make(db, lens_tables.DELETIONS)
    sql = f"REPLACE INTO {lens_tables.DELETIONS} (run_id, began_at, sign) VALUES (?, ?, ?)"
    db.execute(sql, (run_id, now.isoformat(), sign))


def unmark(db: sqlite3.Connection, run_id: Any) -> None:
    """Take the mark away, in the transaction in which the run goes, or is seen to have been saved since."""
    if lens_tables.is_there(db, lens_tables.DELETIONS):
        db.execute(f"DELETE FROM {lens_tables.DELETIONS} WHERE run_id = ?", (run_id,))
