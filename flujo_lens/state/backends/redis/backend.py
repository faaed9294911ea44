"""`RedisBackend`: the contract on a Redis or Valkey server, or a cluster of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any, Self

from flujo_lens.state.backends.core.audit_lines import AuditLines
from flujo_lens.state.backends.core.backend import CoreBackend
from flujo_lens.state.backends.core.port import RunIndex, RunRow
from flujo_lens.state.backends.core.validation import check_timeout, check_zone
from flujo_lens.state.backends.redis.store import RedisStore
from flujo_lens.state.backends.redis.uri import address_of

if TYPE_CHECKING:
    from flujo_lens.state.backends.redis.maintenance import Caretaker
    from flujo_lens.state.maintenance import Finding, Migration, MigrationPlan, Repaired

__all__ = ["RedisBackend"]


class RedisBackend(CoreBackend):
    """Keeps each state at ``PREFIX + run_id`` as plain JSON, which any program can read, with an index.

    Every save is one MULTI with its index, its history and its claim. Reading writes nothing, and needs a user who may
    read and no more. What is read of one run is of one moment; a long list is read page by page.

    Args:
        url: ``redis://``, ``rediss://`` (TLS), ``redis+unix:///run/redis.sock``, ``redis-cluster://host:port,host``;
            with ``?prefix=P`` (none; in a cluster ``{lens}:``), ``?layout=plain`` (states without an index, which are
            read and never written), ``?ttl=30d`` (how long completed and cancelled runs are kept).
        timeout: Seconds to wait for a connection, for each answer, and for others that write the same runs.
        zone: How naive times in states are read; None for UTC.
        pool_size: Connections at most; those of a second event loop are counted apart, and not kept.
        serializer_default: As of `flujo_lens.serialization.codec.StateCodec`; so are envelope and validate.

    Raises (from any method):
        UnreachableStoreError: the server does not answer, or refuses the login.
        BusyError: others write the same runs all the time; nothing was changed.
        ReadOnlyStoreError: it takes no writes from this user, or from anybody.
    """

    any_loop = True
    keeps_audit = True

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 10.0,
        zone: tzinfo | None = None,
        pool_size: int = 10,
        serializer_default: Callable[[Any], Any] | None = None,
        envelope: Any = None,
        validate: Any = None,
    ) -> None:
        check_zone(zone)
        address = address_of(url)
        self.place, self._shown = address.place, address.shown
        self._server = RedisStore(address, check_timeout(timeout), pool_size, self._indexed)
        super().__init__(
            self._server, zone=zone, serializer_default=serializer_default, envelope=envelope, validate=validate
        )

    @classmethod
    def from_uri(cls, uri: str, *, timeout: float = 10.0, zone: tzinfo | None = None, envelope: Any = None) -> Self:
        """The backend for a URI, as the command line uses it."""
        return cls(uri, timeout=timeout, zone=zone, envelope=envelope, pool_size=4)

    def _indexed(self, row: RunRow) -> RunIndex:
        return self.codec.index(self.codec.raw(row))

    @property
    def audit_lines(self) -> AuditLines | None:
        """The audit log in the store; None where states are read as they are, and nothing else is there."""
        return None if self._server.address.is_plain else super().audit_lines

    async def read_statuses(self) -> frozenset[str]:
        """Return the statuses that runs have or had."""
        if self._server.address.is_plain:
            return await super().read_statuses()
        found = await self._server.statuses()
        doubtful = {"failed", "cancelled", "paused"}
        return frozenset({*found, *(doubtful if doubtful & set(found) else ())})

    # --- care

    def _caretaker(self) -> Caretaker:
        from flujo_lens.state.backends.redis.maintenance import Caretaker

        return Caretaker(self, self._server.indexing())

    async def plan_migration(self, now: datetime) -> MigrationPlan:
        """Return how many states would be put into the index."""
        from flujo_lens.state.maintenance import MigrationPlan

        care = self._caretaker()
        count = sum([len(ids) async for ids in care.unlisted()])
        if not count and not await self._server.is_made():
            await self.read_facts()  # says that there is nothing
        steps = (f"put {count:,} states into the index",) if count else ()
        return MigrationPlan(place=self._shown, steps=steps, lacks="an index", copied_by="redis-cli --rdb FILE")

    async def migrate(self, now: datetime, *, backup: bool = True, force: bool = False) -> Migration:
        """Put into the index what it lacks, in batches; the states stay as they are. There is no backup."""
        from flujo_lens.state.maintenance import Migration

        count = await self._caretaker().list_states()
        return Migration((f"put {count:,} states into the index",) if count else ())

    async def check(self, now: datetime, silent_after: timedelta, *, full: bool = False) -> Sequence[Finding]:
        """Look for states without an index, an index without runs, and at memory, disk, replicas and connections."""
        from flujo_lens.state.stale_runs import find_silent_runs

        silent = await find_silent_runs(self, now, silent_after)
        return (*await self._caretaker().findings(full), silent)

    async def repair(self, checks: Sequence[str]) -> Sequence[Repaired]:
        """Put states into the index, and take out of it what points at nothing."""
        return await self._caretaker().repaired(checks)
