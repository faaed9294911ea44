"""What asyncpg raises, in errors of ours: none of its own gets out.

Codes are SQLSTATEs (PostgreSQL 16 and 18, asyncpg 0.32). While a server restarts, calls raise `OSError`; a connection
that was cut raises `ConnectionDoesNotExistError`, `InterfaceError` or, in asyncpg 0.32.0, `InternalClientError`.
"""

from __future__ import annotations

import ssl

import asyncpg

from flujo_lens.errors import (
    BusyError,
    ConfigError,
    LensError,
    OperationFailedError,
    ReadOnlyStoreError,
    SchemaError,
    StoreNotFoundError,
    UnreachableStoreError,
)
from flujo_lens.state.backends.core.connection_errors import connection_reason
from flujo_lens.state.backends.core.server_uri import host_options

CLIENT_ERRORS = (OSError, OverflowError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
MISSING = (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError, asyncpg.InvalidSchemaNameError)
_CUT = (
    ConnectionError,
    asyncpg.ConnectionDoesNotExistError,
    asyncpg.InternalClientError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
)
_BUSY = {
    "55P03": "another transaction holds a lock on it",
    "57014": "the statement took longer than the timeout",
    "40P01": "two transactions waited for each other",
    "40001": "another transaction changed the same rows",
    "53300": "the server has no connection left",
}
KEPT = "a trigger of the table, or row-level security, kept a row as it was"
_REFUSED = {
    "22012": KEPT,
    "22021": "a text has a character that PostgreSQL does not keep (NUL)",
    "22P05": "a text has a character that PostgreSQL does not keep (NUL)",
    "22P02": "a value is not what its column keeps",
    "22003": "a number is outside of what its column keeps",
    "54000": "a value is larger than PostgreSQL keeps (256 MB in one JSON document)",
    "54001": "a value is nested deeper than PostgreSQL keeps",
    "XX000": "a value is larger than PostgreSQL keeps (256 MB in one JSON document)",
    "53100": "the server's disk is full",
    "53200": "the server is out of memory",
}


def is_cut(error: BaseException) -> bool:
    """Whether the connection is gone, so that a read may be tried once more on another."""
    misused = ValueError | asyncpg.UnsupportedClientFeatureError  # a value or a setting that the client refuses
    return isinstance(error, _CUT) or (isinstance(error, asyncpg.InterfaceError) and not isinstance(error, misused))


def translate(error: BaseException, where: str, *, writes: bool = True) -> LensError:
    """The error of ours for one of asyncpg.

    Args:
        error: What it raised.
        where: The store, as it may be shown.
        writes: Whether it came from a transaction that writes.
    """
    if isinstance(error, asyncpg.ClientConfigurationError):
        return ConfigError(f"{where}: {error}", hint="check the options of the URI; nothing was changed")
    code = getattr(error, "sqlstate", None) or ""
    text = _text_of(error)
    if code in _BUSY:
        message = f"{where} is busy: {_BUSY[code]}; nothing was changed"
        return BusyError(message, hint="try again, or with a larger --timeout")
    if code == "42501" and not writes:
        hint = "GRANT SELECT ON ALL TABLES IN SCHEMA its_schema TO the_role, or use another role"
        return UnreachableStoreError(f"{where} is not readable: {text}", hint=hint)
    if code in ("25006", "42501") or (code == "0A000" and "during recovery" in text):
        hint = "connect to the primary" if "recovery" in text else "use a role that may write there"
        return ReadOnlyStoreError(f"{where} is not writable: {text}; nothing was changed", hint=hint)
    if isinstance(error, MISSING):
        hint = "lens migrate --dry-run says what is missing"
        return SchemaError(f"{where} lacks a table or a column: {text}", hint=hint)
    if code.startswith(("08", "28", "3D", "57P")) or is_cut(error) or isinstance(error, OSError):
        return _unreachable(error, where, code, text)
    if code in _REFUSED:
        return OperationFailedError(f"{where} refused the write: {_REFUSED[code]}; nothing was changed")
    advice = "delete the rows that refer to the run first" if code == "23503" else None
    return OperationFailedError(f"{where}: {text}{'; nothing was changed' * writes}", hint=advice)


def _text_of(error: BaseException) -> str:
    """What the server said, on one line, without its hints: those are about SQL."""
    message, detail = getattr(error, "message", None), getattr(error, "detail", None)
    if message is None:
        return str(error) or type(error).__name__
    return f"{message}: {detail.rstrip('.')}" if detail else str(message)


def _unreachable(error: BaseException, where: str, code: str, text: str) -> LensError:
    if code == "3D000":
        hint = "nothing was created; createdb makes a database, lens migrate its tables"
        return StoreNotFoundError(f"there is no store at {where}: {text}", hint=hint)
    if isinstance(error, TimeoutError):
        text = "it does not answer"
    elif code.startswith("28"):
        return UnreachableStoreError(f"cannot log in at {where}: {text}", hint="check the user and the password")
    elif isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
        text = connection_reason(error) or text
    hint = f"to see whether the server is up: pg_isready{host_options(where)}"
    if isinstance(error, ssl.SSLError):
        hint = "sslrootcert=FILE names who signs the server's certificate, sslmode=require takes any"
    return UnreachableStoreError(f"cannot reach {where}: {text}", hint=hint)
