"""What lies beside a store that is at a path: its bin and its lock."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from flujo_lens.cli.context import App
from flujo_lens.cli.input.confirm import actor_of
from flujo_lens.errors import NotSupportedError
from flujo_lens.operations.recycle_bin import Bin
from flujo_lens.operations.store_lock import StoreLock
from flujo_lens.state.backends.base import StateBackend

__all__ = ["bin_of", "bin_of_gone", "gone_path", "lock_of", "path_of"]


def path_of(backend: StateBackend) -> Path | None:
    """Where a store is; None if it is at no path."""
    path = getattr(backend, "path", None)
    return path if isinstance(path, Path) else None


def gone_path(app: App) -> Path | None:
    """Where a store was that is named by its path, and is not there any more; None for any other."""
    uri = app.store.uri
    return Path(uri) if uri.startswith("/") and not os.path.lexists(uri) else None


def bin_of_gone(app: App) -> Bin | None:
    """The bin of a store that is not there any more; None if it is, or had none."""
    path = gone_path(app)
    if path is None or not os.path.isdir(Bin.path_beside(path)):
        return None
    return Bin(Bin.path_beside(path), app.settings.bin_keep, app.settings.bin_max_runs, app.world.now())


def bin_of(app: App, backend: StateBackend) -> Bin:
    """The bin beside a store.

    Raises:
        NotSupportedError: the store is at no path.
    """
    settings = app.settings
    return Bin(Bin.path_beside(_store_path(backend)), settings.bin_keep, settings.bin_max_runs, app.world.now())


def lock_of(app: App, backend: StateBackend, command: Sequence[str], file: Path | None = None) -> StoreLock:
    """The lock of a store, not yet taken.

    Args:
        app: The invocation: who acts, and how long the lock is waited for.
        backend: The store.
        command: The words that were typed, without secrets.
        file: Where it is; None for beside the store.

    Raises:
        NotSupportedError: the store is at no path.
    """
    return StoreLock(
        StoreLock.path_beside(_store_path(backend)) if file is None else app.world.cwd / file,
        command=command,
        actor=actor_of(app),
        now=app.world.now(),
        timeout=app.options.timeout or 0,
    )


def _store_path(backend: StateBackend) -> Path:
    path = path_of(backend)
    if path is None:
        raise NotSupportedError(
            f"the driver {type(backend).__qualname__} keeps its store at no path: there is no bin beside it",
            hint="prune --archive FILE keeps what it deletes, on any driver that can hand it out",
        )
    return path
