"""`SqliteTransfer`: the part of the backend that moves runs between stores."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from datetime import tzinfo
from pathlib import Path
from typing import TYPE_CHECKING

from flujo_lens.state.backends.core.stored_claims import StoredClaims
from flujo_lens.state.backends.core.validation import findable_ids
from flujo_lens.state.backends.sqlite.engine.store import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flujo_lens.state.backends.core.record_spool import RecordSpool
    from flujo_lens.state.deletion import Record, Restored

_HISTORY = ("workflow_state", "runs", "steps", "spans", "evaluations")


class SqliteTransfer(StoredClaims):
    """Portable records of rows, and rows of portable records (see `flujo_lens.state.portable`)."""

    path: Path
    _store: SqliteStore

    async def create_store(self) -> None:
        """Make an empty file if there is none."""
        await self._store.write(lambda db: None)

    @classmethod
    def portable_fields(cls) -> Mapping[str, frozenset[str]] | None:
        """The fields that the tables have columns for."""
        from flujo_lens.state.backends.sqlite.portable_records import FIELDS

        return FIELDS

    async def spool_portable(self, run_ids: Sequence[str]) -> RecordSpool:
        """The records of `read_portable`, read and put together in one transaction."""
        from flujo_lens.state.backends.core.record_spool import RecordSpool
        from flujo_lens.state.backends.sqlite.portable_records import read_portable

        sought = findable_ids(run_ids)
        return await self._store.read(lambda session: RecordSpool(read_portable(session, sought)))

    async def read_portable(self, run_ids: Sequence[str]) -> AsyncIterator[Record]:
        """Yield the portable records of these runs, read in one transaction."""
        with await self.spool_portable(run_ids) as spool:
            for record in spool:
                yield record

    @classmethod
    def portable_records(cls, records: Iterable[Record], zone: tzinfo | None = None) -> Iterator[Record]:
        """The portable form of records of `delete_planned`."""
        from flujo_lens.state.backends.sqlite.portable_records import portable_records
        from flujo_lens.state.timestamps import local_zone

        return portable_records(records, zone or local_zone(), is_set=zone is not None)

    async def write_portable(self, records: Iterable[Record], *, replace: bool = False) -> Restored:
        """Save runs from portable records, several a transaction; makes the file and the columns that they need."""
        from flujo_lens.state.backends.sqlite.deletion.restore import restore_all
        from flujo_lens.state.backends.sqlite.portable_records import add_step_columns
        from flujo_lens.state.backends.sqlite.portable_writer import PortableWriter

        await self._store.write(lambda db: add_step_columns(db, records), *_HISTORY)
        return await restore_all(self._store, PortableWriter(self.path, records, replace=replace))
