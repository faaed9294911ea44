"""Claims, manifests and bindings in tables of our own, as keys and values of the port.

What reads finds nothing where a table is not there; what writes makes it, inside its transaction. The rules are those
of `flujo_lens.state.backends.core.stored_claims`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from flujo_lens.state.backends.core.port import Space, ValueWork, run_without_waiting
from flujo_lens.state.backends.core.rows import now_text
from flujo_lens.state.backends.core.stored_claims import claims_in, manifest_in
from flujo_lens.state.backends.sqlite.schema import lens_tables
from flujo_lens.state.backends.sqlite.writes import queries
from flujo_lens.state.claims import Claim, present

T = TypeVar("T")


class SqliteKeyValues:
    """The `KeyValues` of one transaction; none of its methods waits.

    Args:
        db: The connection; with the write lock, where anything is set.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    async def get(self, space: Space, keys: Sequence[str] | None = None) -> dict[str, bytes]:
        """Return the values of these keys, those that there are; of all keys for None."""
        return values_of(self._db, space, keys)

    async def set(self, space: Space, key: str, value: bytes | None) -> None:
        """Set a key; None removes it."""
        table = lens_tables.OF_SPACE[space]
        lens_tables.make(self._db, table)
        if value is None:
            self._db.execute(queries.REMOVE_VALUE[space], (key,))
        else:
            self._db.execute(queries.PUT_VALUE[space], _row(space, key, value))

    async def lock(self, run_ids: Iterable[str]) -> None:
        """Do nothing: a transaction that writes has the whole file."""


def in_values(db: sqlite3.Connection, work: ValueWork[T]) -> T:
    """The result of work on the keys and values of a transaction."""
    return run_without_waiting(work(SqliteKeyValues(db)))


def values_of(db: sqlite3.Connection, space: Space, keys: Sequence[str] | None) -> dict[str, bytes]:
    """Values by key."""
    if not lens_tables.is_there(db, lens_tables.OF_SPACE[space]):
        return {}
    sql = queries.GET_VALUES[space]
    rows = db.execute(sql) if keys is None else db.execute(f"{sql} {queries.WITH_KEYS[space]}", (json.dumps(keys),))
    return {str(row[0]): _value(space, row) for row in rows}


def _row(space: Space, key: str, value: bytes) -> tuple[Any, ...]:
    from flujo_lens.serialization import safe_loads

    if space == "claim":
        return tuple(safe_loads(value)[column] for column in queries.CLAIM_COLUMNS)
    return (key, value.decode(), now_text()) if space == "manifest" else (key, value.decode())


def _value(space: Space, row: tuple[Any, ...]) -> bytes:
    from flujo_lens.serialization import safe_dumps

    if space == "claim":
        return safe_dumps(dict(zip(queries.CLAIM_COLUMNS, row, strict=True)))
    return row[1] if isinstance(row[1], bytes) else str(row[1]).encode()


# --- what other transactions need of them


def claims_of(db: sqlite3.Connection, run_ids: Sequence[str] | None) -> Mapping[str, Claim]:
    """The stored claims that can be read, of these runs alone unless None."""
    return claims_in(values_of(db, "claim", run_ids))


def beat(db: sqlite3.Connection, claim: Claim) -> None:
    """Renew a claim, by one statement where it is held.

    Raises:
        LostClaimError: it is not the run's any more.
    """
    is_there = lens_tables.is_there(db, lens_tables.CLAIMS)
    values = (claim.beaten().beat_at.isoformat(), claim.run_id, claim.token)
    if not is_there or not db.execute(queries.BEAT, values).rowcount:
        claim.check_held(claims_of(db, [claim.run_id]).get(claim.run_id))


def free(db: sqlite3.Connection, run_id: str, force: bool) -> bool:
    """Remove the claim on a run, of any holder; without `force` only one that has ended. Whether it is free now."""
    if not lens_tables.is_there(db, lens_tables.CLAIMS):
        return True
    found = claims_of(db, [run_id]).get(run_id)
    if found is not None and not force and not found.has_ended(present()):
        return False
    db.execute(queries.REMOVE_VALUE["claim"], (run_id,))
    return True


def bind(db: sqlite3.Connection, run_id: str, digest: str) -> None:
    """Say that a run belongs to a manifest, whatever it belonged to before."""
    lens_tables.make(db, lens_tables.RUN_MANIFESTS)
    db.execute(queries.PUT_VALUE["binding"], (run_id, digest))


def manifest_of_digest(db: sqlite3.Connection, digest: str) -> dict[str, Any] | None:
    """The manifest of a digest; None if there is none, or it cannot be read."""
    return manifest_in(values_of(db, "manifest", [digest]).get(digest))
