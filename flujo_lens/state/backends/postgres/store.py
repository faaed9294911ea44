"""The server: pools, transactions, and what is done again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import asyncpg

from flujo_lens.errors import NotAStoreError
from flujo_lens.state.backends.core.port import Transaction, Work
from flujo_lens.state.backends.postgres import queries
from flujo_lens.state.backends.postgres.errors import CLIENT_ERRORS, MISSING, is_cut, translate
from flujo_lens.state.backends.postgres.tables import DDL, LENS_DDL, Shape
from flujo_lens.state.backends.postgres.transaction import PostgresTransaction
from flujo_lens.state.backends.postgres.uri import Address

__all__ = ["PostgresStore"]

T = TypeVar("T")
_TRIES = 5
_AGAIN = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)
_SCHEMA_LOCK = 1818585716
"""Our advisory lock for making tables; the library's own is 4059087070."""


class PostgresStore:
    """Transactions on one database, by a pool of connections for each event loop.

    Nothing is created by reading: reads are ``READ ONLY`` and of one moment (``REPEATABLE READ``), so a role that may
    only read is enough. Settings are those of a transaction (``SET LOCAL``), as PgBouncer needs it.

    Args:
        address: Where it is.
        timeout: Seconds to wait for a connection, a lock, and for each statement that writes.
        pool_size: Connections for each event loop at most.
    """

    def __init__(self, address: Address, timeout: float, pool_size: int = 10) -> None:
        self._address, self._timeout, self._size = address, timeout, pool_size
        self._pools: dict[asyncio.AbstractEventLoop, Any] = {}
        self._shape: Shape | None = None

    # --- connections

    async def _pool(self) -> Any:
        loop = asyncio.get_running_loop()
        for other in [other for other in self._pools if other.is_closed()]:
            self._pools.pop(other)  # its connections went with the loop
        if loop not in self._pools:
            self._pools[loop] = asyncpg.create_pool(
                self._address.dsn,
                min_size=0,
                max_size=self._size,
                timeout=self._timeout,
                statement_cache_size=self._address.statement_cache_size,
                max_inactive_connection_lifetime=60,
            )
        return await self._pools[loop]

    @asynccontextmanager
    async def _transaction(self, *, writes: bool) -> AsyncIterator[Any]:
        pool = await self._pool()
        async with pool.acquire(timeout=self._timeout) as connection:
            options = {} if writes else {"isolation": "repeatable_read", "readonly": True}
            async with connection.transaction(**options):
                await connection.execute(self._settings(writes))
                yield connection

    def _settings(self, writes: bool) -> str:
        wait = max(1, int(self._timeout * 1000))
        settings = [f"SET LOCAL lock_timeout = {wait}"]
        if writes:
            settings.append(f"SET LOCAL statement_timeout = {wait}")
        if self._address.schema is not None:
            name = self._address.schema.replace('"', '""')
            settings.append(f'SET LOCAL search_path = "{name}"')
        return "; ".join(settings)

    # --- what there is

    async def _shape_of(self, connection: Any, *, anew: bool = False) -> Shape:
        """The tables and columns; looked for again while some are missing, for they may come."""
        if self._shape is None or anew or not self._shape.is_whole:
            rows = await connection.fetch(queries.SHAPE)
            self._shape = Shape({name: frozenset(columns) for name, columns in rows})
        return self._shape

    async def _prepared(self, connection: Any, *, writes: bool, anew: bool) -> Shape:
        shape = await self._shape_of(connection, anew=anew)
        if writes and not shape.is_whole:
            await connection.execute(f"SELECT pg_advisory_xact_lock({_SCHEMA_LOCK})")
            if not shape.has("workflow_state", "runs", "steps", "spans", "traces", "evaluations", "system_state"):
                await connection.execute(DDL)
            await connection.execute(LENS_DDL)
            shape = await self._shape_of(connection, anew=True)
        if not shape.is_store:
            raise NotAStoreError(
                f"{self._address.shown} has no tables of a state store",
                hint="nothing was created; ?schema=NAME names another schema, lens init makes the tables",
                empty=True,
            )
        return shape

    # --- transactions

    async def read(self, work: Work[T]) -> T:
        """Run `work` on one moment; once more where the connection was cut, or the tables changed meanwhile."""
        try:
            return await self._run(work, writes=False)
        except (*CLIENT_ERRORS,) as error:
            if not is_cut(error) and not isinstance(error, MISSING):
                raise translate(error, self._address.shown) from error
            anew = isinstance(error, MISSING)
        try:
            return await self._run(work, writes=False, anew=anew)
        except (*CLIENT_ERRORS,) as error:
            raise translate(error, self._address.shown) from error

    async def write(self, work: Work[T], *, creates: bool = True) -> T:
        """Run `work` in a transaction; again after a deadlock or a serialization failure, which changed nothing.

        What was sent and not answered may have been done, so a connection that was cut is an error.
        """
        for attempt in range(_TRIES):
            try:
                return await self._run(work, writes=True, creates=creates, anew=attempt > 0)
            except (*_AGAIN, asyncpg.UniqueViolationError, *MISSING) as error:
                if attempt == _TRIES - 1:
                    raise translate(error, self._address.shown) from error
            except (*CLIENT_ERRORS,) as error:
                raise translate(error, self._address.shown) from error
            await asyncio.sleep(0.01 * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    async def _run(self, work: Work[T], *, writes: bool, creates: bool = True, anew: bool = False) -> T:
        async with self._transaction(writes=writes) as connection:
            if writes and not creates:
                await self._check_there(connection)
            shape = await self._prepared(connection, writes=writes, anew=anew)
            return await work(self._on(connection, shape))

    async def _check_there(self, connection: Any) -> None:
        if not (await self._shape_of(connection)).is_store:
            from flujo_lens.errors import StoreNotFoundError

            raise StoreNotFoundError(f"{self._address.shown} has no tables of a state store")

    def _on(self, connection: Any, shape: Shape) -> Transaction:
        return PostgresTransaction(connection, shape, self._address.schema or "")

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Transaction]:
        """Hold one moment on a connection of its own."""
        try:
            async with self._transaction(writes=False) as connection:
                shape = await self._prepared(connection, writes=False, anew=False)
                yield self._on(connection, shape)
        except (*CLIENT_ERRORS,) as error:
            raise translate(error, self._address.shown) from error

    def clone(self) -> PostgresStore:
        """Another on the same database, with connections of its own."""
        return PostgresStore(self._address, self._timeout, self._size)

    async def facts(self) -> Mapping[str, Any]:
        """The size of the tables, and when something was last written."""

        async def work(tx: Transaction) -> Mapping[str, Any]:
            assert isinstance(tx, PostgresTransaction)
            return await tx.facts()

        return await self.read(work)

    async def close(self) -> None:
        """Close the connections of this loop, and drop those of others."""
        running = asyncio.get_running_loop()
        for loop in list(self._pools):
            pool = self._pools.pop(loop)
            if loop is running:
                try:
                    await asyncio.wait_for(pool.close(), self._timeout)
                except (*CLIENT_ERRORS,):
                    pool.terminate()
            elif not loop.is_closed():
                loop.call_soon_threadsafe(pool.terminate)
