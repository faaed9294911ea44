"""Marking runs as cancelled, and taking that back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from flujo_lens.errors import OperationFailedError
from flujo_lens.serialization import safe_loads
from flujo_lens.state.backends.core.port import RunRow, Store, Transaction
from flujo_lens.state.backends.core.rows import cancelled, is_open, now_text
from flujo_lens.state.backends.core.stored_claims import claims_in
from flujo_lens.state.claims import present
from flujo_lens.state.deletion import BackupCallback, Record
from flujo_lens.state.timestamps import parse_instant

if TYPE_CHECKING:
    from flujo_lens.state.backends.core.backend import CoreBackend


class Cancellation:
    """Cancels some runs at one moment, whose text tells afterwards whether they have changed since.

    Args:
        run_ids: The runs, each once.
        force: Whether those that are held go, too.
    """

    def __init__(self, core: CoreBackend, run_ids: Sequence[str], force: bool) -> None:
        self._core, self._ids, self._force = core, run_ids, force
        self._changes = cancelled(now_text())
        self._copied: dict[str, RunRow] | None = None

    async def copied(self, store: Store, keep: BackupCallback) -> None:
        """Hand `keep` what the runs are now; those that are others by then are not marked."""
        rows = await store.read(self._open)
        self._copied = {row.run_id: row for row in rows}
        if rows:
            await asyncio.to_thread(keep, [self._record(row) for row in rows])

    def _record(self, row: RunRow) -> Record:
        parts = {"state": text_of(row.state), "run": text_of(row.run), "at": self._changes["updated_at"]}
        return {"run_id": row.run_id, "cancelled": parts, "last": True}

    async def _open(self, tx: Transaction) -> list[RunRow]:
        """The resumable runs without a claim."""
        from flujo_lens.state.backends.core.backend import stored_documents

        claims, rows, now = claims_in(await tx.get("claim", self._ids)), await tx.runs(self._ids), present()
        free = [i for i in self._ids if i in rows and (self._force or i not in claims or claims[i].has_ended(now))]
        return [rows[run_id] for run_id in free if is_open(*stored_documents(rows[run_id]))]

    async def mark(self, tx: Transaction) -> list[str]:
        """Mark the runs, and take the claims on them away."""
        await tx.lock(self._ids)
        rows = await self._open(tx)
        if self._copied is not None:
            rows = [row for row in rows if row.run_id in self._copied and self._copied[row.run_id][:3] == row[:3]]
        for row in rows:
            await self._core.put(tx, self._core.changed(row, self._changes))
            await tx.set("claim", row.run_id, None)
        return [row.run_id for row in rows]


async def take_back(core: CoreBackend, tx: Transaction, record: Record) -> bool:
    """Make a run what it was before it was cancelled, unless it is gone or has changed since."""
    run_id, parts = record["run_id"], record["cancelled"]
    check_first(record)
    row = (await tx.runs([run_id])).get(run_id)
    if row is None or not all(_is_as_marked(data, parts["at"]) for data in (row.state, row.run) if data is not None):
        return False
    await core.put(tx, RunRow(run_id, data_of(parts["state"]), data_of(parts["run"])))
    return True


def check_first(record: Record) -> None:
    """See that the first record of a run is of a store on the core.

    Raises:
        OperationFailedError: it is of another kind of store.
    """
    kind = record.get("cancelled", record)
    if not isinstance(kind, dict) or "state" not in kind or "run" not in kind:
        raise OperationFailedError(
            "the copies are of another kind of store; nothing was restored",
            hint="restore it into the kind of store that it was taken from",
        )


def _is_as_marked(data: bytes, at: str) -> bool:
    document = safe_loads(data)
    same = parse_instant(document.get("updated_at")) == parse_instant(at)
    return same and document.get("status") == "cancelled"


def text_of(data: bytes | None) -> str | None:
    """A stored document as records have it."""
    return None if data is None else data.decode()


def data_of(text: str | None) -> bytes | None:
    """The inverse of `text_of`."""
    return None if text is None else text.encode()
