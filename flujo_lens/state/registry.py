"""Maps the scheme of a URI to a driver, which is imported on use."""

from __future__ import annotations

import importlib
import inspect
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import tzinfo
from typing import TYPE_CHECKING, Any, cast

from flujo_lens.errors import (
    ConfigError,
    LensError,
    MissingExtraError,
    UnknownStoreError,
    UsageError,
    install_command,
    nearest,
)
from flujo_lens.state.unreachable_paths import unreached

if TYPE_CHECKING:
    from flujo_lens.state.backends.base import StateBackend

BUILT_IN = {
    "sqlite": "flujo_lens.state.backends.sqlite:SQLiteBackend",
    "file": "flujo_lens.state.backends.file:FileBackend",
    "postgresql": "flujo_lens.state.backends.postgres:PostgresBackend",
    "postgres": "flujo_lens.state.backends.postgres:PostgresBackend",
    "redis": "flujo_lens.state.backends.redis:RedisBackend",
    "rediss": "flujo_lens.state.backends.redis:RedisBackend",
    "redis+unix": "flujo_lens.state.backends.redis:RedisBackend",
    "redis-cluster": "flujo_lens.state.backends.redis:RedisBackend",
}
EXTRAS = {"redis": "redis", "asyncpg": "postgres", "zstandard": "zstd", "cryptography": "crypto"}
"""Modules and the extra of this package that installs them."""

ENTRY_POINTS = "flujo_lens.backends"
_THREE = ("save_state", "load_state", "delete_state")


def scheme_of(uri: str) -> str:
    """The scheme of the URI of a store; for a path, that of the driver for its type.

    Raises:
        StoreNotFoundError: the path does not exist.
        UnreachableStoreError: the path is not accessible.
    """
    scheme, separator, _ = uri.partition("://")
    if separator:
        return scheme.lower()
    try:
        return "file" if stat.S_ISDIR(os.stat(uri).st_mode) else "sqlite"
    except OSError as error:
        raise unreached(uri, error) from error


def driver_name(scheme: str, drivers: Mapping[str, str]) -> str:
    """The ``module:Class`` of the driver for a scheme: from ``[drivers]``, built in, or an installed package.

    Raises:
        UsageError: ``memory``, which is not accessible from another process.
        UnknownStoreError: no driver has the scheme; the message names the nearest.
    """
    if scheme in drivers:
        return drivers[scheme]
    if scheme in BUILT_IN:
        return BUILT_IN[scheme]
    if scheme == "memory":
        raise UsageError("a memory:// store lives inside the application's process, and cannot be reached from another")
    installed = _installed()
    if scheme in installed:
        return installed[scheme]
    known = sorted({*BUILT_IN, *drivers, *installed})
    near = nearest(scheme, known)
    raise UnknownStoreError(
        f'no driver for "{scheme}://"{f"; did you mean {near}://?" if near else "."} Schemes: {", ".join(known)}',
        hint='to add a driver: [drivers] in lens.toml, for example\n  dynamo = "acme_lens.dynamo:DynamoBackend"',
    )


def _installed() -> dict[str, str]:
    from importlib.metadata import entry_points

    return {point.name: point.value for point in entry_points(group=ENTRY_POINTS)}


def load_driver(name: str) -> type[StateBackend]:
    """The class ``module:Class``, with the contract's defaults for methods it does not define.

    Raises:
        MissingExtraError: a package needed by the module is not installed.
        ConfigError: the module or class does not exist, or is not a backend.
    """
    module_name, _, class_name = name.partition(":")
    try:
        with _without_current_folder():
            found = getattr(importlib.import_module(module_name), class_name)
    except ModuleNotFoundError as error:
        raise _missing(name, str(error.name)) from error
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"cannot load the driver {name}: {error}") from error
    except (Exception, SystemExit) as error:  # the module of a third party may raise anything on import
        raise ConfigError(f"cannot load the driver {name}: {type(error).__name__}: {error}") from error
    lacking = [method for method in _THREE if not callable(getattr(found, method, None))]
    if not inspect.isclass(found) or lacking:
        why = f"it lacks {', '.join(lacking)}" if lacking else "it is not a class"
        raise ConfigError(f"{name} is not a state backend: {why}")
    return _with_defaults(found)


@contextmanager
def _without_current_folder() -> Iterator[None]:
    """Prevent imports from the current folder in this block, unless it contains installed packages.

    It is on ``sys.path`` by an empty or relative entry of PYTHONPATH, or by ``--app``.
    """
    before = list(sys.path)
    sys.path[:] = [entry for entry in before if entry in _PLACES or not _is_current_folder(entry)]
    try:
        yield
    finally:
        sys.path[:] = [*before, *(entry for entry in sys.path if entry not in before)]


def _is_current_folder(entry: str) -> bool:
    try:
        return os.path.samefile(entry or os.curdir, os.curdir)
    except OSError:
        return False


def _places() -> frozenset[str]:
    """The entries of ``sys.path`` at import, except relative entries of PYTHONPATH."""
    named = os.environ.get("PYTHONPATH")
    loose: set[str] = set()
    with suppress(OSError):  # the current folder was removed
        loose = {os.path.abspath(entry) for entry in (named or "/").split(os.pathsep) if not os.path.isabs(entry)}
    return frozenset(entry for entry in sys.path if entry and entry not in loose)


_PLACES = _places()


def _missing(driver: str, module: str) -> UsageError:
    extra = EXTRAS.get(module.partition(".")[0])
    if extra is not None:
        message = f"the driver {driver} needs the package {module}"
        return MissingExtraError(message, hint=install_command(extra, module))
    return ConfigError(
        f"cannot load the driver {driver}: no module named {module}",
        hint="drivers are imported from installed packages, not from the current folder",
    )


def _with_defaults(found: type[Any]) -> type[StateBackend]:
    """Add our defaults to a backend for the library's base class, which has only the three methods."""
    from flujo_lens.state.backends.base import StateBackend

    if issubclass(found, StateBackend):
        return found
    made = type(found.__name__, (found, StateBackend), {"__module__": found.__module__})
    return cast("type[StateBackend]", made)


def open_backend(
    uri: str,
    drivers: Mapping[str, str] | None = None,
    *,
    timeout: float = 10.0,
    zone: tzinfo | None = None,
    envelope: Any = None,
) -> StateBackend:
    """The backend of a store. Creates and reads nothing.

    Args:
        uri: A URI or a path.
        drivers: Drivers by scheme, with precedence over built-in ones: ``MODULE:CLASS`` each.
        timeout: Seconds to wait for a lock or connection.
        zone: The zone of naive local times.
        envelope: Compression and encryption of what is saved, if the driver takes one.

    Raises:
        ConfigError: the driver does not accept the URI.
        LensError: as for `scheme_of`, `driver_name` and `load_driver`, or as raised by the driver.
    """
    driver = load_driver(driver_name(scheme_of(uri), drivers or {}))
    make: Any = getattr(driver, "from_uri", driver)
    takes = inspect.signature(make).parameters
    given = {"timeout": timeout, "zone": zone, **({} if envelope is None else {"envelope": envelope})}
    options = {name: value for name, value in given.items() if name in takes}
    try:
        return cast("StateBackend", make(uri, **options))
    except LensError:
        raise
    except Exception as error:  # of a third party; or of `urllib`, which raises a ValueError
        if driver.__module__.startswith("flujo_lens.") and not isinstance(error, ValueError):
            raise
        raise ConfigError(
            f"the driver of {uri} does not accept this URI: {type(error).__name__}: {error}",
            hint="lens config shows where it is set; --debug shows the traceback",
        ) from error
