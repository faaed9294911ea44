"""A folder of JSON files as a `Store` of the core: reads and writes on threads of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Hashable, Mapping
from contextlib import ExitStack, asynccontextmanager
from typing import Any, TypeVar, cast

from flujo_lens.state.backends.core.port import Transaction, Work, run_without_waiting
from flujo_lens.state.backends.core.threaded_transaction import ThreadedTransaction
from flujo_lens.state.backends.core.worker_pool import Workers
from flujo_lens.state.backends.file.folder import Folder, Reader
from flujo_lens.state.backends.file.transaction import FileTransaction, NeedsLook
from flujo_lens.state.backends.file.writes import Changes, Stop
from flujo_lens.state.views import RunFilter

T = TypeVar("T")
_LOOKS = 2
"""Looks at the whole folder that a write may ask for before it takes one under the locks."""


class FileStore:
    """Transactions on a folder.

    Who waits for the lock does not keep others from reading. What is done to one run is done in the order of the calls,
    else the last save of a run would not be the one that counts.

    Args:
        changes: Writes to it.
    """

    def __init__(self, folder: Folder, changes: Changes) -> None:
        self.folder, self.changes = folder, changes
        self._readers, self._writers = Workers(), Workers()

    async def run(self, work: Callable[[Stop], T]) -> T:
        """Return ``work(stop)``, done on a thread; `stop` is set when the caller is cancelled."""
        return await self._readers.run(work)

    async def change(self, work: Callable[[Stop], T], what: Hashable | None = None) -> T:
        """As `run`, for what writes; what is done to one thing (`what`) is done in the order of the calls."""
        return await self._writers.run(work, what)

    async def read(self, work: Work[T]) -> T:
        def reading(stop: Stop) -> T:
            with self.folder.reading() as reader:
                return run_without_waiting(work(FileTransaction(self.folder, reader, stop)))

        return await self.run(reading)

    async def write(self, work: Work[T], *, creates: bool = True, run_id: str | None = None) -> T:
        def writing(stop: Stop) -> T:
            for _ in range(_LOOKS):
                try:
                    return self._write(work, creates, stop)
                except NeedsLook:
                    self.folder.look(stop)
            return self._write(work, creates, stop, may_look=True)

        return await self.change(writing, run_id)

    def _write(self, work: Work[T], creates: bool, stop: Stop, *, may_look: bool = False) -> T:
        with self.changes.locked(stop, creates=creates) as places:
            reader = Reader(places.folder, places.histories, self.folder.codec)
            tx = FileTransaction(
                self.folder, reader, stop, uses_last=True, may_look=may_look, writing=(self.changes, places)
            )
            found = run_without_waiting(work(tx))
            tx.commit()
            return found

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Transaction]:
        """The folder as it was some seconds ago at most; of runs that are named, as it is."""
        with ExitStack() as held:
            reader = await self.run(lambda stop: held.enter_context(self.folder.reading()))
            tx = FileTransaction(self.folder, reader, Stop(), uses_last=True)
            yield cast("Transaction", ThreadedTransaction(tx, self._hop))

    async def _hop(self, call: Coroutine[Any, Any, T]) -> T:
        return await self.run(lambda stop: run_without_waiting(call))

    def clone(self) -> FileStore:
        return FileStore(self.folder, self.changes)

    async def count(self, wanted: RunFilter) -> int:
        def counted(stop: Stop) -> int:
            with self.folder.reading() as reader:
                return self.folder.snapshot(reader.folder, stop).count(wanted)

        return await self.run(counted)

    async def change_token(self) -> Hashable:
        return await self.run(lambda stop: self.folder.change_token())

    async def facts(self) -> Mapping[str, Any]:
        return await self.run(self.folder.facts)

    async def close(self) -> None:
        self.folder.close()


class InThisThread(FileStore):
    """The same for who has no event loop: everything is done at once, in the thread that calls."""

    async def run(self, work: Callable[[Stop], T]) -> T:
        return work(Stop())
