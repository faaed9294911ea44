"""What redis-py raises, in errors of ours: none of its own gets out.

Servers before version 7 answer some errors without a class of their own, so the text is looked at, too.
"""

from __future__ import annotations

import builtins
import shlex
from collections.abc import Callable
from typing import NamedTuple

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ConnectionError,
    MaxConnectionsError,
    RedisError,
    ResponseError,
    TimeoutError,
)

from flujo_lens.errors import (
    BusyError,
    LensError,
    NotAStoreError,
    OperationFailedError,
    ReadOnlyStoreError,
    UnreachableStoreError,
)
from flujo_lens.state.backends.core.connection_errors import connection_reason
from flujo_lens.state.backends.core.server_uri import host_options

CLIENT_ERRORS = (RedisError, OSError, TimeoutError)
_ANSWERED = (AuthenticationError, AuthorizationError, BusyLoadingError, MaxConnectionsError)
_CODES = {
    "AuthenticationError": "NOAUTH",
    "BusyLoadingError": "LOADING",
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
    "NoPermissionError": "NOPERM",
    "AskError": "ASK",
    "TryAgainError": "TRYAGAIN",
    "MovedError": "MOVED",
    "ClusterDownError": "CLUSTERDOWN",
    "MasterDownError": "MASTERDOWN",
    "ClusterCrossSlotError": "CROSSSLOT",
    "ExecAbortError": "EXECABORT",
}
_KNOWN = (*_CODES.values(), "WRONGTYPE", "MISCONF", "NOREPLICAS", "BUSY", "WRONGPASS")


class _Meaning(NamedTuple):
    """What an answer means: the error for it, what is said after the store's address, and what to do."""

    kind: Callable[..., LensError]
    said: str
    hint: str


_MEANINGS = {
    "NOAUTH": _Meaning(UnreachableStoreError, "refuses the login: {text}", "check the user and the password"),
    "NOPERM": _Meaning(
        ReadOnlyStoreError,
        "does not permit it: {text}",
        "for reading a user needs ~PREFIX* +@read +@connection +@transaction +info, for writing +@write, too",
    ),
    "OOM": _Meaning(
        ReadOnlyStoreError,
        "has no memory left (OOM): nothing was changed",
        "raise maxmemory; lens prune --older-than 30d --audit-file FILE makes room, which works without any",
    ),
    "READONLY": _Meaning(
        ReadOnlyStoreError, "is a read-only replica: nothing was changed", "name the primary; redis-cli role tells it"
    ),
    "MISCONF": _Meaning(
        ReadOnlyStoreError,
        "takes no writes, for it cannot save to its disk (MISCONF): nothing was changed",
        "redis-cli info persistence and the server's log say why; make room on its disk",
    ),
    "NOREPLICAS": _Meaning(
        ReadOnlyStoreError,
        "takes no writes without its replicas (NOREPLICAS): nothing was changed",
        "redis-cli info replication tells which are away",
    ),
    "LOADING": _Meaning(
        UnreachableStoreError,
        "is loading its data from disk",
        "try again; redis-cli info persistence tells how far it is",
    ),
    "MASTERDOWN": _Meaning(
        UnreachableStoreError, "is a replica without its primary (MASTERDOWN)", "redis-cli info replication tells more"
    ),
    "CLUSTERDOWN": _Meaning(
        UnreachableStoreError, "is down: {text}", "redis-cli cluster nodes shows which primary is away"
    ),
    "MOVED": _Meaning(
        UnreachableStoreError,
        "sends from one node to another (MOVED): {text}",
        "a node of a cluster is named redis-cluster://host:port; redis-cli cluster nodes shows the slots",
    ),
    "ASK": _Meaning(BusyError, "is moving the store's slot to another node", "try again when that is done"),
    "TRYAGAIN": _Meaning(BusyError, "is moving the store's slot to another node", "try again when that is done"),
    "CROSSSLOT": _Meaning(
        UnreachableStoreError,
        "is a node of a cluster, which has the store's keys in several slots (CROSSSLOT)",
        "redis-cluster://host:port?prefix={{NAME}}: puts them into one, by the part in braces",
    ),
    "WRONGTYPE": _Meaning(
        NotAStoreError,
        "has a key of another type than a state store's{text}",
        "another program uses this prefix: ?prefix=NAME: names one of its own",
    ),
    "BUSY": _Meaning(BusyError, "runs a script that does not end: {text}", "redis-cli script kill ends it"),
}
_MEANINGS["WRONGPASS"] = _MEANINGS["NOAUTH"]


def code_of(error: BaseException) -> str:
    """The first word of an error's answer, as Redis writes it; "" for none that is known here."""
    for kind in type(error).__mro__:
        if kind.__name__ in _CODES:
            return _CODES[kind.__name__]
    words = str(error).lstrip("-").split(maxsplit=1)
    if words and words[0] in _KNOWN:
        return words[0]
    inside = [code for code in _KNOWN if f"-{code} " in str(error)]  # of a script, before version 7
    return inside[0] if inside else ""


def is_cut(error: BaseException) -> bool:
    """Whether the connection was lost: the last command may or may not have been carried out."""
    if isinstance(error, _ANSWERED) or code_of(error):
        return False
    return isinstance(error, ConnectionError | TimeoutError | OSError)


def translate(error: BaseException, where: str, key: bytes | None = None) -> LensError:
    """The error of ours for one of redis-py.

    Args:
        error: What it raised.
        where: The store, as it may be shown.
        key: The key that the command was about.
    """
    code, text = code_of(error), str(error) or type(error).__name__
    if code == "WRONGTYPE":
        text = "" if key is None else f": {key.decode('utf-8', 'backslashreplace')}"
    if code in _MEANINGS:
        meaning = _MEANINGS[code]
        return meaning.kind(f"{where} {meaning.said.format(text=text)}", hint=meaning.hint.format())
    if isinstance(error, TimeoutError | builtins.TimeoutError):
        return UnreachableStoreError(f"cannot reach {where}: it does not answer", hint=_up(where))
    if isinstance(error, ResponseError):
        return OperationFailedError(f"{where}: {text}; nothing was changed")
    cause = str(error.__cause__ or error.__context__ or "")
    if "certificate" in cause and cause not in text:
        text = f"{text}: {cause}"
    else:
        text = connection_reason(error) or text
    return UnreachableStoreError(f"cannot reach {where}: {text.rstrip('.')}", hint=_up(where))


def _up(where: str) -> str:
    """How to find out whether the server runs."""
    scheme, _, rest = where.partition("://")
    to = f" -s {shlex.quote(rest.partition('?')[0])}" if scheme == "redis+unix" else host_options(where)
    return f"to see whether the server is up: redis-cli{to}{' --tls' if scheme == 'rediss' else ''} ping"
