"""`PostgresBackend`: the contract on a PostgreSQL database."""

from __future__ import annotations

from collections.abc import Callable
from datetime import tzinfo
from typing import Any

from flujo_lens.state.backends.core.backend import CoreBackend
from flujo_lens.state.backends.core.validation import check_timeout, check_zone
from flujo_lens.state.backends.postgres.store import PostgresStore
from flujo_lens.state.backends.postgres.uri import address_of

__all__ = ["PostgresBackend"]


class PostgresBackend(CoreBackend):
    """Keeps states in the tables of the library's version 0.6.11, and reads those that it wrote.

    Reading needs a role that may read and nothing else, and creates nothing. The first write to an empty database makes
    the library's tables and ours; beside tables of the library it makes ours alone (``lens_*``).

    Every call is one transaction. What PostgreSQL's columns do not keep as it is (NUL, large floats, integers of more
    than 32 bits) is kept beside them and comes back as it was; the library reads the nearest that its columns can hold.

    Args:
        uri: ``postgresql://user@host/database``, with ``?schema=S``, or ``?search_path=`` or
            ``?options=`` as the library takes them.
        timeout: Seconds to wait for a connection, a lock, and for each statement that writes.
        zone: How naive times are read; no column has any.
        pool_size: Connections for each event loop at most.
        serializer_default, envelope, validate: As of `flujo_lens.serialization.codec.StateCodec`.

    Raises (from any method):
        UnreachableStoreError: the server does not answer, or refuses the login.
        BusyError: a lock or a statement took longer than `timeout`; nothing was changed.
        ReadOnlyStoreError: the role may not write.
    """

    any_loop = True

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
        store = PostgresStore(address_of(uri), check_timeout(timeout), pool_size)
        super().__init__(store, zone=zone, serializer_default=serializer_default, envelope=envelope, validate=validate)

    @classmethod
    def from_uri(cls, uri: str, *, timeout: float = 10.0, zone: tzinfo | None = None) -> PostgresBackend:
        """The backend for a ``postgresql:`` URI, as the command line uses it."""
        return cls(uri, timeout=timeout, zone=zone, pool_size=4)
