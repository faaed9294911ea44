"""One line of the audit log, and the chain that the lines make. Nothing is read or written here."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Literal, NamedTuple

import orjson

from flujo_lens.state.timestamps import parse_instant

__all__ = [
    "FIRST",
    "AuditEntry",
    "AuditReport",
    "Chain",
    "Flaw",
    "Line",
    "State",
    "new_audit_id",
    "parsed",
    "plain_text",
    "sealed",
    "told_runs",
    "written_time",
]

Flaw = Literal["changed", "removed", "torn", "no JSON", "cut", "after a cut"]
State = Literal["started", "finished", "failed"]

FIRST = "0" * 64
"""The `previous` of the first entry."""

MOST_IDS = 10_000
"""Above so many runs, an entry holds their number and a digest instead of their ids."""

_DIGEST = b',"digest":"'


class AuditEntry(NamedTuple):
    """One change of a store.

    Attributes:
        audit_id: Sorts by time; letters, digits and "-" alone; all ids are of one length.
        at: When it was written, in UTC.
        command: The words that were typed, without secrets.
        counts: How many of what, such as ``{"deleted": 3}``.
        run_ids: The runs concerned; empty where there were more than 10,000.
        previous: SHA-256 of the line before, in hex; 64 zeros in the first line.
        run_count: How many runs were concerned.
        run_ids_digest: Where `run_ids` was left out: SHA-256 of all ids, sorted, each with a newline behind it.
        store: Which store, without passwords; None where the log's place tells.
        after_torn: The line before was torn when this one was written.
        closes: The entry that this one tells the end of; its `run_ids` are what really was changed.
        error: The code of the error that ended it.
        state: ``started``: what was about to be done, of which another entry tells the end; ``finished`` or ``failed``:
            what was done; None in entries of before, which were written for what succeeded.
        after_cut: When this one was written, the log had lost lines that had been in it.
        continues: In the first entry: the hash of the last line of the log that was moved away from its place.
    """

    audit_id: str
    at: datetime
    actor: str
    host: str
    command: tuple[str, ...]
    reason: str | None
    counts: Mapping[str, int]
    run_ids: tuple[str, ...]
    previous: str
    run_count: int = 0
    run_ids_digest: str | None = None
    store: str | None = None
    after_torn: bool = False
    closes: str | None = None
    error: str | None = None
    state: State | None = None
    after_cut: bool = False
    continues: str | None = None


class AuditReport(NamedTuple):
    """What `AuditLog.verify` found.

    Attributes:
        entries: How many entries fit, up to the first line that does not.
        line: That line's number, counted from 1, or None.
        why: ``changed`` after it was written; ``removed``: it does not follow the line before it, so what stood
            between was taken out; ``torn``: its writer died, and nothing was written since; ``no JSON``: no entry;
            ``cut``: it is missing, with all that followed; ``after a cut``: lines before it are missing.
        torn: Numbers of torn lines that a later entry has chained over: no flaw, but a change may lack its entry.
        head: SHA-256 of the last line that fits, in hex; 64 zeros if there is none.
        has_length: Whether its length is kept beside it; without, lines cut from its end do not show.
        continues: The hash of the last line of the log that was there before, and was moved away.
    """

    entries: int
    line: int | None = None
    why: Flaw | None = None
    torn: tuple[int, ...] = ()
    head: str = FIRST
    has_length: bool = False
    continues: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the chain is whole."""
        return self.line is None


class Line(NamedTuple):
    """A line of the file, without its newline; `ended` tells whether it has one."""

    number: int
    data: bytes
    ended: bool


def new_audit_id(now: datetime) -> str:
    """An id for the entry of a change that begins `now` (aware): its instant in UTC, and eight random digits."""
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%S%f}-{secrets.token_hex(4)}"


def plain_text(text: str) -> str:
    """`text` in UTF-8 alone: JSON has no place for the lone surrogates of foreign bytes."""
    return text.encode("utf-8", "backslashreplace").decode()


def written_time(when: datetime) -> str:
    """An instant as the log holds it: RFC 3339 in UTC, with microseconds and ``Z``."""
    return when.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def told_runs(run_ids: Sequence[str]) -> dict[str, Any]:
    """What an entry says about its runs: their ids, or their number and a digest."""
    if len(run_ids) <= MOST_IDS:
        return {"run_ids": [plain_text(run_id) for run_id in run_ids]}
    digest = sha256()
    for run_id in sorted(run_ids):
        digest.update(plain_text(run_id).encode() + b"\n")
    return {"run_ids": [], "run_count": len(run_ids), "run_ids_digest": digest.hexdigest()}


