"""The half of `SQLiteBackend` that keeps a store in order: its schema, its health, its indexes and its size."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from flujo_lens.state.backends.sqlite.engine.open_backends import make_way
from flujo_lens.state.backends.sqlite.read_methods import SQLiteReads
from flujo_lens.state.views import RunFilter

if TYPE_CHECKING:
    from flujo_lens.state.backends.sqlite.writes.write_connection import Writer
    from flujo_lens.state.maintenance import (
        Finding,
        Migration,
        MigrationPlan,
        OptimizationPlan,
        Optimized,
        Repaired,
        Space,
    )

__all__ = ["TendedStore"]

T = TypeVar("T")


class TendedStore(SQLiteReads):
    """Looks by reading. What it changes, it changes by connections of its own, while this process has none open."""

    @cached_property
    def _writer(self) -> Writer:
        raise NotImplementedError

    async def _without_reading(self, work: Callable[[threading.Event], None]) -> None:
        def alone() -> None:
            self._reader.close()
            work(self._thread.stopped)

        await self._thread.run(alone)

    async def _alone(self, work: Callable[[threading.Event], T]) -> T:
        """Return ``work(stopped)``, done while no backend of this process has the file open."""
        done: list[T] = []
        if "_writer" in vars(self):
            # The writer's is the last connection, which takes the -wal and the -shm away.
            await self._without_reading(lambda _: None)
            await self._writer.close()
        make_way(self._reader.path)
        await self._without_reading(lambda stopped: done.append(work(stopped)))
        return done[0]

    async def plan_migration(self, now: datetime) -> MigrationPlan:
        """Return what `migrate` would do at `now`; its backup goes beside the file."""
        from flujo_lens.state.backends.sqlite.upkeep.backup import plan_migration

        return await self._read(lambda session: plan_migration(session.connection, self._reader.path, now))

    async def migrate(self, now: datetime, *, backup: bool = True) -> Migration:
        """Bring the file to the newest schema, in one transaction, after a copy of it.

        It takes the file for itself. What this process has open is closed; that of another is a BusyError.
        """
        from flujo_lens.state.backends.sqlite.upkeep.backup import migrate_safely

        path, timeout = self._reader.path, self._timeout
        return await self._alone(lambda stopped: migrate_safely(path, timeout, now, backup=backup, stopped=stopped))

    async def check(self, now: datetime, silent_after: timedelta, *, full: bool = False) -> Sequence[Finding]:
        """Look for what is wrong; unless `full`, the pages of a large file for a few seconds, and values by samples."""
        from flujo_lens.state.backends.sqlite.upkeep.check import check
        from flujo_lens.state.maintenance import silent_finding
        from flujo_lens.state.stale_runs import silent_ids

        silent = len(await silent_ids(self, RunFilter(), now - silent_after, now))
        found = await self._read(lambda session: check(session, self._reader.path, now, full=full))
        return (*found, silent_finding(silent, silent_after))

    async def repair(self, checks: Sequence[str]) -> Sequence[Repaired]:
        """Make missing indexes, alone with the file; fold in a large WAL, as far as others let it."""
        from flujo_lens.state.backends.sqlite.upkeep.repair import repair

        path, timeout = self._reader.path, self._timeout
        return await self._alone(lambda stopped: repair(path, timeout, checks, stopped))

    async def plan_optimization(self, *, vacuum: bool = False) -> OptimizationPlan:
        """Return which indexes are missing, and what a vacuum needs."""
        from flujo_lens.state.backends.sqlite.upkeep.indexes import plan

        return await self._read(lambda session: plan(session.connection, self._reader.path, vacuum=vacuum))

    async def optimize(self, *, vacuum: bool = False, force: bool = False) -> Optimized:
        """Make the indexes and gather the figures in one transaction, then vacuum in another."""
        from flujo_lens.state.backends.sqlite.upkeep.indexes import optimize

        path, timeout = self._reader.path, self._timeout
        return await self._alone(lambda stopped: optimize(path, timeout, vacuum=vacuum, force=force, stopped=stopped))

    async def vacuum(self, *, force: bool = False) -> tuple[Space, Space]:
        """Write the file anew without what is free in it, alone with it unless `force`."""
        from flujo_lens.state.backends.sqlite.upkeep.vacuum import vacuum

        path, timeout = self._reader.path, self._timeout
        return await self._alone(lambda stopped: vacuum(path, timeout, force=force, stopped=stopped))
