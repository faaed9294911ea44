"""The changes that an audit log tells of: what was tried, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from flujo_lens.operations.audit_format import AuditEntry, State

__all__ = ["AuditChange", "Newest"]


class AuditChange(NamedTuple):
    """One change of a store.

    Attributes:
        audit_id: The id of the entry that was written before it was made.
        at: When that was, in UTC.
        store: Which store, without passwords; None where the log does not say.
        state: ``finished``; ``failed``; or ``started``: no end was written, as the process is at work, or died.
        counts: How many of what were changed; of one without an end, how many were to be.
        run_ids: The runs that were changed; of one without an end, those that were to be.
        run_count: How many these are, also where the log holds too many to name them.
        error: The code of the error that ended it.
    """

    audit_id: str
    at: datetime
    store: str | None
    actor: str
    host: str
    command: tuple[str, ...]
    reason: str | None
    state: State
    counts: Mapping[str, int]
    run_ids: tuple[str, ...]
    run_count: int
    error: str | None = None


class Newest:
    """Joins the entries of a log, oldest first, each with the one that tells its end; holds the newest changes alone.

    An end whose start is not among the entries stands for itself, under the id of the start; not so where the start
    is older than `since`.

    Args:
        most: How many are held.
        since: An instant (aware): changes that began before it are left out.
    """

    def __init__(self, most: int, since: datetime | None = None) -> None:
        self._most = most
        self._older = "" if since is None else f"{since.astimezone(UTC):%Y%m%dT%H%M%S%f}"
        self._found: dict[str, AuditChange] = {}
        self.total = 0

    def take(self, entry: AuditEntry) -> None:
        """One more entry."""
        audit_id = entry.closes or entry.audit_id
        begun = self._found.get(audit_id) if entry.closes else None
        if begun is not None:
            self._found[audit_id] = _ended(begun, entry)
        elif not entry.closes or audit_id > self._older:
            self._found[audit_id] = _single(entry)
            self.total += 1
            if len(self._found) > self._most:
                oldest = next(iter(self._found))
                self._older = max(self._older, oldest)
                del self._found[oldest]

    def changes(self) -> list[AuditChange]:
        """Those that are held, the newest first."""
        return list(reversed(self._found.values()))


def _single(entry: AuditEntry) -> AuditChange:
    state = entry.state or ("failed" if entry.error else "finished")
    return AuditChange(
        entry.closes or entry.audit_id, entry.at, entry.store, entry.actor, entry.host, entry.command, entry.reason,
        state, entry.counts, entry.run_ids, entry.run_count, entry.error,
    )  # fmt: skip


def _ended(begun: AuditChange, end: AuditEntry) -> AuditChange:
    """What was begun, as it ended; an end without counts says that all of it was done."""
    ended = begun._replace(state="failed" if end.error else "finished", error=end.error)
    if not end.counts:
        return ended
    return ended._replace(counts=end.counts, run_ids=end.run_ids, run_count=end.run_count)
