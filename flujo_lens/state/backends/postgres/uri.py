"""A store's URI: what is ours in it, and what the client gets."""

from __future__ import annotations

import os
import re
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, urlencode, urlunsplit

from flujo_lens.errors import ConfigError
from flujo_lens.state.backends.core.server_uri import split_server_uri

_EXAMPLE = "postgresql://user@host:5432/database"


class Address(NamedTuple):
    """Where a store is.

    Attributes:
        dsn: What asyncpg connects to.
        schema: The schema of ``?schema=``; None to find the tables by the connection's ``search_path``.
        statement_cache_size: 0 behind PgBouncer in transaction mode before 1.21 (``?statement_cache_size=0``).
        shown: The address without its password.
        place: The address without user and password, and without what does not tell one store from another.
    """

    dsn: str
    schema: str | None
    statement_cache_size: int
    shown: str
    place: str


def address_of(uri: str) -> Address:
    """Read ``postgresql://user@host/db[?schema=S]``, also with several hosts.

    Raises:
        ConfigError: it is no such URI.
    """
    parts = split_server_uri(uri, _EXAMPLE)
    if parts.scheme not in ("postgresql", "postgres"):
        raise ConfigError(f"{parts.scheme}: is not a PostgreSQL scheme", hint=_EXAMPLE)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    if re.search("[^0-9,]", query.get("port", "")):
        raise ConfigError("?port= must be a number", hint=_EXAMPLE)
    schema, cache = query.pop("schema", None), query.pop("statement_cache_size", "100")
    if schema == "":
        raise ConfigError("?schema= is empty", hint="postgresql://user@host:5432/database?schema=ops")
    if not cache.isdecimal():
        raise ConfigError(f"statement_cache_size must be a number: {cache}")
    for name in ("sslrootcert", "sslcert", "sslkey"):
        if name in query and query[name] != "system" and not os.path.exists(query[name]):
            raise ConfigError(f"{name}: there is no file {query[name]}", hint="give the path of a file in PEM format")
    # As libpq writes it, "options" comes with %20 for blanks, never with a plus.
    dsn = urlunsplit(("postgresql", parts.netloc, parts.path, urlencode(query, quote_via=quote), ""))
    shown = _shown(parts.netloc, parts.path, schema, query)
    return Address(dsn, schema, int(cache), shown, _place(parts.netloc, parts.path, schema, query))


def quoted(name: str) -> str:
    """A name as SQL takes any."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as SQL takes any, whatever the server's settings."""
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def _place(netloc: str, path: str, schema: str | None, query: dict[str, str]) -> str:
    hosts = netloc.rpartition("@")[2]
    telling_names = ("host", "port", "dbname", "search_path", "options")
    named = {name: query[name] for name in telling_names if name in query}
    telling = urlencode(named | ({"schema": schema} if schema else {}))
    return f"postgresql://{hosts}{path}{'?' if telling else ''}{telling}"


def _shown(netloc: str, path: str, schema: str | None, query: dict[str, str]) -> str:
    login, at, hosts = netloc.rpartition("@")
    user, colon, _ = login.partition(":")
    named: dict[str, str] = {} if hosts else {name: query[name] for name in ("host", "port") if name in query}
    telling = urlencode(named | ({"schema": schema} if schema else {}), safe="/,", quote_via=quote)
    return f"postgresql://{user}{':***' if colon else ''}{at}{hosts}{path}{'?' if telling else ''}{telling}"
