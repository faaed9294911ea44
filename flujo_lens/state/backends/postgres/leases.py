"""Connections of a pool that are kept between two uses: taking and giving back cost as much as a small query."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from flujo_lens.state.backends.postgres.errors import CLIENT_ERRORS

LONGEST = 60.0
"""Seconds that a connection is kept without being used."""


class Leases:
    """Takes connections from a pool, and gives back those that are broken, waited for, or unused for a minute.

    Args:
        pool: Of the event loop that this is used in.
    """

    def __init__(self, pool: Any) -> None:
        self.pool = pool
        self._free: list[tuple[Any, float]] = []
        self._waiting = 0
        self._sweep: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def one(self) -> AsyncIterator[Any]:
        """A connection for the block."""
        connection = await self._taken()
        try:
            yield connection
        except BaseException:
            await self.pool.release(connection)
            raise
        if self._waiting or connection.is_closed():
            await self.pool.release(connection)
        else:
            self._keep(connection)

    async def _taken(self) -> Any:
        while self._free:
            connection, _ = self._free.pop()
            if not connection.is_closed():
                return connection
            await self.pool.release(connection)
        self._waiting += 1
        try:
            return await (await self.pool).acquire()
        finally:
            self._waiting -= 1

    def _keep(self, connection: Any) -> None:
        loop = asyncio.get_running_loop()
        self._free.append((connection, loop.time()))
        if self._sweep is None:
            self._sweep = loop.call_later(LONGEST, self._give_back_old)

    def _give_back_old(self) -> None:
        loop = asyncio.get_running_loop()
        old = [pair for pair in self._free if loop.time() - pair[1] >= LONGEST]
        self._free = [pair for pair in self._free if pair not in old]
        for connection, _ in old:
            self._task = loop.create_task(self._given_back(connection))
        self._sweep = loop.call_later(LONGEST, self._give_back_old) if self._free else None

    async def _given_back(self, connection: Any) -> None:
        with suppress(*CLIENT_ERRORS):
            await self.pool.release(connection)

    async def close(self) -> None:
        """Give all back, and close them."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        while self._free:
            await self._given_back(self._free.pop()[0])
        await self.pool.close()
