"""The audit log: a record of the changes of a store, one JSON object per line, chained by hash.

Each entry holds the SHA-256 of the line before it (`previous`) and of itself (`digest`, of the line without that
member), so that changed and removed lines are detected. Lines removed from the end are detected by the end of the log,
which is recorded separately. Where the lines are kept is the matter of a journal: a file (`audit_file`), or the store
itself where that is on a server (`audit_server`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from flujo_lens.errors import LensError
from flujo_lens.operations.audit_chain import (
    AuditEntry,
    AuditReport,
    Chain,
    Line,
    State,
    new_audit_id,
    parsed,
    plain_text,
    run_fields,
    sealed,
    written_time,
)
from flujo_lens.operations.audit_file import AuditFile
from flujo_lens.redaction import masked_text


class AuditJournal(Protocol):
    """Where the lines of an audit log are kept. All methods block, usually for a few milliseconds."""

    @property
    def shown(self) -> str:
        """The place, for messages."""

    @property
    def end_place(self) -> str:
        """Where the recorded end is kept, for messages."""

    def exists(self) -> bool:
        """Whether there is a log. A journal that cannot look without its server returns False."""

    def check(self) -> None:
        """Check that an entry could be written. Creates and changes nothing.

        Raises:
            LensError: it could not.
        """

    def append(self, make: Callable[[str, Mapping[str, Any]], bytes]) -> None:
        """Append a line, while no other process does. It is durable when this returns.

        Args:
            make: Returns the line, with its newline, for the hash of the line before it (64 zeros in the first line),
                and members that say what happened to the log; it may be called again.

        Raises:
            LensError: it was not written.
        """

    def lines(self) -> Iterator[Line]:
        """All current lines, except one that is being written; none if there is no log."""

    def end(self) -> tuple[int, str] | None:
        """The recorded end: the `Line.end` of the last line, and its hash; None if there is no record."""


class AuditLog:
    """A log of changes.

    Several processes and threads may append at the same time. All methods block, usually for a few milliseconds.

    Args:
        place: A path (see `AuditFile`), or another journal.
        actor: The name of the person or program that makes the changes.
        host: The name of the machine.
        now: The clock; returns aware times.
        store: The changed store, without passwords.
        timeout: Seconds to wait for another writer of the file.
        lost: Called with a line of text if the result of a change cannot be recorded.
    """

    skipped: int
    """Number of lines that the last call of `entries` could not read."""
    unsure: int
    """Number of entries that the last call of `entries` skipped although they may concern the run: they have no ids."""

    def __init__(
        self,
        place: Path | AuditJournal,
        *,
        actor: str,
        host: str,
        now: Callable[[], datetime],
        store: str | None = None,
        timeout: float = 10.0,
        mask: Callable[[str], str] = masked_text,
        lost: Callable[[str], None] | None = None,
    ) -> None:
        self.journal: AuditJournal = AuditFile(place, timeout) if isinstance(place, Path) else place
        self.skipped = self.unsure = 0
        self._actor, self._host, self._store = actor, host, store
        self._now, self._mask, self._lost = now, mask, lost

    @property
    def store(self) -> str | None:
        """The changed store, without passwords."""
        return self._store

    @staticmethod
    def sidecar_path(store_path: Path) -> Path:
        """The path of the log of a store: next to its file or folder, after resolving links."""
        return AuditFile.sidecar_path(store_path)

    # --- writing

    def check(self) -> None:
        """Check that an entry could be written. Creates and changes nothing.

        Raises:
            ReadOnlyStoreError: the file or its folder is not writable.
            OperationFailedError: the folder does not exist, the path is not a file, or the disk is full.
        """
        self.journal.check()

    def append(
        self,
        *,
        command: Sequence[str],
        reason: str | None,
        counts: Mapping[str, int],
        run_ids: Sequence[str],
        audit_id: str | None = None,
        closes: str | None = None,
        error: str | None = None,
        state: State | None = None,
    ) -> str:
        """Write an entry; it is durable when this returns. A failed write leaves nothing.

        Args:
            reason: The reason, if given; its secrets are masked.
            counts: Numbers by name, such as ``{"deleted": 3}``.
            run_ids: The affected runs.
            audit_id: The id of the entry, from `new_audit_id`, if it was needed earlier; None for a new one.
            closes: The id of the entry whose result this one records.
            error: The code of the error that ended the change.
            state: ``started`` if another entry will record the result; None for ``finished``, or ``failed`` with an
                error.

        Returns:
            The id of the entry.

        Raises:
            BusyError: another process held the log until the timeout.
            ReadOnlyStoreError: the log is not writable.
            UnreachableStoreError: its server does not answer.
            OperationFailedError: it could not be written for another reason.
        """
        entry = {
            "command": [plain_text(word) for word in command],
            "reason": None if reason is None else plain_text(self._mask(reason)),
            "state": state or ("finished" if error is None else "failed"),
            "counts": dict(counts),
            **run_fields(run_ids),
            **({} if closes is None else {"closes": closes}),
            **({} if error is None else {"error": error}),
        }
        given = [] if audit_id is None else [audit_id]

        def made(previous: str, more: Mapping[str, Any]) -> bytes:
            now = self._now()
            if not given:
                given.append(new_audit_id(now))
            head = {"audit_id": given[0], "at": written_time(now), **self._who()}
            return sealed({**head, **entry, **more, "previous": previous})

        self.journal.append(made)
        return given[0]

    def append_result(
        self,
        closes: str,
        *,
        command: Sequence[str],
        reason: str | None,
        counts: Mapping[str, int],
        run_ids: Sequence[str],
        error: str | None = None,
    ) -> None:
        """Write the result of the change whose entry is `closes`; the other arguments are those of `append`.

        The change is made, so a failure to write raises nothing: the entry stays ``started``, and `lost` is called.
        """
        try:
            self.append(
                command=command, reason=reason, counts=counts, run_ids=run_ids, closes=closes, error=error,
            )  # fmt: skip
        except LensError as failure:
            if self._lost is not None:
                why = f'{failure.without_claim}; its entry {closes} stays "started"'
                self._lost(f"the result of this change is not in the audit log: {why}")

    def _who(self) -> dict[str, str]:
        store = {} if self._store is None else {"store": plain_text(self._store)}
        return {"actor": plain_text(self._mask(self._actor)), "host": plain_text(self._host), **store}

    # --- reading

    def entries(self, *, run_id: str | None = None, since: datetime | None = None) -> Iterator[AuditEntry]:
        """The entries, oldest first; none if there is no log. Holds one at a time; creates nothing.

        Entries appended after the first was read are not returned. `skipped` and `unsure` count what is left out.

        Args:
            run_id: Only entries about this run (its whole id), and their results.
            since: Only entries written at this instant (aware) or later.

        Raises:
            UnreachableStoreError: there is a log, and it cannot be read.
        """
        self.skipped = self.unsure = 0
        begun: set[str] = set()
        for line in self.journal.lines():
            entry = parsed(line.data)
            if entry is None:
                self.skipped += 1
            elif since is None or entry.at >= since:
                if run_id is None or run_id in entry.run_ids or entry.closes in begun:
                    begun.add(entry.audit_id)
                    yield entry
                elif entry.run_ids_digest is not None:
                    self.unsure += 1

    def verify(self) -> AuditReport:
        """Check the chain from the first line to the first one that does not match. Creates nothing.

        Raises:
            UnreachableStoreError: there is a log, and it cannot be read.
        """
        chain = Chain(*self.journal.end() or ())  # before the lines, to which others may append
        for line in self.journal.lines():
            if not chain.take(line):
                break
        return chain.report()
