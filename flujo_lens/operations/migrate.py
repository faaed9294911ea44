"""Bringing a store to the newest schema, with an entry in its audit log."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from flujo_lens.errors import LensError, OperationFailedError
from flujo_lens.operations.change_report import Recorder
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.maintenance import Migration

__all__ = ["Migrated", "migrate"]


class Migrated(NamedTuple):
    """What was done, and the id of its entry in the audit log; None if nothing was."""

    migration: Migration
    audit_id: str | None = None


async def migrate(backend: StateBackend, writer: Recorder, now: datetime, *, backup: bool) -> Migrated:
    """Migrate a store, and write it down. Where the log cannot be written, nothing is changed.

    A process that dies between the two leaves a migrated store without an entry.

    Args:
        backend: The store.
        writer: Writes it down; behind the change, as only then it is known what was to be done.
        now: The present, in UTC.
        backup: Whether to make a copy first.

    Raises:
        OperationFailedError: it was migrated, but could not be written down.
        LensError: as `StateBackend.migrate` and `AuditLog.check`; nothing was changed.
    """
    log = writer.log
    log.check()
    done = await backend.migrate(now, backup=backup)
    if not done.steps:
        return Migrated(done)
    try:
        audit_id = log.append(
            command=writer.command, reason=writer.reason, counts={"steps": len(done.steps)}, run_ids=()
        )
    except LensError as error:
        told = f"; the backup is {done.backup}" if done.backup else ""
        raise OperationFailedError(
            f"the store was migrated{told}, but that could not be written down: {error.message}",
            hint=f"see to {log.path}; the migration itself need not be repeated",
        ) from error
    return Migrated(done, audit_id)
