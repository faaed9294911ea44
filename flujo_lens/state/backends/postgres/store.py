"""The server: pools, transactions, and what is done again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from datetime import datetime
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar, cast
from weakref import WeakKeyDictionary

import asyncpg

from flujo_lens.errors import NotAStoreError, OperationFailedError, ReadOnlyStoreError, SchemaError, StoreNotFoundError
from flujo_lens.state.backends.core.pool_leases import LONGEST, Leases
from flujo_lens.state.backends.core.port import Figures, Transaction, Work
from flujo_lens.state.backends.postgres import queries
from flujo_lens.state.backends.postgres.errors import CLIENT_ERRORS, MISSING, is_cut, translate
from flujo_lens.state.backends.postgres.figures import SETTINGS, PostgresFigures
from flujo_lens.state.backends.postgres.tables import VERSION, Shape, missing_ddl
from flujo_lens.state.backends.postgres.transaction import PostgresTransaction, values_for
from flujo_lens.state.backends.postgres.uri import Address, literal, quoted
from flujo_lens.state.views import RunFilter

if TYPE_CHECKING:
    from flujo_lens.state.maintenance import Finding

T = TypeVar("T")
_TRIES, _AGAIN_AFTER = 5, 16
_LARGEST = 64 << 10
"""Bytes of a document that is written into a statement; a larger one is a parameter."""

_AGAIN = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)
_TEXTS = {"datestyle": "ISO", "extra_float_digits": "1", "standard_conforming_strings": "on"}
"""How rows are written as texts, of which there are digests, and SQL is read: a role may be set to something else."""

_IN_ORDER = ("workflow_state", "runs")
_SCHEMA_LOCK = 1818585716
"""Our advisory lock for making tables; the library's own is 4059087070."""


class _Connection(asyncpg.Connection):  # type: ignore[misc]
    """A connection.

    Attributes:
        is_own: Whether it has its settings, and keeps them.
        planned: The ways in which states are saved that the server has plans for, and for which tables.
    """

    is_own = False

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.planned: dict[str, Shape] = {}


class _SeveralStatementsError(Exception):
    """A read takes more than the one statement that needs no transaction."""


