"""The files next to a store: bin, lock and audit log.

For a store on a server, bin and lock are in a folder of the user, and the audit log is in the store.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from flujo_lens.cli.context import App
from flujo_lens.cli.input.confirm import actor_of
from flujo_lens.errors import NotSupportedError, OperationFailedError
from flujo_lens.folders import state_folder
from flujo_lens.operations.recycle_bin import Bin
from flujo_lens.operations.store_lock import StoreLock
from flujo_lens.state.backends.base import StateBackend, overrides

if TYPE_CHECKING:
    from flujo_lens.operations.audit_server import AuditServer


def base_of(app: App, backend: StateBackend) -> Path | None:
    """The path to which the suffixes of audit log, lock and bin are added; None if there is none.

    For a store at a path, that path. For a store on a server, a path in a folder of its own in the user's state
    folder: ``~/.local/state/flujo-lens/<name>-<digest>/store``. Only `made_base` creates it.
    """
    path, place = getattr(backend, "path", None), getattr(backend, "place", None)
    if isinstance(path, Path):
        return path
    folder = state_folder(app.world.env)
    if not isinstance(place, str) or folder is None:
        return None
    name = re.sub("[^A-Za-z0-9._-]+", "-", place.partition("?")[0].rpartition("/")[2])[:40] or "store"
    return folder / f"{name}-{sha256(place.encode()).hexdigest()[:12]}" / "store"


def made_base(app: App, backend: StateBackend, *, for_log: bool) -> Path | None:
    """Like `base_of`; for a store on a server, creates the folder, readable by its owner alone.

    Args:
        for_log: Whether it is needed for the audit log. If only lock and bin may be there, and it cannot be created,
            those say so if they are used.

    Raises:
        OperationFailedError: it cannot be created, and the log needs it. Nothing was changed.
    """
    base = base_of(app, backend)
    if base is not None and not isinstance(getattr(backend, "path", None), Path):
        try:
            base.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            if not for_log:
                return base
            raise OperationFailedError(
                f"cannot create {base.parent}, the folder of the audit log: {error.strerror or error}; "
                "nothing was changed",
                hint="XDG_STATE_HOME sets its parent folder; --audit-file FILE uses another path",
                path=str(base.parent),
            ) from error
    return base


def log_in_store(app: App, backend: StateBackend) -> AuditServer | None:
    """The audit log that the store itself keeps; None if it is a file."""
    if getattr(backend, "audit_lines", None) is None:
        return None
    from flujo_lens.operations.audit_server import AuditServer

    return AuditServer(app.opened, app.redactor.text(app.store.uri))


def gone_path(app: App) -> Path | None:
    """The path of a store that is named by its path and does not exist any more; else None."""
    uri = app.store.uri
    return Path(uri) if uri.startswith("/") and not os.path.lexists(uri) else None


def bin_of_gone(app: App) -> Bin | None:
    """The bin of a store that does not exist any more; None if the store exists, or had no bin."""
    path = gone_path(app)
    if path is None or not os.path.isdir(Bin.sidecar_path(path)):
        return None
    return Bin(Bin.sidecar_path(path), app.settings.bin_keep, app.settings.bin_max_runs, app.world.now())


def bin_of(app: App, backend: StateBackend) -> Bin:
    """The bin of a store.

    Raises:
        NotSupportedError: there is no place for it.
    """
    settings = app.settings
    return Bin(Bin.sidecar_path(_needed_base(app, backend)), settings.bin_keep, settings.bin_max_runs, app.world.now())


def why_no_bin(app: App, backend: StateBackend) -> str | None:
    """The reason why a store cannot have a bin; None if it can."""
    if not overrides(type(backend), "restore"):
        return "this driver has no bin"
    return why_nowhere(backend) if base_of(app, backend) is None else None


def lock_of(app: App, backend: StateBackend, command: Sequence[str], file: Path | None = None) -> StoreLock:
    """The lock of a store, not yet acquired.

    Args:
        app: The invocation, with the actor and the timeout.
        file: Path of the lock; None for the default next to the store.

    Raises:
        NotSupportedError: there is no place for it.
    """
    return StoreLock(
        StoreLock.sidecar_path(_needed_base(app, backend)) if file is None else app.world.cwd / file,
        command=command,
        actor=actor_of(app),
        now=app.world.now(),
        timeout=app.options.timeout or 0,
    )


def _needed_base(app: App, backend: StateBackend) -> Path:
    base = base_of(app, backend)
    if base is None:
        raise NotSupportedError(
            f"{why_nowhere(backend)}: no path for a bin",
            hint="prune --archive FILE keeps a copy, with any driver that supports archives",
        )
    return base


def why_nowhere(backend: StateBackend) -> str:
    """The reason why a store has no path for bin, lock and audit log."""
    if isinstance(getattr(backend, "place", None), str):
        return "the store is on a server, and the user has no home folder (HOME or XDG_STATE_HOME)"
    return f"the driver {type(backend).__qualname__} has no path"
