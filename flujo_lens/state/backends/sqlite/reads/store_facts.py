"""What is known of a store without looking at its runs."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flujo_lens.state.backends.sqlite.engine.session import Session
from flujo_lens.state.backends.sqlite.reads import queries
from flujo_lens.state.backends.sqlite.schema.shape import KNOWN_VERSION
from flujo_lens.state.timestamps import parse_instant


def last_write(session: Session) -> datetime | None:
    """The newest time among the rows that were written last, and of cancelled runs.

    The row that a save makes has the highest rowid; a cancellation changes a row where it is.
    """
    found: list[datetime | None] = []
    if session.shape.has("workflow_state", "updated_at"):
        text = session.value(queries.newest(session.shape, "workflow_state", "updated_at"))
        found.append(parse_instant(text, session.zone))
    for column in ("updated_at", "created_at", "end_time", "start_time"):
        if session.shape.has("runs", column):
            found.append(parse_instant(session.value(queries.newest(session.shape, "runs", column))))
    for table in ("workflow_state", "runs"):
        if session.shape.has(table, "status", "updated_at"):
            zone = session.zone if table == "workflow_state" else UTC
            found += [parse_instant(text, zone) for (text,) in session.rows(queries.newest_cancelled(table))]
    return max((when for when in found if when), default=None)


def facts(session: Session, path: Path) -> dict[str, Any]:
    """What `StateBackend.read_facts` returns."""
    version = session.shape.version
    newer = f"the store's schema version {version} is newer than {KNOWN_VERSION}, the newest known one"
    return {
        "size_bytes": sum(_size(f"{path}{end}") for end in ("", "-wal")),
        "last_write_at": last_write(session),
        "notes": (newer,) if version > KNOWN_VERSION else (),
        "library": session.shape.series,
    }


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
