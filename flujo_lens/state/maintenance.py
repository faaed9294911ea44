"""Maintenance: the values of migrations, optimizations, checks and repairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple


class MigrationPlan(NamedTuple):
    """A planned migration to the current schema.

    Attributes:
        path: The path of the store, or None.
        steps: Descriptions of the steps; empty if the schema is current.
        size_bytes: The size of the store, and of a backup.
        backup: The path of the backup; None without one.
        free_bytes: Free space on the disk of the store.
        place: The store, if it is on a server, where no backup is made and others keep access.
        lacks: What is missing in a store on a server, such as "tables".
        copied_by: The program that makes backups of a store on a server.
        sql: The migration as a script, if the store is one of SQL on a server; None for other stores.
    """

    path: Path | None = None
    steps: tuple[str, ...] = ()
    size_bytes: int = 0
    backup: Path | None = None
    free_bytes: int = 0
    place: str | None = None
    lacks: str = "tables"
    copied_by: str = "pg_dump"
    sql: str | None = None

    @property
    def store(self) -> str | None:
        """The name of the store for messages; None if there is nothing to migrate."""
        return str(self.path) if self.path is not None else self.place

    def room_needed(self, backup: bool) -> int:
        """Maximum bytes needed: for a copy of every table, its journal, and a backup."""
        return self.size_bytes * (2 + backup) if self.steps else 0


class Migration(NamedTuple):
    """The executed steps of a migration (empty if there were none), and the path of the backup."""

    steps: tuple[str, ...] = ()
    backup: Path | None = None


class Space(NamedTuple):
    """The disk usage of a store.

    Attributes:
        file_bytes: The size of its file after a checkpoint of its WAL.
        reusable_bytes: The free space in it.
    """

    file_bytes: int
    reusable_bytes: int


class Room(NamedTuple):
    """Temporary disk space needed by a change.

    Attributes:
        folder: A folder on the disk.
        needed: Bytes needed.
        free: Bytes free.
    """

    folder: Path
    needed: int
    free: int

    @property
    def suffices(self) -> bool:
        """Whether there is enough space."""
        return self.needed <= self.free


class OptimizationPlan(NamedTuple):
    """A planned optimization.

    Attributes:
        path: The path of the store; None if there is nothing to optimize.
        indexes: The indexes to create, as ``NAME on TABLE(COLUMN, ...)``.
        vacuum: Whether to vacuum.
        space: The current disk usage.
        rooms: Temporary space needed by the vacuum.
        place: The store, if it is on a server, where others keep access.
    """

    path: Path | None = None
    indexes: tuple[str, ...] = ()
    vacuum: bool = False
    space: Space = Space(0, 0)
    rooms: tuple[Room, ...] = ()
    place: str | None = None

    @property
    def store(self) -> str | None:
        """The name of the store for messages; None if there is nothing to optimize."""
        return str(self.path) if self.path is not None else self.place


class Optimized(NamedTuple):
    """The created indexes, and the disk usage before and after."""

    indexes: tuple[str, ...]
    before: Space
    after: Space


class Repaired(NamedTuple):
    """The result of the repair of a finding.

    Attributes:
        check: The name of the check.
        done: Description of the repair; None if nothing was repaired.
        left: Description of what could not be repaired, and why; or None.
    """

    check: str
    done: str | None = None
    left: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check of a store.

    Attributes:
        check: The name of the check.
        ok: False for a problem; harmless findings are ok.
        count: The number of rows, files, bytes or processes found; None if the check was not possible.
        detail: What was found, and what it means.
        fix: How to fix it: a command or advice; None if there is nothing to fix.
        repair: What `StateBackend.repair` would do, without losing data; None if it cannot be repaired.
    """

    check: str
    ok: bool
    count: int | None
    detail: str
    fix: str | None = None
    repair: str | None = None


def _words(span: timedelta) -> str:
    """A duration in its largest whole unit, as in settings: ``1h``, ``90m``."""
    seconds = int(span.total_seconds())
    units = (("d", 86400), ("h", 3600), ("m", 60))
    return next((f"{seconds // size}{unit}" for unit, size in units if seconds and not seconds % size), f"{seconds}s")


def silent_finding(count: int, silent_after: timedelta) -> Finding:
    """The finding on running runs without activity for `silent_after`."""
    if not count:
        return Finding("stale runs", True, 0, "all running runs were recently active")
    border = _words(silent_after)
    detail = f"running runs without activity for {border}, or whose process is gone: they died, or hang"
    fix = (
        "lens resume continues one, lens cancel ends it, lens tasks sweep marks stale background tasks as failed; "
        "to list them: lens list --status running"
    )
    return Finding("stale runs", False, count, detail, fix)


def tables_that_refer(tables: Sequence[str]) -> Finding:
    """The finding on tables of an application whose rows the server deletes or changes with a run's."""
    if not tables:
        return Finding("foreign keys", True, 0, "a deletion deletes or changes rows of no other table")
    detail = (
        f"rows of {', '.join(tables)} that refer to a run are deleted or changed with it, by their foreign keys (ON "
        "DELETE CASCADE, SET NULL or SET DEFAULT), and lens undo does not bring them back"
    )
    return Finding("foreign keys", True, len(tables), detail, "to keep them, before lens delete or lens prune: pg_dump")
