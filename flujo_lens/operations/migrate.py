"""Migrating a store to the current schema, with an entry in its audit log."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from flujo_lens.errors import LensError, OperationFailedError
from flujo_lens.operations.change_report import Recorder
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.maintenance import Migration


class Migrated(NamedTuple):
    """The migration, and the id of its audit entry; None if nothing was done."""

    migration: Migration
    audit_id: str | None = None


async def migrate(
    backend: StateBackend, writer: Recorder, now: datetime, *, backup: bool, force: bool = False
) -> Migrated:
    """Migrate a store and record it. If the log is not writable, nothing is changed.

    A process that dies in between leaves a migrated store without an entry.

    Args:
        writer: Records the migration after it is done, when its steps are known.
        backup: Whether to make a backup first.
        force: Whether to migrate also while another process has the store open.

    Raises:
        OperationFailedError: it was migrated, but could not be recorded.
        LensError: as for `StateBackend.migrate` and `AuditLog.check`; nothing was changed.
    """
    log = writer.log
    log.check()
    done = await backend.migrate(now, backup=backup, **({"force": True} if force else {}))
    if not done.steps:
        return Migrated(done)
    try:
        audit_id = log.append(
            command=writer.command, reason=writer.reason, counts={"steps": len(done.steps)}, run_ids=()
        )
    except LensError as error:
        backup_note = f"; the backup is {done.backup}" if done.backup else ""
        raise OperationFailedError(
            f"the store was migrated{backup_note}, but the audit entry could not be written: {error.message}",
            hint=f"check {log.journal.shown}; do not repeat the migration",
        ) from error
    return Migrated(done, audit_id)
