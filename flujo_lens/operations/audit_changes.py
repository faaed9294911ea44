"""The changes in an audit log: entries joined with their results."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from flujo_lens.operations.audit_chain import AuditEntry, State


class AuditChange(NamedTuple):
    """One change of a store.

    Attributes:
        audit_id: The id of the entry written before the change.
        at: The time of that entry, in UTC.
        store: The store, without passwords; None if not recorded.
        state: ``finished``; ``failed``; or ``started``, without a result: the process is running, or died.
        counts: Numbers of changes; without a result, the planned numbers.
        run_ids: The changed runs; without a result, the planned ones.
        run_count: Their number, even if they are too many to be named.
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
    """Joins the entries of a log, oldest first, with their results; holds only the newest changes.

    A result whose start is not among the entries counts by itself, under the id of the start, unless the start is
    older than `since`.

    Args:
        most: Number of changes to hold.
        since: An instant (aware): earlier changes are left out.
    """

    def __init__(self, most: int, since: datetime | None = None) -> None:
        self._most = most
        self._older = "" if since is None else f"{since.astimezone(UTC):%Y%m%dT%H%M%S%f}"
        self._found: dict[str, AuditChange] = {}
        self.total = 0

    def take(self, entry: AuditEntry) -> None:
        """Add an entry."""
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
        """The changes held, newest first."""
        return list(reversed(self._found.values()))


def _single(entry: AuditEntry) -> AuditChange:
    state = entry.state or ("failed" if entry.error else "finished")
    return AuditChange(
        entry.closes or entry.audit_id, entry.at, entry.store, entry.actor, entry.host, entry.command, entry.reason,
        state, entry.counts, entry.run_ids, entry.run_count, entry.error,
    )  # fmt: skip


def _ended(begun: AuditChange, end: AuditEntry) -> AuditChange:
    """A started change with its result; a result without counts means that all of it was done."""
    ended = begun._replace(state="failed" if end.error else "finished", error=end.error)
    if not end.counts:
        return ended
    return ended._replace(counts=end.counts, run_ids=end.run_ids, run_count=end.run_count)
