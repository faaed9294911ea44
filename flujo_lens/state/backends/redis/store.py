"""The server: transactions, and what is done again.

A write whose answer was lost may have been done. So each commits a number under a key of its own, which it watches from
its first packet on: a second try finds the number, or makes the first one fail should it still be on its way.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable, Hashable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from threading import Lock
from typing import Any, TypeVar, cast
from weakref import WeakValueDictionary

from redis.exceptions import AskError, MovedError, NoScriptError, ResponseError, TryAgainError, WatchError

from flujo_lens.errors import BusyError, LensError, ReadOnlyStoreError, UnreachableStoreError
from flujo_lens.state.backends.core.port import RunIndex, RunRow, Transaction, Work
from flujo_lens.state.backends.redis.connection import Command, Connections, Link
from flujo_lens.state.backends.redis.errors import CLIENT_ERRORS, code_of, is_cut, translate
from flujo_lens.state.backends.redis.index import statuses_stored
from flujo_lens.state.backends.redis.keys import Keys
from flujo_lens.state.backends.redis.plain import PlainTransaction
from flujo_lens.state.backends.redis.read_transaction import (
    Channel,
    Nowhere,
    ReadTransaction,
    RestartError,
    checked,
    missing,
)
from flujo_lens.state.backends.redis.script import Known, Memory, guarded, whole_script
from flujo_lens.state.backends.redis.uri import Address
from flujo_lens.state.backends.redis.write_transaction import AppliedError, WriteTransaction
from flujo_lens.state.views import RunFilter

T = TypeVar("T")
_REREADS, _MOVES = 8, 5
_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.05
_EXPIRED_AT_ONCE = 20


class RedisStore:
    """Transactions on the keys under one prefix.

    Args:
        address: Where they are.
        timeout: Seconds to wait for a connection, for each answer, and for others that write the same runs.
        size: Connections at most, for each event loop.
        indexed: The index of a state that is stored without one.
    """

    def __init__(self, address: Address, timeout: float, size: int, indexed: Callable[[RunRow], RunIndex]) -> None:
        self.address, self.keys, self.timeout = address, Keys(address.prefix), timeout
        self._size, self._indexed = size, indexed
        self.connections = Connections(address, timeout, size)
        self._client, self._count = secrets.token_hex(6), itertools.count(1)
        self._free: list[tuple[int, bytes]] = []
        self.memory, self.has_scripts = Memory(), True
        self._turns: WeakValueDictionary[tuple[int, str], asyncio.Lock] = WeakValueDictionary()
        self._choosing = Lock()
        self.is_checked = False

    # --- one packet

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Answers to commands that only read; asked once more where the connection was cut or the slot was moved."""
        for attempt in itertools.count(1):
            try:
                async with self.connections.one() as link:
                    answers = await link.exchange(commands)
                moved = next((answer for answer in answers if isinstance(answer, AskError)), None)
                if moved is None:
                    return answers
                raise moved
            except CLIENT_ERRORS as error:
                if not self._is_worth_it(error, attempt):
                    raise
        raise AssertionError("each attempt returns or raises")

    def _is_worth_it(self, error: Exception, attempt: int) -> bool:
        """Whether what only read is asked again, and where."""
        if isinstance(error, MovedError) and self.address.is_cluster and attempt < _MOVES:
            self.connections.moved(error)
            return True
        if is_cut(error):
            self.connections.forget()
        return is_cut(error) and attempt == 1 and not isinstance(error, TimeoutError)

    # --- reading

    async def read(self, work: Work[T]) -> T:
        """Run `work` on one moment, as long as it reads single runs; a list is of the time that it takes."""
        try:
            return await work(self._reading(self, "read"))
        except RestartError:
            return await self._read_watched(work)
        except CLIENT_ERRORS as error:
            raise translate(error, self.address.shown) from error

    async def _read_watched(self, work: Work[T]) -> T:
        """Read again while the data changes, a few times; then use the last result."""
        for attempt in itertools.count(1):
            try:
                async with self.connections.one() as link:
                    tx = ReadTransaction(self.keys, link, self.address.shown, "watched")
                    async with unwatched(tx, link):
                        result = await work(cast("Transaction", tx))
                        try:
                            await tx.end()
                        except WatchError:
                            if attempt < _REREADS:
                                continue
                        return result
            except CLIENT_ERRORS as error:
                if not self._is_worth_it(error, attempt):
                    raise translate(error, self.address.shown) from error
        raise AssertionError("each attempt returns or raises")

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Transaction]:
        """Read a long list, packet by packet; each is of one moment."""
        try:
            yield self._reading(self, "list")
        except CLIENT_ERRORS as error:
            raise translate(error, self.address.shown) from error

    def _reading(self, link: Any, mode: str) -> Transaction:
        if self.address.is_plain:
            return cast("Transaction", PlainTransaction(self, self._indexed))
        return cast("Transaction", ReadTransaction(self.keys, link, self.address.shown, mode))

    # --- writing

    async def write(self, work: Work[T], *, creates: bool = True, run_id: str | None = None) -> T:
        """Run `work` and commit what it wrote; again while others write the same runs, and after a lost answer.

        Calls about one run wait for each other here; those of other processes meet at the server.
        """
        if self.address.is_plain:
            raise ReadOnlyStoreError(
                f"{self.address.shown} is read as it is (?layout=plain): nothing was changed",
                hint="lens migrate makes an index; then name the store without ?layout=plain",
            )
        slot, last = self._free.pop() if self._free else (next(self._count), b"")
        token = self.keys.own + b"tx:%s-%d" % (self._client.encode(), slot), secrets.token_hex(8).encode()
        async with self._turn(run_id):
            writing = _Write(self, work, (*token, creates), run_id, last)
            result: T = await writing.done()
        self._free.append((slot, writing.last))
        if self.address.ttl is not None:
            await self._clean()
        return result

    async def check_write(self) -> None:
        """Have the server refuse a write of a user who may only read: one is queued, of no key, and not done."""
        await self.ask([("MULTI",), ("DEL", self.keys.own + b"tx:"), ("DISCARD",)])

    def _turn(self, run_id: str | None) -> asyncio.Lock:
        """What the calls about a run wait for, in an event loop."""
        if run_id is None:
            return asyncio.Lock()
        with self._choosing:
            return self._turns.setdefault((id(asyncio.get_running_loop()), run_id), asyncio.Lock())

    async def _clean(self) -> None:
        """Take a few runs out of the index whose time is over."""
        expired = await self.expired(_EXPIRED_AT_ONCE)
        if expired:
            gone = [run_id for run_id, row in (await self.read(lambda tx: tx.runs(expired))).items() if row]
            await _Write(self, lambda tx: tx.drop([i for i in expired if i not in gone]), self._throwaway()).done()

    def _throwaway(self) -> tuple[bytes, bytes, bool]:
        key = self.keys.own + b"tx:%s-0" % self._client.encode()
        return key, secrets.token_hex(8).encode(), False

    async def expired(self, limit: int) -> list[str]:
        """Ids of runs in the index whose time is over."""
        now = int(time.time() * 1000)
        command = ("ZRANGEBYSCORE", self.keys.expires, "-inf", now, "LIMIT", 0, limit)
        return [member.decode() for member in (await self.ask([command]))[0]]

    # --- what the whole tells

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Answers to commands that only read, none of which is an error."""
        try:
            return checked(await self.exchange(commands))
        except CLIENT_ERRORS as error:
            raise translate(error, self.address.shown) from error

    async def count(self, wanted: RunFilter) -> int | None:
        """How many runs a filter admits; None where the index does not tell."""
        statuses, alone = statuses_stored(wanted), RunFilter(statuses=wanted.statuses)
        if self.address.is_plain or wanted != alone or statuses != (wanted.statuses or None):
            return None
        sources = [self.keys.order] if statuses is None else [self.keys.of("status", name) for name in statuses]
        expired: Command = ("ZCOUNT", self.keys.expires, "-inf", int(time.time() * 1000))
        made, gone, *counts = await self.ask([("EXISTS", self.keys.made), expired, *(("ZCARD", s) for s in sources)])
        if not made:
            raise missing(self.address.shown)
        return None if gone else sum(counts)

    async def change_token(self) -> Hashable | None:
        """The number of transactions that wrote, and how many runs and claims there are.

        Runs expire without a transaction, and a server without memory takes removals alone.
        """
        if self.address.is_plain:
            return None
        keys = self.keys
        expired: Command = ("ZCOUNT", keys.expires, "-inf", int(time.time() * 1000))
        sizes: list[Command] = [("ZCARD", keys.order), ("SCARD", keys.claims), expired]
        made, *found = await self.ask([("EXISTS", keys.made), ("GET", keys.changes), *sizes])
        if not made:
            raise missing(self.address.shown)
        return tuple(found)

    async def statuses(self) -> list[str]:
        """The statuses in the index."""
        (names,) = await self.ask([("SMEMBERS", self.keys.statuses)])
        return [name.decode("utf-8", "surrogatepass") for name in names]

    async def facts(self) -> Mapping[str, Any]:
        """The memory of the server, and when a run was last saved."""
        if self.address.is_plain:
            indexes = await PlainTransaction(self, self._indexed).indexes()
            newest: Sequence[Any] = [b"", max(index.updated for index in indexes.values())] if indexes else []
        else:
            last: Command = ("ZREVRANGE", self.keys.updated, 0, 0, "WITHSCORES")
            made, newest = await self.ask([("EXISTS", self.keys.made), last])
            if not made:
                raise missing(self.address.shown)
        when = int(float(newest[1])) if newest else -1
        used = (await self.info("memory")).get("used_memory", "0")
        last_write = datetime.fromtimestamp(when / 1e6, UTC) if when > 0 else None
        return {"size_bytes": int(used), "last_write_at": last_write, "notes": ()}

    async def info(self, section: str) -> dict[str, str]:
        """What the server tells of itself; nothing where that is not permitted."""
        try:
            (text,) = await self.exchange([("INFO", section)])
        except CLIENT_ERRORS as error:
            raise translate(error, self.address.shown) from error
        if not isinstance(text, bytes):
            return {}
        lines = text.decode("utf-8", "replace").splitlines()
        return {name: value for name, colon, value in (line.partition(":") for line in lines) if colon}

    async def is_made(self) -> bool:
        """Whether there is an index."""
        return bool((await self.ask([("EXISTS", self.keys.made)]))[0])

    def indexing(self) -> RedisStore:
        """This store, to be written, also where its states are read as they are."""
        if not self.address.is_plain:
            return self
        made = RedisStore(self.address._replace(is_plain=False), self.timeout, self._size, self._indexed)
        made.connections = self.connections
        return made

    def clone(self) -> RedisStore:
        """Another on the same keys, with connections of its own."""
        return RedisStore(self.address, self.timeout, self._size, self._indexed)

    async def close(self) -> None:
        """Close the connections."""
        await self.connections.close()


@asynccontextmanager
async def unwatched(tx: ReadTransaction, link: Link) -> AsyncIterator[None]:
    """After the block, the connection watches nothing."""
    try:
        yield
    finally:
        if not link.is_broken:
            await tx.unwatch()


class _Write:
    """One transaction that writes, until it is done or given up.

    Args:
        store: Where.
        work: What it does.
        token: Key and number by which it is known whether it was done, and whether a store is made.
        run_id: The run that it is about.
        last: The number that the key has now.
    """

    def __init__(
        self,
        store: RedisStore,
        work: Work[Any],
        token: tuple[bytes, bytes, bool],
        run_id: str | None = None,
        last: bytes = b"",
    ) -> None:
        self._store, self._work, self._token = store, work, token
        self._run_id, self.last = run_id, last
        self._result: Any = None
        self._is_lost = False
        self._end = time.monotonic() + store.timeout
        self._moves = 0

    async def done(self) -> Any:
        """What the work returns.

        Raises:
            BusyError: others write the same runs all the time.
            UnreachableStoreError: the server is away; of a lost answer it says so.
        """
        known, pause = self._store.memory.of(self._run_id), _FIRST_PAUSE
        if known is not None and self._store.has_scripts and await self._is_done_at_once(known):
            return self._result
        for attempt in itertools.count(1):
            try:
                return await self._tried()
            except CLIENT_ERRORS as error:
                await self._consider(error, attempt)
            await asyncio.sleep(random.uniform(pause / 2, pause))
            pause = min(2 * pause, _LONGEST_PAUSE if not self._is_lost else 10 * _LONGEST_PAUSE)
        raise AssertionError("each attempt returns or raises")

    async def _is_done_at_once(self, known: Known) -> bool:
        """Whether it is done in one packet, by what is known; else nothing was done, or an answer lost."""
        store, tx = self._store, self._transaction(Nowhere(), {})
        tx.assume(known)
        try:
            result = await self._work(tx)
        except (LensError, RestartError):  # by what is known; it may not be so any more
            return False
        commands = tx.commands()
        call = guarded(store.keys, known, (self._token[0], self.last), commands) if commands else None
        if call is None:
            return False
        store.memory.keep(self._run_id, None)
        answer: Any = None
        async with store.connections.one() as link:
            try:
                (answer,) = await link.exchange([call])
                if isinstance(answer, NoScriptError):
                    (answer,) = await link.exchange([whole_script(call)])
            except CLIENT_ERRORS as error:
                self._result, self._is_lost = result, is_cut(error)
        store.has_scripts = code_of(answer) != "NOPERM" if isinstance(answer, ResponseError) else True
        if answer == 1:
            self._result, self.last = result, self._token[1]
            store.memory.keep(self._run_id, tx.left(self._run_id))
        return bool(answer == 1)

    def _transaction(self, link: Channel, types: Mapping[bytes, bytes]) -> WriteTransaction:
        store = self._store
        return WriteTransaction(store.keys, link, store.address.shown, self._token, store.address.ttl, types)

    async def _tried(self) -> Any:
        store = self._store
        types = {} if store.is_checked else store.keys.types
        async with store.connections.one() as link:
            tx = self._transaction(link, types)
            async with unwatched(tx, link):
                try:
                    result = await self._work(tx)
                    await tx.commit()
                except AppliedError:
                    self.last = self._token[1]
                    return self._result
                except CLIENT_ERRORS as error:
                    if tx.is_sent and is_cut(error):
                        self._result, self._is_lost = result, True
                    raise
        store.is_checked = True
        self.last = self._token[1] if tx.is_sent else self.last
        store.memory.keep(self._run_id, tx.left(self._run_id) if tx.is_sent else None)
        return result

    async def _consider(self, error: Exception, attempt: int) -> None:
        """Go on, or raise what went wrong."""
        store, is_over = self._store, time.monotonic() >= self._end
        if isinstance(error, MovedError) and store.address.is_cluster and self._moves < _MOVES:
            self._moves += 1
            store.connections.moved(error)
            return
        if isinstance(error, WatchError | TryAgainError) or (
            isinstance(error, AskError) and not isinstance(error, MovedError)
        ):
            if not is_over:
                return
            message = f"others write the same runs of {store.address.shown} all the time; nothing was changed"
            raise BusyError(message, hint="try again, or with a larger --timeout") from error
        if code_of(error) == "OOM" and self._token[1]:
            self._token = self._token[0], b"", self._token[2]  # what only removes is done without memory, too
            return
        if is_cut(error):
            store.connections.forget()
            if (self._is_lost and not is_over) or (attempt == 1 and not isinstance(error, OSError)):
                return
        found = translate(error, store.address.shown)
        if self._is_lost:
            message = f"{found.message}; it is not known whether the last change was made"
            raise UnreachableStoreError(message, hint=found.hint) from error
        raise found from error
