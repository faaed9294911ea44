"""Splitting the URI of a server, without repeating a password that was written wrongly."""

from __future__ import annotations

import re
import shlex
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from flujo_lens.errors import ConfigError

_HOST = re.compile(r"(\[[^][]*\]|[^][:]*)(?::([0-9]*))?")
_LAST_PORT = 65_535


def split_server_uri(uri: str, example: str) -> SplitResult:
    """The parts of ``scheme://user:password@host:port,host:port/path?query``, whose hosts and ports can be read.

    A password with a ``/``, ``?``, ``#`` or bracket that is not percent-encoded ends before its end, and its rest
    would be read as another part; so of such a URI nothing is repeated.

    Args:
        example: A URI that is right, for the hint.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        parts = urlsplit(uri)
    except ValueError as error:  # its text has the host, which may be a password
        raise _unreadable("its brackets do not fit, or its password has one", "%5B is [, %5D is ]") from error
    hosts = parts.netloc.rpartition("@")[2].split(",")
    has_rest = bool(hosts[0]) and "@" in parts.path  # of a password: an @ in a database's name is %40
    if all(map(_is_host, hosts)) and not has_rest:
        return parts
    if has_rest or ("@" not in parts.netloc and "@" in uri):
        raise _unreadable("its password has a /, ? or #", "write these as %2F, %3F and %23, and @ as %40")
    raise _unreadable(f"a port is not a number up to {_LAST_PORT}", example)


def _is_host(text: str) -> bool:
    found = _HOST.fullmatch(text)
    return found is not None and int(found[2] or 0) <= _LAST_PORT


def _unreadable(why: str, hint: str) -> ConfigError:
    return ConfigError(f"cannot read the URI of the server: {why}", hint=hint)


def host_options(uri: str) -> str:
    """`` -h HOST -p PORT`` of a server's URI, as psql and redis-cli take them; of several hosts, the first."""
    address, _, query = uri.partition("://")[2].partition("?")
    hosts = address.partition("/")[0].rpartition("@")[2]
    found = _HOST.fullmatch(hosts.partition(",")[0])
    host, port = found.groups() if found else ("", None)
    if not hosts:
        named = dict(parse_qsl(query))
        host, port = (named.get(name, "").partition(",")[0] for name in ("host", "port"))
    options = f" -h {shlex.quote(unquote(host).strip('[]'))}" if host else ""
    return f"{options} -p {shlex.quote(port)}" if port else options