def sealed(told: Mapping[str, Any]) -> bytes:
    """The line of an entry, with its digest."""
    body = orjson.dumps(told)
    return body[:-1] + _DIGEST + sha256(body).hexdigest().encode() + b'"}\n'


def _is_as_written(line: bytes) -> bool:
    """Whether the line still has the digest that it was written with."""
    body, separator, end = line.rpartition(_DIGEST)
    return bool(separator) and end == sha256(body + b"}").hexdigest().encode() + b'"}'


def parsed(line: bytes) -> AuditEntry | None:
    """What a line says, or None if it is no entry."""
    try:
        told = orjson.loads(line)
        at = parse_instant(told["at"])
        return None if at is None else _made(told, at)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _made(told: Mapping[str, Any], at: datetime) -> AuditEntry:
    run_ids = tuple(told["run_ids"])
    return AuditEntry(
        audit_id=str(told["audit_id"]),
        at=at,
        actor=str(told["actor"]),
        host=str(told["host"]),
        command=tuple(told["command"]),
        reason=told["reason"],
        counts=dict(told["counts"]),
        run_ids=run_ids,
        previous=str(told["previous"]),
        run_count=told.get("run_count", len(run_ids)),
        run_ids_digest=told.get("run_ids_digest"),
        store=told.get("store"),
        after_torn=told.get("after_torn") is True,
        closes=told.get("closes"),
        error=told.get("error"),
        state=_state(told),
        after_cut=told.get("after_cut") is True,
        continues=told.get("continues"),
    )


def _state(told: Mapping[str, Any]) -> State | None:
    found = told.get("state")
    return found if found in ("started", "finished", "failed") else None


class Chain:
    """Takes the lines of a log one by one, and remembers the first that does not fit.

    Args:
        length: The bytes that the log once had, as kept beside it; None if nothing is.
        digest: The hash of its last line then.
    """

    def __init__(self, length: int | None = None, digest: str = FIRST) -> None:
        self._length, self._digest = length, digest
        self._bytes = self._lines = 0
        self._is_long_enough = not length
        self._continues: str | None = None
        self._entries = 0
        self._head = FIRST
        self._torn: list[int] = []
        self._unread: Line | None = None
        self._flaw: tuple[int, Flaw] | None = None

    def take(self, line: Line) -> bool:
        """Whether `line` fits, as far as can be seen from those before it."""
        entry = parsed(line.data)
        self._measure(line)
        if line.number == 1 and entry is not None:
            self._continues = entry.continues
        if self._unread is not None and not (entry and self._is_chained_over(entry)):
            self._flaw = (self._unread.number, "no JSON")
        elif entry is None:
            self._unread = line
        elif not _is_as_written(line.data):
            self._flaw = (line.number, "changed")
        elif entry.previous != self._previous():
            self._flaw = (line.number, "removed")
        elif entry.after_cut:
            self._flaw = (line.number, "after a cut")
        else:
            self._accept(line)
        return self._flaw is None

    def _measure(self, line: Line) -> None:
        self._bytes += len(line.data) + line.ended
        self._lines = line.number
        if self._bytes == self._length and sha256(line.data).hexdigest() == self._digest:
            self._is_long_enough = True

    def _previous(self) -> str:
        return self._head if self._unread is None else sha256(self._unread.data).hexdigest()

    def _is_chained_over(self, entry: AuditEntry) -> bool:
        return entry.after_torn and entry.previous == self._previous()

    def _accept(self, line: Line) -> None:
        if self._unread is not None:
            self._torn.append(self._unread.number)
            self._unread = None
        self._entries += 1
        self._head = sha256(line.data).hexdigest()

    def report(self) -> AuditReport:
        """What was found, once all lines were taken."""
        if self._flaw is None and self._unread is not None:
            self._flaw = (self._unread.number, "no JSON" if self._unread.ended else "torn")
        if self._flaw is None and not self._is_long_enough:
            self._flaw = (self._lines + 1, "cut")
        number, why = self._flaw or (None, None)
        has_length = self._length is not None
        return AuditReport(self._entries, number, why, tuple(self._torn), self._head, has_length, self._continues)
