"""SQLite stores that lack a column, each in turn: what it would say is unknown, and every command still works.

Every column of the newest schema; of the older each fourth, or all with LENS_SOAK.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing

import pytest
from support import NEW, OLD, Lens

LINES = (
    "list --all -o json", "status", "stats -o json", "show fail-001 -v", "failed --hours 90000", "waiting", "doctor",
    "prune --older-than 1h --dry-run -o id", "prune --keep-last 1 --dry-run", "delete fail-001 --yes", "undo --yes",
)  # fmt: skip
KEYS = {"run_id"}


def without(lens: Lens, table: str, column: str) -> None:
    """Drop a column, after the indexes that are in its way."""
    with closing(sqlite3.connect(lens.cwd / "flujo_ops.db")) as db:
        names = db.execute(
            "SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = ? AND sql <> ''", [table]
        )
        for (name,) in names.fetchall():
            db.execute(f"DROP INDEX {name}")
        db.execute(f"ALTER TABLE {table} DROP COLUMN {column}")


def columns(table: str, lens: Lens) -> list[str]:
    with closing(sqlite3.connect(lens.cwd / "flujo_ops.db")) as db:
        return [name for (name,) in db.execute("SELECT name FROM pragma_table_info(?)", [table]) if name not in KEYS]


@pytest.mark.parametrize("table", ["workflow_state", "runs"])
@pytest.mark.parametrize("library", [OLD, NEW])
def test_each_column_in_turn(bare_lens: Lens, library: str, table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")  # naive times of states are then compared with those of runs
    time.tzset()
    bare_lens.store(library)
    faults = []
    step = 1 if library == NEW or "LENS_SOAK" in os.environ else 4
    for column in columns(table, bare_lens)[::step]:
        bare_lens.store(library)
        without(bare_lens, table, column)
        for line in LINES:
            done = bare_lens(line)
            if done.code == 70 or "Traceback" in done.err:
                faults.append(f"without {column}: {line}: {done.err}")
    assert not faults
