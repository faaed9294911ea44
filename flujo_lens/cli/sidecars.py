"""What lies beside a store: its bin and its lock. For a store on a server, in a folder of the user's."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from flujo_lens.cli.context import App
from flujo_lens.cli.input.confirm import actor_of
from flujo_lens.errors import NotSupportedError, OperationFailedError
from flujo_lens.folders import state_folder
from flujo_lens.operations.recycle_bin import Bin
from flujo_lens.operations.store_lock import StoreLock
from flujo_lens.state.backends.base import StateBackend

__all__ = ["base_of", "bin_of", "bin_of_gone", "gone_path", "lock_of", "made_base", "why_nowhere"]


def base_of(app: App, backend: StateBackend) -> Path | None:
    """The path to whose name the names of audit log, lock and bin are added; None if there is no place for them.

    That of the store, if it is at a path. For one on a server, a path in the user's folder of states, one folder a
    store: ``~/.local/state/flujo-lens/<name>-<digest>/store``. It is made by `made_base` alone.
    """
    path, place = getattr(backend, "path", None), getattr(backend, "place", None)
    if isinstance(path, Path):
        return path
    folder = state_folder(app.world.env)
    if not isinstance(place, str) or folder is None:
        return None
    name = re.sub("[^A-Za-z0-9._-]+", "-", place.partition("?")[0].rpartition("/")[2])[:40] or "store"
    return folder / f"{name}-{sha256(place.encode()).hexdigest()[:12]}" / "store"


def made_base(app: App, backend: StateBackend) -> Path | None:
    """As `base_of`; its folder is made where a store is on a server, for its owner alone.

    Raises:
        OperationFailedError: it cannot be made. Nothing was changed.
    """
    base = base_of(app, backend)
    if base is not None and not isinstance(getattr(backend, "path", None), Path):
        try:
            base.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise OperationFailedError(
                f"cannot make {base.parent}, the folder of the audit log: {error.strerror or error}; "
                "nothing was changed",
                hint="XDG_STATE_HOME says where it goes; --audit-file FILE puts the log elsewhere",
                path=str(base.parent),
            ) from error
    return base


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
        NotSupportedError: there is no place for it.
    """
    settings = app.settings
    return Bin(Bin.path_beside(_needed_base(app, backend)), settings.bin_keep, settings.bin_max_runs, app.world.now())


def lock_of(app: App, backend: StateBackend, command: Sequence[str], file: Path | None = None) -> StoreLock:
    """The lock of a store, not yet taken.

    Args:
        app: The invocation: who acts, and how long the lock is waited for.
        backend: The store.
        command: The words that were typed, without secrets.
        file: Where it is; None for beside the store.

    Raises:
        NotSupportedError: there is no place for it.
    """
    return StoreLock(
        StoreLock.path_beside(_needed_base(app, backend)) if file is None else app.world.cwd / file,
        command=command,
        actor=actor_of(app),
        now=app.world.now(),
        timeout=app.options.timeout or 0,
    )


def _needed_base(app: App, backend: StateBackend) -> Path:
    base = base_of(app, backend)
    if base is None:
        raise NotSupportedError(
            f"{why_nowhere(backend)}: there is no bin",
            hint="prune --archive FILE keeps what it deletes, on any driver that can hand it out",
        )
    return base


def why_nowhere(backend: StateBackend) -> str:
    """Why there is no place for what lies beside a store, in words."""
    if isinstance(getattr(backend, "place", None), str):
        return "the store is on a server, and this user has no home folder (HOME or XDG_STATE_HOME)"
    return f"the driver {type(backend).__qualname__} keeps its store at no path"
