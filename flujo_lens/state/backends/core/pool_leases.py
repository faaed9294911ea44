"""Connections of a pool that are kept between two uses: taking and giving back cost as much as a small query."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

LONGEST = 60.0
"""Seconds that a connection is kept without being used."""


class Leases:
    """Takes connections from a pool, and gives back those that are broken, waited for, or unused for a minute.

    Args:
        pool: Of the event loop that this is used in.
        errors: What the pool raises for a connection that is gone.
    """

    def __init__(self, pool: Any, errors: tuple[type[BaseException], ...]) -> None:
        self.pool, self._errors = pool, errors
        self._free: list[tuple[Any, float]] = []
        self._waiting = 0
        self._sweep: asyncio.TimerHandle | None = None

    def one(self) -> _Lease:
        """A connection for the block."""
        return _Lease(self)

    async def taken(self) -> Any:
        """A connection; `given_back` takes it again."""
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

    async def given_back(self, connection: Any, *, is_good: bool) -> None:
        """Keep a connection for the next caller, unless it is broken, or others wait for one."""
        if is_good and not self._waiting and not connection.is_closed():
            self._keep(connection)
        else:
            await self.pool.release(connection)

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
            self._task = loop.create_task(self._released(connection))
        self._sweep = loop.call_later(LONGEST, self._give_back_old) if self._free else None

    async def _released(self, connection: Any) -> None:
        with suppress(*self._errors):
            await self.pool.release(connection)

    async def close(self) -> None:
        """Give all back, and close them."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        while self._free:
            await self._released(self._free.pop()[0])
        await self.pool.close()


class _Lease:
    """A connection for a block."""

    def __init__(self, leases: Leases) -> None:
        self._leases, self._connection = leases, None

    async def __aenter__(self) -> Any:
        self._connection = connection = await self._leases.taken()
        return connection

    async def __aexit__(self, kind: object, *_: object) -> None:
        await self._leases.given_back(self._connection, is_good=kind is None)
