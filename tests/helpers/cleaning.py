"""What the tests of ``lens delete`` and ``lens prune`` share: stores of any age and size, questions that are answered,
and the rows of a store as they are.
"""

from __future__ import annotations

import json
import os
import pty
import signal
import sqlite3
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from fcntl import ioctl
from pathlib import Path
from typing import Any

from support import Lens, Result

CTRL_C = "\x03"
LONG_AGO = "2020-01-01T00:00:00.000000+00:00"
COUNTED = ["matched", "done", "skipped", "failed", "left", "dry_run", "audit_id"]
REPORT = [
    *COUNTED,
    *("deleted", "by_status", "kept", "cutoff", "archive", "undo"),
    *("reusable_bytes", "file_bytes_before", "file_bytes_after"),
]
"""The fields that the interface promises; more may come."""

Rows = dict[str, list[tuple[Any, ...]]]


def rows(path: Path) -> Rows:
    """Every row of the library's tables, with its rowid and the storage class of each value."""
    with closing(sqlite3.connect(path)) as db:
        db.text_factory = bytes
        tables = [name.decode() for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {t: _rows_of(db, t) for t in sorted(tables) if not t.startswith(("sqlite_", "lens_"))}


def _rows_of(db: sqlite3.Connection, table: str) -> list[tuple[Any, ...]]:
    names = [row[1].decode() for row in db.execute(f"PRAGMA table_info({table})")]
    values = ", ".join(f'"{name}", typeof("{name}")' for name in names)
    return db.execute(f"SELECT rowid, {values} FROM {table} ORDER BY rowid").fetchall()


def mentioned(path: Path) -> dict[str, set[str]]:
    """The ids that each table of the library has rows of."""
    with closing(sqlite3.connect(path)) as db:
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        having = [t for t in tables if "run_id" in {row[1] for row in db.execute(f"PRAGMA table_info({t})")}]
        return {t: {i for (i,) in db.execute(f"SELECT DISTINCT run_id FROM {t}")} for t in having if "lens" not in t}


def ids(lens: Lens, line: str = "list --all -o id") -> set[str]:
    """The ids that a command prints."""
    done = lens(line)
    assert done.code == 0, done.err
    return set(done.lines)


def entries(lens: Lens) -> list[dict[str, Any]]:
    """What was begun by the audit log beside the store, the oldest entry first."""
    return [entry for entry in _log(lens) if "closes" not in entry]


def outcomes(lens: Lens) -> list[dict[str, Any]]:
    """What came of it, by the same log."""
    return [entry for entry in _log(lens) if "closes" in entry]


def _log(lens: Lens) -> list[dict[str, Any]]:
    (log,) = lens.cwd.glob("*.lens-audit.ndjson")
    return [json.loads(line) for line in log.read_bytes().splitlines()]


def aged(lens: Lens, when: str = LONG_AGO, store: str = "flujo_ops.db") -> None:
    """Make all runs old, for real processes: their clock is not the tests'."""
    lens.edit(
        f"UPDATE workflow_state SET created_at = '{when}', updated_at = '{when}'",
        f"UPDATE runs SET created_at = '{when}', updated_at = '{when}', end_time = '{when}'",
        store=store,
    )


def many(lens: Lens, count: int, store: str = "flujo_ops.db") -> set[str]:
    """Add that many old runs, each with a state, two steps and a span; their ids."""
    numbers = f"WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < {count}) "
    run = f"'m-' || i, 'p', 'many', '1', 'completed', '{LONG_AGO}', '{LONG_AGO}'"
    steps = f"SELECT 'm-' || i, 's' || k, k, 'completed', '{LONG_AGO}' FROM n, (SELECT 0 AS k UNION SELECT 1)"
    lens.edit(
        f"{numbers} INSERT INTO workflow_state (run_id, pipeline_id, pipeline_name, pipeline_version, status, "
        "created_at, updated_at, current_step_index, pipeline_context) "
        f"SELECT {run}, 2, '{{}}' FROM n",
        f"{numbers} INSERT INTO runs (run_id, pipeline_id, pipeline_name, pipeline_version, status, created_at, "
        f"updated_at) SELECT {run} FROM n",
        f"{numbers} INSERT INTO steps (run_id, step_name, step_index, status, created_at) {steps}",
        f"{numbers} INSERT INTO spans (run_id, span_id, name, start_time, status, created_at) "
        "SELECT 'm-' || i, 'x' || i, 'pipeline_run', 1.0, 'completed', '2020-01-01 00:00:00' FROM n",
        store=store,
    )
    return {f"m-{number}" for number in range(1, count + 1)}


def answered(lens: Lens, line: str, answer: str, *, width: int = 100, env: Mapping[str, str] | None = None) -> Result:
    """Run a command on a terminal, and type `answer` when it has asked (Ctrl-D is ``\\x04``)."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    given = {"NO_COLOR": "1", "TERM": "xterm-256color", **(env or {})}
    with lens.start(line, stdin=theirs, stdout=theirs, stderr=theirs, env=given) as process:
        os.close(theirs)
        with open(ours, "r+b", buffering=0) as terminal:
            shown = _until(terminal, b"] ")
            if shown.endswith(b"] ") and answer == CTRL_C:  # it is no session's terminal, which would send it
                _interrupt(process)
            elif shown.endswith(b"] "):
                terminal.write(answer.encode())
            shown += _until(terminal, None)
    return Result(process.returncode, shown.replace(b"\r\n", b"\n"), b"")


def _interrupt(process: subprocess.Popen[bytes]) -> None:
    """Press Ctrl-C until it is heard: one that comes just before the process begins to read is seen after that."""
    for _ in range(60):
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.5)
            return


def _until(terminal: Any, end: bytes | None) -> bytes:
    shown = b""
    try:
        while end is None or not shown.endswith(end):
            shown += terminal.read(1) or b""
    except OSError:  # Linux tells by an error that the last user of a terminal has gone
        pass
    return shown


def left_in_pipe(lens: Lens, line: str, content: bytes) -> tuple[int, bytes]:
    """Run a command with `content` waiting on its stdin; its exit code, and what it left there."""
    reader, writer = os.pipe()
    os.write(writer, content)
    os.close(writer)
    with os.fdopen(reader, "rb") as stdin, lens.start(line, stdin=stdin, stdout=-3, stderr=-3) as process:
        code = process.wait(60)
        return code, stdin.read()


def findings(lens: Lens, *more: str) -> Sequence[str]:
    """The checks of ``lens doctor`` that find something wrong, but for what is old by itself."""
    found = lens(f"doctor -o json {' '.join(more)}").json
    return [row["check"] for row in found if not row["ok"] and row["check"] != "stale runs"]
