"""The lines of the audit log, and their chain. No I/O."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Literal, NamedTuple

import orjson

from flujo_lens.state.timestamps import parse_instant

Flaw = Literal["changed", "removed", "torn", "no JSON", "cut", "after a cut"]
State = Literal["started", "finished", "failed"]

FIRST = "0" * 64
"""The `previous` of the first entry."""

MOST_IDS = 10_000
"""Maximum number of runs whose ids are in an entry; of more, it has the number and a digest."""

_DIGEST = b',"digest":"'


class AuditEntry(NamedTuple):
    """One change of a store.

    Attributes:
        audit_id: Sorts by time; letters, digits and "-"; all ids have the same length.
        at: The time of writing, in UTC.
        counts: Numbers by name, such as ``{"deleted": 3}``.
        run_ids: The affected runs; empty for more than 10,000.
        previous: SHA-256 of the line before, in hex; 64 zeros in the first line.
        run_count: Number of affected runs.
        run_ids_digest: Without `run_ids`: SHA-256 of all ids, sorted, each followed by a newline.
        store: The store, without passwords; None if it is the log's own.
        after_torn: Whether the line before it is incomplete.
        closes: The entry whose result this one records; its `run_ids` are the runs actually changed.
        error: The code of the error that ended the change.
        state: ``started``: a planned change, whose result is in another entry; ``finished`` or ``failed``: a result;
            None in entries of earlier versions, which recorded successful changes.
        after_cut: Whether the log had lost lines when this entry was written.
        continues: In the first entry: the hash of the last line of an earlier log that was moved away.
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
    """The result of `AuditLog.verify`.

    Attributes:
        entries: Number of valid entries before the first line that does not match.
        line: The number of that line, counted from 1, or None.
        why: ``changed``: after it was written; ``removed``: it does not follow the line before it, so lines between
            were removed; ``torn``: its writer died, and nothing was written since; ``no JSON``: not an entry;
            ``cut``: this line and all after it are missing; ``after a cut``: lines before it are missing.
        torn: Numbers of incomplete lines with later entries: not an error, but a change may have no entry.
        head: SHA-256 of the last valid line, in hex; 64 zeros if there is none.
        has_length: Whether the end of the log is recorded separately, so that removed last lines are detected.
        continues: The hash of the last line of an earlier log that was moved away.
        changes: Number of changes of which these are the entries: most have one for the start and one for the result.
    """

    entries: int
    line: int | None = None
    why: Flaw | None = None
    torn: tuple[int, ...] = ()
    head: str = FIRST
    has_length: bool = False
    continues: str | None = None
    changes: int = 0

    @property
    def ok(self) -> bool:
        """Whether the chain is intact."""
        return self.line is None


class Line(NamedTuple):
    """A line of the log.

    Attributes:
        number: Counted from 1.
        data: Without its newline.
        ended: Whether it had one.
        end: Its place, as a recorded end counts: in a file the bytes up to and with it, on a server its number.
    """

    number: int
    data: bytes
    ended: bool
    end: int


def new_audit_id(now: datetime) -> str:
    """A new id for an entry: the instant `now` (aware) in UTC, and eight random digits."""
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%S%f}-{secrets.token_hex(4)}"


def plain_text(text: str) -> str:
    """`text` without lone surrogates (undecodable bytes), which JSON cannot represent."""
    return text.encode("utf-8", "backslashreplace").decode()


def written_time(when: datetime) -> str:
    """An instant in the format of the log: RFC 3339 in UTC, with microseconds and ``Z``."""
    return when.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def run_fields(run_ids: Sequence[str]) -> dict[str, Any]:
    """The fields of an entry about its runs: their ids, or their number and a digest."""
    if len(run_ids) <= MOST_IDS:
        return {"run_ids": [plain_text(run_id) for run_id in run_ids]}
    digest = sha256()
    for run_id in sorted(run_ids):
        digest.update(plain_text(run_id).encode() + b"\n")
    return {"run_ids": [], "run_count": len(run_ids), "run_ids_digest": digest.hexdigest()}


