"""The audit log of a store on a server: lines in a space of their own, so that every client sees the same log.

Line *n* is the value of the key *n*, twelve digits long, in the space ``audit``. The number and the hash of the last
line are kept apart, in the space ``audit_head``, and replaced in the same transaction: an append is done or not, by
whichever line its process dies. Numbers are never used again, so that lines removed from the end show, too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import NamedTuple, Protocol

from flujo_lens.state.backends.core.port import Store, Transaction

_LOCK = ":lens:audit"
"""What those who append lock, as if it were a run; no run id begins so on any driver that watches what it read."""
_HEAD = "head"
_AT_ONCE = 500


class AuditHead(NamedTuple):
    """The recorded end of the log: the number of its last line, and the SHA-256 of that line in hex."""

    number: int
    digest: str


class KeepsAudit(Protocol):
    """A backend that may keep the audit log in its store."""

    @property
    def audit_lines(self) -> AuditLines | None:
        """The log; None if it is kept next to the store."""


class AuditLines:
    """The lines in a store.

    Args:
        store: Its transactions keep the spaces ``audit`` and ``audit_head``.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def append(self, make: Callable[[str | None], bytes]) -> None:
        """Append a line, while no other process does.

        Args:
            make: Returns the line, without a newline, for the hash of the line before it (None for the first). It is
                called again where the transaction begins again.
        """

        async def work(tx: Transaction) -> None:
            await tx.lock([_LOCK])
            end = await self._end(tx)
            line = make(None if end is None else end.digest)
            made = AuditHead(1 if end is None else end.number + 1, sha256(line).hexdigest())
            await tx.set("audit", _key(made.number), line)
            await tx.set("audit_head", _HEAD, json.dumps(made._asdict()).encode())

        await self._store.write(work)

    async def _end(self, tx: Transaction) -> AuditHead | None:
        """Where the next line goes: behind the recorded end, and behind all lines should that be lost or older."""
        end = await _head(tx)
        while True:
            number = 0 if end is None else end.number
            found = await tx.get("audit", [_key(number + 1)])
            if not found:
                return end
            end = AuditHead(number + 1, sha256(found[_key(number + 1)]).hexdigest())

    async def head(self) -> AuditHead | None:
        """The recorded end; None if there is none."""
        return await self._store.read(_head)

    async def read(self, after: int) -> Sequence[tuple[int, bytes]]:
        """A page of lines with their numbers, those above `after`; the last one is empty.

        Missing lines are skipped up to the recorded end.
        """

        async def work(tx: Transaction) -> list[tuple[int, bytes]]:
            start = after
            while True:
                numbers = range(start + 1, start + 1 + _AT_ONCE)
                found = await tx.get("audit", list(map(_key, numbers)))
                if found or not await _goes_on(tx, numbers[-1]):
                    return [(number, found[_key(number)]) for number in numbers if _key(number) in found]
                start = numbers[-1]

        return await self._store.read(work)


async def _goes_on(tx: Transaction, number: int) -> bool:
    end = await _head(tx)
    return end is not None and end.number > number


async def _head(tx: Transaction) -> AuditHead | None:
    """The recorded end; None if there is none, or it is no such record."""
    try:
        stored = json.loads((await tx.get("audit_head", [_HEAD]))[_HEAD])
        return AuditHead(int(stored["number"]), str(stored["digest"]))
    except (KeyError, TypeError, ValueError):
        return None


def _key(number: int) -> str:
    return f"{number:012d}"
