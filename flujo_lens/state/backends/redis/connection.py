"""Connections to the server: how many, to which node, and one exchange of commands and answers.

redis-py makes the connections and speaks the protocol (RESP2, so that answers have one shape). Its own retries are off:
what it would repeat after a lost answer would be done twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from threading import Lock
from typing import Any, cast
from weakref import WeakKeyDictionary

from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import ClusterDownError, MovedError, ResponseError

from flujo_lens.errors import BusyError, UnreachableStoreError
from flujo_lens.state.backends.redis.errors import CLIENT_ERRORS, code_of
from flujo_lens.state.backends.redis.uri import Address

try:
    import hiredis
except ImportError:  # pragma: no cover - redis without the extra
    hiredis = None  # type: ignore[assignment]

Command = tuple[Any, ...]


class Link:
    """One connection, for one caller at a time.

    Args:
        connection: redis-py's, not yet connected.
        timeout: Seconds that an exchange may take; None for ever.
        node: Where it leads.
    """

    def __init__(self, connection: Any, timeout: float | None, node: tuple[str, int] | None) -> None:
        self._connection, self._timeout, self.node = connection, timeout, node
        self.is_broken = False

    async def open(self) -> None:
        """Connect and log in."""
        async with asyncio.timeout(self._timeout):
            await self._connection.connect()

    async def is_fresh(self) -> bool:
        """Whether the connection is there still, with nothing left to be read."""
        connection = self._connection
        can_read = getattr(connection, "can_read", connection.can_read_destructive)  # the second before redis-py 8
        try:
            return connection.is_connected and not await can_read()
        except CLIENT_ERRORS:
            return False

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands at once, and return their answers; an error is an answer, too.

        Raises:
            RedisError, OSError: the connection was cut, or took too long; it is broken then.
        """
        self.is_broken = True
        connection = self._connection
        async with asyncio.timeout(self._timeout):
            await connection.send_packed_command(_packed(connection, commands), check_health=False)
            answers = [await self._answer() for _ in commands]
        self.is_broken = False
        return answers

    async def _answer(self) -> Any:
        try:
            return await self._connection.read_response()
        except ResponseError as error:
            return error

    async def close(self) -> None:
        """Close the connection."""
        with suppress(*CLIENT_ERRORS):
            await self._connection.disconnect(nowait=self.is_broken)


def _packed(connection: Any, commands: Sequence[Command]) -> list[bytes]:
    """Commands as they are sent; by the client's own code, a multiple slower, where hiredis is missing."""
    pack = getattr(hiredis, "pack_command", None)
    if pack is None:
        return cast("list[bytes]", connection.pack_commands(commands))
    return [b"".join(map(pack, commands))]


class Connections:
    """Connections to the server, or to that node of a cluster which has the store's slot.

    Those of the first event loop are kept for the next caller; those of another loop are closed again: a loop that ends
    does not say so, and its connections could not be closed any more.

    Args:
        address: Where it is.
        timeout: Seconds to wait for a connection that is free, and for each answer.
        size: Connections at most, for each event loop.
    """

    def __init__(self, address: Address, timeout: float, size: int) -> None:
        self._address, self._size = address, size
        self._timeout = None if timeout == float("inf") else timeout or 1.0
        self._slots: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()
        self._home: asyncio.AbstractEventLoop | None = None
        self._idle: list[Link] = []
        self._choosing = Lock()
        self._seeds = list(address.nodes)
        self._node: tuple[str, int] | None = None if address.is_cluster or not address.nodes else address.nodes[0]

    @asynccontextmanager
    async def one(self) -> AsyncIterator[Link]:
        """A connection for the block.

        Raises:
            BusyError: all are in use for longer than the timeout.
            RedisError, OSError: the server cannot be reached, or refuses the login.
        """
        loop = asyncio.get_running_loop()
        slots = self._slots.setdefault(loop, asyncio.Semaphore(self._size))
        try:
            async with asyncio.timeout(self._timeout):
                await slots.acquire()
        except TimeoutError as error:
            message = f"all {self._size} connections to {self._address.shown} are in use"
            raise BusyError(message, hint="try again, or with a larger --timeout") from error
        try:
            link = await self._taken(loop) or await self._opened()
            try:
                yield link
            finally:
                if link.is_broken or self._home is not loop or link.node != self._node:
                    await link.close()
                else:
                    self._idle.append(link)
        finally:
            slots.release()

    async def _taken(self, loop: asyncio.AbstractEventLoop) -> Link | None:
        """A connection of before that is still good; None in a loop that keeps none, too."""
        with self._choosing:
            if self._home is None or self._home.is_closed():
                self._home, self._idle = loop, []
        while self._home is loop and self._idle:
            link = self._idle.pop()
            if await link.is_fresh():
                return link
            await link.close()
        return None

    async def _opened(self) -> Link:
        if self._address.is_cluster and self._node is None:
            self._node = await self._found()
        try:
            return await self._connected(self._node)
        except CLIENT_ERRORS:
            self.forget()
            raise

    async def _connected(self, node: tuple[str, int] | None) -> Link:
        options = {
            **self._address.options,
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": None,
            "socket_connect_timeout": self._timeout,
        }
        kind: Any = UnixDomainSocketConnection
        if node is not None:
            kind = SSLConnection if self._address.is_tls else Connection
            options |= {"host": node[0], "port": node[1]}
        link = Link(kind(**options), self._timeout, node)
        try:
            await link.open()
        except BaseException:
            await link.close()
            raise
        return link

    # --- a cluster

    def forget(self) -> None:
        """Ask again which node has the slot: this one is away."""
        if self._address.is_cluster:
            self._node, self._idle = None, []

    def moved(self, error: MovedError) -> None:
        """Go to the node that has the slot now."""
        self._node, self._idle = (error.host or self._seeds[0][0], error.port), []

    async def _found(self) -> tuple[str, int]:
        """The primary of the store's slot, as any node knows it."""
        slot, failed = key_slot(self._address.prefix.encode()), None
        for seed in self._seeds:
            try:
                answer = await self._asked(seed)
            except CLIENT_ERRORS as error:
                failed = error
                continue
            nodes = [(_host(one, seed), int(one[1])) for part in answer for one in part[2:3]]
            self._seeds += [node for node in nodes if node not in self._seeds]
            for part, node in zip(answer, nodes, strict=True):
                if part[0] <= slot <= part[1]:
                    return node
            failed = ClusterDownError(f"no node has slot {slot}")
        raise failed or ClusterDownError("there is no node")

    async def _asked(self, seed: tuple[str, int]) -> list[Any]:
        link = await self._connected(seed)
        try:
            (answer,) = await link.exchange([("CLUSTER", "SLOTS")])
        finally:
            await link.close()
        if isinstance(answer, ResponseError):
            if code_of(answer):
                raise answer
            message = f"{seed[0]}:{seed[1]} is no node of a cluster: {answer}"
            raise UnreachableStoreError(message, hint="redis://host:port names a single server") from answer
        return list(answer)

    async def close(self) -> None:
        """Close the connections that are kept; those of another loop are dropped."""
        with self._choosing:
            home, idle, self._home, self._idle = self._home, self._idle, None, []
        if home is asyncio.get_running_loop():
            for link in idle:
                await link.close()


def _host(node: Sequence[Any], seed: tuple[str, int]) -> str:
    return node[0].decode() if node[0] else seed[0]