class _OneStatement:
    """A connection that runs one statement, outside of a transaction."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        connection, self._connection = self._connection, None
        if connection is None or name not in ("fetch", "fetchrow", "fetchval"):
            raise _SeveralStatementsError
        return getattr(connection, name)


class PostgresStore:
    """Transactions on one database, by a pool of connections.

    Reading creates nothing: it is ``READ ONLY``, and of one moment (``REPEATABLE READ``, or one statement). Settings
    are those of a connection; where a pooler shares connections, those of a transaction (``SET LOCAL``).

    Args:
        address: Where it is.
        timeout: Seconds to wait for a connection, a lock, and for each statement that writes.
        pool_size: Connections at most; those of a second event loop are counted apart, and not kept.
    """

    def __init__(self, address: Address, timeout: float, pool_size: int = 10) -> None:
        self._address, self._timeout, self._size = address, timeout, pool_size
        self._home: asyncio.AbstractEventLoop | None = None
        self._leases: Leases | None = None
        self._slots: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()
        self._choosing = Lock()
        self._shape: Shape | None = None
        self._is_ours = False
        self._several: dict[Any, int] = {}
        self._many: dict[queries.Stored, int] = {}

    # --- connections

    def _connection(self) -> AbstractAsyncContextManager[Any]:
        """A connection of the pool; in another event loop than the pool's, one that is closed again.

        A loop that ends does not say so, and its connections could not be closed any more.
        """
        loop = asyncio.get_running_loop()
        leases = self._leases_of(loop)
        return self._single_connection(loop) if leases is None else leases.one()

    @asynccontextmanager
    async def _single_connection(self, loop: asyncio.AbstractEventLoop) -> AsyncIterator[Any]:
        async with self._slots.setdefault(loop, asyncio.Semaphore(self._size)):
            connection = await asyncpg.connect(self._address.dsn, **self._options())
            try:
                await self._set_up(connection)
                yield connection
            finally:
                with suppress(*CLIENT_ERRORS):
                    await connection.close(timeout=self._timeout)

    def _leases_of(self, loop: asyncio.AbstractEventLoop) -> Leases | None:
        """Connections of the pool, if it is this loop's: that of the first which is not closed."""
        with self._choosing:
            if self._home is None or self._home.is_closed():
                self._home = loop
                pool = asyncpg.create_pool(
                    self._address.dsn,
                    min_size=0,
                    max_size=self._size,
                    max_inactive_connection_lifetime=LONGEST,
                    init=self._set_up,
                    reset=_rolled_back,  # all that is set later is set for a transaction
                    **self._options(),
                )
                self._leases = Leases(pool, CLIENT_ERRORS)
            return self._leases if self._home is loop else None

    def _options(self) -> dict[str, Any]:
        # Digests of rows have their times as texts; of the settings, PgBouncer takes this one.
        settings = {"server_settings": {"timezone": "UTC"}, "statement_cache_size": self._address.statement_cache_size}
        return {"timeout": self._timeout, "connection_class": _Connection, **settings}

    def _settings(self) -> dict[str, str]:
        path = {} if self._address.schema is None else {"search_path": quoted(self._address.schema)}
        return {"lock_timeout": str(max(1, int(self._timeout * 1000))), "jit": "off", **_TEXTS, **path}

    async def _set_up(self, connection: Any) -> None:
        """Give a connection its settings, if the server's process at its end is its own: a pooler names another."""
        settings = self._settings() | {"default_transaction_read_only": "on", "plan_cache_mode": "force_generic_plan"}
        calls = ", ".join(f"set_config('{name}', {literal(value)}, false)" for name, value in settings.items())
        done = await connection.execute(f"SELECT {calls} WHERE pg_backend_pid() = {connection.get_server_pid()}")
        connection.is_own = done == "SELECT 1"

    @asynccontextmanager
    async def _transaction(self, *, writes: bool) -> AsyncIterator[Any]:
        async with self._connection() as connection, self._begun(connection, writes):
            yield connection

    @asynccontextmanager
    async def _begun(self, connection: Any, writes: bool, lock: str = "") -> AsyncIterator[None]:
        """A transaction; it begins with its settings, and a lock, in one message."""
        try:
            settings = {} if connection.is_own else self._settings()
            if writes:
                settings["statement_timeout"] = str(max(1, int(self._timeout * 1000)))
            mode = "READ COMMITTED READ WRITE" if writes else "REPEATABLE READ READ ONLY"
            local = [f"; SET LOCAL {name} = {value}" for name, value in settings.items()]
            await connection.execute(f"BEGIN ISOLATION LEVEL {mode}{''.join(local)}; {lock}")
            yield
            await connection.execute("COMMIT")
        finally:
            await _rolled_back(connection)

    # --- what there is

    async def _shape_of(self, connection: Any, *, anew: bool = False) -> Shape:
        """The tables and columns; looked for again while some are missing, for they may come."""
        if self._shape is None or anew or not self._shape.is_whole:
            rows = await connection.fetch(queries.SHAPE)
            columns = {name: frozenset(names) for name, names, _ in rows}
            self._shape = Shape(columns, is_bytewise=all(row[2] for row in rows if row[0] in _IN_ORDER))
        return self._shape

    async def _prepared(self, connection: Any, *, writes: bool, anew: bool = False, creates: bool = True) -> Shape:
        shape = await self._shape_of(connection, anew=anew)
        missing = f"{self._address.shown} has no tables of a state store"
        if writes and not (creates or shape.is_store):
            raise StoreNotFoundError(missing, hint="nothing was created; ?schema=NAME names another schema")
        if writes and not self._is_ours:
            await self._check_role(connection)
            await self._check_version(connection, shape)
        if writes and not shape.is_whole:
            shape = await self._made(connection)
        if not shape.is_store:
            raise NotAStoreError(
                missing,
                hint="nothing was created; ?schema=NAME names another schema, lens migrate makes the tables",
                empty=True,
            )
        return shape

    async def _check_role(self, connection: Any) -> None:
        """See that the role may write, and is not set to read-only transactions: ours say what they are themselves.

        Raises:
            ReadOnlyStoreError: it may not.
        """
        if why := await connection.fetchval(queries.WHY_READ_ONLY):
            setting = "it is set for the role, the database or the server; " if why.endswith(" on") else ""
            hint = "connect to the primary" if "recovery" in why else f"{setting}use a role that may write there"
            raise ReadOnlyStoreError(f"{self._address.shown} is not writable: {why}; nothing was changed", hint=hint)

    async def check_write(self) -> None:
        """See that the role may write, by a transaction that reads."""
        with self._translated():
            async with self._transaction(writes=False) as connection:
                await self._check_role(connection)

    async def _check_version(self, connection: Any, shape: Shape) -> None:
        """See that no later version has made our tables.

        Raises:
            SchemaError: it has.
        """
        found = await connection.fetchval("SELECT max(version) FROM lens_schema") if shape.has("lens_schema") else None
        if found is not None and found > VERSION:
            raise SchemaError(
                f"a newer lens made its tables in {self._address.shown}: version {found}, this one writes {VERSION}",
                hint="update flujo-lens; reading still works; nothing was changed",
            )
        self._is_ours = True

    async def _made(self, connection: Any) -> Shape:
        """Make the tables that are missing, one process after the other."""
        await connection.execute(f"SELECT pg_advisory_xact_lock({_SCHEMA_LOCK})")
        await connection.execute(missing_ddl(await self._shape_of(connection, anew=True)))
        return await self._shape_of(connection, anew=True)

    # --- care

    async def shape(self) -> tuple[Shape, int]:
        """What there is, also where that is no store, and its size in bytes."""
        with self._translated():
            async with self._transaction(writes=False) as connection:
                shape = await self._shape_of(connection, anew=True)
                facts = await PostgresTransaction(connection, shape).facts() if shape.columns else {"size_bytes": 0}
                return shape, facts["size_bytes"]

    def script(self, shape: Shape) -> str:
        """What `make_tables` does, as a script for psql; "" if nothing is missing."""
        if shape.is_whole:
            return ""
        schema = self._address.schema
        path = [] if schema is None else [f"SET LOCAL search_path = {quoted(schema)};"]
        wait = f"SET LOCAL lock_timeout = {max(1, int(self._timeout * 1000))};"
        lock = f"SELECT pg_advisory_xact_lock({_SCHEMA_LOCK});"
        return "\n".join(["BEGIN;", wait, *path, lock, missing_ddl(shape).strip(), "COMMIT;", ""])

    async def make_tables(self) -> None:
        """Make the tables that are missing, in one transaction."""
        with self._translated(writes=True):
            async with self._transaction(writes=True) as connection:
                await self._check_role(connection)
                await self._made(connection)

    async def checked(self, now: datetime, full: bool) -> list[Finding]:
        """What a check-up finds."""
        from flujo_lens.state.backends.postgres.maintenance import Checkup

        async def work(tx: Transaction) -> list[Finding]:
            connection, shape = cast("PostgresTransaction", tx).parts
            return await Checkup(connection, shape, now, full).findings()

        return await self.read(work)

    async def missing_indexes(self) -> list[str]:
        """Names of our indexes that are not there."""
        from flujo_lens.state.backends.postgres.maintenance import missing_indexes

        return await self.read(lambda tx: missing_indexes(*cast("PostgresTransaction", tx).parts))

    async def optimize(self, *, vacuum: bool) -> list[str]:
        """Make our indexes without blocking writers, and gather figures; return the names of those that were made."""
        from flujo_lens.state.backends.postgres.maintenance import make_indexes

        missing = await self.missing_indexes()
        with self._translated(writes=True):
            return await make_indexes(self._address, self._timeout, missing, vacuum)

    @contextmanager
    def _translated(self, *, writes: bool = False) -> Iterator[None]:
        try:
            yield
        except (*CLIENT_ERRORS,) as error:
            raise translate(error, self._address.shown, writes=writes) from error

    # --- transactions

    async def read(self, work: Work[T]) -> T:
        """Run `work` on one moment; once more where the connection was cut, or the tables changed during it."""
        try:
            return await self._run(work, writes=False)
        except (*CLIENT_ERRORS,) as error:
            anew = isinstance(error, MISSING)
            if not (anew or is_cut(error)):
                raise translate(error, self._address.shown, writes=False) from error
        with self._translated():
            return await self._run(work, writes=False, anew=anew)

    async def write(self, work: Work[T], *, creates: bool = True, run_id: str | None = None) -> T:
        """Run `work` in a transaction; again after a deadlock or a serialization failure, which changed nothing.

        What was sent and not answered may have been done, so a connection that was cut is an error.
        """
        for attempt in range(_TRIES):
            try:
                return await self._run(work, writes=True, creates=creates, anew=attempt > 0, run_id=run_id)
            except (*_AGAIN, asyncpg.UniqueViolationError, *MISSING) as error:
                if attempt == _TRIES - 1:
                    raise translate(error, self._address.shown) from error
            except (*CLIENT_ERRORS,) as error:
                raise translate(error, self._address.shown) from error
            await asyncio.sleep(0.01 * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    async def put_state(self, run_id: str, document: bytes) -> bool:
        """Save a state by one message, unless more has to be known for it. As `write`, it is not done again."""
        if (given := self._state_literals(run_id, document)) is None:
            return False
        try:
            async with self._connection() as connection:
                return connection.is_own and await self._saved(connection, *given)
        except (*_AGAIN, *MISSING):
            return False
        except (*CLIENT_ERRORS,) as error:
            raise translate(error, self._address.shown) from error

    async def _saved(self, connection: _Connection, way: str, values: Sequence[str]) -> bool:
        """Save a state by statements that the server has planned for this connection."""
        shape = cast("Shape", self._shape)
        if way not in connection.planned:
            await connection.execute(queries.plan_save_state(shape, way))
        if connection.planned.setdefault(way, shape) is not shape:
            return False
        sql = queries.save_state(way, values, literal(self._address.schema or ""))
        timeout = max(1, int(self._timeout * 1000))
        begin = f"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL statement_timeout = {timeout}"
        try:
            await connection.execute(f"{begin}; {sql}; COMMIT")
        finally:
            await _rolled_back(connection)
        return True

    def _state_literals(self, run_id: str, document: bytes) -> tuple[str, list[str]] | None:
        """How a state is saved, and its values; None if there is no store of ours yet, or columns may not keep it."""
        shape = self._shape
        if shape is None or not (shape.is_whole and self._is_ours) or len(document) > _LARGEST or "\0" in run_id:
            return None
        values, is_whole = values_for(shape, "workflow_state", run_id, document)
        if is_whole is False:
            return None
        way, kept = ("row", []) if is_whole else ("document", [document.decode()])
        given = [queries.as_literal(value) for value in (run_id, *values, *kept)]
        try:
            "".join(given).encode()
        except UnicodeEncodeError:  # half a surrogate pair
            return None
        return way, given

    async def _run(
        self, work: Work[T], *, writes: bool, creates: bool = True, anew: bool = False, run_id: str | None = None
    ) -> T:
        lock, has_shape = "", not anew and self._shape is not None and self._shape.is_whole
        if has_shape and run_id is not None and "\0" not in run_id:
            lock = queries.lock_one(literal(run_id), literal(self._address.schema or ""))
        async with self._connection() as connection:
            code = getattr(work, "__code__", None)
            self._several[code] = left = max(0, self._several.get(code, 0) - 1)  # it takes more than one statement
            if has_shape and not writes and connection.is_own and not left:
                try:
                    return await work(self._on(_OneStatement(connection), cast("Shape", self._shape), is_fixed=True))
                except _SeveralStatementsError:
                    self._several[code] = _AGAIN_AFTER
            async with self._begun(connection, writes, lock):
                shape = await self._prepared(connection, writes=writes, anew=anew, creates=creates)
                return await work(self._on(connection, shape, is_fixed=not writes, locked=[run_id] if lock else ()))

    def _on(self, connection: Any, shape: Shape, **given: Any) -> Transaction:
        return PostgresTransaction(connection, shape, self._address.schema or "", many=self._many, **given)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Transaction]:
        """Hold one moment on a connection of its own."""
        with self._translated():
            async with self._transaction(writes=False) as connection:
                shape = await self._prepared(connection, writes=False)
                yield self._on(connection, shape, is_fixed=True)

    def clone(self) -> PostgresStore:
        """Another on the same database, with connections of its own."""
        return PostgresStore(self._address, self._timeout, self._size)

    async def facts(self) -> Mapping[str, Any]:
        """The size of the tables, and when something was last written."""
        return await self.read(lambda tx: cast("PostgresTransaction", tx).facts())

    async def change_token(self) -> Hashable:
        """The snapshot of the server: the same one shows the same rows, whichever program wrote them."""
        with self._translated():
            try:
                return await self._snapshot_text()
            except (*CLIENT_ERRORS,) as error:
                if not is_cut(error):
                    raise
            return await self._snapshot_text()

    async def _snapshot_text(self) -> str:
        async with self._connection() as connection:
            return str(await connection.fetchval(queries.SNAPSHOT, timeout=self._timeout))

    async def count(self, wanted: RunFilter) -> int | None:
        """How many runs a filter admits; None where columns alone do not tell."""
        return await self.read(lambda tx: cast("PostgresTransaction", tx).count(wanted))

    async def figures(self, work: Callable[[Figures], Coroutine[Any, Any, T]]) -> T | None:
        """Run `work` on what the server counts by itself; None if a document has what it cannot count with."""

        async def counted(tx: Transaction, are_plain: bool) -> T:
            connection, shape = cast("PostgresTransaction", tx).parts
            await connection.execute(SETTINGS)
            return await work(PostgresFigures(tx, connection, shape, are_plain))

        for are_plain in (True, False):
            try:
                return await self.read(lambda tx, are_plain=are_plain: counted(tx, are_plain))  # type: ignore[misc]
            except OperationFailedError as error:
                if not isinstance(error.__cause__, asyncpg.DataError):
                    raise
        return None

    async def close(self) -> None:
        """Close the connections; those of another loop are dropped."""
        with self._choosing:
            home, leases, self._home, self._leases = self._home, self._leases, None, None
        if home is None or leases is None or home.is_closed():
            return
        if home is not asyncio.get_running_loop():
            home.call_soon_threadsafe(leases.pool.terminate)
            return
        try:
            await asyncio.wait_for(leases.close(), self._timeout)
        except (*CLIENT_ERRORS,):
            leases.pool.terminate()


async def _rolled_back(connection: Any) -> None:
    """End a transaction that failed."""
    if connection.is_in_transaction():
        with suppress(*CLIENT_ERRORS):
            await connection.execute("ROLLBACK")
