"""Claims on runs: the SQL that takes, renews, gives up and reads them.

Each function but `read` is called inside a transaction that has the write lock: what it compares with is what it
replaces.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import suppress

from flujo_lens.state.backends.sqlite.engine.session import Session
from flujo_lens.state.backends.sqlite.schema import lens_tables
from flujo_lens.state.claims import Claim, Holder, present

__all__ = ["beat", "read", "release", "take", "take_away"]

_COLUMNS = ("run_id", "token", *Holder._fields, "taken_at", "beat_at", "lease")
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM {lens_tables.CLAIMS}"
_SOME = f"{_SELECT} WHERE run_id IN (SELECT value FROM json_each(?))"
_PUT = f"REPLACE INTO {lens_tables.CLAIMS} ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"
_BEAT = f"UPDATE {lens_tables.CLAIMS} SET beat_at = ? WHERE run_id = ? AND token = ?"
_REMOVE = f"DELETE FROM {lens_tables.CLAIMS} WHERE run_id = ?"
_RELEASE = f"DELETE FROM {lens_tables.CLAIMS} WHERE run_id = ? AND token = ?"


def take(db: sqlite3.Connection, run_id: str, holder: Holder, lease: float) -> Claim:
    """Take a run that nobody has; the time is that of the transaction, not of the wait for it.

    Raises:
        RunHeldError: somebody has it.
    """
    lens_tables.make(db, lens_tables.CLAIMS)
    now = present()
    found = _find(db, run_id)
    if found is not None:
        found.check_free(now)
    claim = Claim.take(run_id, holder, lease, now)
    row = claim.to_dict()
    db.execute(_PUT, [row[column] for column in _COLUMNS])
    return claim


def beat(db: sqlite3.Connection, claim: Claim) -> Claim:
    """Renew a claim.

    Raises:
        LostClaimError: it is not the run's any more.
    """
    beaten = claim.beaten()
    has_table = lens_tables.is_there(db, lens_tables.CLAIMS)
    if not has_table or not db.execute(_BEAT, (beaten.beat_at.isoformat(), claim.run_id, claim.token)).rowcount:
        claim.check_held(_find(db, claim.run_id) if has_table else None)
    return beaten


def release(db: sqlite3.Connection, claim: Claim) -> None:
    """Give a run free, if the claim on it is this one."""
    if lens_tables.is_there(db, lens_tables.CLAIMS):
        db.execute(_RELEASE, (claim.run_id, claim.token))


def take_away(db: sqlite3.Connection, run_id: str, force: bool) -> bool:
    """Remove the claim on a run, whoever has it; without `force` only one that has ended. Whether it is free now."""
    if not lens_tables.is_there(db, lens_tables.CLAIMS):
        return True
    found = _find(db, run_id)
    if found is not None and not force and not found.has_ended(present()):
        return False
    db.execute(_REMOVE, (run_id,))
    return True


def read(session: Session, run_ids: Sequence[str] | None) -> dict[str, Claim]:
    """The stored claims, of these runs alone unless None."""
    if not lens_tables.is_there(session.connection, lens_tables.CLAIMS):
        return {}
    rows = session.rows(_SELECT) if run_ids is None else session.rows(_SOME, (json.dumps(run_ids),))
    return {claim.run_id: claim for claim in map(_claim, rows) if claim is not None}


def _find(db: sqlite3.Connection, run_id: str) -> Claim | None:
    row = db.execute(f"{_SELECT} WHERE run_id = ?", (run_id,)).fetchone()
    return None if row is None else _claim(row)


def _claim(row: tuple[object, ...]) -> Claim | None:
    """The claim in a row; None if it is not one that we wrote."""
    with suppress(TypeError, ValueError):
        return Claim.from_dict(dict(zip(_COLUMNS, row, strict=True)))
    return None
