"""What the care of a store tells: what a migration would do and did, and what a check-up found."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "Finding",
    "Migration",
    "MigrationPlan",
    "OptimizationPlan",
    "Optimized",
    "Repaired",
    "Room",
    "Space",
    "silent_finding",
]


class MigrationPlan(NamedTuple):
    """What bringing a store to the newest schema takes.

    Attributes:
        path: The store; None where it has none.
        steps: What would be done, in words; nothing if the schema is up to date.
        size_bytes: Its size, which is that of a backup.
        backup: Where a backup would go; None where there is nothing to back up.
        free_bytes: Room on the disk that it is on.
        place: The store, if it is on a server: no backup is made there, and others go on meanwhile.
        lacks: What such a store lacks, in words.
        copied_by: What makes a backup of it.
    """

    path: Path | None = None
    steps: tuple[str, ...] = ()
    size_bytes: int = 0
    backup: Path | None = None
    free_bytes: int = 0
    place: str | None = None
    lacks: str = "tables"
    copied_by: str = "pg_dump"

    @property
    def store(self) -> str | None:
        """Where the store is, as it is shown; None where there is nothing to migrate."""
        return str(self.path) if self.path is not None else self.place

    def room_needed(self, backup: bool) -> int:
        """Bytes that it can take: every table anew, in a log or beside the old one and then in the file; a backup."""
        return self.size_bytes * (2 + backup) if self.steps else 0


class Migration(NamedTuple):
    """What a migration did, in words (nothing if there was nothing to do), and where the backup is."""

    steps: tuple[str, ...] = ()
    backup: Path | None = None


class Space(NamedTuple):
    """What a store takes of the disk.

    Attributes:
        file_bytes: Its file, once its WAL is folded in.
        reusable_bytes: What of that is free for the next runs.
    """

    file_bytes: int
    reusable_bytes: int


class Room(NamedTuple):
    """What a change needs of one disk while it is made.

    Attributes:
        folder: A folder on that disk.
        needed: Bytes.
        free: Bytes that it has.
    """

    folder: Path
    needed: int
    free: int

    @property
    def suffices(self) -> bool:
        """Whether it will do."""
        return self.needed <= self.free


class OptimizationPlan(NamedTuple):
    """What making a store faster, and smaller, takes.

    Attributes:
        path: The store; None where there is nothing to optimize.
        indexes: The indexes that would be made, as ``NAME on TABLE(COLUMN, ...)``.
        vacuum: Whether it would be written anew without what is free in it.
        space: What it takes now.
        rooms: What the vacuum needs while it is made.
        place: The store, if it is on a server: others go on meanwhile.
    """

    path: Path | None = None
    indexes: tuple[str, ...] = ()
    vacuum: bool = False
    space: Space = Space(0, 0)
    rooms: tuple[Room, ...] = ()
    place: str | None = None

    @property
    def store(self) -> str | None:
        """Where the store is, as it is shown; None where there is nothing to optimize."""
        return str(self.path) if self.path is not None else self.place


class Optimized(NamedTuple):
    """The indexes that were made, and what the store took before and takes after."""

    indexes: tuple[str, ...]
    before: Space
    after: Space


class Repaired(NamedTuple):
    """What was done about a finding.

    Attributes:
        check: Its check.
        done: What was done, in words; None if nothing was.
        left: What is left for a person, and why; None if nothing is.
    """

    check: str
    done: str | None = None
    left: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check of a store found.

    Attributes:
        check: Its name.
        ok: False if something is wrong; what is harmless is ok.
        count: How many of what the check counts (rows, files, bytes, processes); None if it could not be done.
        detail: What was found, and what it means.
        fix: What mends it: a command, or what a person can do; None if there is nothing to mend.
        mend: What `StateBackend.repair` would do about it, losing nothing, in words; None if that is left to a person.
    """

    check: str
    ok: bool
    count: int | None
    detail: str
    fix: str | None = None
    repair: str | None = None


def _words(span: timedelta) -> str:
    """A length of time in its largest whole unit, as settings write it: ``1h``, ``90m``."""
    seconds = int(span.total_seconds())
    units = (("d", 86400), ("h", 3600), ("m", 60))
    return next((f"{seconds // size}{unit}" for unit, size in units if seconds and not seconds % size), f"{seconds}s")


def silent_finding(count: int, silent_after: timedelta) -> Finding:
    """What it means that so many runs that are said to run were not saved for `silent_after`."""
    if not count:
        return Finding("silent runs", True, 0, "every running run gave a sign lately")
    border = _words(silent_after)
    detail = f"runs that are said to run gave no sign for {border}, or their process is gone: they died, or hang"
    fix = (
        "lens list --status running shows which; lens resume RUN goes on with one, "
        "lens cancel RUN ends it, lens tasks sweep marks dead background tasks failed"
    )
    return Finding("silent runs", False, count, detail, fix)
