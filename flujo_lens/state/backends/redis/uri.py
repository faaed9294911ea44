"""A store's URI: what is ours in it, and what the client gets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlencode

from flujo_lens.errors import ConfigError, nearest
from flujo_lens.state.backends.core.server_uri import split_server_uri

_SCHEMES = ("redis", "rediss", "redis+unix", "redis-cluster")
_OURS = ("prefix", "layout", "ttl", "db")
_TLS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_PORT = 6379
_EXAMPLE = "redis://host:6379/0"


class Address(NamedTuple):
    """Where a store is.

    Attributes:
        nodes: Hosts and ports; of a cluster those that are asked for the others. None at a socket.
        options: What each connection takes: login, database, socket, certificates.
        is_cluster: Whether `nodes` are of a cluster.
        is_tls: Whether connections are encrypted.
        prefix: What every key of the store begins with.
        is_plain: Whether its states are read as they are, without an index.
        ttl: Seconds that a finished run is kept; None for ever.
        shown: The address without its password.
        place: The address without user and password, and without what does not tell one store from another.
    """

    nodes: tuple[tuple[str, int], ...]
    options: Mapping[str, Any]
    is_cluster: bool
    is_tls: bool
    prefix: str
    is_plain: bool
    ttl: int | None
    shown: str
    place: str


def address_of(uri: str) -> Address:
    """Read ``redis://[user[:password]@]host[:port][/db][?prefix=P]`` and its like.

    Raises:
        ConfigError: it is no such URI.
    """
    scheme, mark, rest = uri.partition("://")
    scheme = scheme.lower()
    if scheme not in _SCHEMES or not mark:
        raise ConfigError(f"{scheme}: is not a Redis scheme", hint=_EXAMPLE)
    parts = split_server_uri(f"redis://{rest}", _EXAMPLE)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    login, at, hosts = parts.netloc.rpartition("@")
    is_socket, is_cluster = scheme == "redis+unix", scheme == "redis-cluster"
    is_tls = scheme == "rediss" or (is_cluster and _flag(query, "ssl"))
    _check_names(query, is_tls)
    db = _database(query, "" if is_socket else parts.path.strip("/"), is_cluster)
    options: dict[str, Any] = {"db": db, **_login(login), **(_certificates(query) if is_tls else {})}
    if is_socket:
        options["path"] = unquote(parts.path)
        if hosts or not parts.path:
            raise ConfigError("redis+unix: has no socket path", hint="redis+unix:///run/redis/redis.sock")
    prefix = query.get("prefix", "{lens}:" if is_cluster else "")
    if is_cluster and not re.search(r"\{[^}]+\}", prefix):
        raise ConfigError(
            f"?prefix={prefix} names no hash slot: in a cluster, all keys of a store must be in one slot",
            hint=f"?prefix={{{prefix.strip(':{}') or 'lens'}}}: puts them there, by the part in braces",
        )
    nodes = () if is_socket else tuple(map(_node, hosts.split(",")))
    where = parts.path if is_socket else hosts
    suffix = urlencode([("prefix", prefix)], safe="{}:/", quote_via=quote) if prefix else ""
    end = f"{'?' if suffix or (is_socket and db) else ''}{f'db={db}&' if is_socket and db else ''}{suffix}".rstrip("&")
    path = "" if is_socket or is_cluster else f"/{db}"
    user, colon, _ = login.partition(":")
    return Address(
        nodes,
        options,
        is_cluster,
        is_tls,
        prefix,
        _is_plain(query),
        _ttl(query.get("ttl")),
        f"{scheme}://{user}{':***' if colon else ''}{at}{where}{path}{end}",
        _place(nodes, where, db, prefix),
    )


def _place(nodes: tuple[tuple[str, int], ...], where: str, db: int, prefix: str) -> str:
    """One text a store, whose last part names it."""
    hosts = ",".join(f"{host}:{port}" for host, port in sorted(nodes)) or where
    return f"redis://{hosts}/{db}/{prefix.strip(':{}') or f'redis-{db}'}?prefix={quote(prefix)}"


def _node(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, str(_PORT)
    if not port.isdecimal() or not 0 < int(port) < 65_536:
        raise ConfigError(f"cannot read {text} as host:port", hint=_EXAMPLE)
    return unquote(host).strip("[]") or "localhost", int(port)


def _login(text: str) -> dict[str, str]:
    user, colon, password = text.partition(":")
    found = {"username": unquote(user)} if user else {}
    return {**found, "password": unquote(password)} if colon else found


def _database(query: Mapping[str, str], path: str, is_cluster: bool) -> int:
    text = query.get("db", path) or "0"
    if not text.isdecimal():
        raise ConfigError(f"cannot read {text} as the number of a database", hint=_EXAMPLE)
    if is_cluster and int(text):
        raise ConfigError("a cluster only has database 0", hint="?prefix={NAME}: separates its stores")
    return int(text)


def _certificates(query: Mapping[str, str]) -> dict[str, Any]:
    """How the server's certificate is checked: against its host, too, which redis-py before 6 leaves out."""
    reqs, is_checked = query.get("ssl_cert_reqs", "required"), query.get("ssl_check_hostname")
    if reqs not in ("required", "optional", "none"):
        raise ConfigError(f"?ssl_cert_reqs={reqs}: must be required, optional or none")
    found: dict[str, Any] = {name: query[name] for name in _TLS if name in query}
    found["ssl_check_hostname"] = reqs != "none" if is_checked is None else _flag(query, "ssl_check_hostname")
    return found


def _check_names(query: Mapping[str, str], is_tls: bool) -> None:
    known = (*_OURS, "ssl", *(_TLS if is_tls else ()))
    for name in query:
        if name not in known:
            near = nearest(name, known)
            hint = "certificates (?ssl_...) are for rediss://" if name in _TLS else f"options: {', '.join(known)}"
            raise ConfigError(f"?{name}= is unknown{f'; did you mean ?{near}=?' if near else ''}", hint=hint)


def _flag(query: Mapping[str, str], name: str) -> bool:
    text = query.get(name, "false").lower()
    if text not in ("true", "false", "1", "0", "yes", "no"):
        raise ConfigError(f"?{name}={text}: must be true or false")
    return text in ("true", "1", "yes")


def _is_plain(query: Mapping[str, str]) -> bool:
    layout = query.get("layout", "index")
    if layout not in ("index", "plain"):
        raise ConfigError(f"?layout={layout}: must be plain or index")
    return layout == "plain"


def _ttl(text: str | None) -> int | None:
    if text is None:
        return None
    number, unit = text[:-1], text[-1:]
    if not number.isdecimal() or unit not in _UNITS or not int(number):
        raise ConfigError(f"cannot read ?ttl={text} as an age", hint="?ttl=30d keeps finished runs for 30 days")
    return int(number) * _UNITS[unit]
