"""What the care of a store tells: what a migration would do and did, and what a check-up found."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

__all__ = ["Finding", "Migration", "MigrationPlan", "silent_finding"]


class MigrationPlan(NamedTuple):
    """What bringing a store to the newest schema takes.

    Attributes:
        path: The store; None where it has none.
        steps: What would be done, in words; nothing if the schema is up to date.
        size_bytes: Its size, which is that of a backup.
        backup: Where a backup would go; None where there is nothing to back up.
        free_bytes: Room on the disk that it is on.
    """

    path: Path | None = None
    steps: tuple[str, ...] = ()
    size_bytes: int = 0
    backup: Path | None = None
    free_bytes: int = 0

    def room_needed(self, backup: bool) -> int:
        """Bytes that it can take: every table anew, in a log or beside the old one and then in the file; a backup."""
        return self.size_bytes * (2 + backup) if self.steps else 0


class Migration(NamedTuple):
    """What a migration did, in words (nothing if there was nothing to do), and where the backup is."""

    steps: tuple[str, ...] = ()
    backup: Path | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check of a store found.

    Attributes:
        check: Its name.
        ok: False if something is wrong; what is harmless is ok.
        count: How many of what the check counts (rows, files, bytes, processes); None if it could not be done.
        detail: What was found, and what it means.
        fix: What mends it: a command, or what a person can do; None if there is nothing to mend.
    """

    check: str
    ok: bool
    count: int | None
    detail: str
    fix: str | None = None


def _words(span: timedelta) -> str:
    """A length of time in its largest whole unit, as settings write it: ``1h``, ``90m``."""
    seconds = int(span.total_seconds())
    units = (("d", 86400), ("h", 3600), ("m", 60))
    return next((f"{seconds // size}{unit}" for unit, size in units if seconds and not seconds % size), f"{seconds}s")


def silent_finding(count: int, silent_after: timedelta) -> Finding:
    """What it means that so many runs that are said to run were not saved for `silent_after`."""
    if not count:
        return Finding("silent runs", True, 0, "every running run gave a sign lately")
    detail = f"runs that are said to run gave no sign for {_words(silent_after)}: their processes died, or hang"
    return Finding("silent runs", False, count, detail, "lens status shows them; start their application again")
