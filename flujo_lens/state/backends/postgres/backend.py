"""`PostgresBackend`: the contract on a PostgreSQL database."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any, Self, cast

from flujo_lens.state.backends.core.backend import CoreBackend
from flujo_lens.state.backends.core.validation import check_timeout, check_zone
from flujo_lens.state.backends.postgres.store import PostgresStore
from flujo_lens.state.backends.postgres.uri import address_of

if TYPE_CHECKING:
    from flujo_lens.state.backends.postgres.transaction import PostgresTransaction
    from flujo_lens.state.maintenance import Finding, Migration, MigrationPlan, OptimizationPlan, Optimized, Space

__all__ = ["PostgresBackend"]


class PostgresBackend(CoreBackend):
    """Keeps states in the tables of the library's version 0.6.11, and reads those that it wrote.

    Reading needs a role that may read and nothing else, and creates nothing. The first write to an empty database makes
    the library's tables and ours; where the library's tables exist it creates ours only (``lens_*``).

    Every call is one transaction. What PostgreSQL's columns do not keep as it is (NUL, large floats, integers of more
    than 32 bits) is stored separately and returned unchanged; the library reads the nearest value its columns can hold.

    Args:
        uri: ``postgresql://user@host/database``, with ``?schema=S``, or ``?search_path=`` or
            ``?options=`` as the library takes them.
        timeout: Seconds to wait for a connection, a lock, and for each statement that writes.
        zone: How naive times are read; no column has any.
        pool_size: Connections at most; those of a second event loop are counted apart, and not kept.
        serializer_default: As of `flujo_lens.serialization.codec.StateCodec`; so are envelope and validate.

    Raises (from any method):
        UnreachableStoreError: the server does not answer, or refuses the login.
        BusyError: a lock or a statement took longer than `timeout`; nothing was changed.
        ReadOnlyStoreError: the role may not write.
    """

    any_loop = True
    keeps_audit = True

    def __init__(
        self,
        uri: str,
        *,
        timeout: float = 10.0,
        zone: tzinfo | None = None,
        pool_size: int = 10,
        serializer_default: Callable[[Any], Any] | None = None,
        envelope: Any = None,
        validate: Any = None,
    ) -> None:
        check_zone(zone)
        address = address_of(uri)
        self.place, self._shown = address.place, address.shown
        store = PostgresStore(address, check_timeout(timeout), pool_size)
        self._server = store
        super().__init__(store, zone=zone, serializer_default=serializer_default, envelope=envelope, validate=validate)

    @classmethod
    def from_uri(cls, uri: str, *, timeout: float = 10.0, zone: tzinfo | None = None, envelope: Any = None) -> Self:
        """The backend for a ``postgresql:`` URI, as the command line uses it."""
        return cls(uri, timeout=timeout, zone=zone, envelope=envelope, pool_size=4)

    async def read_statuses(self) -> frozenset[str]:
        """Return the statuses of both tables, and those that are stored separately."""
        found = await self._server.read(lambda tx: cast("PostgresTransaction", tx).statuses())
        more = {"cancelled"} if "failed" in found else set[str]()
        return frozenset(found | more | ({"failed"} if "paused" in found else set()))

    # --- care

    async def plan_migration(self, now: datetime) -> MigrationPlan:
        """Return which tables would be made."""
        from flujo_lens.state.backends.postgres.maintenance import missing_steps
        from flujo_lens.state.maintenance import MigrationPlan

        shape, size = await self._server.shape()
        steps = tuple(missing_steps(shape))
        return MigrationPlan(place=self._shown, steps=steps, size_bytes=size, sql=self._server.script(shape))

    async def migrate(self, now: datetime, *, backup: bool = True, force: bool = False) -> Migration:
        """Make the tables that are missing, the library's and ours, in one transaction. There is no backup."""
        from flujo_lens.state.maintenance import Migration

        plan = await self.plan_migration(now)
        if plan.steps:
            await self._server.make_tables()
        return Migration(plan.steps)

    async def check(self, now: datetime, silent_after: timedelta, *, full: bool = False) -> Sequence[Finding]:
        """Look for missing tables, orphans, long transactions, dead rows; unless `full`, 5 seconds for each."""
        from flujo_lens.state.stale_runs import find_silent_runs

        silent = await find_silent_runs(self, now, silent_after)
        return (*await self._server.checked(now, full), silent)

    async def plan_optimization(self, *, vacuum: bool = False) -> OptimizationPlan:
        """Return which indexes would be made."""
        from flujo_lens.state.backends.postgres.maintenance import described
        from flujo_lens.state.maintenance import OptimizationPlan

        missing = await self._server.missing_indexes()
        indexes = tuple(map(described, missing))
        return OptimizationPlan(place=self._shown, indexes=indexes, vacuum=vacuum, space=await self._space())

    async def optimize(self, *, vacuum: bool = False, force: bool = False) -> Optimized:
        """Make our indexes `CONCURRENTLY` and gather figures; with `vacuum`, free the room of deleted rows, too."""
        from flujo_lens.state.maintenance import Optimized

        before = await self._space()
        made = await self._server.optimize(vacuum=vacuum)
        return Optimized(tuple(made), before, await self._space())

    async def _space(self) -> Space:
        from flujo_lens.state.maintenance import Space

        return Space((await self.read_facts())["size_bytes"], 0)