def sealed(entry: Mapping[str, Any]) -> bytes:
    """The line of an entry, with its digest."""
    body = orjson.dumps(entry)
    return body[:-1] + _DIGEST + sha256(body).hexdigest().encode() + b'"}\n'


def _is_as_written(line: bytes) -> bool:
    """Whether the digest in the line matches it."""
    body, separator, end = line.rpartition(_DIGEST)
    return bool(separator) and end == sha256(body + b"}").hexdigest().encode() + b'"}'


def parsed(line: bytes) -> AuditEntry | None:
    """The entry of a line, or None if it is not an entry."""
    try:
        entry = orjson.loads(line)
        at = parse_instant(entry["at"])
        return None if at is None else _made(entry, at)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _made(entry: Mapping[str, Any], at: datetime) -> AuditEntry:
    run_ids = tuple(entry["run_ids"])
    return AuditEntry(
        audit_id=str(entry["audit_id"]),
        at=at,
        actor=str(entry["actor"]),
        host=str(entry["host"]),
        command=tuple(entry["command"]),
        reason=entry["reason"],
        counts=dict(entry["counts"]),
        run_ids=run_ids,
        previous=str(entry["previous"]),
        run_count=entry.get("run_count", len(run_ids)),
        run_ids_digest=entry.get("run_ids_digest"),
        store=entry.get("store"),
        after_torn=entry.get("after_torn") is True,
        closes=_id(entry.get("closes")),
        error=entry.get("error"),
        state=_state(entry),
        after_cut=entry.get("after_cut") is True,
        continues=entry.get("continues"),
    )


def _id(stored: Any) -> str | None:
    return None if stored is None else str(stored)


def _state(entry: Mapping[str, Any]) -> State | None:
    found = entry.get("state")
    return found if found in ("started", "finished", "failed") else None


class Chain:
    """Checks the lines of a log one by one, and keeps the first that does not match.

    Args:
        end: The recorded end of the log, as of `Line.end`; None if there is no record.
        digest: The hash of the line there.
    """

    def __init__(self, end: int | None = None, digest: str = FIRST) -> None:
        self._end, self._digest = end, digest
        self._lines = 0
        self._is_long_enough = not end
        self._continues: str | None = None
        self._entries = self._changes = 0
        self._open: set[str] = set()
        self._head = FIRST
        self._torn: list[int] = []
        self._unread: Line | None = None
        self._flaw: tuple[int, Flaw] | None = None

    def take(self, line: Line) -> bool:
        """Check a line; return whether it matches the lines before it."""
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
            self._accept(line, entry)
        return self._flaw is None

    def _measure(self, line: Line) -> None:
        self._lines = line.number
        if line.end == self._end and sha256(line.data).hexdigest() == self._digest:
            self._is_long_enough = True

    def _previous(self) -> str:
        return self._head if self._unread is None else sha256(self._unread.data).hexdigest()

    def _is_chained_over(self, entry: AuditEntry) -> bool:
        return entry.after_torn and entry.previous == self._previous()

    def _accept(self, line: Line, entry: AuditEntry) -> None:
        if self._unread is not None:
            self._torn.append(self._unread.number)
            self._unread = None
        self._entries += 1
        self._changes += entry.closes not in self._open  # a result whose start was moved away counts by itself
        self._open.discard(entry.closes or "")
        if entry.state == "started":
            self._open.add(entry.audit_id)
        self._head = sha256(line.data).hexdigest()

    def report(self) -> AuditReport:
        """The result after the last line."""
        if self._flaw is None and self._unread is not None:
            self._flaw = (self._unread.number, "no JSON" if self._unread.ended else "torn")
        if self._flaw is None and not self._is_long_enough:
            self._flaw = (self._lines + 1, "cut")
        number, why = self._flaw or (None, None)
        has_length = self._end is not None
        return AuditReport(
            self._entries, number, why, tuple(self._torn), self._head, has_length, self._continues, self._changes,
        )  # fmt: skip
