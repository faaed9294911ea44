"""From a URI to a driver: by a literal table, imported on use."""

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
    MissingExtraError,
    UnknownStoreError,
    UsageError,
    nearest,
)
from flujo_lens.state.unreachable_paths import unreached

if TYPE_CHECKING:
    from flujo_lens.state.backends.base import StateBackend

__all__ = ["BUILT_IN", "ENTRY_POINTS", "driver_name", "load_driver", "open_backend", "scheme_of"]

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
"""The extra of this package that brings a module."""

ENTRY_POINTS = "flujo_lens.backends"
_THREE = ("save_state", "load_state", "delete_state")


def scheme_of(uri: str) -> str:
    """The scheme of a store's URI; for a bare path, that of the driver for what is there.

    Raises:
        StoreNotFoundError: nothing is at the path.
        UnreachableStoreError: it may not be looked at.
    """
    scheme, separator, _ = uri.partition("://")
    if separator:
        return scheme.lower()
    try:
        return "file" if stat.S_ISDIR(os.stat(uri).st_mode) else "sqlite"
    except OSError as error:
        raise unreached(uri, error) from error


def driver_name(scheme: str, drivers: Mapping[str, str]) -> str:
    """``module:Class`` of the driver for a scheme: of ``[drivers]``, built in, or an installed package's.

    Raises:
        UsageError: ``memory``: such a store cannot be reached from outside.
        UnknownStoreError: there is no driver for the scheme; names the nearest.
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
        f'no driver for "{scheme}://"{f"; did you mean {near}://?" if near else "."} There are: {", ".join(known)}',
        hint='a driver of your own: [drivers] in lens.toml, as in\n  dynamo = "acme_lens.dynamo:DynamoBackend"',
    )


def _installed() -> dict[str, str]:
    from importlib.metadata import entry_points

    return {point.name: point.value for point in entry_points(group=ENTRY_POINTS)}


def load_driver(name: str) -> type[StateBackend]:
    """The class that ``module:Class`` names, with the contract's defaults for what it does not define.

    Raises:
        MissingExtraError: the module needs a package that is not installed.
        ConfigError: there is no such module or class, or the class is no backend.
    """
    module_name, _, class_name = name.partition(":")
    try:
        with _without_current_folder():
            found = getattr(importlib.import_module(module_name), class_name)
    except ModuleNotFoundError as error:
        raise _missing(name, str(error.name)) from error
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"cannot load the driver {name}: {error}") from error
    except (Exception, SystemExit) as error:  # whatever a module of somebody else does when it is imported
        raise ConfigError(f"cannot load the driver {name}: {type(error).__name__}: {error}") from error
    lacking = [method for method in _THREE if not callable(getattr(found, method, None))]
    if not inspect.isclass(found) or lacking:
        raise ConfigError(f"{name} is no state backend: it lacks {', '.join(lacking) or 'being a class'}")
    return _with_defaults(found)


@contextmanager
def _without_current_folder() -> Iterator[None]:
    """Nothing is imported from the current folder in this block, unless it is a place of packages.

    It comes into ``sys.path`` by an empty or relative entry of PYTHONPATH, and by ``--app`` for the application.
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
    """Where packages are when this is imported: all but what PYTHONPATH names by its place in the current folder."""
    named = os.environ.get("PYTHONPATH")
    loose: set[str] = set()
    with suppress(OSError):  # the current folder was removed
        loose = {os.path.abspath(entry) for entry in (named or "/").split(os.pathsep) if not os.path.isabs(entry)}
    return frozenset(entry for entry in sys.path if entry and entry not in loose)


_PLACES = _places()


def _missing(driver: str, module: str) -> UsageError:
    extra = EXTRAS.get(module.partition(".")[0])
    if extra is not None:
        hint = f"pip install 'flujo-lens[{extra}]'"
        return MissingExtraError(f"the driver {driver} needs the package {module}", hint=hint)
    return ConfigError(
        f"cannot load the driver {driver}: there is no module {module}",
        hint="drivers are imported from installed packages, not from the current folder",
    )


def _with_defaults(found: type[Any]) -> type[StateBackend]:
    """A backend written for the library's own base class has the three methods, but not our defaults."""
    from flujo_lens.state.backends.base import StateBackend

    if issubclass(found, StateBackend):
        return found
    made = type(found.__name__, (found, StateBackend), {"__module__": found.__module__})
    return cast("type[StateBackend]", made)


def open_backend(
    uri: str, drivers: Mapping[str, str], *, timeout: float = 10.0, zone: tzinfo | None = None
) -> StateBackend:
    """The backend for a store. Nothing is created, and nothing is read yet.

    Args:
        uri: A URI or a path.
        drivers: Drivers by scheme that come before the built-in ones.
        timeout: Seconds to wait for a lock or a connection.
        zone: How naive local times are read.
    """
    driver = load_driver(driver_name(scheme_of(uri), drivers))
    make: Any = getattr(driver, "from_uri", driver)
    takes = inspect.signature(make).parameters
    options = {name: value for name, value in (("timeout", timeout), ("zone", zone)) if name in takes}
    return cast("StateBackend", make(uri, **options))
