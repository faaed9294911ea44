"""The half of `SQLiteBackend` that deletes runs by a plan, and brings them back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from functools import cached_property, partial
from typing import TYPE_CHECKING

from flujo_lens.errors import StoreNotFoundError
from flujo_lens.state.backends.sqlite.read_methods import SQLiteReads

if TYPE_CHECKING:
    from flujo_lens.state.backends.sqlite.writes.write_connection import Writer
    from flujo_lens.state.deletion import BackupCallback, Deleted, DeletionPlan, DeletionRequest, Record, Restored
    from flujo_lens.state.maintenance import Space

__all__ = ["PruningRuns"]

_HOLD = 0.1
"""Seconds that the end of a batch waits for readers while nobody else can begin to read."""


class PruningRuns(SQLiteReads):
    """Plans deletions by reading, and carries them out by way of the writer."""

    @cached_property
    def _writer(self) -> Writer:
        raise NotImplementedError

    async def read_space(self) -> Space:
        """Return the size of the file, and that of its free pages."""
        from flujo_lens.state.backends.sqlite.upkeep.vacuum import read_space

        return await self._read(lambda session: read_space(session.connection))

    async def plan_deletion(self, asked: DeletionRequest) -> DeletionPlan:
        """Return what would go; of the rows of many runs, the number and size are estimated from a sample."""
        from flujo_lens.state.backends.sqlite.deletion.plan import make_plan

        return await self._read(lambda session: make_plan(session, self._reader.path, asked))

    async def planned_ids(self, plan: DeletionPlan) -> AsyncIterator[str]:
        """Yield the ids of a plan; of runs that are gone meanwhile, none."""
        from flujo_lens.state.backends.sqlite.deletion import plan as deletion_plan

        for part in deletion_plan.parts(plan):
            for run_id in await self._read(partial(deletion_plan.planned_ids, part=part)):
                yield run_id

    async def delete_planned(
        self, plan: DeletionPlan, *, keep: BackupCallback | None = None, batch_size: int = 100
    ) -> AsyncIterator[Deleted]:
        """Delete what was planned, from tables of any version, a short transaction a batch.

        `keep` is called before the transaction, so that nobody waits for the disk, and inside it for what could not
        be seen before. A run that has changed since it was kept stays. A batch that took the lock for long is
        followed by a smaller one. Between two, the WAL is folded in before another connection has to. Where others
        write, batches are smaller still, and followed by a pause.
        """
        from flujo_lens.state.backends.sqlite.deletion.execute import Deletion
        from flujo_lens.state.backends.sqlite.deletion.pacing import Pacing

        deletion, politeness = Deletion(self._reader.path, plan, keep, batch_size), Pacing()
        # Opens the connection, for what is kept before the first transaction.
        await self._writer.write(lambda db: db.rollback(), creates=False, hold=_HOLD)
        try:
            await self._writer.between(politeness.begin)
            while deletion.advance():
                await self._writer.between(deletion.keep_ahead)
                done = await self._writer.write(deletion.step, creates=False, hold=_HOLD)
                if done is None:
                    raise StoreNotFoundError(
                        f"the store {self.path} is gone", hint="it was there when this was planned"
                    )
                deletion.settle(politeness.longest)
                yield done
                await asyncio.sleep(await self._writer.between(politeness.rest) or 0)
        finally:
            await self._writer.between(politeness.end)

    async def restore(self, records: Iterable[Record]) -> Restored:
        """Bring back runs, several a transaction; every row has the rowid that it had, unless another has it."""
        from flujo_lens.state.backends.sqlite.deletion.restore import Restorer
        from flujo_lens.state.deletion import Restored

        restorer, back = Restorer(self.path, records), dict[str, bool]()
        while restorer.has_more:
            done = await self._writer.write(restorer.some, creates=False, hold=_HOLD)
            if done is None:
                raise StoreNotFoundError(f"there is no store at {self.path}", hint="nothing was created")
            restorer.settle(done)
            back |= done
        return Restored(
            tuple(i for i, is_new in back.items() if is_new), tuple(i for i, new in back.items() if not new)
        )
