"""The tables of our own, next to the library's, on a store of any version.

They are made by the first write that needs them, inside its transaction; reading never makes one. The library knows
nothing of them, and neither the schema's version nor a migration has to do with them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from flujo_lens.state.backends.core.port import Space

CLAIMS, MANIFESTS, RUN_MANIFESTS = "lens_claims", "lens_manifests", "lens_run_manifests"

STRIPS = "lens_strips"
OF_SPACE: Mapping[Space, str] = {"claim": CLAIMS, "manifest": MANIFESTS, "binding": RUN_MANIFESTS, "strip": STRIPS}
"""Tables by the space of the port whose keys and values they hold."""

_OF_RUNS = (CLAIMS, RUN_MANIFESTS, STRIPS)
"""Those with rows that belong to one run, and are deleted with it."""

DELETIONS = "lens_deletions"
"""Runs with very many rows whose deletion began, and goes on with the next prune if it was interrupted."""

_CREATE = {
    DELETIONS: (
        f"CREATE TABLE IF NOT EXISTS {DELETIONS} (run_id TEXT PRIMARY KEY, began_at TEXT NOT NULL, "
        "sign TEXT NOT NULL) WITHOUT ROWID",
    ),
    CLAIMS: (
        f"CREATE TABLE IF NOT EXISTS {CLAIMS} (run_id TEXT PRIMARY KEY, token TEXT NOT NULL, host TEXT NOT NULL, "
        "boot_id TEXT NOT NULL, pid INTEGER NOT NULL, started TEXT NOT NULL, taken_at TEXT NOT NULL, "
        "beat_at TEXT NOT NULL, lease REAL NOT NULL) WITHOUT ROWID",
    ),
    STRIPS: (f"CREATE TABLE IF NOT EXISTS {STRIPS} (run_id TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID",),
    MANIFESTS: (
        f"CREATE TABLE IF NOT EXISTS {MANIFESTS} (digest TEXT PRIMARY KEY, body TEXT NOT NULL, "
        "created_at TEXT NOT NULL)",
    ),
    RUN_MANIFESTS: (
        f"CREATE TABLE IF NOT EXISTS {RUN_MANIFESTS} (run_id TEXT PRIMARY KEY, digest TEXT NOT NULL) WITHOUT ROWID",
        f"CREATE INDEX IF NOT EXISTS idx_{RUN_MANIFESTS}_digest ON {RUN_MANIFESTS}(digest)",
    ),
}


def make(db: sqlite3.Connection, table: str) -> None:
    """Make one of these tables, with its index, if it is not there. To be called inside a transaction."""
    if not is_there(db, table):
        for statement in _CREATE[table]:
            db.execute(statement)


def is_there(db: sqlite3.Connection, table: str) -> bool:
    """Whether the database has this table now: another process may have made it a moment ago."""
    sql = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
    return db.execute(sql, (table,)).fetchone() is not None


def of_runs(db: sqlite3.Connection) -> list[str]:
    """Those of `_OF_RUNS` that there are."""
    return [table for table in _OF_RUNS if is_there(db, table)]
