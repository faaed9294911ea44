"""Manifests by their digest, and which run belongs to which: the SQL. What writes is called inside a transaction."""

from __future__ import annotations

import sqlite3
from typing import Any

from flujo_lens.serialization import safe_dumps, safe_loads
from flujo_lens.state.backends.core.rows import now_text
from flujo_lens.state.backends.sqlite.engine.session import Session, as_text
from flujo_lens.state.backends.sqlite.schema import lens_tables

__all__ = ["bind", "digest_of", "get", "manifest_values", "put"]

_PUT = f"INSERT OR IGNORE INTO {lens_tables.MANIFESTS} (digest, body, created_at) VALUES (?, ?, ?)"
_GET = f"SELECT body FROM {lens_tables.MANIFESTS} WHERE digest = ?"
_BIND = (
    f"INSERT INTO {lens_tables.RUN_MANIFESTS} (run_id, digest) VALUES (?, ?) "
    "ON CONFLICT(run_id) DO UPDATE SET digest = excluded.digest WHERE digest <> excluded.digest"
)
_DIGEST = f"SELECT digest FROM {lens_tables.RUN_MANIFESTS} WHERE run_id = ?"


def manifest_values(digest: str, manifest: dict[str, Any]) -> tuple[str, str, str]:
    """The row of a manifest."""
    return digest, safe_dumps(manifest, sort_keys=True).decode(), now_text()


def put(db: sqlite3.Connection, values: tuple[str, str, str]) -> None:
    """Store a manifest, unless there is one of this digest."""
    lens_tables.make(db, lens_tables.MANIFESTS)
    db.execute(_PUT, values)


def bind(db: sqlite3.Connection, run_id: str, digest: str) -> None:
    """Say that a run belongs to a manifest, whatever it belonged to before."""
    lens_tables.make(db, lens_tables.RUN_MANIFESTS)
    db.execute(_BIND, (run_id, digest))


def get(session: Session, digest: str) -> dict[str, Any] | None:
    """The manifest of a digest; None if there is none, or it is none."""
    text = _one(session, lens_tables.MANIFESTS, _GET, digest)
    try:
        found = None if text is None else safe_loads(text)
    except (TypeError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def digest_of(session: Session, run_id: str) -> str | None:
    """The digest that a run is bound to."""
    return _one(session, lens_tables.RUN_MANIFESTS, _DIGEST, run_id)


def _one(session: Session, table: str, sql: str, key: str) -> str | None:
    found = session.value(sql, (key,)) if lens_tables.is_there(session.connection, table) else None
    return None if found is None else as_text(found)
